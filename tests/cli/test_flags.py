"""The flags that several commands share. Needs no framework."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from camkit.cli import flags
from camkit.cli.parser import Parser
from camkit.errors import UsageError
from camkit.methods import METHODS
from camkit.models.classifier import Classifier
from camkit.models.frameworks import find_framework

NAMES = [spelling for each in METHODS.values() for spelling in (each.name, each.identifier)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cat.png --method GradCAM layercam", "cat.png --method GradCAM --method layercam"),
        ("--method GradCAM layercam cat.png timm:x", "--method GradCAM --method layercam cat.png timm:x"),
        ("--method=GradCAM LayerCAM --grid", "--method=GradCAM --method LayerCAM --grid"),
        ("--method GradCAMPlusPlus grad-cam", "--method GradCAMPlusPlus --method grad-cam"),
        ("--method GradCAM LayrCAM", "--method GradCAM --method LayrCAM"),  # misspelt, not a positional argument
        ("--method", "--method"),
        ("--output GradCAM LayerCAM", "--output GradCAM LayerCAM"),
    ],
)
def test_several_methods_become_several_flags(given: str, expected: str) -> None:
    assert list(flags.repeat_flag(given.split(), "--method", NAMES)) == expected.split()


def test_a_file_is_no_misspelt_method(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gradcam_").touch()
    words = ["--method", "LayerCAM", "gradcam_"]
    assert list(flags.repeat_flag(words, "--method", NAMES)) == words


def test_positional_arguments_may_stand_anywhere() -> None:
    parser = Parser()
    parser.add_argument("img")
    flags.add_model(parser, checkpoint="")
    flags.add_methods(parser, default="")
    for line in (
        "cat.png timm:x x.pth --method GradCAM",
        "--method GradCAM cat.png timm:x x.pth",
        "cat.png --method GradCAM timm:x x.pth",
        "cat.png timm:x --method GradCAM x.pth",
    ):
        options = parser.parse_args(line.split())
        assert (options.img, options.config, options.checkpoint) == ("cat.png", "timm:x", "x.pth")
        assert options.method == ["GradCAM"]


def test_flags_given_twice_add_up() -> None:
    parser = Parser()
    flags.add_model(parser, checkpoint="")
    flags.add_reading(parser)
    flags.add_target_layers(parser)
    flags.add_methods(parser, default="")
    flags.add_bands(parser)
    for flag, name in (
        ("--cfg-options", "cfg_options"),
        ("--target-layers", "target_layers"),
        ("--target-category", "target_category"),
        ("--method-options", "method_options"),
        ("--method", "method"),
    ):
        line = ["timm:x", flag, "a=1", flag, "b=2"]
        assert getattr(parser.parse_args(line), name) == ["a=1", "b=2"]
        assert not getattr(parser.parse_args(["timm:x"]), name)  # no list is shared by two command lines
    assert parser.parse_args(["timm:x", "--bands", "3", "2", "--bands", "1"]).bands == [3, 2, 1]


def test_home_folder_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert flags.path("~/a.png") == Path("/home/somebody/a.png")
    assert flags.path("a~/~.png") == Path("a~/~.png")
    assert find_framework("~/config.py")[1] == "/home/somebody/config.py"
    assert find_framework("transformers:~/folder")[1] == "/home/somebody/folder"
    assert find_framework("timm:local-dir:~/folder")[1] == "local-dir:/home/somebody/folder"


def test_values_of_method_options_are_python_literals_or_text() -> None:
    words = ["top_k=None", "kernel=rbf", "comparison=1,2", "std=.5", "seed= 3", "weights='equal'", "utility=a=b", "k="]
    assert flags.method_options(words) == {
        "top_k": None,
        "kernel": "rbf",
        "comparison": (1, 2),
        "std": 0.5,
        "seed": 3,
        "weights": "equal",
        "utility": "a=b",
        "k": "",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["oops"], "--method-options takes NAME=VALUE, got 'oops'"),
        (["=3"], "--method-options takes NAME=VALUE, got '=3'"),
        (["seed=1", "seed=2"], "--method-options names one twice: seed=1 seed=2"),
    ],
)
def test_method_options_that_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        flags.method_options(words)


class TestCategories:
    """``--target-category`` takes indices and names."""

    @staticmethod
    def categories(tiny: dict[str, Classifier], *words: str) -> list[int]:
        return flags.categories(argparse.Namespace(target_category=list(words)), tiny["cnn"])

    def test_names_in_any_case_and_indices(self, tiny: dict[str, Classifier]) -> None:
        assert self.categories(tiny) == []
        assert self.categories(tiny, "Espresso", "0", "tiger_cat", "hound") == [2, 0, 1, 4]
        assert self.categories(tiny, "-1", "1000") == [-1, 1000], "the library knows how many there are"

    def test_unknown_names(self, tiny: dict[str, Classifier]) -> None:
        with pytest.raises(UsageError, match="no class 'tabby' .*; closest: tabby cat"):
            self.categories(tiny, "tabby")

    @pytest.mark.parametrize("words", [["3", "3"], ["espresso", "2"], ["dog", "hound"]])
    def test_one_named_twice(self, words: list[str], tiny: dict[str, Classifier]) -> None:
        with pytest.raises(UsageError, match=f"--target-category names one twice: {' '.join(words)}$"):
            self.categories(tiny, *words)


def test_the_output_is_the_flags_else_the_frameworks(tiny: dict[str, Classifier]) -> None:
    assert flags.output(argparse.Namespace(output="aux"), tiny["cnn"]) == "aux"
    assert flags.output(argparse.Namespace(output=None), tiny["cnn"]) is tiny["cnn"].output
