"""Read the weights in a folder that transformers' ``save_pretrained`` wrote."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from camkit.errors import CheckpointError
from camkit.models.checkpoint import Checkpoint, hash_files, read_checkpoint
from camkit.models.state_dicts import some

if TYPE_CHECKING:
    from pathlib import Path

    from camkit.models.settings import Reading

_WEIGHTS = (  # in the order in which transformers takes them
    "model.safetensors",
    "model-*-of-*.safetensors",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
)


def read_folder(folder: Path, reading: Reading) -> Checkpoint:
    """Read a folder's weights, from one file or from several shards.

    Raises:
        CheckpointError: There are none, a shard is missing, or one can't be read.
    """
    files = next((found for found in (sorted(folder.glob(pattern)) for pattern in _WEIGHTS) if found), [])
    if not files:
        raise CheckpointError(
            f"the folder {folder} holds no weights (model.safetensors); give CHECKPOINT, a file with them"
        )
    missing = _missing_shards(files)
    if missing and not reading.allow_partial:
        raise CheckpointError(
            f"the folder {folder} lacks {len(missing)} of its {len(files) + len(missing)} shards ({some(missing)}); "
            "fetch what is missing, or add --allow-partial for random weights in its place"
        )
    parts = [read_checkpoint(str(file), trust=reading.trust, weights=reading.weights) for file in files]
    if len(parts) == 1:
        return parts[0]
    tensors = {name: tensor for part in parts for name, tensor in part.state_dict.items()}
    return Checkpoint(tensors, {}, str(folder), hash_files(*files))


def _missing_shards(files: list[Path]) -> list[str]:
    """The shards that the names of the others speak of: ``model-00002-of-00003.safetensors``."""
    match = re.fullmatch(r"(.*-)(\d+)(-of-)(\d+)(\..*)", files[0].name)
    if match is None:
        return []
    begin, digits, of, total, end = match.groups()
    names = [f"{begin}{number:0{len(digits)}}{of}{total}{end}" for number in range(1, int(total) + 1)]
    return [name for name in names if name not in {file.name for file in files}]
