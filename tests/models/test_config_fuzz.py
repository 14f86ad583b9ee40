"""Mutated configs: what MMPretrain makes of them, or one line.

``python -m tests.models.test_config_fuzz 1000`` tries more than the suite does.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import camkit
from camkit.errors import CamkitError
from camkit.models import mmpretrain
from tests.helpers.by_hand import gradcam, of_class
from tests.helpers.pictures import write_photo
from tests.models.installed import installed
from tests.models.mmpretrain_kit import LAYER, own_of

pytestmark = pytest.mark.frameworks

load = partial(mmpretrain.load, pretrained=False)

CONFIG: dict[str, Any] = {
    "model": {
        "type": "ImageClassifier",
        "backbone": {"type": "ResNet", "depth": 18, "stem_channels": 8, "base_channels": 8, "num_stages": 4},
        "neck": {"type": "GlobalAveragePooling"},
        "head": {"type": "LinearClsHead", "num_classes": 10, "in_channels": 64, "topk": [1, 5]},
    },
    "data_preprocessor": {"mean": [120.0, 115.0, 105.0], "std": [58.0, 57.0, 56.0], "to_rgb": True, "num_classes": 10},
    "test_dataloader": {
        "batch_size": 1,
        "dataset": {
            "type": "CustomDataset",
            "data_prefix": ".",
            "ann_file": "images.txt",
            "with_label": True,
            "metainfo": {"classes": [f"class {number}" for number in range(10)]},
            "pipeline": [
                {"type": "LoadImageFromFile", "color_type": "color", "imdecode_backend": "cv2"},
                {"type": "ResizeEdge", "scale": 64, "edge": "short"},
                {"type": "CenterCrop", "crop_size": 48},
                {"type": "PackInputs"},
            ],
        },
    },
    "default_scope": "mmpretrain",
}
VALUES = [None, True, False, 0, 1, -1, 3, 2.5, 64, "x", "", "color", [], [1], [1.0, 2.0, 3.0], {}, {"type": "Nope"}]
NAMES = ["type", "model", "classes", "pipeline", "dataset", "datasets", "metainfo", "scale", "mean", "to_rgb", "depth"]


def mutate(config: dict[str, Any], draw: random.Random) -> None:
    """Drop, rename, replace, nest, copy or exchange something in a config."""
    holder, key = draw.choice(list(places(config)))
    how = draw.choice(["drop", "rename", "replace", "nest", "copy", "exchange"])
    if how == "drop":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[draw.choice([*NAMES, f"{key}_"])] = holder.pop(key)
    elif how == "nest":
        holder[key] = draw.choice([[holder[key]], {str(key): holder[key]}, {"dataset": holder[key]}])
    elif how in ("copy", "exchange"):
        other, name = draw.choice(list(places(config)))
        mine, theirs = copy.deepcopy(holder[key]), copy.deepcopy(other[name])
        holder[key] = theirs
        if how == "exchange" and any(other is each and name == place for each, place in places(config)):
            other[name] = mine
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def write(seed: int, folder: Path) -> str:
    """A mutated config in a file, which is cut at times."""
    draw = random.Random(seed)
    config = copy.deepcopy(CONFIG)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        mutate(config, draw)
    as_python = draw.random() < 0.5
    lines = "\n".join(f"{key} = {value!r}" for key, value in config.items())
    text = lines if as_python else json.dumps(config)
    if draw.random() < 0.1:
        text = text[: draw.randrange(len(text))]
    path = folder / ("config.py" if as_python else "config.json")
    path.write_text(text)
    return str(path)


def try_config(seed: int, folder: Path) -> str:
    """What became of it: ``refused``, ``lenient`` where MMPretrain itself fails, or ``equal``."""
    config = write(seed, folder)
    photo = write_photo(folder / "photo.png", 45, 60)
    torch.default_generator.manual_seed(seed)
    refusal = ""
    try:
        classifier = load(config, None)
        inputs = classifier.prepare(photo).inputs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = camkit.CAM(classifier.model, "GradCAM", [LAYER]).explain(inputs, 0)
    except CamkitError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        return "refused"
    try:
        own = own_of(config, classifier, photo)
    except Exception:  # noqa: BLE001  its reason doesn't matter
        return "lenient"
    assert classifier.classes is None or classifier.classes == tuple(map(str, own.classes))
    assert_close(inputs, own.inputs, rtol=0, atol=0)
    assert_close(found.logits.softmax(1)[0], own.scores.pred_score)
    by_hand = gradcam(classifier.model, classifier.model.get_submodule(LAYER), own.inputs, of_class(0))
    assert_close(found.raw[LAYER][:, 0], by_hand, rtol=1e-6, atol=1e-6 * max(float(by_hand.abs().max()), 1e-9))
    return "equal"


@pytest.mark.parametrize("first", range(0, 100, 10))
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # MMEngine leaves files open that it gives up on
def test_mutated_configs(first: int, tmp_path: Path) -> None:
    installed("mmpretrain")
    outcomes = Counter(try_config(seed, tmp_path) for seed in range(first, first + 10))
    assert outcomes.total() == 10


def test_the_config_itself_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("mmpretrain")
    monkeypatch.setattr(sys.modules[__name__], "mutate", lambda config, draw: None)
    assert "equal" in {try_config(seed, tmp_path) for seed in range(3)}


def main(count: int) -> None:
    """Try configs, and print what became of them."""
    installed("mmpretrain")
    outcomes: Counter[str] = Counter()
    for seed in range(count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcomes[try_config(seed, Path(folder))] += 1
            except Exception as error:  # noqa: BLE001  the finding
                outcomes["WRONG"] += 1
                print(f"seed {seed}: {type(error).__name__}: {str(error).splitlines()[:3]}")
    print(dict(outcomes))


if __name__ == "__main__":
    main(int(sys.argv[1]))
