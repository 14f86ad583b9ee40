"""The addresses that the page asks.

What takes the model waits in the queue and is answered with lines of JSON: how many are ahead, how far it is, and at
last what came out. Whoever stops listening ends the job.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from camkit import web
from camkit.errors import CamkitError, UsageError
from camkit.explore.album import Choice, UnknownError
from camkit.explore.asked import Asked, AskedCategory, AskedLayers, AskedMap, AskedPicture, AskedPlace
from camkit.explore.explorer import Explorer
from camkit.explore.guard import PICTURES, Guard
from camkit.explore.kinds import Source
from camkit.explore.live import Live
from camkit.explore.pictures import MOST_BYTES, MOST_PIXELS, PictureError
from camkit.explore.queue import FullError
from camkit.explore.telling import answer
from camkit.typing import Progress
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
    "controls.js": "text/javascript",
    "page.js": "text/javascript",
    "paint.js": "text/javascript",
    "strip.js": "text/javascript",
}
"""What the page consists of. Nothing else of the package's folder is served."""
PICTURE_SECONDS = 60.0
"""In which a picture must be uploaded."""
MOST_UPLOADING = 4
CONCEPTS = 24
"""Colours of concepts that the page is told."""


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
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(ClientDisconnect, _left)
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


@router.get(PICTURES)
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


@router.post(PICTURES)
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
    return _told(request, asked, lambda source, progress: source.look(asked.image, progress))


@router.post("/api/layers")
async def layers(request: Request, asked: AskedLayers) -> StreamingResponse:
    """The layers that a map can be made of."""
    source = _explorer(request).source(asked.source)
    return answer(
        request, _explorer(request).queue, lambda progress: source.layers(asked.image, progress, whole=asked.whole)
    )


@router.post("/api/map")
async def a_map(request: Request, asked: AskedMap) -> StreamingResponse:
    """A map, as numbers."""
    source = _explorer(request).source(asked.source)
    return answer(
        request, _explorer(request).queue, lambda progress: source.map(asked.view(), progress, signed=asked.signed)
    )


@router.post("/api/place")
async def place(request: Request, asked: AskedPlace) -> StreamingResponse:
    """Which classes a place speaks for."""
    source = _explorer(request).source(asked.source)
    return answer(
        request, _explorer(request).queue, lambda progress: source.place(asked.view(), (asked.y, asked.x), progress)
    )


@router.post("/api/picture")
async def picture(request: Request, asked: AskedPicture) -> StreamingResponse:
    """The picture that the command line would draw."""

    def draw(source: Source, progress: Progress) -> dict[str, Any]:
        made = source.picture(asked.view(), asked.style(), progress, original_size=asked.original_size)
        return {"file": base64.b64encode(made).decode(), "type": "image/png"}

    return _told(request, asked, draw)


@router.post("/api/raw")
async def raw(request: Request, asked: Asked) -> StreamingResponse:
    """The signed maps and how they were made."""

    def write(source: Source, progress: Progress) -> dict[str, Any]:
        return {"file": base64.b64encode(source.raw(asked.view(), progress)).decode(), "type": "application/zip"}

    return _told(request, asked, write)


@router.post("/api/command")
def command(request: Request, asked: AskedPicture) -> dict[str, Any]:
    """The command that draws the picture."""
    source = _explorer(request).source(asked.source)
    return {"command": source.command(asked.view(), asked.style(), original_size=asked.original_size)}


def _told(request: Request, asked: Asked, work: Callable[[Source, Progress], Any]) -> StreamingResponse:
    """What a source answers, line by line."""
    explorer = _explorer(request)
    source = explorer.source(asked.source)
    return answer(request, explorer.queue, lambda progress: work(source, progress))


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
    return _line(str(error), status, headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """A line for an address that isn't there, and for what can't be read as JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    return _line(str(getattr(error, "detail", error)), status, dict(getattr(error, "headers", None) or {}))


async def _left(request: Request, error: Exception) -> Response:
    """Nobody reads this: who sent a picture left before its end."""
    return _line("the request has no end", 400, {})


def _line(error: str, status: int, headers: dict[str, str]) -> JSONResponse:
    if status == 413:  # the rest of what is sent isn't read
        headers["connection"] = "close"
    return JSONResponse({"error": error}, status, headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A line for a request that no page of the explorer makes."""
    found = (
        error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {"loc": (), "msg": ""}
    )
    where = ".".join(map(str, found["loc"][1:]))
    return JSONResponse({"error": f"{where}: {found['msg']}" if where else str(found["msg"])}, 422)
