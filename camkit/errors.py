"""What camkit raises, and the 'closest names' part of its messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CamkitError(Exception):
    """Anything camkit refuses. The message is one line; the CLI prints it and exits with ``exit_code``."""

    exit_code = 1


class UsageError(CamkitError, ValueError):
    """An argument that names nothing that exists, or that contradicts another."""

    exit_code = 2


class PackageError(CamkitError, ImportError):
    """A package that is missing, too old, or that doesn't load; the message says what to install."""


class CheckpointError(CamkitError):
    """A checkpoint that is missing, unreadable, unsafe, of another architecture, or lacks what the scores depend on."""


class LayerError(CamkitError, ValueError):
    """A target layer that yields no activations or gradients a map could be made of."""


class SinglePositionError(LayerError):
    """A target layer with a single position, so that it can't show where.

    Attributes:
        layer: its name.
    """

    def __init__(self, message: str, layer: str) -> None:
        super().__init__(message)
        self.layer = layer


class TokenGridError(LayerError):
    """A token sequence that can't be laid out as a grid."""


class ForwardError(CamkitError, RuntimeError):
    """The model's own forward failed on the images; the message names the layer, ``__cause__`` is its error."""


class NonFiniteError(CamkitError, ArithmeticError):
    """NaN or infinity in the activations, the gradients or the scores."""


class CamkitWarning(UserWarning):
    """Base of camkit's warnings."""


class EmptyMapWarning(CamkitWarning):
    """A map that is zero everywhere, with the reason."""


class OutputWarning(CamkitWarning):
    """The model returned several tensors that could hold the scores; the message says which one was taken."""


class LayerWarning(CamkitWarning):
    """A target layer that could mean several things; the message says which one was taken, and how to name another."""


def closest(name: str, names: Iterable[str], limit: int = 3) -> str:
    """``"; closest: a, b"`` for the known names most like ``name``, or an empty string."""
    known = {known.lower(): known for known in names}
    matches = get_close_matches(name.lower(), known, n=limit, cutoff=0.5)
    return f"; closest: {', '.join(known[match] for match in matches)}" if matches else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is a device's or the machine's lack of memory."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def printable(text: str) -> str:
    """Text with escapes in place of line breaks and whatever else a terminal would obey."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def first_line(text: str) -> str:
    """The first line with something on it, stripped; other packages' errors span many."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def reason(error: BaseException) -> str:
    """The first sentence of another package's message."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)  # str() would quote it
    text = first_line(text).partition(". ")[0].removesuffix(".")
    text = text.removeprefix("<urlopen error ").removesuffix(">") if text.startswith("<urlopen error ") else text
    return text or type(error).__name__
