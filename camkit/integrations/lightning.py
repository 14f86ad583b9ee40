"""Maps in the logs of Lightning's Trainer: a callback, of ``lightning`` or ``pytorch_lightning``."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from camkit.errors import PackageError, UsageError
from camkit.integrations.loggers import Logger, Several, Writer
from camkit.integrations.recorder import Recorder
from camkit.integrations.schedule import Schedule
from camkit.models.randomness import same_randomness
from camkit.visualize.picture import Picture

_PACKAGES = ("lightning", "pytorch_lightning")


def _callback() -> Any:
    """The base class of callbacks: of the package that the program uses, else of one that is installed."""
    for package in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        if find_spec(package) is not None:
            return import_module("lightning.pytorch" if package == "lightning" else package).Callback
    raise PackageError("Lightning is missing: pip install lightning")


class CAMCallback(_callback()):  # type: ignore[misc]
    """Record maps while Lightning's Trainer trains; pictures and curves go to its loggers.

    TensorBoardLogger and WandbLogger take pictures; the other loggers get the curves alone.

    Args:
        images: tensors, paths or a data set, see :class:`camkit.integrations.Recorder`. None for the Trainer's
            validation set.
        every_n_epochs: after every so many epochs; 1 where nothing is given.
        every_n_steps: after every so many optimiser steps, instead.
        at_start: before the first step, too.
        network: the dotted name of the LightningModule's submodule that takes images and returns logits; None for the
            LightningModule itself, whose ``forward`` then does.
        **options: of :class:`camkit.integrations.Recorder`, which has all the rest. ``logger=False`` leaves the
            Trainer's loggers out.

    Raises:
        UsageError: an interval below 1, or an option that doesn't exist. When the training starts, see the Recorder.

    Example:
        >>> callback = CAMCallback(per_class=1, targets="both", network="model")  # for Trainer(callbacks=[callback])
    """

    def __init__(
        self,
        images: Any = None,
        *,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        at_start: bool = False,
        network: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.schedule = Schedule(every_n_epochs, every_n_steps, at_start=at_start, options=options)
        self.images = images
        self.network = network

    @property
    def recorder(self) -> Recorder | None:
        """The Recorder, from the start of the training on."""
        return self.schedule.recorder

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the Recorder."""
        images = _validation_set(trainer) if self.images is None else self.images
        found: dict[str, Any] = {"class_names": getattr(images, "classes", None)}
        if self.schedule.given("logger") is None:
            found["logger"] = self._logger(trainer)
        model = pl_module if self.network is None else _submodule(pl_module, self.network)
        self.schedule.start(model, images, epoch=trainer.current_epoch, step=trainer.global_step, **found)

    def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """Record if it is time."""
        self.schedule.after_step(trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Record if it is time."""
        self.schedule.after_epoch(trainer.current_epoch + 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Hand over what is left."""
        self.schedule.finish()

    def _logger(self, trainer: Any) -> Logger | None:
        """All loggers, if one of them takes pictures or there is a folder for these."""
        found = [_TrainerLogger(each) for each in trainer.loggers]
        if any(each.takes_pictures for each in found):
            return Several(found)
        if self.schedule.given("folder") is not None:
            return Several(found) if found else None
        names = ", ".join(type(each).__name__ for each in trainer.loggers) or "none"
        raise UsageError(
            f"none of the Trainer's loggers takes pictures (it has {names}): give it a TensorBoardLogger, or folder= "
            "to CAMCallback"
        )


class _TrainerLogger:
    """A logger of Lightning."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        # Other processes than the first have stand-ins for experiments, which do nothing.
        has_writer = hasattr(type(logger), "experiment") and hasattr(logger.experiment, "add_image")
        self._writer = Writer(logger.experiment) if has_writer else None

    @property
    def takes_pictures(self) -> bool:
        return self._writer is not None or hasattr(self._logger, "log_image")

    def add_image(self, name: str, image: Picture, step: int) -> None:
        if self._writer is not None:
            self._writer.add_image(name, image, step)
        elif self.takes_pictures:
            self._logger.log_image(key=f"cam/{name}", images=[image], step=step)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._logger.log_metrics({f"cam/{name}": value}, step=step)


def _validation_set(trainer: Any) -> Any:
    loaders = trainer.val_dataloaders
    if loaders is None:  # not there before the first validation, which may be some epochs off
        source: Any = getattr(trainer.fit_loop.epoch_loop.val_loop, "_data_source", None)
        if getattr(source, "instance", None) is not None and source.is_defined():
            with same_randomness():
                loaders = source.dataloader()
    loader = next(iter(loaders.values()), None) if isinstance(loaders, dict) else loaders
    loader = next(iter(loader), None) if isinstance(loader, list | tuple) else loader
    if loader is None:
        raise UsageError("the Trainer has no validation set: give images= to CAMCallback")
    return getattr(loader, "dataset", loader)


def _submodule(module: Any, name: str) -> Any:
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        there = ", ".join(dict(module.named_children())) or "none"
        raise UsageError(f"no module {name!r} in the {type(module).__name__}; there are: {there}") from error
