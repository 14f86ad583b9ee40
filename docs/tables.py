"""The tables and method sections in README.md and docs/, from the registry and the last benchmarks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.metrics import LIMITS
from benchmarks.provenance import RESULTS
from benchmarks.speed.files import load
from benchmarks.speed.table import readme as speed_table
from benchmarks.trained import table as trained_table
from camkit.cli.methods import markdown as method_table
from camkit.cli.metrics import markdown as metric_table
from camkit.methods import FAMILIES, METHODS, Method
from docs.constructors import option_texts, sections_of

ROOT = Path(__file__).resolve().parent.parent
SHOWN_DIGITS = ("GradientRollout", "HiResCAM", "LayerCAM", "GradCAM", "GradCAM++", "EigenCAM", "RandomCAM")
"""The methods in README.md's table of digits; docs/benchmarks.md has them all."""
FAMILY_TITLES = {
    "gradient": "Gradient methods",
    "activation": "Activation methods",
    "perturbation": "Perturbation methods",
    "attention": "Attention methods",
    "pixel": "Pixel methods",
    "concept": "Concept methods",
    "control": "Control",
}


def tables() -> dict[str, str]:
    """Generated Markdown by the name of its markers: ``<!-- speed -->`` to ``<!-- /speed -->``."""
    digits, speed = _rows("digits"), speed_table(load())
    return {
        "methods": method_table(),
        "method-sections": method_sections(),
        "metrics": metric_table(),
        "coverage": coverage_table(_rows("coverage")),
        "digits": digits_table(digits),
        "digits-short": digits_table(digits, SHOWN_DIGITS),
        "speed": speed,
        "speed-short": first_cases(speed),
        "compatibility": compatibility_table(json.loads(_text("compatibility"))),
        "datasets": datasets_table(json.loads(_text("datasets"))),
        "metric-costs": costs_table(json.loads(_text("metrics"))),
        "trust": trust_table(json.loads(_text("trust"))["networks"]),
        "truth": truth_table(json.loads(_text("trust"))["networks"]),
        "trained-photographs": trained_table(json.loads(_text("trained"))["photographs"]),
        "trained-mosaics": trained_table(json.loads(_text("trained"))["mosaics"]),
    }


def pages() -> list[Path]:
    """README.md and the site's pages."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """A page's text with everything between its markers generated anew.

    Raises:
        KeyError: nothing is generated for one of its markers.
    """
    made = tables()
    return re.sub(
        r"<!-- ([\w-]+) -->\n.*?<!-- /\1 -->",
        lambda found: f"<!-- {found[1]} -->\n{made[found[1]]}\n<!-- /{found[1]} -->",
        text,
        flags=re.DOTALL,
    )


def coverage_table(rows: list[dict[str, Any]]) -> str:
    """How many networks of each ecosystem are explained without flags."""
    lines = ["| networks of | families | explained | can't be built here |", "| --- | --- | --- | --- |"]
    for ecosystem in dict.fromkeys(row["ecosystem"] for row in rows):
        verdicts = [row["verdict"] for row in rows if row["ecosystem"] == ecosystem]
        built = sum(verdict != "not run" for verdict in verdicts)
        lines.append(f"| {ecosystem} | {built} | {verdicts.count('ok')} | {len(verdicts) - built} |")
    return "\n".join(lines)


def digits_table(rows: list[dict[str, Any]], shown: tuple[str, ...] = ()) -> str:
    """Share of canvases on which a method's maps of both digits are right, by canvas size; of all methods, or some."""
    plain = [row for row in rows if " + " not in row["method"]]
    sizes = list(dict.fromkeys(row["canvas"] for row in plain))
    share = {(row["method"], row["canvas"]): row["canvases"] for row in plain}
    methods = sorted({row["method"] for row in plain}, key=lambda method: (-share[method, sizes[0]], method))
    lines = [f"| both digits found | {' | '.join(sizes)} |", "| --- |" + " --- |" * len(sizes)]
    lines += [
        f"| {method} | {' | '.join(f'{share[method, size]:.1%}' for size in sizes)} |"
        for method in methods
        if not shown or method in shown
    ]
    return "\n".join(lines)


def first_cases(table: str) -> str:
    """A table of benchmarks without the rows that only vary the case above them ("… batch 16")."""
    return "\n".join(line for line in table.splitlines() if not line.startswith("| …"))


def method_sections() -> str:
    """A section per method, by family: what it computes, needs and costs, an example and its options."""
    parts = []
    for family in FAMILIES:
        methods = [method for method in METHODS.values() if method.family == family]
        parts += [f"## {FAMILY_TITLES[family]}", *map(method_section, methods)]
    return "\n\n".join(parts)


def method_section(method: Method) -> str:
    """One method's section, from its docstring and its options."""
    sections, meanings = sections_of(method.function), dict(option_texts(method))
    parts = [
        f"### {method.name}",
        f"`camkit.{method.identifier}`: needs {method.need.text}; cost {method.cost}.",
        sections[""].replace("``", "`"),
        f"```python\n{_without_prompts(sections['Example'])}\n```",
    ]
    options = [
        f"- `{name}={value!r}`: {' '.join(meanings[name].split()).replace('``', '`')}"
        for name, value in method.options.items()
    ]
    return "\n\n".join([*parts, *(["Options:", "\n".join(options)] if options else [])])


def compatibility_table(sets: dict[str, dict[str, Any]]) -> str:
    """What ran in each set of versions, and below it the versions."""
    lines = [
        "| set | whose | quick tests passed | skipped | six methods | maps beside the tested set's | date | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in sets.items():
        tests, maps = found["tests"], found.get("maps")
        skipped = "; ".join(f"{count}: {reason}" for reason, count in tests["skipped"].items()) or "none"
        beside = "the others are compared with these"
        if maps:
            only = "".join(f"; {key}: {reason}" for key, reason in maps["refused"].items())
            beside = f"{maps['compared']} within {maps['worst']:.0e} ({maps['of']}){only}"
        passed = f"{tests['passed']} of {tests['passed'] + tests['failed']}"
        drawn = f"{len(found['methods'])} of 6, `{found['config']}`"
        lines.append(
            f"| {name} | {found['who']} | {passed} | {skipped} | {drawn} | {beside} | {found['date']} | "
            f"`{found['commit']}` |"
        )
    lines += ["", "| set | versions |", "| --- | --- |"]
    for name, found in sets.items():
        numbers = ", ".join(f"{package} {number}" for package, number in found["packages"].items())
        lines.append(f"| {name} | Python {found['python']}, {numbers} |")
    return "\n".join(lines)


def datasets_table(found: dict[str, Any]) -> str:
    """How fast runs over data sets are, how many bytes they keep and how flat they stay."""
    lines = ["| network | who | batch | images/s | of the plain loop's rate | least asked |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for row in found["speed"]:
        low, high = row["spread"]
        least = "" if row["floor"] is None else f"{row['floor']:.2f}"
        share = f"{row['share']:.2f} ({low:.2f} to {high:.2f})" if row["who"] != "plain loop" else ""
        lines.append(
            f"| {row['network']} | {row['who']} | {row['batch']} | {row['images_per_second']:.1f} | {share} | {least} |"
        )
    lines += ["", "| kept | bytes per image |", "| --- | --- |"]
    lines += [f"| {name} | {value:.0f} |" for name, value in found["bytes"].items()]
    if "flat" in found:
        lines += ["", "| images | sizes | resident | at the end | growth |", "| --- | --- | --- | --- | --- |"]
    for row in found.get("flat", []):
        settled = f"{row['settled_bytes'] / 1e6:.0f} MB after {row['settled_after']}"
        end = f"{row['end_bytes'] / 1e6:.0f} MB"
        lines.append(f"| {row['images']} | {row['sizes']} | {settled} | {end} | {row['growth']:.1%} |")
    return "\n".join(lines)


def costs_table(found: dict[str, Any]) -> str:
    """What metrics cost beside the forwards that they consist of, and beside other packages at the same work."""
    lines = ["| measured | value | at most |", "| --- | --- | --- |"]
    lines += [f"| {name} | {value:.2f} | {LIMITS[name]:.2f} |" for name, value in found["figures"].items()]
    lines += ["", "| who | seconds a map |", "| --- | --- |"]
    lines += [f"| {who} | {seconds:.1f} |" for who, seconds in found["seconds"].items()]
    return "\n".join(lines)


def trust_table(networks: dict[str, Any]) -> str:
    """What metrics' rankings of the methods have to do with the true one, by the mean over networks."""
    found = {name: each["metrics"] for name, each in networks.items()}
    metrics = list(next(iter(found.values())))

    def worth(metric: str) -> float:
        return sum(float(each[metric]["correlation"]) for each in found.values())

    lines = [f"| metric | family | {' | '.join(found)} |", "| --- | --- |" + " --- |" * len(found)]
    for metric in sorted(metrics, key=worth, reverse=True):
        rows = [each[metric] for each in found.values()]
        told = " (is told where the digit is)" * rows[0]["sees_region"]
        cells = [f"{r['correlation']:.2f} ({r['interval'][0]:.2f} to {r['interval'][1]:.2f})" for r in rows]
        lines.append(f"| {metric}{told} | {rows[0]['family']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def truth_table(networks: dict[str, Any]) -> str:
    """How well each method's maps tell the digit asked for from the rest of the canvas."""
    found = {name: each["methods"] for name, each in networks.items()}
    methods = list(dict.fromkeys(method for each in found.values() for method in each))
    first = next(iter(found.values()))
    lines = [f"| method | {' | '.join(found)} |", "| --- |" + " --- |" * len(found)]
    for method in sorted(methods, key=lambda name: -first.get(name, {"truth": 0.0})["truth"]):
        cells = [f"{each[method]['truth']:.3f}" if method in each else "" for each in found.values()]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(result: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(_text(result))["rows"]
    return rows


def _text(result: str) -> str:
    return (RESULTS / f"{result}.json").read_text(encoding="utf-8")


def _without_prompts(example: str) -> str:
    """A doctest as a program; what it prints becomes comments."""
    return "\n".join(line[4:] if line.startswith((">>> ", "... ")) else f"# {line}" for line in example.splitlines())
