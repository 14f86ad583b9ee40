"""Read checkpoints from paths and URLs without running the code that a pickle can hold."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import unquote

import torch

from camkit.errors import CheckpointError, first_line
from camkit.models.file_kinds import name_archive, name_kind
from camkit.models.pickles import damaged, unpickle
from camkit.models.state_dicts import about_itself, find_state_dict

if TYPE_CHECKING:
    from torch import Tensor

_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number torch.save put first until torch 1.6


@dataclass(frozen=True)
class Origin:
    """Where weights came from: the path or URL that was given, or the framework's, and the SHA-256 of the file.

    The hash is None where the framework fetched the weights itself and the file isn't at hand.
    """

    source: str
    sha256: str | None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the CPU.

    Attributes:
        state_dict: Tensors by name, as the file has them.
        meta: What OpenMMLab's files say about themselves, such as class names, and safetensors' metadata; often empty.
        source: The path or URL that was given.
        sha256: Of the file, in hexadecimal.
        args: The arguments of the script that trained it, as timm's and torchvision's save them; often empty.
        arch: The architecture that the file names, None where it names none.
        notes: Lines that say which of several weights were taken, and what was stripped from their names.
    """

    state_dict: dict[str, Tensor]
    meta: dict[str, Any]
    source: str
    sha256: str
    args: dict[str, Any] = field(default_factory=dict)
    arch: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def origin(self) -> Origin:
        """Source and hash, without the tensors."""
        return Origin(self.source, self.sha256)

    def with_tensors(self, state_dict: dict[str, Tensor], note: str | None = None) -> Checkpoint:
        """The checkpoint with its tensors under other names, and a note of that."""
        return replace(self, state_dict=state_dict, notes=(*self.notes, note) if note else self.notes)


def read_checkpoint(
    source: str, *, trust: bool = False, weights: str | None = None, first: tuple[str, ...] = ()
) -> Checkpoint:
    """Read a checkpoint from a path or an http(s) URL, whose file is kept in torch.hub's cache folder.

    Files may be safetensors', or torch.save's of a state dict or of a dict that holds one. No code in the file runs,
    unless ``trust`` is set and the file can't be read without.

    Args:
        source: The path or URL.
        trust: Unpickle the file fully where it can't be read otherwise.
        weights: ``"live"`` or ``"ema"``, or the name of an entry; see ``state_dicts.find_state_dict``.
        first: Entries that the framework's own loader takes before any other.

    Raises:
        CheckpointError: Missing, not a checkpoint, damaged, in need of a full unpickle or of the package safetensors.
        UsageError: The file doesn't hold the ``weights``.
    """
    path = _fetch(source)
    called = f"{source} (kept as {path})" if "://" in source else source
    try:
        if path.is_dir():
            raise CheckpointError(f"{called} is a folder, not a checkpoint; name the .pth file in it")
        with path.open("rb") as file:
            head = file.read(512)
        sha256 = hash_files(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint {called}; give the path or the URL of a .pth file") from error
    except OSError as error:
        raise CheckpointError(f"can't read the checkpoint {called}: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"the checkpoint {called} is an empty file")
    if path.suffix == ".safetensors" or head[8:9] == b"{":  # a header in JSON, behind its length
        content: object = None
        tensors, about = _read_safetensors(path, called)
        found = find_state_dict(tensors, called, weights=weights, first=first)
    else:
        _check_kind(path, head, called)
        content = unpickle(path, called, trust=trust)
        found = find_state_dict(content, called, weights=weights, first=first)
        about = about_itself(content, "meta")
    arch = content.get("arch") if isinstance(content, dict) else None
    return Checkpoint(
        found.tensors,
        about,
        source,
        sha256,
        about_itself(content, "args"),
        arch if isinstance(arch, str) and arch else None,
        (found.note,) if found.note else (),
    )


def hash_files(*paths: Path) -> str:
    """SHA-256 of a file, or of several files one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _fetch(source: str) -> Path:
    if "://" not in source:
        return Path(source).expanduser()
    scheme, _, rest = source.partition("://")
    address = re.split("[?#]", rest)[0]
    name = unquote(address.partition("/")[2].rpartition("/")[2])
    if scheme.lower() not in ("http", "https") or not name:
        raise CheckpointError(f"can't fetch the checkpoint {source}; give a path or the http(s) URL of a .pth file")
    # Files of the same name from different addresses are kept apart.
    place = hashlib.sha256(address.encode()).hexdigest()[:8]
    path = Path(torch.hub.get_dir()) / "checkpoints" / place / name
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(source, str(path), progress=sys.stderr.isatty())
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise CheckpointError(
            f"can't download the checkpoint {source}: {first_line(str(error)) or type(error).__name__}"
            "; download it yourself and give its path"
        ) from error
    return path


def _check_kind(path: Path, head: bytes, called: str) -> None:
    """Refuse files that ``torch.save`` didn't write, saying what they are."""
    if head.startswith(_ZIP_MAGIC):
        kind = name_archive(path)
    elif _LEGACY_MAGIC in head[:64]:
        kind = None
    else:
        kind = name_kind(path, head) or (
            "isn't a PyTorch checkpoint; give a file that torch.save (.pth, .pt) or safetensors wrote"
        )
    if kind is not None:
        raise CheckpointError(f"{called} {kind}")


def _read_safetensors(path: Path, called: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a safetensors file."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise CheckpointError(
            f"the checkpoint {called} needs the package 'safetensors'; install with: pip install safetensors"
        ) from error
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(called, error) from error
