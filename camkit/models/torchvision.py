"""Load torchvision's classifiers by name, with the transforms and class names of their weights.

No other file of camkit imports torchvision but ``torchvision_shim``, and this one only when it loads a model.
"""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from camkit.errors import CamkitError, CheckpointError, UsageError, closest, reason
from camkit.models.checkpoint import Origin, hash_files, read_checkpoint
from camkit.models.classifier import Classifier
from camkit.models.environment import find_device, import_framework, quiet
from camkit.models.options import spelled
from camkit.models.pillow import Normalisation, prepare
from camkit.models.weights import build_for

if TYPE_CHECKING:
    from torch import Tensor, nn

_OTHER_TASKS = {  # torchvision's module to what its models do instead
    "detection": "finds boxes",
    "segmentation": "labels pixels",
    "video": "takes clips",
    "optical_flow": "takes pairs of images",
    "quantization": "computes in integers, which have no gradients",
}
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


def load(
    name: str,
    checkpoint: str | None,
    *,
    device: str = "cpu",
    options: dict[str, Any] | None = None,
    trust_checkpoint: bool = False,
    pretrained: bool = True,
) -> Classifier:
    """Build a classifier of torchvision; see :func:`camkit.models.load.load`.

    Preprocessing and class names are those of torchvision's weights: where the checkpoint is one of their files, by its
    hash, of these; else of those that ``options["weights"]`` names; else of the default ones.

    Args:
        name: Such as ``resnet18``, in any case.
        checkpoint: Path or URL; None takes torchvision's own weights.
        device: Where the model goes.
        options: Keyword arguments of the model's builder, ``weights`` (such as IMAGENET1K_V1) among them.
        trust_checkpoint: See :func:`camkit.models.checkpoint.read_checkpoint`.
        pretrained: False leaves the weights random where there is no checkpoint.

    Raises:
        UsageError: No such model, not a classifier, no such weights, or options that don't fit.
        CheckpointError: torchvision's weights can't be had; and see ``read_checkpoint`` and ``load_into``.
        CamkitError: The device isn't available, a package is missing, or the model can't be built.
    """
    place = find_device(device)
    models = import_framework("torchvision").models
    _check(models, name)
    options = dict(options or {})
    # Without categories are weights for features, which VGG-16 has too.
    known = {entry.name: entry for entry in models.get_model_weights(name) if entry.meta["categories"]}
    known["DEFAULT"] = models.get_model_weights(name).DEFAULT
    entry = _find_weights(known, name, options.pop("weights", "DEFAULT"))
    builder = models.get_model_builder(name)
    report, origin = None, None
    if checkpoint is not None:
        weights = read_checkpoint(checkpoint, trust=trust_checkpoint)
        origin = weights.origin
        official = _recognise(known, weights.sha256)
        entry = official or entry
        implied = _implied(name, entry) if official else {}
        count = len(entry.meta["categories"])
        model, report = build_for(
            weights,
            partial(_build, builder, name),
            implied | options,
            lambda _: int(options.get("num_classes", count)),
            _renamed,
        )
    elif pretrained:
        model = _with_own_weights(builder, name, entry, options)
        origin = Origin(entry.url, _cached_hash(entry.url))
    else:
        model = _build(builder, name, options)
    transform = _transform(entry, options)
    model = model.to(place).eval()
    return Classifier(
        model=model,
        classes=_classes(entry, model),
        activation="softmax",
        source=f"torchvision:{name.lower()}",
        checkpoint=origin,
        load_warning=report.warning if report else None,
        device=place,
        _prepare=partial(
            prepare,
            transform=transform,
            normalisation=Normalisation(tuple(transform.mean), tuple(transform.std)),
            device=place,
        ),
    )


def _check(models: Any, name: str) -> None:
    known = models.list_models(module=models)
    if name.lower() in known:
        return
    if name.lower() in models.list_models():
        kind = models.get_model_builder(name).__module__.split(".")[2]
        plain = name.lower().removeprefix("quantized_")
        instead = f"torchvision:{plain}" if plain in known else "a classifier, such as torchvision:resnet50"
        does = _OTHER_TASKS.get(kind, f"is for {kind}")
        raise UsageError(f"torchvision's {name} is no image classifier: it {does}; take {instead}")
    raise UsageError(
        f"torchvision has no model '{name}'{closest(name, known)}; it has {len(known)} classifiers, see "
        "torchvision.models.list_models()"
    )


def _find_weights(known: dict[str, Any], name: str, wanted: object) -> Any:
    key = str(wanted).rpartition(".")[2].upper()  # ResNet50_Weights.IMAGENET1K_V1, or the last part of it
    if key not in known:
        raise UsageError(f"torchvision's {name} has no weights={wanted}; it has {', '.join(known)}")
    return known[key]


def _recognise(known: dict[str, Any], sha256: str) -> Any:
    """The weights whose file this is, or None: torchvision's file names end in the first digits of the hash."""
    for entry in known.values():
        digits = re.search(r"-([0-9a-f]{8,})\.", entry.url)
        if digits and sha256.startswith(digits[1]):
            return entry
    return None


def _implied(name: str, entry: Any) -> dict[str, Any]:
    """The options that torchvision's builder sets itself with these weights."""
    if name.lower() in ("googlenet", "inception_v3"):
        return {"transform_input": True}
    if name.lower().startswith("vit_"):
        return {"image_size": entry.meta["min_size"][0]}
    return {}


def _build(builder: Any, name: str, options: dict[str, Any], entry: Any = None) -> nn.Module:
    try:
        with quiet():
            model: nn.Module = builder(weights=entry, progress=sys.stderr.isatty(), **options)
    except Exception as error:
        if entry is not None:
            raise
        if options:
            raise UsageError(f"{spelled(options)} doesn't fit torchvision's {name}: {reason(error)}") from error
        raise CamkitError(f"can't build torchvision's {name}: {type(error).__name__}: {reason(error)}") from error
    return model


def _with_own_weights(builder: Any, name: str, entry: Any, options: dict[str, Any]) -> nn.Module:
    try:
        with redirect_stdout(StringIO()):  # torch.hub prints what it downloads
            return _build(builder, name, options, entry)
    except Exception as error:
        _build(builder, name, options)  # raises its own error where the weights aren't at fault
        if isinstance(error, ValueError):  # how builders refuse options that contradict the weights
            raise UsageError(
                f"{spelled(options)} doesn't fit torchvision's weights for {name} ({reason(error)}); give "
                "the CHECKPOINT that was trained with it"
            ) from error
        raise CheckpointError(
            f"can't load torchvision's weights for {name} from {entry.url} ({reason(error)}); download them yourself "
            "and give the file as CHECKPOINT"
        ) from error


def _cached_hash(url: str) -> str | None:
    """The SHA-256 of the file that torch.hub keeps of a URL."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return hash_files(path) if path.is_file() else None


def _renamed(model: nn.Module, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of DenseNet's published files, as its builders do: torch no longer takes their names."""
    if any(_OLD_DENSENET.search(name) for name in state_dict):
        return {_OLD_DENSENET.sub(r"\1\2.", name): tensor for name, tensor in state_dict.items()}
    return state_dict


def _transform(entry: Any, options: dict[str, Any]) -> Any:
    """The weights' transforms; at the model's input size where an option sets it, as ViT's may."""
    own = entry.transforms()
    side = options.get("image_size")
    if side is None:
        return own
    return entry.transforms(crop_size=side, resize_size=round(side * own.resize_size[0] / own.crop_size[0]))


def _classes(entry: Any, model: nn.Module) -> tuple[str, ...] | None:
    """The weights' class names, if the model's last layer has as many outputs."""
    names = entry.meta["categories"]
    outputs = [tensor.shape[0] for name, tensor in model.named_parameters() if not name.startswith(("aux", "Aux"))]
    return tuple(names) if outputs and outputs[-1] == len(names) else None
