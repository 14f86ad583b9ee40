"""Explanation: maps, and how they were made."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from camkit.errors import CamkitWarning, EmptyMapWarning, LayerWarning, OutputWarning, UsageError
from camkit.methods import METHODS
from camkit.typing import Chosen, Scores, TargetMaps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from camkit.visualize.overlay import Style
    from camkit.visualize.picture import Picture


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Maps, and how they were made.

    Attributes:
        maps: (B, T, H, W) float32 in [0, 1], T targets per image; (B, T, D, H, W) for volumes, (B, T, L) for signals.
        raw: layer to signed, unnormalised maps (B, T, *spatial) at the layer's resolution.
        logits: (B, K), the model's output for the images as given; (B, 0) where it returns no tensor.
        scores: (B, T), the scores that were explained.
        targets: class indices (B, T), or the rows as given where a score function is among them.
        method: the method's name.
        options: of the method, by name.
        layers: the target layers' names; of one with several feature tensors the name of each, ``name[0]``, ...
        layer_reasons: default layer to the reason why it was chosen.
        smoothing: the wrappers' names, innermost first.
        num_extra_tokens: as it was given.
        versions: package to version.
        output: which part of the model's output was explained; empty where there is only one.
        other_outputs: parts that could have been meant in its place.
        other_calls: target layer that runs several times in a forward to the names of the calls that could have been
            meant in place of the one shown.
        unsure: target layers of which it can't be told whether their positions are places of the image.
        empty: (image, target) to a line that says why that map is zero everywhere.
        pixels: (B, T, C, H, W), signed, what each channel of the input contributes; None but for guided methods, whose
            maps show the largest magnitude over channels.

    A method that finds concepts has a map for each of those: T counts concepts, ``targets`` are the classes that the
    network sees in them, and ``scores`` the classes' scores where a concept is everywhere.
    """

    maps: TargetMaps
    raw: dict[str, TargetMaps]
    logits: Tensor
    scores: Scores
    targets: Chosen
    method: str
    options: Mapping[str, Any]
    layers: tuple[str, ...]
    layer_reasons: Mapping[str, str]
    smoothing: tuple[str, ...]
    num_extra_tokens: int | None
    versions: dict[str, str]
    output: str
    other_outputs: tuple[str, ...]
    other_calls: Mapping[str, tuple[str, ...]]
    unsure: tuple[str, ...]
    empty: dict[tuple[int, int], str]
    pixels: Tensor | None = None

    @property
    def finds_concepts(self) -> bool:
        """Whether the maps are of concepts that the method found, and not of the targets given."""
        return METHODS[self.method].need.finds_targets

    @property
    def depends_on_targets(self) -> bool:
        """Whether the maps differ from target to target."""
        return METHODS[self.method].need.depends_on_targets

    def replace(self, **changes: Any) -> Explanation:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    def warn(self, stacklevel: int = 1) -> None:
        """Warn of empty maps, and of a part of the output or a layer's call that was taken among several."""
        for kind, line in self.doubts():
            warnings.warn(line, kind, stacklevel=stacklevel + 1)
        for line in self.empty.values():
            warnings.warn(line, EmptyMapWarning, stacklevel=stacklevel + 1)

    def doubts(self) -> Iterator[tuple[type[CamkitWarning], str]]:
        """A part of the output or a layer's call that was taken among several, and layers that are unsure, as lines."""
        if self.other_outputs:
            line = (
                f"the model returns several tensors of scores: explaining {self.output!r}; take another with "
                f"output=: {', '.join(map(repr, self.other_outputs))}"
            )
            yield OutputWarning, line
        for name, others in self.other_calls.items():
            line = (
                f"layer {name!r} runs several times in a forward, on different inputs: the map is of the last call "
                f"that sees the images as they are; name another one with {', '.join(map(repr, others))}"
            )
            yield LayerWarning, line
        if self.unsure:
            line = (
                f"whether the positions of {', '.join(map(repr, self.unsure))} are places of the image can't be told: "
                "changing a part of the image changes them all alike; compare with another layer"
            )
            yield LayerWarning, line

    def overlay(
        self,
        image: Picture | Image,
        *,
        image_index: int = 0,
        target_index: int = 0,
        colormap: str = "jet",
        alpha: float = 0.5,
        channel_order: str = "RGB",
    ) -> Picture:
        """Lay one map over the image that it explains.

        Args:
            image: (H, W, 3) uint8 or a PIL image, of the size that the network saw.
            image_index: which image of the batch.
            target_index: which of its targets.
            colormap: one of OpenCV's, by name.
            alpha: the heat's share, 0 to 1.
            channel_order: of an array given, and of the picture returned.

        Returns:
            (H, W, 3) uint8.

        Raises:
            UsageError: no such image or target, or an image of another size than the map.

        Example:
            >>> picture = camkit.GradCAM(model, ["features"]).explain(images, 3).overlay(photo)
            >>> picture.shape, picture.dtype
            ((32, 32, 3), dtype('uint8'))
        """
        from camkit.visualize.overlay import overlay

        heat = self._maps_of(image_index)
        if not -len(heat) <= target_index < len(heat):
            raise UsageError(f"target_index {target_index} is outside 0..{len(heat) - 1}")
        return overlay(image, heat[target_index], colormap=colormap, alpha=alpha, channel_order=channel_order)

    def pictures(
        self,
        image: Picture | Image,
        *,
        image_index: int = 0,
        style: Style | None = None,
        maps: Sequence[NDArray[np.float32]] | Tensor | None = None,
        seen: NDArray[np.bool_] | None = None,
    ) -> list[Picture]:
        """Draw all maps of one image, RGB: one picture per target, a single one of concepts.

        Guided methods, whose maps go from pixel to pixel, are drawn white on black, without the image.

        Args:
            image: (H, W, 3) uint8 or a PIL image.
            image_index: which image of the batch.
            style: colours and share of the heat.
            maps: the image's maps (T, H, W), fitted to another size of ``image``.
            seen: (H, W), which part of ``image`` the network saw; None for all.
        """
        from camkit.visualize.overlay import draw_maps

        return draw_maps(
            image,
            self._maps_of(image_index) if maps is None else maps,
            style=style,
            seen=seen,
            is_saliency=self.pixels is not None,
            are_concepts=self.finds_concepts,
        )

    def save(self, path: str | Path, image: Picture | Image | None = None, **how: Any) -> Path:
        """Write the explanation, whole or not at all.

        Args:
            path: ends in ``.npz`` for the signed maps and their provenance (:func:`camkit.load_raw` reads it), else in
                an image's extension for :meth:`overlay`.
            image: what the picture shows below the map.
            **how: see :meth:`overlay`.

        Returns:
            The path.

        Raises:
            UsageError: another extension, or no image for a picture.
            CamkitError: the file can't be written.
        """
        from camkit.visualize.save import save_picture, save_raw

        if Path(path).suffix.lower() == ".npz":
            arrays = dict(self.raw) if self.pixels is None else {**self.raw, "pixels": self.pixels}
            return save_raw(path, {name: each.cpu().numpy() for name, each in arrays.items()}, self.provenance())
        if image is None:
            raise UsageError(f"save({str(path)!r}, image) needs the image that the map lies over; end in .npz for maps")
        order = how.get("channel_order", "RGB")
        return save_picture(path, self.overlay(image, **how), channel_order=order)

    def provenance(self) -> dict[str, Any]:
        """How the maps were made, as JSON can hold it."""
        rows = self.targets.tolist() if isinstance(self.targets, Tensor) else self.targets
        targets = [[target if isinstance(target, int) else str(target) for target in row] for row in rows]
        return {
            "method": self.method,
            "options": dict(self.options),
            "layers": list(self.layers),
            "layer_reasons": dict(self.layer_reasons),
            "smoothing": list(self.smoothing),
            "num_extra_tokens": self.num_extra_tokens,
            "output": self.output,
            "targets": targets,
            "scores": self.scores.tolist(),
            "input_size": list(self.maps.shape[2:]),
            "device": str(self.maps.device),
            "versions": dict(self.versions),
        }

    def __repr__(self) -> str:
        """The method, its layers, the shape of the maps, and the targets if they are few."""
        where = f" at {', '.join(self.layers)}" if self.layers else ""
        smoothing = "".join(f", {name}" for name in self.smoothing)
        images, targets = self.maps.shape[:2]
        few = isinstance(self.targets, Tensor) and self.targets.numel() <= 8
        said = f" {self.targets.tolist()}" if few and isinstance(self.targets, Tensor) else ""
        empty = f", {len(self.empty)} empty" if self.empty else ""
        return (
            f"Explanation({self.method}{where}{smoothing}: {images} x {targets} maps "
            f"{tuple(self.maps.shape[2:])}, targets{said or f' {targets} per image'}{empty})"
        )

    def _maps_of(self, image_index: int) -> Tensor:
        if not -len(self.maps) <= image_index < len(self.maps):
            raise UsageError(f"image_index {image_index} is outside 0..{len(self.maps) - 1}")
        if self.maps.ndim == 3:
            raise UsageError("maps of signals have no overlay: camkit.curve(signal, explanation.maps[b, t]) draws one")
        if self.maps.ndim != 4:
            raise UsageError("maps of volumes have no picture: draw a slice, explanation.maps[b, t, d], with overlay()")
        return self.maps[image_index]
