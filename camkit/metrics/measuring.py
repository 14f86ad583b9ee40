"""Compute metrics of maps: the images that they ask for run together, in batches of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camkit.engine.network import Network
from camkit.errors import UsageError
from camkit.explanation import Explanation
from camkit.metrics.registry import Metric, find_metric
from camkit.metrics.responses import Request, respond
from camkit.metrics.trial import Explainer, Trial
from camkit.metrics.values import Values
from dataclasses import replace


def measure(
    metrics: str | Metric | Sequence[str | Metric],
    maps: Mapping[str, Any] | Any,
    images: Tensor | None = None,
    model: nn.Module | None = None,
    targets: Any = None,
    *,
    regions: Tensor | None = None,
    explain: Mapping[str, Explainer] | Explainer | None = None,
    probability: str = "softmax",
    resize: bool = False,
    batch_size: int = 16,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Compute metrics of one method's maps, or of several methods' maps together.  (sketch)"""
    raise NotImplementedError
