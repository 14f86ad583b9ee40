"""``camkit demo``: explain a picture with a trained network; both come with installed packages."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from camkit.cli import flags, printing
from camkit.errors import CamkitError
from camkit.methods import find_method
from camkit.models.demo import LITE0_CONFIG, convert_lite0, find_weights
from camkit.models.load import load
from camkit.visualize.opencv import cv2
from camkit.visualize.save import picture_writer, save_picture, write_together

if TYPE_CHECKING:
    from camkit.cli.parser import Parser
    from camkit.visualize.picture import Picture

CATEGORIES = {"cat": 282, "espresso": 967}
METHODS = ("GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM")
SIDE = 224
WHOLE_PICTURE = (
    f"test_dataloader.dataset.pipeline.1.scale={SIDE}",
    f"test_dataloader.dataset.pipeline.2.crop_size=({2 * SIDE},{SIDE})",
)
"""``--cfg-options`` with which the network, trained on squares, sees both halves of :func:`photographs`."""


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    parser.add_argument("--out", type=flags.path, default=Path("demo"), help="folder for the pictures; default: demo")
    parser.add_argument("--device", default="cpu", help="default: cpu")


def main(options: argparse.Namespace) -> None:
    """Explain a cat and an espresso, side by side in one picture."""
    config, checkpoint = build_network(cache_folder())
    image = save_picture(options.out / "input.png", photographs())
    classifier = load(str(config), str(checkpoint), device=options.device, cfg_options=WHOLE_PICTURE)
    prepared = classifier.prepare(image)
    methods = [find_method(name) for name in METHODS]
    explanations = printing.explain_image(classifier, prepared, methods, list(CATEGORIES.values()))
    printing.print_report(classifier, explanations)
    print(f"wrote: {image}")
    overlays = zip(CATEGORIES, printing.draw(prepared, explanations[0]), strict=True)
    pictures = {"grid": printing.draw_grid(classifier, prepared, explanations), **dict(overlays)}
    paths = {options.out / f"{name}.png": picture for name, picture in pictures.items()}
    printing.write_files({path: picture_writer(path, picture) for path, picture in paths.items()})


def photographs() -> Picture:
    """A cat and a cup of coffee side by side, (224, 448, 3) RGB.

    Raises:
        CamkitError: scikit-image, whose photographs they are, is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise CamkitError("the demo's photographs are scikit-image's: pip install 'camkit[demo]'") from None
    return np.hstack([_square(photograph()) for photograph in (data.chelsea, data.coffee)])


def cache_folder() -> Path:
    """The folder for the network: ``$CAMKIT_CACHE``, else ``camkit`` in the user's cache folder."""
    if "CAMKIT_CACHE" in os.environ:
        return Path(os.environ["CAMKIT_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "camkit"


def build_network(folder: Path) -> tuple[Path, Path]:
    """Write the network's config and checkpoint for MMPretrain to ``folder``; the checkpoint only the first time.

    Raises:
        CamkitError: The weights' package is not installed, or the folder can't be written.
    """
    config, checkpoint = folder / "lite0.py", folder / "lite0.pth"
    if not checkpoint.exists():
        weights = torch.load(find_weights(), map_location="cpu", weights_only=True)
        content = {"state_dict": convert_lite0(weights), "meta": {}}
        write_together({checkpoint: lambda file: torch.save(content, file)})
    write_together({config: lambda file: file.write(LITE0_CONFIG.encode())})
    return config, checkpoint


def _square(photograph: Picture) -> Picture:
    """The centre of a photograph, SIDE x SIDE."""
    height, width = photograph.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = photograph[top : top + side, left : left + side]
    return np.asarray(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
