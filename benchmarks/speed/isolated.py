"""A process of its own for every measurement, without paying for the imports every time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")

PRELOAD = ["benchmarks.speed.preload"]


def isolated(function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(*arguments)`` in a new process, which takes what it did to memory and settings along when it ends.

    Raises:
        RuntimeError: the function raised, or its process died.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sending, function, arguments))
    process.start()
    sending.close()
    try:
        result, failure = receiving.recv()
    except EOFError:
        result, failure = None, "the process died"
    process.join()
    if failure:
        raise RuntimeError(f"{failure} (exit code {process.exitcode})" if process.exitcode else failure)
    return result  # type: ignore[no-any-return]


def _send(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send((function(*arguments), ""))
    except Exception as error:
        pipe.send((None, f"{type(error).__name__}: {error}"))
        raise
