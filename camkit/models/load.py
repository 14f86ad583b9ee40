"""Load the classifier that CONFIG and CHECKPOINT name, whichever framework it is of."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from camkit.models.frameworks import find_framework
from camkit.models.options import keyword_options
from camkit.models.settings import Preprocessing, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from camkit.models.classifier import Activation, Classifier


def load(
    config: str,
    checkpoint: str | None = None,
    *,
    device: str = "cpu",
    cfg_options: Sequence[str] = (),
    reading: Reading | None = None,
    preprocessing: Preprocessing | None = None,
    activation: Activation | None = None,
    pretrained: bool = True,
) -> Classifier:
    """Build a classifier. Random weights, where there are any, are the same in every process.

    The framework's own ``load`` does it: ``load(name, checkpoint, *, device, options, reading, preprocessing,
    pretrained)`` in ``camkit.models.mmpretrain``, ``.timm``, ``.torchvision`` or ``.transformers``, with the same
    meanings.

    Args:
        config: ``timm:NAME``, ``torchvision:NAME`` or ``transformers:FOLDER``; else a config file or a model name of
            MMPretrain.
        checkpoint: Path or URL, .pth or .safetensors. None takes the framework's own weights; MMPretrain has none.
        device: Where the model goes, such as ``"cpu"`` or ``"cuda:1"``.
        cfg_options: ``KEY=VALUE``: settings of MMPretrain's or transformers' config, or keyword arguments of timm's or
            torchvision's model.
        reading: How the checkpoint is read: with trust or without, live or averaged weights, or a part of them.
        preprocessing: Mean, standard deviation and input size in place of timm's or torchvision's.
        activation: What makes probabilities of the logits, in place of what the framework says.
        pretrained: False leaves the weights random where there is no checkpoint, for the structure alone.

    Raises:
        UsageError: No such framework, model or option, or no checkpoint where one is needed.
        CheckpointError: Weights that are missing, unreadable, unsafe or of another model.
        CamkitError: No such device, a missing package, or a model that can't be built.
    """
    framework, name = find_framework(config)
    module: Any = import_module(f"camkit.models.{framework.name}")
    parse_options = getattr(module, "parse_options", keyword_options)  # MMPretrain's have dots and types of their own
    reading = reading or Reading()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(reading.seed)
        classifier: Classifier = module.load(
            name,
            checkpoint,
            device=device,
            options=parse_options(cfg_options),
            reading=reading,
            preprocessing=preprocessing or Preprocessing(),
            pretrained=pretrained,
        )
    if activation is None:
        return classifier
    tasks = {name: replace(task, activation=activation) for name, task in classifier.tasks.items()}
    return replace(classifier, activation=activation, tasks=tasks)
