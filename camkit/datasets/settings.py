"""What a run does, checked: methods, targets, layers, precision; and what it says when it ends."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, SupportsIndex

from camkit.errors import CamkitError, UsageError, closest
from camkit.methods import Method

MAP_DTYPES = ("float32", "float16")
AUTOCAST = ("bf16", "fp16")
TARGET_WORDS = ("predicted", "label", "both")


@dataclass(frozen=True)
class Target:
    """Which classes are explained.

    Attributes:
        kind: ``predicted``, ``label``, ``both`` (predicted, then label), ``top`` or ``classes``.
        top: How many of the highest scores, for ``top``.
        classes: Class indices, for ``classes``.
    """

    kind: Literal["predicted", "label", "both", "top", "classes"] = "predicted"
    top: int = 0
    classes: tuple[int, ...] = ()

    @property
    def needs_labels(self) -> bool:
        """Whether images without a label can't be explained."""
        return self.kind in ("label", "both")

    @property
    def needs_logits(self) -> bool:
        """Whether a forward has to say first which classes these are."""
        return self.kind in ("both", "top")

    def __str__(self) -> str:
        """As it is typed."""
        if self.kind == "top":
            return f"top:{self.top}"
        return " ".join(map(str, self.classes)) if self.kind == "classes" else self.kind


@dataclass(frozen=True)
class Settings:
    """All that the maps of a run depend on, beside the model, its preprocessing and the images.

    Attributes:
        methods: With their options.
        target: Which classes are explained.
        target_layers: Named by the user; none for the default ones.
        eigen_smooth: See :class:`camkit.EigenSmooth`.
        aug_smooth: See :class:`camkit.AugSmooth`.
        num_extra_tokens: See :class:`camkit.CAM`.
        output: See :class:`camkit.CAM`.
        autocast: ``bf16``, ``fp16``, or empty for the model's own precision.
        map_dtype: In which maps are kept.
        chunk_size: How many perturbed images run at a time; the maps don't depend on it.
    """

    methods: tuple[Method, ...]
    target: Target = Target()
    target_layers: tuple[str, ...] = ()
    eigen_smooth: bool = False
    aug_smooth: bool = False
    num_extra_tokens: int | None = None
    output: Any = None
    autocast: str = ""
    map_dtype: str = "float32"
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if self.map_dtype not in MAP_DTYPES:
            raise UsageError(f"maps are kept as {' or '.join(MAP_DTYPES)}, got {self.map_dtype!r}")
        if self.autocast and self.autocast not in AUTOCAST:
            raise UsageError(f"autocast takes {' or '.join(AUTOCAST)}, got {self.autocast!r}")
        extra = self.num_extra_tokens
        if extra is not None and (not isinstance(extra, int) or isinstance(extra, bool) or extra < 0):
            raise UsageError(f"num_extra_tokens counts tokens, 0 or more, got {extra!r}")
        if not all(isinstance(layer, str) for layer in self.target_layers):
            raise UsageError("target_layers are dotted names, which a run keeps; camkit layers lists them")

    def told(self) -> dict[str, Any]:
        """What the maps depend on, as JSON holds it."""
        output = self.output
        return {
            "methods": {method.name: dict(method.options) for method in self.methods},
            "target": str(self.target),
            "target layers": list(self.target_layers) or "default",
            "smoothing": [name for name, on in (("eigen", self.eigen_smooth), ("aug", self.aug_smooth)) if on],
            "num_extra_tokens": self.num_extra_tokens,
            "output": None if output is None else _named(output),  # 1 and "1" are the same part
            "precision": self.autocast or "as loaded",
            "map dtype": self.map_dtype,
        }


@dataclass(frozen=True)
class Pace:
    """How a run goes about it; no row depends on it, but for what the batch size changes in the network itself.

    Attributes:
        batch_size: Images that go through the network together.
        workers: Processes that read and prepare images; None takes as many as the machine has use for.
        limit: How many images of DATA are explained in all; None for all.
        shuffle: Seed of the order; None for DATA's own.
        retry_failed: Try images again that failed before.
        shard_rows: About how many rows a file holds.
    """

    batch_size: int = 8
    workers: int | None = None
    limit: int | None = None
    shuffle: int | None = None
    retry_failed: bool = False
    shard_rows: int = 1000

    def __post_init__(self) -> None:
        for name in ("batch_size", "limit", "shard_rows"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UsageError(f"{name} is a whole number of at least 1, got {value!r}")
        if self.workers is not None and (not isinstance(self.workers, int) or self.workers < 0):
            raise UsageError(f"workers is a number of processes, 0 or more, got {self.workers!r}")
        if self.shuffle is not None and not isinstance(self.shuffle, int):
            raise UsageError(f"shuffle is a seed, a whole number, got {self.shuffle!r}")


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        path: Where its rows are.
        total: Images asked for.
        done: Rows that there are now.
        failed: How many of them are errors.
        new: Rows that this call added.
        new_failed: How many of these are errors.
        seconds: That this call took, from the first image on.
        stopped: Whether it was asked to stop before the end.
        notes: Lines worth reading: files that were passed over, how folders became classes.
        layers: Method to its target layers.
        failures: The first errors.
    """

    path: str
    total: int
    done: int
    failed: int
    new: int
    new_failed: int
    seconds: float
    stopped: bool = False
    notes: tuple[str, ...] = ()
    layers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    failures: tuple[str, ...] = ()


class StoppedError(CamkitError):
    """A run that was asked to stop, and has kept what it had."""

    exit_code = 130


def find_target(words: str | SupportsIndex | Sequence[str | SupportsIndex], find_category: Any) -> Target:
    """Read ``--target``: predicted, label, both, top:K, or classes by index or name.

    Args:
        words: One or several.
        find_category: :meth:`camkit.models.classifier.Classifier.find_category`.

    Raises:
        UsageError: A word that is none of these, mixed ones, or a class named twice.
    """
    # Numbers of NumPy and torch are indices, too.
    listed = [words] if isinstance(words, str | SupportsIndex) else words
    given = [word if isinstance(word, str) else str(operator.index(word)) for word in listed] or ["predicted"]
    special = [word for word in given if word.lower() in TARGET_WORDS or word.lower().startswith("top:")]
    if special and len(given) > 1:
        raise UsageError(f"--target takes {', '.join(TARGET_WORDS)}, top:K, or classes, not {' '.join(given)} together")
    if special:
        word = special[0].lower()
        if word in TARGET_WORDS:
            return Target(word)  # type: ignore[arg-type]
        number = re.fullmatch(r"top:([1-9][0-9]*)", word)
        if number is None:
            raise UsageError(f"--target top:K takes a whole number of at least 1, got {given[0]}")
        return Target("top", top=int(number[1]))
    try:
        found = [int(find_category(word)) for word in given]
    except UsageError as error:
        near = closest(given[0], TARGET_WORDS)
        raise UsageError(f"{error}; or one of {', '.join(TARGET_WORDS)}, top:K{near}") from error
    if len(set(found)) < len(found):
        raise UsageError(f"--target names one twice: {' '.join(given)}")
    return Target("classes", classes=tuple(found))


def _named(output: Any) -> str:
    """A part of the output as text, without addresses in memory."""
    named = getattr(output, "__qualname__", None) if callable(output) else None
    return str(named or re.sub(r" at 0x[0-9a-f]+", "", str(output)))
