"""Methods beside controls, by metrics: what differs, by how much, and whether that may be chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

import camkit
from camkit.errors import UsageError
from camkit.metrics.controls import RANDOM
from camkit.metrics.registry import find_metric
from camkit.metrics.summary import Summary, bootstrap, image_means, paired_p, smallest_p, summarise
from camkit.metrics.values import Values

LEVEL = 0.05
"""Below this p, a difference is taken for one."""
FORMAT, VERSION = "camkit metrics", 1


class Item(NamedTuple):
    """A map that was measured.

    Attributes:
        image: the image's id.
        target: the class that it explains.
    """

    image: str
    target: int


class Band(NamedTuple):
    """A curve over images.

    Attributes:
        steps: (S,), where it was taken.
        mean: (S,).
        low: (S,), where the bootstrap interval begins; the mean for one image.
        high: (S,), where it ends.
    """

    steps: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods and controls by metrics.

    Attributes:
        values: metric's name to method's name to its values, the controls' among them.
        items: metric's name to the map that each value is of; metrics of places lack images without a region.
        controls: names of the methods that are controls.
        seed: of whatever was drawn.
        notes: lines about what was left out.
    """

    values: Mapping[str, Mapping[str, Values]]
    items: Mapping[str, Sequence[Item]]
    controls: Sequence[str] = ()
    seed: int = 0
    notes: Sequence[str] = ()
    _found: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def metrics(self) -> list[str]:
        """The metrics' names."""
        return list(self.values)

    @property
    def methods(self) -> list[str]:
        """The methods' names, without the controls."""
        return [name for name in self._names if name not in self.controls]

    def summary(self, metric: str, method: str) -> Summary:
        """Mean, interval, ties and count of a method or a control; see :func:`camkit.metrics.summarise`."""
        key = "summary", metric, method
        if key not in self._found:
            self._found[key] = summarise(self.values[metric][method], images=self._images(metric), seed=self.seed)
        made: Summary = self._found[key]
        return made

    def p_value(self, metric: str, method: str, control: str = RANDOM) -> float:
        """The p of a paired test between a method and a control, over images; see :func:`camkit.metrics.paired_p`.

        It isn't corrected for the number of tests.
        """
        key = "p", metric, method, control
        if key not in self._found:
            images = self._images(metric)
            ours, theirs = (image_means(self.values[metric][name].values, images) for name in (method, control))
            self._found[key] = paired_p(ours, theirs, self.seed)
        return float(self._found[key])

    def band(self, metric: str, method: str, curve: str) -> Band:
        """One of a method's curves, over images.

        Raises:
            UsageError: the metric has no such curve.
        """
        values = self.values[metric][method]
        if curve not in values.curves:
            raise UsageError(f"{metric} has no curve {curve!r}; it has: {', '.join(values.curves) or 'none'}")
        curves = image_means(values.curves[curve], self._images(metric))
        steps = torch.arange(curves.shape[1], dtype=torch.float64) if values.steps is None else values.steps.double()
        mean = curves.mean(0)
        low, high = bootstrap(curves, self.seed) if len(curves) > 1 else (mean, mean)
        return Band(steps, mean, low, high)

    def verdict(self, metric: str, method: str) -> str:
        """What the metric says of a method beside the controls, in one line.

        ``better than Random (p = 0.002), Edges (p = 0.01); not distinguishable from Gaussian, p = 0.41``.
        """
        count = self.summary(metric, method).count
        if smallest_p(count) > LEVEL:
            return f"{count} {'image is' if count == 1 else 'images are'} too few to tell it from the controls"
        told: dict[str, list[str]] = {"better": [], "worse": []}
        alike = []
        higher = find_metric(metric).better == "higher"
        for control in self.controls:
            p = self.p_value(metric, method, control)
            if p >= LEVEL:
                name = "random" if control == RANDOM else control
                alike.append(f"{name}, p = {p:.2g}")
                continue
            above = self.summary(metric, method).mean > self.summary(metric, control).mean
            told["better" if above is higher else "worse"].append(f"{control} (p = {p:.2g})")
        lines = [f"{how} than {', '.join(which)}" for how, which in told.items() if which]
        if alike:
            lines.append(f"not distinguishable from {'; '.join(alike)}")
        return "; ".join(lines) or "no controls beside it"

    def verdicts(self) -> list[str]:
        """What each metric says of each method, a line for each."""
        return [
            f"{metric}: {method} {self._said(metric, method)}" for metric in self.metrics for method in self.methods
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it: docs/metrics.md says what stands where."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "camkit": camkit.__version__,
            "seed": self.seed,
            "methods": self.methods,
            "controls": list(self.controls),
            "metrics": {metric: self._told(metric) for metric in self.metrics},
            "verdicts": self.verdicts(),
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @cached_property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for each in self.values.values() for name in each))

    def _images(self, metric: str) -> list[str]:
        return [item.image for item in self.items[metric]]

    def _said(self, metric: str, method: str) -> str:
        said = self.verdict(metric, method)
        return f"is {said}" if said.startswith(("better", "worse", "not")) else f"- {said}"

    def _told(self, metric: str) -> dict[str, Any]:
        about = find_metric(metric)
        first = next(iter(self.values[metric].values()))
        return {
            "family": about.family,
            "better": about.better,
            "formula": about.formula,
            "paper": about.paper,
            "options": dict(first.options or about.options),
            "images": [item.image for item in self.items[metric]],
            "targets": [item.target for item in self.items[metric]],
            "methods": {method: self._told_of(metric, method) for method in self.values[metric]},
        }

    def _told_of(self, metric: str, method: str) -> dict[str, Any]:
        summary, values = self.summary(metric, method), self.values[metric][method]
        told: dict[str, Any] = {
            "mean": summary.mean,
            "low": summary.low,
            "high": summary.high,
            "count": summary.count,
            "ties": summary.ties,
            "values": values.values.tolist(),
            "notes": {str(number): line for number, line in values.notes.items()},
            "curves": {
                curve: {name: column.tolist() for name, column in self.band(metric, method, curve)._asdict().items()}
                for curve in values.curves
            },
        }
        if method not in self.controls:
            told["p"] = {control: self.p_value(metric, method, control) for control in self.controls}
            told["verdict"] = self.verdict(metric, method)
        return told
