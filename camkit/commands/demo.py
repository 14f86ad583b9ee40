"""``camkit demo``: the main job on a trained network and a picture that install as packages."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
import torch

from camkit import demo_model
from camkit.adapters import mmpretrain
from camkit.commands import job
from camkit.errors import CamkitError
from camkit.methods import find_method
from camkit.render import Picture
from camkit.save import picture_writer, save_picture, write_together

CATEGORIES = {"cat": 282, "espresso": 967}
METHODS = ("GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM")
SIDE = 224
# The network was trained on squares; it takes any size, and here it sees both halves.
WHOLE_PICTURE = {
    "test_dataloader.dataset.pipeline.1.scale": SIDE,
    "test_dataloader.dataset.pipeline.2.crop_size": (2 * SIDE, SIDE),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the pictures; default: demo")
    parser.add_argument("--device", default="cpu", help="default: cpu")


def main(options: argparse.Namespace) -> None:
    """Explain a cat and an espresso, side by side in one picture."""
    config, checkpoint = build(cache_folder())
    image = save_picture(options.out / "input.png", photographs())
    classifier = mmpretrain.load(str(config), str(checkpoint), device=options.device, cfg_options=WHOLE_PICTURE)
    prepared = classifier.prepare(str(image))
    categories = list(CATEGORIES.values())
    methods = [find_method(name) for name in METHODS]
    defaults = job.choose_layers(classifier, prepared, methods, categories=categories)
    explanations = job.explain(classifier, prepared, methods, defaults=defaults, categories=categories)
    job.report(classifier, explanations, defaults)
    style = job.Style()
    print(f"wrote: {image}")
    overlays = zip(CATEGORIES, job.draw(prepared, explanations[0], style), strict=True)
    pictures = {"grid": job.draw_grid(classifier, prepared, explanations, style), **dict(overlays)}
    paths = {options.out / f"{name}.png": picture for name, picture in pictures.items()}
    job.write({path: picture_writer(path, picture) for path, picture in paths.items()})


def photographs() -> Picture:
    """A cat and a cup of coffee side by side, (224, 448, 3) BGR.

    Raises:
        CamkitError: scikit-image, which brings the photographs, is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise CamkitError("the demo's photographs are scikit-image's: pip install 'camkit[demo]'") from None
    halves = [_square(photograph()) for photograph in (data.chelsea, data.coffee)]
    return np.ascontiguousarray(np.hstack(halves)[:, :, ::-1])


def cache_folder() -> Path:
    """Where the demo keeps the network: ``$CAMKIT_CACHE``, else ``camkit`` in the user's cache folder."""
    if "CAMKIT_CACHE" in os.environ:
        return Path(os.environ["CAMKIT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "camkit"


def build(folder: Path) -> tuple[Path, Path]:
    """The network as MMPretrain's tools take it, built once: config and checkpoint in ``folder``.

    Raises:
        CamkitError: the weights' package is not installed, or the folder can't be written.
    """
    config, checkpoint = folder / "lite0.py", folder / "lite0.pth"
    if not checkpoint.exists():
        weights = torch.load(demo_model.find_weights(), map_location="cpu", weights_only=True)
        state_dict = demo_model.convert_lite0(weights)
        write_together({checkpoint: lambda file: torch.save({"state_dict": state_dict, "meta": {}}, file)})
    write_together({config: lambda file: file.write(demo_model.LITE0_CONFIG.encode())})
    return config, checkpoint


def _square(photograph: Picture) -> Picture:
    """The centre of a photograph, SIDE x SIDE."""
    height, width = photograph.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = photograph[top : top + side, left : left + side]
    return np.asarray(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
