"""Checkpoints of every form, and files that are none."""

from __future__ import annotations

import collections
import functools
import hashlib
import http.server
import os
import pickle
import sys
import threading
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camkit.compat import torch_version
from camkit.errors import CheckpointError
from camkit.models.checkpoint import hash_files, read_checkpoint
from camkit.models.prefixes import without
from tests.helpers.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Net(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert list(first) == list(second)
    torch.testing.assert_close(dict(first), dict(second), rtol=0, atol=0)


def refused(path: object, **how: bool) -> str:
    message = refusal(read_checkpoint, CheckpointError, str(path), **how)
    assert "\x1b" not in message
    assert str(path) in message
    return message


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes in the files of a zip archive, check sums included."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content.replace(old, new))


@pytest.fixture(params=["torch's", "camkit's"])
def unpickler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read safely: torch 2.6 knows how; for older ones there is an unpickler of camkit's own."""
    if request.param == "camkit's":
        monkeypatch.setattr("camkit.compat.torch_version", lambda: (2, 1))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.mark.usefixtures("unpickler")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("wrap", ["state_dict", "model", "bare"])
def test_every_way_to_save_a_state_dict(tmp_path: Path, net: Net, wrap: str, zipped: bool) -> None:
    path = tmp_path / "net.pth"
    state = net.state_dict()
    torch.save(state if wrap == "bare" else {wrap: state, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    got = read_checkpoint(str(path))
    same(got.state_dict, net.state_dict())
    assert got.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert got.origin.source == got.source == str(path)


@pytest.mark.usefixtures("unpickler")
def test_versions_that_torch_attached_survive(tmp_path: Path, net: Net) -> None:
    torch.save(nn.DataParallel(net).state_dict(), tmp_path / "net.pth")
    read = read_checkpoint(str(tmp_path / "net.pth")).state_dict
    metadata = without(read, "module.")._metadata  # type: ignore[attr-defined]
    assert metadata["norm"] == {"version": 2}


@pytest.mark.usefixtures("unpickler")
@pytest.mark.frameworks
def test_an_openmmlab_file_loads_safely(tmp_path: Path, net: Net) -> None:
    logging = pytest.importorskip("mmengine.logging")
    hub = logging.MessageHub.get_instance("test_openmmlab_file")
    for value in (0.5, np.float32(0.25), np.float64(0.125)):
        hub.update_scalar("train/loss", value)
    hub.update_info("iter", np.int64(7))
    hub.update_info("history", np.arange(3, dtype=np.float16))
    assert isinstance(hub.state_dict()["log_scalars"]["train/loss"], logging.HistoryBuffer)
    meta = {"dataset_meta": {"classes": ("cat", "dog")}, "epoch": 3, "score": np.float64(0.9), "seed": np.uint32(1)}
    content = {"meta": meta, "message_hub": hub.state_dict(), "state_dict": net.state_dict(), "optimizer": {}}
    torch.save(content, tmp_path / "mm.pth")
    with pytest.raises(pickle.UnpicklingError):  # the allow-list is what makes it work
        torch.load(tmp_path / "mm.pth", weights_only=True)
    got = read_checkpoint(str(tmp_path / "mm.pth"))
    same(got.state_dict, net.state_dict())
    assert got.meta == meta
    assert read_checkpoint(str(tmp_path / "mm.pth"), trust=True).meta == meta


@pytest.mark.skipif(torch_version() < (2, 6), reason="this torch has no list to be left alone")
def test_the_allow_list_is_left_as_it_was(tmp_path: Path, net: Net) -> None:
    torch.save(net.state_dict(), tmp_path / "x.pth")
    with torch.serialization.safe_globals([np.dtype]):
        before = set(torch.serialization.get_safe_globals())
        read_checkpoint(str(tmp_path / "x.pth"))
        assert np.dtype in before
        assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.usefixtures("unpickler")
@pytest.mark.parametrize("core", ["core", "_core"])
def test_numpy_1_and_2_names(tmp_path: Path, core: str) -> None:
    path = tmp_path / "np.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": {"s": np.float64(2), "a": np.arange(3)}}, path)
    written = path.read_bytes()
    name = next(each for each in (b"numpy._core.multiarray", b"numpy.core.multiarray") if each in written)
    rewrite(path, name, f"numpy.{core}.multiarray".encode())
    meta = read_checkpoint(str(path)).meta
    assert meta["s"] == 2
    np.testing.assert_array_equal(meta["a"], np.arange(3))


@pytest.mark.usefixtures("unpickler")
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": {"w": torch.ones(2)}, "meta": Evil()}
    torch.save(content, "evil.pth", _use_new_zipfile_serialization=zipped)
    message = refused("evil.pth")
    assert "posix.mkdir" in message
    assert "--trust-checkpoint" in message
    assert not (tmp_path / "pwned").exists()
    assert read_checkpoint("evil.pth", trust=True).state_dict["w"].shape == (2,)
    assert (tmp_path / "pwned").exists()


@pytest.mark.usefixtures("unpickler")
def test_getattr_from_a_pickle_looks_nothing_up(tmp_path: Path) -> None:
    class Getter:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, (collections.OrderedDict, "fromkeys")

    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": {"x": Getter()}}, tmp_path / "g.pth")
    assert read_checkpoint(str(tmp_path / "g.pth")).meta == {"x": None}


def test_a_whole_model_needs_trust(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    torch.save(model, tmp_path / "model.pth")
    assert "torch.nn.modules.linear.Linear" in refused(tmp_path / "model.pth")
    same(read_checkpoint(str(tmp_path / "model.pth"), trust=True).state_dict, model.state_dict())


def test_trust_is_of_no_help_to_a_missing_package(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "x": collections.ChainMap}, tmp_path / "x.pth")
    rewrite(tmp_path / "x.pth", b"collections\nChainMap", b"no_such_pkg\nChainMap")
    assert "no_such_pkg" in refused(tmp_path / "x.pth", trust=True)


def test_not_there(tmp_path: Path) -> None:
    assert "no checkpoint" in refused(tmp_path / "none.pth")
    assert "folder" in refused(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"hello, this is text\n" * 20, b"class Foo:\n    pass\n", bytes(range(256)),
     pickle.dumps({"a": 1}), pickle.dumps({"a": 1}, protocol=2)],
)  # fmt: skip
@pytest.mark.parametrize("trust", [False, True])
def test_not_a_checkpoint(tmp_path: Path, content: bytes, trust: bool) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    assert "isn't a PyTorch checkpoint" in refused(tmp_path / "x.pth", trust=trust)


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "x.pth").touch()
    assert "empty" in refused(tmp_path / "x.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("trust", [False, True])
def test_truncated(tmp_path: Path, net: Net, zipped: bool, keep: float, trust: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert "damaged" in refused(path, trust=trust)


def test_garbled(tmp_path: Path, net: Net) -> None:
    path = tmp_path / "x.pth"
    torch.save(net.state_dict(), path)
    data = bytearray(path.read_bytes())
    data[64:700] = bytes(636)
    path.write_bytes(data)
    assert "damaged" in refused(path)


@pytest.mark.parametrize(("content", "named"), [([1, 2], "list"), (torch.ones(2), "Tensor"), ({"epoch": 3}, "epoch")])
def test_no_state_dict(tmp_path: Path, content: object, named: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    message = refused(tmp_path / "x.pth")
    assert "no state dict" in message
    assert named in message


@pytest.mark.usefixtures("unpickler")
def test_torchscript_is_named(tmp_path: Path) -> None:
    data = tmp_path / "x.pt"
    with torch.no_grad():
        script = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))  # type: ignore[no-untyped-call]
    script.save(str(data))
    assert "TorchScript" in refused(data)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "www"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}", folder
        http_server.shutdown()
        thread.join()


def test_url(tmp_path: Path, net: Net, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, folder = server
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    torch.save(net.state_dict(), folder / "net.pth")
    same(read_checkpoint(f"{url}/net.pth?download=1").state_dict, net.state_dict())
    (folder / "net.pth").unlink()
    assert read_checkpoint(f"{url}/net.pth").source == f"{url}/net.pth"  # from the cache
    # Another file of that name, from another place.
    (folder / "other").mkdir()
    other = Net(classes=7)
    torch.save(other.state_dict(), folder / "other" / "net.pth")
    same(read_checkpoint(f"{url}/other/net.pth").state_dict, other.state_dict())
    assert "404" in refused(f"{url}/other.pth")
    assert [path.name for path in tmp_path.glob("cache/hub/checkpoints/**/*.*")] == ["net.pth", "net.pth"]
    (folder / "page.pth").write_text("<html>")
    assert "page.pth" in refused(f"{url}/page.pth").partition("kept as")[2]  # say what to delete


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.pth", "s3://bucket/x.pth", "http://host", "http://[::1/x.pth"])
def test_url_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    refused(url)


def header(text: bytes) -> bytes:
    """A safetensors file that consists of its header."""
    return len(text).to_bytes(8, "little") + text


def test_safetensors_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is recognised all the same, whatever its name."""
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for name in ("x.safetensors", "x.pth"):
        (tmp_path / name).write_bytes(header(b"{}"))
        assert "needs the package 'safetensors'; install with: pip install safetensors" in refused(tmp_path / name)


def test_a_git_lfs_pointer(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    assert "git lfs pull" in refused(tmp_path / "x.pth")


def test_the_hash_of_several_files(tmp_path: Path) -> None:
    paths = [tmp_path / "1", tmp_path / "2"]
    for path, content in zip(paths, (b"some", b"thing"), strict=True):
        path.write_bytes(content)
    assert hash_files(*paths) == hashlib.sha256(b"something").hexdigest()
