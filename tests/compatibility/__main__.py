"""Run camkit in each set of versions, in an environment of its own, and write docs/compatibility.md's table.

Per set: install, the quick tests, six methods through ``camkit vis-cam``, and the maps of all methods, which are
compared with those of the tested set. With --tests nothing but the quick tests runs, and nothing is written. Needs the
interpreters of the sets that are named, and the standard library.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.compatibility.sets import ROOT, SETS, Versions, find_python

RESULTS = ROOT / "benchmarks" / "results" / "compatibility.json"
QUICK = "not frameworks and not peers and not slow and not cuda"
METHODS = ("GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM")
SHOWN = ("torch", "torchvision", "numpy", "opencv", "matplotlib", "rich", "timm", "transformers", "mm", "onedl")
"""What a package's name starts with that is named in the table."""
PYTHON_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
ALLOWED = 1e-4
"""The largest difference between the tested set's maps, in [0, 1], and another's."""


def run(*command: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout, without the caller's environment variables for Python."""
    kept = {name: value for name, value in os.environ.items() if name not in PYTHON_VARIABLES}
    return subprocess.run(
        [*map(str, command)], cwd=ROOT, env={**kept, "OMP_NUM_THREADS": "1"}, text=True, check=False, **how
    )


def programs_of(environment: Path) -> Path:
    """The folder of an environment's programs."""
    return environment / ("Scripts" if os.name == "nt" else "bin")


def install(name: str, versions: Versions, folder: Path) -> Path:
    """Make the environment and return its folder of programs; installing is tried twice.

    Raises:
        SystemExit: there is no such interpreter, or installing fails.
    """
    python = find_python(versions.python)
    if python is None:
        raise SystemExit(f"{name}: no python{versions.python} on this machine; name the other sets to run without it")
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", folder).check_returncode()
    programs = programs_of(folder)
    constraints = ROOT / "constraints" / f"{name}.txt"
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints]
    for _ in range(2):
        done = run(*pip, "--editable", f".[{versions.extras}]", *versions.packages)
        if not done.returncode:
            return programs
    raise SystemExit(f"{name}: installing fails")


def tests(programs: Path, folder: Path) -> dict[str, Any]:
    """Run the quick tests on two processes; how many passed, and how many were skipped for which reason."""
    report = folder / "tests.xml"
    pytest = [programs / "python", "-m", "pytest", "-n", "2", "--dist", "worksteal", "-q", "-m", QUICK]
    done = run(*pytest, "-p", "no:cacheprovider", f"--junitxml={report}")
    suite = next(iter(ElementTree.parse(report).getroot().iter("testsuite")))
    reasons: dict[str, int] = {}
    for each in suite.iter("skipped"):
        reasons[each.get("message", "")] = reasons.get(each.get("message", ""), 0) + 1
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    failed = counts["failures"] + counts["errors"]
    return {"passed": passed, "failed": failed, "skipped": reasons, "code": done.returncode}


def six_methods(programs: Path, config: str, folder: Path) -> list[str]:
    """The methods that ``camkit vis-cam`` draws with the set's model."""
    photograph, checkpoint = folder / "photograph.png", folder / "checkpoint.pth"
    python = [programs / "python", "-W", "ignore", "-m"]
    run(*python, "tests.compatibility.inputs", config, photograph, checkpoint).check_returncode()
    made = []
    for method in METHODS:
        picture = folder / f"{method}.png"
        picture.unlink(missing_ok=True)
        done = run(
            programs / "camkit", "vis-cam", photograph, config, checkpoint, "--method", method, "--save-path", picture,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        if not done.returncode and picture.stat().st_size:
            made.append(method)
    return made


def packages(programs: Path) -> dict[str, str]:
    """Name to version of the packages that the table names."""
    listed = json.loads(run(programs / "python", "-m", "pip", "list", "--format=json", stdout=subprocess.PIPE).stdout)
    found = {each["name"]: each["version"] for each in listed}
    return {name: number for name, number in sorted(found.items()) if name.startswith(SHOWN)}


def measure(name: str, root: Path) -> dict[str, Any]:
    """Everything about one set; its maps stay in ``root``."""
    versions, folder = SETS[name], root / name
    programs = install(name, versions, folder)
    found = {"python": versions.python, "who": versions.who, "packages": packages(programs), "config": versions.config}
    found["tests"] = tests(programs, folder)
    found["methods"] = six_methods(programs, versions.config, folder)
    run(programs / "python", "-W", "ignore", "-m", "tests.compatibility.maps", root / f"{name}.npz").check_returncode()
    commit = run("git", "rev-parse", "--short", "HEAD", stdout=subprocess.PIPE).stdout.strip()
    return {**found, "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), "commit": commit}


def compare(name: str, root: Path) -> dict[str, Any]:
    """A set's maps beside the tested set's."""
    python = programs_of(root / "tested") / "python"
    command = [python, "-m", "tests.compatibility.maps", root / f"{name}.npz", root / "tested.npz"]
    done = run(*command, stdout=subprocess.PIPE)
    done.check_returncode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def faults(name: str, found: dict[str, Any]) -> list[str]:
    """What is wrong with a set's results."""
    made = [f"{found['tests']['failed']} tests fail"] if found["tests"]["code"] else []
    missing = [method for method in METHODS if method not in found["methods"]]
    made += [f"vis-cam fails with {', '.join(missing)}"] if missing else []
    maps = found.get("maps")
    made += [f"the map of {maps['of']} differs by {maps['worst']:.1e}"] if maps and maps["worst"] > ALLOWED else []
    return [f"{name}: {line}" for line in made]


def main() -> int:
    """Run the sets that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__)
    parser.add_argument("sets", nargs="*", choices=[*SETS, []], help="default: all")
    parser.add_argument("--tests", action="store_true", help="run the quick tests and write nothing")
    parser.add_argument("--if-possible", action="store_true", help="pass over sets whose interpreter isn't here")
    parser.add_argument("--environments", type=Path, help="where to make the environments; default: a temporary folder")
    given = parser.parse_args()
    names = given.sets or list(SETS)
    if given.if_possible:
        for name in [name for name in names if find_python(SETS[name].python) is None]:
            print(f"NOT RUN: the set {name}, as there is no python{SETS[name].python} on this machine")
            names.remove(name)
    with tempfile.TemporaryDirectory() as temporary:
        root = (given.environments or Path(temporary)).absolute()
        root.mkdir(parents=True, exist_ok=True)
        if given.tests:
            return max([0, *(tests(install(name, SETS[name], root / name), root / name)["code"] for name in names)])
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        # The maps are compared with those that the tested set makes in the same run.
        order = ["tested", *(name for name in names if name != "tested")]
        wrong = []
        for name in order:
            results[name] = measure(name, root)
            if name != "tested":
                results[name]["maps"] = compare(name, root)
            wrong += faults(name, results[name])
        # Last, as the tests hold the page to the results.
        ordered = {each: results[each] for each in SETS if each in results}
        RESULTS.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
        run(programs_of(root / "tested") / "python", "-W", "ignore", "-m", "docs.make", "--tables").check_returncode()
    print("\n".join(wrong) or "everything passes in every set", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
