"""Which process of several writes, and which models it can run alone."""

from __future__ import annotations

import torch
from torch import nn

from camkit.errors import UsageError


def is_first_process() -> bool:
    """Whether this is the only process, or the one of rank 0."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model that no process can run alone, as FSDP and ZeRO-3 spread its weights over all of them.

    Raises:
        UsageError: it is one.
    """
    spread = [type(module).__name__ for module in model.modules() if "FullySharded" in type(module).__name__]
    spread += ["DTensor" for each in model.parameters() if type(each).__name__ == "DTensor"]
    spread += ["ZeRO-3" for each in model.parameters() if hasattr(each, "ds_id")]
    if spread:
        raise UsageError(
            f"the model's weights are spread over processes ({spread[0]}), and one process alone can't run it: "
            "explain a checkpoint of it"
        )
