"""Prepare images with the test pipelines of MMPretrain's configs, as its data sets do."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from camkit.errors import CamkitError, UsageError, reason
from camkit.models.environment import quiet
from camkit.models.loader import Loaded
from camkit.models.mmpretrain_config import find_dataset, find_pipeline
from camkit.models.mmpretrain_names import dataset_type
from camkit.models.mmpretrain_reader import brighter, red_goes_first, red_image, samples_of
from camkit.models.mmpretrain_run import Run, Step, StepError, read, run
from camkit.models.prepared import Prepared, check_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from camkit.models.loader import Loader


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A config's test pipeline and data preprocessor, built for the first image.

    An image goes in as a data set would hand it over: as ``{"img_path": PATH}``, which the pipeline's first steps read.
    A pipeline that takes images, as of data sets such as CIFAR, gets it from MMPretrain's own reader.
    """

    model: Any
    config: Any
    source: str
    _bgr: dict[str, tuple[bool, bool]] = field(default_factory=dict, repr=False)  # by the suffix of the file

    def __call__(self, path: str) -> Prepared:
        """Preprocess an image; see :meth:`camkit.models.classifier.Classifier.prepare`."""
        if "://" not in path:  # a URL is fetched by MMEngine's file backends
            check_file(path)
        done, bgr = self._run(path)
        loaded_bgr, shown_bgr = self._channel_order(done, path, bgr=bgr)

        def picture_of(image: NDArray[Any]) -> NDArray[Any]:
            try:
                return done.again(done.form.like(image))
            except StepError as error:
                raise CamkitError(str(error)) from error

        from mmengine.dataset import default_collate

        model: Any = self.model
        try:
            inputs = model.data_preprocessor(default_collate([done.packed]), False)["inputs"]
        except Exception as error:
            raise CamkitError(f"the config's data preprocessor fails on {path}: {reason(error)}") from error
        if not isinstance(inputs, torch.Tensor) or inputs.ndim != 4:
            raise CamkitError(f"the config's data preprocessor makes no batch of images (1, C, H, W) of {path}")
        return Prepared(inputs, done.picture, done.loaded, picture_of, seen_bgr=shown_bgr, whole_bgr=loaded_bgr)

    @property
    def reader(self) -> str:
        """``opencv`` where images are read as OpenCV reads colours, ``pipeline`` where only the pipeline itself can."""
        first = find_pipeline(self.config, self.source)[0]
        kind = first.get("type", "")
        name = kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")
        usual = {"color_type": "color", "imdecode_backend": "cv2", "to_float32": False}
        plain = all(first.get(key) in (None, value) for key, value in usual.items())
        return "opencv" if name == "LoadImageFromFile" and plain else "pipeline"

    def original(self, path: str) -> tuple[NDArray[Any], bool]:
        """The whole image as the pipeline reads it, (H, W) or (H, W, B), and whether three or four bands are BGR.

        Raises:
            CamkitError: It can't be read, or the pipeline fails on it.
        """
        if "://" not in path:
            check_file(path)
        done, bgr = self._run(path)
        return done.loaded, self._channel_order(done, path, bgr=bgr)[0]

    def loaders(self) -> Iterator[Loader]:
        """Loaders that may give what the pipeline does, see :func:`camkit.models.loader.choose_loader`."""
        yield PipelineLoader(self)

    def describe(self) -> str:
        """The test pipeline, the data preprocessor and its settings, as text."""
        preprocessor = getattr(self.model, "data_preprocessor", None)
        return f"{self.steps()} {preprocessor} {self.config.get('data_preprocessor')}"

    def steps(self) -> str:
        """The test pipeline, with which :meth:`describe` begins."""
        return str(find_pipeline(self.config, self.source))

    def items(self) -> list[tuple[str, int | None]]:
        """Path and label of every image of the config's test data set.

        Raises:
            UsageError: The config has no test data set, or it can't be read.
        """
        from mmengine.registry import DefaultScope
        from mmpretrain.registry import DATASETS

        config = find_dataset(self.config)
        if not config.get("type"):
            raise UsageError(f"the config {self.source} has no test data set (test_dataloader.dataset)")
        try:
            with quiet(), DefaultScope.overwrite_default_scope("mmpretrain"):
                dataset = DATASETS.build(config | {"pipeline": []})
                found = [dataset.get_data_info(index) for index in range(len(dataset))]
            return [(str(each["img_path"]), each.get("gt_label")) for each in found]
        except Exception as error:
            raise UsageError(f"can't read the test data set of {self.source}: {reason(error)}") from error

    def read_and_run(self, path: str) -> Run:
        """Run the pipeline on an image file, without the data preprocessor.

        Raises:
            CamkitError: It can't be read, or the pipeline fails on it.
        """
        if "://" not in path:  # a URL is fetched by MMEngine's file backends
            check_file(path)
        return self._run(path)[0]

    def _run(self, path: str) -> tuple[Run, bool | None]:
        """Run the pipeline on the first form of the image that it takes; tell its channel order where that is known.

        Raises:
            CamkitError: It takes none; the message says what is wrong with the form that a data set hands over.
        """
        errors: list[StepError] = []
        for sample in samples_of(path):
            try:
                return run(self._steps, sample, path), None
            except StepError as error:
                errors.append(error)
        said = errors[0]
        if said.while_reading:
            try:
                sample, bgr = self._provide(path)
                return run(self._steps, sample, path), bgr
            except StepError as error:
                said = error if said.wants_image else said
        raise CamkitError(str(said)) from said.__cause__

    def _provide(self, path: str) -> tuple[dict[str, Any], bool]:
        """What a data set of arrays hands over, read by MMPretrain's own reader, and whether it is BGR.

        CIFAR's arrays are RGB, MNIST's grey, and MMPretrain's inferencer gives BGR to other pipelines. Somebody's own
        data set is taken to provide RGB, unless the data preprocessor exchanges channels.
        """
        from mmpretrain.datasets import CIFAR10, MNIST, LoadImageFromFile

        kind = dataset_type(self.config)
        kind = kind if isinstance(kind, type) else object
        preprocessor: Any = getattr(self.model, "data_preprocessor", None)
        mean = getattr(preprocessor, "mean", None)
        grey = issubclass(kind, MNIST) or (isinstance(mean, torch.Tensor) and mean.numel() == 1)
        own = kind is not object and not kind.__module__.startswith("mmpretrain.")
        rgb = issubclass(kind, CIFAR10) or (own and not getattr(preprocessor, "to_rgb", False))
        results, image, _ = read(
            [LoadImageFromFile(color_type="grayscale" if grey else "color")], {"img_path": path}, path
        )
        return results | {"img": np.ascontiguousarray(image[..., ::-1]) if rgb and not grey else image}, not rgb

    def _channel_order(self, done: Run, path: str, *, bgr: bool | None) -> tuple[bool, bool]:
        """Whether the loaded image and the picture are BGR, tried out on red images once per kind of file."""
        suffix = path.rpartition(".")[2].lower()
        if suffix not in self._bgr:
            if bgr is None:
                red_first = red_goes_first(self._read, path, done.loaded)
                # What can't be told is in the file's order, unless the data preprocessor makes RGB of BGR.
                preprocessor: Any = getattr(self.model, "data_preprocessor", None)
                exchanges = done.form.channels == 3 and bool(getattr(preprocessor, "to_rgb", False))
                bgr = exchanges if red_first is None else not red_first
            exchanged = False
            if (done.form.channels or 1) >= 3:
                with suppress(StepError):  # a pipeline that doesn't run on such an image
                    exchanged = brighter(done.again(red_image(done.form, done.loaded.shape[:2]))) is False
            self._bgr[suffix] = bgr, bgr != exchanged
        return self._bgr[suffix]

    def _read(self, path: str) -> Any:
        """The image as the pipeline's first steps read it."""
        for sample in samples_of(path):
            with suppress(StepError):
                return read(self._steps, sample, path)[1]
        return None

    @cached_property
    def _steps(self) -> list[Step]:
        from mmengine.registry import DefaultScope
        from mmpretrain.registry import TRANSFORMS

        configs = find_pipeline(self.config, self.source)
        try:
            with quiet(), DefaultScope.overwrite_default_scope("mmpretrain"):
                return [TRANSFORMS.build(config) for config in configs]
        except Exception as error:
            raise CamkitError(f"can't build the test pipeline of {self.source}: {reason(error)}") from error


@dataclass(frozen=True, eq=False)
class PipelineLoader:
    """The test pipeline in worker processes, and the data preprocessor, which normalises batches by itself."""

    pipeline: Pipeline

    def load(self, path: str) -> Loaded:
        """See :class:`camkit.models.loader.Loader`."""
        done = self.pipeline.read_and_run(path)
        height, width = done.loaded.shape[:2]
        return Loaded(done.packed["inputs"], (height, width))

    def inputs(self, pixels: Tensor) -> Tensor:
        """See :class:`camkit.models.loader.Loader`."""
        model: Any = self.pipeline.model
        made: Tensor = model.data_preprocessor({"inputs": pixels}, False)["inputs"]
        return made

    def describe(self) -> str:
        """See :class:`camkit.models.loader.Loader`."""
        return self.pipeline.describe()
