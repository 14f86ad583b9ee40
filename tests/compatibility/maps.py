"""Maps of all methods, to compare between environments: the weights and images are NumPy's, the same everywhere.

Run as a program it writes them to a file, or compares two files: ``python -m tests.compatibility.maps FILE [OTHER]``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import camkit
from camkit.errors import CamkitError
from tests.helpers.kinds import layer_of
from tests.helpers.networks import SmallCNN, SmallViT, seeded

NETWORKS = {
    "cnn": (SmallCNN, 32, layer_of),
    "transformer": (SmallViT, 16, lambda name: "layers.1.ln1" if layer_of(name) else None),
}
"""What makes it, the side of its images, and the layer for a method."""
TARGETS = [[0, 2], [3, 1]]


def normal(generator: np.random.RandomState) -> Callable[[Sequence[int]], Tensor]:
    """Numbers that every release of NumPy draws alike."""
    return lambda shape: torch.from_numpy(generator.standard_normal(tuple(shape)).astype(np.float32))


def make() -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Finished maps (B, T, H, W) by ``network/method``, and the refusals in the place of others."""
    maps, refused = {}, {}
    for number, (name, (build, side, layer)) in enumerate(NETWORKS.items()):
        draw = normal(np.random.RandomState(number))
        network, images = seeded(build(), draw=draw), draw((2, 3, side, side))
        for method in camkit.METHODS:
            key = f"{name}/{method}"
            try:
                found = camkit.CAM(network, method, layer(method)).explain(images, TARGETS)
            except CamkitError as error:
                refused[key] = str(error)
            else:
                maps[key] = found.maps.numpy()
    return maps, refused


def difference(ours: Path, theirs: Path) -> dict[str, Any]:
    """The largest difference of any map, and what only one of the two environments could make."""
    worst, key, refused, compared = 0.0, "", {}, 0
    with np.load(ours) as one, np.load(theirs) as other:
        for name in sorted({*one.files, *other.files} - {"refused"}):
            if name not in one.files or name not in other.files:
                lacking = one if name not in one.files else other
                refused[name] = json.loads(lacking["refused"].item()).get(name, "not made")
                continue
            compared += 1
            apart = float(np.abs(one[name] - other[name]).max())
            worst, key = max((worst, key), (apart, name))
    return {"compared": compared, "worst": worst, "of": key, "refused": refused}


def main() -> None:
    """Write maps, or print a comparison as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility.maps", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("other", type=Path, nargs="?")
    given = parser.parse_args()
    if given.other:
        print(json.dumps(difference(given.file, given.other)))
        return
    maps, refused = make()
    np.savez(given.file, refused=np.array(json.dumps(refused)), **maps)


if __name__ == "__main__":
    main()
