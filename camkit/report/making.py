"""How a run was made and how far it is, for people."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timezone
from typing import Any

import camkit
from camkit.datasets.reading import Run

_REASONS = 3
"""Failures whose reason is said."""


def notices(run: Run, failed: Run) -> list[str]:
    """What a reader has to know before all figures."""
    said = []
    if len(run) < (run.asked or 0):
        said.append(
            f"This run is unfinished: {len(run):,} of {run.asked:,} images are done, and this report is of these. The "
            "camkit run command that made it goes on."
        )
    if len(failed):
        counted = Counter(failed.table["error"].to_pylist())
        why = "; ".join(f"{text} ({count:,})" if count > 1 else text for text, count in counted.most_common(_REASONS))
        more = f"; and {len(counted) - _REASONS:,} other reasons" if len(counted) > _REASONS else ""
        said.append(f"{count_of(len(failed), 'image')} failed and count nowhere below: {why}{more}")
    return said


def provenance(run: Run) -> list[tuple[str, str]]:
    """How a run was made, as names and values."""
    found, made = run.manifest.fingerprint, run.manifest.about
    origin = made.get("checkpoint") or {}
    facts: list[tuple[str, Any]] = [
        ("Run", run.path),
        ("Data", found.get("data")),
        ("Model", found.get("config")),
        ("Checkpoint", origin.get("source")),
        ("SHA-256", origin.get("sha256")),
        ("Weights", found.get("checkpoint")),
    ]
    for method, layers in run.manifest.layers.items():
        options = ", ".join(f"{name}={value}" for name, value in (found.get("methods", {}).get(method) or {}).items())
        grids = dict.fromkeys(
            "of each image's size" if each.is_ragged else " x ".join(map(str, each.shape[1:]))
            for each in run.manifest.columns
            if each.method == method
        )
        where = f" at {', '.join(layers)}" if layers else ""
        facts.append(("Method", f"{method}{f' ({options})' if options else ''}{where}, grid {', '.join(grids)}"))
    facts += [
        ("Explained classes", found.get("target")),
        ("Smoothing", ", ".join(found.get("smoothing") or ()) or "none"),
        ("Precision", f"{found.get('precision')}, maps as {found.get('map dtype')}"),
        ("Preprocessing", made.get("preprocessing")),
        ("Device", made.get("device")),
        ("Started", made.get("started")),
        ("Versions", ", ".join(f"{name} {number}" for name, number in (made.get("versions") or {}).items())),
        ("Report", f"made {datetime.now(timezone.utc).isoformat(timespec='seconds')} by camkit {camkit.__version__}"),
    ]
    facts += [("Note", note) for note in made.get("notes", ())]
    return [(name, text(value)) for name, value in facts if value not in (None, "")]


def text(value: Any) -> str:
    """A value in one line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def count_of(count: int, noun: str) -> str:
    """A number and its noun: ``1 image``, ``1,200 images``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
