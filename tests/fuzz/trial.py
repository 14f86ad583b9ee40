"""One trial: spoil a file, load it with camkit and with the framework, and compare."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import camkit
from camkit.errors import CamkitError
from camkit.models.load import load
from camkit.models.settings import Reading
from tests.fuzz import mutations
from tests.fuzz.networks import State, Subject, seeded_state, subjects
from tests.helpers.by_hand import gradcam

SIDE = 64


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: ``map``, ``refused`` (and the line), or ``defect`` (and what is wrong)."""

    kind: str
    what: str
    subject: str
    mutation: str
    number: int


class Fuzz:
    """Trials with the networks of all frameworks in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.subjects = subjects(folder)
        self.states = [seeded_state(subject) for subject in self.subjects]
        self.settings = [subject.settings and subject.settings.read_text() for subject in self.subjects]
        self.canary = folder / "canary"
        self.images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def run(self, number: int) -> Outcome:
        """The trial of that number, which is always the same."""
        draw = random.Random(number)
        which = draw.randrange(len(self.subjects))
        subject, text = self.subjects[which], self.settings[which]
        state = {name: tensor.clone() for name, tensor in self.states[which].items()}
        path = self.folder / draw.choice(("net.pth", "net.safetensors", "old.pth", "net.ckpt"))
        content: Any = state
        names = []
        kinds = ("bytes", "contents", "contents", "contents", "canary", *["settings"] * bool(text))
        kind = draw.choice(kinds)
        if kind == "contents":
            for mutate in draw.sample(mutations.CONTENTS, draw.choice((1, 1, 2))):
                if isinstance(content, dict) and len(content) > 9 and all(map(torch.is_tensor, content.values())):
                    content = mutate(content, draw)
                    names.append(mutate.__name__)
        elif kind == "canary":
            where = {"x": mutations.Canary(self.canary)}
            content = draw.choice((state | where, {"state_dict": state, "meta": where}, mutations.Canary(self.canary)))
        elif kind == "bytes" and draw.random() < 0.5:
            content = {"state_dict": state, "epoch": 3}
        path = self._save(path, content)
        if kind == "bytes":
            path.write_bytes(mutations.spoil_bytes(path.read_bytes(), draw))
        if kind == "settings" and subject.settings and text:
            subject.settings.write_text(mutations.spoil_settings(text, draw))
        try:
            ended, what = self._load(subject, path, draw)
        finally:
            if subject.settings and text:
                subject.settings.write_text(text)
        if self.canary.exists():
            self.canary.unlink()
            ended, what = "defect", "code was run"
        mutation = "+".join([kind, *names])
        return Outcome(ended, what, subject.config.rpartition("/")[2], f"{mutation} in {path.name}", number)

    def _save(self, path: Path, content: Any) -> Path:
        from safetensors.torch import save_file

        if path.suffix == ".safetensors":
            try:
                save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
                return path
            except Exception:  # noqa: BLE001  # it holds tensors by name alone
                path = path.with_suffix(".pth")
        torch.save(content, path, _use_new_zipfile_serialization=path.stem != "old")
        return path

    def _load(self, subject: Subject, path: Path, draw: random.Random) -> tuple[str, str]:
        reading = Reading(weights=draw.choice((None, None, None, "live", "ema")))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                classifier = load(subject.config, str(path), cfg_options=subject.options, reading=reading)
                found = camkit.CAM(classifier.model, "GradCAM", [subject.layer]).explain(self.images, 0)
        except CamkitError as error:
            line = str(error)
            whole = line.isprintable() and len(line) < 3000
            return ("refused", line) if whole else ("defect", f"not one printable line: {line!r}")
        except Exception as error:  # noqa: BLE001  # what is looked for
            return "defect", f"{type(error).__name__}: {error}"
        state = classifier.model.state_dict()
        wrong = _compare(subject, path, state, warned=classifier.load_warning is not None, reading=reading)
        if wrong:
            return "defect", wrong
        own = subject.strict(state)
        if own is None:
            return "defect", "the framework refuses the state that camkit loaded"
        by_hand = gradcam(own, own.get_submodule(subject.layer), self.images, _first_class)
        ours = found.raw[subject.layer][:, 0]
        if not torch.allclose(ours, by_hand, rtol=1e-4, atol=1e-6 * float(by_hand.abs().max())):
            return "defect", "another map than by hand"
        return "map", "; ".join(classifier.notes)


def _first_class(output: Any) -> Tensor:
    logits: Tensor = getattr(output, "logits", output)
    return logits[:, 0].sum()


def _compare(subject: Subject, path: Path, loaded: State, *, warned: bool, reading: Reading) -> str | None:
    """What differs between what camkit loaded and what the framework's strict loading makes of the file's tensors."""
    inner = _plain(path, subject, reading)
    if inner is None:
        return "loaded what a plain reader can't read"
    own = {name: tensor for name, tensor in loaded.items() if not name.endswith("num_batches_tracked")}
    candidates = [_without(inner, begin) for begin in ("", *mutations.PREFIXES, "ema.", "teacher.")]
    for tensors in candidates:
        extra = {name for name in tensors if name not in loaded and "num_batches_tracked" not in name}
        if extra and not warned:
            continue
        if all(name in tensors and _same(tensors[name], own[name]) for name in own):
            return None
    strict = next((model for tensors in candidates if (model := subject.strict(tensors)) is not None), None)
    if strict is None:
        missing = [name for name in own if not any(name in tensors for tensors in candidates)]
        return f"loaded, and strict loading refuses; not in the file: {missing[:3]}"
    return "another state than strict loading's"


def _same(tensor: Tensor, loaded: Tensor) -> bool:
    """Whether a tensor arrived; torch itself makes a single value of a vector of one."""
    if tensor.device.type == "meta":
        return False
    tensor = tensor.to_dense() if tensor.is_sparse else tensor
    tensor = tensor[0] if loaded.ndim == 0 and tensor.ndim == 1 and len(tensor) else tensor
    return tensor.shape == loaded.shape and torch.equal(
        tensor.to(loaded.dtype).nan_to_num(nan=7e30), loaded.nan_to_num(nan=7e30)
    )


def _without(state: State, begin: str) -> State:
    return {name.removeprefix(begin): tensor for name, tensor in state.items()} if begin else state


def _plain(path: Path, subject: Subject, reading: Reading) -> State | None:
    """The file's tensors by the framework's own order of entries, read with torch or safetensors alone."""
    from safetensors.torch import load_file

    from camkit.compat import load_safely
    from camkit.models.pickles import _harmless

    try:
        content = load_file(path) if path.suffix == ".safetensors" else load_safely(path, _harmless())
    except Exception:  # noqa: BLE001
        return None
    return _inner(content, subject.first, reading.weights)


def _inner(content: Any, first: tuple[str, ...], weights: str | None) -> State:
    dicts = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, dict) and _is_nested(value)
    } if isinstance(content, dict) else {}  # fmt: skip
    ema = ("state_dict_ema", "model_ema")
    order = (*first, *ema, *(name for name in mutations.ENTRIES if name not in ema), "checkpoint", "run", "best")
    if weights == "live":
        order = tuple(name for name in order if name not in ema)
    elif weights == "ema" and dicts.keys() & set(ema):
        order = ema
    for key in (*order, *dicts):
        if key in dicts:
            return _inner(dicts[key], first, weights)
    return {key: value for key, value in content.items() if isinstance(key, str) and torch.is_tensor(value)}


def _is_nested(value: dict[Any, Any]) -> bool:
    return any(torch.is_tensor(each) or (isinstance(each, dict) and _is_nested(each)) for each in value.values())
