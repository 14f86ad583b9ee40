"""Checkpoints: read them without running what is in them, load them into a model and say what fitted."""

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
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from camkit.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number torch.save put first until torch 1.6
_LFS_MAGIC = b"version https://git-lfs"
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel, torch.compile


@dataclass(frozen=True)
class Origin:
    """Where weights came from: path or URL as given or as the framework has it, and the SHA-256 of the file.

    The hash is None where a framework fetched the weights itself and keeps the file where it likes.
    """

    source: str
    sha256: str | None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, on the CPU. ``meta`` is what the file says about itself, empty where it says nothing."""

    state_dict: dict[str, Tensor]
    meta: dict[str, Any]
    source: str
    sha256: str

    @property
    def origin(self) -> Origin:
        """Source and hash alone, to keep without keeping the tensors."""
        return Origin(self.source, self.sha256)


@dataclass(frozen=True)
class LoadReport:
    """What became of the model's and the checkpoint's tensors. ``loaded`` counts parameters and buffers."""

    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """One line if only a part fitted, else None."""
        parts = [
            f"{len(names)} {what} ({_some(names)})"
            for names, what in (
                (self.missing, "missing from the checkpoint"),
                (self.mismatched, "of another shape"),
                (self.unexpected, "unknown to the model"),
            )
            if names
        ]
        total = self.loaded + len(self.missing) + len(self.mismatched)
        if not parts:
            return None
        return f"the checkpoint fits {self.loaded} of the model's {total} tensors: {'; '.join(parts)}"


def read_checkpoint(source: str, *, trust: bool = False) -> Checkpoint:
    """Read a checkpoint from a path or an http(s) URL (kept in torch.hub's cache folder).

    Accepted are what torch.save wrote, a dict with ``state_dict`` or ``model`` or a bare state dict, and safetensors
    files. Nothing in the file is run, unless ``trust`` is set and the file can't be read otherwise.

    Raises:
        CheckpointError: Missing, not a checkpoint, damaged, in need of a full unpickle or of the package safetensors.
    """
    path = _fetch(source)
    called = source if str(path) == source else f"{source} (kept as {path})"
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
    """SHA-256 of what is in a file, or in several one behind the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def load_into(model: nn.Module, checkpoint: Checkpoint) -> LoadReport:
    """Load what fits, skip and report what doesn't. The model's own hooks may rename and resize.

    ``num_batches_tracked`` counts for nothing: inference doesn't read it.

    Raises:
        CheckpointError: None of the model's parameters is in the checkpoint, or a hook of the model gave up.
    """
    found: list[tuple[list[str], list[str]]] = []
    # A mismatch of shapes makes load_state_dict raise, after everything else was loaded and after this hook ran.
    handle = model.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
        lambda _, keys: found.append((list(keys.missing_keys), list(keys.unexpected_keys)))
    )
    mismatched: list[str] = []
    try:
        model.load_state_dict(checkpoint.state_dict, strict=False)
    except Exception as error:
        mismatched = re.findall(r"size mismatch for (\S+): ", str(error))
        lines = str(error).splitlines()
        others = [line for line in lines if "size mismatch for " not in line and "Error(s) in loading" not in line]
        if not found or not mismatched or others:
            raise CheckpointError(
                f"the checkpoint {checkpoint.source} can't be loaded into the {type(model).__name__}: "
                f"{first_line(chr(10).join(others)) or type(error).__name__}"
            ) from error
    finally:
        handle.remove()
    missing, unexpected = found[-1]
    return judge(model, checkpoint, missing, mismatched, unexpected)


def judge(
    model: nn.Module,
    checkpoint: Checkpoint,
    missing: Sequence[str],
    mismatched: Sequence[str],
    unexpected: Sequence[str],
) -> LoadReport:
    """What became of the tensors, where a model has been loaded.

    Raises:
        CheckpointError: None of the model's parameters is in the checkpoint.
    """
    names = _counted(model.state_dict(keep_vars=True))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if parameters and not parameters.difference(missing, mismatched):
        raise CheckpointError(
            f"the checkpoint {checkpoint.source} fits none of the model's {len(parameters)} parameters: it has "
            f"{_some(checkpoint.state_dict)}, the model {_some(names)}; take the config that belongs to the checkpoint"
        )
    missing = _counted(missing)
    return LoadReport(
        len(names) - len(missing) - len(mismatched), tuple(missing), tuple(_counted(unexpected)), tuple(mismatched)
    )


def _fetch(source: str) -> Path:
    if "://" not in source:
        return Path(source).expanduser()
    scheme, _, rest = source.partition("://")
    address = re.split("[?#]", rest)[0]
    name = unquote(address.partition("/")[2].rpartition("/")[2])
    if scheme.lower() not in ("http", "https") or not name:
        raise CheckpointError(f"can't fetch the checkpoint {source}; give a path or the http(s) URL of a .pth file")
    # Files of one name from different places are different files.
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
    """The tensors of a safetensors file, and what it says about itself."""
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
        # What the caller allowed already is left out: leaving the context would take it off the list.
        allowed = set(_harmless()).difference(torch.serialization.get_safe_globals())
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what doesn't work is an error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_whole(path):  # cut off inside a name, say, which is then not on the list
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
    """Whether the pickles that describe the content are complete and well-formed; only looked at, not executed."""
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
    """The tensors of whatever was saved, without wrappers' prefixes; versions that torch attached stay attached."""
    inner = content
    if isinstance(content, dict):
        inner = next((content[key] for key in ("state_dict", "model") if key in content), content)
    if isinstance(inner, nn.Module):  # torch.save(model), read with trust
        inner = inner.state_dict()
    tensors: collections.OrderedDict[str, Tensor] = collections.OrderedDict()
    if isinstance(inner, dict):
        tensors.update((key, value) for key, value in inner.items() if isinstance(key, str) and torch.is_tensor(value))
    if not tensors:
        keys = f"a dict with {_some(map(str, inner))}" if isinstance(inner, dict) else f"a {type(inner).__name__}"
        raise CheckpointError(f"{called} holds no state dict: no tensors by name in {keys}")
    metadata = getattr(inner, "_metadata", None)
    if metadata is not None:
        tensors._metadata = dict(metadata)  # type: ignore[attr-defined]
    for prefix in _WRAPPERS:
        if all(key.startswith(prefix) for key in tensors):
            consume_prefix_in_state_dict_if_present(tensors, prefix)
    return tensors


class _HistoryBuffer:
    """Stands in for MMEngine's log history, so that reading a checkpoint needs no MMEngine; nobody reads it here."""


def _statistic(*_: object) -> None:
    """Stands in for the ``getattr(HistoryBuffer, "mean")`` that such a history is pickled with. Looks nothing up."""


def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What OpenMMLab's files hold beside tensors. Numpy's names are given for numpy 1 and 2."""
    multiarray = importlib.import_module("numpy._core.multiarray")
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


def _counted(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith("num_batches_tracked")]


def _some(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "") if names else "nothing"
