"""Maps in the logs of MMEngine's Runner: a hook for MMPretrain's configs.

.. code-block:: python

    custom_imports = dict(imports=["camkit.integrations.mmengine"], allow_failed_imports=False)
    custom_hooks = [dict(type="CAMHook", every_n_epochs=5, per_class=1, targets="both")]
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from mmengine.visualization.vis_backend import BaseVisBackend

from camkit.errors import CamkitError, UsageError, reason
from camkit.integrations.recorder import Recorder
from camkit.integrations.samples import Reader, Sample, as_label, collect
from camkit.integrations.schedule import Schedule
from camkit.models.bands import show
from camkit.models.mmpretrain_names import activation_of, prediction_output
from camkit.models.mmpretrain_pipeline import Pipeline
from camkit.models.randomness import same_randomness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@HOOKS.register_module()
class CAMHook(Hook):  # type: ignore[misc]
    """Record maps while MMEngine's Runner trains; pictures go to its Visualizer's backends.

    Args:
        images: paths, which go through the config's validation (or test) pipeline. None for the validation set.
        every_n_epochs: after every so many epochs; 1 where nothing is given.
        every_n_steps: after every so many iterations, instead; the one to give where the training counts iterations.
        at_start: before the first iteration, too.
        **options: of :class:`camkit.integrations.Recorder`, which has all the rest. ``logger=False`` leaves the
            Visualizer out; class names, activation and output are found in the config.

    Raises:
        UsageError: an interval below 1, or an option that doesn't exist. When the training starts, see the Recorder.
    """

    priority = "LOW"

    def __init__(
        self,
        images: Any = None,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        at_start: bool = False,  # noqa: FBT001 (configs give it by name)
        **options: Any,
    ) -> None:
        self.schedule = Schedule(every_n_epochs, every_n_steps, at_start=at_start, options=options)
        self.images = images

    @property
    def recorder(self) -> Recorder | None:
        """The Recorder, from the start of the training on."""
        return self.schedule.recorder

    def before_train(self, runner: Any) -> None:
        """Make the Recorder."""
        schedule = self.schedule
        if schedule.unit == "epoch" and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise UsageError(
                f"the training counts iterations ({type(runner.train_loop).__name__}): give every_n_steps to CAMHook"
            )
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        dataset = getattr(runner.val_loop, "dataloader", None) and runner.val_loop.dataloader.dataset
        images = dataset if self.images is None else self.images
        if images is None:
            raise UsageError("the config has no validation set: give images=[PATH, ...] to CAMHook")
        chosen = {name: schedule.given(name) for name in ("num_images", "per_class", "labels")}
        with same_randomness():
            reader = _ConfigReader(model, runner.cfg)
            samples = collect(images, reader, **{name: value for name, value in chosen.items() if value is not None})
        head = getattr(model, "head", None)
        found = {
            "class_names": getattr(dataset, "metainfo", {}).get("classes"),
            "activation": activation_of(head, getattr(head, "num_classes", None)),
            "output": prediction_output(model),
        }
        if schedule.given("logger") is None and (runner.visualizer is not None):
            found["logger"] = self._logger(runner.visualizer)
        schedule.start(model, samples, epoch=runner.epoch, step=runner.iter, **found)

    def after_train_epoch(self, runner: Any) -> None:
        """Record if it is time."""
        self.schedule.after_epoch(runner.epoch + 1)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Record if it is time."""
        self.schedule.after_step(runner.iter + 1)

    def after_train(self, runner: Any) -> None:
        """Hand over what is left."""
        self.schedule.finish()

    def _logger(self, visualizer: Any) -> Any:
        """The Visualizer, if anything comes of what it gets; None where there is a folder, instead."""
        backends = list(visualizer._vis_backends.values())
        if any(type(each).add_image is not BaseVisBackend.add_image for each in backends):
            return visualizer
        if self.schedule.given("folder") is not None:
            return None
        names = ", ".join(type(each).__name__ for each in backends) or "none"
        raise UsageError(
            f"no backend of the run's Visualizer takes pictures (it has {names}): set vis_backends = "
            "[dict(type='LocalVisBackend')] in the config's visualizer, or give folder= to CAMHook"
        )


class _ConfigReader(Reader):
    """Reads images as the config's validation set does."""

    def __init__(self, model: nn.Module, config: Any) -> None:
        super().__init__()
        self._model: Any = model
        settings = dict(config.items())
        if settings.get("val_dataloader"):
            settings["test_dataloader"] = settings["val_dataloader"]
        self._pipeline = Pipeline(model, settings, getattr(config, "filename", None) or "of the run")

    def read_file(self, path: str) -> Sample:
        """See :class:`camkit.integrations.samples.Reader`."""
        prepared = self._pipeline(path)
        return replace(self.of_inputs(prepared.inputs, Path(path).stem), picture=prepared.picture)

    def read_item(self, dataset: Any, index: int) -> Sample:
        """See :class:`camkit.integrations.samples.Reader`; files are read anew, for the colours of their pictures."""
        info = dataset.get_data_info(index)
        label = as_label(info.get("gt_label"))
        if info.get("img_path"):
            return replace(self.read_file(str(info["img_path"])), label=label)
        packed = dataset[index]
        preprocessor = self._model.data_preprocessor
        try:
            inputs = preprocessor(pseudo_collate([packed]), False)["inputs"]
        except Exception as error:
            raise CamkitError(f"the config's data preprocessor fails on item {index}: {reason(error)}") from error
        pixels = packed["inputs"].movedim(0, 2).cpu().numpy()
        is_bgr = bool(getattr(preprocessor, "to_rgb", False))
        return replace(self.of_inputs(inputs, f"image{index}"), picture=show(pixels, bgr=is_bgr), label=label)

    def labels(self, dataset: Any) -> Iterator[Any]:
        """See :class:`camkit.integrations.samples.Reader`."""
        return (dataset.get_data_info(index).get("gt_label") for index in range(len(dataset)))
