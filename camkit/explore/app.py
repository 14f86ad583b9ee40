"""The addresses that the page asks.

What takes the model waits in the queue and is answered with lines of JSON: how many are ahead, how far it is, and at
last what came out. Whoever stops listening ends the job.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from camkit import web
from camkit.errors import CamkitError, UsageError
from camkit.explore.album import Album, Choice, UnknownError
from camkit.explore.guard import Guard
from camkit.explore.kinds import Source, View
from camkit.explore.live import Live
from camkit.explore.pictures import MOST_BYTES, MOST_PIXELS, PictureError
from camkit.explore.queue import FullError, Job, Queue, Work
from camkit.visualize.colours import COLORMAPS, PALETTE, concept_colour
from camkit.visualize.opencv import cv2
from camkit.visualize.overlay import Style

FILES = {
    "style.css": "text/css",
    "explore.css": "text/css",
    "theme.js": "text/javascript",
    "explore.js": "text/javascript",
    "ask.js": "text/javascript",
    "card.js": "text/javascript",
    "paint.js": "text/javascript",
}
"""What the page consists of. Nothing else of the package's folder is served."""
PICTURE_SECONDS = 60.0
"""In which a picture must be uploaded."""
MOST_UPLOADING = 4
LISTEN_SECONDS = 0.25
"""How often it is seen whether somebody still listens."""
LAST = ("done", "error")
"""Events after which nothing more is told."""
CONCEPTS = 24
"""Colours of concepts that the page is told."""

Text = Annotated[str, Field(max_length=1000)]
Share = Annotated[float, Field(ge=0, le=1)]


class Asked(BaseModel):
    """One map of one picture, see :class:`camkit.explore.kinds.View`."""

    model_config = ConfigDict(extra="forbid")

    source: Text
    image: Text
    method: Text = "GradCAM"
    category: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    layers: Annotated[list[Text], Field(max_length=32)] = []
    eigen_smooth: bool = False
    aug_smooth: bool = False

    def view(self) -> View:
        """Without the source."""
        return View(self.image, self.method, self.category, tuple(self.layers), self.eigen_smooth, self.aug_smooth)


class AskedLayers(Asked):
    """The layers of a model."""

    whole: bool = False


class AskedMap(Asked):
    """A map, and whether its signed form is wanted, too."""

    signed: bool = False


class AskedPlace(Asked):
    """A place: shares of the picture's width and height."""

    x: Share
    y: Share


class AskedPicture(Asked):
    """A picture as the command line draws it."""

    colormap: Text = "jet"
    alpha: Share = 0.5
    original_size: bool = False

    def style(self) -> Style:
        """Colours and share of the heat."""
        return Style(self.colormap, self.alpha)


class AskedCategory(BaseModel):
    """A class by index or name."""

    source: Text
    text: Annotated[str, Field(min_length=1, max_length=200)]


@dataclass
class Explorer:
    """What the page shows.

    Attributes:
        title: Of the page.
        album: The pictures.
        sources: What explains them, by a short name; the first one is shown first.
        queue: In front of all of them.
        methods: That are shown first.
        categories: Classes that are shown first; none for the predicted one.
        columns: Of the run that the pictures are from, by which they can be chosen and sorted; none without a run.
        notices: Lines that stand on top of the page.
    """

    title: str
    album: Album
    sources: dict[str, Source]
    queue: Queue = field(default_factory=Queue)
    methods: tuple[str, ...] = ("GradCAM",)
    categories: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    uploading: int = 0

    def source(self, name: str) -> Source:
        """What explains.

        Raises:
            UsageError: There is no such thing.
        """
        if name not in self.sources:
            raise UsageError("there is no such model or run")
        return self.sources[name]

    def close(self) -> None:
        """End the model's thread, and delete what was uploaded."""
        self.queue.close()
        self.album.close()


def make_app(explorer: Explorer, *, host: str = "127.0.0.1", token: str = "") -> Guard:
    """The application, guarded.

    Args:
        explorer: What it shows.
        host: The address that it is bound to.
        token: That is wanted; empty for none.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(explorer.close)

    app = FastAPI(title="camkit explore", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    app.state.explorer = explorer
    app.include_router(router)
    app.add_exception_handler(CamkitError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    return Guard(app, host=host, token=token)


router = APIRouter()


def _explorer(request: Request) -> Explorer:
    found: Explorer = request.app.state.explorer
    return found


@router.get("/")
async def page(request: Request) -> HTMLResponse:
    """The page."""
    explorer = _explorer(request)
    return HTMLResponse(web.fill("explore.html", heading=explorer.title, notices=explorer.notices))


@router.get("/web/{name}")
async def file(name: str) -> Response:
    """One of the page's files."""
    if name not in FILES:
        return JSONResponse({"error": "there is no such file"}, 404)
    return Response(web.read(name), media_type=FILES[name])


@router.get("/api/about")
async def about(request: Request) -> dict[str, Any]:
    """All that the page must know before it asks for anything."""
    explorer = _explorer(request)
    return {
        "title": explorer.title,
        "sources": {name: source.about() for name, source in explorer.sources.items()},
        "methods": list(explorer.methods),
        "categories": list(explorer.categories),
        "columns": list(explorer.columns),
        "colormaps": _colormaps(),
        "concepts": [concept_colour(number + 1) for number in range(CONCEPTS)],
        "palette": list(PALETTE),
        "style": {"colormap": Style().colormap, "alpha": Style().alpha},
        "limits": {"bytes": MOST_BYTES, "pixels": MOST_PIXELS},
    }


@router.get("/api/images")
def images(
    request: Request,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 60,
    where: Annotated[str, Query(max_length=1000)] = "",
    sort: Annotated[str, Query(max_length=100)] = "",
    descending: Annotated[bool, Query()] = False,
) -> dict[str, Any]:
    """Some pictures."""
    return _explorer(request).album.list(Choice(offset, limit, where.strip(), sort, descending))


@router.get("/api/small")
def small(request: Request, id: Annotated[str, Query(max_length=1000)]) -> Response:  # noqa: A002
    """A small copy of a picture."""
    return Response(_explorer(request).album.small(id), media_type="image/jpeg", headers={"cache-control": "private"})


@router.post("/api/images")
async def upload(request: Request, name: Annotated[str, Query(max_length=1000)] = "picture") -> JSONResponse:
    """Take a picture; the body is the file."""
    explorer = _explorer(request)
    if int(request.headers.get("content-length") or 0) > MOST_BYTES:
        raise _too_long()
    if explorer.uploading >= MOST_UPLOADING:
        raise FullError(1)
    explorer.uploading += 1
    try:
        path = await asyncio.wait_for(_received(request, explorer.album.uploads.folder), PICTURE_SECONDS)
        return JSONResponse(await run_in_threadpool(explorer.album.add, path, name))
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise PictureError(f"the picture didn't come within {PICTURE_SECONDS:.0f} s", 408) from error
    finally:
        explorer.uploading -= 1


@router.post("/api/category")
async def category(request: Request, asked: AskedCategory) -> dict[str, Any]:
    """A class by index or name."""
    source = _explorer(request).source(asked.source)
    if not isinstance(source, Live):
        raise UsageError("the classes of a run's maps are those that it explained")
    return source.find_category(asked.text)


@router.post("/api/look")
async def look(request: Request, asked: Asked) -> StreamingResponse:
    """The picture as the network sees it, and its classes."""
    source = _explorer(request).source(asked.source)
    return _answer(request, lambda progress: source.look(asked.image, progress))


@router.post("/api/layers")
async def layers(request: Request, asked: AskedLayers) -> StreamingResponse:
    """The layers that a map can be made of."""
    source = _explorer(request).source(asked.source)
    return _answer(request, lambda progress: source.layers(asked.image, progress, whole=asked.whole))


@router.post("/api/map")
async def a_map(request: Request, asked: AskedMap) -> StreamingResponse:
    """A map, as numbers."""
    source = _explorer(request).source(asked.source)
    return _answer(request, lambda progress: source.map(asked.view(), progress, signed=asked.signed))


@router.post("/api/place")
async def place(request: Request, asked: AskedPlace) -> StreamingResponse:
    """Which classes a place speaks for."""
    source = _explorer(request).source(asked.source)
    return _answer(request, lambda progress: source.place(asked.view(), (asked.y, asked.x), progress))


@router.post("/api/picture")
async def picture(request: Request, asked: AskedPicture) -> StreamingResponse:
    """The picture that the command line would draw."""
    source = _explorer(request).source(asked.source)

    def draw(progress: Callable[[int, int], None]) -> dict[str, Any]:
        made = source.picture(asked.view(), asked.style(), progress, original_size=asked.original_size)
        return {"file": base64.b64encode(made).decode(), "type": "image/png"}

    return _answer(request, draw)


@router.post("/api/raw")
async def raw(request: Request, asked: Asked) -> StreamingResponse:
    """The signed maps and how they were made."""
    source = _explorer(request).source(asked.source)

    def write(progress: Callable[[int, int], None]) -> dict[str, Any]:
        return {"file": base64.b64encode(source.raw(asked.view(), progress)).decode(), "type": "application/zip"}

    return _answer(request, write)


@router.post("/api/command")
def command(request: Request, asked: AskedPicture) -> dict[str, Any]:
    """The command that draws the picture."""
    source = _explorer(request).source(asked.source)
    return {"command": source.command(asked.view(), asked.style(), original_size=asked.original_size)}


def _answer(request: Request, work: Work) -> StreamingResponse:
    """Queue a job, and tell about it line by line.

    Raises:
        FullError: There is no room in the queue.
    """
    queue = _explorer(request).queue
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
    if job.is_running:
        done, total = job.progress or (0, 0)
        return {"event": "running", "done": done, "total": total}
    return {"event": "waiting", "ahead": queue.ahead(job)}


async def _received(request: Request, folder: Path) -> Path:
    """The request's body, in a file; not more than :data:`MOST_BYTES` of it."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="incoming-", delete=False) as made:
        path, size = Path(made.name), 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > MOST_BYTES:
                    raise _too_long()
                made.write(part)
            if not size:
                raise PictureError("the picture is an empty file")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path


def _too_long() -> PictureError:
    return PictureError(f"a picture may have {MOST_BYTES >> 20} MiB", 413)


def _colormaps() -> dict[str, str]:
    """OpenCV's colour maps, each as 256 times RGB in base64."""
    import numpy as np

    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return {
        name: base64.b64encode(np.ascontiguousarray(cv2.applyColorMap(ramp, number)[:, 0, ::-1]).tobytes()).decode()
        for name, number in COLORMAPS.items()
    }


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """A line for an error of camkit's."""
    headers = {}
    status = 400
    if isinstance(error, FullError):
        status, headers = 503, {"retry-after": str(error.seconds)}
    elif isinstance(error, UnknownError):
        status = 404
    elif isinstance(error, PictureError):
        status = error.status
    if status == 413:  # the rest of what is sent isn't read
        headers["connection"] = "close"
    return JSONResponse({"error": str(error)}, status, headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A line for a request that no page of the explorer makes."""
    found = (
        error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {"loc": (), "msg": ""}
    )
    where = ".".join(map(str, found["loc"][1:]))
    return JSONResponse({"error": f"{where}: {found['msg']}" if where else str(found["msg"])}, 422)


def make_server(app: Guard, *, seconds: int = 2) -> uvicorn.Server:
    """A server of the application, which gives open requests so many seconds when it is told to end."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=seconds,
        timeout_keep_alive=75,  # a browser's request may meet the end of a connection that it thinks is open
        ws="none",
    )
    return uvicorn.Server(config)


def serve(app: Guard, listening: Any) -> None:
    """Answer requests at a socket until the process is told to stop."""
    with contextlib.suppress(KeyboardInterrupt):
        make_server(app).run(sockets=[listening])
