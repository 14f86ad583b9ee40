"""Values of many batches, put together in the order of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from camkit.metrics.comparing import by_metric
from camkit.metrics.comparison import Comparison, Item
from camkit.metrics.values import Values


class Collected:
    """Values batch by batch; maps and images aren't kept."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[Values]]] = {}
        self._items: dict[str, list[tuple[int, Item]]] = {}

    def __contains__(self, metric: str) -> bool:
        """Whether there are values of a metric."""
        return metric in self._items

    def add(
        self, measured: Mapping[str, Mapping[str, Values]], items: Sequence[Item], positions: Sequence[int]
    ) -> None:
        """Add a batch.

        Args:
            measured: method to metric to values.
            items: whose values they are.
            positions: of the items in the data set.
        """
        for metric, methods in by_metric(measured).items():
            self._items.setdefault(metric, []).extend(zip(positions, items, strict=True))
            for method, values in methods.items():
                self._values.setdefault(metric, {}).setdefault(method, []).append(values)

    def comparison(
        self, metrics: Sequence[str], controls: Sequence[str], seed: int, notes: Sequence[str]
    ) -> Comparison:
        """All of it, in the order of the data set; metrics that no image has values of are left out."""
        values, items = {}, {}
        for metric in metrics:
            if metric not in self._items:
                continue
            found = self._items[metric]
            order = sorted(range(len(found)), key=lambda number: found[number][0])
            items[metric] = [found[number][1] for number in order]
            values[metric] = {method: reordered(joined(parts), order) for method, parts in self._values[metric].items()}
        return Comparison(values, items, controls, seed, notes)


def joined(parts: Sequence[Values]) -> Values:
    """Values of several batches as one. Curves of images of several sizes are read off at the same steps."""
    first = max(parts, key=lambda each: 0 if each.steps is None else len(each.steps))
    notes: dict[int, str] = {}
    start = 0
    for each in parts:
        notes |= {start + number: line for number, line in each.notes.items()}
        start += len(each.values)
    ties = [each.ties for each in parts if each.ties is not None]
    return replace(
        first,
        values=torch.cat([each.values for each in parts]),
        curves={name: torch.cat([_at_steps(each, name, first.steps) for each in parts]) for name in first.curves},
        ties=torch.cat(ties) if len(ties) == len(parts) else None,
        notes=notes,
    )


def reordered(values: Values, order: Sequence[int]) -> Values:
    """Values in another order: the first is number ``order[0]``."""
    rows = torch.tensor(order)
    places = {number: place for place, number in enumerate(order)}
    return replace(
        values,
        values=values.values[rows],
        curves={name: curve[rows] for name, curve in values.curves.items()},
        ties=None if values.ties is None else values.ties[rows],
        notes={places[number]: line for number, line in sorted(values.notes.items())},
    )


def _at_steps(values: Values, curve: str, steps: Tensor | None) -> Tensor:
    """A curve (N, S) at other steps, linearly between its own."""
    found = values.curves[curve]
    own = values.steps
    if own is None or steps is None or own.equal(steps):
        return found
    right = torch.searchsorted(own, steps).clamp(1, len(own) - 1)
    share = ((steps - own[right - 1]) / (own[right] - own[right - 1])).clamp(0, 1)
    return found[:, right - 1] * (1 - share) + found[:, right] * share
