"""A trial by hand, one image and one change after the other, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import camkit
from camkit.engine.network import Network
from camkit.metrics.given import read_explainer
from camkit.metrics.perturbations import Perturbation, generator_of
from camkit.metrics.registry import METRICS
from camkit.metrics.trial import Responses, Trial
from camkit.metrics.values import Values
from tests.helpers.networks import SmallCNN, seeded

TARGETS = torch.tensor([3, 1])


def network() -> SmallCNN:
    """In float64, whose maps at ``norm2`` are not empty."""
    model: SmallCNN = seeded(SmallCNN(), 11).double()
    return model


def pictures(height: int = 16, width: int = 12, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def explainer(model: nn.Module, method: str = "GradCAM", layer: str = "norm2") -> Callable[[Tensor, Tensor], Tensor]:
    cam = camkit.CAM(model, method, layer)
    return lambda images, targets: cam(images, targets.tolist())


def score(model: nn.Module, target: int) -> Callable[[Any], float]:
    """A class's logit, of an image as an array."""

    def of(image: Any) -> float:
        with torch.no_grad():
            return float(model(torch.as_tensor(image)[None])[0, target])

    return of


def values(
    name: str, maps: Tensor, images: Tensor, model: nn.Module, targets: Tensor = TARGETS, seed: int = 0, **given: Any
) -> Values:
    """A metric's values, from the registry; ``given`` are options, and fields of the trial."""
    fields = {key: given.pop(key) for key in ("regions", "explain") if key in given}
    if "explain" in fields:
        fields["explain"] = read_explainer(fields["explain"], None)
    metric = METRICS[name].configured(**given)
    responses = {each: _responses(each, images, model, targets, seed) for each in metric.requests()}
    trial = Trial(
        maps=maps, images=images, targets=targets, network=Network(model), seed=seed, responses=responses, **fields
    )
    return metric.values(trial)


def _responses(perturbation: Perturbation, images: Tensor, model: nn.Module, targets: Tensor, seed: int) -> Responses:
    rows = []
    for image, target in zip(images, targets.tolist(), strict=True):
        changed = perturbation.images(image, torch.empty(0), generator_of(image, seed))
        rows.append([score(model, target)(each.clone()) for each in changed])
    scores = torch.tensor(rows, dtype=torch.float64)
    return Responses(scores, scores)
