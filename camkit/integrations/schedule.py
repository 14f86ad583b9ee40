"""When a training is recorded: what the hooks of all frameworks share."""

from __future__ import annotations

from typing import Any

from torch import nn

from camkit.errors import UsageError
from camkit.integrations.recorder import Record, Recorder, check_options


class Schedule:
    """A :class:`camkit.integrations.Recorder` that is asked every so many epochs, or steps.

    Args:
        every_n_epochs: record after every so many epochs; None for every one, unless steps are given.
        every_n_steps: record after every so many steps, instead.
        at_start: record what the network sees before the first step, too.
        options: of the Recorder.

    Attributes:
        recorder: made when the training starts; None before.

    Raises:
        UsageError: intervals below 1, both of them, or options that don't exist.
    """

    def __init__(
        self, every_n_epochs: int | None, every_n_steps: int | None, *, at_start: bool, options: dict[str, Any]
    ) -> None:
        for name, number in (("every_n_epochs", every_n_epochs), ("every_n_steps", every_n_steps)):
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
                raise UsageError(f"{name} is a whole number, at least 1; got {number!r}")
        if every_n_epochs is not None and every_n_steps is not None:
            raise UsageError("every_n_epochs and every_n_steps exclude each other: give one of them")
        check_options(options)
        self.recorder: Recorder | None = None
        self._by_epoch = every_n_steps is None
        self._every = every_n_steps or every_n_epochs or 1
        self._at_start = at_start
        self._options = options
        self._done = 0

    @property
    def unit(self) -> str:
        """What is counted, ``"epoch"`` or ``"step"``."""
        return "epoch" if self._by_epoch else "step"

    def given(self, name: str) -> Any:
        """An option of the Recorder, None where the user gave none."""
        return self._options.get(name)

    def start(self, model: nn.Module, images: Any, *, epoch: int, step: int, **found: Any) -> None:
        """Make the Recorder.

        Args:
            model: the network.
            images: see the Recorder.
            epoch: how many epochs are done, of a training that is resumed.
            step: how many steps are.
            **found: options that the framework knows; what the user gave goes before them.

        Raises:
            CamkitError: see the Recorder.
        """
        options = {**found, **{name: value for name, value in self._options.items() if value is not None}}
        if options.get("logger") is False:
            options["logger"] = None
        self.recorder = Recorder(model, images, **{"unit": self.unit, **options})
        self._done = epoch if self._by_epoch else step
        if self._at_start:
            self.recorder.step(self._done)

    def after_epoch(self, epoch: int) -> Record | None:
        """Record if it is time; ``epoch`` counts those that are done."""
        return self._after(epoch) if self._by_epoch else None

    def after_step(self, step: int) -> Record | None:
        """Record if it is time; ``step`` counts those that are done."""
        return None if self._by_epoch else self._after(step)

    def finish(self) -> None:
        """See :meth:`camkit.integrations.Recorder.finish`."""
        if self.recorder is not None:
            self.recorder.finish()

    def _after(self, count: int) -> Record | None:
        # Frameworks may count several at a time, or none in a batch whose gradients are only added up.
        is_time = count // self._every > self._done // self._every
        self._done = count
        return self.recorder.step(count) if is_time and self.recorder is not None else None
