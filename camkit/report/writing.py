"""Write a run's report: measure, find what stands out, lay it out in one file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camkit import web
from camkit.datasets.drawing import check_root
from camkit.datasets.reading import Run, load
from camkit.datasets.schema import MapColumn
from camkit.errors import CamkitError, UsageError
from camkit.report import content, findings, making
from camkit.report.clusters import FEWEST, Cluster, find_clusters
from camkit.report.evaluation import read_metrics
from camkit.report.found import Found, aspect_of
from camkit.report.maps import MapNumbers, measure_maps
from camkit.report.numbers import ClassNumbers, by_class, calibration, confusions
from camkit.report.pictures import Artist
from camkit.report.rows import Rows, read_rows
from camkit.visualize.save import check_suffix, check_writable, write_together

SUFFIXES = (".html", ".htm")
MAX_MB = 20.0
CLUSTERED = 100
"""Classes whose maps are clustered, the largest."""
_TRIES = 6


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        path: The file.
        bytes: Its size.
        images: How many images it is of.
        notices: What its reader is told first: an unfinished run, failures, images that are missing.
    """

    path: Path
    bytes: int
    images: int
    notices: tuple[str, ...]


def write_report(
    run: Run | str | Path,
    out: str | Path = "report.html",
    method: str | None = None,
    *,
    images: str | Path | None = None,
    max_mb: float = MAX_MB,
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Write a run's report: one HTML file that opens from disk and asks for nothing else.

    Args:
        run: What :func:`camkit.datasets.load` returns, or the path that it takes.
        out: The file, ending in .html.
        method: Whose maps are shown; None for the run's first one that explains classes.
        images: Where the run's images are now, if they have moved: the folder that they are below.
        max_mb: The most megabytes (10^6 bytes) that the file may take. Pictures are left out to keep to it, and the
            page says how many it shows.
        progress: Called with steps done and in all.

    Returns:
        What was written.

    Raises:
        UsageError: No such run, method or folder; another extension; a limit that isn't above zero.
        CamkitError: The run holds no explained image, is damaged or of a newer camkit; the limit is too small; the file
            can't be written.

    Example:
        >>> camkit.report.write_report("run", "report.html").images  # doctest: +SKIP
        1200
    """
    if not 0 < max_mb < math.inf:
        raise UsageError(f"max_mb is a number of megabytes above zero, got {max_mb}")
    path = check_suffix(out, SUFFIXES)
    root = check_root(None if images is None else Path(images))
    run = run if isinstance(run, Run) else load(run)
    column = choose_column(run, method)
    step = _Steps(progress)
    rows = _rows(run, column)
    check_writable(path)
    step()
    maps = measure_maps(rows, column.method)
    step()
    found = _find(rows, column, maps)
    step()
    artist = Artist(rows.run, column, root)
    artist.prepare(content.wanted_rows(found))
    text, said = _fit(run, found, artist, int(max_mb * 1e6))
    step()
    data = text.encode()
    write_together({path: lambda file: file.write(data)})
    return Report(path, len(data), len(rows), tuple(said))


def choose_column(run: Run, method: str | None) -> MapColumn:
    """The first map column of a method; of the first method that explains classes where none is named."""
    if method is None:
        return next((each for each in run.manifest.columns if not each.concepts), run.manifest.columns[0])
    name = run.column_method(method)
    return next(each for each in run.manifest.columns if each.method == name)


def _rows(run: Run, column: MapColumn) -> Rows:
    rows = read_rows(run, column)
    if not len(rows):
        of = f" of {run.asked}" if run.asked else ""
        why = f"; the first failed: {run.row(0)['error']}" if len(run) else ""
        raise CamkitError(f"nothing to report: {run.path} holds no image that was explained ({len(run)}{of} done{why})")
    return rows


def _find(rows: Rows, column: MapColumn, maps: MapNumbers) -> Found:
    classes = by_class(rows)
    known = rows.labelled & ~np.isnan(rows.score)
    calibrated = calibration(rows.score[known], rows.right[known]) if known.any() else None
    pairs = confusions(rows)
    clusters = _clusters(maps, classes)
    return Found(
        rows=rows,
        method=column.method,
        maps=maps,
        classes=classes,
        confusions=pairs,
        calibration=calibrated,
        clusters=clusters,
        findings=findings.find(maps, classes, clusters, pairs, calibrated),
        aspect=aspect_of(rows),
    )


def _clusters(maps: MapNumbers, classes: list[ClassNumbers]) -> dict[int, list[Cluster]]:
    """Clusters of the largest classes: those that stand out at the border first, then those with most errors."""
    largest = sorted(classes, key=lambda each: -len(each.rows))[:CLUSTERED]
    found = {each.category: find_clusters(maps, each.rows) for each in largest if len(each.rows) >= FEWEST}
    outstanding = {each.category: each.weight for each in findings.at_border(maps, classes)}
    errors = {each.category: len(each.rows) - (each.right or 0) for each in largest}
    order = sorted((key for key in found if found[key]), key=lambda key: (-outstanding.get(key, 0.0), -errors[key]))
    return {key: found[key] for key in order}


def _fit(run: Run, found: Found, artist: Artist, limit: int) -> tuple[str, list[str]]:
    """The page, with as many pictures as keep it below a limit."""
    metrics, problem = read_metrics(run)
    room, smallest = limit, 0
    for tried in range(_TRIES):
        sections = content.lay_out(found, artist, room)
        said = [*making.notices(run, run.filter(errors=True)), *_missing(artist), *([problem] if problem else [])]
        text = _page(run, sections, said, metrics)
        smallest = len(text.encode())
        if smallest <= limit:
            return text, said
        if not room:
            break
        room = max(0, room - (smallest - limit) - limit // 50) if tried + 2 < _TRIES else 0
    raise CamkitError(f"a report of {run.path} takes {smallest / 1e6:.2g} MB without any picture: give --max-mb more")


def _missing(artist: Artist) -> list[str]:
    """What to say of images that can't be shown."""
    if not artist.problems:
        return []
    first = next(iter(artist.problems.values()))
    where = "" if artist.images else " If images have moved, camkit report --images FOLDER finds them."
    return [f"{making.count_of(len(artist.problems), 'image')} can't be shown, only maps: {first}.{where}"]


def _page(run: Run, sections: dict[str, Any], said: list[str], metrics: Any) -> str:
    return web.fill_file(
        "report.html",
        ["theme.js", "report.js"],
        heading=f"Report of {Path(run.path).name or run.path}",
        run=run,
        others=[each for each in run.methods if each != sections["method"]],
        notices=said,
        metrics=metrics,
        provenance=making.provenance(run),
        **sections,
    )


class _Steps:
    """Tells how far a report is."""

    count = 4

    def __init__(self, progress: Callable[[int, int], object] | None) -> None:
        self._progress = progress
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self.count)
