"""The part of each image that the network saw, without running the preprocessing six times for every size."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from camkit.errors import CamkitError
from camkit.models.loader import noise

if TYPE_CHECKING:
    from camkit.models.prepared import Prepared

Box = tuple[float, float, float, float]
"""Left, top, right, bottom of the network's input, in pixels of the whole image, whose first one goes from 0 to 1."""
Size = tuple[int, int]
"""Height and width."""

TRIED: tuple[Size, ...] = (
    *((375, 500), (500, 375), (333, 500), (480, 640), (96, 64), (131, 97), (600, 800), (256, 256)),
    *((800, 100), (100, 800)),  # some preprocessings bound the longer side
)
BOX_NONE = (None, None, None, None)
"""Where the box can't be told."""
_MOST = 512


@dataclass(frozen=True)
class Rule:
    """How boxes follow from the images' sizes.

    Attributes:
        kind: ``whole``: the input shows all of the image. ``centre``: the shorter side is resized to ``side``, and the
            centre cut out. ``fitted``: by trying, see :class:`camkit.models.geometry.Geometry`. ``unknown``: the
            preprocessing does more than resize, crop, pad and flip.
        side: See ``kind``.
        input_size: The input's size where it is the same for all images.
    """

    kind: str
    side: float = 0.0
    input_size: Size | None = None

    def told(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


class Boxes:
    """Boxes by size of the image; those that must be fitted are remembered, the last ones used."""

    def __init__(self, rule: Rule, prepare: Callable[[str], Prepared]) -> None:
        self._rule = rule
        self._prepare = prepare
        self._known: OrderedDict[tuple[Size, Size], Box | None] = OrderedDict()

    def find(self, path: str, size: Size, input_size: Size) -> Box | None:
        """The box of an image, None where it can't be told."""
        if self._rule.kind == "unknown":
            return None
        if self._rule.kind != "fitted":
            return predicted(self._rule, size, input_size)
        key = size, input_size
        if key not in self._known:
            try:
                self._known[key] = fitted(self._prepare(path), input_size)
            except CamkitError:
                self._known[key] = None
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


def find_rule(prepare: Callable[[str], Prepared]) -> Rule:
    """Try images of several sizes, and find the rule that explains where their boxes are."""
    seen: list[tuple[Size, Size, Box]] = []
    inputs: set[Size] = set()
    with noise(TRIED) as paths:
        for path, size in zip(paths, TRIED, strict=True):
            with suppress(CamkitError):
                prepared = prepare(path)
                input_size = prepared.inputs.shape[2], prepared.inputs.shape[3]
                inputs.add(input_size)
                seen.append((size, input_size, fitted(prepared, input_size)))
    # A preprocessing that takes none of these, as of images with many bands, is tried on the data set's own.
    kind = "fitted" if seen or not inputs else "unknown"
    same = inputs.pop() if len(inputs) == 1 else None
    if len(seen) < len(TRIED):
        return Rule(kind, input_size=same)
    for rule in (Rule("whole", input_size=same), Rule("centre", _side(seen), same)):
        if explains(rule, seen):
            return rule
    return Rule("fitted", input_size=same)


def fitted(prepared: Prepared, input_size: Size) -> Box:
    """The box of a prepared image.

    Raises:
        CamkitError: The preprocessing does more than resize, crop, pad and flip.
    """
    place = prepared.geometry
    height, width = input_size
    # Positions of pixels are those of their centres there, and those of their edges here.
    x = [place.scale_x * edge + place.offset_x + 0.5 for edge in (-0.5, width - 0.5)]
    y = [place.scale_y * edge + place.offset_y + 0.5 for edge in (-0.5, height - 0.5)]
    return x[0], y[0], x[1], y[1]


def predicted(rule: Rule, size: Size, input_size: Size) -> Box:
    """The box by a rule, for an image of a size."""
    height, width = size
    if rule.kind == "whole":
        return 0.0, 0.0, float(width), float(height)
    scale = min(size) / rule.side
    across, down = scale * input_size[1], scale * input_size[0]
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def explains(rule: Rule, seen: Sequence[tuple[Size, Size, Box]]) -> bool:
    """Whether a rule is right for all images tried, to a pixel of the image or of the input, whichever is larger."""
    for size, input_size, box in seen:
        step = max(abs(box[2] - box[0]) / input_size[1], abs(box[3] - box[1]) / input_size[0], 1.0)
        made = predicted(rule, size, input_size)
        if any(abs(one - other) > 1.5 * step for one, other in zip(made, box, strict=True)):
            return False
    return True


def _side(seen: Sequence[tuple[Size, Size, Box]]) -> float:
    """What the shorter side becomes, if all are resized alike."""
    found = sorted(min(size) * inputs[1] / max(abs(box[2] - box[0]), 1e-6) for size, inputs, box in seen)
    middle = found[len(found) // 2]
    return float(round(middle)) if math.isclose(middle, round(middle), abs_tol=0.6) else middle
