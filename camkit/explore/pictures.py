"""Pictures from outside: files that are looked at before they are decoded, and small copies of them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

import numpy as np

from camkit.errors import CamkitError, reason

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What uploads may be, in Pillow's words. None of them runs another program, as PostScript would."""
SUFFIXES = {".bmp", ".gif", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}
"""Of the files in a folder that are taken for pictures."""
SHOWN = (*FORMATS, "JPEG2000", "PPM")
"""What small copies are made of, whatever a file's name ends in."""
MOST_BYTES = 32 << 20
"""Of an upload."""
MOST_PIXELS = 50_000_000
"""Of a picture that is decoded."""
SIDE = 128
"""Longer side of a small copy."""

_DECODING = BoundedSemaphore(2)
"""How many pictures are decoded at a time: a large one takes 200 MB."""


class PictureError(CamkitError):
    """A file that isn't shown; the message says why.

    Attributes:
        status: Of the answer, as HTTP numbers them.
    """

    def __init__(self, line: str, status: int = 415) -> None:
        super().__init__(line)
        self.status = status


def find_format(path: Path, name: str) -> str:
    """The suffix of a picture's format, which its content decides; it is decoded to see that it is whole.

    Args:
        path: The file.
        name: What messages call it.

    Raises:
        PictureError: No picture of one of :data:`FORMATS`, a damaged one, or one of too many pixels.
    """
    from PIL import Image

    with _DECODING, _decoding(name), Image.open(path, formats=FORMATS) as image:
        check_size(image.size, name)
        image.load()
        return f".{(image.format or '').lower()}"


def check_pixels(path: Path) -> None:
    """Refuse a file that would take too much memory, before another package decodes it.

    Files that aren't pictures for Pillow are left to whoever reads them.

    Raises:
        PictureError: Too many pixels.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            size = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path.name) from error
    except Exception:  # noqa: BLE001 (whatever Pillow doesn't know)
        return
    check_size(size, path.name)


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuse a width and height of too many pixels.

    Raises:
        PictureError: They are.
    """
    if size[0] * size[1] > MOST_PIXELS:
        raise _too_large(name, f" ({size[0]} x {size[1]})")


def shrink(path: Path) -> bytes:
    """A small copy of a picture, JPEG.

    Raises:
        PictureError: It can't be read, or has too many pixels.
    """
    from PIL import Image, ImageOps

    with _DECODING, _decoding(path.name), Image.open(path, formats=SHOWN) as image:
        check_size(image.size, path.name)
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        small = _eight_bit(ImageOps.exif_transpose(image)).convert("RGB")
        small.thumbnail((SIDE, SIDE))
        made = io.BytesIO()
        small.save(made, "JPEG", quality=80)
    return made.getvalue()


def _eight_bit(image: Image.Image) -> Image.Image:
    """A picture of more than eight bits from its darkest value to its brightest; others as they are."""
    from PIL import Image

    if image.mode not in ("F", "I") and not image.mode.startswith("I;"):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    low, high = values.min(), values.max()
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-30))).astype(np.uint8))


def walk(root: Path) -> Iterator[tuple[str, Path]]:
    """The pictures below a folder, as names below it and files, in order; links that lead out are left out."""
    real = root.resolve()
    for folder, folders, files in os.walk(real):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(files):
            path = Path(folder) / name
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and is_inside(path, real):
                yield path.relative_to(real).as_posix(), path


def is_inside(path: Path, root: Path) -> bool:
    """Whether a file is there, and below a folder when all links are followed."""
    try:
        return path.resolve().is_relative_to(root.resolve()) and path.is_file()
    except (OSError, RuntimeError):  # a circle of links, which Python before 3.13 calls the latter
        return False


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Make one line of whatever Pillow says of a file."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except CamkitError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is no picture: give a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from error
    except Exception as error:
        raise PictureError(f"can't read {name}: {reason(error)}") from error


def _too_large(name: str, size: str = "") -> PictureError:
    return PictureError(f"{name} has more than {MOST_PIXELS // 1_000_000} million pixels{size}: make it smaller", 413)
