"""The first two hundred trials of ``python -m tests.fuzz``."""

from __future__ import annotations

import pytest

from tests.fuzz.trial import Fuzz
from tests.models.installed import installed

pytestmark = pytest.mark.frameworks

COUNT, PARTS = 200, 8


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Fuzz:
    for framework in ("mmpretrain", "timm", "torchvision", "transformers"):
        installed(framework)
    return Fuzz(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("part", range(PARTS))
def test_every_file_ends_in_the_frameworks_map_or_in_one_line(part: int, fuzz: Fuzz) -> None:
    outcomes = [fuzz.run(number) for number in range(part, COUNT, PARTS)]
    assert [outcome for outcome in outcomes if outcome.kind == "defect"] == []
    assert {"map", "refused"} == {outcome.kind for outcome in outcomes}
