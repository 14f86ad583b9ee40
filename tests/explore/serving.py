"""Explorers that tests talk to: a real server in a thread, and a client that says what it likes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

from camkit.cli.explore import listen
from camkit.explore.album import Album, Files, Folder, Shelf
from camkit.explore.app import make_app
from camkit.explore.explorer import Explorer
from camkit.explore.guard import HEADER
from camkit.explore.kinds import Source, View, numbers
from camkit.explore.live import Live
from camkit.explore.queue import Queue
from camkit.explore.server import make_server
from camkit.explore.setting import Setting
from camkit.typing import Progress
from tests.datasets.pictures import classifier

FIRST = "given:000.png"
WORDS = ("cnn",)
"""CONFIG of the tiny network, as ``camkit vis-cam`` takes it in tests of the command line."""


@dataclass(frozen=True)
class Answer:
    """What a server answers."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        """The JSON in it."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of JSON in it."""
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass(frozen=True)
class Client:
    """Sends requests to an explorer.

    Attributes:
        port: Where it listens, on this machine.
        explorer: What is behind it.
    """

    port: int
    explorer: Explorer

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, seconds: float = 60
    ) -> Answer:
        """Send a request as it is, with the Host header of the address."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """Ask for something."""
        return self.request("GET", path, headers=headers)

    def post(self, path: str, content: bytes | dict[str, Any], **headers: str) -> Answer:
        """Send something as the page does."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = {} if isinstance(content, bytes) else {"content-type": "application/json"}
        return self.request("POST", path, body, {HEADER: "page", **kind, **headers})

    def ask(self, what: str, **asked: Any) -> dict[str, Any]:
        """Ask the model for something; the first picture, where none is named. An error fails the test."""
        answer = self.post(f"/api/{what}", {"source": "a", "image": FIRST, **asked})
        assert answer.status == 200, answer.body
        last = answer.lines[-1]
        assert last["event"] == "done", last
        found: dict[str, Any] = last["result"]
        return found

    def refusal(self, what: str, **asked: Any) -> str:
        """The error that a question to the model ends in: one line."""
        answer = self.post(f"/api/{what}", {"source": "a", "image": FIRST, **asked})
        line = answer.lines[-1] if answer.status == 200 else answer.told
        assert "\n" not in line["error"]
        return str(line["error"])


class Slow:
    """A source whose maps take as long as nobody stops them."""

    def __init__(self) -> None:
        self.started = 0
        self.ended = 0

    def about(self) -> dict[str, Any]:
        return {"title": "slow", "live": True, "source": "slow", "checkpoint": None, "device": "cpu", "methods": []}

    def look(self, image: str, progress: Progress) -> dict[str, Any]:
        return {}

    def map(self, view: View, progress: Progress, *, signed: bool) -> dict[str, Any]:
        self.started += 1
        try:
            for done in range(100_000):
                progress(done, 100_000)
                time.sleep(0.01)
        finally:
            self.ended += 1
        return {"maps": numbers([])}


def tiny(pictures: Path | Shelf, **how: Any) -> Explorer:
    """An explorer of the tiny network, ``a``, and of :class:`Slow`, ``slow``."""
    shelf = Folder(pictures) if isinstance(pictures, Path) else pictures
    album = Album(shelf)
    slow: Any = Slow()
    sources: dict[str, Source] = {"a": live(album), "slow": slow}
    return Explorer("tiny", album, sources, **how)


def live(album: Album, **how: Any) -> Live:
    """The tiny network."""
    return Live("tiny", classifier(), album, Setting(words=WORDS, **how))


@contextmanager
def served(explorer: Explorer, *, host: str = "127.0.0.1", token: str = "") -> Iterator[Client]:
    """Serve an explorer as long as the context lasts; it listens on this machine alone, whatever ``host`` says."""
    socket = listen("127.0.0.1", 0)
    server = make_server(make_app(explorer, host=host, token=token), explorer, seconds=1)
    thread = Thread(target=lambda: server.run(sockets=[socket]), daemon=True)
    thread.start()
    try:
        yield Client(socket.getsockname()[1], explorer)
    finally:
        server.should_exit = True
        thread.join(20)
        socket.close()
        explorer.close()
    assert not thread.is_alive(), "the server doesn't end"


def until(happened: Any, seconds: float = 30) -> None:
    """Wait until something has happened; it not happening fails the test."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it doesn't happen"
        time.sleep(0.02)


__all__ = ["FIRST", "Answer", "Client", "Files", "Queue", "Slow", "live", "served", "tiny", "until"]
