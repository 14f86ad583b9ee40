"""Read checkpoints from paths and URLs without running the code that a pickle can hold."""

from __future__ import annotations

import argparse
import collections
import hashlib
import importlib
import pickle
import pickletools
import re
import sys
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor, nn

from camkit.compat import load_safely
from camkit.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number torch.save put first until torch 1.6
_LFS_MAGIC = b"version https://git-lfs"
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel, torch.compile


@dataclass(frozen=True)
class Origin:
    """Where weights came from: the path or URL that was given, or the framework's, and the SHA-256 of the file.

    The hash is None where the framework fetched the weights itself and the file isn't at hand.
    """

    source: str
    sha256: str | None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the CPU. ``meta`` is what the file says about itself, such as class names; often empty."""

    state_dict: dict[str, Tensor]
    meta: dict[str, Any]
    source: str
    sha256: str

    @property
    def origin(self) -> Origin:
        """Source and hash, without the tensors."""
        return Origin(self.source, self.sha256)


def read_checkpoint(source: str, *, trust: bool = False) -> Checkpoint:
    """Read a checkpoint from a path or an http(s) URL, whose file is kept in torch.hub's cache folder.

    Files may be safetensors', or torch.save's of a state dict or of a dict that holds one as ``state_dict`` or
    ``model``. No code in the file runs, unless ``trust`` is set and the file can't be read without.

    Raises:
        CheckpointError: Missing, not a checkpoint, damaged, in need of a full unpickle or of the package safetensors.
    """
    path = _fetch(source)
    called = f"{source} (kept as {path})" if "://" in source else source
    try:
        if path.is_dir():
            raise CheckpointError(f"{called} is a folder, not a checkpoint; name the .pth file in it")
        with path.open("rb") as file:
            head = file.read(64)
        sha256 = hash_files(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint {called}; give the path or the URL of a .pth file") from error
    except OSError as error:
        raise CheckpointError(f"can't read the checkpoint {called}: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"the checkpoint {called} is an empty file")
    if head.startswith(_LFS_MAGIC):
        raise CheckpointError(f"{called} is Git LFS's pointer to a checkpoint, not the checkpoint; run: git lfs pull")
    if path.suffix == ".safetensors" or head[8:9] == b"{":  # a header in JSON, behind its length
        tensors, about = _read_safetensors(path, called)
        return Checkpoint(_state_dict(tensors, called), about, source, sha256)
    if not head.startswith(_ZIP_MAGIC) and _LEGACY_MAGIC not in head:
        raise CheckpointError(
            f"{called} isn't a PyTorch checkpoint; give a file that torch.save (.pth, .pt) or safetensors wrote"
        )
    content = _unpickle(path, called, trust=trust)
    state_dict = _state_dict(content, called)
    meta = content.get("meta") if isinstance(content, dict) else None
    return Checkpoint(state_dict, dict(meta) if isinstance(meta, dict) else {}, source, sha256)


def hash_files(*paths: Path) -> str:
    """SHA-256 of a file, or of several files one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first names for a message: ``a, b, c, ...``."""
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "") if names else "nothing"


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
        raise _damaged(called, error) from error


def _unpickle(path: Path, called: str, *, trust: bool) -> object:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # an unreadable one raises below
            return load_safely(path, _harmless())
    except pickle.UnpicklingError as error:
        if not _is_whole(path):  # a name cut off in the middle isn't on the list either
            raise _damaged(called, error) from error
        if not trust:
            blocked = re.search(r"GLOBAL (\S+)", str(error))
            what = f"it holds {blocked[1]}" if blocked else "it uses pickle features"
            raise CheckpointError(
                f"the checkpoint {called} can't be read safely: {what}, which may run code on loading; if you trust its"
                " origin, add --trust-checkpoint"
            ) from error
    except Exception as error:
        raise _damaged(called, error) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except ImportError as error:
        raise CheckpointError(
            f"the checkpoint {called} needs the package '{error.name}'; install with: pip install {error.name}"
        ) from error
    except Exception as error:
        raise _damaged(called, error) from error


def _is_whole(path: Path) -> bool:
    """Whether the file's pickles are complete and well-formed; they are parsed, not executed."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                collections.deque(pickletools.genops(archive.read(name)), maxlen=0)
        else:
            with path.open("rb") as file:
                for _ in range(4):  # magic number, protocol, machine, content
                    collections.deque(pickletools.genops(file), maxlen=0)
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return False
    return True


def _damaged(called: str, error: Exception) -> CheckpointError:
    if "TorchScript" in str(error):
        return CheckpointError(f"{called} is a TorchScript archive, not a checkpoint; give the .pth it was made from")
    reason = "" if isinstance(error, pickle.UnpicklingError) else first_line(str(error)).partition(". ")[0]
    reason = reason or f"{type(error).__name__} in reading it"
    return CheckpointError(f"the checkpoint {called} is damaged or incomplete ({reason}); fetch it again")


def _state_dict(content: object, called: str) -> dict[str, Tensor]:
    """The tensors by name in whatever was saved, without wrappers' prefixes, with the versions that torch attaches."""
    inner = content
    if isinstance(content, dict):
        inner = next((content[key] for key in ("state_dict", "model") if key in content), content)
    if isinstance(inner, nn.Module):  # torch.save(model), read with trust
        inner = inner.state_dict()
    tensors: collections.OrderedDict[str, Tensor] = collections.OrderedDict()
    if isinstance(inner, dict):
        tensors.update((key, value) for key, value in inner.items() if isinstance(key, str) and torch.is_tensor(value))
    if not tensors:
        keys = f"a dict with {some(map(str, inner))}" if isinstance(inner, dict) else f"a {type(inner).__name__}"
        raise CheckpointError(f"{called} holds no state dict: no tensors by name in {keys}")
    versions: dict[str, Any] | None = getattr(inner, "_metadata", None)
    for prefix in _WRAPPERS:
        if all(key.startswith(prefix) for key in tensors):
            tensors = collections.OrderedDict((key.removeprefix(prefix), value) for key, value in tensors.items())
            # Modules are called without the dot at the end.
            versions = versions and {f"{name}.".removeprefix(prefix)[:-1]: each for name, each in versions.items()}
    if versions is not None:
        tensors._metadata = dict(versions)  # type: ignore[attr-defined]
    return tensors


class _HistoryBuffer:
    """Stand-in for MMEngine's log history in checkpoints, which camkit doesn't use: reading them needs no MMEngine."""


def _statistic(*_: object) -> None:
    """Stand-in for the ``getattr(HistoryBuffer, "mean")`` in such a history's pickle. Looks nothing up."""


def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Classes and functions in OpenMMLab's checkpoints that are safe to load; numpy's by their names in 1.x and 2.x."""
    core = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
    multiarray = importlib.import_module(f"{core}.multiarray")
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDGOSUVMm"}
    numpy: list[tuple[Callable[..., Any], str]] = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ]
    return [
        *numpy,
        *dtypes,
        np.dtype,
        np.ndarray,
        argparse.Namespace,
        (_HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_statistic, "builtins.getattr"),
    ]
