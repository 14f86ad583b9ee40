"""The page that ``camkit report`` fills and ``camkit explore`` serves: HTML, CSS and JavaScript, without a build step.

``page.html`` is the frame, ``style.css`` the look and ``theme.js`` the choice of light or dark; each kind of page has a
template that extends the frame and scripts of its own. The report's import nothing, so that they work in a file opened
from disk; the explorer's come from its server and import each other.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from camkit.errors import printable

FOLDER = Path(__file__).parent
"""Where the page's files are."""


@cache
def read(name: str) -> str:
    """The text of one of the page's files, such as ``style.css``."""
    return (FOLDER / name).read_text(encoding="utf-8")  # which makes line breaks what browsers hash


def fill(name: str, **values: Any) -> str:
    """Fill a template, such as ``report.html``; every value is escaped where it stands.

    Args:
        name: The template, in :data:`FOLDER`.
        **values: What it asks for. A name that it asks for and isn't given is an error.
    """
    made: str = _environment().get_template(name).render(**values)
    return made


def fill_file(name: str, scripts: Sequence[str], **values: Any) -> str:
    """Fill a template as one file that opens from disk: style and scripts stand in it, nothing else may load or run.

    Args:
        name: The template, which takes ``policy``, ``style`` and ``scripts``.
        scripts: Names of script files. They come from the package: no value gets into one.
        **values: See :func:`fill`.
    """
    from markupsafe import Markup

    style, codes = read("style.css"), [read(each) for each in scripts]
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {source_hash(style)}; script-src {' '.join(map(source_hash, codes))}"
    )
    return fill(name, policy=policy, style=Markup(style), scripts=[Markup(code) for code in codes], **values)  # noqa: S704


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
        finalize=_on_one_line,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _on_one_line(value: Any) -> Any:
    """Values as they are shown: without line breaks, and without characters that turn text around or have no bytes."""
    return printable(value) if type(value) is str else value
