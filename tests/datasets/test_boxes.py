"""Boxes: where the network's input lies in an image, by a rule or by trying."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from camkit.datasets.boxes import TRIED, Boxes, find_rule, fitted, predicted
from camkit.errors import CamkitError
from camkit.models.pillow import Normalisation, prepare
from camkit.models.prepared import Prepared
from tests.datasets.pictures import CPU, as_they_are, squeezed, write_pictures


def with_transform(transform: Callable[[Image.Image], Tensor]) -> Callable[[str], Prepared]:
    return lambda path: prepare(path, transform, Normalisation((0.5,) * 3, (0.25,) * 3), CPU)


def centred(image: Image.Image) -> Tensor:
    """The shorter side to 40, the centre 32 x 32."""
    scale = 40 / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)))
    left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
    return as_they_are(image.crop((left, top, left + 32, top + 32)))


def corner(image: Image.Image) -> Tensor:
    """The upper left 48 x 48 pixels."""
    return as_they_are(image.crop((0, 0, 48, 48)))


def capped(image: Image.Image) -> Tensor:
    """The shorter side to 40, the longer one to 120 at most, the centre 32 x 32, black around what is smaller."""
    scale = min(40 / min(image.size), 120 / max(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
    return as_they_are(image.crop((left, top, left + 32, top + 32)))


def mirrored(image: Image.Image) -> Tensor:
    return squeezed(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def turned(image: Image.Image) -> Tensor:
    return squeezed(image.transpose(Image.Transpose.ROTATE_90))


@pytest.mark.parametrize(
    ("transform", "kind", "same"),
    [
        (squeezed, "whole", True),
        (as_they_are, "whole", False),
        (centred, "centre", True),
        (capped, "fitted", True),
        (corner, "fitted", True),
        (mirrored, "fitted", True),
        (turned, "unknown", True),
    ],
)
def test_the_rule(transform: Callable[[Image.Image], Tensor], kind: str, same: bool) -> None:
    rule = find_rule(with_transform(transform))
    assert rule.kind == kind
    assert (rule.input_size is not None) == same


@pytest.mark.parametrize("size", [(123, 77), (300, 450), (64, 200), *TRIED[:2]])
@pytest.mark.parametrize("transform", [squeezed, as_they_are, centred])
def test_a_rule_says_what_trying_does(
    transform: Callable[[Image.Image], Tensor], size: tuple[int, int], tmp_path: Path
) -> None:
    prepared = with_transform(transform)(str(write_pictures(tmp_path, 1, size) / "000.png"))
    inputs = prepared.inputs.shape[2], prepared.inputs.shape[3]
    rule = find_rule(with_transform(transform))
    for one, other in zip(predicted(rule, size, inputs), fitted(prepared, inputs), strict=True):
        assert abs(one - other) <= 1.5 * max(size) / min(inputs)


def test_boxes_that_are_tried_are_tried_once_per_size(tmp_path: Path) -> None:
    path = str(write_pictures(tmp_path, 1, (60, 80)) / "000.png")
    asked: list[str] = []

    def counted(path: str) -> Prepared:
        asked.append(path)
        return with_transform(corner)(path)

    boxes = Boxes(find_rule(with_transform(corner)), counted)
    for _ in range(3):
        box = boxes.find(path, (60, 80), (48, 48))
        assert box is not None
        assert all(abs(one - other) < 0.5 for one, other in zip(box, (0, 0, 48, 48), strict=True))
    assert len(asked) == 1


def test_what_can_t_be_told_has_no_box(tmp_path: Path) -> None:
    rule = find_rule(with_transform(turned))
    assert Boxes(rule, with_transform(turned)).find("x.png", (60, 80), (32, 32)) is None


def test_a_preprocessing_that_takes_large_images_alone(tmp_path: Path) -> None:
    def picky(path: str) -> Prepared:
        made = with_transform(squeezed)(path)
        if min(made.whole.shape[:2]) < 200:
            raise CamkitError("too small")
        return made

    rule = find_rule(picky)
    assert (rule.kind, rule.input_size) == ("fitted", (32, 32))


def test_a_preprocessing_that_takes_none_of_the_images_tried_is_tried_on_its_own(tmp_path: Path) -> None:
    """As those of images with many bands, which a picture file doesn't have."""

    def own(path: str) -> Prepared:
        if not path.endswith(".png"):
            raise CamkitError("no array")
        return with_transform(squeezed)(path)

    rule = find_rule(own)
    assert (rule.kind, rule.input_size) == ("fitted", None)
    box = Boxes(rule, own).find(str(write_pictures(tmp_path, 1, (60, 80)) / "000.png"), (60, 80), (32, 32))
    assert box is not None
    assert all(abs(one - other) < 1 for one, other in zip(box, (0, 0, 80, 60), strict=True))
