"""What older releases of torch, or some devices, lack. Delete a branch when pyproject.toml's floor rises above it."""

from __future__ import annotations

import _compat_pickle
import codecs
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten as tree_flatten
from torch.utils._pytree import tree_map as tree_map
from torch.utils._pytree import tree_unflatten as tree_unflatten

from camkit.errors import UsageError

NORMS: tuple[type[nn.Module], ...] = tuple(
    getattr(nn, name) for name in ("GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm") if hasattr(nn, name)
)
"""torch's norm layers that share no base class; RMSNorm is torch 2.4's."""


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of nested containers; torch 2.2 has it of its own."""
    return tree_flatten(tree)[0]


def autocast_state(device_type: str) -> tuple[bool, torch.dtype]:
    """Whether autocast is on for a kind of device, and its dtype; torch 2.4 asks by device."""
    if hasattr(torch, "get_autocast_dtype"):
        return torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    if device_type == "cpu":
        return torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    return torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()


def plain_attention() -> AbstractContextManager[Any]:
    """A context without fused attention kernels, which have no second derivative; torch 2.3 moved the switch."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:
        return torch.backends.cuda.sdp_kernel(enable_flash=False, enable_math=True, enable_mem_efficient=False)
    return sdpa_kernel(SDPBackend.MATH)


def gradient_edge(tensor: Tensor) -> Any:
    """The place of a tensor in the graph, which stays where it is when the tensor is written to; torch 2.2."""
    return _edge(tensor)


def require_gradient_edges(what: str) -> None:
    """Refuse a method that needs :func:`gradient_edge`.

    Raises:
        UsageError: torch is too old.
    """
    if _edge is None:
        raise UsageError(f"{what} needs torch 2.2 or newer, this is {torch.__version__}: update torch")


try:
    from torch.autograd.graph import get_gradient_edge as _edge
except ImportError:
    _edge = None  # type: ignore[assignment]


def eager(*, is_compiled: bool) -> AbstractContextManager[Any]:
    """A context in which compiled functions and modules run as the Python they were compiled from; torch 2.6.

    Args:
        is_compiled: whether the model is known to have compiled modules. Functions don't show that they are compiled.

    Raises:
        UsageError: it has, and torch is too old.
    """
    if "torch._dynamo" not in sys.modules:  # which whoever compiles anything imports
        return nullcontext()
    if hasattr(torch.compiler, "set_stance"):
        return _uncompiled()
    if is_compiled:
        raise UsageError(
            f"the model has compiled modules inside, which torch before 2.6 can't run uncompiled (this is "
            f"{torch.__version__}): pass the model as it was before torch.compile"
        )
    return nullcontext()


class Shared:
    """A context that acts on the whole process: the first thread that wants it enters, the last one leaves.

    Args:
        make: makes the context that is entered.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make = make
        self._lock = Lock()
        self._users = 0
        self._entered: AbstractContextManager[Any] = nullcontext()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """In here it is in force."""
        with self._lock:
            if not self._users:
                self._entered = self._make()
                self._entered.__enter__()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._entered.__exit__(None, None, None)


_uncompiled = Shared(lambda: torch.compiler.set_stance("force_eager"))


def hooked_transformers(model: nn.Module) -> AbstractContextManager[Any]:
    """A context in which torch's transformer layers call their modules if these have hooks; torch 2.5 looks itself."""
    if torch_version() >= (2, 5) or not any(isinstance(module, _FUSED) for module in model.modules()):
        return nullcontext()
    return unfused_transformers()


_FUSED = (nn.TransformerEncoderLayer, nn.MultiheadAttention)


@contextmanager
def unfused_transformers() -> Iterator[None]:
    """A context in which torch's transformer layers call their modules one by one, in all threads; torch 2.3.

    Before, an active torch function mode has the same effect, in this thread.
    """
    if not hasattr(getattr(torch.backends, "mha", None), "set_fastpath_enabled"):
        with _Bypass():
            yield
        return
    with _without_fast_path():
        yield


class _Bypass(TorchFunctionMode):
    """Changes nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def _fast_path_off() -> Iterator[None]:
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


_without_fast_path = Shared(_fast_path_off)


def float64(tensor: Tensor) -> Tensor:
    """The tensor in double precision; on the CPU where its device has none, as Apple's MPS."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def accelerators() -> list[str]:
    """The accelerators that are there, as torch spells them: ``cuda:0``; torch 2.6 knows them all."""
    if hasattr(torch, "accelerator"):
        found = torch.accelerator.current_accelerator(check_available=True)
        return [] if found is None else [f"{found.type}:{n}" for n in range(torch.accelerator.device_count())]
    if torch.cuda.is_available():
        return [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    return ["mps:0"] if torch.backends.mps.is_available() else []


Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]
"""A class or function that a pickle may name, and the name it stands under there, if another than its own."""


def load_safely(path: Path, allowed: Iterable[Allowed]) -> Any:
    """Load what ``torch.save`` wrote onto the CPU, calling nothing but torch's own types and what is allowed.

    torch 2.6 takes names with the functions that stand in for them. Before, an unpickler of our own looks names up in
    torch's list and in this one.

    Raises:
        pickle.UnpicklingError: the file names something else; the message says ``GLOBAL module.name``.
        RuntimeError: a TorchScript archive, or a damaged file.
    """
    if torch_version() >= (2, 6):
        # Without what the process has allowed already: torch would take it off the list on leaving the context.
        others = set(allowed).difference(torch.serialization.get_safe_globals())
        with torch.serialization.safe_globals(list(others)):
            return torch.load(path, map_location="cpu", weights_only=True)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):  # which torch.load would run
                raise RuntimeError("a TorchScript archive")
    from torch import _weights_only_unpickler as own

    # Later releases of torch allow this one too: how bytes are pickled in protocol 2.
    known: dict[str, Any] = {"_codecs.encode": codecs.encode, **own._get_allowed_globals()}
    for each in allowed:
        function, name = each if isinstance(each, tuple) else (each, f"{each.__module__}.{each.__qualname__}")
        known[name] = function

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            # Protocol 2 has the names of Python 2.
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
            try:
                return known[f"{module}.{name}"]
            except KeyError:
                raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}") from None

    def load(file: Any, **how: Any) -> Any:
        return Unpickler(file, **how).load()

    restricted = SimpleNamespace(Unpickler=Unpickler, load=load, __name__="pickle")
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=restricted)


def torch_version() -> tuple[int, int]:
    """Major and minor version."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)
