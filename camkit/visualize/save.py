"""Write pictures and raw maps to files, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camkit.errors import CamkitError, UsageError
from camkit.visualize.opencv import cv2
from camkit.visualize.picture import Picture, as_picture, in_order

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_PROVENANCE = "provenance"

Writer = Callable[[IO[bytes]], Any]
"""Writes a file's content to the open binary file."""


def save_picture(path: str | Path, picture: Picture | Image, *, channel_order: str = "RGB") -> Path:
    """Write a picture to a file; the extension says the format, and missing folders are made.

    Args:
        path: Ends in one of :data:`PICTURE_SUFFIXES`.
        picture: A PIL image or a uint8 array, see :func:`camkit.visualize.picture.as_picture`.
        channel_order: The order of an array, ``"RGB"`` or ``"BGR"``.

    Returns:
        The path.

    Raises:
        UsageError: Another extension, something that is no picture, or another channel order.
        CamkitError: The folder or file can't be written.
    """
    path = check_suffix(path, PICTURE_SUFFIXES)
    write_together({path: picture_writer(path, picture, channel_order=channel_order)})
    return path


def save_raw(path: str | Path, maps: Mapping[str, NDArray[Any]], provenance: Mapping[str, Any]) -> Path:
    """Write arrays, and how they were made, to one .npz file; missing folders are made.

    Args:
        path: Ends in .npz.
        maps: Name to array.
        provenance: How the arrays were made; anything that JSON can hold.

    Returns:
        The path.

    Raises:
        UsageError: Another extension, an array called ``provenance`` or ``file``, or provenance that isn't JSON's.
        CamkitError: The folder or file can't be written.
    """
    path = check_suffix(path, (".npz",))
    write_together({path: raw_writer(maps, provenance)})
    return path


def load_raw(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read the arrays by name and the provenance that :func:`save_raw` wrote.

    Raises:
        CamkitError: The file is missing or unreadable, or :func:`save_raw` didn't write it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            maps = {name: file[name] for name in file.files if name != _PROVENANCE}
            return maps, json.loads(file[_PROVENANCE].item())
    except OSError as error:
        raise CamkitError(f"can't read '{path}': {error.strerror or error}") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise CamkitError(f"'{path}' holds no raw maps: give a file that save_raw or --save-raw wrote") from error


def picture_writer(path: Path, picture: Picture | Image, *, channel_order: str = "RGB") -> Writer:
    """Encode a picture in the format of ``path``'s extension, for :func:`write_together`."""
    rgb = as_picture(picture, channel_order)
    encoded, data = cv2.imencode(path.suffix.lower(), in_order(rgb, "BGR"))
    if not encoded:
        raise CamkitError(f"can't encode a picture of {rgb.shape} as {path.suffix}")
    return lambda file: file.write(data.tobytes())


def raw_writer(maps: Mapping[str, NDArray[Any]], provenance: Mapping[str, Any]) -> Writer:
    """Prepare the .npz of :func:`save_raw`, for :func:`write_together`."""
    reserved = {_PROVENANCE, "file", "allow_pickle"} & maps.keys()
    if reserved:
        raise UsageError(f"an array can't be called {', '.join(map(repr, sorted(reserved)))}: the format uses the name")
    objects = [name for name, array in maps.items() if np.asarray(array).dtype.hasobject]
    if objects:
        raise UsageError(f"arrays must hold numbers, not objects: {', '.join(map(repr, objects))}")
    try:
        text = np.array(json.dumps(provenance, indent=2))
    except TypeError as error:
        raise UsageError(f"provenance must be what JSON can hold: {error}") from error
    arrays: Any = {_PROVENANCE: text, **maps}
    return lambda file: np.savez_compressed(file, **arrays)


def check_suffix(path: str | Path, known: tuple[str, ...]) -> Path:
    """Return ``path`` if its extension is one of ``known``, in any case.

    Raises:
        UsageError: It isn't.
    """
    path = Path(path)
    if path.suffix.lower() not in known:
        raise UsageError(f"can't write '{path}': its extension must be one of {', '.join(known)}")
    return path


def check_writable(path: Path) -> None:
    """Check that ``path`` can be written, before its content is computed; missing folders are made.

    Raises:
        CamkitError: It can't.
    """
    _stage(path, lambda file: None).unlink()


def write_together(files: Mapping[Path, Writer]) -> None:
    """Write all files or none, and none by half: each is written beside its place, then all are moved there.

    Raises:
        CamkitError: A folder or file can't be written.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            staged[path] = _stage(path, write)
        for path, temporary in staged.items():
            try:
                temporary.replace(path)
            except OSError as error:  # on Windows also when another program has the file open
                raise CamkitError(f"can't write '{path}': {error.strerror or error}") from error
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def _stage(path: Path, write: Writer) -> Path:
    """Make ``path``'s folder, write a temporary file in it, and return that file's path."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "is a folder")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file)
        # Temporary files are private; this one gets an ordinary file's permissions.
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
