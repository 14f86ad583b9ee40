"""Networks that are no plain image classifiers: detectors, two towers, sounds, text lines, volumes, signals, masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import families
from benchmarks.families import IMAGENET_MEAN, IMAGENET_STD, Built, Case, cat


def detr() -> Built:
    """A detector with as many queries as its encoder has places; its target is the best box of one class."""
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=100,
    )
    model = transformers.DetrForObjectDetection(config)
    return Built(model, picture(320), target=best_box, settings={"output": "logits"})


def best_box(row: Tensor) -> Tensor:
    """The highest logit of one class among a detector's boxes (queries, classes)."""
    return row[:, 1].amax()


def clip() -> Built:
    """An image tower and a text tower; the images are the second argument."""
    import transformers

    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**tower, "vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 99}
    vision = {**tower, "image_size": 64, "patch_size": 8}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    words = torch.arange(24).view(3, 8)
    settings = {
        "image_argument": "pixel_values",
        "forward_kwargs": {"input_ids": words},
        "output": "logits_per_image",
    }
    return Built(model, picture(64), settings=settings)


class Spectrograms(nn.Module):
    """An audio classifier that is given (B, 1, time, frequency)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """The logits."""
        return self.model(images[:, 0]).logits


def ast() -> Built:
    """A transformer that turns its spectrograms to (frequency, time)."""
    import transformers

    config = transformers.ASTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_length=128,
        num_mel_bins=128,
        num_labels=10,
    )
    return Built(Spectrograms(transformers.ASTForAudioClassification(config)), picture(128)[:, :1], is_turned=True)


def perceiver() -> Built:
    """Latents that read the image; as many as make a square."""
    import transformers

    config = transformers.PerceiverConfig(
        num_latents=64,
        d_latents=64,
        num_blocks=1,
        num_self_attends_per_block=2,
        num_self_attention_heads=4,
        num_cross_attention_heads=1,
        num_labels=10,
    )
    model = transformers.PerceiverForImageClassificationConvProcessing(config)
    return Built(model, picture(224), settings={"image_argument": "pixel_values"})


class TextLines(nn.Module):
    """Convolutions that leave one row, then a recurrent layer: a CRNN."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, (8, 3), 1, (0, 1)), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.reader = nn.LSTM(32, 16, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 11)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, steps, characters)."""
        logits: Tensor = self.head(self.reader(self.features(images).squeeze(2).mT)[0])
        return logits


def crnn() -> Built:
    """Reads a strip of the photograph."""
    return Built(TextLines(), picture(128)[:, :, 48:80], target=best_box, is_one_row=True)


class TwoImages(nn.Module):
    """One backbone for two images, the second one as an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.head = nn.Linear(64, 2)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Logits (B, 2)."""
        pooled = [self.backbone(each).mean((2, 3)) for each in (images, others)]
        logits: Tensor = self.head(torch.cat(pooled, 1))
        return logits


def siamese() -> Built:
    """The photograph and its mirror image."""
    image = picture(128)
    return Built(TwoImages(), image, settings={"forward_kwargs": {"others": image.flip(3)}}, call=0)


class DenseVolumes(nn.Module):
    """A DenseNet of volumes: each layer sees all before it; norms in front of the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3, 2, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm3d(8 * n), nn.ReLU(), nn.Conv3d(8 * n, 8, 3, padding=1)) for n in range(1, 4)
        )
        self.norm, self.head = nn.BatchNorm3d(32), nn.Linear(32, 10)

    def forward(self, volumes: Tensor) -> Tensor:
        """Logits (B, 10)."""
        features = self.stem(volumes)
        for layer in self.layers:
            features = torch.cat([features, layer(features)], 1)
        logits: Tensor = self.head(self.norm(features).relu().mean((2, 3, 4)))
        return logits


def densenet3d() -> Built:
    """The photograph as slices, each darker than the one before."""
    slices = [picture(32) * (1 - depth / 32) for depth in range(32)]
    return Built(DenseVolumes(), torch.stack(slices, 2))


class Step(nn.Module):
    """Two convolutions over time with a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(before, after, 7, 2, 3), nn.BatchNorm1d(after)
        self.conv2, self.norm2 = nn.Conv1d(after, after, 7, 1, 3), nn.BatchNorm1d(after)
        self.shortcut = nn.Conv1d(before, after, 1, 2)

    def forward(self, signals: Tensor) -> Tensor:
        """(B, C, L) to half the length."""
        features = self.norm2(self.conv2(self.norm1(self.conv1(signals)).relu()))
        made: Tensor = (features + self.shortcut(signals)).relu()
        return made


def resnet1d() -> Built:
    """A ResNet of signals: a row of the photograph."""
    steps = Step(3, 16), Step(16, 32), Step(32, 32)
    model = nn.Sequential(*steps, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 9))
    return Built(model, picture(512)[:, :, 200])


def segmentation(name: str) -> Built:
    """A segmentation model of torchvision's; its target is one class's mean over the image."""
    from torchvision import models

    model: nn.Module = models.get_model(name, weights=None, weights_backbone=None, num_classes=10)
    return Built(model, picture(128), target=one_mask, settings={"output": "out"})


def one_mask(row: Tensor) -> Tensor:
    """The mean logit of a class in a row (classes, H, W)."""
    return row[1].mean()


def picture(side: int) -> Tensor:
    """The photograph as ImageNet's networks take it, (1, 3, side, side)."""
    return cat(side, IMAGENET_MEAN, IMAGENET_STD)


OTHERS: dict[str, Callable[[], Built]] = {
    "DETR": detr,
    "CLIP": clip,
    "AST": ast,
    "Perceiver": perceiver,
    "CRNN": crnn,
    "siamese": siamese,
    "DenseNet, volumes": densenet3d,
    "ResNet, signals": resnet1d,
    "FCN": lambda: segmentation("fcn_resnet50"),
    "DeepLabV3": lambda: segmentation("deeplabv3_mobilenet_v3_large"),
    "LR-ASPP": lambda: segmentation("lraspp_mobilenet_v3_large"),
}


def other_cases() -> Iterator[Case]:
    """One of each kind."""
    for name in OTHERS:
        yield Case("other", name, name)


def build(name: str, _: Path) -> Built:
    """The network of that name."""
    return OTHERS[name]()


ECOSYSTEMS = families.ECOSYSTEMS
"""All of them, with these."""
ECOSYSTEMS["other"] = other_cases
families.BUILDERS["other"] = build
