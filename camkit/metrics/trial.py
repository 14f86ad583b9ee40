"""What a metric sees: maps, the images that they explain, and the network's answers to changed images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeVar

from torch import Tensor

from camkit.engine.network import Network
from camkit.metrics.perturbations import Perturbation

Known = TypeVar("Known")
Explainer = Callable[[Tensor, Tensor], Tensor]
"""From images (N, C, H, W) and targets (N,) to maps (N, H, W) of the same kind, at the images' size."""


class Responses(NamedTuple):
    """What the network says of one perturbation's images.

    Attributes:
        scores: (N, S), the target's score (logit).
        probabilities: (N, S), the target's probability.
    """

    scores: Tensor
    probabilities: Tensor


@dataclass(frozen=True, eq=False)
class Trial:
    """Maps of one method, and what is known of their images.

    Attributes:
        maps: (N, H, W) float64 on the CPU, one per image and target, at the images' size, as they were given.
        images: (B, C, H, W), normalised, on the network's device, B a divisor of N: an image's maps are side by side.
            None where no metric asks for them.
        targets: (N,), class indices.
        regions: (N, H, W) bool, where the object is; None where that is unknown.
        explain: explains again; None where there is no way to. What it returns is float64 on the CPU.
        network: which is left as it was; None where no metric asks for it.
        seed: of whatever is drawn.
        responses: what the network said, by perturbation; ``Perturbation``s that the metric asked for are there.
    """

    maps: Tensor
    images: Tensor | None = None
    targets: Tensor | None = None
    regions: Tensor | None = None
    explain: Explainer | None = None
    network: Network | None = None
    seed: int = 0
    responses: Mapping[Perturbation, Responses] = field(default_factory=dict)

    @property
    def image_of_each(self) -> Tensor:
        """(N, C, H, W), each map's image; a copy where images have several maps."""
        images = known(self.images)
        return images if len(images) == len(self.maps) else images.repeat_interleave(len(self.maps) // len(images), 0)

    @cached_property
    def masked_again(self) -> Tensor:
        """Maps (N, H, W), float64 on the CPU, of the images times their maps: what explains them says of the rest."""
        images = self.image_of_each
        return known(self.explain)(images * self.maps.to(images)[:, None], known(self.targets))


def known(value: Known | None) -> Known:
    """A part of a trial that a metric's needs promise."""
    if value is None:
        raise TypeError("the metric reads what it doesn't say that it needs")
    return value
