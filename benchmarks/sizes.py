"""What images of many sizes cost: forwards per image, and memory, over thousands of random sizes in one process.

``python -m benchmarks.sizes`` explains 10,000 images of random sizes with a tiny CNN and with a tiny transformer that
takes any size, and prints forwards per image beside those of one size, and the resident memory on the way.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import camkit
from camkit.engine.cache import cache_of

SIDES = (32, 160)
WARM = 20
"""Images until the network is known; what they cost is said apart."""


class TinyTransformer(nn.Module):
    """Patches of 8 x 8, a class token, two blocks, position embeddings that are interpolated to any grid."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, stride=8)
        self.class_token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 16, 7, 7))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 5) of the class token."""
        patches = self.patch(images)
        position = functional.interpolate(self.position, patches.shape[2:], mode="bilinear", align_corners=False)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), (patches + position).flatten(2).mT], 1)
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens)[:, 0])
        return logits


def tiny_cnn() -> nn.Module:
    """Three convolutions with norms, strides of 2."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"CNN": tiny_cnn, "transformer": TinyTransformer}


def main() -> None:
    """Measure both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="how many; default: 10000")
    options = parser.parse_args()
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        model = make().eval()
        one, _ = measure(model, [(64, 64)] * 200)
        draw = random.Random(0)
        sizes = [(draw.randint(*SIDES), draw.randint(*SIDES)) for _ in range(options.images)]
        many, memory = measure(make().eval(), sizes)
        print(f"{name}: {one.first} forwards for the first {WARM} images of one size, then {one.rest:.4f} per image")
        print(f"{name}: {many.first} for the first {WARM} of {len(set(sizes))} sizes, then {many.rest:.4f} per image")
        print(f"{name}: resident memory {', '.join(f'{each:.1f}' for each in memory)} MiB at each tenth")


class Count:
    """Forwards of the first images, and per image of the rest."""

    def __init__(self, first: int, rest: float) -> None:
        self.first = first
        self.rest = rest


def measure(model: nn.Module, sizes: list[tuple[int, int]]) -> tuple[Count, list[float]]:
    """Explain an image of each size, and count forwards; the resident memory at every tenth of the way, in MiB."""
    calls = [0]
    model.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    cam = camkit.GradCAM(model)
    first, memory = 0, []
    for number, (height, width) in enumerate(sizes, 1):
        cam(torch.randn(1, 3, height, width), 1)
        if number == WARM:
            first = calls[0]
        if number % max(1, len(sizes) // 10) == 0:
            memory.append(resident())
    assert len(cache_of(model)) <= 256
    return Count(first, (calls[0] - first) / max(1, len(sizes) - WARM)), memory


def resident() -> float:
    """The process' resident memory, MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
