"""Small trainings, with and without somebody who looks on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from tests.helpers.networks import SmallCNN

CLASSES = 5
SIZE = 16


def examples(count: int = 10) -> tuple[Tensor, Tensor]:
    """Normalised images (N, 3, SIZE, SIZE), brighter in a corner that tells the class, and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    labels = torch.arange(count) % CLASSES
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 3 * label : 3 * label + 4, :6] += 2
    return images, labels


class Checkpointed(SmallCNN):
    """Its second convolution is computed again in the backward."""

    def forward(self, images: Tensor) -> Tensor:
        identity = self.relu(self.norm1(self.conv1(images)))
        features = checkpoint(self._second, identity, use_reentrant=False) + identity
        logits: Tensor = self.head(self.dropout(self.relu(features).flatten(2).mean(2)))
        return logits

    def _second(self, features: Tensor) -> Tensor:
        found: Tensor = self.norm2(self.conv2(features))
        return found


@dataclass(frozen=True)
class Way:
    """How a network is trained.

    Attributes:
        wrap: what is trained in place of the network itself.
        network: makes it.
        accumulate: how many batches' gradients are added up.
        dtype: of autocast; None for none.
        scaler: whether losses are scaled.
        averaged: whether an average of the weights is kept.
        device: where.
    """

    wrap: Callable[[nn.Module], Any] = lambda model: model
    network: Callable[[], nn.Module] = SmallCNN
    accumulate: int = 1
    dtype: torch.dtype | None = None
    scaler: bool = False
    averaged: bool = False
    device: str = "cpu"


Watch = Callable[[nn.Module, int], object]


def train(way: Way, watch: Callable[[nn.Module], Watch] | None = None, steps: int = 4) -> list[Tensor]:
    """Train a network, with dropout and batch norms, by SGD with momentum.

    Args:
        way: how.
        watch: is handed what is trained, and returns what is called behind every forward and backward.
        steps: how many batches.

    Returns:
        Every loss, then the final weights and buffers, averaged ones among them.
    """
    torch.manual_seed(1)
    model = way.network().train().to(way.device)
    trained = way.wrap(model)
    average = AveragedModel(model, use_buffers=True) if way.averaged else None
    look = watch(trained) if watch else lambda model, step: None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(way.device, enabled=way.scaler) if way.scaler else None  # type: ignore[attr-defined]
    images, labels = (each.to(way.device) for each in examples())
    losses = []
    for step in range(steps):
        batch = torch.randint(len(images), (4,))
        with nullcontext() if way.dtype is None else torch.autocast(way.device, way.dtype):
            loss = functional.cross_entropy(trained(images[batch]), labels[batch]) / way.accumulate
            look(trained, step)  # before the backward, with a graph that is still needed
        scaler.scale(loss).backward() if scaler else loss.backward()  # type: ignore[no-untyped-call]
        look(trained, step)  # gradients are there, and not used yet
        if (step + 1) % way.accumulate == 0:
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            optimizer.zero_grad()
            if average is not None:
                average.update_parameters(model)
        losses.append(loss.detach())
    kept = [*model.state_dict().values(), *(average.state_dict().values() if average is not None else ())]
    return [*losses, *(each.detach().clone() for each in kept)]


def assert_identical(first: list[Tensor], second: list[Tensor]) -> None:
    """Bit for bit."""
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@dataclass(frozen=True)
class Events:
    """What TensorBoard's event files in a folder hold.

    Attributes:
        images: tag to step to picture, RGB.
        scalars: tag to step to value.
    """

    images: dict[str, dict[int, NDArray[np.uint8]]]
    scalars: dict[str, dict[int, float]]


def events(folder: Path) -> Events:
    """Read all event files in a folder and below."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    images: dict[str, dict[int, NDArray[np.uint8]]] = {}
    scalars: dict[str, dict[int, float]] = {}
    for path in sorted({each.parent for each in folder.rglob("events.out.tfevents.*")}):
        found = EventAccumulator(str(path), size_guidance={"images": 0, "scalars": 0}).Reload()
        for tag in found.Tags()["images"]:
            images.setdefault(tag, {}).update(
                {each.step: _decoded(each.encoded_image_string) for each in found.Images(tag)}
            )
        for tag in found.Tags()["scalars"]:
            scalars.setdefault(tag, {}).update({each.step: each.value for each in found.Scalars(tag)})
    return Events(images, scalars)


def pictures(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """The PNG files in a folder by name, RGB."""
    return {path.stem: _decoded(path.read_bytes()) for path in sorted(folder.glob("*.png"))}


def _decoded(content: bytes) -> NDArray[np.uint8]:
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)
