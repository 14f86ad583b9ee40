"""Standard output and error that can't stop a command: closed, full, of few characters, or no longer read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import Any


class Stream:
    """Writes to a text stream as long as that works, then drops the rest, so that files are still written.

    Attributes:
        error: Why the stream took no more; None where it took all.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None
        if isinstance(stream, TextIOWrapper):  # a console of few characters shows the others as escapes
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush what wasn't dropped."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's."""
        return getattr(self._stream, name)

    def _try(self, call: Any, *text: str) -> None:
        if self.error is not None:
            return
        try:
            call(*text)
        except OSError as error:
            self.error = error
            # What is buffered would fail once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def standard_streams() -> Iterator[Stream]:
    """Put such streams in place of ``sys.stdout`` and ``sys.stderr``; gives standard output's."""
    with _nothing_closed(), Path(os.devnull).open("w") as nowhere:
        out, err = (Stream(stream or nowhere) for stream in (sys.stdout, sys.stderr))
        with redirect_stdout(out), redirect_stderr(err):
            yield out
            out.flush()
            err.flush()


@contextmanager
def _nothing_closed() -> Iterator[None]:
    """Open the closed ones of the descriptors 0 to 2, which a file of the command's own would get otherwise."""
    opened = []
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened.append(os.open(os.devnull, os.O_RDWR))
    try:
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)
