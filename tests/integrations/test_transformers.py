"""transformers' Trainer with and without the callback."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import camkit
from camkit.errors import CamkitError, CamkitWarning, UsageError
from tests.helpers.refusals import refusal
from tests.helpers.training import assert_identical, events, examples, pictures

transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("tensorboard")

from camkit.integrations.transformers import CAMCallback  # noqa: E402

pytestmark = pytest.mark.frameworks

EPOCHS = 2


class Examples(torch.utils.data.Dataset[Any]):
    """Items as image classifiers of transformers take them."""

    def __init__(self) -> None:
        self.images, self.labels = examples(8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.images[index], "labels": int(self.labels[index])}


class Losses(transformers.TrainerCallback):
    """Keeps what the Trainer logs."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(torch.tensor(logs["loss"]))


def tiny() -> Any:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=4,
        num_labels=5,
        hidden_dropout_prob=0.1,
    )
    return transformers.ViTForImageClassification(config)


def fit(folder: Path, *callbacks: Any, model: Any = None, processing_class: Any = None, **how: Any) -> list[Tensor]:
    """Train for two epochs, shuffled; losses and final weights."""
    torch.default_generator.manual_seed(0)
    model = tiny() if model is None else model
    options = {"report_to": "tensorboard", "num_train_epochs": EPOCHS, **how}
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        dataloader_pin_memory=False,
        **options,
    )
    kept = Losses()
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=Examples(),
        callbacks=[kept, *callbacks],
        processing_class=processing_class,
    )
    trainer.train()
    return [*kept.losses, *model.state_dict().values()]


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gradients that add up": {"gradient_accumulation_steps": 2},
    "bfloat16": {"bf16": True},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("interval", ["every_n_epochs", "every_n_steps"])
def test_training_is_bit_for_bit_the_one_without(name: str, interval: str, tmp_path: Path) -> None:
    callback = CAMCallback(Examples(), **{interval: 1}, targets="both", num_images=2, at_start=True)
    assert_identical(fit(tmp_path / "with", callback, **WAYS[name]), fit(tmp_path / "without", **WAYS[name]))
    steps = 2 if "gradient_accumulation_steps" in WAYS[name] else 4
    records = 1 + EPOCHS * (steps if interval == "every_n_steps" else 1)
    assert (callback.recorder.records, callback.recorder.failures) == (records, 0)


@pytest.mark.slow
def test_training_of_a_compiled_model_is_the_one_without(tmp_path: Path) -> None:
    if not hasattr(torch.compiler, "set_stance"):
        pytest.skip("torch before 2.6 runs nothing compiled as the Python it was")
    how = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    torch._dynamo.reset()
    seen = fit(tmp_path / "with", CAMCallback(Examples(), num_images=2, targets="both"), **how)
    torch._dynamo.reset()
    assert_identical(seen, fit(tmp_path / "without", **how))


def test_pictures_and_curves_are_beside_the_losses(tmp_path: Path) -> None:
    callback = CAMCallback(Examples(), num_images=3, folder=tmp_path / "maps", methods=["GradCAM", "LayerCAM"])
    fit(tmp_path / "logs", callback)
    assert len({path.parent for path in (tmp_path / "logs").rglob("events.out.tfevents.*")}) == 1
    found, files = events(tmp_path / "logs"), pictures(tmp_path / "maps")
    assert "train/loss" in found.scalars
    for number in range(3):
        assert sorted(found.images[f"cam/image{number}"]) == [1, 2]
        for step, picture in found.images[f"cam/image{number}"].items():
            np.testing.assert_array_equal(picture, files[f"image{number}_{step}"])
    assert sorted(found.images["cam/image0_LayerCAM_label_strip"]) == [2]
    assert sorted(found.scalars["cam/drift_GradCAM_label"]) == [2]


def test_class_names_come_from_the_model(tmp_path: Path) -> None:
    model = tiny()
    model.config.id2label = dict(enumerate(["zero", "one", "two", "three", "four"]))
    callback = CAMCallback(Examples(), num_images=1, targets=["three"], every_n_steps=2)
    fit(tmp_path, callback, model=model)
    assert sorted(events(tmp_path).scalars["cam/drift_GradCAM_class3"]) == [4, 6, 8]


def test_paths_go_through_the_trainer_s_image_processor(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    camkit.save_picture(tmp_path / "photo.png", photo)
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16}, image_std=[0.5, 0.4, 0.3])
    callback = CAMCallback([tmp_path / "photo.png"], folder=tmp_path / "maps", targets="predicted", logger=False)
    fit(tmp_path, callback, processing_class=processor)
    seen = processor(photo, return_tensors="np", do_normalize=False)["pixel_values"][0].transpose(1, 2, 0)
    shown = pictures(tmp_path / "maps")["photo_1"][28:188:10, 28:188:10]
    assert abs(shown - 255 * seen).max() <= 1


def test_nowhere_to_put_pictures(tmp_path: Path) -> None:
    said = refusal(fit, UsageError, tmp_path, CAMCallback(Examples()), report_to="none")
    assert "set report_to='tensorboard', or give folder=" in said
    fit(tmp_path, CAMCallback(Examples(), num_images=1, folder=tmp_path / "maps"), report_to="none")
    assert "image0_2" in pictures(tmp_path / "maps")


def test_refuses_what_cannot_work(tmp_path: Path) -> None:
    assert "at least 1; got 0" in refusal(CAMCallback, UsageError, Examples(), every_n_steps=0)
    assert "no image gone.png" in refusal(fit, CamkitError, tmp_path, CAMCallback(["gone.png"]))
    assert "outside 0..4" in refusal(fit, UsageError, tmp_path, CAMCallback(Examples(), targets=[9]))


def test_a_failure_in_the_middle_ends_nothing(tmp_path: Path) -> None:
    callback = CAMCallback(Examples(), num_images=1)

    class Breaks(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            callback.recorder._explainer.samples[0].inputs.fill_(float("nan"))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CamkitWarning)
        found = fit(tmp_path, callback, Breaks())
    (line,) = [str(each.message) for each in told if each.category is CamkitWarning]
    assert line.startswith("no maps of epoch 1: ")
    assert callback.recorder.failures == EPOCHS
    assert_identical(found, fit(tmp_path))
