"""One line for whoever asks for something that isn't there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from camkit.errors import CamkitError

OutOfMemory: type[RuntimeError] = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
"""What torch raises where a device's memory doesn't suffice; torch 2.5 moved it."""


def refusal(call: Callable[..., Any], kind: type[CamkitError], *given: Any, **how: Any) -> str:
    """The message of the error of exactly that kind that a call ends in: one line."""
    with pytest.raises(kind) as caught:
        call(*given, **how)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    return message
