"""The examples in public docstrings run."""

from __future__ import annotations

import doctest
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import camkit
from tests.helpers.networks import SmallViT, seeded

EXAMPLES = [
    pytest.param(test, id=test.name)
    for name in dir(camkit)
    for test in doctest.DocTestFinder(exclude_empty=True).find(getattr(camkit, name), name, globs={})
    if test.examples
]


@pytest.fixture(scope="module")
def namespace() -> dict[str, Any]:
    """What examples use; the docstring of camkit.methods describes it."""
    layers = OrderedDict(
        stem=nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU()),
        features=nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(8, 10),
    )
    return {
        "camkit": camkit,
        "model": seeded(nn.Sequential(layers)),
        "vit": seeded(SmallViT((32, 32))),
        "images": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        "photo": np.zeros((32, 32, 3), np.uint8),
        "network": seeded(nn.Sequential(nn.Conv1d(2, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())),
        "signals": torch.randn(2, 2, 100, generator=torch.Generator().manual_seed(0)),
    }


@pytest.mark.parametrize("test", EXAMPLES)
def test_runs(test: doctest.DocTest, namespace: dict[str, Any]) -> None:
    name = test.name.partition(".")[0]
    test.globs = {**namespace, name: getattr(camkit, name)}
    report: list[str] = []
    doctest.DocTestRunner().run(test, out=report.append)
    assert report == []


def test_every_method_has_one() -> None:
    names = {example.id for example in EXAMPLES}
    assert {method.identifier for method in camkit.METHODS.values()} <= names
