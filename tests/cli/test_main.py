"""The command itself: what it imports, exit codes, and errors in one line. Needs no framework."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from camkit.cli.main import COMMANDS
from camkit.errors import CamkitError, UsageError
from camkit.models.frameworks import FRAMEWORKS
from tests.cli.running import Run, refused
from tests.helpers.refusals import OutOfMemory


def imported(*lines: str) -> set[str]:
    """The top-level packages that a new process imports for command lines, one after the other."""
    code = (
        "import sys\nfrom camkit.cli.main import main\n"
        f"for line in {lines!r}:\n"
        "    try:\n        main(line.split())\n    except SystemExit:\n        pass\n"
        "print('', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_no_torch() -> None:
    found = imported("--help", "--version", "vis_cam")
    assert "camkit" in found
    assert not found & {"torch", "numpy", "cv2", "matplotlib", "rich"}


def test_help_of_commands_imports_no_framework() -> None:
    packages = {package for framework in FRAMEWORKS.values() for package in framework.packages}
    assert not imported(*(f"{command} --help" for command in COMMANDS)) & packages


def test_help_lists_the_commands_and_frameworks(camkit: Callable[..., Run]) -> None:
    run = camkit("--help")
    assert run.code == 0
    assert all(command in run.out for command in COMMANDS)
    assert all(framework.title in run.out for framework in FRAMEWORKS.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, camkit: Callable[..., Run]) -> None:
    run = camkit(command, "--help")
    assert run.code == 0
    assert run.out.startswith(f"usage: camkit {command}")
    assert "--traceback" in run.out


def test_version_names_camkit_and_torch(camkit: Callable[..., Run]) -> None:
    run = camkit("--version")
    assert run.code == 0
    assert f"torch {version('torch')}" in " ".join(run.out.split())


@pytest.mark.parametrize(
    "words", [[], ["vis_cam"], ["vis-cam"], ["vis-cam", "a", "b", "c", "--aug"], ["vis-cam", "a", "b", "c", "d"]]
)
def test_words_that_argparse_refuses_take_one_line(words: list[str], camkit: Callable[..., Run]) -> None:
    refused(camkit(*words), 2, r".*; see camkit.* --help$")


class TestErrors:
    """An error inside a command: one line and an exit code, or the traceback where it is asked for."""

    @pytest.fixture
    def fails(self, camkit: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> Any:
        def call(error: BaseException, *flags: str) -> Run:
            def broken(options: object) -> None:
                raise error

            monkeypatch.setattr("camkit.cli.methods.main", broken)
            return camkit("methods", *flags)

        return call

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (CamkitError("no such file"), 1, "no such file$"),
            (UsageError("no such flag"), 2, "no such flag$"),
            (KeyboardInterrupt(), 130, "interrupted$"),
            (
                OutOfMemory("CUDA out of memory. Tried to allocate 3 GiB"),
                1,
                "out of memory: use a smaller input, a later target layer or another --device",
            ),
            (
                RuntimeError("shapes (3, 4) and (5, 6)\ndon't go together"),
                1,
                r"RuntimeError: shapes \(3, 4\) and \(5, 6\) \(see where with --traceback\)",
            ),
        ],
    )
    def test_takes_one_line(self, error: BaseException, code: int, message: str, fails: Any) -> None:
        refused(fails(error), code, message)

    @pytest.mark.parametrize("error", [CamkitError("no such file"), RuntimeError("shapes")])
    def test_traceback(self, error: Exception, fails: Any) -> None:
        with pytest.raises(type(error)):
            fails(error, "--traceback")


WRITES = """
import sys
from types import SimpleNamespace
from camkit.cli import main

def command(options):
    print("predicted: déjà vu" * 1000)
    with open(sys.argv[1], "w") as file:
        file.write("the picture")
    print(f"wrote: {sys.argv[1]}")

main._module = lambda name: SimpleNamespace(main=command, add_arguments=lambda parser: None)
sys.exit(main.main(["methods"]))
"""


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("| true", 0, ""),
        ("| head -c 1", 0, ""),
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("2>&-", 0, ""),
        (">/dev/full", 1, "camkit: error: can't write to standard output: No space left on device\n"),
        (">/dev/null 2>/dev/full", 0, ""),
    ],
)
@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}, {"PYTHONIOENCODING": "ascii"}])
def test_output_that_goes_nowhere_stops_no_command(
    redirection: str, code: int, said: str, environment: dict[str, str], tmp_path: Path
) -> None:
    script = f'"{sys.executable}" -c "$0" "$1" {redirection}; exit ${{PIPESTATUS[0]}}'
    command = ["bash", "-c", script, WRITES, str(tmp_path / "picture")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert (done.returncode, done.stderr) == (code, said)
    assert (tmp_path / "picture").read_text() == "the picture"


def test_python_m_camkit() -> None:
    done = subprocess.run([sys.executable, "-m", "camkit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("python ")
