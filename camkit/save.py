"""Write pictures and raw maps, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camkit.errors import CamkitError, UsageError
from camkit.render import Picture, check_picture

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_STORY = "provenance"

Writer = Callable[[IO[bytes]], Any]
"""What fills an open binary file."""


def save_picture(path: str | Path, picture: Picture, *, channel_order: str = "BGR") -> Path:
    """Write a (H, W, 3) uint8 picture; the format follows the extension, missing folders are made.

    Raises:
        UsageError: an extension that is none of :data:`PICTURE_SUFFIXES`, no picture, or an unknown channel order.
        CamkitError: the folder or file can't be written.
    """
    path = check_suffix(path, PICTURE_SUFFIXES)
    write_together({path: picture_writer(path, picture, channel_order=channel_order)})
    return path


def save_raw(path: str | Path, maps: Mapping[str, NDArray[Any]], provenance: Mapping[str, Any]) -> Path:
    """Write arrays and the story of how they were made to one .npz file; missing folders are made.

    Args:
        path: ends in .npz.
        maps: name to array.
        provenance: what JSON can hold.

    Raises:
        UsageError: another extension, or an array called ``provenance`` or ``file``.
        CamkitError: the folder or file can't be written.
    """
    path = check_suffix(path, (".npz",))
    write_together({path: raw_writer(maps, provenance)})
    return path


def load_raw(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what :func:`save_raw` wrote: name to array, and the provenance.

    Raises:
        CamkitError: the file is missing, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            maps = {name: file[name] for name in file.files if name != _STORY}
            return maps, json.loads(file[_STORY].item())
    except OSError as error:
        raise CamkitError(f"can't read '{path}': {error.strerror or error}") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise CamkitError(f"'{path}' holds no raw maps: give a file that save_raw or --save-raw wrote") from error


def picture_writer(path: Path, picture: Picture, *, channel_order: str = "BGR") -> Writer:
    """Encode a picture for ``path``'s extension now, to be written later."""
    check_picture(picture, channel_order)
    image = picture if channel_order == "BGR" else np.ascontiguousarray(picture[:, :, ::-1])
    encoded, data = cv2.imencode(path.suffix.lower(), image)
    if not encoded:
        raise CamkitError(f"can't encode a picture of {picture.shape} as {path.suffix}")
    return lambda file: file.write(data.tobytes())


def raw_writer(maps: Mapping[str, NDArray[Any]], provenance: Mapping[str, Any]) -> Writer:
    """The .npz of :func:`save_raw`, to be written later."""
    reserved = {_STORY, "file", "allow_pickle"} & maps.keys()
    if reserved:
        raise UsageError(f"an array can't be called {', '.join(map(repr, sorted(reserved)))}: the format uses the name")
    try:
        story = np.array(json.dumps(provenance, indent=2))
    except TypeError as error:
        raise UsageError(f"provenance must be what JSON can hold: {error}") from error
    return lambda file: np.savez_compressed(file, allow_pickle=False, **{_STORY: story}, **dict(maps))


def check_suffix(path: str | Path, known: tuple[str, ...]) -> Path:
    """``path``, if its extension is one of ``known``.

    Raises:
        UsageError: it isn't.
    """
    path = Path(path)
    if path.suffix.lower() not in known:
        raise UsageError(f"can't write '{path}': its extension must be one of {', '.join(known)}")
    return path


def check_writable(path: Path) -> None:
    """Try whether ``path`` can be written, before the work that makes its content; missing folders are made.

    Raises:
        CamkitError: it can't.
    """
    _stage(path, lambda file: None).unlink()


def write_together(files: Mapping[Path, Writer]) -> None:
    """Write every file beside its place and only then move all there: no half-written file, and not half of them.

    Raises:
        CamkitError: a folder or file can't be written.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            staged[path] = _stage(path, write)
        for path, temporary in staged.items():
            temporary.replace(path)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def _stage(path: Path, write: Writer) -> Path:
    """Write a temporary file beside ``path``, whose folder is made, and return where it is."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "is a folder")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file)
        # Temporary files are private; what is written here is an ordinary file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CamkitError(f"can't write '{path}': {error.strerror or error}") from error
        raise
    return temporary
