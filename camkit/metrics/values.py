"""What a metric returns: a value per map, the curves behind it, and what was not measured but defined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Values:
    """A metric's values, map by map.

    Attributes:
        values: (N,) float64 on the CPU.
        curves: by name, (N, S) float64, what the values were computed from.
        steps: (S,), where the curves were taken: the share of pixels changed, or another axis that the metric says.
        ties: (N,), the share of pixels that have their rank by their position alone, because others have the same
            value; None for metrics that rank nothing.
        notes: map's index to a line that says why its value is defined and not measured.
        name: the metric's.
        options: of the metric, by name.
    """

    values: Tensor
    curves: Mapping[str, Tensor] = field(default_factory=dict)
    steps: Tensor | None = None
    ties: Tensor | None = None
    notes: Mapping[int, str] = field(default_factory=dict)
    name: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
