"""Answers that take the model, told line by line until the end, or until nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from camkit.explore.queue import Job, Queue, Work

LISTEN_SECONDS = 0.25
"""How often it is seen whether somebody still listens."""
LAST = ("done", "error")
"""Events after which nothing more is told."""


def answer(request: Request, queue: Queue, work: Work) -> StreamingResponse:
    """Queue a job, and tell about it line by line.

    Raises:
        FullError: There is no room in the queue.
    """
    loop, news = asyncio.get_running_loop(), asyncio.Event()

    def changed() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(news.set)

    job = queue.add(work, changed)
    return StreamingResponse(_told(request, queue, job, news), media_type="application/x-ndjson")


async def _told(request: Request, queue: Queue, job: Job, news: asyncio.Event) -> AsyncIterator[bytes]:
    last: dict[str, Any] = {}
    try:
        while True:
            said = _state(queue, job)
            if said != last:
                last = said
                yield json.dumps(said).encode() + b"\n"
            if said["event"] in LAST:  # not whether the job is done now, which it may have become since
                return
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(news.wait(), LISTEN_SECONDS)
            news.clear()
            if await request.is_disconnected():
                return
    finally:
        queue.stop(job)


def _state(queue: Queue, job: Job) -> dict[str, Any]:
    if job.is_done:
        return {"event": "error", "error": job.error} if job.error else {"event": "done", "result": job.result}
    if queue.is_closed:  # which doesn't wait for what the model is at
        return {"event": "error", "error": "the explorer has ended"}
    if job.is_running:
        done, total = job.progress or (0, 0)
        return {"event": "running", "done": done, "total": total}
    return {"event": "waiting", "ahead": queue.ahead(job)}
