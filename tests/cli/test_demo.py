"""``camkit demo``, and ``camkit gallery`` on its picture and network: the maps lie on what they explain."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camkit.cli import demo, printing
from camkit.errors import CamkitError
from camkit.methods import find_method
from camkit.models.demo import find_weights
from camkit.models.load import load
from camkit.visualize.save import save_picture
from tests.cli.running import Run, pixels
from tests.models.installed import installed

pytestmark = [pytest.mark.frameworks, pytest.mark.slow]

PAGE = Path(__file__).parent.parent.parent / "docs" / "command-line.md"


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """Skip where the network or the photographs aren't installed."""
    pytest.importorskip("skimage")
    installed("mmpretrain")
    installed("timm")
    try:
        find_weights()
    except CamkitError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the demo's network."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def camkit(camkit: Callable[..., Run], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """The command with that folder."""
    monkeypatch.setenv("CAMKIT_CACHE", str(cache))
    return camkit


def test_shows_the_cat_and_the_cup(camkit: Callable[..., Run], cache: Path, tmp_path: Path) -> None:
    run = camkit("demo", "--out", tmp_path / "demo")
    assert (run.code, run.err) == (0, "")
    assert [path.name for path in run.wrote] == ["input.png", "grid.png", "cat.png", "espresso.png"]
    assert all(path.stat().st_size > 10_000 for path in run.wrote)
    # The page on the command line shows these lines; probabilities may round differently elsewhere.
    (shown,) = [text for text in re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL) if "espresso" in text]
    told = run.out.replace(str(tmp_path / "demo"), "demo")
    assert re.sub(r"\(0\.\d\d\)", "", told) == re.sub(r"\(0\.\d\d\)", "", shown)
    assert "predicted: 967 espresso (0." in told
    assert sorted(path.name for path in cache.iterdir()) == ["lite0.pth", "lite0.py"]


@pytest.mark.parametrize("method", [method for method in demo.METHODS if method != "EigenCAM"])
def test_maps_lie_on_what_they_explain(method: str, cache: Path, tmp_path: Path) -> None:
    """The cat is the left half, the cup the right one. EigenCAM doesn't ask for a class."""
    config, weights = demo.build_network(cache)
    classifier = load(str(config), str(weights), cfg_options=demo.WHOLE_PICTURE)
    prepared = classifier.prepare(save_picture(tmp_path / "input.png", demo.photographs()))
    np.testing.assert_array_equal(prepared.picture, demo.photographs())
    categories = [classifier.find_category(name) for name in ("tiger cat", "espresso")]
    assert categories == list(demo.CATEGORIES.values())
    (explanation,) = printing.explain_image(
        classifier, prepared, [find_method(method)], categories, target_layers=["model.bn2"]
    )
    assert sorted(explanation.logits[0].topk(2).indices.tolist()) == categories
    for heat, half in zip(explanation.maps[0], ("left", "right"), strict=True):
        right = float(heat[:, 224:].sum() / heat.sum())
        assert (right if half == "right" else 1 - right) > 0.6
        assert (int(heat.amax(0).argmax()) >= 224) == (half == "right")


def test_gallery_without_arguments(camkit: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = camkit("gallery", "--method", "EigenCAM", "GradCAM", "DFF", "LeGrad", "GuidedGradCAM")
    assert run.code == 0, run.err
    assert "explained: 282 tiger cat" in run.out
    assert "concept 4: " in run.out
    assert (
        "target layer: model.bn2 (the last norm layer that is spatial and live; BatchNormAct2d, grid 7x14)\n" in run.out
    )
    assert "not applied: LeGrad: attention methods need attention" in run.out
    assert "wrote: gallery.png" in run.out
    page = pixels(tmp_path / "gallery.png").astype(int)
    # GradCAM's cell stands beside the image: red over the cat in the first row, over the cup in the second.
    left, top = 24 + 250, 34 + 17 + 20 + 15
    for row, half in ((0, 0), (1, 1)):
        cell = page[top + row * 122 : top + row * 122 + 120, left : left + 240]
        redness = (cell[:, :, 0] - cell[:, :, 2]).clip(0)
        halves = redness[:, :120].sum(), redness[:, 120:].sum()
        assert np.argmax(halves) == half, halves


def test_gallery_of_ones_own_picture(camkit: Callable[..., Run], tmp_path: Path) -> None:
    from skimage import data

    image: Any = save_picture(tmp_path / "cat.png", data.chelsea())
    run = camkit("gallery", image, "--method", "GradCAM", "--save-path", tmp_path / "page.png")
    assert run.code == 0, run.err
    assert "predicted: 28" in run.out, "a cat"
    assert "explained" not in run.out
