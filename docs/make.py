"""Make README.md's pictures and tables anew, from the demo, the registry and the last benchmarks."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

import benchmarks.digits.__main__ as digits
from benchmarks.provenance import RESULTS
from benchmarks.speed.charts import bars
from benchmarks.speed.files import CHART, load
from benchmarks.speed.table import readme as speed_table
from camkit.cli import main as camkit
from camkit.commands.methods import markdown as method_table

ROOT = Path(__file__).resolve().parent.parent


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
    methods = sorted({row["method"] for row in plain}, key=lambda method: -share[method, sizes[0]])
    lines = [f"| both digits found | {' | '.join(sizes)} |", "| --- |" + " --- |" * len(sizes)]
    lines += [f"| {method} | {' | '.join(f'{share[method, size]:.1%}' for size in sizes)} |" for method in methods]
    return "\n".join(lines)


def filled(text: str) -> str:
    """README's text with the tables between its markers as they are now."""
    for name, table in tables().items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, count = marked.subn(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
        if count != 1:
            raise SystemExit(f"README.md has {count} places for the table '{name}'")
    return text


def _rows(result: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{result}.json").read_text())["rows"]
    return rows


def main() -> None:
    """Write docs/grid.jpg, docs/digits.jpg, docs/speed.png and README.md."""
    with tempfile.TemporaryDirectory() as folder:
        if camkit(["demo", "--out", folder]):
            raise SystemExit(1)
        Image.open(f"{folder}/grid.png").save(ROOT / "docs" / "grid.jpg", quality=85)
    bars(load()["speed"]["rows"], CHART)
    digits.draw(ROOT / "docs" / "digits.jpg")
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))


if __name__ == "__main__":
    main()
