"""Files that are no checkpoints are called what they are, whatever their name, and never damaged."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from camkit.errors import CheckpointError
from camkit.models.checkpoint import read_checkpoint
from tests.helpers.refusals import refusal


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones(3))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


KINDS = {
    "npz": (npz(), "x.npz", "a NumPy archive (.npz)"),
    "npy": (npy(), "x.npy", "a NumPy array (.npy)"),
    "zip of weights": (
        zipped("run/best.pth", "readme.txt"),
        "x.zip",
        "a zip archive with run/best.pth in it; unpack it",
    ),
    "zip of pictures": (zipped("a.jpg", "b.jpg"), "x.zip", "a zip archive with a.jpg, b.jpg in it"),
    "empty zip": (zipped(), "x.zip", "a zip archive with nothing in it"),
    "Keras": (zipped("metadata.json", "config.json", "model.weights.h5"), "x.keras", "a model of Keras"),
    "office": (zipped("[Content_Types].xml", "word/document.xml"), "x.docx", "an office document"),
    "torch.export": (zipped("x/models/model.json", "x/data/weights/w0"), "x.pt2", "a program of torch.export"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "x.h5", "an HDF5 file"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(99), "x.gguf", "a GGUF file"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(99), "x.tflite", "a model of TensorFlow Lite"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(99), "x.onnx", "a model of ONNX"),
    "TensorFlow": (b'model_checkpoint_path: "model.ckpt-9"\n', "checkpoint", "TensorFlow's list of its checkpoints"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "x.tar.gz", "a gzip archive; unpack it"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "x.tar", "a tar archive; unpack it"),
    "web page": (b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning", "x.pth", "a web page"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "x.png", "a picture (PNG); the image comes first"),
    "MATLAB": (b"MATLAB 5.0 MAT-file" + bytes(200), "x.mat", "a file of MATLAB"),
}
BY_NAME = {
    "x.ckpt.data-00000-of-00001": (bytes(range(1, 99)), "a part of a TensorFlow checkpoint"),
    "model.ckpt-9.index": (bytes(range(1, 99)), "a part of a TensorFlow checkpoint"),
    "frozen.pb": (b"\x0a\x20\x0a\x05input" + bytes(99), "a model of TensorFlow"),
    "flax_model.msgpack": (b"\x83\xa6params" + bytes(99), "a checkpoint of Flax"),
    "x.pdparams": (b"\x80\x02}q\0." + bytes(99), "a model of PaddlePaddle"),
    "config.py": (b"model = dict(type='ImageClassifier')\n", "a text file (.py), not a checkpoint; CONFIG comes first"),
    "model.safetensors.index.json": (b'{"metadata": {}, "weight_map": {}}', "lists the shards of a checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("renamed", [False, True])
def test_what_the_bytes_say(kind: str, renamed: bool, tmp_path: Path) -> None:
    content, name, says = KINDS[kind]
    path = tmp_path / ("net.pth" if renamed else name)
    path.write_bytes(content)
    message = refusal(read_checkpoint, CheckpointError, str(path))
    assert message.startswith(f"{path} is {says}")
    assert "damaged" not in message


@pytest.mark.parametrize("name", BY_NAME)
def test_what_the_name_says(name: str, tmp_path: Path) -> None:
    content, says = BY_NAME[name]
    (tmp_path / name).write_bytes(content)
    message = refusal(read_checkpoint, CheckpointError, str(tmp_path / name))
    assert says in message
    assert "damaged" not in message


def test_a_program_that_torch_exported(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "net.pt2")
    assert "a program of torch.export" in refusal(read_checkpoint, CheckpointError, str(tmp_path / "net.pt2"))


@pytest.mark.parametrize("name", ["./x.pth", "x.pth", "./a/../x.pth"])
def test_a_path_is_called_as_it_was_given(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "x.pth").write_bytes(struct.pack("<Q", 3) * 40)
    message = refusal(read_checkpoint, CheckpointError, name)
    assert message.startswith(f"{name} isn't a PyTorch checkpoint")
    assert "kept as" not in message
