"""Make README.md's pictures and tables anew, from the demo, the registry and the last benchmarks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image

import benchmarks.digits.__main__ as digits
from benchmarks.digits import measure, recipe
from benchmarks.provenance import RESULTS
from benchmarks.speed.charts import bars
from benchmarks.speed.files import CHART, load
from benchmarks.speed.table import readme as speed_table
from camkit.adapters.classifier import Classifier
from camkit.adapters.prepared import Prepared
from camkit.cli import main as camkit
from camkit.commands import gallery
from camkit.commands.methods import markdown as method_table
from camkit.render import Picture

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROOT = Path(__file__).resolve().parent.parent
WIDE, CANVAS = (48, 96), 31
"""A size of canvases, and one with both digits easy to read, on the left and on the right."""


def tables() -> dict[str, str]:
    """README's tables, by the name of their markers."""
    return {
        "methods": method_table(),
        "speed": speed_table(load()),
        "coverage": coverage_table(_rows("coverage")),
        "digits": digits_table(_rows("digits")),
    }


def coverage_table(rows: list[dict[str, Any]]) -> str:
    """How many networks of each ecosystem are explained with no flags."""
    lines = ["| networks of | families | explained | can't be built here |", "| --- | --- | --- | --- |"]
    for ecosystem in dict.fromkeys(row["ecosystem"] for row in rows):
        verdicts = [row["verdict"] for row in rows if row["ecosystem"] == ecosystem]
        built = sum(verdict != "not run" for verdict in verdicts)
        lines.append(f"| {ecosystem} | {built} | {verdicts.count('ok')} | {len(verdicts) - built} |")
    return "\n".join(lines)


def digits_table(rows: list[dict[str, Any]]) -> str:
    """In how many canvases of each size a method's maps of both digits are right."""
    plain = [row for row in rows if " + " not in row["method"]]
    sizes = list(dict.fromkeys(row["canvas"] for row in plain))
    share = {(row["method"], row["canvas"]): row["canvases"] for row in plain}
    methods = sorted({row["method"] for row in plain}, key=lambda method: (-share[method, sizes[0]], method))
    lines = [f"| both digits found | {' | '.join(sizes)} |", "| --- |" + " --- |" * len(sizes)]
    lines += [f"| {method} | {' | '.join(f'{share[method, size]:.1%}' for size in sizes)} |" for method in methods]
    return "\n".join(lines)


def filled(text: str) -> str:
    """README's text with the tables between its markers as they are now."""
    for name, table in tables().items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not end or begin in after:
            raise SystemExit(f"README.md has no place, or several, for the table '{name}'")
        text = f"{before}{begin}{table}\n{end}{after}"
    return text


def _rows(result: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{result}.json").read_text())["rows"]
    return rows


def transformer() -> Picture:
    """All methods on a canvas with two digits that the transformer of benchmarks/digits was trained for."""
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


def main() -> None:
    """Write README.md and the pictures in docs/ that it shows."""
    docs = ROOT / "docs"
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "grid.png", Path(folder) / "gallery.png"
        if camkit(["demo", "--out", folder]) or camkit(["gallery", "--save-path", str(pages[1])]):
            raise SystemExit(1)
        for page in pages:
            Image.open(page).save(docs / f"{page.stem}.jpg", quality=85)
    Image.fromarray(transformer()[:, :, ::-1]).save(docs / "transformer.jpg", quality=85)
    bars(load()["speed"]["rows"], CHART)
    digits.draw(docs / "digits.jpg")
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))


if __name__ == "__main__":
    main()
