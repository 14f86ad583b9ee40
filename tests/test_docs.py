"""README.md and the pages in docs/ stay true: tables, commands, links, and examples that run."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import camkit
from camkit.cli.main import COMMANDS, _parser
from camkit.methods import FAMILIES
from docs.tables import pages, tables

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [*pages(), ROOT / "CONTRIBUTING.md"]}
CLASSES = 300


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, code) of every fenced block of a language."""
    return [
        (page, code)
        for page, text in PAGES.items()
        for code in re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


SHELL = [
    line.replace("\\\n", " ").strip()
    for _, block in blocks("sh")
    for line in re.split(r"(?<!\\)\n", block)
    if line.strip() and not line.startswith("#")
]
EXAMPLES = list(dict.fromkeys(line.partition(" #")[0].strip() for line in SHELL))


class TestGenerated:
    @pytest.mark.parametrize("page", PAGES)
    def test_is_as_docs_make_leaves_it(self, page: str) -> None:
        made = tables()
        for name, content in re.findall(r"<!-- ([\w-]+) -->\n(.*?)<!-- /\1 -->", PAGES[page], re.DOTALL):
            assert content.strip("\n") == made[name], f"{page}: run python -m docs.make --tables"

    def test_every_table_stands_somewhere(self) -> None:
        everything = "".join(PAGES.values())
        for name in tables():
            assert everything.count(f"<!-- {name} -->\n") == everything.count(f"<!-- /{name} -->") >= 1, name


class TestCommands:
    @pytest.mark.parametrize("line", [line for line in EXAMPLES if line.startswith("camkit ")])
    def test_parse(self, line: str) -> None:
        _, command, *words = shlex.split(line)
        assert command in COMMANDS
        options = _parser(command).parse_args([command, *words])
        assert options.command == command

    def test_there_are_enough_of_them(self) -> None:
        assert sum(line.startswith("camkit vis-cam") for line in EXAMPLES) >= 12

    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_has_its_flags_in_the_command_line_page(self, command: str) -> None:
        text = PAGES["docs/command-line.md"]
        assert f"## `camkit {command}`" in text
        commands = next(each for each in _parser(command)._actions if isinstance(each, argparse._SubParsersAction))
        for action in commands.choices[command]._actions:
            for flag in action.option_strings:
                assert f"`{flag}" in text or flag in ("-h", "--help"), f"{command} {flag}"

    def test_make_targets_exist(self) -> None:
        makefile = (ROOT / "Makefile").read_text()
        targets = {name for text in PAGES.values() for name in re.findall(r"(?:`|^ *)make (\w+)", text, re.MULTILINE)}
        assert {"demo", "test", "pictures", "docs"} <= targets
        for target in targets:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


class TestLinks:
    @pytest.mark.parametrize("page", PAGES)
    def test_resolve(self, page: str) -> None:
        for link, source in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", PAGES[page]):
            path, _, anchor = (link or source).partition("#")
            if "://" in path:
                continue
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), f"{page}: {link or source}"
            if anchor:
                assert anchor in anchors(target.read_text()), f"{page}: {link}"

    def test_every_page_is_in_the_navigation(self) -> None:
        navigation = (ROOT / "mkdocs.yml").read_text()
        for page in (ROOT / "docs").glob("*.md"):
            assert f": {page.name}\n" in navigation, page


def anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub and MkDocs both make them."""
    return {
        re.sub(r"[ ]+", "-", re.sub(r"[^\w\- ]", "", heading.lower()).strip())
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


class TestApi:
    def test_has_every_public_name(self) -> None:
        documented = set(re.findall(r"^::: camkit\.(\w+)$", PAGES["docs/api.md"], re.MULTILINE))
        methods = {method.identifier for method in camkit.METHODS.values()}
        assert documented - {"GradCAM"} == set(dir(camkit)) - methods - {"__version__"}


class TestReadme:
    def test_counts_methods_and_families(self) -> None:
        words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        told = f"{len(camkit.METHODS)} methods of {words[len(FAMILIES)]} families"
        for page in ("README.md", "docs/index.md", "docs/methods.md"):
            assert told in PAGES[page].replace("**", ""), page

    def test_is_short(self) -> None:
        assert len(PAGES["README.md"].splitlines()) < 200


class TestPython:
    @pytest.mark.parametrize(("page", "code"), blocks("python"))
    def test_compiles(self, page: str, code: str) -> None:
        compile(code, page, "exec")

    @pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/guide.md", "docs/layers.md"])
    def test_runs(self, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        names = subjects(batch=2 if page == "docs/guide.md" else 1)
        for code in [code for each, code in blocks("python") if each == page]:
            exec(compile(code, page, "exec"), names)  # the pages' own code


def subjects(batch: int) -> dict[str, Any]:
    """What the examples take for granted: networks, images as they take them, and the first one's picture."""
    torch.manual_seed(0)
    images = torch.rand(batch, 3, 32, 32)
    picture = (255 * images[0].permute(1, 2, 0).numpy()).astype(np.uint8)
    known = {"model": Stages().eval(), "vit": Tokens().eval(), "images": images, "image": picture}
    beats = nn.Sequential(nn.Conv1d(2, 8, 5, stride=2), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    network = nn.Sequential(beats, nn.Flatten(), nn.Linear(8, CLASSES)).eval()
    return {**known, "network": network, "signals": torch.rand(2, 2, 200)}


class Stages(nn.Module):
    """A convolutional classifier with the layer names of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.layer3 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer4 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layer4(self.layer3(images)).mean((2, 3)))
        return logits


class Tokens(nn.Module):
    """A vision transformer: 4 x 4 patches and a class token, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(images), -1, -1), self.patch(images).flatten(2).mT], 1)
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(tokens[:, 0])
        return logits


class Attention(nn.Module):
    """Normalise, then attend, with one head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (each[:, None] for each in self.qkv(self.norm1(tokens)).chunk(3, 2))
        return tokens + functional.scaled_dot_product_attention(query, key, value)[:, 0]
