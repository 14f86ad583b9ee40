"""The one way from CONFIG and CHECKPOINT to a classifier, whichever framework CONFIG names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from camkit.adapters import mmpretrain, timm, torchvision, transformers
from camkit.adapters.framework import keyword_options
from camkit.errors import UsageError, closest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from camkit.adapters.classifier import Classifier

_OTHERS = {"timm": timm, "torchvision": torchvision, "transformers": transformers}
_FORMS = "timm:NAME, torchvision:NAME, transformers:FOLDER"


def load(
    config: str,
    checkpoint: str | None = None,
    *,
    device: str = "cpu",
    cfg_options: Sequence[str] = (),
    trust_checkpoint: bool = False,
    pretrained: bool = True,
) -> Classifier:
    """Build a classifier.

    Args:
        config: ``timm:NAME``, ``torchvision:NAME`` or ``transformers:FOLDER``; else MMPretrain's: a config file or a
            model name.
        checkpoint: path or URL, .pth or .safetensors. Where it is None, the frameworks take their own weights, but for
            MMPretrain, which has none.
        device: where the model goes.
        cfg_options: ``KEY=VALUE``, settings of MMPretrain's or transformers' config, or keyword arguments of timm's or
            torchvision's model.
        trust_checkpoint: unpickle the checkpoint fully, which can run code in it.
        pretrained: False leaves the weights random where there is no checkpoint: for the structure alone.

    Raises:
        UsageError: no such framework, model or option, or no checkpoint where one is needed.
        CheckpointError: weights that are missing, unreadable, unsafe or of another model.
        CamkitError: no such device, a missing package, a model that can't be built.
    """
    prefix, colon, name = config.partition(":")
    if not colon or Path(config).exists() or name.startswith("//"):
        if checkpoint is None and pretrained:
            raise UsageError(
                f"an MMPretrain config needs a CHECKPOINT: give its path or URL behind {config} (models that bring "
                f"weights are {_FORMS})"
            )
        return mmpretrain.load(
            config,
            checkpoint,
            device=device,
            cfg_options=mmpretrain.parse_cfg_options(cfg_options),
            trust_checkpoint=trust_checkpoint,
        )
    if prefix not in _OTHERS:
        raise UsageError(
            f"no framework '{prefix}' in {config}{closest(prefix, _OTHERS)}; CONFIG is {_FORMS}, or MMPretrain's: a "
            "config file or a model name"
        )
    if not name:
        raise UsageError(f"{config} names no model; CONFIG is {_FORMS}")
    classifier: Classifier = _OTHERS[prefix].load(
        name,
        checkpoint,
        device=device,
        options=keyword_options(cfg_options),
        trust_checkpoint=trust_checkpoint,
        pretrained=pretrained,
    )
    return classifier
