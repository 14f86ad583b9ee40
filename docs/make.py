"""Make README.md's picture and tables anew, from the demo, the registry and the last benchmark."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.speed.charts import bars
from benchmarks.speed.files import CHART, load
from benchmarks.speed.table import readme as speed_table
from camkit.cli import main as camkit
from camkit.commands.methods import markdown as method_table

ROOT = Path(__file__).resolve().parent.parent


def filled(text: str) -> str:
    """README's text with the tables between its markers as they are now."""
    for name, table in (("methods", method_table()), ("speed", speed_table(load()))):
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        # The tables hold no backslashes, so they can be a replacement pattern.
        text, count = marked.subn(rf"\g<1>{table}\n\g<2>", text)
        if count != 1:
            raise SystemExit(f"README.md has {count} places for the table '{name}'")
    return text


def main() -> None:
    """Write docs/grid.jpg, docs/speed.png and README.md."""
    with tempfile.TemporaryDirectory() as folder:
        if camkit(["demo", "--out", folder]):
            raise SystemExit(1)
        Image.open(f"{folder}/grid.png").save(ROOT / "docs" / "grid.jpg", quality=85)
    bars(load()["speed"]["rows"], CHART)
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))


if __name__ == "__main__":
    main()
