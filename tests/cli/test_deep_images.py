"""``camkit vis-cam`` on images of many bits and bands, read by MMPretrain pipelines with readers of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camkit.visualize.save import load_raw
from tests.cli.running import Run, pixels, refused
from tests.models.installed import installed

pytestmark = pytest.mark.frameworks

SIDE = 64


@pytest.fixture(scope="module", autouse=True)
def _reader() -> None:
    installed("mmpretrain")
    from mmpretrain.registry import TRANSFORMS

    @TRANSFORMS.register_module(name="LoadArrayForTests", force=True)
    class LoadArray:
        def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
            image = np.load(results["img_path"])
            return results | {"img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}

    @TRANSFORMS.register_module(name="DivideForTests", force=True)
    class Divide:
        def __init__(self, by: float) -> None:
            self.by = by

        def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
            return results | {"img": (results["img"] / self.by).astype(np.float32)}


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., str]:
    """A small network for images of so many bands, without normalisation."""

    def write(bands: int, steps: str = "") -> str:
        path = tmp_path / "config.py"
        path.write_text(
            f"model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18, in_channels={bands}, "
            "stem_channels=8, base_channels=8), neck=dict(type='GlobalAveragePooling'), "
            "head=dict(type='LinearClsHead', num_classes=3, in_channels=64))\n"
            "data_preprocessor = dict(mean=None, std=None)\n"
            f"test_pipeline = [dict(type='LoadArrayForTests'), {steps} dict(type='PackInputs')]\n"
        )
        return str(path)

    return write


@pytest.fixture
def run(camkit: Callable[..., Run], config: Callable[..., str], tmp_path: Path) -> Callable[..., Run]:
    """Explain an array with a network of so many bands."""

    def run(image: Any, *flags: str, steps: str = "") -> Run:
        from camkit.models import mmpretrain

        np.save(tmp_path / "image.npy", image)
        bands = 1 if image.ndim == 2 else image.shape[2]
        path = config(bands, steps)
        torch.manual_seed(0)
        model = mmpretrain.load(path, None, pretrained=False).model
        torch.save(model.state_dict(), tmp_path / "net.pth")
        saved = ("--save-path", str(tmp_path / "out.png"), "--save-raw", str(tmp_path / "out.npz"))
        return camkit("vis-cam", str(tmp_path / "image.npy"), path, str(tmp_path / "net.pth"), *saved, *flags)

    return run


def scene(bands: int, dtype: type, scale: float) -> Any:
    """A ramp to the right in the first band, downwards in the second, noise in the others."""
    noise = np.random.default_rng(0).random((SIDE, SIDE, bands))
    noise[..., 0] = np.linspace(0, 1, SIDE)
    noise[..., 1:2] = np.linspace(0, 1, SIDE)[:, None, None]
    return (noise * scale).astype(dtype)


@pytest.mark.parametrize("bands", [1, 2, 4, 6, 12])
@pytest.mark.parametrize(("dtype", "scale"), [(np.uint16, 10_000), (np.float32, 1), (np.uint8, 255)])
def test_every_number_of_bands(run: Callable[..., Run], bands: int, dtype: type, scale: float) -> None:
    """The ramp of the first band is drawn over the whole range of grey or red."""
    called = run(scene(bands, dtype, scale), "--alpha", "0")
    assert called.code == 0, called.err
    picture = pixels(called.wrote[0]).astype(int)
    ramp = picture[..., 0 if bands > 2 else 1][SIDE // 2]
    assert (np.diff(ramp) >= 0).all()
    assert len(set(ramp)) > 50
    assert ("scaled from percentile" in called.out) == (dtype is not np.uint8)
    assert ("picture:" in called.out) == (dtype is not np.uint8 or bands > 4)


def test_bands_by_flag(run: Callable[..., Run]) -> None:
    called = run(scene(6, np.uint16, 10_000), "--alpha", "0", "--bands", "3", "2", "--bands", "1")
    assert "picture: bands 3 2 1 of 6 (uint16), scaled from percentile 2 to 98 of each" in called.out
    picture = pixels(called.wrote[0]).astype(int)
    assert (np.diff(picture[SIDE // 2, :, 2]) >= 0).all()
    assert (np.diff(picture[:, SIDE // 2, 1]) >= 0).all()
    grey = run(scene(6, np.uint16, 10_000), "--alpha", "0", "--bands", "2")
    picture = pixels(grey.wrote[0])
    assert (picture == picture[..., :1]).all()


def test_wrong_bands_are_refused_before_the_network_runs(run: Callable[..., Run]) -> None:
    refused(run(scene(2, np.uint16, 9), "--bands", "1", "2", "3"), 2, "bands 1 2 3: the image has 2 bands")


def test_the_map_does_not_depend_on_what_is_shown(run: Callable[..., Run]) -> None:
    maps = [load_raw(run(scene(6, np.uint16, 9), *flags).wrote[1])[0] for flags in ((), ("--bands", "5"))]
    for name in maps[0]:
        np.testing.assert_array_equal(maps[0][name], maps[1][name])


def test_original_size_of_a_pipeline_that_divides(run: Callable[..., Run]) -> None:
    """The whole image is 64 wide, of which the network sees the middle half in another unit."""
    steps = "dict(type='DivideForTests', by=10000.0), dict(type='CenterCrop', crop_size=32),"
    called = run(scene(4, np.uint16, 10_000), "--original-size", steps=steps)
    assert called.code == 0, called.err
    assert pixels(called.wrote[0]).shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("bands", "dtype", "scale", "flags", "steps"),
    [
        (6, np.uint16, 10_000, (), ""),
        (6, np.uint16, 10_000, ("--bands", "5", "2", "1"), "dict(type='CenterCrop', crop_size=40),"),
        (12, np.float32, 1, ("--bands", "2"), ""),
        (1, np.float32, 10_000, (), "dict(type='Resize', scale=32),"),
        (4, np.uint8, 255, (), "dict(type='CenterCrop', crop_size=40),"),
    ],
)
def test_a_run_draws_what_vis_cam_does(
    run: Callable[..., Run],
    camkit: Callable[..., Run],
    tmp_path: Path,
    bands: int,
    dtype: type,
    scale: float,
    flags: tuple[str, ...],
    steps: str,
) -> None:
    """The same bands, scaled alike, whichever part the network saw."""
    pytest.importorskip("pyarrow")
    alone = run(scene(bands, dtype, scale), "--alpha", "0", *flags, steps=steps)
    assert alone.code == 0, alone.err
    whole = run(scene(bands, dtype, scale), "--alpha", "0", "--original-size", *flags, steps=steps)
    same = whole.code == 0 and pixels(whole.wrote[0])
    run(scene(bands, dtype, scale), "--alpha", "0", *flags, steps=steps)
    (tmp_path / "list.txt").write_text("image.npy\n")
    out = tmp_path / "run"
    made = camkit(
        "run", tmp_path / "list.txt", tmp_path / "config.py", tmp_path / "net.pth", "--out", out, "--workers", 0
    )
    assert made.code == 0, made.err
    for extra, expected in (((), pixels(alone.wrote[0])), (("--original-size",), same)):
        drawn = camkit("draw", out, "--out", tmp_path / "drawn", "--alpha", "0", *extra, *flags)
        assert drawn.code == 0, drawn.err
        picture = pixels(drawn.wrote[0]).astype(int)
        assert picture.shape == expected.shape
        # The box is known to a part of a pixel, and resized here by OpenCV in another way than there.
        tolerance = 0 if extra else 12 if "Resize" in steps else 2
        assert np.abs(picture - expected).mean() <= tolerance


def test_a_run_of_many_bands_whose_config_changed_is_not_drawn(
    run: Callable[..., Run], camkit: Callable[..., Run], config: Callable[..., str], tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    run(scene(6, np.uint16, 10_000))
    (tmp_path / "list.txt").write_text("image.npy\n")
    flags = (tmp_path / "config.py", tmp_path / "net.pth", "--out", tmp_path / "run", "--workers", 0)
    assert camkit("run", tmp_path / "list.txt", *flags).code == 0
    refused(camkit("draw", tmp_path / "run", "--bands", 7, "--out", tmp_path / "drawn"), 1, "the image has 6 bands")
    config(6, "dict(type='DivideForTests', by=2.0),")
    from camkit.models.mmpretrain import load_pipeline

    load_pipeline.cache_clear()
    call = camkit("draw", tmp_path / "run", "--out", tmp_path / "drawn")
    refused(call, 1, "says now to read images otherwise than the run did")
