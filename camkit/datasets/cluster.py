"""Where Ray runs: reach it, start it, count what it has."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camkit.errors import CamkitError, UsageError, reason
from camkit.versions import require

if TYPE_CHECKING:
    pass

OBJECT_STORE = 1 << 30
"""Bytes of the object store of a cluster on this machine."""
CONNECT_SECONDS = 10.0
_FOLDER = "camkit-ray-"


@dataclass(frozen=True)
class Cluster:
    """Where Ray runs, and what a run takes of it.

    Attributes:
        address: ``HOST:PORT`` of a running cluster, ``auto``, or ``ray://HOST:PORT``; None starts one on this machine.
        actors: Copies of the model, each in a process of its own; None for as many as there are GPUs for, or CPUs but
            one, which reads images.
        num_gpus: GPUs for each copy, 0 for none; a part of one lets copies share it.
        num_cpus: Logical CPUs of a cluster on this machine; None for as many as there are.
        timeout: Seconds without a result after which a run gives up.
    """

    address: str | None = None
    actors: int | None = None
    num_gpus: float = 0.0
    num_cpus: int | None = None
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.address is not None and self.num_cpus is not None:
            raise UsageError("num_cpus is of a cluster on this machine, address of one that runs: give one of them")
        if self.num_gpus < 0 or self.timeout <= 0:
            raise UsageError(f"num_gpus is 0 or more, timeout above 0; got {self.num_gpus} and {self.timeout}")

    def require(self) -> None:
        """Make sure that Ray is there and, at an address, that somebody listens.

        Raises:
            PackageError: Ray is missing.
            CamkitError: Nobody answers at the address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        require("ray", "ray", "the ray engine needs Ray")
        require("pandas", "ray", "Ray Data needs pandas")
        if self.address is None or self.address == "auto":
            return
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdecimal():
            raise UsageError(f"--ray-address is HOST:PORT, auto or ray://HOST:PORT, got {self.address}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise CamkitError(
                f"no Ray at {self.address} ({error.strerror or reason(error)}; waited {CONNECT_SECONDS:.0f} s at most)"
                ": start one with ray start --head, or leave the address out"
            ) from error


def count_actors(
    cluster: Cluster, resources: dict[str, float], available: dict[str, float], say: Callable[[str], None]
) -> int:
    """How many actors the run takes.

    Raises:
        CamkitError: The cluster lacks CPUs or GPUs for them and for a task that reads images.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if cluster.num_gpus:
        fitting = int(gpus / cluster.num_gpus)
        actors = cluster.actors or fitting
        if actors > fitting or not actors:
            raise CamkitError(
                f"Ray has {gpus:g} GPUs, and {max(actors, 1)} actors with {cluster.num_gpus:g} each need "
                f"{max(actors, 1) * cluster.num_gpus:g}: give fewer --actors or a part of --num-gpus"
            )
        needed = 1.0
    else:
        actors = cluster.actors or max(1, int(cpus) - 1)
        needed = actors + 1.0
    if cpus < needed:
        fewer = f"--actors {int(cpus) - 1}, " if cpus >= 2 else ""
        more = "" if cluster.address else f"--num-cpus {int(needed)} (logical ones, more than there are will do), "
        raise CamkitError(
            f"Ray has {cpus:g} CPUs, and {actors} actors and a task that reads images need {needed:g}: give "
            f"{fewer}{more}or take a larger cluster"
        )
    if available.get("CPU", 0.0) < needed:
        free = available.get("CPU", 0.0)
        say(f"others hold CPUs of the cluster: {free:g} of {cpus:g} are free, {needed:g} are needed")
    return actors


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected to a cluster, or with one of its own on this machine that ends with the context."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray", "ray", "the ray engine needs Ray")
    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    folder = None
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if cluster.address is None:
            # Sockets need short paths, which a run's folder may not have.
            _remove_left()
            folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-")
            ray.init(num_cpus=cluster.num_cpus, object_store_memory=OBJECT_STORE, _temp_dir=folder, **quiet)
        else:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise CamkitError(f"can't start Ray or connect to {cluster.address or 'it'}: {reason(error)}") from error
    try:
        yield ray
    finally:
        with suppress(Exception):
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_left() -> None:
    """Remove the folders of clusters whose run was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        owner = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)
