"""``--cfg-options`` of models that are built from keyword arguments: read them, and spell them in messages."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from camkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WORDS = {"true": True, "false": False, "none": None}


def keyword_options(words: Sequence[str]) -> dict[str, Any]:
    """Read ``["num_classes=10", "act_layer=gelu"]`` as keyword arguments; values are Python literals, else strings.

    Raises:
        UsageError: A word that isn't KEY=VALUE with an identifier as KEY.
    """
    options = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--cfg-options takes KEY=VALUE, got '{word}'; for example num_classes=10")
        try:
            options[key] = _WORDS[text.lower()] if text.lower() in _WORDS else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[key] = text
    return options


def spelled(options: Mapping[str, Any]) -> str:
    """Options as they are typed: ``--cfg-options num_classes=10 act_layer=gelu``."""
    return f"--cfg-options {' '.join(f'{key}={value}' for key, value in options.items())}"
