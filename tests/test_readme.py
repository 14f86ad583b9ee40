"""README.md stays true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from camkit.cli import COMMANDS, _parser, _unfolded
from docs.make import tables

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SHELL = [
    line.replace("\\\n", " ").strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in re.split(r"(?<!\\)\n", block)
    if line.strip() and not line.startswith("#")
]
EXAMPLES = [line.partition("#")[0].strip() for line in SHELL]


def test_tables_are_as_a_run_of_docs_make_leaves_them() -> None:
    for name, table in tables().items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in README


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line.startswith("camkit ")])
def test_commands_parse(line: str) -> None:
    _, command, *words = shlex.split(line)
    assert command in COMMANDS
    options = _parser(command).parse_args([command, *_unfolded(command, words)])
    assert options.command == command


def test_there_are_enough_of_them() -> None:
    assert sum(line.startswith("camkit vis-cam") for line in EXAMPLES) >= 12


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make (\w+)", README))
    assert {"demo", "test", "pictures"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", README):
        path = ROOT / (target[0] or target[1])
        assert path.exists(), path
