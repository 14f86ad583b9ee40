"""MMEngine's Runner with an MMPretrain config, with and without the hook."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import camkit
from camkit.errors import CamkitError, CamkitWarning, UsageError
from tests.helpers.refusals import refusal
from tests.helpers.training import assert_identical, events, pictures

pytest.importorskip("mmpretrain")

pytestmark = pytest.mark.frameworks

COLOUR = (200, 90, 20)
"""Of what tells the classes, RGB: no two channels alike."""

CONFIG = """
default_scope = "mmpretrain"
custom_imports = dict(imports=["camkit.integrations.mmengine"], allow_failed_imports=False)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNet", depth=18, stem_channels=8, base_channels=8, with_cp={checkpointing}),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=2, in_channels=64, topk=(1,)),
)
data_preprocessor = dict(mean=[120.0, 115.0, 105.0], std=[58.0, 57.0, 56.0], to_rgb=True)
load, pack = dict(type="LoadImageFromFile"), dict(type="PackInputs")
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type="CustomDataset",
        data_root={data!r},
        data_prefix="train",
        pipeline=[load, dict(type="RandomFlip", prob=0.5), pack],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type="CustomDataset",
        data_root={data!r},
        data_prefix="val",
        pipeline=[load, dict(type="Resize", scale=(32, 32)), pack],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
val_evaluator = dict(type="Accuracy", topk=(1,))
train_cfg = {loop}
val_cfg = dict()
optim_wrapper = dict(
    type={wrapper!r},
    optimizer=dict(type="SGD", lr=0.05, momentum=0.9),
    accumulative_counts={accumulate},
)
default_hooks = dict(logger=dict(type="LoggerHook", interval=1), checkpoint=None, sampler_seed=None)
custom_hooks = {hooks!r}
visualizer = dict(type="UniversalVisualizer", vis_backends={backends!r})
randomness = dict(seed=0)
log_level = "ERROR"
work_dir = {work!r}
compile = {compile!r}
"""
BACKENDS = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with a coloured bar at the top or at the bottom: two classes."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for category in range(2):
            for number in range(count // 2):
                image = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
                image[25 * category : 25 * category + 12, 5:35] = COLOUR
                camkit.save_picture(folder / split / f"class{category}" / f"{split}{number}.png", image)
    return folder


@pytest.fixture
def fit(data: Path, tmp_path: Path) -> Callable[..., Any]:
    """Train: a hook's arguments, or None for none, and parts of the config; losses and final weights."""
    pytest.importorskip("tensorboard")

    def run(name: str, hook: dict[str, Any] | None, *others: dict[str, Any], **parts: Any) -> tuple[list[Tensor], Any]:
        from mmengine.config import Config
        from mmengine.runner import Runner

        hooks = [*others, *([{"type": "CAMHook", **hook}] if hook is not None else [])]
        settings: dict[str, Any] = {
            "data": str(data),
            "checkpointing": False,
            "loop": "dict(by_epoch=True, max_epochs=2, val_interval=1)",
            "wrapper": "OptimWrapper",
            "accumulate": 1,
            "backends": BACKENDS,
            "compile": False,
            **parts,
        }
        (tmp_path / name).mkdir(exist_ok=True)
        path = tmp_path / name / "config.py"
        path.write_text(CONFIG.format(work=str(tmp_path / name), hooks=hooks, **settings))
        runner = Runner.from_cfg(Config.fromfile(str(path)))
        losses: list[Tensor] = []
        parse = runner.model.parse_losses

        def parse_losses(found: Any) -> Any:
            losses.append(found["loss"].detach().clone())
            return parse(found)

        runner.model.parse_losses = parse_losses
        runner.train()
        runner.visualizer.close()
        (used,) = [each for each in runner.hooks if type(each).__name__ == "CAMHook"] or [None]
        averages = [each.ema_model for each in runner.hooks if hasattr(each, "ema_model")]
        weights = [value for model in (runner.model, *averages) for value in model.state_dict().values()]
        return [*losses, *weights], used

    return run


def register_bfloat16() -> str:
    """MMEngine's own wrapper for mixed precision refuses to run on a CPU."""
    from contextlib import contextmanager

    from mmengine.optim import OptimWrapper
    from mmengine.registry import OPTIM_WRAPPERS

    if "CPUBfloat16" not in OPTIM_WRAPPERS:

        class CPUBfloat16(OptimWrapper):
            @contextmanager
            def optim_context(self, model: Any) -> Any:
                with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
                    yield

        OPTIM_WRAPPERS.register_module(module=CPUBfloat16)
    return "CPUBfloat16"


EMA = {"type": "EMAHook", "momentum": 0.1}
WAYS: dict[str, Any] = {
    "plain": ((), {}),
    "gradients that add up": ((), {"accumulate": 2}),
    "averaged weights": ((EMA,), {}),
    "checkpointing": ((), {"checkpointing": True}),
    "bfloat16": ((), {"wrapper": "CPUBfloat16"}),
    "all together": ((EMA,), {"wrapper": "CPUBfloat16", "checkpointing": True, "accumulate": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("interval", ["every_n_epochs", "every_n_steps"])
def test_training_is_bit_for_bit_the_one_without(name: str, interval: str, fit: Any) -> None:
    register_bfloat16()
    others, parts = WAYS[name]
    seen, hook = fit("with", {interval: 1, "targets": "both", "num_images": 2, "at_start": True}, *others, **parts)
    without, _ = fit("without", None, *others, **parts)
    assert_identical(seen, without)
    records = 1 + 2 * (2 if interval == "every_n_steps" else 1)
    assert (hook.recorder.records, hook.recorder.failures) == (records, 0)


@pytest.mark.slow
def test_training_of_a_compiled_model_is_the_one_without(fit: Any) -> None:
    if not hasattr(torch.compiler, "set_stance"):
        pytest.skip("torch before 2.6 runs nothing compiled as the Python it was")
    how = {"compile": {"backend": "eager"}}
    torch._dynamo.reset()
    seen, _ = fit("with", {"num_images": 2, "targets": "both"}, **how)
    torch._dynamo.reset()
    assert_identical(seen, fit("without", None, **how)[0])


def test_pictures_and_curves_are_in_every_backend(fit: Any, tmp_path: Path) -> None:
    fit("run", {"per_class": 1, "targets": "label", "folder": str(tmp_path / "maps")})
    found, files = events(tmp_path / "run"), pictures(tmp_path / "maps")
    (local,) = (tmp_path / "run").rglob("vis_image")
    names = ["val0", "val0-2"]
    for name in names:
        assert sorted(found.images[name]) == [1, 2]
        for step, picture in found.images[name].items():
            np.testing.assert_array_equal(picture, files[f"{name}_{step}"])
            np.testing.assert_array_equal(picture, pictures(local)[f"{name}_{step}"])
    assert sorted(found.images["val0_GradCAM_label_strip"]) == [2]
    assert sorted(found.scalars["drift_GradCAM_label"]) == [2]
    lines = [json.loads(line) for line in next((tmp_path / "run").rglob("scalars.json")).read_text().splitlines()]
    assert [line["step"] for line in lines if "drift_GradCAM_label" in line] == [2]
    # 32 pixels become 160: the bar of the second class begins at 25 of 40, in its own colour.
    assert abs(files["val0-2_1"][28 + 120, 28 + 80].astype(int) - COLOUR).max() <= 2


def test_paths_go_through_the_config_s_own_preprocessing(fit: Any, data: Path, tmp_path: Path) -> None:
    from camkit.models.load import load

    path = str(data / "val" / "class1" / "val1.png")
    fit("run", {"images": [path], "at_start": True, "every_n_steps": 9, "logger": False, "folder": str(tmp_path)})
    prepared = load(str(tmp_path / "run" / "config.py"), pretrained=False).prepare(path)
    seen = prepared.picture.repeat(5, 0).repeat(5, 1)
    assert list(pictures(tmp_path)) == ["val1_0"]
    np.testing.assert_array_equal(pictures(tmp_path)["val1_0"][28:188, 28:188], seen)


def test_counts_iterations_where_the_training_does(fit: Any, tmp_path: Path) -> None:
    loop = "dict(by_epoch=False, max_iters=4, val_interval=2)"
    assert "give every_n_steps" in refusal(fit, UsageError, "run", {"every_n_epochs": 1}, loop=loop)
    fit("run", {"every_n_steps": 2, "num_images": 1}, loop=loop)
    assert sorted(events(tmp_path / "run").images["val0"]) == [2, 4]


def test_refuses_what_cannot_work(fit: Any, tmp_path: Path) -> None:
    from camkit.integrations.mmengine import CAMHook

    assert "at least 1; got 0" in refusal(CAMHook, UsageError, every_n_epochs=0)
    assert "no image gone.png" in refusal(fit, CamkitError, "run", {"images": ["gone.png"]})
    assert "no class 'tree' among the 2" in refusal(fit, UsageError, "run", {"targets": ["tree"]})
    assert "outside 0..1" in refusal(fit, UsageError, "run", {"targets": [2]})
    assert "no layer 'backbone.layer9'" in refusal(fit, UsageError, "run", {"target_layers": ["backbone.layer9"]})
    said = refusal(fit, UsageError, "run", {}, backends=[])
    assert "no backend of the run's Visualizer takes pictures (it has none)" in said
    fit("run", {"folder": str(tmp_path / "maps"), "num_images": 1}, backends=[])
    assert "val0_2" in pictures(tmp_path / "maps")


def test_a_failure_in_the_middle_ends_nothing(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> None:
        raise OSError(28, "No space left on device")

    from camkit.integrations.views import Explainer

    monkeypatch.setattr(Explainer, "views", broken)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CamkitWarning)
        seen, hook = fit("with", {"num_images": 1})
    (line,) = [str(each.message) for each in told if each.category is CamkitWarning]
    assert "no maps of epoch 1: " in line
    assert "No space left" in line
    assert (hook.recorder.records, hook.recorder.failures) == (0, 2)
    assert_identical(seen, fit("without", None)[0])
