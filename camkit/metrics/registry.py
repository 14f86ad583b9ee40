"""The registry: what a metric is, and the list of all metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from camkit.errors import UsageError, closest
from camkit.methods.options import checked, options_of
from camkit.metrics.maps import even_maps
from camkit.metrics.perturbations import Perturbation

if TYPE_CHECKING:
    from camkit.metrics.trial import Trial
    from camkit.metrics.values import Values

FAMILIES = ("faithfulness", "localisation", "robustness", "randomisation", "complexity")
"""What metrics test; one module of :mod:`camkit.metrics` each."""
Direction = Literal["higher", "lower"]
NEEDS = ("scores", "region", "explainer", "unit")
"""``scores``: a network and targets. ``region``: where the object is, boxes or masks. ``explainer``: a way to explain
other images, or a changed network, again. ``unit``: maps in [0, 1]; the others take signed maps too."""


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: as in its paper.
        function: from a :class:`camkit.metrics.trial.Trial` to :class:`camkit.metrics.Values`.
        perturbations: from options to the changed images whose scores the function reads; they are run beforehand,
            together with those of the other metrics, equal ones once.
        family: one of :data:`FAMILIES`.
        needs: some of :data:`NEEDS`.
        better: whether higher or lower values are better.
        formula: in one line.
        paper: authors, year and equation.
        options: values by name.
    """

    name: str
    function: Callable[..., Values]
    perturbations: Callable[..., Sequence[Perturbation]]
    family: str
    needs: tuple[str, ...]
    better: Direction
    formula: str
    paper: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def configured(self, **options: Any) -> Metric:
        """Return the metric with other options.

        Raises:
            UsageError: the metric has no such option, or the option does not take such a value.
        """
        for name in options:
            if name not in self.options:
                known = ", ".join(f"{each}={value!r}" for each, value in self.options.items()) or "none"
                raise UsageError(f"{self.name} has no option {name!r}{closest(name, self.options)}; it has: {known}")
        made = {name: checked(self.name, name, value, self._sources) for name, value in options.items()}
        return replace(self, options={**self.options, **made})

    def requests(self) -> Sequence[Perturbation]:
        """The changed images whose scores the metric reads."""
        return self.perturbations(**self._options_of(self.perturbations))

    def values(self, trial: Trial) -> Values:
        """Compute the metric of a trial's maps; those that are the same everywhere have a note."""
        found = self.function(trial, **self._options_of(self.function))
        return replace(found, notes={**even_maps(trial.maps), **found.notes})

    @property
    def _sources(self) -> list[Callable[..., Any]]:
        return [self.function, self.perturbations]

    def _options_of(self, function: Callable[..., Any]) -> dict[str, Any]:
        return {name: self.options[name] for name in options_of(function) if name in self.options}


Function = TypeVar("Function", bound="Callable[..., Values]")

METRICS: dict[str, Metric] = {}
"""All metrics by name. The command line, docs and tests read this list."""


def _none() -> Sequence[Perturbation]:
    return ()


def metric(
    name: str,
    *,
    family: str,
    paper: str,
    formula: str,
    better: Direction,
    needs: Sequence[str] = (),
    perturbations: Callable[..., Sequence[Perturbation]] = _none,
) -> Callable[[Function], Function]:
    """Register a function as a metric; see :class:`Metric` for the arguments.

    Keyword-only parameters of the function and of ``perturbations`` become the metric's options.
    """

    def register(function: Function) -> Function:
        defaults = {**options_of(function), **options_of(perturbations)}
        METRICS[name] = Metric(name, function, perturbations, family, tuple(needs), better, formula, paper, defaults)
        return function

    return register


def find_metric(name: str | Metric) -> Metric:
    """Find a metric by name, in any case, with or without spaces, hyphens and underscores.

    Raises:
        UsageError: there is no such metric; the message names the closest ones.
    """
    if isinstance(name, Metric):
        return name
    spellings = {_plain(known): each for known, each in METRICS.items()}
    if not isinstance(name, str) or _plain(name) not in spellings:
        offered = closest(name, METRICS) if isinstance(name, str) else ""
        raise UsageError(f"no metric {name!r}{offered}; there are: {', '.join(METRICS)}")
    return spellings[_plain(name)]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
