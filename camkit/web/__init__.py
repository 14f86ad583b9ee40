"""The page that ``camkit report`` fills and ``camkit explore`` serves: HTML, CSS and JavaScript, without a build step.

``page.html`` is the frame, ``style.css`` the look and ``theme.js`` the choice of light or dark; each kind of page has a
template that extends the frame and a script of its own. Scripts are modules that import nothing, so that they work in a
file opened from disk.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
"""Where the page's files are."""


@cache
def read(name: str) -> str:
    """The text of one of the page's files, such as ``style.css``."""
    return (FOLDER / name).read_text(encoding="utf-8")


def fill(name: str, **values: Any) -> str:
    """Fill a template, such as ``report.html``; every value is escaped where it stands.

    Args:
        name: The template, in :data:`FOLDER`.
        **values: What it asks for. A name that it asks for and isn't given is an error.
    """
    return _environment().get_template(name).render(**values)


def source_hash(text: str) -> str:
    """What a content security policy calls an inline style or script: ``'sha256-...'``."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
