"""Lightning's Trainer with and without the callback."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from camkit.errors import CamkitError, CamkitWarning, UsageError
from tests.helpers.forwards import count_forwards
from tests.helpers.networks import SmallCNN
from tests.helpers.refusals import refusal
from tests.helpers.training import Checkpointed, assert_identical, events, examples, pictures

lightning: Any = pytest.importorskip("lightning.pytorch")
pytest.importorskip("tensorboard")

from camkit.integrations.lightning import CAMCallback  # noqa: E402

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore:.*:Warning:lightning")]

EPOCHS = 2


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Lightning advises on workers and loggers."""
    with warnings.catch_warnings():
        for text in (".*does not have many workers", ".*is smaller than the logging interval", ".*num_workers"):
            warnings.filterwarnings("ignore", text)
        yield


class Classifier(lightning.LightningModule):
    """A LightningModule around a network."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.losses: list[Tensor] = []

    def forward(self, images: Tensor) -> Any:
        return self.network(images)

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, labels = batch
        loss = functional.cross_entropy(self(images), labels)
        self.losses.append(loss.detach())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(
    folder: Path,
    *callbacks: Any,
    network: Callable[[], torch.nn.Module] = SmallCNN,
    validate: bool = True,
    package: Any = lightning,
    module: Any = Classifier,
    **how: Any,
) -> list[Tensor]:
    """Train for two epochs of three batches, shuffled; losses and final weights."""
    torch.default_generator.manual_seed(0)
    model = module(network())
    options = {"logger": package.loggers.TensorBoardLogger(str(folder)), "max_epochs": EPOCHS, **how}
    trainer = package.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    data = torch.utils.data.TensorDataset(*examples())
    training = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    validation = torch.utils.data.DataLoader(data, batch_size=4) if validate else None
    trainer.fit(model, training, validation)
    return [*model.losses, *model.state_dict().values()]


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gradients that add up": {"accumulate_grad_batches": 2},
    "bfloat16": {"precision": "bf16-mixed"},
    "averaged weights": {"averaged": True},
    "checkpointing": {"network": Checkpointed},
}


def with_average(averaged: bool = False, **how: Any) -> Any:
    """Arguments of :func:`fit` with Lightning's own average of weights."""
    if not averaged:
        return [], how
    found = getattr(lightning.callbacks, "WeightAveraging", None)
    if found is None:
        pytest.skip("Lightning before 2.6 averages no weights")
    return [found()], how


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("interval", ["every_n_epochs", "every_n_steps"])
def test_training_is_bit_for_bit_the_one_without(name: str, interval: str, tmp_path: Path) -> None:
    callback = CAMCallback(**{interval: 1}, targets="both", num_images=2, at_start=True)
    others, how = with_average(**WAYS[name])
    seen = fit(tmp_path / "with", callback, *others, **how)
    others, how = with_average(**WAYS[name])
    assert_identical(seen, fit(tmp_path / "without", *others, **how))
    steps = 3 if interval == "every_n_steps" and "accumulate_grad_batches" not in how else 2
    records = 1 + EPOCHS * (steps if interval == "every_n_steps" else 1)
    assert (callback.recorder.records, callback.recorder.failures) == (records, 0)


@pytest.mark.slow
def test_training_of_a_compiled_network_is_the_one_without(tmp_path: Path) -> None:
    if not hasattr(torch.compiler, "set_stance"):
        pytest.skip("torch before 2.6 runs nothing compiled as the Python it was")
    torch._dynamo.reset()
    seen = fit(tmp_path / "with", CAMCallback(num_images=2, targets="both"), network=compiled)
    torch._dynamo.reset()
    assert_identical(seen, fit(tmp_path / "without", network=compiled))


def compiled() -> Any:
    """Inside the LightningModule: of whole ones Lightning's own ``log`` doesn't compile with today's torch."""
    return torch.compile(SmallCNN(), backend="aot_eager")


def test_pictures_and_curves_are_in_the_event_file(tmp_path: Path) -> None:
    callback = CAMCallback(per_class=1, targets="label", folder=tmp_path / "maps", at_start=True)
    fit(tmp_path / "logs", callback)
    found, files = events(tmp_path / "logs"), pictures(tmp_path / "maps")
    for number in range(5):
        assert sorted(found.images[f"cam/image{number}"]) == [0, 1, 2]
        for step, picture in found.images[f"cam/image{number}"].items():
            np.testing.assert_array_equal(picture, files[f"image{number}_{step}"])
    assert sorted(found.images["cam/image0_GradCAM_label_strip"]) == [1, 2]
    assert sorted(found.scalars["cam/drift_GradCAM_label"]) == [1, 2]
    assert all(0 <= value <= 2 for value in found.scalars["cam/drift_GradCAM_label"].values())


def test_an_epoch_costs_its_record_and_nothing_else(tmp_path: Path) -> None:
    counted = {}
    for every in (1, 2):
        network = SmallCNN()
        forwards = count_forwards(network)
        callback = CAMCallback(every_n_epochs=every, num_images=2, network="network", target_layers="norm2")
        fit(tmp_path, callback, network=lambda network=network: network, max_epochs=4)
        counted[every] = len(forwards), callback.recorder.records
    assert counted[1][1] - counted[2][1] == 2
    assert counted[1][0] - counted[2][0] == 2


def test_takes_a_validation_set_that_comes_into_use_later(tmp_path: Path) -> None:
    class Drawing(Classifier):
        """Brings its own, with numbers drawn for it."""

        def val_dataloader(self) -> Any:
            torch.rand(7)
            return torch.utils.data.DataLoader(list(zip(*examples(), strict=True)), batch_size=4)

    how: dict[str, Any] = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2, "network": with_dropout}
    for others in ({}, {"validate": False, "module": Drawing}):
        callback = CAMCallback(num_images=2)
        assert_identical(fit(tmp_path / "with", callback, **how, **others), fit(tmp_path / "without", **how, **others))
        assert (callback.recorder.records, callback.recorder.failures) == (2, 0)


def with_dropout() -> torch.nn.Module:
    network = SmallCNN()
    network.norm1 = torch.nn.Sequential(network.norm1, torch.nn.Dropout(0.2))  # type: ignore[assignment]
    return network


def test_takes_a_submodule_and_says_which_there_are(tmp_path: Path) -> None:
    callback = CAMCallback(network="network", num_images=1)
    fit(tmp_path, callback)
    assert callback.recorder.records == EPOCHS
    said = refusal(fit, UsageError, tmp_path, CAMCallback(network="net"))
    assert said == "no module 'net' in the Classifier; there are: network"


def test_a_logger_without_pictures_gets_the_curves_and_a_folder_the_pictures(tmp_path: Path) -> None:
    logger = lightning.loggers.CSVLogger(str(tmp_path))
    assert "none of the Trainer's loggers takes pictures (it has CSVLogger)" in refusal(
        fit, UsageError, tmp_path, CAMCallback(), logger=logger
    )
    assert "it has none" in refusal(fit, UsageError, tmp_path, CAMCallback(), logger=False)
    fit(
        tmp_path, CAMCallback(folder=tmp_path / "maps", num_images=1), logger=lightning.loggers.CSVLogger(str(tmp_path))
    )
    assert "image0_2" in pictures(tmp_path / "maps")
    assert "cam/drift_GradCAM_label" in next(tmp_path.rglob("metrics.csv")).read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs is a whole number, at least 1; got 0"),
        ({"every_n_steps": -1}, "every_n_steps is a whole number, at least 1; got -1"),
        ({"every_n_epochs": 1, "every_n_steps": 1}, "exclude each other"),
        ({"tragets": "both"}, "closest: targets"),
    ],
)
def test_refuses_bad_arguments_at_once(options: dict[str, Any], said: str) -> None:
    assert said in refusal(CAMCallback, UsageError, **options)


def test_refuses_what_cannot_work_when_the_training_starts(tmp_path: Path) -> None:
    assert "no image gone.png" in refusal(fit, CamkitError, tmp_path, CAMCallback(["gone.png"]))
    assert "outside 0..4" in refusal(fit, UsageError, tmp_path, CAMCallback(targets=[5]))
    assert "no validation set" in refusal(fit, UsageError, tmp_path, CAMCallback(), validate=False)


def test_a_failure_in_the_middle_ends_nothing(tmp_path: Path) -> None:
    class Breaks(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            if not self.training and len(images) == 3:
                Breaks.calls += 1
                if Breaks.calls > 1:
                    raise RuntimeError("broken")
            return super().forward(images)

        calls = 0

    callback = CAMCallback(num_images=3, target_layers="network.norm2", targets="predicted")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CamkitWarning)
        found = fit(tmp_path, callback, network=Breaks)
    (line,) = [str(each.message) for each in told if each.category is CamkitWarning]
    assert line.startswith("no maps of epoch 1: ")
    assert "broken" in line
    assert callback.recorder.failures == EPOCHS
    assert_identical(found, fit(tmp_path))


def test_works_with_the_other_package_of_the_same_authors(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    package = import_module("pytorch_lightning")

    members = {name: value for name, value in vars(Classifier).items() if callable(value) and name != "__init__"}
    module = type("Other", (package.LightningModule,), {**members, "__init__": _init})
    callback = CAMCallback(num_images=1)
    fit(tmp_path, callback, package=package, module=module)
    assert callback.recorder.records == EPOCHS


def _init(self: Any, network: torch.nn.Module) -> None:
    super(type(self), self).__init__()
    self.network = network
    self.losses = []
