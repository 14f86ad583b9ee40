"""Fingerprints of preprocessings: a resize that rounds otherwise is the same one, whatever changes more is another."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from camkit.models.fingerprint import difference, fingerprint
from camkit.models.loader import FloatLoader, choose_loader

CPU = torch.device("cpu")
Resampling = Image.Resampling


@dataclass(frozen=True)
class Preprocessing:
    """The shorter side to ``side``, the centre of ``crop`` pixels ``shift`` to the right, normalised."""

    side: int = 64
    crop: int = 56
    shift: int = 0
    resample: Image.Resampling = Resampling.BICUBIC
    mean: float = 0.485
    std: float = 0.229
    bgr: bool = False
    grey: bool = False
    dtype: torch.dtype = torch.float32
    jitter: float = 0.0

    def __call__(self, image: Image.Image) -> Tensor:
        scale = self.side / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), self.resample)
        levels = np.array(image).astype(int)
        if self.jitter and np.ptp(levels, axis=(0, 1)).any():  # no resize rounds an image of one colour
            noise = np.random.default_rng(1).random(levels.shape)
            levels += np.where(noise < self.jitter / 2, -1, np.where(noise > 1 - self.jitter / 2, 1, 0))
        levels = levels.clip(0, 255)
        left, top = (levels.shape[1] - self.crop) // 2 + self.shift, (levels.shape[0] - self.crop) // 2
        levels = levels[top : top + self.crop, left : left + self.crop]
        if self.grey:
            levels = levels.mean(2, keepdims=True).round().repeat(3, axis=2)
        colours = torch.from_numpy(np.ascontiguousarray(levels[..., ::-1] if self.bgr else levels)).permute(2, 0, 1)
        return ((colours / 255 - self.mean) / self.std).to(self.dtype)


USUAL = Preprocessing()


def of(transform: Callable[[Image.Image], Tensor]) -> dict[str, Any]:
    """A fingerprint, as it comes out of a file."""
    found: dict[str, Any] = json.loads(json.dumps(fingerprint(FloatLoader(transform, CPU))))
    return found


@pytest.mark.parametrize(
    "other",
    [
        replace(USUAL, mean=0.4851),
        replace(USUAL, mean=0.5, std=0.5),
        replace(USUAL, std=0.2291),
        replace(USUAL, side=65),
        replace(USUAL, side=63),
        replace(USUAL, crop=55),
        replace(USUAL, shift=1),
        replace(USUAL, bgr=True),
        replace(USUAL, grey=True),
        replace(USUAL, dtype=torch.float64),
        *(replace(USUAL, resample=each) for each in Resampling if each != USUAL.resample),
    ],
    ids=lambda other: ", ".join(f"{k}={v}" for k, v in vars(other).items() if v != getattr(USUAL, k)),
)
def test_what_changes_more_than_rounding_is_another_preprocessing(other: Preprocessing) -> None:
    usual = of(USUAL)
    assert difference(usual, of(other))
    assert difference(of(other), usual)
    assert difference(of(replace(USUAL, jitter=1.0)), of(other)), "nor does rounding hide it"


@pytest.mark.parametrize("share", [0.01, 1.0])
def test_pixels_that_are_a_grey_level_off_are_rounded_otherwise(share: float) -> None:
    one, other = of(USUAL), of(replace(USUAL, jitter=share))
    assert one["digest"] != other["digest"]
    assert difference(one, other) == difference(other, one) == ""


@pytest.mark.parametrize("ulps", [1, -4])
def test_a_few_units_in_the_last_place_are_the_same_normalisation(ulps: int) -> None:
    def other(image: Image.Image) -> Tensor:
        made = USUAL(image)
        return made + made * ulps * torch.finfo(made.dtype).eps

    one, found = of(USUAL), of(other)
    assert one["digest"] != found["digest"]
    assert difference(one, found) == ""


def test_small_changes_of_a_normalisation_are_seen_in_black_and_white() -> None:
    def scaled(by: float) -> Callable[[Image.Image], Tensor]:
        return lambda image: torch.from_numpy(np.array(image.resize((8, 8)))).permute(2, 0, 1) * by

    assert difference(of(scaled(1.0)), of(scaled(1.0))) == ""
    assert "black and white otherwise" in difference(of(scaled(1.0)), of(scaled(1.00001)))


def test_what_differs_is_said() -> None:
    usual = of(USUAL)
    for other, said in (
        (replace(USUAL, crop=48), "makes float32 3x56x56, now float32 3x48x48"),
        (replace(USUAL, mean=0.5), "makes black and white otherwise, by 3.8[23] grey levels"),
        (replace(USUAL, bgr=True), "makes colours otherwise, by 150 grey levels"),
        (replace(USUAL, shift=1), "makes images of noise otherwise, by .* grey levels"),
    ):
        assert re.fullmatch(said, difference(usual, of(other)))


def test_an_image_that_is_normalised_by_itself() -> None:
    """Black and white say nothing there."""

    def alone(image: Image.Image, side: int = 150, jitter: float = 0.0) -> Tensor:
        made = replace(USUAL, side=side, crop=128, jitter=jitter)(image)
        return (made - made.mean()) / made.std()

    one = of(alone)
    assert difference(one, of(lambda image: alone(image, jitter=0.1))) == ""
    assert difference(one, of(lambda image: alone(image, side=151)))


class Random:
    def __call__(self, image: Image.Image) -> Tensor:
        return torch.rand(3, 8, 8)


class Choosy:
    def __call__(self, image: Image.Image) -> Tensor:
        raise ValueError("too noisy")


def test_preprocessings_that_make_nothing_to_compare_are_told_by_their_description() -> None:
    found = [of(kind()) for kind in (Random, Random, Choosy, Choosy)]
    assert difference(found[0], found[1]) == difference(found[2], found[3]) == ""
    assert difference(found[0], found[2]) == f"{found[0]['digest']}, now {found[2]['digest']}"
    assert difference(found[0], of(USUAL))


def test_one_that_refuses_some_images_is_compared_on_the_others() -> None:
    def wide(image: Image.Image, jitter: float = 0.0) -> Tensor:
        if image.width < image.height:
            raise ValueError("too high")
        return replace(USUAL, jitter=jitter)(image)

    assert "nothing" in of(wide)["inputs"]
    assert difference(of(wide), of(lambda image: wide(image, 1.0))) == ""
    assert difference(of(wide), of(USUAL)) == "makes nothing, now float32 3x56x56"


@pytest.mark.parametrize("theirs", [None, "abc", {}, {"digest": "a", "inputs": [], "noise": 3}, {"inputs": None}])
def test_damage_is_a_difference(theirs: Any) -> None:
    assert difference(theirs, of(USUAL)) == "damaged in the file"


@pytest.mark.frameworks
def test_a_processor_is_told_by_its_settings_not_its_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from camkit.models.transformers import _Processor

    def made(name: str, mean: float) -> dict[str, Any]:
        transformers.ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[mean] * 3).save_pretrained(
            tmp_path / name
        )
        return fingerprint(choose_loader(_Processor(tmp_path / name, CPU), CPU))

    usual = made("one", 0.5)
    assert difference(usual, made("other", 0.5)) == ""
    assert difference(usual, made("one", 0.49999))
