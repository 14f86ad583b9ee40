"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.speed.cells import ALL
from benchmarks.speed.contestants import IDEAL, PASSES, PLAIN
from benchmarks.speed.targets import TARGETS, Target, find, limit, met, ratio

Row = dict[str, Any]
Results = dict[str, Any]
PACKAGES = ("camkit", *ALL)
WITHOUT_QUESTION = (PLAIN, IDEAL, PASSES)
NOT_MEASURED = "not measured"
WORDS = {IDEAL: "the least possible"}
PARTS = f"""\
Whoever perturbs channels, or images, does so as often as the others, and with as many at a time where it can be told.
*{PASSES.capitalize()}* are the plain forwards that a method consists of, with as many at a time: of ScoreCAM one of the
image and one for every channel; of SmoothGradCAM++ one of the image, and of every noisy one the least that gives a
gradient (a forward, and the backward behind the layer). Times are in these; those of AblationCAM, which needs no whole
forwards, are in plain ones."""
CHUNKS = (
    "Methods that perturb: the plain forward is that of as many images as go through the network at a time. "
    "In ScoreCAM every package has as many as by default: camkit those in the table, grad-cam 16, torchcam 32."
)


def readme(results: Results) -> str:
    """The promises, and what came of them."""
    lines = _header("case", *PACKAGES, "target", "met")
    for target in TARGETS:
        rows = _rows(results, "memory" if target.of_memory else "speed")
        shown = [ratio(rows, target.cell, who, target.whats) for who in PACKAGES]
        kept = met(target, rows, target.whats)
        verdict = NOT_MEASURED if kept is None else "yes" if kept else "**no**"
        lines.append(_line(target.case, *map(_times, shown), _aim(target, rows), verdict))
    return "\n".join(lines)


def _aim(target: Target, rows: Sequence[Row]) -> str:
    aim = _times(limit(target, rows))
    if target.times:
        aim = f"{target.most} x {WORDS.get(target.times, target.times)}{aim and f': {aim}'}"
    elif target.plus:
        aim = f"{target.plus} + {target.most}{aim and f': {aim}'}"
    return f"{aim}, ahead of {', '.join(target.ahead_of)}" if target.ahead_of else aim


def full(results: Results) -> str:
    """Everything that was measured."""
    parts = ["# Speed", _where(results), "## Targets", readme(results)]
    speed, perturbing = _split(_rows(results, "speed"))
    if speed:
        parts += ["## Time, in plain forwards of the same model and batch", _pivot(speed, _time), _notes(speed)]
    if perturbing:
        parts += ["## Time of methods that perturb", PARTS]
        parts += [_pivot(perturbing, _time), _notes(perturbing)]
    memory, perturbing = _split(_rows(results, "memory"))
    if memory:
        parts += ["## Peak memory above the loaded model", _pivot(memory, _memory), _notes(memory)]
    if perturbing:
        parts += [CHUNKS, _pivot(perturbing, _memory), _notes(perturbing)]
    if soak := results.get("soak"):
        parts += ["## Soak", _soak(soak)]
    if startup := results.get("startup"):
        parts += ["## Start-up", _startup(startup)]
    if scaling := _rows(results, "scaling"):
        parts += ["## Scaling", _scaling(scaling), "![](scaling.png)"]
    if throughput := _rows(results, "throughput"):
        parts += ["## Throughput", _throughput(throughput)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(results: Results, part: str) -> list[Row]:
    return list(results.get(part, {}).get("rows", []))


def _split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Those of methods that look at the images as they are, and the others."""
    return [row for row in rows if "chunk" not in row], [row for row in rows if "chunk" in row]


def _where(results: Results) -> str:
    """What each part was taken on; one line where they agree."""
    lines: dict[str, list[str]] = {}
    for part, found in results.items():
        machine = found["machine"]
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        changed = " with changes" if machine.get("changed") else ""
        line = (
            f"{machine.get('model', machine['processor'])}, {machine['device']}, {machine['threads']} threads, "
            f"{_commits(found)}{changed}; {versions}."
        )
        lines.setdefault(line, []).append(part)
    return "\n\n".join(f"{', '.join(parts)}: {line}" for line, parts in lines.items())


def _commits(found: dict[str, Any]) -> str:
    """Which code was measured; where cells were measured again with other code, which of them."""
    cells: dict[str, list[str]] = {}
    for row in found.get("rows", []):
        if "cell" in row and row["cell"] not in cells.setdefault(row.get("commit", found["machine"]["commit"]), []):
            cells[row.get("commit", found["machine"]["commit"])].append(row["cell"])
    if len(cells) < 2:
        return f"commit `{next(iter(cells), found['machine']['commit'])[:12]}`"
    most, *others = sorted(cells, key=lambda commit: -len(cells[commit]))
    told = [f"of {', '.join(cells[commit])} `{commit[:12]}`" for commit in others]
    return f"commit `{most[:12]}`, {', '.join(told)}"


def _pivot(rows: Sequence[Row], show: Any) -> str:
    """One line per question of every cell, one column per contestant."""
    columns = [who for who in (*WITHOUT_QUESTION, *PACKAGES) if any(row["who"] == who for row in rows)]
    more = ("channels", "at a time") if any("chunk" in row for row in rows) else ()
    lines = _header("network", "layers", "batch", "question", *more, *columns)
    for cell in dict.fromkeys(row["cell"] for row in rows):
        inside = [row for row in rows if row["cell"] == cell]
        for what in dict.fromkeys(row["what"] for row in inside if row["what"]):
            shown = []
            for who in columns:
                row = find(inside, cell, who, "" if who in WITHOUT_QUESTION else what)
                shown.append("" if row is None else "-" if "why_not" in row else show(row))
            first = inside[0]
            told = [_channels(first), str(first["chunk"])] if more else []
            lines.append(_line(first["network"], _layers(first["layers"]), str(first["batch"]), what, *told, *shown))
    return "\n".join(lines)


def _channels(row: Row) -> str:
    asked, all_ = row["channels"]
    return f"all {all_}" if asked == all_ else f"{asked} of {all_}"


def _layers(names: Sequence[str]) -> str:
    if not names:
        return "all"
    return ", ".join(f"`{name.removeprefix('backbone.')}`" for name in names)


def _time(row: Row) -> str:
    low, high = map(_milliseconds, row["quartiles"])
    taken = f"{_milliseconds(row['seconds'])} ms ({low}-{high})"
    return taken if row["who"] in (PLAIN, PASSES) else f"{_judged(row)}: {taken}"


def _milliseconds(seconds: float) -> str:
    """Three digits, or all in front of the point."""
    return f"{1000 * seconds:.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"


def _memory(row: Row) -> str:
    size = f"{row['bytes'] / 2**20:.0f} MiB"
    return size if row["who"] == PLAIN else f"{_judged(row)}: {size}"


def _judged(row: Row) -> str:
    """The ratio, with what it misses."""
    if row.get("met") is not False:
        return f"{row['ratio']:.2f}"
    if row["ratio"] <= row["target"]:
        return f"{row['ratio']:.2f} **behind {' or '.join(row['ahead_of'])}**"
    return f"{row['ratio']:.3f} **misses {row['target']:.2f}**"


def _notes(rows: Sequence[Row]) -> str:
    """Why there are dashes."""
    reasons = dict.fromkeys((row["who"], row["why_not"]) for row in rows if "why_not" in row)
    return "\n".join(f"- {who} {why}" for who, why in reasons)


def _soak(soak: Row) -> str:
    return (
        f"{soak['calls']} calls in a row: {100 * soak['growth']:+.2f} % memory since call {soak['settled_after']} "
        f"(target {100 * soak['target']:.0f} %); of {soak['maps_made']} maps made, {soak['maps_alive']} outlived their "
        f"call; {soak['tensors_more']:+d} tensors. {'Met' if soak['met'] else '**Not met**'}."
    )


def _startup(startup: Row) -> str:
    lines = _header("process", "s", "quartiles")
    lines += [
        _line(row["what"], f"{row['seconds']:.3f}", "-".join(f"{edge:.3f}" for edge in row["quartiles"]))
        for row in startup["rows"]
    ]
    lines += ["", *_header("what camkit adds", "s", "target", "met")]
    lines += [
        _line(row["what"], f"{row['seconds']:+.3f}", f"{row['target']:.3f}", "yes" if row["met"] else "**no**")
        if "met" in row
        else _line(row["what"], f"{row['seconds']:+.3f}", "", "")
        for row in startup["differences"]
    ]
    return "\n".join(lines)


def _scaling(rows: Sequence[Row]) -> str:
    lines = _header("time against", "who", "slope", "offset", "R²")
    lines += [
        _line(
            row["axis"],
            row["who"],
            f"{1000 * row['slope']:.3g} ms per {row['unit']}",
            f"{1000 * row['intercept']:.3g} ms",
            f"{row['r2']:.3f}",
        )
        for row in rows
    ]
    return "\n".join(lines)


def _throughput(rows: Sequence[Row]) -> str:
    first = rows[0]
    lines = [f"{first['network']}, batch {first['batch']}, {first['dtype']}.", ""]
    lines += _header("who", "question", "images per second", "plain forwards")
    lines += [_line(row["who"], row["what"], f"{row['images_per_second']:.0f}", f"{row['ratio']:.2f}") for row in rows]
    return "\n".join(lines)


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _header(*names: str) -> list[str]:
    return [_line(*names), _line(*("---" for _ in names))]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
