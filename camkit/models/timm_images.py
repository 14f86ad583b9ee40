"""How images are prepared for timm's models: as flags say, as the training's own arguments do, or as timm does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from camkit.errors import UsageError
from camkit.models.options import spelled
from camkit.models.settings import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_WORDS = {"interpolation": ("bicubic", "bilinear", "nearest", "lanczos"), "crop_mode": ("center", "squash", "border")}
_TRANSFORM = ("mean", "std", "interpolation", "crop_pct", "crop_mode")  # what timm's scripts are told of it


def sized(options: dict[str, Any], wanted: Preprocessing) -> dict[str, Any]:
    """The options with the channels that ``--input-size`` asks for.

    Raises:
        UsageError: Channels that no image has, or that contradict; an ``img_size`` that is no size.
    """
    if wanted.channels is not None:
        if options.get("in_chans", wanted.channels) != wanted.channels:
            raise UsageError(
                f"--input-size says {wanted.channels} channels, {spelled(options)} others; say one of them"
            )
        options = options if wanted.channels == 3 else options | {"in_chans": wanted.channels}
    size = options.get("img_size")
    if isinstance(size, list | tuple) and (
        len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise UsageError(f"{spelled({'img_size': size})} is no size; give one side, or (H,W)")
    if wanted.size and size is not None and _pair(size) != wanted.size:
        raise UsageError(f"--input-size and {spelled({'img_size': size})} contradict; give one of them")
    return options


def trained_with(args: dict[str, Any], wanted: Preprocessing, options: dict[str, Any]) -> dict[str, Any]:
    """What the arguments of the script that trained a checkpoint say about images, as far as timm knows them."""
    found: dict[str, Any] = {key: tuple(args[key]) for key in ("mean", "std") if _are_colours(args.get(key))}
    found |= {key: args[key] for key, known in _WORDS.items() if args.get(key) in known}
    share = args.get("crop_pct")
    if isinstance(share, int | float) and 0 < share <= 1:
        found["crop_pct"] = share
    size = _pair(args.get("input_size") or args.get("img_size"))
    if size and wanted.size is None and "img_size" not in options:
        found["size"] = size
    return {key: value for key, value in found.items() if getattr(wanted, key, None) is None}


def _are_colours(values: object) -> bool:
    numbers = isinstance(values, list | tuple) and all(isinstance(each, int | float) for each in values)
    return numbers and len(values) in (1, 3)  # type: ignore[arg-type]


def _pair(size: object) -> tuple[int, int] | None:
    """Height and width of a side, of (H, W) or of (C, H, W)."""
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) in (2, 3) and all(isinstance(side, int) and 0 < side < 10_000 for side in sides):
        return sides[-2], sides[-1]
    return None


def data_config(
    timm: Any, model: Any, options: dict[str, Any], wanted: Preprocessing, trained: dict[str, Any]
) -> dict[str, Any]:
    """The settings of timm's evaluation transform."""
    channels = options.get("in_chans", 3)
    size = wanted.size or _pair(options.get("img_size")) or trained.get("size")
    args = {key: trained[key] for key in _TRANSFORM if key in trained}
    args |= {key: value for key in ("mean", "std") if (value := getattr(wanted, key)) is not None}
    own = timm.data.resolve_model_data_config(model)
    args["input_size"] = (channels, *(size or own["input_size"][1:]))
    spread = {key: _spread(args.pop(key, None) or own[key], channels) for key in ("mean", "std")}
    return {**timm.data.resolve_data_config(args, model=model), **spread}


def _spread(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value for each channel; of another number of values their mean, as timm's loader takes it."""
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels


def spelled_data(data: dict[str, Any], trained: dict[str, Any]) -> str:
    """What of the settings comes from the training: ``size 64x64, mean 0.5 0.5 0.5``."""
    named = {key: data[key] for key in trained if key != "size"}
    if "size" in trained:
        named = {"size": "x".join(map(str, data["input_size"][1:])), **named}
    return ", ".join(f"{key} {_words(value)}" for key, value in named.items())


def _words(value: object) -> str:
    return " ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)


def of_grey(transform: Any, image: Image) -> Tensor:
    """A transform of images with one channel, which timm opens as such."""
    values: Tensor = transform(image.convert("L"))
    return values
