"""Shows what a run has kept of its images, without a model."""

from __future__ import annotations

import io
import shlex
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camkit.datasets.drawing import cut, draw, find_image, read_original
from camkit.datasets.reading import Run
from camkit.datasets.schema import BOX, MapColumn
from camkit.datasets.sources import as_text, from_text
from camkit.errors import CamkitError, UsageError, printable
from camkit.explore.album import Album, Choice, Chosen, Entry, UnknownError
from camkit.explore.kinds import View, png, told_classes, told_maps
from camkit.explore.pictures import PictureError
from camkit.explore.setting import words_of_style
from camkit.methods import METHODS
from camkit.methods.maps import resize
from camkit.models.bands import show
from camkit.typing import Progress
from camkit.visualize.overlay import Style, draw_maps
from camkit.visualize.picture import Picture
from camkit.visualize.save import raw_writer

GREY = 128
"""Behind maps whose image isn't there."""
SAMPLED = 20
"""Images that are looked for when a run is opened."""


class Rows:
    """A run's rows as a shelf of pictures, see :class:`camkit.explore.album.Shelf`.

    Args:
        run: The run.
        images: Where its images are now; None for where they were.
    """

    def __init__(self, run: Run, images: Path | None = None) -> None:
        self.run = run
        self._images = images
        self._last: tuple[tuple[str, str, bool], Run] | None = None

    def list(self, choice: Choice) -> Chosen:
        """See :class:`camkit.explore.album.Shelf`."""
        asked = choice.where, choice.sort, choice.descending
        last = self._last  # others may ask meanwhile
        if last is None or last[0] != asked:
            rows = self.run.filter(choice.where or None)
            if choice.sort:
                rows = rows.sort(choice.sort, descending=choice.descending)
            self._last = last = asked, rows
        rows = last[1]
        part = rows.take(slice(choice.offset, choice.offset + choice.limit)).table.to_pylist()
        return Chosen([Entry(each["id"], printable(each["id"]), self.caption(each)) for each in part], len(rows))

    def path(self, name: str) -> Path:
        """See :class:`camkit.explore.album.Shelf`. Only files that the run explained, or those below ``--images``."""
        about = self.about(name)
        if self._images is not None:
            return find_image(self._images, from_text(about["id"]), from_text(about["path"]))
        path = Path(from_text(about["path"]))
        if not path.is_file():
            raise PictureError(
                f"{printable(name)} isn't where it was any more: --images gives the folder it is in", 404
            )
        return path

    def lost(self) -> str:
        """A line where the run's images can't be found; empty where the first ones can."""
        first = self.run.filter(errors=False).take(slice(0, SAMPLED)).ids
        problems = []
        for name in first:
            try:
                self.path(name)
            except CamkitError as error:
                problems.append(str(error))
        if not problems or len(problems) < len(first):
            return ""
        return f"the images of {self.run.path} aren't there, and maps are shown without them: {problems[0]}"

    def about(self, name: str) -> dict[str, Any]:
        """A row's values.

        Raises:
            UnknownError: There is no such row.
        """
        try:
            return self.run.row(name)
        except UsageError as error:
            raise UnknownError("there is no such picture") from error

    def caption(self, about: dict[str, Any]) -> str:
        """A line about a row: its classes, or why it has none."""
        if about["error"] is not None:
            return printable(about["error"])
        predicted = f"{self.run.named(about['predicted'])} {about['score']:.2f}" if about["score"] is not None else ""
        if about["label"] is None or about["label"] == about["predicted"]:
            return predicted
        return f"{self.run.named(about['label'])}, taken for {predicted}"


class Kept:
    """A run that shows its maps; see :class:`camkit.explore.kinds.Source`.

    Args:
        rows: Its rows.
        album: The pictures.
        bands: Of images with many, those that are drawn, counted from 1.
    """

    def __init__(self, rows: Rows, album: Album, bands: tuple[int, ...] = ()) -> None:
        self._rows = rows
        self._run = rows.run
        self._album = album
        self._bands = bands

    def about(self) -> dict[str, Any]:
        """See :class:`camkit.explore.kinds.Source`."""
        run = self._run
        return {
            "title": f"run {Path(run.path).name or run.path}",
            "live": False,
            "source": run.path,
            "checkpoint": None,
            "device": "",
            "methods": [
                {
                    "name": name,
                    "family": METHODS[name].family,
                    "cost": "",
                    "slow": False,
                    "takes_layers": False,
                    "takes_eigen": False,
                    "asks_for_class": METHODS[name].need.depends_on_targets,
                    "concepts": METHODS[name].need.finds_targets,
                }
                for name in run.methods
            ],
        }

    def look(self, image: str, progress: Progress) -> dict[str, Any]:
        """See :class:`camkit.explore.kinds.Source`; the classes are those that the run explained."""
        about = self._rows.about(self._album.row(image))
        if about["error"] is not None:
            raise CamkitError(f"the run has no maps of it: {about['error']}")
        picture, note = self._picture(about)
        categories, scores = about["classes"] or [], about["scores"] or []
        return {
            "picture": b64encode(png(picture)).decode(),
            "height": picture.shape[0],
            "width": picture.shape[1],
            "note": note,
            "classes": told_classes(categories, [self._name(each) for each in categories], scores),
            "count": len(categories),
        }

    def layers(self, image: str, progress: Progress, *, whole: bool) -> dict[str, Any]:
        """See :class:`camkit.explore.kinds.Source`."""
        return {"layers": [], "default": None, "problem": ""}

    def map(self, view: View, progress: Progress, *, signed: bool) -> dict[str, Any]:
        """See :class:`camkit.explore.kinds.Source`."""
        started = time.perf_counter()
        about, at, column = self._find(view)
        maps = self._run.finished(about["id"], column.method)
        chosen = maps if column.concepts else maps[[at]]
        category = None if column.concepts else (about["classes"] or [None])[at]
        layers = self._run.manifest.layers.get(column.method, [])
        shown = None
        if signed:
            parts = [self._run.map(about["id"], column.method, each.layer) for each in self._columns(column.method)]
            parts = parts if column.concepts else [each[[at]] for each in parts]
            if len(parts) > 1:
                parts = [each / each.abs().amax((1, 2), keepdim=True).clamp_min(1e-30) for each in parts]
            shown = torch.stack([resize(each, maps.shape[1:]) for each in parts]).mean(0).numpy()
        return told_maps(
            chosen.numpy(),
            is_saliency=column.saliency,
            are_concepts=column.concepts,
            signed=shown,
            method=column.method,
            classes=[]
            if category is None
            else told_classes([category], [self._name(category)], about["scores"][at : at + 1]),
            scores=[] if category is None else about["logits"][at : at + 1],
            asks_for_class=METHODS[column.method].need.depends_on_targets,
            layers=list(layers),
            reasons={},
            grid=list(column.shape[1:]) if not column.is_ragged and not column.saliency else [],
            notes=[],
            seconds=time.perf_counter() - started,
        )

    def place(self, view: View, at: tuple[float, float], progress: Progress) -> dict[str, Any]:
        """See :class:`camkit.explore.kinds.Source`."""
        raise UsageError("which classes a place speaks for takes the model: start with CONFIG and CHECKPOINT, too")

    def picture(self, view: View, style: Style, progress: Progress, *, original_size: bool) -> bytes:
        """See :class:`camkit.explore.kinds.Source`."""
        about, at, column = self._find(view)
        grey, note = self._picture(about)
        if not note:
            path = str(self._rows.path(about["id"]))
            drawn = draw(
                self._run,
                about["id"],
                column.method,
                at,
                original_size=original_size,
                style=style,
                bands=self._bands,
                path=path,
            )
            return png(drawn)
        maps = self._run.finished(about["id"], column.method).numpy()
        chosen = maps if column.concepts else maps[[at]]
        return png(draw_maps(grey, chosen, style=style, is_saliency=column.saliency, are_concepts=column.concepts)[0])

    def raw(self, view: View, progress: Progress) -> bytes:
        """See :class:`camkit.explore.kinds.Source`."""
        about, _, column = self._find(view)
        maps = {
            f"{each.method}/{each.layer}": self._run.map(about["id"], each.method, each.layer).numpy()
            for each in self._columns(column.method)
        }
        told = {"run": self._run.path, **about, "fingerprint": self._run.manifest.fingerprint}
        made = io.BytesIO()
        raw_writer(maps, told)(made)
        return made.getvalue()

    def command(self, view: View, style: Style, *, original_size: bool) -> str:
        """See :class:`camkit.explore.kinds.Source`."""
        about, at, column = self._find(view)
        words = ["camkit", "draw", self._run.path, "--where", f"id == {about['id']!r}", "--method", column.method]
        words += ["--target-index", str(at)] if at else []
        words += ["--bands", *map(str, self._bands)] if self._bands else []
        return shlex.join([*words, *["--original-size"] * original_size, *words_of_style(style)])

    def _find(self, view: View) -> tuple[dict[str, Any], int, MapColumn]:
        """The row of a view, which of its classes it is, and a map column of its method."""
        about = self._rows.about(self._album.row(view.image))
        column = self._columns(self._run.column_method(view.method))[0]
        if about["error"] is not None:
            raise CamkitError(f"the run has no maps of it: {about['error']}")
        explained = about["classes"] or []
        if view.category is None or column.concepts or view.category not in explained:
            if view.category is not None and not column.concepts and explained:
                raise UsageError(f"the run didn't explain {self._run.named(view.category)} of this image")
            return about, 0, column
        return about, explained.index(view.category), column

    def _columns(self, method: str) -> list[MapColumn]:
        return [each for each in self._run.manifest.columns if each.method == method]

    def _picture(self, about: dict[str, Any]) -> tuple[Picture, str]:
        """What the network saw of a row's image, and why that is grey; empty where it isn't."""
        size = about["input_height"], about["input_width"]
        box = [about[name] for name in BOX]
        try:
            if None in box:
                raise CamkitError("where the network looked isn't known: maps are shown alone")
            path = as_text(str(self._rows.path(about["id"])))
            values = cut(read_original(self._run, {**about, "path": path}, self._bands), box, size)
            return show(values, eight_bit=values.dtype == np.uint8), ""
        except CamkitError as error:
            return np.full((*size, 3), GREY, dtype=np.uint8), str(error)

    def _name(self, category: int) -> str:
        classes = self._run.classes
        known = classes is not None and 0 <= category < len(classes)
        return classes[category] if known and classes else f"category {category}"
