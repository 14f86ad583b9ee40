"""One canvas, two digits, several methods: a row per digit asked for."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

import camkit
from benchmarks.digits.canvases import SIDE, Canvases

SHOWN = ("GradCAM", "GradCAM++", "LayerCAM", "EigenCAM", "ScoreCAM", "GradientRollout", "RandomCAM")
"""Some of every family, those that fail included."""
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
