"""Tiny networks of each framework, and how the framework itself loads weights into them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from camkit.models.environment import import_framework, quiet

State = dict[str, Tensor]

VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 3, "img_size": 64}
TINY = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 64,
    "patch_size": 16, "num_labels": 3,
}  # fmt: skip
MM = {
    "model": {
        "type": "ImageClassifier",
        "backbone": {"type": "MobileNetV2", "widen_factor": 0.25},
        "neck": {"type": "GlobalAveragePooling"},
        "head": {"type": "LinearClsHead", "num_classes": 3, "in_channels": 1280},
    },
    "data_preprocessor": {"mean": [127.5] * 3, "std": [127.5] * 3, "to_rgb": True},
    "test_pipeline": [{"type": "LoadImageFromFile"}, {"type": "PackInputs"}],
}


@dataclass(frozen=True)
class Subject:
    """A network of a framework.

    Attributes:
        config: CONFIG.
        options: ``--cfg-options``.
        layer: Whose map is compared.
        build: Builds it as the framework does, for as many classes.
        settings: The file that says what it is, of frameworks that have one.
        first: Entries of a file that the framework's own loader takes before averaged weights.
    """

    config: str
    options: tuple[str, ...]
    layer: str
    build: Callable[[int], nn.Module]
    settings: Path | None = None
    first: tuple[str, ...] = ()

    def strict(self, state: State) -> nn.Module | None:
        """The framework's model with the weights by its own strict loading; None where it refuses them."""
        head = next((tensor for name, tensor in reversed(state.items()) if name.endswith("bias")), None)
        for count in dict.fromkeys([3, len(head) if head is not None and head.ndim else 3]):
            try:
                model = self.build(count)
                model.load_state_dict(state, strict=True)
            except Exception:  # noqa: BLE001  # it refuses them
                continue
            return model.eval()
        return None


def subjects(folder: Path) -> list[Subject]:
    """One network per framework and kind; what frameworks read from files is written to the folder."""
    timm, models = import_framework("timm"), import_framework("torchvision").models
    transformers = import_framework("transformers")
    import_framework("mmpretrain")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    (folder / "vit").mkdir()
    transformers.ViTConfig(**TINY).save_pretrained(folder / "vit")
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "vit")
    (folder / "mm.json").write_text(json.dumps(MM))

    def vit(count: int) -> nn.Module:
        config = transformers.AutoConfig.from_pretrained(str(folder / "vit"), num_labels=count)
        model: nn.Module = transformers.ViTForImageClassification(config)
        return model

    def mm(count: int) -> nn.Module:
        from mmpretrain.registry import MODELS
        from mmpretrain.utils import register_all_modules

        register_all_modules()
        settings = json.loads((folder / "mm.json").read_text())
        with quiet():
            config = settings["model"] | {"data_preprocessor": settings.get("data_preprocessor")}
            model: nn.Module = MODELS.build(config)
        return model

    return [
        Subject(
            "timm:vit_tiny_patch16_224",
            tuple(f"{key}={value}" for key, value in VIT.items() if key != "num_classes"),
            "patch_embed.proj",
            lambda count: timm.create_model("vit_tiny_patch16_224", **(VIT | {"num_classes": count})),
        ),
        Subject("timm:resnet10t", (), "layer4", lambda count: timm.create_model("resnet10t", num_classes=count)),
        Subject(
            "torchvision:squeezenet1_1",
            (),
            "features.12",
            lambda count: models.squeezenet1_1(num_classes=count),
        ),
        Subject(
            f"transformers:{folder / 'vit'}",
            (),
            "vit.embeddings.patch_embeddings.projection",
            vit,
            folder / "vit" / "config.json",
        ),
        Subject(str(folder / "mm.json"), (), "backbone.layer7", mm, folder / "mm.json", ("state_dict",)),
    ]


def seeded_state(subject: Subject) -> State:
    """Weights for three classes, the same every time."""
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in subject.build(3).state_dict().items()}
