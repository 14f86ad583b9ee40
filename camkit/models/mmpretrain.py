"""Load MMPretrain's models from configs, with their test pipeline and class names.

No other file of camkit imports MMPretrain, MMEngine or MMCV, and this one only when it loads a model: importing them
takes seconds.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from camkit.errors import CamkitError, UsageError, closest, reason
from camkit.models.checkpoint import read_checkpoint
from camkit.models.classifier import Activation, Classifier
from camkit.models.environment import find_device, import_framework, quiet
from camkit.models.frameworks import config_forms, prefixed_forms
from camkit.models.mmpretrain_pipeline import Step, flip_channels, load_image, run_steps, same_randomness
from camkit.models.options import spelled
from camkit.models.prepared import Prepared, check_file
from camkit.models.weights import load_into

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

_CONFIG_FILES = {".py", ".json", ".yml", ".yaml"}


@dataclass(frozen=True, eq=False)
class _TestPipeline:
    """A config's test pipeline and data preprocessor, built for the first image."""

    model: nn.Module
    config: Any
    source: str

    def __call__(self, path: str) -> Prepared:
        """Preprocess an image; see :meth:`camkit.models.classifier.Classifier.prepare`."""
        steps = self._steps
        if "://" not in path:  # a URL is fetched by MMEngine's file backends
            check_file(path)
        with same_randomness():
            results, rest = load_image(steps, path)
            loaded = results.pop("img")
            packed, picture = run_steps(rest, results | {"img": loaded.copy()}, path)  # a step may draw on it

        def picture_of(image: NDArray[Any]) -> NDArray[Any]:
            image = image[..., 0] if loaded.ndim == 2 else image[..., :1].repeat(loaded.shape[2], axis=2)
            with same_randomness():
                return run_steps(rest, results | {"img": image.astype(loaded.dtype)}, path)[1]

        from mmengine.dataset import default_collate

        model: Any = self.model
        try:
            inputs = model.data_preprocessor(default_collate([packed]), False)["inputs"]
        except Exception as error:
            raise CamkitError(f"the config's data preprocessor fails on {path}: {reason(error)}") from error
        return Prepared(inputs, picture, loaded, picture_of, bgr=True)

    @cached_property
    def _steps(self) -> list[Step]:
        from mmengine.registry import DefaultScope
        from mmpretrain.registry import TRANSFORMS

        configs = _test_pipeline(self.config, self.source)
        exchange = False
        if not any("Load" in str(config.get("type")) for config in configs):
            # Data sets such as CIFAR provide arrays, RGB or grey, where other pipelines load files as BGR.
            preprocessor: Any = getattr(self.model, "data_preprocessor", None)
            grey = getattr(preprocessor, "mean", torch.zeros(3)).numel() == 1
            exchange = not grey and not getattr(preprocessor, "to_rgb", False)
            configs = [{"type": "LoadImageFromFile", "color_type": "grayscale" if grey else "color"}, *configs]
        try:
            with quiet(), DefaultScope.overwrite_default_scope("mmpretrain"):
                steps = [TRANSFORMS.build(config) for config in configs]
        except Exception as error:
            raise CamkitError(f"can't build the test pipeline of {self.source}: {reason(error)}") from error
        if exchange:
            steps.insert(-1, flip_channels)  # before PackInputs
        return steps


def load(
    name: str,
    checkpoint: str | None,
    *,
    device: str = "cpu",
    options: dict[str, Any] | None = None,
    trust_checkpoint: bool = False,
    pretrained: bool = True,
) -> Classifier:
    """Build a classifier of MMPretrain; see :func:`camkit.models.load.load`.

    The ``pretrained`` weights that a config may name are never fetched.

    Args:
        name: A config file, or a model name that MMPretrain knows, in any case.
        checkpoint: Path or URL; MMPretrain has no weights of its own to take for None.
        device: Where the model goes.
        options: Settings of the config to override, by dotted name, as :func:`parse_options` reads them.
        trust_checkpoint: See :func:`camkit.models.checkpoint.read_checkpoint`.
        pretrained: False leaves the weights random where there is no checkpoint.

    Raises:
        UsageError: No checkpoint where one is needed; no such config or model name; a config that can't be read or
            holds no model; bad options.
        CheckpointError: See ``read_checkpoint`` and ``load_into``.
        CamkitError: The device isn't available, a package is missing, or the model can't be built.
    """
    if checkpoint is None and pretrained:
        raise UsageError(
            f"an MMPretrain config needs a CHECKPOINT: give its path or URL behind {name} (models that bring weights "
            f"are {prefixed_forms()})"
        )
    place = find_device(device)
    import_framework("mmpretrain")
    settings, source = _read_config(name, options or {})
    weights = None if checkpoint is None else read_checkpoint(checkpoint, trust=trust_checkpoint)
    model = _build(settings, source)
    report = None
    if weights is not None:
        with quiet():
            report = load_into(model, weights)
    model = model.to(place).eval()
    return Classifier(
        model=model,
        classes=_classes(settings, weights.meta if weights else {}, model),
        activation=_activation(model),
        source=source,
        checkpoint=weights.origin if weights else None,
        load_warning=report.warning if report else None,
        device=place,
        _prepare=_TestPipeline(model, settings, source),
        output=_output(model),
    )


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


def _read_config(config: str, options: dict[str, Any]) -> tuple[Any, str]:
    """The config with the options merged in, and the path of its file."""
    from mmengine.config import Config

    source = _config_file(config)
    try:
        with quiet():
            settings = Config.fromfile(source)
    except (Exception, SystemExit) as error:
        raise UsageError(f"can't read the config {source}: {type(error).__name__}: {reason(error)}") from error
    try:
        settings.merge_from_dict(options)
    except Exception as error:
        raise UsageError(f"{spelled(options)} doesn't fit the config {source}: {reason(error)}") from error
    model = settings.get("model")
    if not isinstance(model, dict) or "type" not in model:
        raise UsageError(f"the config {source} has no model = dict(type=...); take the config of a whole classifier")
    return settings, source


def _config_file(config: str) -> str:
    """The path of a config file, given itself or by its model's name."""
    if Path(config).is_file():
        return config
    with quiet():
        from mmpretrain.apis.model import ModelHub, list_models

        known = {name.lower(): name for name in list_models()}
    if config.lower() in known:
        return str(ModelHub._models_dict[known[config.lower()]].config)
    hint = closest(Path(config).stem, known.values())
    advice = f"MMPretrain knows {len(known)} model names; CONFIG is {config_forms()}"
    if "/" in config or Path(config).suffix in _CONFIG_FILES:
        raise UsageError(f"no config file {config}{hint.replace('closest', 'closest model names')}; {advice}")
    raise UsageError(f"no model '{config}'{hint}; {advice}")


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
        raise CamkitError(f"can't build the model of {source}: {type(error).__name__}: {reason(error)}") from error
    return model


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


def _classes(settings: Any, meta: dict[str, Any], model: nn.Module) -> tuple[str, ...] | None:
    """The class names of the checkpoint, else of the config's data set, if they are as many as the model's classes."""
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import DATASETS

    dataset = _test_dataset(settings)
    with quiet(), DefaultScope.overwrite_default_scope("mmpretrain"):
        kind = dataset.get("type")
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    candidates = (
        _dict(meta.get("dataset_meta")).get("classes"),  # MMPretrain 1.x
        meta.get("CLASSES"),  # its predecessor MMClassification 0.x
        _dict(dataset.get("metainfo")).get("classes"),
        dataset.get("classes"),
        _dict(getattr(kind, "METAINFO", None)).get("classes"),
    )
    names = next((names for names in candidates if isinstance(names, list | tuple) and names), None)
    if names is None or _class_count(model) not in (None, len(names)):
        return None
    return tuple(str(name) for name in names)


def _dict(value: object) -> dict[str, Any]:
    """The value, or an empty dict where it is no dict."""
    return value if isinstance(value, dict) else {}


def _class_count(model: nn.Module) -> int | None:
    """The number of classes that the head, the model or the model it wraps declares."""
    for owner in (getattr(model, "head", None), model, getattr(model, "model", None)):
        count = getattr(owner, "num_classes", None)
        if isinstance(count, int) and count > 0:
            return count
    return None


def _output(model: nn.Module) -> Callable[[Any], Any] | None:
    """See ``Classifier.output``."""
    from mmpretrain.models.heads import ConformerHead

    return sum_of_branches if isinstance(getattr(model, "head", None), ConformerHead) else None


def sum_of_branches(logits: tuple[Tensor, Tensor]) -> Tensor:
    """Conformer's logits for prediction: those of its convolutional plus those of its transformer branch."""
    return logits[0] + logits[1]


def _activation(model: nn.Module) -> Activation:
    from mmpretrain.models.heads import MultiLabelClsHead

    return "sigmoid" if isinstance(getattr(model, "head", None), MultiLabelClsHead) else "softmax"


def _test_dataset(settings: Any) -> dict[str, Any]:
    """The config's test data set, out of wrappers such as RepeatDataset."""
    dataset = _dict(_dict(settings.get("test_dataloader")).get("dataset"))
    while "pipeline" not in dataset and isinstance(dataset.get("dataset"), dict):
        dataset = dataset["dataset"]
    return dataset


def _test_pipeline(settings: Any, source: str) -> list[dict[str, Any]]:
    pipeline = _test_dataset(settings).get("pipeline") or settings.get("test_pipeline")
    if not isinstance(pipeline, list | tuple) or not all(isinstance(step, dict) for step in pipeline):
        raise UsageError(
            f"the config {source} has no test pipeline (test_dataloader.dataset.pipeline); images are prepared with it"
        )
    return list(pipeline)
