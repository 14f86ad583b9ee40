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
from camkit.models.completeness import Builder
from camkit.models.environment import find_device, import_framework, quiet
from camkit.models.options import spelled
from camkit.models.pillow import Normalisation, prepare
from camkit.models.settings import Preprocessing, Reading
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
_TRANSFORMING = ("googlenet", "inception_v3")  # with torchvision's own weights, these normalise their input once more
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


def load(
    name: str,
    checkpoint: str | None,
    *,
    device: str = "cpu",
    options: dict[str, Any] | None = None,
    reading: Reading | None = None,
    preprocessing: Preprocessing | None = None,
    pretrained: bool = True,
) -> Classifier:
    """Build a classifier of torchvision; see :func:`camkit.models.load.load`.

    Preprocessing and class names are those of torchvision's weights: where the checkpoint is one of their files, by its
    hash, of these; else of those that ``options["weights"]`` names; else of the default ones. ``preprocessing`` comes
    before them, and so do the sizes in the ``args`` of a checkpoint that torchvision's training script saved.

    Args:
        name: Such as ``resnet18``, in any case.
        checkpoint: Path or URL; None takes torchvision's own weights.
        device: Where the model goes.
        options: Keyword arguments of the model's builder, ``weights`` (such as IMAGENET1K_V1) among them.
        reading: How the checkpoint is read. Averaged weights come first: torchvision publishes these.
        preprocessing: Mean, standard deviation and input size, which is square.
        pretrained: False leaves the weights random where there is no checkpoint.

    Raises:
        UsageError: No such model, not a classifier, no such weights, or options that don't fit.
        CheckpointError: torchvision's weights can't be had; and see ``read_checkpoint`` and ``load_into``.
        CamkitError: The device isn't available, a package is missing, or the model can't be built.
    """
    reading, wanted = reading or Reading(), preprocessing or Preprocessing()
    place = find_device(device)
    models = import_framework("torchvision").models
    _check(models, name)
    options = _sized(name, dict(options or {}), wanted)
    # Without categories are weights for features, which VGG-16 has too.
    known = {entry.name: entry for entry in models.get_model_weights(name) if entry.meta["categories"]}
    known["DEFAULT"] = models.get_model_weights(name).DEFAULT
    entry = _find_weights(known, name, options.pop("weights", "DEFAULT"))
    builder = models.get_model_builder(name)
    report, origin = None, None
    notes: tuple[str, ...] = ()
    trained: dict[str, Any] = {}
    if checkpoint is not None:
        weights = read_checkpoint(checkpoint, trust=reading.trust, weights=reading.weights)
        origin = weights.origin
        official = _recognise(known, weights.sha256)
        entry = official or entry
        implied = _implied(name, entry) if official else {}
        count = len(entry.meta["categories"])
        trained = {} if wanted.size or "image_size" in options else _trained_with(weights.args)
        how = Builder(
            partial(_build, builder, name), implied | options, classes=("num_classes",), size=_size_options(name)
        )
        with quiet():
            model, report = build_for(weights, how, lambda _: int(options.get("num_classes", count)), _renamed, reading)
        notes = (*report.notes, *_about_input(name, implied | options, trained))
    elif pretrained:
        model = _with_own_weights(builder, name, entry, options)
        origin = Origin(entry.url, _cached_hash(entry.url))
    else:
        model = _build(builder, name, options)
    transform = _transform(entry, options, wanted, trained)
    model = model.to(place).eval()
    return Classifier(
        model=model,
        classes=_classes(entry, model),
        activation="softmax",
        source=f"torchvision:{name.lower()}",
        checkpoint=origin,
        load_warning=report.warning if report else None,
        device=place,
        notes=notes,
        _prepare=partial(
            prepare,
            transform=transform,
            normalisation=Normalisation(tuple(transform.mean), tuple(transform.std)),
            device=place,
        ),
    )


def _sized(name: str, options: dict[str, Any], wanted: Preprocessing) -> dict[str, Any]:
    """The options, with the input size that is asked for where the model is built for one.

    Raises:
        UsageError: Not square, not of three channels, or a contradiction.
    """
    if wanted.channels not in (None, 3):
        raise UsageError(f"--input-size {wanted.channels} ...: torchvision's networks take images of three channels")
    if wanted.size is None:
        return options
    side, width = wanted.size
    if side != width:
        raise UsageError(f"--input-size {side} {width}: torchvision's transforms crop squares; give one side")
    for key in _size_options(name):
        if options.setdefault(key, side) != side:
            raise UsageError(f"--input-size {side} and {spelled({key: options[key]})} contradict; give one of them")
    return options


def _size_options(name: str) -> tuple[str, ...]:
    """The builder's option for the input size, of networks that have one."""
    return ("image_size",) if name.lower().startswith("vit_") else ()


def _trained_with(args: dict[str, Any]) -> dict[str, Any]:
    """How torchvision's training script prepares images for evaluation, by what it was told."""
    names = {"val_crop_size": "crop_size", "val_resize_size": "resize_size"}
    sizes = {ours: args.get(theirs) for theirs, ours in names.items()}
    if not all(isinstance(size, int) and 0 < size < 10_000 for size in sizes.values()):
        return {}
    from torchvision.transforms import InterpolationMode

    modes = {mode.value: mode for mode in InterpolationMode}
    mode = modes.get(str(args.get("interpolation")), InterpolationMode.BILINEAR)
    # The script normalises so whatever the network.
    return {**sizes, "interpolation": mode, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _about_input(name: str, options: dict[str, Any], trained: dict[str, Any]) -> list[str]:
    """What is to be known about how the network takes its input, which the file's tensors don't say."""
    lines = []
    if trained:
        how = trained["interpolation"].value
        lines.append(
            f"preprocessing as in its training: resize {trained['resize_size']} ({how}), crop {trained['crop_size']}"
        )
    if name.lower() in _TRANSFORMING:
        if "transform_input" in options:
            lines.append(f"transform_input={options['transform_input']}")
        else:
            lines.append(
                "transform_input=False, as the network is built without weights; if it was fine-tuned from "
                "torchvision's weights, add --cfg-options transform_input=True"
            )
    return lines


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
    if name.lower() in _TRANSFORMING:
        return {"transform_input": True}
    if name.lower().startswith("vit_"):
        return {"image_size": entry.meta["min_size"][0]}
    return {}


def _build(builder: Any, name: str, options: dict[str, Any], entry: Any = None) -> nn.Module:
    # Drawing these networks' weights takes seconds, and a checkpoint follows.
    plain = {"init_weights": False} if entry is None and name.lower() in _TRANSFORMING else {}
    try:
        with quiet():
            model: nn.Module = builder(weights=entry, progress=sys.stderr.isatty(), **(plain | options))
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


def _transform(entry: Any, options: dict[str, Any], wanted: Preprocessing, trained: dict[str, Any]) -> Any:
    """The weights' transforms; with the sizes of the training or those asked for, resized in proportion."""
    own = entry.transforms()
    side = wanted.size[0] if wanted.size else options.get("image_size")
    changed: dict[str, Any] = dict(trained)
    if side is not None:
        changed = {"crop_size": side, "resize_size": round(side * own.resize_size[0] / own.crop_size[0])}
    for key, values in (("mean", wanted.mean), ("std", wanted.std)):
        if values is not None:
            changed[key] = tuple(values) * (3 // len(values))
    return entry.transforms(**changed) if changed else own


def _classes(entry: Any, model: nn.Module) -> tuple[str, ...] | None:
    """The weights' class names, if the model's last layer has as many outputs."""
    names = entry.meta["categories"]
    outputs = [tensor.shape[0] for name, tensor in model.named_parameters() if not name.startswith(("aux", "Aux"))]
    return tuple(names) if outputs and outputs[-1] == len(names) else None
