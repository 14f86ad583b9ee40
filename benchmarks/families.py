"""The smallest network of every family of image classifiers, in four ecosystems, each with its own input."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from torch import Tensor, nn

from benchmarks.networks import enliven, normalised, photographs
from camkit.models.demo import LITE0_CONFIG

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Built(NamedTuple):
    """A network, and what it is asked.

    Attributes:
        model: the network.
        image: the cat as it takes it, (1, 3, H, W).
        output: what camkit's adapter makes logits of its output with.
        target: a score of a row of the output, in place of the top class.
        settings: of the CAM.
        call: which call of the layer sees the image, where it runs several times.
        is_turned: whether the network works on the image with its sides exchanged.
        is_one_row: whether the network makes one row of the image by design.
    """

    model: nn.Module
    image: Tensor
    output: Callable[[Any], Any] | None = None
    target: Callable[[Any], Tensor] | None = None
    settings: Mapping[str, Any] = {}
    call: int = -1
    is_turned: bool = False
    is_one_row: bool = False

    def run(self, image: Tensor) -> Any:
        """The network's output."""
        given, argument = self.settings.get("forward_kwargs", {}), self.settings.get("image_argument")
        return self.model(image, **given) if argument is None else self.model(**{argument: image}, **given)


@dataclass(frozen=True)
class Case:
    """One network: ``model`` is its name in its ecosystem, ``why_not`` the reason where it can't be run offline."""

    ecosystem: str
    family: str
    model: str
    why_not: str = ""

    def network(self, folder: Path) -> Built:
        """The network, alive and in eval mode, and the cat. ``folder`` is for files that loading it needs."""
        with torch.random.fork_rng():
            torch.manual_seed(0)  # for what stays as its constructor drew it
            built = BUILDERS[self.ecosystem](self.model, folder)
        enliven(built.model, built.image, run=built.run)
        return built


NOT_HERE = {
    "ChineseCLIP / ChineseCLIP": "it needs MMPretrain's multimodal extra and a tokenizer from the internet, and tells "
    "classes apart by comparing an image with texts: its forward returns no class scores",
}


def mmpretrain_cases() -> Iterator[Case]:
    """Every pair of collection and backbone in MMPretrain's index that classifies, and its two wrapped classifiers."""
    smallest: dict[str, tuple[float, str]] = {}
    for name, entry in _index().items():
        tasks = {result.task for result in entry.results or []}
        try:
            model = _config(entry.config)["model"]
        except Exception as error:  # noqa: BLE001  whatever MMEngine says is the row's reason
            said = f"MMEngine can't read its config: {type(error).__name__}: {str(error).split('. ')[0]}"
            yield Case("mmpretrain", entry.in_collection, name, said)
            continue
        if not any(task.endswith("Classification") for task in tasks):
            continue
        if model["type"] == "ImageClassifier":
            family = f"{entry.in_collection} / {model['backbone']['type']}"
        else:
            family = f"{entry.in_collection} / {model['type']}"
        size = entry.metadata.parameters or float("inf")
        smallest[family] = min((size, name), smallest.get(family, (float("inf"), name)))
    for family, (_, name) in sorted(smallest.items()):
        yield Case("mmpretrain", family, name, NOT_HERE.get(family, ""))
    for wrapper in WRAPPED:
        yield Case("mmpretrain", wrapper, wrapper)


@cache
def _index() -> dict[str, Any]:
    from mmpretrain.apis.model import ModelHub

    ModelHub._register_mmpretrain_models()
    index: dict[str, Any] = ModelHub._models_dict
    return index


def _config(path: str) -> Any:
    from mmengine.config import Config

    return Config.fromfile(path)


def _from_mmpretrain(name: str, folder: Path) -> Built:
    """A network of MMPretrain; its test pipeline makes the input of the photograph's file."""
    from camkit.models.mmpretrain import load

    classifier = load(WRAPPED[name](folder) if name in WRAPPED else name, None, pretrained=False)
    path = folder / "cat.png"
    cv2.imwrite(str(path), photographs()[0][..., ::-1])
    return Built(classifier.model, classifier.prepare(path).inputs, classifier.output)


def _timm_classifier(folder: Path) -> str:
    config = folder / "timm_classifier.py"
    config.write_text(LITE0_CONFIG)
    return str(config)


def _hugging_face_classifier(folder: Path) -> str:
    """The wrapper reads the network's architecture from a folder, as nothing can be fetched."""
    from transformers import ViTConfig

    ViTConfig(**SMALL_VIT).save_pretrained(folder / "vit")
    model = f"dict(type='HuggingFaceClassifier', model_name={str(folder / 'vit')!r})"
    config = folder / "hugging_face_classifier.py"
    config.write_text(re.sub(r"(?m)^model = .*$", f"model = {model}", LITE0_CONFIG))
    return str(config)


WRAPPED: dict[str, Callable[[Path], str]] = {
    "TimmClassifier": _timm_classifier,
    "HuggingFaceClassifier": _hugging_face_classifier,
}
"""Classifiers that the index has no model of, and what writes a config for one."""

TIMM = {
    "ResNet": "resnet18",
    "ViT": "vit_tiny_patch16_224",
    "DeiT-distilled": "deit_tiny_distilled_patch16_224",
    "Swin": "swin_tiny_patch4_window7_224",
    "SwinV2": "swinv2_tiny_window8_256",
    "ConvNeXt": "convnext_atto",
    "MaxViT": "maxvit_tiny_tf_224",
    "Mixer": "mixer_s32_224",
    "EVA-02": "eva02_tiny_patch14_336",
    "DINOv2 with registers": "vit_small_patch14_reg4_dinov2",
    "BEiT": "beit_base_patch16_224",
    "XCiT": "xcit_nano_12_p16_224",
    "CAFormer": "caformer_s18",
    "EfficientViT": "efficientvit_b0",
    "MobileViT": "mobilevit_xxs",
    "LeViT": "levit_128s",
    "PVTv2": "pvt_v2_b0",
    "CoAtNet": "coatnet_nano_rw_224",
    "NFNet": "nfnet_l0",
    "RegNet": "regnetx_002",
    "VGG": "vgg11",
    "DenseNet": "densenet121",
    "Inception": "inception_v3",
    "EfficientNet": "efficientnet_b0",
    "RepVGG": "repvgg_a0",
}


def timm_cases() -> Iterator[Case]:
    """Family by family, at the model's own input size."""
    for family, name in TIMM.items():
        yield Case("timm", family, name)


def _from_timm(name: str, _: Path) -> Built:
    import timm

    # Self-supervised backbones come without a head unless they are told how many classes there are.
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=1000)
    config = timm.data.resolve_model_data_config(model)
    return Built(model, cat(config["input_size"][-1], config["mean"], config["std"]))


def torchvision_cases() -> Iterator[Case]:
    """Every family in torchvision.models, the smallest by its weights' own count."""
    from torchvision import models

    smallest: dict[str, tuple[int, str]] = {}
    for name in models.list_models(module=models):
        parts = re.match(r"(?:wide_)?[a-z]+(?:_v\d|_[xy](?=_))?", name)
        assert parts is not None
        family = parts[0] + "_bn" * name.endswith("_bn")
        size = min(weights.meta["num_params"] for weights in models.get_model_weights(name))
        smallest[family] = min((size, name), smallest.get(family, (size, name)))
    for family, (_, name) in sorted(smallest.items()):
        yield Case("torchvision", family, name)


def _from_torchvision(name: str, _: Path) -> Built:
    from torchvision import models

    # These two are slow to draw the weights that are replaced right after.
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(name, weights=None, **options)
    transform = models.get_model_weights(name).DEFAULT.transforms()
    return Built(model, cat(transform.crop_size[0], transform.mean, transform.std))


SMALL_VIT = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "num_labels": 1000,
}
TRANSFORMERS = {
    "ViT": SMALL_VIT,
    "DeiT": SMALL_VIT,
    "Swin": {"num_labels": 1000},
    "ConvNext": {"num_labels": 1000},
    "Dinov2WithRegisters": SMALL_VIT,
}


def transformers_cases() -> Iterator[Case]:
    """Architectures built from their configurations."""
    for name in TRANSFORMERS:
        yield Case("transformers", name, f"{name}ForImageClassification")


def _from_transformers(name: str, _: Path) -> Built:
    import transformers

    family = name.removesuffix("ForImageClassification")
    config = getattr(transformers, f"{family}Config")(**TRANSFORMERS[family])
    model: nn.Module = getattr(transformers, name)(config)
    return Built(model, cat(getattr(config, "image_size", 224), IMAGENET_MEAN, IMAGENET_STD))


def cat(size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The middle of the photograph; ``mean`` and ``std`` are for pixels from 0 to 1."""
    to_pixels = 255 * torch.tensor((mean, std))[:, :, None, None]
    return normalised(size, *to_pixels)[:1]


ECOSYSTEMS: dict[str, Callable[[], Iterator[Case]]] = {
    "mmpretrain": mmpretrain_cases,
    "timm": timm_cases,
    "torchvision": torchvision_cases,
    "transformers": transformers_cases,
}
BUILDERS: dict[str, Callable[[str, Path], Built]] = {
    "mmpretrain": _from_mmpretrain,
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "transformers": _from_transformers,
}
