"""Small networks, seeded, whose weights are spread so that no map is degenerate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camkit.compat import tree_leaves
from camkit.engine.tensors import is_float
from camkit.typing import Activations
from tests.models.installed import installed


def seeded(model: nn.Module, seed: int = 0, draw: Callable[[Sequence[int]], Tensor] | None = None) -> Any:
    """``model`` with random weights and batch-norm statistics of ordinary size, in evaluation mode.

    Args:
        model: changed in place.
        seed: of torch's generator.
        draw: standard normal numbers of a shape, in place of torch's.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if not tensor.is_floating_point():
                continue
            values = draw(tensor.shape) if draw else torch.randn(tensor.shape, generator=generator)
            scale = max(tensor[0].numel(), 1) ** -0.5 if tensor.ndim > 1 else 0.3
            positive = name in ("running_var", "weight") and tensor.ndim == 1
            tensor.data = (1 + 0.3 * values).abs() if positive else scale * values
    return model.eval()


class SmallCNN(nn.Module):
    """Convolution, norm, ReLU, twice, with a residual around the second; pooled, then linear."""

    def __init__(self, inplace: bool = False, dimensions: int = 2) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
        self.inplace = inplace
        self.conv1 = conv(3, 6, 3, stride=2, padding=1)
        self.norm1 = norm(6)
        self.conv2 = conv(6, 6, 3, padding=1)
        self.norm2 = norm(6)
        self.relu = nn.ReLU(inplace=inplace)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        identity = self.relu(self.norm1(self.conv1(images)))
        features = self.norm2(self.conv2(identity))
        if self.inplace:
            features += identity
        else:
            features = features + identity
        pooled = self.relu(features).flatten(2).mean(2)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


class TwoHeads(SmallCNN):
    """One reads the first norm, one the second."""

    def forward(self, images: Tensor) -> Any:
        early = self.norm1(self.conv1(images))
        deep = self.norm2(self.conv2(early.relu()))
        return early.square().mean((2, 3)), deep.square().mean((2, 3))


class SmallViT(nn.Module):
    """Two attention blocks on 4 x 4 pixel patches, ``extra`` tokens without a place in front and ``back`` behind."""

    def __init__(self, size: tuple[int, int] = (16, 16), extra: int = 1, declared: bool = False, back: int = 0) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.tokens = nn.Parameter(torch.zeros(1, extra, 8))
        self.behind = nn.Parameter(torch.zeros(1, back, 8))
        self.position = nn.Parameter(torch.zeros(1, extra + (size[0] // 4) * (size[1] // 4) + back, 8))
        self.layers = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)
        self.extra = extra
        if declared:
            self.num_extra_tokens = extra

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch(images).flatten(2).mT
        tokens = [each.expand(len(images), -1, -1) for each in (self.tokens, self.behind)]
        features = torch.cat([tokens[0], patches, tokens[1]], 1) + self.position
        for layer in self.layers:
            features = layer(features)
        features = self.norm(features)
        logits: Tensor = self.head(features[:, 0] if self.extra else features.mean(1))
        return logits


class AnySizeViT(SmallViT):
    """Without positions, so that it takes images of any size."""

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch(images).flatten(2).mT
        features = torch.cat([self.tokens.expand(len(images), -1, -1), patches], 1)
        for layer in self.layers:
            features = layer(features)
        features = self.norm(features)
        logits: Tensor = self.head(features[:, 0] if self.extra else features.mean(1))
        return logits


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.ln2 = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.ln1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp(self.ln2(tokens))


class TorchEncoder(nn.Module):
    """torch's own transformer layers, which run in one kernel, without their modules, where nobody looks."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.patch(images).flatten(2).mT).mean(1))
        return logits


class Returns(nn.Module):
    """A layer that returns what ``make`` makes of its input, between a convolution and a linear head."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.layer = Make(make)

    def forward(self, images: Tensor) -> Tensor:
        made = self.layer(self.conv(images))
        features: Tensor = next(leaf for leaf in tree_leaves(made) if is_float(leaf))
        return features.flatten(2).mean(2)


class Make(nn.Module):
    """A function as a module."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, features: Tensor) -> Any:
        return self.make(features)


class TakesSize(nn.Module):
    """A block that is told the size of the grid."""

    def forward(self, tokens: Tensor, *size: object) -> Tensor:
        return tokens


class LinearBatchNorm(nn.Module):
    """As LeViT's: its batch norm sees tokens of all images in one list."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.bn = nn.BatchNorm1d(8)

    def forward(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.bn(self.linear(tokens).flatten(0, 1)).view_as(tokens)
        return normed


class PreNorm(nn.Module):
    """A block that is named after its norm, and ends in something else."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.mlp(self.norm(tokens))
        return mixed


class LayerNorm2d(nn.LayerNorm):
    """Over channels that come first."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def evidence(seed: int = 0, *, spatial: tuple[int, ...] = (4, 5), batch: int = 3) -> tuple[Activations, Activations]:
    """Random activations and gradients (batch, 6, *spatial), float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 6, *spatial)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(shape, generator=generator, dtype=torch.float64),
    )


class PlainCNN(nn.Module):
    """Convolution, ReLU, twice, each module in use once; mean over places, linear without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.head = nn.Linear(5, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu2(self.conv2(self.relu1(self.conv1(images))))
        logits: Tensor = self.head(features.flatten(2).mean(2))
        return logits


def timm_swin(size: int = 32) -> nn.Module:
    """Two stages of shifted windows of 4 x 4 by timm; at size 32 the second stage is a single window."""
    model: nn.Module = installed("timm").create_model(
        "swin_tiny_patch4_window7_224",
        img_size=size,
        window_size=4,
        embed_dim=8,
        depths=(2, 2),
        num_heads=(1, 2),
        num_classes=5,
    )
    return model
