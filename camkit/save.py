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
from camkit.render import Picture

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def save_picture(path: str | Path, picture: Picture, *, channel_order: str = "BGR") -> Path:
    """Write a (H, W, 3) uint8 picture; the format follows the extension, missing folders are made.

    Raises:
        UsageError: an extension that is none of :data:`PICTURE_SUFFIXES`.
        CamkitError: the folder or file can't be written.
    """
    path = check_suffix(path, PICTURE_SUFFIXES)
    image = picture if channel_order == "BGR" else np.ascontiguousarray(picture[:, :, ::-1])
    encoded, data = cv2.imencode(path.suffix.lower(), image)
    if not encoded:
        raise CamkitError(f"can't encode a picture of {picture.shape} as {path.suffix}")
    return write_whole(path, lambda file: file.write(data.tobytes()))


def save_raw(path: str | Path, maps: Mapping[str, NDArray[Any]], provenance: Mapping[str, Any]) -> Path:
    """Write arrays and the story of how they were made to one .npz file; missing folders are made.

    Args:
        path: ends in .npz.
        maps: name to array.
        provenance: what JSON can hold.

    Raises:
        UsageError: another extension.
        CamkitError: the folder or file can't be written.
    """
    path = check_suffix(path, (".npz",))
    story = np.array(json.dumps(provenance, indent=2))
    return write_whole(path, lambda file: np.savez_compressed(file, allow_pickle=False, provenance=story, **dict(maps)))


def load_raw(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what :func:`save_raw` wrote: name to array, and the provenance."""
    with np.load(path, allow_pickle=False) as file:
        maps = {name: file[name] for name in file.files if name != "provenance"}
        return maps, json.loads(file["provenance"].item())


def check_suffix(path: str | Path, known: tuple[str, ...]) -> Path:
    """``path``, if its extension is one of ``known``.

    Raises:
        UsageError: it isn't.
    """
    path = Path(path)
    if path.suffix.lower() not in known:
        raise UsageError(f"can't write {str(path)!r}: its extension must be one of {', '.join(known)}")
    return path


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> Path:
    """Write a file beside ``path`` and move it there, so that no half-written one is ever seen; make its folder.

    Raises:
        CamkitError: the folder or file can't be written.
    """
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
        temporary.replace(path)
    except OSError as error:
        raise CamkitError(f"can't write {str(path)!r}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path
