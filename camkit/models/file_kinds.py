"""Tell what kind of file was given as CHECKPOINT, from its first bytes and from what is in an archive."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

_TORCH_FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar")
_TENSORFLOW = "convert it to PyTorch, or give weights that are"
_UNPACK = "unpack it and give the file in it"

_ONNX = re.compile(rb"\x08[\x01-\x20]\x12.(pytorch|tf2onnx|onnx|skl2onnx|keras2onnx)", re.DOTALL)

_STARTS: tuple[tuple[bytes, str, str], ...] = (  # first bytes, what begins with them, and what to do
    (b"version https://git-lfs", "Git LFS's pointer to a checkpoint, not the checkpoint", "run: git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", _TENSORFLOW),
    (b"GGUF", "a GGUF file, whose weights are quantised for llama.cpp", "give weights of PyTorch"),
    (b"\x93NUMPY", "a NumPy array (.npy)", "give a file that torch.save or safetensors wrote"),
    (b"model_checkpoint_path:", "TensorFlow's list of its checkpoints", _TENSORFLOW),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"\x89PNG", "a picture (PNG)", "the image comes first, CHECKPOINT last"),
    (b"\xff\xd8\xff", "a picture (JPEG)", "the image comes first, CHECKPOINT last"),
    (b"%PDF", "a PDF document", "give a .pth or .safetensors file"),
    (b"MATLAB", "a file of MATLAB", "give a .pth or .safetensors file"),
    (b"\x7fELF", "a program or library", "give a .pth or .safetensors file"),
    (b"ptrt", "an engine of TensorRT", "give the .pth it was made from"),
    (b"ftrt", "an engine of TensorRT", "give the .pth it was made from"),
)


def name_kind(path: Path, head: bytes) -> str | None:
    """What a file is if no checkpoint of PyTorch, and what to do; None where that can't be told.

    Args:
        path: The file; its name counts where bytes alone don't tell.
        head: Its first 512 bytes or fewer.

    Returns:
        Such as ``"is a NumPy archive (.npz); give ..."``.
    """
    for start, kind, advice in _STARTS:
        if head.startswith(start):
            return f"is {kind}; {advice}"
    if head[257:262] == b"ustar":
        return f"is a tar archive; {_UNPACK}"
    if head[4:8] == b"TFL3":
        return f"is a model of TensorFlow Lite; {_TENSORFLOW}"
    return _by_text(path, head) or _by_name(path, head)


def name_archive(path: Path) -> str | None:
    """As :func:`name_kind`, of a zip archive; None where it is one that ``torch.save`` wrote, or broken."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    last = {name.rpartition("/")[2] for name in names}
    if last & {"constants.pkl", "bytecode.pkl"}:
        return "is a TorchScript archive, not a checkpoint; give the .pth it was made from"
    if any(name.startswith("serialized_") or "/models/model.json" in f"/{name}" for name in last | set(names)):
        return "is a program of torch.export, not a checkpoint; give the .pth it was made from"
    if "data.pkl" in last:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "is a NumPy archive (.npz); give a file that torch.save or safetensors wrote"
    if "model.weights.h5" in last:
        return f"is a model of Keras; {_TENSORFLOW}"
    if "[Content_Types].xml" in last:
        return "is an office document; give a .pth or .safetensors file"
    inside = [name for name in names if name.endswith(_TORCH_FILES)]
    if inside:
        return f"is a zip archive with {inside[0]} in it; unpack it and give that file"
    what = f"with {', '.join(names[:3])}{', ...' * (len(names) > 3)}" if names else "with nothing"
    return f"is a zip archive {what} in it, and no checkpoint; give a file that torch.save or safetensors wrote"


def _by_text(path: Path, head: bytes) -> str | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "is a web page, not a checkpoint: the download went wrong (a login, or a file too large to be scanned)"
    if path.name.endswith(".index.json"):
        return "lists the shards of a checkpoint; with transformers give the folder alone"
    if path.suffix in (".json", ".yaml", ".yml", ".py", ".txt", ".csv", ".md", ".log") and b"\0" not in head:
        return f"is a text file ({path.suffix}), not a checkpoint; CONFIG comes first, then CHECKPOINT"
    return None


def _by_name(path: Path, head: bytes) -> str | None:
    """Files whose first bytes say little: protocol buffers, raw numbers, pickles of others."""
    name = path.name.lower()
    if name.endswith(".onnx") or _ONNX.match(head):
        return "is a model of ONNX, which has no weights that torch could load; give the .pth it was made from"
    if re.search(r"\.ckpt(-\d+)?\.(index|meta|data-\d+-of-\d+)$", name) or re.search(r"\.data-\d+-of-\d+$", name):
        return f"is a part of a TensorFlow checkpoint; {_TENSORFLOW}"
    if name.endswith((".pb", ".tflite")):
        return f"is a model of TensorFlow; {_TENSORFLOW}"
    if name.endswith((".mlmodel", ".mlpackage")):
        return "is a model of Core ML; give the .pth it was made from"
    if name.endswith((".pdparams", ".pdmodel")):
        return "is a model of PaddlePaddle; convert it to PyTorch, or give weights that are"
    if name.endswith(".msgpack"):
        return "is a checkpoint of Flax; convert it to PyTorch, or give weights that are"
    if name.endswith((".caffemodel", ".weights", ".params", ".engine", ".trt")):
        return f"is a {path.suffix} file of another framework; give weights of PyTorch"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return (
            "is a plain pickle that torch.save didn't write, so it isn't a PyTorch checkpoint; save the state dict with"
            " torch.save"
        )
    return None
