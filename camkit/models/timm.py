"""Load timm's models by name, with their evaluation transform and class names.

No other file of camkit imports timm, and this one only when it loads a model: importing it takes seconds.
"""

from __future__ import annotations

import socket
import sys
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from camkit.errors import CamkitError, CheckpointError, UsageError, closest, reason
from camkit.models.checkpoint import Origin, read_checkpoint
from camkit.models.classifier import Classifier
from camkit.models.completeness import Builder
from camkit.models.environment import find_device, import_framework, quiet
from camkit.models.options import spelled
from camkit.models.pillow import Normalisation, prepare
from camkit.models.settings import Preprocessing, Reading
from camkit.models.timm_images import data_config, of_grey, sized, spelled_data, trained_with
from camkit.models.weights import build_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

_REFUSED = {  # keyword arguments of timm.create_model that --cfg-options can't set, and why
    "pretrained": "leave CHECKPOINT out to have timm's own weights",
    "checkpoint_path": "give the file as CHECKPOINT",
    "features_only": "features have no classes to explain",
}


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
    """Build a classifier of timm; see :func:`camkit.models.load.load`.

    Images are prepared as ``preprocessing`` says, else as the checkpoint's ``args`` do, which timm's training saves,
    else as timm does for the model.

    Args:
        name: Such as ``resnet18``, ``resnet18.a1_in1k`` with the tag of certain weights, ``hf-hub:OWNER/NAME`` or
            ``local-dir:FOLDER``.
        checkpoint: Path or URL; None takes timm's own weights.
        device: Where the model goes.
        options: Keyword arguments of ``timm.create_model``.
        reading: How the checkpoint is read. Averaged weights come first, as in timm's ``load_checkpoint``.
        preprocessing: Mean, standard deviation and input size.
        pretrained: False leaves the weights random where there is no checkpoint.

    Raises:
        UsageError: No such name or tag, no classifier, or options that don't fit.
        CheckpointError: timm's weights can't be had; and see ``read_checkpoint`` and ``load_into``.
        CamkitError: The device isn't available, a package is missing, or the model can't be built.
    """
    reading, wanted = reading or Reading(), preprocessing or Preprocessing()
    place = find_device(device)
    timm = import_framework("timm")
    options = sized(options or {}, wanted)
    _check(timm, name, options)
    report = None
    notes: tuple[str, ...] = ()
    trained: dict[str, Any] = {}
    if checkpoint is not None:
        weights = read_checkpoint(checkpoint, trust=reading.trust, weights=reading.weights)
        origin: Origin | None = weights.origin
        trained = trained_with(weights.args, wanted, options)
        size = trained.get("size", wanted.size)
        builder = Builder(
            partial(_build, timm, name, size=size), options, ("num_classes",), ("in_chans",), ("img_size",)
        )
        with quiet():
            model, report = build_for(weights, builder, _class_count, _renamed, reading)
        notes = report.notes
    elif pretrained:
        model, address = _with_own_weights(timm, name, options, wanted.size)
        origin = Origin(address, None)
    else:
        model, origin = _build(timm, name, options, size=wanted.size), None
    model = model.to(place).eval()
    data = data_config(timm, model, options, wanted, trained)
    if trained:
        notes = (*notes, f"preprocessing as in its training: {spelled_data(data, trained)}")
    with quiet():
        transform: Any = timm.data.create_transform(**data)
    if data["input_size"][0] == 1:
        transform = partial(of_grey, transform)
    return Classifier(
        model=model,
        classes=_classes(timm, model),
        activation="softmax",
        source=f"timm:{name}",
        checkpoint=origin,
        load_warning=report.warning if report else None,
        device=place,
        notes=notes,
        _prepare=partial(
            prepare, transform=transform, normalisation=Normalisation(data["mean"], data["std"]), device=place
        ),
    )


def _check(timm: Any, name: str, options: dict[str, Any]) -> None:
    """Refuse names that timm doesn't know and options that can't be set."""
    for key in options.keys() & _REFUSED:
        raise UsageError(f"{spelled({key: options[key]})} can't be set: {_REFUSED[key]}")
    if ":" in name:  # hf-hub:OWNER/NAME and local-dir:FOLDER
        return
    architecture, _, tag = name.partition(".")
    if "/" in name or not timm.is_model(architecture):
        known = timm.list_models()
        raise UsageError(
            f"timm has no model '{name}'{closest(architecture, known)}; it has {len(known)}, see timm.list_models(); "
            "others are timm:hf-hub:OWNER/NAME and timm:local-dir:FOLDER"
        )
    known = timm.list_pretrained(architecture)
    if tag and f"{architecture}.{tag}" not in known:
        raise UsageError(f"timm has no weights '{name}'; it has {', '.join(known) or f'none for {architecture}'}")


def _build(
    timm: Any,
    name: str,
    options: dict[str, Any],
    *,
    size: tuple[int, int] | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """The model; of those that take images of one size only, one for ``size``."""
    if options.get("in_chans", 3) not in (1, 3):
        raise UsageError(
            f"in_chans={options['in_chans']} can't be prepared: timm's preprocessing makes images of three channels, "
            "or of one with in_chans=1; in Python, camkit.GradCAM(model) takes tensors of any"
        )
    try:
        with quiet(), _no_waiting_for_the_hub() if pretrained or ":" in name else nullcontext():
            model: Any = timm.create_model(name, pretrained=pretrained, **options)
            own = model.pretrained_cfg
            if size and "img_size" not in options and own.get("fixed_input_size") and size != own["input_size"][1:]:
                model = timm.create_model(name, pretrained=pretrained, img_size=size, **options)
    except Exception as error:
        if pretrained:
            raise
        if options and not isinstance(error, OSError):
            raise UsageError(f"{spelled(options)} doesn't fit timm's {name}: {reason(error)}") from error
        raise CamkitError(f"can't build timm's {name}: {type(error).__name__}: {reason(error)}") from error
    if _class_count(model) == 0:
        raise UsageError(
            f"timm's {name} has no classifier, only features; ask for one with --cfg-options num_classes=N, and give "
            "the CHECKPOINT that was trained with it"
        )
    built: nn.Module = model
    return built


def _with_own_weights(
    timm: Any, name: str, options: dict[str, Any], size: tuple[int, int] | None
) -> tuple[nn.Module, str]:
    """The model with timm's weights for it, and their address."""
    address, plain = name, ":" not in name
    if plain and not timm.list_pretrained(name.partition(".")[0]):
        raise CheckpointError(f"timm has no weights for {name}; give CHECKPOINT, a .pth or .safetensors file with some")
    if plain:
        config = timm.get_pretrained_cfg(name)
        address = _address(name, config.to_dict())
        _refuse_random_head(name, config.num_classes, options)
    try:
        model: Any = _build(timm, name, options, size=size, pretrained=True)
    except UsageError:
        raise
    except Exception as error:
        if plain:
            _build(timm, name, options)  # raises its own error where the weights aren't at fault
        if options and "loading state_dict" in str(error):
            raise UsageError(
                f"{spelled(options)} doesn't fit timm's weights for {name}; give the CHECKPOINT trained with it"
            ) from error
        raise CheckpointError(
            f"can't load timm's weights for {name} from {address} ({reason(error)}); download them yourself and give "
            "the file as CHECKPOINT"
        ) from error
    _refuse_random_head(name, model.pretrained_cfg.get("num_classes"), options)
    return model, address


def _refuse_random_head(name: str, trained: int | None, options: dict[str, Any]) -> None:
    """Refuse another number of classes than the weights': timm would leave the classifier random."""
    if trained is not None and options.get("num_classes", trained) != trained:
        raise UsageError(
            f"timm's weights for {name} have {trained} classes, not num_classes={options['num_classes']}; give the "
            "CHECKPOINT that was trained with it"
        )


@contextmanager
def _no_waiting_for_the_hub() -> Iterator[None]:
    """Without a network, make the hub's client look into its cache at once; it would retry for a minute first."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        if not getproxies():
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _address(name: str, config: dict[str, Any]) -> str:
    """The address of timm's weights for a model."""
    if ":" in name:
        return name
    if config.get("hf_hub_id"):
        return f"https://huggingface.co/{config['hf_hub_id']}"
    return str(config.get("url") or name)


def _renamed(model: nn.Module, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Apply timm's filter for the architecture if more tensors fit then: it knows older names and other input sizes."""
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    own = model.state_dict()

    def fitting(tensors: dict[str, Tensor]) -> int:
        return sum(name in tensors and tensors[name].shape == own[name].shape for name in own)

    if rename is None or fitting(state_dict) == len(own):
        return state_dict
    try:
        renamed: dict[str, Tensor] = rename(dict(state_dict), model)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return state_dict  # the filter isn't for such a checkpoint; loading reports what fits
    return renamed if fitting(renamed) > fitting(state_dict) else state_dict


def _class_count(model: Any) -> int:
    return int(model.num_classes)


def _classes(timm: Any, model: Any) -> tuple[str, ...] | None:
    """The names that came with the weights; else ImageNet's where timm knows the subset by the number of classes."""
    labels, described = (model.pretrained_cfg.get(key) for key in ("label_names", "label_descriptions"))
    subset = timm.data.infer_imagenet_subset(model)
    if labels and len(labels) == model.num_classes:
        names = [(described or {}).get(label, label) for label in labels]
    elif subset:
        names = timm.data.ImageNetInfo(subset).label_descriptions()
    else:
        return None
    return tuple(map(str, names)) if len(names) == model.num_classes else None
