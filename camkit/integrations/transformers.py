"""Maps in the logs of transformers' Trainer: a callback."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from camkit.errors import UsageError
from camkit.integrations.loggers import Logger, Several, WandbRun, Writer
from camkit.integrations.processes import is_first_process
from camkit.integrations.recorder import Recorder
from camkit.integrations.schedule import Schedule


class CAMCallback(TrainerCallback):  # type: ignore[misc]
    """Record maps while transformers' Trainer trains; pictures and curves go to TensorBoard and Weights & Biases.

    That is, to those of the two that ``report_to`` names: the Trainer tells its callbacks of no other place.

    Args:
        images: tensors, paths or a data set, see :class:`camkit.integrations.Recorder`: the Trainer hands its own data
            sets to no callback. Paths go through the Trainer's ``processing_class``.
        every_n_epochs: after every so many epochs; 1 where nothing is given.
        every_n_steps: after every so many optimiser steps, instead.
        at_start: before the first step, too.
        **options: of :class:`camkit.integrations.Recorder`, which has all the rest. ``logger=False`` leaves the
            Trainer's places out; class names, and mean and std of an image processor, are found.

    Raises:
        UsageError: an interval below 1, or an option that doesn't exist. When the training starts, see the Recorder.

    Example:
        >>> callback = CAMCallback(dataset, targets="both", folder="maps")  # for Trainer(callbacks=[callback])
    """

    def __init__(
        self,
        images: Any,
        *,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        at_start: bool = False,
        **options: Any,
    ) -> None:
        self.schedule = Schedule(every_n_epochs, every_n_steps, at_start=at_start, options=options)
        self.images = images
        self._writer: Any = None

    @property
    def recorder(self) -> Recorder | None:
        """The Recorder, from the start of the training on."""
        return self.schedule.recorder

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Make the Recorder."""
        found: dict[str, Any] = {**_of_config(model), **_of_processor(kwargs.get("processing_class"))}
        if self.schedule.given("logger") is None:
            found["logger"] = self._logger(args)
        self.schedule.start(model, self.images, epoch=int(state.epoch or 0), step=state.global_step, **found)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record if it is time."""
        self.schedule.after_step(state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record if it is time."""
        self.schedule.after_epoch(round(state.epoch))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hand over what is left."""
        self.schedule.finish()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _logger(self, args: Any) -> Logger | None:
        """Where ``report_to`` says; None where there is a folder instead."""
        places = [each for each in ("tensorboard", "wandb") if each in args.report_to]
        if not places:
            if self.schedule.given("folder") is not None:
                return None
            raise UsageError(
                f"nothing that the Trainer reports to takes pictures (report_to={args.report_to!r}): set report_to="
                "'tensorboard', or give folder= to CAMCallback"
            )
        if not is_first_process():  # which alone has writers
            return Several([])
        found: list[Logger] = []
        if "tensorboard" in places:
            self._writer = _summary_writer(_log_folder(args))
            found.append(Writer(self._writer))
        if "wandb" in places:
            import wandb

            found += [] if wandb.run is None else [WandbRun(wandb.run)]
        return Several(found)


def _of_config(model: Any) -> dict[str, Any]:
    """Class names and activation, from a transformers model's configuration."""
    config = getattr(model, "config", None)
    names = getattr(config, "id2label", None) or {}
    found: dict[str, Any] = {}
    if names and not all(str(name).startswith("LABEL_") for name in names.values()):
        found["class_names"] = [str(names.get(index, index)) for index in range(max(names) + 1)]
    if getattr(config, "problem_type", None) == "multi_label_classification":
        found["activation"] = "sigmoid"
    return found


def _of_processor(processor: Any) -> dict[str, Any]:
    """What an image processor does: how images are read, and what they are normalised with."""
    if not hasattr(processor, "image_mean"):
        return {}
    found: dict[str, Any] = {"transform": lambda image: processor(image, return_tensors="pt")}
    if getattr(processor, "do_normalize", False):
        found |= {"mean": processor.image_mean, "std": processor.image_std}
    return found


def _log_folder(args: Any) -> Path:
    """The folder of the Trainer's own event file, which bears this process' number; else one beside it."""
    if given := os.environ.get("TENSORBOARD_LOGGING_DIR") or getattr(args, "logging_dir", None):
        return Path(given).expanduser()
    runs = Path(args.output_dir) / "runs"
    own = sorted(runs.rglob(f"events.out.tfevents.*.{os.getpid()}.*"), key=lambda path: path.stat().st_mtime)
    return own[-1].parent if own else runs / "cam"


def _summary_writer(folder: Path) -> Any:
    try:
        module = import_module("torch.utils.tensorboard")
    except ImportError:
        module = import_module("tensorboardX")
    return module.SummaryWriter(str(folder))
