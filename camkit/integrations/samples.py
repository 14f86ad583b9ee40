"""The images that are explained again and again: read once, with the pictures that they show and their labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camkit.errors import CamkitError, UsageError, reason
from camkit.models.bands import as_uint8, show
from camkit.models.prepared import check_file
from camkit.visualize.picture import Picture, is_pil

IMAGE_KEYS = ("pixel_values", "inputs", "image", "images", "img", "x")
"""Where items of data sets that are dicts hold the image; the first that is there."""
LABEL_KEYS = ("labels", "label", "gt_label", "target", "targets", "y")
"""Where they hold the label."""

Transform = Callable[[Any], Any]
"""From a PIL image, RGB, to the network's input (C, H, W), or to a dict or batch of one that holds it."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An image that is explained.

    Attributes:
        inputs: (C, H, W), normalised as the network takes it, on the CPU.
        picture: (H, W, 3) uint8, RGB: what it shows.
        name: of its pictures and files.
        label: its class index; None where it is unknown.
    """

    inputs: Tensor
    picture: Picture
    name: str
    label: int | None = None


class Reader:
    """Makes samples of image files and of data sets' items; integrations override what their framework does its way.

    Args:
        transform: what image files and PIL images in data sets go through.
        mean: per channel, what was subtracted from values in [0, 1] when the images were normalised.
        std: per channel, what they were divided by. Without both, pictures are drawn between percentiles of the values.
    """

    def __init__(
        self,
        transform: Transform | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if (mean is None) != (std is None):
            raise UsageError("mean and std go together: give both, or neither")
        self.transform = transform
        self.mean = mean
        self.std = std

    def read_file(self, path: str) -> Sample:
        """The sample of an image file.

        Raises:
            CamkitError: it is missing or unreadable.
            UsageError: there is no transform, or it makes no image of it.
        """
        from PIL import Image, UnidentifiedImageError

        check_file(path)
        if self.transform is None:
            raise UsageError(f"give transform=, from a PIL image to the network's input, to read {path} with")
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise CamkitError(
                f"can't read {path} as an image ({reason(error)}); give a picture such as a PNG"
            ) from error
        return self.of_inputs(self._transformed(rgb), Path(path).stem)

    def read_item(self, dataset: Any, index: int) -> Sample:
        """The sample of a data set's item: (image, label, ...), a dict with both, or an image alone.

        Raises:
            UsageError: there is no image in it.
        """
        item = dataset[index]
        image, label = _parts(item)
        if is_pil(image):
            if self.transform is None:
                raise UsageError("the data set holds PIL images: give transform=, from one to the network's input")
            image = self._transformed(image.convert("RGB"))
        if not isinstance(image, Tensor):
            raise UsageError(
                f"item {index} of the {type(dataset).__name__} holds no image tensor (C, H, W) but a "
                f"{type(image).__name__}: give tensors, paths, or items (image, label)"
            )
        return replace(self.of_inputs(image, f"image{index}"), label=as_label(label))

    def labels(self, dataset: Any) -> Iterator[Any]:
        """The label of every item, read from the items only where the data set has no list of them."""
        for name in ("targets", "labels"):
            found = getattr(dataset, name, None)
            if isinstance(found, Sequence | Tensor | np.ndarray) and len(found) == len(dataset):
                return iter(found)
        if isinstance(dataset, torch.utils.data.Subset):
            inner = list(self.labels(dataset.dataset))
            return (inner[index] for index in dataset.indices)
        if isinstance(dataset, torch.utils.data.TensorDataset) and len(dataset.tensors) > 1:
            return iter(dataset.tensors[1])
        return (_parts(dataset[index])[1] for index in range(len(dataset)))

    def of_inputs(self, inputs: Tensor, name: str) -> Sample:
        """The sample of one image as the network takes it.

        Raises:
            UsageError: not floats (C, H, W).
        """
        inputs = inputs[0] if inputs.ndim == 4 and len(inputs) == 1 else inputs
        if inputs.ndim != 3 or not inputs.is_floating_point():
            raise UsageError(
                f"{name} is {inputs.dtype} {tuple(inputs.shape)}: images are normalised floats (C, H, W), as the "
                "network takes them"
            )
        inputs = inputs.detach().cpu()
        return Sample(inputs, self._picture(inputs), name)

    def _transformed(self, image: Any) -> Tensor:
        made: Any = self.transform(image) if self.transform else image
        made = _parts(made)[0]
        made = made[0] if isinstance(made, list | tuple) and len(made) == 1 else made
        made = torch.from_numpy(made) if isinstance(made, np.ndarray) else made
        if not isinstance(made, Tensor):
            raise UsageError(f"transform makes a {type(made).__name__} of an image, not a tensor (C, H, W)")
        return made

    def _picture(self, inputs: Tensor) -> Picture:
        values = inputs.float().movedim(0, 2).numpy()
        if self.mean is None or self.std is None:
            return show(values, eight_bit=False)
        try:
            values = 255 * (values * np.asarray(self.std) + np.asarray(self.mean))
        except ValueError as error:
            raise UsageError(
                f"mean and std have {len(self.mean)} and {len(self.std)} values, the images {values.shape[2]} channels"
            ) from error
        return show(as_uint8(values))


def collect(
    images: Any,
    reader: Reader,
    *,
    num_images: int = 8,
    per_class: int | None = None,
    labels: Sequence[int] | None = None,
) -> list[Sample]:
    """The samples of what users give.

    Args:
        images: normalised images (N, C, H, W); paths; a data set, or a data loader, whose data set is taken; samples.
        reader: makes them.
        num_images: how many of a data set's images, from the first.
        per_class: in place of that, how many of each class, from the first.
        labels: of images that are no data set's, a class index each.

    Raises:
        CamkitError: a file that is missing or unreadable.
        UsageError: no images, or something else than images.
    """
    for name, count in (("num_images", num_images), ("per_class", per_class)):
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise UsageError(f"{name} is a number of images, at least 1; got {count!r}")
    found = list(_read(images, reader, num_images, per_class))
    if not found:
        raise UsageError("there are no images to explain: images= is empty")
    if labels is not None:
        if len(labels) != len(found):
            raise UsageError(f"{len(found)} images need as many labels, got {len(labels)}")
        found = [replace(each, label=as_label(label)) for each, label in zip(found, labels, strict=True)]
    return _named_apart(found)


def as_label(label: Any) -> int | None:
    """A class index, from whatever holds one; None for none, or where there are several."""
    values = np.asarray(label.cpu() if isinstance(label, Tensor) else label).reshape(-1)
    return int(values[0]) if len(values) == 1 and values.dtype.kind in "iub" else None


def _read(images: Any, reader: Reader, num_images: int, per_class: int | None) -> Iterator[Sample]:
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise UsageError(f"images are (N, C, H, W), got {tuple(images.shape)}; volumes and signals have no picture")
        yield from (reader.of_inputs(image, f"image{index}") for index, image in enumerate(images))
    elif isinstance(images, str | Path):
        yield reader.read_file(str(Path(images).expanduser()))
    elif isinstance(images, Sequence) and all(isinstance(each, str | Path) for each in images):
        yield from (reader.read_file(str(Path(each).expanduser())) for each in images)
    elif isinstance(images, Sequence) and all(isinstance(each, Sample) for each in images):
        yield from images
    else:
        dataset = getattr(images, "dataset", images)  # a data loader's
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise UsageError(
                f"images are tensors, paths or a data set with a length and items by index, got a "
                f"{type(dataset).__name__}"
            )
        yield from (reader.read_item(dataset, index) for index in _chosen(dataset, reader, num_images, per_class))


def _chosen(dataset: Any, reader: Reader, num_images: int, per_class: int | None) -> list[int]:
    """Which items of a data set."""
    if per_class is None:
        return list(range(min(num_images, len(dataset))))
    found: dict[int, list[int]] = {}
    for index, label in enumerate(reader.labels(dataset)):
        number = as_label(label)
        if number is None:
            raise UsageError(
                f"per_class={per_class} needs a class index per image, and item {index} of the data set has none"
            )
        if len(found.setdefault(number, [])) < per_class:
            found[number].append(index)
    return [index for number in sorted(found) for index in found[number]]


def _parts(item: Any) -> tuple[Any, Any]:
    """The image and the label, None for none, of a data set's item."""
    if isinstance(item, Mapping) or hasattr(item, "keys"):
        image = next((item[key] for key in IMAGE_KEYS if key in item), None)
        return image, next((item[key] for key in LABEL_KEYS if key in item), None)
    if isinstance(item, list | tuple) and len(item) > 1:
        return item[0], item[1]
    return (item[0] if isinstance(item, list | tuple) and item else item), None


def _named_apart(samples: Sequence[Sample]) -> list[Sample]:
    """Names that can be files' names, each once, whatever the case."""
    taken: set[str] = set()
    named = []
    for sample in samples:
        base = name = re.sub(r"[^\w.+-]+", "_", sample.name).strip("._") or "image"
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.lower())
        named.append(replace(sample, name=name))
    return named
