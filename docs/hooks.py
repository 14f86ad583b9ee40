"""MkDocs hooks: references in docstrings, such as ``:class:`camkit.CAM```, become links."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):<code>~?([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Link names of the API page; others stay code."""
    return ROLE.sub(_link, html)


def _link(found: re.Match[str]) -> str:
    name = found[1] if found[1].startswith("camkit.") else f"camkit.{found[1]}"
    return f'<autoref identifier="{name}" optional><code>{found[1]}</code></autoref>'
