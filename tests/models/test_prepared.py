"""Arrays as RGB pictures, and files that are no images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from camkit.errors import CamkitError
from camkit.models.prepared import Prepared, check_file
from tests.helpers.refusals import refusal


def test_geometry_is_fitted_when_it_is_asked_for() -> None:
    """A crop out of the middle of an image of 40 x 60."""
    original = np.zeros((40, 60, 3), np.uint8)

    def crop(image: NDArray[Any]) -> NDArray[Any]:
        return image[10:30, 15:45]

    prepared = Prepared(torch.zeros(1, 3, 20, 30), crop(original), original, crop)
    assert "geometry" not in vars(prepared)
    values, seen = prepared.to_original(np.ones((20, 30), np.float32))
    expected = np.zeros((40, 60), bool)
    expected[10:30, 15:45] = True
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_allclose(values, expected.astype(np.float32), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [(lambda path: None, "no image"), (Path.mkdir, "is a folder"), (Path.touch, "is an empty file")],
    ids=["missing", "folder", "empty"],
)
def test_files_that_are_none(make: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    make(path)
    message = refusal(check_file, CamkitError, str(path))
    assert says in message
    assert str(path) in message
