"""The ray engine on a cluster of 4 logical CPUs with two actors: the same rows, whoever dies."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from camkit.datasets import load, run
from camkit.errors import CamkitError, PackageError, UsageError
from tests.datasets.killing import PATIENCE, finish, killed_at, started, wait_for_rows
from tests.datasets.pictures import IMAGES, assert_same_rows, classifier, rows_of, write_broken, write_pictures
from tests.datasets.test_killed import Deadly
from tests.helpers.networks import SmallCNN, seeded

with_ray = pytest.mark.skipif(
    find_spec("ray") is None or sys.platform == "win32", reason="Ray isn't installed: pip install 'camkit[ray]'"
)
# Ray warns of its own next releases, in threads of its own too.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One cluster for all that is done in this process."""
    from camkit.datasets.cluster import Cluster, connected

    with connected(Cluster(num_cpus=4)):
        yield Cluster(actors=2, timeout=180)


@with_ray
@pytest.mark.slow
def test_the_same_rows_as_the_local_engine_s(data: Path, undisturbed: Path, tmp_path: Path, cluster: Any) -> None:
    summary = run(data, classifier(), tmp_path / "run", batch_size=4, engine="ray", cluster=cluster)
    assert (summary.done, summary.failed) == (IMAGES, 0)
    assert_same_rows(tmp_path / "run", undisturbed)
    again = run(data, classifier(), tmp_path / "run", batch_size=4, workers=0)
    assert again.new == 0, "either engine goes on with the other's run"


@with_ray
@pytest.mark.slow
def test_broken_images_and_many_sizes(tmp_path: Path, cluster: Any) -> None:
    data = tmp_path / "data"
    write_broken(data)
    for number in range(4):
        write_pictures(data / str(number), 3, (24 + 8 * number, 32))
    run(data, classifier(whole=True), tmp_path / "local", batch_size=2, workers=0)
    run(data, classifier(whole=True), tmp_path / "ray", batch_size=2, engine="ray", cluster=cluster)
    assert_same_rows(tmp_path / "ray", tmp_path / "local")


class DiesOnce(SmallCNN):
    """Kills the first process that it runs in, but for the one that made it."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = marker
        self.maker = os.getpid()

    def forward(self, images: Tensor) -> Tensor:
        if os.getpid() != self.maker and not self.marker.exists():
            self.marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


@with_ray
@pytest.mark.slow
def test_an_actor_that_dies_is_replaced(data: Path, undisturbed: Path, tmp_path: Path, cluster: Any) -> None:
    net = classifier(model=seeded(DiesOnce(tmp_path / "died"), 11))
    summary = run(data, net, tmp_path / "run", batch_size=4, engine="ray", cluster=cluster)
    assert (tmp_path / "died").exists()
    assert (summary.done, summary.failed) == (IMAGES, 0)
    assert_same_rows(tmp_path / "run", undisturbed)


@with_ray
@pytest.mark.slow
def test_an_image_that_kills_every_process_is_a_failure(
    data: Path, undisturbed: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = type(classifier()).loader
    monkeypatch.setattr("camkit.models.classifier.Classifier.loader", lambda net: Deadly(own(net), "017.png"))
    said: list[str] = []
    out = tmp_path / "run"
    summary = run(data, classifier(), out, batch_size=4, engine="ray", cluster=cluster, say=said.append)
    assert (summary.done, summary.failed) == (IMAGES, 1)
    assert "the process that held it died" in rows_of(out)["017.png"]["error"]
    assert any("tried one by one" in line for line in said)
    wanted = load(undisturbed)
    good = load(out).filter(errors=False)
    assert_same_rows(good, wanted.take([n for n, name in enumerate(wanted.ids) if name != "017.png"]))


def refuse(batch: Any, handed: Any) -> Any:
    """In place of reading images."""
    raise RuntimeError("no such module on this machine")


@with_ray
@pytest.mark.slow
def test_a_cluster_on_which_nothing_works_says_why(
    data: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camkit.datasets.ray_engine.read_batch", refuse)
    with pytest.raises(CamkitError, match="Ray can't do the work: .*no such module on this machine") as refused:
        run(data, classifier(), tmp_path / "run", engine="ray", cluster=cluster)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@with_ray
@pytest.mark.slow
def test_a_killed_driver_goes_on(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    """``python -m tests.datasets.killing --engine ray --moments 10`` does it at more moments."""
    out = tmp_path / "run"
    assert killed_at(data, out, 12, 0.0, "--engine", "ray", "--shard-rows", "4") == -signal.SIGKILL
    kept = len(load(out))
    assert 4 <= kept < IMAGES
    with started(data, out, "--engine", "ray", "--shard-rows", "4", "--die-at-shard", str(kept // 4 + 1)) as process:
        assert process.wait(timeout=PATIENCE) == -signal.SIGKILL
    assert len(load(out)) < IMAGES
    finish(data, out, "--engine", "ray")
    assert_same_rows(out, undisturbed)


@with_ray
@pytest.mark.slow
def test_ctrl_c_ends_it_with_what_is_ready(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    with started(data, tmp_path / "run", "--engine", "ray", "--wait", "0.5", "--shard-rows", "1000") as process:
        wait_for_rows(process, 4)
        os.killpg(process.pid, signal.SIGINT)
        printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert printed.endswith("stopped\n")
    assert 4 <= len(load(tmp_path / "run")) < IMAGES
    run(data, classifier(), tmp_path / "run", batch_size=4, workers=0)
    assert_same_rows(tmp_path / "run", undisturbed)


@with_ray
@pytest.mark.parametrize(
    ("settings", "resources", "said"),
    [
        (
            {"actors": 2},
            {"CPU": 2.0},
            "Ray has 2 CPUs, and 2 actors .* need 3: give --actors 1, --num-cpus 3",
        ),
        ({}, {"CPU": 1.0}, "Ray has 1 CPUs, and 1 actors and a task .* need 2: give --num-cpus 2"),
        ({"num_gpus": 1}, {"CPU": 8.0}, "Ray has 0 GPUs, and 1 actors with 1 each need 1"),
        (
            {"num_gpus": 0.5, "actors": 5},
            {"CPU": 8.0, "GPU": 2.0},
            "Ray has 2 GPUs, and 5 actors .* need 2.5",
        ),
    ],
)
def test_what_a_cluster_lacks_is_counted(settings: dict[str, Any], resources: dict[str, float], said: str) -> None:
    from camkit.datasets.cluster import Cluster, count_actors

    with pytest.raises(CamkitError, match=said):
        count_actors(Cluster(**settings), resources, resources, print)


@with_ray
def test_how_many_actors_there_are_by_default() -> None:
    from camkit.datasets.cluster import Cluster, count_actors

    said: list[str] = []
    assert count_actors(Cluster(), {"CPU": 4.0}, {"CPU": 1.0}, said.append) == 3
    assert said == ["others hold CPUs of the cluster: 1 of 4 are free, 4 are needed"]
    assert count_actors(Cluster(num_gpus=0.5), {"CPU": 2.0, "GPU": 2.0}, {"CPU": 2.0}, print) == 4


@with_ray
def test_an_address_where_nobody_is(data: Path, tmp_path: Path) -> None:
    from camkit.datasets.cluster import Cluster

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens to nobody
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started_at = time.monotonic()
        with pytest.raises(CamkitError, match=f"no Ray at {address} .*waited 10 s at most"):
            run(data, classifier(), tmp_path / "run", engine="ray", cluster=Cluster(address=address))
    assert time.monotonic() - started_at < 60
    with pytest.raises(UsageError, match="HOST:PORT"):
        run(data, classifier(), tmp_path / "run", engine="ray", cluster=Cluster(address="nonsense"))
    assert not (tmp_path / "run").exists()


def test_results_that_never_come_end_the_run() -> None:
    pytest.importorskip("pandas")
    from camkit.datasets.ray_engine import _patient
    from camkit.datasets.stopping import Stop

    def silent() -> Iterator[Any]:
        yield 1
        time.sleep(30)

    found = _patient(silent(), 0.5, Stop(print))
    assert next(found) == 1
    with pytest.raises(CamkitError, match=r"nothing came from Ray for 0\.5 s \(--ray-timeout\)"):
        next(found)


def test_without_ray_it_says_what_to_install(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PackageError, match=r"the ray engine needs Ray.*pip install 'camkit\[ray\]'"):
        run(data, classifier(), tmp_path / "run", engine="ray")
