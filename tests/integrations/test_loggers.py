"""Where pictures and curves go."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from camkit.errors import CamkitError, UsageError
from camkit.integrations.loggers import Folder, Several, as_logger
from tests.helpers.refusals import refusal
from tests.helpers.training import events, pictures

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_tensorboard_holds_what_it_got(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    logger = as_logger(writer)
    logger.add_image("cat", PICTURE, 3)
    logger.add_scalar("drift_GradCAM_label", 0.25, 3)
    writer.close()
    found = events(tmp_path)
    np.testing.assert_array_equal(found.images["cam/cat"][3], PICTURE)
    assert found.scalars == {"cam/drift_GradCAM_label": {3: 0.25}}


def test_a_run_of_weights_and_biases_gets_steps_beside_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []

    class Run:
        def log(self, values: dict[str, Any]) -> None:
            logged.append(values)

    Run.__module__ = "wandb.sdk.wandb_run"
    module: Any = ModuleType("wandb")
    module.Image = lambda picture: ("image", picture.shape)
    monkeypatch.setitem(sys.modules, "wandb", module)
    logger = as_logger(Run())
    logger.add_image("cat", PICTURE, 3)
    logger.add_scalar("drift", 0.5, 3)
    assert logged == [{"cam/cat": ("image", (20, 30, 3)), "cam/step": 3}, {"cam/drift": 0.5, "cam/step": 3}]


def test_what_has_both_functions_is_taken_as_it_is() -> None:
    class Own:
        def __init__(self) -> None:
            self.got: list[Any] = []

        def add_image(self, name: str, image: Any, step: int) -> None:
            self.got.append((name, step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.got.append((name, value, step))

    one, other = Own(), Own()
    assert as_logger(one) is one
    both = Several([one, other])
    both.add_image("cat", PICTURE, 1)
    both.add_scalar("drift", 0.5, 2)
    assert one.got == other.got == [("cat", 1), ("drift", 0.5, 2)]


@pytest.mark.parametrize("given", [3, "logs", print])
def test_what_takes_no_pictures_is_refused(given: Any) -> None:
    assert f"a {type(given).__name__} takes no pictures" in refusal(as_logger, UsageError, given)


class TestFolder:
    def test_keeps_pictures_by_step_and_curves_in_lines(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path / "new" / "maps")
        assert list((tmp_path / "new" / "maps").iterdir()) == []
        for step in (1, 2):
            folder.add_images({"cat": PICTURE, "dog": PICTURE}, step)
            folder.add_scalars({"drift, a": 0.1 * step}, step)
            folder.replace_images({"cat_strip": PICTURE})
        assert set(pictures(folder.path)) == {"cat_1", "cat_2", "dog_1", "dog_2", "cat_strip"}
        assert (folder.path / "curves.csv").read_text() == 'name,step,value\n"drift, a",1,0.1\n"drift, a",2,0.2\n'

    def test_goes_on_with_curves_that_are_there(self, tmp_path: Path) -> None:
        Folder(tmp_path).add_scalars({"drift": 0.5}, 1)
        Folder(tmp_path).add_scalars({"drift": 0.25}, 2)
        assert (tmp_path / "curves.csv").read_text().splitlines() == ["name,step,value", "drift,1,0.5", "drift,2,0.25"]

    def test_writes_all_pictures_of_a_step_or_none(self, tmp_path: Path) -> None:
        (tmp_path / "dog_1.png").mkdir()
        with pytest.raises(CamkitError, match="can't write"):
            Folder(tmp_path).add_images({"cat": PICTURE, "dog": PICTURE}, 1)
        assert pictures(tmp_path / "dog_1.png") == {}
        assert not (tmp_path / "cat_1.png").exists()
