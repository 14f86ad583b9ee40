"""One canvas, two digits, several methods: a row per digit asked for."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

import camkit
from benchmarks.digits import measure, recipe
from benchmarks.digits.canvases import SIDE, Canvases
from camkit.integrations import Recorder

SHOWN = ("GradCAM", "GradCAM++", "LayerCAM", "EigenCAM", "ScoreCAM", "GradientRollout", "RandomCAM")
"""Some of every family, those that fail included."""
EPOCH = 20
"""Steps that draw about as many digits as there are for training."""
SHOWN_EPOCHS = 8
ZOOM = 4
"""Pixels of the picture per pixel of the canvas."""
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)


def picture(model: nn.Module, canvases: Canvases, index: int) -> NDArray[np.uint8]:
    """Overlays of canvas number ``index``, RGB: the box of the digit asked for, a cross at the hottest position."""
    image = canvases.images[index : index + 1]
    grey = (255 * image[0, 0].clamp(0, 1)).byte().numpy().repeat(ZOOM, 0).repeat(ZOOM, 1)
    shown = np.repeat(grey[:, :, None], 3, 2)
    wanted = canvases.classes[index].tolist()
    rows = [[_framed(shown, canvases.corners[index, place].tolist())] for place in range(len(wanted))]
    for method in SHOWN:
        maps = camkit.CAM(model, method)(image, [wanted])
        large = functional.interpolate(maps, scale_factor=ZOOM, mode="bilinear")[0].clamp(0, 1)
        for place, heat in enumerate(large):
            overlay = _framed(camkit.overlay(shown, heat), canvases.corners[index, place].tolist())
            rows[place].append(_crossed(overlay, maps[0, place]))
    return camkit.grid(rows, [f"where is the {each}?" for each in wanted], ["canvas", *SHOWN])


class _Strips:
    """Keeps the last strip of each map, and prints how far maps move."""

    def __init__(self) -> None:
        self.last: dict[str, NDArray[np.uint8]] = {}

    def add_image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        if name.endswith("_strip"):
            self.last[name] = image

    def add_scalar(self, name: str, value: float, step: int) -> None:
        print(f"epoch {step}: {name} {value:.3f}", flush=True)


def over_epochs(steps: int = recipe.STEPS, index: int = 5) -> NDArray[np.uint8]:
    """Train the network and look on: a canvas's maps for both of its digits over the epochs, one row each, RGB.

    Args:
        steps: how long it is trained.
        index: which of the held-out canvases.
    """
    strips = _Strips()
    canvases = measure.sample("held-out", measure.SIZES[0])
    recorder: Recorder | None = None

    def watch(model: nn.Module, step: int) -> None:
        nonlocal recorder
        if recorder is None:
            recorder = Recorder(
                model,
                canvases.images[index : index + 1],
                methods="LayerCAM",
                targets=canvases.classes[index].tolist(),
                activation="sigmoid",
                mean=[0.0],
                std=[1.0],
                logger=strips,
                unit="epoch",
                strip=SHOWN_EPOCHS,
            )
        epoch, rest = divmod(step, EPOCH)
        if rest == 0:
            recorder.step(epoch)

    recipe.train(steps, watch=watch)
    if recorder is not None:
        recorder.finish()
    return np.concatenate(list(strips.last.values()))


def _framed(shown: NDArray[np.uint8], corner: list[int]) -> NDArray[np.uint8]:
    top, left = (ZOOM * each for each in corner)
    end = (left + ZOOM * SIDE - 1, top + ZOOM * SIDE - 1)
    return np.asarray(cv2.rectangle(shown.copy(), (left, top), end, WHITE, 1), dtype=np.uint8)


def _crossed(shown: NDArray[np.uint8], heat: torch.Tensor) -> NDArray[np.uint8]:
    y, x = (heat == heat.amax()).nonzero().float().mean(0).tolist()
    at = (round(ZOOM * (x + 0.5)), round(ZOOM * (y + 0.5)))
    for colour, thickness in ((BLACK, 4), (WHITE, 2)):
        cv2.drawMarker(shown, at, colour, cv2.MARKER_CROSS, 4 * ZOOM, thickness)
    return shown
