"""A loaded classifier of any framework: its model, preprocessing and class names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from os.path import expanduser
from typing import TYPE_CHECKING, Any, Literal

from camkit.errors import UsageError, closest, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from camkit.models.checkpoint import Origin
    from camkit.models.loader import Loader
    from camkit.models.prepared import Prepared

Activation = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Task:
    """How one output of a network with several is read: see ``classes`` and ``activation`` of :class:`Classifier`."""

    classes: tuple[str, ...] | None
    activation: Activation


_LISTED = 10  # ambiguous classes that an error names


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model in eval mode on its device, and what is known about it.

    Attributes:
        model: The network; it returns logits, or what ``output`` makes logits of.
        classes: The class names by index. None where they are unknown, or where their number isn't the model's.
        activation: What turns the logits into the probabilities that the framework prints.
        source: The config file, or the model as CONFIG names it.
        checkpoint: Where the weights came from; None where they are random.
        load_warning: One line where only a part of the checkpoint fitted.
        device: Where the model is.
        notes: Lines that say what was taken of the checkpoint where it holds several things: averaged weights, names
            behind a prefix, preprocessing.
        output: Computes from what the model returns the logits that its framework predicts from; None where these are
            one of the returned tensors.
        tasks: Of a network with several tasks, each one by the name of its output; ``classes`` and ``activation`` are
            then those of the output that is explained where none is named.
    """

    model: nn.Module
    classes: tuple[str, ...] | None
    activation: Activation
    source: str
    checkpoint: Origin | None
    load_warning: str | None
    device: torch.device
    _prepare: Callable[[str], Prepared] = field(repr=False)
    output: Callable[[Any], Any] | None = None
    notes: tuple[str, ...] = ()
    tasks: Mapping[str, Task] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Names come from files, and are printed: one line each, and nothing that a terminal obeys.
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(map(printable, self.classes)))

    def of_output(self, name: str | None) -> Classifier:
        """The same classifier with the class names and the activation of the task whose output has the name.

        Of a network with one task, and without a name, it is the classifier as it is.
        """
        task = self.tasks.get(name) if name is not None else None
        return self if task is None else replace(self, classes=task.classes, activation=task.activation)

    def prepare(self, image: str | Path) -> Prepared:
        """Read an image and run the framework's own preprocessing on it.

        Random transforms draw the same numbers every time, and the process' random state stays as it was.

        Raises:
            CamkitError: The image is missing or unreadable, or the preprocessing fails on it.
            UsageError: There is no preprocessing: a config without a test pipeline, a folder without a processor.
        """
        return self._prepare(expanduser(image))  # noqa: PTH111 (a URL would lose a slash)

    def loader(self) -> Loader:
        """The preprocessing for many images, in worker processes and batch by batch; see :mod:`camkit.models.loader`.

        Raises:
            UsageError: There is no preprocessing.
        """
        from camkit.models.loader import choose_loader

        return choose_loader(self._prepare, self.device)

    def name(self, category: int) -> str:
        """The class name, ``tabby cat``; ``category 281`` where it is unknown."""
        name = self._known_name(category)
        return f"category {category}" if name is None else name

    def named(self, category: int) -> str:
        """Index and class name, ``281 tabby cat``; ``category 281`` where the name is unknown."""
        name = self._known_name(category)
        return f"category {category}" if name is None else f"{category} {name}"

    def probability(self, logits: Tensor, category: int) -> float:
        """The probability of a class, in [0, 1], computed in float64 from one image's logits (C,).

        Softmax or sigmoid, see ``activation``.
        """
        logits = logits.double()
        probabilities = logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(0)
        return float(probabilities[category])

    def label(self, logits: Tensor, category: int) -> str:
        """Index, class name and probability from one image's logits (C,): ``281 tabby cat (0.71)``."""
        return f"{self.named(category)} ({self.probability(logits, category):.2f})"

    def find_category(self, text: str) -> int:
        """The index of a class given as text: the index itself, or the class name in any case.

        Of a name with synonyms, as ImageNet's ``tench, Tinca tinca``, each one will do, and so will the whole. A number
        is always an index, and isn't checked against the number of classes.

        Raises:
            UsageError: No class has the name, several have it, or the class names are unknown.
        """
        return find_category(text, self.classes, self.source)

    def _known_name(self, category: int) -> str | None:
        return self.classes[category] if self.classes is not None and 0 <= category < len(self.classes) else None


def find_category(text: str, classes: Sequence[str] | None, source: str) -> int:
    """The index of a class given as text, among the classes of ``source``; see :meth:`Classifier.find_category`.

    Raises:
        UsageError: No class has the name, several have it, or the class names are unknown.
    """
    if re.fullmatch(r"\s*-?[0-9]+\s*", text):
        return int(text)
    if classes is None:
        raise UsageError(f"the class names of {source} are unknown, so '{text}' can't be found; give an index")
    wanted = _plain(text)
    found = [index for index, name in enumerate(classes) if wanted in map(_plain, {name, *_synonyms(name)})]
    if not found:
        known = (synonym for name in classes for synonym in _synonyms(name))
        raise UsageError(
            f"no class '{text}' among the {len(classes)} of {source}{closest(text, known)}; give a name or an index"
        )
    if len(found) > 1:
        several = ", ".join(f"{index} {classes[index]}" for index in found[:_LISTED]) + ", ..." * (len(found) > _LISTED)
        raise UsageError(f"'{text}' names {len(found)} classes of {source} ({several}); give the index")
    return found[0]


def _synonyms(name: str) -> list[str]:
    return [synonym.strip() for synonym in name.split(",")]


def _plain(name: str) -> str:
    """What names are compared by: no case, underscores as spaces, single spaces between words."""
    return " ".join(name.casefold().replace("_", " ").split())
