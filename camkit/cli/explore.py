"""``camkit explore``: a page in the browser that explains pictures as fast as they are chosen."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camkit.cli import demo, flags, printing
from camkit.errors import CamkitError, UsageError
from camkit.methods import find_method
from camkit.versions import require

if TYPE_CHECKING:
    from camkit.cli.parser import Parser
    from camkit.explore.album import Album, Shelf
    from camkit.explore.explorer import Explorer
    from camkit.explore.kinds import Source
    from camkit.explore.live import Live
    from camkit.models.classifier import Classifier

PORT = 8042
PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket")
"""Of scikit-image, beside the demo's picture."""


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    flags.add_model(
        parser,
        config="the demo's network, on the demo's pictures",
        checkpoint="checkpoint file or URL, .pth or .safetensors; default: the framework's own weights (MMPretrain has "
        "none)",
    )
    parser.add_argument(
        "--images",
        type=flags.path,
        metavar="FOLDER",
        help="the pictures to choose from; with --run the folder that the run's images are below, if they have moved",
    )
    parser.add_argument("--run", metavar="RUN", help="browse a run, and explain its images anew where CONFIG is given")
    parser.add_argument("--compare", metavar="CHECKPOINT2", help="another checkpoint of CONFIG, side by side")
    flags.add_layout(parser)
    flags.add_methods(parser, default="GradCAM; those shown first")
    flags.add_bands(parser)
    parser.add_argument(
        "--target-category",
        nargs="+",
        action="extend",
        default=[],
        metavar="CATEGORY",
        help="classes shown first, by index or name; default: the predicted one",
    )
    parser.add_argument("--port", type=_port, default=PORT, metavar="N", help=f"0 for any free one; default: {PORT}")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen; another address than this machine's own takes a token, which is in the address printed; "
        "default: 127.0.0.1",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")


def main(options: argparse.Namespace) -> None:
    """Serve the page until it is interrupted."""
    for module in ("fastapi", "uvicorn", "jinja2"):
        require(module, "web", "the explorer is a page that a server sends")
    require("PIL.Image", "web", "the explorer reads pictures with Pillow")
    from camkit.explore.app import make_app
    from camkit.explore.guard import is_local, make_token
    from camkit.explore.server import serve

    _check(options)
    listening = listen(options.host, options.port)  # before the model loads, which takes a while
    try:
        explorer = make_explorer(options)
    except BaseException:
        listening.close()
        raise
    token = "" if is_local(options.host) else make_token()
    for line in explorer.notices:
        printing.print_warning(line)
    url = address(options.host, listening.getsockname()[1], token)
    print(f"exploring {explorer.title} at {url} (Ctrl-C ends it)", flush=True)
    if not options.no_browser and not open_browser(url):
        print("no browser could be opened: open the address in one", flush=True)
    try:
        serve(make_app(explorer, host=options.host, token=token), explorer, listening)
        print("the explorer has ended", flush=True)
    finally:
        explorer.close()
        listening.close()


def make_explorer(options: argparse.Namespace) -> Explorer:
    """What the flags ask for.

    Raises:
        CamkitError: A model, a run or pictures that aren't there.
    """
    from camkit.explore.album import Album
    from camkit.explore.explorer import Explorer

    shelf, columns, notices, rows = _pictures(options)
    if not (options.config or options.run):
        options = _demo(options)
    album = Album(shelf)
    try:
        sources: dict[str, Source] = {}
        if options.config:
            sources |= _models(options, album)
        if rows is not None:
            from camkit.explore.kept import Kept

            sources["run"] = Kept(rows, album, tuple(options.bands))
        live: Any = sources.get("a")
        categories = tuple(flags.categories(options, live.classifier)) if live else ()
    except BaseException:
        album.close()
        raise
    methods = tuple(find_method(name).name for name in options.method or ["GradCAM"])
    if live is None and rows is not None:
        methods = tuple(name for name in methods if name in rows.run.methods) or tuple(rows.run.methods[:1])
    title = " and ".join(source.about()["title"] for source in sources.values())
    return Explorer(title, album, sources, methods=methods, categories=categories, columns=columns, notices=notices)


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        UsageError: There is no such address.
        CamkitError: The port is taken, or not to be had.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"--host {host} is no address of this machine: {error.strerror or error}") from error
    made = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":  # there it would let two servers have one port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
        made.listen(128)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise CamkitError(f"port {port} of {host} is taken: give another --port, or --port 0 for any") from error
        raise CamkitError(f"can't listen at {host}, port {port}: {error.strerror or error}") from error
    return made


def address(host: str, port: int, token: str) -> str:
    """What is opened in a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host  # noqa: S104 (no binding)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def open_browser(url: str) -> bool:
    """Open a window of a browser; whether that was done. One that would take over the terminal isn't opened."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False


def _check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before anything loads."""
    flags.check_once("--method", [find_method(name).name for name in options.method or []])
    flags.method_options(options.method_options)
    if options.compare and not options.config:
        raise UsageError("--compare names another checkpoint of CONFIG: give CONFIG and CHECKPOINT, too")


def _pictures(options: argparse.Namespace) -> tuple[Shelf, tuple[str, ...], tuple[str, ...], Any]:
    """The pictures to choose from; of a run also the columns to choose by, lines about it, and its rows."""
    from camkit.explore.album import Files, Folder

    if options.run:
        import pyarrow as pa

        from camkit.datasets.drawing import check_root
        from camkit.datasets.reading import load
        from camkit.datasets.schema import COLUMNS
        from camkit.explore.kept import Rows

        root = check_root(options.images)
        run = load(options.run)
        if not len(run):
            raise UsageError(f"{run.path} has no images yet")
        lines = []
        if len(run) < (run.asked or 0):
            lines.append(f"{run.path} is unfinished: {len(run)} of {run.asked} images are done")
        rows = Rows(run, root)
        if lost := rows.lost():
            lines.append(lost)
        columns = tuple(name for name, kind in COLUMNS.items() if not pa.types.is_nested(kind))
        return rows, columns, tuple(lines), rows
    if options.images:
        return Folder(options.images), (), (), None
    if options.config:
        return Files({}), (), (), None
    return Files(demo_pictures()), (), (), None


def demo_pictures() -> dict[str, Path]:
    """The demo's pictures by name, in the cache folder, so that the commands that name them work later, too."""
    from camkit.visualize.save import save_picture

    folder = demo.cache_folder() / "pictures"
    made = {"cat and espresso": save_picture(folder / "cat-and-espresso.png", demo.photographs())}
    from skimage import data  # photographs() says where it is missing

    for name in PHOTOGRAPHS:
        made[name] = save_picture(folder / f"{name}.png", getattr(data, name)())
    return made


def _demo(options: argparse.Namespace) -> argparse.Namespace:
    """The flags with the demo's network; on its own pictures it sees all of them."""
    config, checkpoint = demo.build_network(demo.cache_folder())
    settings = options.cfg_options or ([] if options.images else list(demo.WHOLE_PICTURE))
    categories = options.target_category or ([] if options.images else [str(each) for each in demo.CATEGORIES.values()])
    changed = {"config": str(config), "checkpoint": str(checkpoint), "cfg_options": settings}
    return argparse.Namespace(**{**vars(options), **changed, "target_category": categories})


def _models(options: argparse.Namespace, album: Album) -> dict[str, Source]:
    """The model, and the one that it is compared with."""
    first = flags.load_classifier(options)
    found: dict[str, Source] = {"a": _live(options, first, album)}
    if options.compare:
        other = argparse.Namespace(**{**vars(options), "checkpoint": options.compare})
        second = flags.load_classifier(other)
        if second.classes is None and first.classes is not None:
            second = replace(second, classes=first.classes)
        found["b"] = _live(other, second, album)
        one, two = (Path(each.checkpoint or "") for each in (options, other))
        names = (one.name, two.name) if one.name != two.name else (str(one), str(two))
        for source, name in zip(found.values(), names, strict=True):
            source.title = name or "the framework's weights"  # type: ignore[attr-defined]
    return found


def _live(options: argparse.Namespace, classifier: Classifier, album: Album) -> Live:
    from camkit.explore.live import Live
    from camkit.explore.setting import Setting

    name = Path(options.config)
    title = name.stem if name.suffix == ".py" else options.config
    return Live(
        title,
        classifier,
        album,
        Setting(
            words=tuple(flags.words_of_model(options)),
            device=options.device,
            cfg_options=tuple(options.cfg_options),
            output=flags.output(options, classifier),
            num_extra_tokens=options.num_extra_tokens,
            batch_size=options.batch_size,
            method_options=flags.method_options(options.method_options),
            bands=tuple(options.bands),
        ),
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"takes a number from 0 to 65535, got {text}")
    return int(text)
