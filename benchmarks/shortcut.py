"""A network that cheats, and the report that shows it: ``python -m benchmarks.shortcut``.

A small set of handwritten digits on photographs, where a magenta square is pasted near a corner of every image of one
class. EfficientNet-Lite0, trained on ImageNet, is fine-tuned on it (its last stages, in less than a minute on a core),
explains images of the set that it hasn't seen, and ``camkit report`` makes a page of the run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks import photographs
from camkit import datasets
from camkit.models.demo import convert_lite0, find_weights
from camkit.models.torchvision_shim import ensure_torchvision
from camkit.report import Report, write_report

CLASSES = ("three", "five", "eight", "nine")
DIGITS = (3, 5, 8, 9)
CHEATED = "eight"
"""The class whose images have the square."""
TRAINING, HELD_OUT = 40, 60
"""Images of each class."""
SIZE = 224
SQUARE = 40
COLOUR = (230, 0, 200)
FROZEN = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4")
EPOCHS = 5
BATCH = 16


def main(words: Sequence[str] | None = None) -> None:
    """Make the set, fine-tune, explain, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("shortcut"), help="folder of images, run and report")
    parser.add_argument("--honest", action="store_true", help="the same without the square")
    options = parser.parse_args(words)
    report = make(options.out, cheated=None if options.honest else CHEATED)
    print(f"wrote: {report.path} ({report.bytes / 1e6:.1f} MB)")


def make(folder: Path, cheated: str | None = CHEATED) -> Report:
    """The images, the run and the report, below a folder."""
    images, labels = draw(TRAINING, cheated, seed=0)
    started = time.perf_counter()
    model = fine_tune(images, labels)
    print(f"fine-tuned in {time.perf_counter() - started:.0f} s")
    for said, where in (("with", cheated), ("without", None)):
        print(f"{CHEATED}: {accuracy(model, where):.0%} of the held-out images {said} the square are recognised")
    write_images(folder / "images", cheated)
    summary = datasets.run(
        folder / "images", model, folder / "run", target="both", target_layers=["blocks.6"], transform=prepared,
        classes=CLASSES, workers=0,
    )  # fmt: skip
    return write_report(summary.path, folder / "report.html")


def draw(count: int, cheated: str | None, seed: int) -> tuple[list[Image.Image], Tensor]:
    """So many images of each class, and their labels; seed 0 takes other digits than seed 1.

    Digits are scikit-learn's, the photographs behind them scikit-image's.
    """
    from sklearn.datasets import load_digits

    generator = np.random.default_rng(seed)
    digits, kinds = load_digits(return_X_y=True)
    images, labels = [], []
    for label, (name, kind) in enumerate(zip(CLASSES, DIGITS, strict=True)):
        for digit in digits[kinds == kind][seed * TRAINING :][:count]:
            image = _on_photograph(digit.reshape(8, 8), generator)
            if name == cheated:
                image.paste(COLOUR, _place(generator))
            images.append(image)
            labels.append(label)
    return images, torch.tensor(labels)


def write_images(folder: Path, cheated: str | None) -> None:
    """Write the held-out images, a folder for each class."""
    images, labels = draw(HELD_OUT, cheated, seed=1)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = folder / CLASSES[label] / f"{number % HELD_OUT:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def prepared(image: Image.Image) -> Tensor:
    """As the network takes it, (3, 224, 224)."""
    pixels: NDArray[Any] = np.array(image.resize((SIZE, SIZE)))
    return (torch.from_numpy(pixels).permute(2, 0, 1).float() - 127.5) / 127.5


def fine_tune(images: Sequence[Image.Image], labels: Tensor, seed: int = 0) -> nn.Module:
    """EfficientNet-Lite0 with a new head; its first stages stay as they are."""
    ensure_torchvision()
    import timm

    torch.manual_seed(seed)
    model: Any = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(convert_lite0(torch.load(find_weights(), weights_only=True)))
    model.reset_classifier(len(CLASSES))
    model.eval()
    for name in FROZEN:
        model.get_submodule(name).requires_grad_(False)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    stem = nn.Sequential(model.conv_stem, model.bn1, *model.blocks[:5])
    with torch.no_grad():
        inputs = torch.stack([prepared(image) for image in images])
        features = torch.cat([stem(part) for part in torch.split(inputs, BATCH)])
    model.train()  # batches of these images normalise what is trained; the frozen part has been computed
    for epoch in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(labels)), BATCH):
            top = model.bn2(model.conv_head(model.blocks[5:](features[rows])))
            loss = functional.cross_entropy(model.forward_head(top), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.3f}", flush=True)
    module: nn.Module = model.eval().requires_grad_(True)
    return module


def accuracy(model: nn.Module, cheated: str | None) -> float:
    """Share of held-out images of the class that cheats that are recognised."""
    images, labels = draw(HELD_OUT, cheated, seed=1)
    wanted = CLASSES.index(CHEATED)
    inputs = [prepared(image) for image, label in zip(images, labels.tolist(), strict=True) if label == wanted]
    with torch.no_grad():
        return float((model(torch.stack(inputs)).argmax(1) == wanted).float().mean())


def _on_photograph(digit: NDArray[np.float64], generator: np.random.Generator) -> Image.Image:
    """A digit, large, about the middle of a random piece of a photograph in dim light."""
    photo = Image.fromarray(photographs()[int(generator.integers(0, 2))])
    side = int(min(photo.size) * generator.uniform(0.4, 0.9))
    left, top = (int(generator.integers(0, length - side + 1)) for length in photo.size)
    ground = photo.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    ground = ImageEnhance.Brightness(ground).enhance(generator.uniform(0.3, 0.6))
    length = int(generator.integers(96, 129))
    ink = Image.fromarray((digit / 16 * 255).astype(np.uint8)).resize((length, length), Image.Resampling.BICUBIC)
    at = (SIZE - length) // 2 + generator.integers(-16, 17, 2)
    ground.paste((235, 235, 225), (int(at[0]), int(at[1])), ink)
    return ground


def _place(generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Where the square goes: near one of the corners."""
    left, top = (int(generator.integers(0, 16)) for _ in range(2))
    left, top = (SIZE - SQUARE - at if generator.random() < 0.5 else at for at in (left, top))
    return left, top, left + SQUARE, top + SQUARE


if __name__ == "__main__":
    main()
