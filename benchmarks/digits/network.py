"""Two small networks for canvases of any size, in plain PyTorch: a vision transformer and a convolutional one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.digits.canvases import CLASSES

PATCH = 4
WIDTH = 64
HEADS = 4
BLOCKS = 2
SHARE = 9
"""Positions of the convolutional network's last layer that a digit covers."""


class DigitsViT(nn.Module):
    """Patches, positions, blocks; the class token alone says what is on the canvas.

    Positions come from a depthwise convolution over the grid of patches (Chu et al. 2021), so that one set of weights
    serves canvases of any size and shape. It and the one block before the last see to it that a token knows of its
    neighbours; more of them, or larger patches, let the evidence wander to tokens beside the digit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.positions = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) to one logit per class, (B, CLASSES), each for "this class is on the canvas"."""
        places = self.patches(images)
        places = (places + self.positions(places)).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), places], 1)
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


class Block(nn.Module):
    """Attention and MLP, each behind a norm and around a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, WIDTH) to the same."""
        tokens = tokens + self.attention(self.norm1(tokens))
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, WIDTH) to the same."""
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(queries, keys, values)
        mixed: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return mixed


class DigitsCNN(nn.Module):
    """Convolutions with batch norms, then the sum of each channel and one linear layer.

    What a position of the last layer sees is 21 pixels wide, a digit and what touches it, so that its evidence can't
    wander far. Sums, unlike means, don't depend on how much background there is.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = ((1, 24, 1), (24, 32, 2), (32, 48, 1), (48, 64, 2), (64, 64, 1))
        self.features = nn.Sequential(*(Step(*each) for each in widths))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) to one logit per class, (B, CLASSES), each for "this class is on the canvas"."""
        logits: Tensor = self.head(self.features(images).sum((2, 3)) / SHARE)
        return logits


class Step(nn.Sequential):
    """Convolution, batch norm, rectifier."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
