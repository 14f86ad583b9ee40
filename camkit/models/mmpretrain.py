"""Load MMPretrain's models from configs, with their test pipeline and class names.

No other files of camkit than ``mmpretrain*.py`` import MMPretrain, MMEngine or MMCV, and these only when a model is
loaded: importing them takes seconds.

- ``mmpretrain_config.py`` reads a config and finds its test data set and pipeline, ``mmpretrain_packages.py`` helps
  MMEngine to find configs in packages.
- ``mmpretrain_names.py`` says what the outputs mean: class names, activation, tasks.
- ``mmpretrain_pipeline.py`` prepares images; ``mmpretrain_run.py`` runs its transforms, ``mmpretrain_reader.py`` knows
  what readers take and return.
"""

from __future__ import annotations

import argparse
import copy
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from camkit.errors import CamkitError, UsageError, reason
from camkit.models.checkpoint import read_checkpoint
from camkit.models.classifier import Classifier
from camkit.models.completeness import Builder
from camkit.models.environment import find_device, import_framework, quiet
from camkit.models.frameworks import prefixed_forms
from camkit.models.mmpretrain_config import migration_advice, read_config
from camkit.models.mmpretrain_names import prediction_output, read_tasks, refuse_no_classifier
from camkit.models.mmpretrain_pipeline import Pipeline
from camkit.models.settings import Preprocessing, Reading
from camkit.models.weights import load_into

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


def load(
    name: str,
    checkpoint: str | None,
    *,
    device: str = "cpu",
    options: dict[str, Any] | None = None,
    reading: Reading | None = None,
    preprocessing: Preprocessing | None = None,
    pretrained: bool = True,
) -> Classifier:
    """Build a classifier of MMPretrain; see :func:`camkit.models.load.load`.

    The ``pretrained`` weights that a config may name are never fetched.

    Args:
        name: A config file, or a model name that MMPretrain knows, in any case.
        checkpoint: Path or URL; MMPretrain has no weights of its own to take for None.
        device: Where the model goes.
        options: Settings of the config to override, by dotted name, as :func:`parse_options` reads them.
        reading: How the checkpoint is read. A ``state_dict`` comes before averaged weights, as in MMPretrain's loader;
            with MMEngine's EMA it is the averaged one.
        preprocessing: Refused: the config says it.
        pretrained: False leaves the weights random where there is no checkpoint.

    Raises:
        UsageError: No checkpoint where one is needed; no such config or model name; a config that can't be read or
            holds no model, or one of another task than classification; bad options.
        CheckpointError: See ``read_checkpoint`` and ``load_into``.
        CamkitError: The device isn't available, a package is missing, or the model can't be built.
    """
    if checkpoint is None and pretrained:
        raise UsageError(
            f"an MMPretrain config needs a CHECKPOINT: give its path or URL behind {name} (models that bring weights "
            f"are {prefixed_forms()})"
        )
    (preprocessing or Preprocessing()).refuse("in a config, set data_preprocessor and the pipeline with --cfg-options")
    reading = reading or Reading()
    place = find_device(device)
    import_framework("mmpretrain")
    settings, source = read_config(name, options or {})
    weights = None
    if checkpoint is not None:
        weights = read_checkpoint(checkpoint, trust=reading.trust, weights=reading.weights, first=("state_dict",))
    model = _build(settings, source)
    refuse_no_classifier(model, source)
    report = None
    if weights is not None:
        with quiet():
            report = load_into(model, weights, reading, _builder(settings, source))
    tasks, problem = read_tasks(model, settings, weights.meta if weights else {})
    first = next(iter(tasks.values()))
    warnings = [text for text in (report.warning if report else None, problem) if text]
    model = model.to(place).eval()
    return Classifier(
        model=model,
        classes=first.classes,
        activation=first.activation,
        source=source,
        checkpoint=weights.origin if weights else None,
        load_warning="; ".join(warnings) or None,
        device=place,
        _prepare=Pipeline(model, settings, source),
        output=prediction_output(model),
        tasks=tasks if "" not in tasks else {},
        notes=report.notes if report else (),
    )


@lru_cache(maxsize=1)
def load_pipeline(name: str) -> Pipeline:
    """The test pipeline of a config, without its network, to read images again.

    Raises:
        UsageError: No such config, or one that can't be read.
        CamkitError: A package is missing, or the data preprocessor can't be built.
    """
    import_framework("mmpretrain")
    settings, source = read_config(name, {})
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    config = settings.model.get("data_preprocessor") or settings.get("data_preprocessor") or {}
    try:
        with quiet(), DefaultScope.overwrite_default_scope("mmpretrain"):
            preprocessor = MODELS.build({"type": "ClsDataPreprocessor", **config})
    except Exception as error:
        raise CamkitError(f"can't build the data preprocessor of {source}: {reason(error)}") from error
    return Pipeline(SimpleNamespace(data_preprocessor=preprocessor), settings, source)


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Read ``--cfg-options`` as MMEngine does: ``["model.backbone.depth=18"]`` as ``{"model.backbone.depth": 18}``.

    Raises:
        UsageError: A word that isn't KEY=VALUE, or has unbalanced brackets.
    """
    for word in words:
        if not word.partition("=")[0].strip(". ") or "=" not in word:
            raise UsageError(f"--cfg-options takes KEY=VALUE, got '{word}'; for example model.backbone.depth=18")
    if not words:
        return {}
    import_framework("mmpretrain")
    from mmengine.config import DictAction

    namespace = argparse.Namespace()
    action = DictAction(["--cfg-options"], "cfg_options")
    for word in words:
        try:
            action(argparse.ArgumentParser(), namespace, [word])
        except (AssertionError, ValueError) as error:
            raise UsageError(f"can't read the value in --cfg-options '{word}': {reason(error)}") from error
    return dict(namespace.cfg_options)


def _build(settings: Any, source: str) -> nn.Module:
    """The model on the CPU, with random weights."""
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    config = copy.deepcopy(settings.model)
    config.setdefault("data_preprocessor", settings.get("data_preprocessor"))
    _disable_downloads(config)
    try:
        with quiet(), DefaultScope.overwrite_default_scope("mmpretrain"):
            model: nn.Module = MODELS.build(config)
    except ImportError as error:
        raise CamkitError(f"a package is missing for the model of {source}: {reason(error)}") from error
    except Exception as error:
        raise CamkitError(
            f"can't build the model of {source}: {type(error).__name__}: {reason(error)}{migration_advice(settings)}"
        ) from error
    return model


def _builder(settings: Any, source: str) -> Builder:
    """Builds the config's model with more settings overridden."""

    def build(options: dict[str, Any]) -> nn.Module:
        changed = copy.deepcopy(settings)
        changed.merge_from_dict(options)
        return _build(changed, source)

    return Builder(
        build,
        {},
        classes=("model.head.num_classes", "model.num_classes"),
        channels=("model.backbone.in_channels",),
        size=("model.backbone.img_size",),
    )


def _disable_downloads(config: Any) -> None:
    """Set ``pretrained=True`` to False: TimmClassifier and HuggingFaceClassifier download when they are built so."""
    if isinstance(config, dict):
        if config.get("pretrained") is True:
            config["pretrained"] = False
        for value in config.values():
            _disable_downloads(value)
    elif isinstance(config, list | tuple):
        for value in config:
            _disable_downloads(value)
