"""The examples in metrics' docstrings run."""

from __future__ import annotations

import doctest
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import camkit
from camkit.metrics import METRICS, build_mosaics
from camkit.metrics.cascade import randomising
from tests.helpers.networks import seeded

DOCUMENTED: dict[str, Callable[..., Any]] = {name: metric.function for name, metric in METRICS.items()}
DOCUMENTED |= {"build_mosaics": build_mosaics, "randomising": randomising}


@pytest.fixture(scope="module")
def namespace() -> dict[str, Any]:
    """What examples use: a network of ten classes, images of five of them, maps and regions."""
    layers = OrderedDict(
        stem=nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU()),
        features=nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(8, 10),
    )
    model = seeded(nn.Sequential(layers), 1)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    regions = torch.zeros(2, 32, 32, dtype=torch.bool)
    regions[:, 8:20, 8:24] = True
    maps = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0))
    cam = camkit.EigenCAM(model, ["features"])
    return {"camkit": camkit, "model": model, "cam": cam, "images": images, "regions": regions, "maps": maps}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_run(name: str, namespace: dict[str, Any]) -> None:
    given = dict(namespace)
    if name == "build_mosaics":  # which needs images of four classes
        given["model"] = Coloured()
        given["images"] = torch.eye(4).repeat(2, 1)[:, :, None, None].expand(8, 4, 8, 8)
    parsed = doctest.DocTestParser().get_doctest(inspect.getdoc(DOCUMENTED[name]) or "", given, name, None, None)
    assert parsed.examples
    report: list[str] = []
    doctest.DocTestRunner().run(parsed, out=report.append)
    assert report == []


class Coloured(nn.Module):
    """Knows four colours."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(4, 4, 1, bias=False)
        self.features.weight.data = torch.eye(4)[:, :, None, None]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 4 * self.features(images).mean((2, 3))
