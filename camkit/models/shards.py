"""Read the weights in a folder that transformers' ``save_pretrained`` wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from camkit.errors import CheckpointError, reason
from camkit.models.checkpoint import Checkpoint, hash_files, read_checkpoint
from camkit.models.state_dicts import some

if TYPE_CHECKING:
    from camkit.models.settings import Reading

_WEIGHTS = (  # in the order in which transformers takes them
    "model.safetensors",
    "model-*-of-*.safetensors",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
)


def read_folder(folder: Path, reading: Reading) -> Checkpoint:
    """Read a folder's weights, from one file or from several shards: those that its index names, where it has one.

    Raises:
        CheckpointError: There are none, a shard is missing, those of several saves are mixed, or one can't be read.
    """
    files, missing = _find(folder)
    if not files and not missing:
        raise CheckpointError(
            f"the folder {folder} holds no weights (model.safetensors); give CHECKPOINT, a file with them"
        )
    if missing and not reading.allow_partial:
        raise CheckpointError(
            f"the folder {folder} lacks {len(missing)} of its {len(files) + len(missing)} shards ({some(missing)}); "
            "fetch what is missing, or add --allow-partial for random weights in its place"
        )
    if not files:
        raise CheckpointError(f"the folder {folder} holds none of its {len(missing)} shards ({some(missing)})")
    parts = [read_checkpoint(str(file), trust=reading.trust, weights=reading.weights) for file in files]
    if len(parts) == 1:
        return parts[0]
    tensors = {name: tensor for part in parts for name, tensor in part.state_dict.items()}
    return Checkpoint(tensors, {}, str(folder), hash_files(*files))


def _find(folder: Path) -> tuple[list[Path], list[str]]:
    """The first kind of weights that there is: its files, and the names of those that are missing."""
    for pattern in _WEIGHTS:
        index = folder / f"{pattern.replace('-*-of-*', '')}.index.json"
        if "*" in pattern and index.is_file():
            names = _indexed(index)
            files = [folder / name for name in names]
            return [file for file in files if file.is_file()], [file.name for file in files if not file.is_file()]
        found = sorted(folder.glob(pattern))
        if found:
            return found, _missing_shards(folder, found)
    return [], []


def _indexed(index: Path) -> list[str]:
    """The shards that an index names: others of an earlier save may lie beside them."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
            raise ValueError("no names of files in this folder")
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"can't read the weight_map of {index}: {reason(error)}; fetch it again, or remove it if the folder's "
            "shards are of one save"
        ) from error
    return sorted(names)


def _missing_shards(folder: Path, files: list[Path]) -> list[str]:
    """The shards that the names of the others speak of: ``model-00002-of-00003.safetensors``."""
    matches = [match for file in files if (match := re.fullmatch(r"(.*-)(\d+)(-of-)(\d+)(\..*)", file.name))]
    totals = sorted({match[4] for match in matches})
    if len(totals) > 1:
        raise CheckpointError(
            f"the folder {folder} holds shards of several saves, of {' and of '.join(totals)}, and no index.json says "
            "which count; remove those of the others"
        )
    if not matches:
        return []
    begin, digits, of, total, end = matches[0].groups()
    names = [f"{begin}{number:0{len(digits)}}{of}{total}{end}" for number in range(1, int(total) + 1)]
    return [name for name in names if name not in {file.name for file in files}]
