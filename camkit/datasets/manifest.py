"""``manifest.json``: how a run was made. The same command goes on with it; another one is told what differs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import camkit
from camkit.datasets import locks
from camkit.datasets.boxes import Rule
from camkit.datasets.places import Place
from camkit.datasets.schema import MapColumn, columns_of
from camkit.errors import CamkitError, reason
from camkit.models import fingerprint as preprocessings
from camkit.versions import versions

if TYPE_CHECKING:
    from camkit.datasets.settings import Settings
    from camkit.models.classifier import Classifier
    from camkit.models.loader import Loader

NAME = "manifest.json"
FORMAT = "camkit run"
VERSION = 2
"""1 had a digest of the preprocessing alone, and outputs as they were given."""


@dataclass(frozen=True)
class Manifest:
    """How a run was made.

    Attributes:
        fingerprint: All that rows depend on; a run goes on only where it is the same.
        layers: Method to its target layers, chosen once for all images.
        columns: The map columns.
        rule: Where the network's input lies in the images.
        class_count: How many classes the network has.
        classes: Their names, where they are known.
        about: For people: command, checkpoint, versions, time.
    """

    fingerprint: dict[str, Any]
    layers: dict[str, list[str]]
    columns: list[MapColumn]
    rule: Rule
    class_count: int
    classes: list[str] | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, place: Place) -> None:
        """Write it to a run's folder.

        Raises:
            CamkitError: It can't be written.
        """
        content = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "layers": self.layers,
            "maps": [column.told() for column in self.columns],
            "boxes": self.rule.told(),
            "class_count": self.class_count,
            "classes": self.classes,
            "about": self.about,
        }
        place.write(NAME, json.dumps(content, indent=1).encode())

    def require_same(self, fingerprint: Mapping[str, Any], where: str) -> None:
        """Check that a run goes on with the settings that it began with.

        Raises:
            CamkitError: It doesn't; the message says what differs.
        """
        theirs, ours = self.fingerprint, json.loads(json.dumps(fingerprint))
        said = []
        for key in dict.fromkeys((*theirs, *ours)):
            one, other = theirs.get(key), ours.get(key)
            if key == "preprocessing":
                found = preprocessings.difference(one, other)
                said += [f"{key} {found}"] * bool(found)
            elif one != other:
                said.append(f"{key} {_short(one)}, now {_short(other)}")
        if said:
            raise CamkitError(
                f"{where} was made with other settings: {'; '.join(said)}; take another --out, or the settings it has"
            )


def read_manifest(place: Place) -> Manifest | None:
    """The manifest of a run's folder; None where there is nothing yet.

    Raises:
        CamkitError: The folder holds something else, or a run of a newer camkit.
    """
    content = place.read(NAME)
    if content is None:
        others = [name for name in place.names("") if name != locks.NAME]
        if others:
            raise CamkitError(
                f"{place.name} holds something else ({', '.join(others[:3])}{', ...' * (len(others) > 3)}) and no run: "
                "take a folder that is new or empty"
            )
        return None
    try:
        told = json.loads(content)
        if told["format"] != FORMAT:
            raise KeyError(FORMAT)
        version = int(told["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise CamkitError(f"{place.name}/{NAME} isn't a run's: take a folder that is new or empty") from error
    if version > VERSION:
        raise CamkitError(
            f"{place.name} was written by a newer camkit (format {version}, this one reads {VERSION}): pip install -U "
            "camkit"
        )
    try:
        return _read(told, version)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise CamkitError(f"{place.name}/{NAME} is damaged ({reason(error)}): take another --out") from error


def _read(told: dict[str, Any], version: int) -> Manifest:
    """The manifest in a file's content.

    Raises:
        TypeError: Something in it is of another kind than it should be.
        ValueError: Something in it doesn't fit the rest.
    """
    rule, fingerprint = told["boxes"], told["fingerprint"]
    size = rule["input_size"]
    kinds = {"fingerprint": dict, "layers": dict, "maps": list, "class_count": int, "about": dict}
    for name, kind in kinds.items():
        if not isinstance(told[name], kind):
            raise TypeError(f"{name} is no {kind.__name__}")
    if not isinstance(told["classes"], list | type(None)):
        raise TypeError("classes is no list")
    missing = [name for name in _TOLD if name not in fingerprint]
    if missing:
        raise ValueError(f"the fingerprint has no {missing[0]}")
    if not isinstance(fingerprint["methods"], dict) or fingerprint["methods"].keys() != told["layers"].keys():
        raise ValueError("its methods are not those of its layers")
    return Manifest(
        fingerprint=fingerprint if version == VERSION else _upgraded(fingerprint),
        layers={name: list(layers) for name, layers in told["layers"].items()},
        columns=columns_of(told["maps"]),
        rule=Rule(str(rule["kind"]), float(rule["side"]), None if size is None else (int(size[0]), int(size[1]))),
        class_count=told["class_count"],
        classes=told["classes"],
        about=told["about"],
    )


_TOLD = ("data", "config", "preprocessing", "methods", "target", "output", "camkit")
"""What reading a run asks its fingerprint for."""


def fingerprint(classifier: Classifier, loader: Loader, settings: Settings, data: str) -> dict[str, Any]:
    """All that rows depend on."""
    return {
        "data": data,
        "config": _spelled(classifier.source),
        "network": _digest(re.sub(r" at 0x[0-9a-f]+", "", repr(classifier.model)).encode()),
        "checkpoint": weights_hash(classifier.model),
        "preprocessing": preprocessings.fingerprint(loader),
        "activation": classifier.activation,
        "classes": None if classifier.classes is None else _digest(json.dumps(classifier.classes).encode()),
        **settings.told(),
        "camkit": camkit.__version__,
    }


def about(classifier: Classifier, loader: Loader) -> dict[str, Any]:
    """What else people want to know."""
    origin = classifier.checkpoint
    return {
        "checkpoint": None if origin is None else {"source": origin.source, "sha256": origin.sha256},
        "activation": classifier.activation,
        "preprocessing": loader.describe(),
        "reader": getattr(classifier._prepare, "reader", "pillow"),
        "device": str(classifier.device),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def _upgraded(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint of version 1 as it would be written now."""
    output = fingerprint["output"]
    return {
        **fingerprint,
        "preprocessing": {"digest": fingerprint["preprocessing"]},
        "output": None if output is None else str(output),
    }


def weights_hash(model: torch.nn.Module) -> str:
    """The first digits of the SHA-256 of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()[:16]


def _spelled(config: str) -> str:
    """CONFIG, one spelling for one file or folder."""
    kind, colon, name = config.rpartition(":")
    if not kind or kind == "transformers":
        path = Path(name).expanduser()
        if path.exists():
            return f"{kind}{colon}{path.resolve()}"
    return config


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        options = (
            f"{name}({', '.join(f'{k}={v}' for k, v in each.items())})" if each else name
            for name, each in value.items()
        )
        return ", ".join(options)
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
