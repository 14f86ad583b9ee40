"""timm: a model's name in; model, its own evaluation transform and class names out.

The only file that imports timm, and only inside functions: that takes seconds.
"""

from __future__ import annotations

import socket
import sys
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from camkit.adapters.classifier import Classifier
from camkit.adapters.fitting import build_for
from camkit.adapters.framework import find_device, import_packages, quiet, spelled
from camkit.adapters.photo import Normalisation, prepare
from camkit.checkpoint import Origin, read_checkpoint
from camkit.errors import CamkitError, CheckpointError, UsageError, closest, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

_FIXED = {  # keyword arguments of timm.create_model that CONFIG and CHECKPOINT stand for, or that make no classifier
    "pretrained": "leave CHECKPOINT out to have timm's own weights",
    "checkpoint_path": "give the file as CHECKPOINT",
    "features_only": "features have no classes to explain",
    "in_chans": "images have three channels, and so has the preprocessing",
}


def load(
    name: str,
    checkpoint: str | None,
    *,
    device: str = "cpu",
    options: dict[str, Any] | None = None,
    trust_checkpoint: bool = False,
    pretrained: bool = True,
) -> Classifier:
    """Build a classifier from a model name of timm, or its ``hf-hub:`` or ``local-dir:``.

    Args:
        name: such as ``resnet18`` or, with the tag of certain weights, ``resnet18.a1_in1k``.
        checkpoint: file or URL; None takes timm's own weights.
        device: where the model goes.
        options: keyword arguments of ``timm.create_model``.
        trust_checkpoint: see :func:`camkit.checkpoint.read_checkpoint`.
        pretrained: False leaves the weights random where there is no checkpoint: for the structure alone.

    Raises:
        UsageError: No such name or tag, no classifier, or options that don't fit.
        CheckpointError: timm's weights can't be had; and see ``read_checkpoint`` and ``load_into``.
        CamkitError: The device isn't available, a package is missing, or the model can't be built.
    """
    place = find_device(device)
    timm = import_packages("timm", "timm")
    options = options or {}
    _check(timm, name, options)
    report = None
    if checkpoint is not None:
        weights = read_checkpoint(checkpoint, trust=trust_checkpoint)
        origin: Origin | None = weights.origin
        with quiet():
            model, report = build_for(weights, partial(_build, timm, name), options, _class_count, _renamed)
    elif pretrained:
        model, address = _with_own_weights(timm, name, options)
        origin = Origin(address, None)
    else:
        model, origin = _build(timm, name, options), None
    model = model.to(place).eval()
    data = timm.data.resolve_model_data_config(model, {"img_size": options.get("img_size")})
    with quiet():
        transform = timm.data.create_transform(**data)
    normalisation = Normalisation(data["mean"], data["std"])
    return Classifier(
        model=model,
        classes=_classes(timm, model),
        activation="softmax",
        source=f"timm:{name}",
        checkpoint=origin,
        load_warning=report.warning if report else None,
        device=place,
        _prepare=partial(prepare, transform=transform, normalisation=normalisation, device=place),
    )


def _check(timm: Any, name: str, options: dict[str, Any]) -> None:
    """Refuse what timm doesn't know, or camkit decides."""
    for key in options.keys() & _FIXED:
        raise UsageError(f"--cfg-options {key}={options[key]} can't be set: {_FIXED[key]}")
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


def _build(timm: Any, name: str, options: dict[str, Any], *, pretrained: bool = False) -> nn.Module:
    try:
        with quiet(), _hub_at_once() if pretrained or ":" in name else nullcontext():
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        if pretrained:
            raise
        if options and not isinstance(error, OSError):
            raise UsageError(f"{spelled(options)} doesn't fit timm's {name}: {reason(error)}") from error
        raise CamkitError(f"can't build timm's {name}: {type(error).__name__}: {reason(error)}") from error
    if _class_count(model) == 0:
        raise UsageError(
            f"timm's {name} has no classifier, it was made for features; ask for one with --cfg-options num_classes=N, "
            "and give the CHECKPOINT that was trained with it"
        )
    return model


def _with_own_weights(timm: Any, name: str, options: dict[str, Any]) -> tuple[nn.Module, str]:
    """The model with the weights that timm has for it, and where it has them."""
    address, plain = name, ":" not in name
    if plain and not timm.list_pretrained(name.partition(".")[0]):
        raise CheckpointError(f"timm has no weights for {name}; give CHECKPOINT, a .pth or .safetensors file with some")
    if plain:
        config = timm.get_pretrained_cfg(name)
        address = _address(name, config.to_dict())
        _refuse_random_head(name, config.num_classes, options)
    try:
        model: Any = _build(timm, name, options, pretrained=True)
    except UsageError:
        raise
    except Exception as error:
        if plain:
            _build(timm, name, options)  # says it, where it isn't the weights
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
    """Where another number of classes is asked for than the weights have, timm would leave the head random."""
    if trained is not None and options.get("num_classes", trained) != trained:
        raise UsageError(
            f"timm's weights for {name} have {trained} classes, not num_classes={options['num_classes']}; give the "
            "CHECKPOINT that was trained with it"
        )


@contextmanager
def _hub_at_once() -> Iterator[None]:
    """Without a network, the hub's client tries again for a minute; told so, it looks into its cache at once."""
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
    """Where timm has a model's weights."""
    if ":" in name:
        return name
    if config.get("hf_hub_id"):
        return f"https://huggingface.co/{config['hf_hub_id']}"
    return str(config.get("url") or name)


def _renamed(model: nn.Module, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Through the filter that timm has for an architecture, if more fits then: older names, other input sizes."""
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    own = model.state_dict()

    def fitting(tensors: dict[str, Tensor]) -> int:
        return sum(name in tensors and tensors[name].shape == own[name].shape for name in own)

    if rename is None or fitting(state_dict) == len(own):
        return state_dict
    try:
        renamed: dict[str, Tensor] = rename(dict(state_dict), model)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return state_dict  # not written for such a checkpoint; loading says what fits
    return renamed if fitting(renamed) > fitting(state_dict) else state_dict


def _class_count(model: Any) -> int:
    return int(model.num_classes)


def _classes(timm: Any, model: Any) -> tuple[str, ...] | None:
    """The names that came with the model, or ImageNet's where the number of classes is that of a known subset."""
    labels, described = (model.pretrained_cfg.get(key) for key in ("label_names", "label_descriptions"))
    subset = timm.data.infer_imagenet_subset(model)
    if labels and len(labels) == model.num_classes:
        names = [(described or {}).get(label, label) for label in labels]
    elif subset:
        names = timm.data.ImageNetInfo(subset).label_descriptions()
    else:
        return None
    return tuple(map(str, names)) if len(names) == model.num_classes else None
