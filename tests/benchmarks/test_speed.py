"""The benchmark measures, writes and draws. No times are judged here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.__main__ import _chosen, _options, main
from benchmarks.speed import cells, memory
from benchmarks.speed.charts import bars, lines
from benchmarks.speed.contestants import IDEAL, NOISY, PASSES, PLAIN, Contestant, field, questions, subject
from benchmarks.speed.files import load
from benchmarks.speed.isolated import isolated
from benchmarks.speed.measure import measure, rows_of
from benchmarks.speed.scaling import SMOKE, along, fit
from benchmarks.speed.soak import soak
from benchmarks.speed.startup import SHORT, startup
from benchmarks.speed.table import full, readme
from benchmarks.speed.targets import TARGETS, judged
from benchmarks.speed.throughput import Load, throughput
from benchmarks.speed.timing import Times, interleaved, once, summary
from camkit.methods.maps import finish

pytestmark = pytest.mark.peers

OWN_CELLS = {
    "ScoreCAM": ("grad-cam", "torchcam"),
    "AblationCAM": ("grad-cam",),
    "SmoothGradCAM++": ("torchcam",),
    "ShapleyCAM": ("grad-cam",),
    "FullGrad": ("grad-cam",),
}
"""Methods that have cells of their own, with who has them too."""


def cell_of(method: str) -> cells.Cell:
    return next(cell for cell in cells.SMOKE if cell.task == method)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [row for cell in cells.SMOKE for row in measure(cell)]


def test_everybody_runs_or_says_why_not(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if "why_not" in row:
            assert row["why_not"].startswith("has "), row
        else:
            assert row["rounds"] >= 2
            assert row["quartiles"][0] <= row["seconds"] <= row["quartiles"][1]
            assert row["ratio"] > 0
    ran = {(row["who"], row["what"]) for row in rows if "ratio" in row}
    assert {(who, "GradCAM") for who in ("camkit", *cells.ALL)} <= ran
    assert {(who, method) for who in ("camkit", "grad-cam") for method in cells.METHODS} <= ran
    assert {(who, method) for method, peers in OWN_CELLS.items() for who in ("camkit", *peers)} <= ran
    assert {
        (PLAIN, ""),
        (IDEAL, ""),
        (PASSES, ""),
        ("grad-cam", "all six methods"),
        ("Captum", "GradCAM, 3 categories"),
    } <= ran
    assert {row["who"] for row in rows if "why_not" in row} == {"torchcam", "Captum"}


def test_methods_that_consist_of_passes_are_held_against_these(rows: list[dict[str, Any]]) -> None:
    for method in ("ScoreCAM", "SmoothGradCAM++"):
        found = {row["who"]: row for row in rows if row["cell"].startswith(f"tiny-late-b2-{method}")}
        assert found[PASSES]["ratio"] == 1
        assert found[PASSES]["ratio_quartiles"] == [1, 1]
        assert found["camkit"]["chunk"] == cell_of(method).chunk
    assert found["camkit"]["channels"] == [16, 16]


@pytest.mark.parametrize("method", ["ScoreCAM", "SmoothGradCAM++"])
def test_passes_show_the_network_as_many_images_as_camkit_does(method: str) -> None:
    of = subject(cell_of(method), "cpu")
    shown: dict[str, list[int]] = {PASSES: [], "camkit": [], "torchcam": []}
    for each in field(cell_of(method), of):
        if each.who in shown:
            once(each)  # what is learnt at the first call isn't counted
            with of.model.register_forward_pre_hook(lambda _, args, who=each.who: shown[who].append(len(args[0]))):
                once(each)
    least = 2 + 2 * (12 if method == "ScoreCAM" else NOISY)
    assert sum(shown[PASSES]) == sum(shown["camkit"]) == least <= sum(shown["torchcam"])
    assert max(shown[PASSES]) == max(shown["camkit"]) == cell_of(method).chunk


def test_who_perturbs_many_channels_is_warmed_up_with_few() -> None:
    of = subject(cell_of("ScoreCAM"), "cpu")
    images_shown: list[int] = []
    for each in field(cell_of("ScoreCAM"), of):
        assert (each.warm is not None) == (each.who not in (PLAIN, PASSES))
        if each.warm:
            with of.model.register_forward_pre_hook(lambda _, args: images_shown.append(len(args[0]))):
                once(each.warm)
            assert 2 * 8 <= sum(images_shown) < 2 * 12, each.who
            images_shown.clear()


def test_shapley_values_agree() -> None:
    cell = cell_of("ShapleyCAM")
    of = subject(cell, "cpu")
    _, *contestants = field(cell, of)
    found = {}
    for each in contestants:
        with each.around():
            answer = each.call()
        found[each.who] = torch.as_tensor(answer[0] if isinstance(answer, list) else answer)
    torch.testing.assert_close(found["camkit"], found["grad-cam"], atol=1e-4, rtol=0)


def test_answers_are_maps_of_the_same_thing() -> None:
    of = subject(cells.Cell("tiny", "late", 2, "GradCAM"), "cpu")
    contestants = {each.who: each for each in field(cells.Cell("tiny", "late", 2, "GradCAM"), of)}
    found = {}
    for who in ("camkit", *cells.ALL):
        with contestants[who].around():
            answer = contestants[who].call()
        found[who] = torch.as_tensor(answer[0] if isinstance(answer, list) else answer)
    torch.testing.assert_close(found["camkit"], found["grad-cam"], atol=1e-4, rtol=0)
    for coarse in (found["torchcam"], found["Captum"][:, 0]):
        assert coarse.shape[1:] == (16, 16)
        torch.testing.assert_close(finish([coarse], (32, 32)), found["camkit"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("cell", [cells.SMOKE[0], *(cell for cell in cells.SMOKE if cell.task in OWN_CELLS)])
def test_nobody_leaves_hooks_or_gradients_in_the_others_way(
    cell: cells.Cell, capfd: pytest.CaptureFixture[str]
) -> None:
    of = subject(cell, "cpu")
    modules = list(of.model.modules())
    interleaved(field(cell, of), (1, 1), 0)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in of.model.parameters())
    assert all(now is before for now, before in zip(of.model.modules(), modules, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert capfd.readouterr() == ("", "")


def test_the_ideal_is_the_gradient_of_the_score() -> None:
    of = subject(cells.Cell("tiny", "early", 2, "GradCAM"), "cpu")
    contestants = field(cells.Cell("tiny", "early", 2, "GradCAM"), of)
    ideal = next(each for each in contestants if each.who == IDEAL)
    with ideal.around():
        (found,) = ideal.call()
    kept: list[torch.Tensor] = []
    with of.modules[0].register_forward_hook(lambda _, __, output: kept.append(output)):
        score = of.model(of.images).gather(1, torch.tensor(of.categories)).sum()
    torch.testing.assert_close(found, torch.autograd.grad(score, kept)[0])


def test_a_contestant_that_fails_is_a_row() -> None:
    def fail() -> None:
        raise ValueError("broken\n  badly")

    times = interleaved([Contestant("a", "", lambda: None), Contestant("b", "", fail)], (2, 2), 0)
    assert times[1].why_not == "fails: ValueError: broken badly"
    assert len(times[0].seconds) >= 2


def test_ratios_are_over_the_rounds_that_both_ran_in() -> None:
    found = summary(Times({0: 2.0, 1: 4.0}), Times({0: 1.0, 1: 2.0, 2: 50.0, 3: 50.0}))
    assert (found["ratio"], found["seconds"], found["rounds"]) == (2.0, 3.0, 2)
    assert found["ratio_quartiles"] == [2.0, 2.0]


def test_targets_name_cells_and_questions_that_are_measured() -> None:
    known = {cell.name: cell for cell in (*cells.FULL, *memory.FULL)}
    for target in TARGETS:
        assert target.cell in {cell.name for cell in (memory.FULL if target.of_memory else cells.FULL)}
        assert known[target.cell].batch in (1, 4, 16)
        asked = [question.label for question in questions(known[target.cell])]
        assert set(target.whats) <= set(asked)
        assert {target.times} <= {"", IDEAL, *known[target.cell].peers}
        assert set(target.ahead_of) <= set(known[target.cell].peers)
    for plan in (cells.FULL, cells.QUICK, cells.SMOKE):
        assert len({cell.name for cell in plan}) == len(plan)


def _row(who: str, ratio: float, what: str = "GradCAM", cell: str = "resnet50-late-b1-methods") -> dict[str, Any]:
    return {"cell": cell, "who": who, "what": what, "ratio": ratio}


def test_a_target_is_missed_by_the_number_or_by_a_peer_in_front() -> None:
    mine = {ratio: judged([_row("camkit", ratio), _row("Captum", 1.04)])[0] for ratio in (1.03, 1.045, 1.06)}
    assert [mine[ratio]["met"] for ratio in mine] == [True, False, False]
    assert mine[1.03]["target"] == 1.05
    cell = "resnet50-early-b16-GradCAM"
    assert judged([_row("camkit", 3.2, cell=cell), _row(IDEAL, 3.0, "", cell)])[0]["met"] is False
    assert judged([_row("camkit", 3.1, cell=cell), _row(IDEAL, 3.0, "", cell)])[0]["met"] is True
    assert "| **no** |" in readme({"speed": {"rows": [_row("camkit", 1.2), _row("Captum", 2.0)]}})


def test_a_target_may_be_a_part_of_a_peers_time() -> None:
    cell = "resnet50-late-b1-AblationCAM"
    rows = {
        ratio: judged([_row("camkit", ratio, "AblationCAM", cell), _row("grad-cam", 1000, "AblationCAM", cell)])[0]
        for ratio in (19, 21)
    }
    assert [rows[ratio]["target"] for ratio in rows] == [20, 20]
    assert [rows[ratio]["met"] for ratio in rows] == [True, False]
    assert "| 0.02 x grad-cam: 20.00 | **no** |" in readme(
        {"speed": {"rows": [_row("camkit", 21, "AblationCAM", cell), _row("grad-cam", 1000, "AblationCAM", cell)]}}
    )


def test_memory_of_who_perturbs_is_held_against_a_chunk() -> None:
    cell = memory.SMOKE[1]
    assert cell.side == 128
    assert cell.chunk
    assert memory.peak(cell, PLAIN, "") >= cell.chunk * 8 * 64 * 64 * 4  # the first activation


def test_memory_is_counted_from_the_loaded_model() -> None:
    cell = memory.SMOKE[0]
    least = 256 * 8 * 16 * 16 * 4  # the first activation
    assert memory.peak(cell, PLAIN, "") >= least


def test_soaking_finds_no_leak() -> None:
    found = soak(110)
    assert found["maps_made"] > 110
    assert found["maps_alive"] == 0
    assert found["tensors_more"] <= 0


def test_what_dies_in_a_process_of_its_own_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.speed.isolated.PRELOAD", [])  # seconds of imports that this needs none of
    assert isolated(divmod, 7, 2) == (3, 1)
    with pytest.raises(RuntimeError, match=r"the process died \(exit code 3\)"):
        isolated(os._exit, 3)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        isolated(divmod, 1, 0)


def test_a_cell_whose_process_dies_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("the process died")

    monkeypatch.setattr("benchmarks.speed.measure.isolated", die)
    (row,) = rows_of(cells.SMOKE[:1], "cpu")
    assert row["why_not"] == "fails in tiny-late-b2-methods: the process died"
    assert "fails in tiny-late-b2-methods" in full({"speed": {"machine": load()["speed"]["machine"], "rows": [row]}})


def test_lines_are_fitted() -> None:
    found = fit([1, 2, 3], [3.0, 5.0, 7.0])
    assert found == pytest.approx({"slope": 2.0, "intercept": 1.0, "r2": 1.0})


def test_tables_and_charts(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    scaled = along(SMOKE[0], "tiny", 2)
    machine = load()["speed"]["machine"]
    results = {"speed": {"machine": machine, "rows": rows}, "scaling": {"machine": machine, "rows": scaled}}
    text = full(json.loads(json.dumps(results)))
    assert "| tiny CNN | `4` | 2 | EigenCAM |" in text
    assert "- Captum has GradCAM only" in text
    assert "| tiny CNN | `4` | 2 | ScoreCAM | 12 of 16 | 8 |" in text
    assert "| tiny CNN | `4` | 2 | AblationCAM | all 16 | 8 |" in text
    assert "| tiny CNN | all | 2 | FullGrad |" in text
    bars(rows, tmp_path / "bars.png")
    lines(scaled, tmp_path / "lines.png")
    for name in ("bars.png", "lines.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200


def test_throughput_counts_images() -> None:
    found = throughput(Load("tiny", 4, 2), "cpu")
    assert [row["what"] for row in found] == [PLAIN, *cells.METHODS, "all six methods", "GradCAM, eigen-smooth"]
    for row in found:
        assert row["images_per_second"] == pytest.approx(4 / row["seconds"])
    assert "tiny, batch 4, torch.bfloat16" in full(
        {"throughput": {"rows": found, "machine": load()["speed"]["machine"]}}
    )


def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        _options(["--device", "cuda"])
    assert "no CUDA device on this machine" in capsys.readouterr().err
    assert "throughput" not in _options([]).parts


def test_startup_measures_what_camkit_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr("subprocess.run", lambda command, **_: ran.append(" ".join(command[1:])))
    found = startup(2, vis_cam=False)
    assert {row["what"] for row in found["differences"]} == {"import camkit", "from camkit import CAM", "camkit --help"}
    assert len(ran) == 3 * SHORT * len(found["rows"])
    assert "-m camkit --help" in ran


def test_the_command_writes_json_markdown_and_charts(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.__main__.rows_of", lambda *_: rows)
    main(["speed", "charts", "--smoke", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"speed.json", "speed.md", "speed.png"}
    written = json.loads((tmp_path / "speed.json").read_text())
    assert {"commit", "threads", "device", "versions", "model", "changed"} <= written["machine"].keys()
    assert {"grad-cam", "torchcam", "captum", "torch"} <= written["machine"]["versions"].keys()
    commit = written["machine"]["commit"]
    assert written["rows"] == [row | {"commit": commit} for row in json.loads(json.dumps(rows))]
    assert "not measured" in capsys.readouterr().out


def test_cells_measured_again_replace_their_rows(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.__main__.rows_of", lambda *_: rows)
    main(["speed", "--smoke", "--out", str(tmp_path)])
    again = [row | {"seconds": 7.0} for row in rows if row["cell"] == "tiny-early-b2-GradCAM"]
    monkeypatch.setattr("benchmarks.__main__.rows_of", lambda *_: again)
    main(["speed", "--smoke", "--only", "early", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "speed.json").read_text())
    assert [row["cell"] for row in written["rows"]] == [row["cell"] for row in rows]
    assert {row["cell"] for row in written["rows"] if row.get("seconds") == 7.0} == {"tiny-early-b2-GradCAM"}
    # Of other code: every row says of which.
    before = [row | {"commit": "0" * 40} for row in written["rows"]]
    (tmp_path / "speed.json").write_text(json.dumps(written | {"rows": before}))
    main(["speed", "--smoke", "--only", "early", "--out", str(tmp_path)])
    mixed = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert {row["cell"] for row in mixed if row["commit"] != "0" * 40} == {"tiny-early-b2-GradCAM"}
    assert f"commit `{'0' * 12}`, of tiny-early-b2-GradCAM `" in (tmp_path / "speed.md").read_text()
    (tmp_path / "speed.json").write_text(json.dumps(written | {"machine": written["machine"] | {"threads": 99}}))
    with pytest.raises(SystemExit, match="was measured elsewhere or with other versions"):
        main(["speed", "--smoke", "--only", "early", "--out", str(tmp_path)])


def test_cells_are_chosen_by_parts_of_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert [cell.batch for cell in _chosen(cells.FULL, ["swin-late"])] == [1, 4, 16]
    with pytest.raises(SystemExit, match="no cell's name holds nothing"):
        _chosen(cells.FULL, ["nothing"])
    with pytest.raises(SystemExit):
        _options(["sped"])
    assert "no part sped" in capsys.readouterr().err


def test_kept_results_are_of_this_schema() -> None:
    for part, found in load().items():
        assert {"machine"} < found.keys(), part
    assert all(row["ratio"] > 0 for row in load()["speed"]["rows"] if "why_not" not in row)
