"""Make the pictures and tables of README.md and docs/ anew, from the demo, the registry and the last benchmarks.

``python -m docs.make --tables`` leaves the pictures alone, which take minutes and need the bench extra.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from PIL import Image

from docs.tables import ROOT, filled, pages

if TYPE_CHECKING:
    from camkit.visualize.picture import Picture

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WIDE, CANVAS = (48, 96), 31
"""A size of canvases, and one with both digits easy to read, on the left and on the right."""

SANE = ("GradCAM", "LayerCAM", "EigenCAM", "GuidedBackprop")
"""Methods of the sanity check's picture."""


def transformer() -> Picture:
    """Explain a canvas with two digits with all methods and the transformer of benchmarks/digits: a gallery, RGB."""
    from benchmarks.digits import measure, recipe
    from camkit.cli import gallery
    from camkit.models.classifier import Classifier
    from camkit.models.prepared import Prepared

    model, canvases = recipe.load(), measure.sample("held-out", WIDE)
    image = canvases.images[CANVAS : CANVAS + 1]
    picture = (255 * image[0, 0].clamp(0, 1)).byte().numpy()[:, :, None].repeat(3, axis=2)

    def unchanged(values: NDArray[Any]) -> NDArray[Any]:
        return values

    prepared = Prepared(image, picture, picture, unchanged)

    def prepare(_: str) -> Prepared:
        return prepared

    classifier = Classifier(model, NUMERALS, "sigmoid", "transformer", None, None, torch.device("cpu"), prepare)
    methods, _ = gallery.chosen(None, {}, full=True)
    found, missing = gallery.explain(classifier, prepared, methods, categories=canvases.classes[CANVAS].tolist())
    return gallery.draw(classifier, prepared, methods, found, missing, columns=6)


def sanity(image: str, png: Path, jpg: Path) -> None:
    """Write the sanity check of the demo's network, at half the size.

    Raises:
        SystemExit: the command fails.
    """
    from camkit.cli import demo
    from camkit.cli.main import main as camkit

    network = map(str, demo.build_network(demo.cache_folder()))
    if camkit(["sanity", image, *network, "--save-path", str(png), "--method", *SANE]):
        raise SystemExit(1)
    picture = Image.open(png)
    picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS).save(jpg, quality=85)


def pictures() -> None:
    """Write docs/*.jpg and docs/speed.png.

    Raises:
        SystemExit: a command fails.
    """
    import benchmarks.digits.__main__ as digits
    from benchmarks.speed.charts import bars
    from benchmarks.speed.files import CHART, load
    from camkit.cli.main import main as camkit

    docs = ROOT / "docs"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "grid.png", Path(folder) / "gallery.png"
        if camkit(["demo", "--out", folder]) or camkit(["gallery", "--save-path", str(made[1])]):
            raise SystemExit(1)
        for picture in made:
            Image.open(picture).save(docs / f"{picture.stem}.jpg", quality=85)
        sanity(f"{folder}/input.png", Path(folder) / "sanity.png", docs / "sanity.jpg")
    Image.fromarray(transformer()).save(docs / "transformer.jpg", quality=85)
    bars(load()["speed"]["rows"], CHART)
    digits.draw(docs / "digits.jpg")


def main() -> None:
    """Write the pictures, and what stands between the markers of the pages."""
    parser = argparse.ArgumentParser(prog="python -m docs.make", description=__doc__)
    parser.add_argument("--tables", action="store_true", help="tables and method sections only")
    options = parser.parse_args()
    if not options.tables:
        pictures()
    for page in pages():
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
