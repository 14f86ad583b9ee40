"""How far to trust maps: faithfulness, localisation, robustness, randomisation, complexity.

Metrics take maps, whoever made them, with the images that they explain, the network and the targets. :func:`measure`
computes some of them for one method's maps, :func:`measure_methods` for several methods' together; :data:`METRICS`
lists them all. :func:`compare` puts controls beside the methods, and says what may be chance.
"""

from __future__ import annotations

from camkit.metrics import complexity, faithfulness, localisation, randomisation, road, robustness, sampling
from camkit.metrics.boxes import box_regions
from camkit.metrics.comparing import compare
from camkit.metrics.comparison import Comparison
from camkit.metrics.controls import CONTROLS
from camkit.metrics.measuring import measure, measure_methods
from camkit.metrics.mosaics import Mosaics, build_mosaics
from camkit.metrics.registry import FAMILIES, METRICS, Metric, find_metric
from camkit.metrics.summary import Summary, summarise
from camkit.metrics.values import Values

_MODULES = (faithfulness, road, sampling, localisation, robustness, randomisation, complexity)
"""Importing them registers their metrics."""

__all__ = [
    "CONTROLS",
    "FAMILIES",
    "METRICS",
    "Comparison",
    "Metric",
    "Mosaics",
    "Summary",
    "Values",
    "box_regions",
    "build_mosaics",
    "compare",
    "find_metric",
    "measure",
    "measure_methods",
    "summarise",
]
