"""MMPretrain: config, checkpoint and image in; model, input tensor and class names out.

The only file that imports MMPretrain, MMEngine or MMCV, and only inside functions: that takes seconds.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from camkit.adapters.classifier import Activation, Classifier
from camkit.adapters.framework import find_device, import_packages, quiet
from camkit.adapters.pipeline import Step, flip_channels, load_image, run_steps, same_randomness
from camkit.adapters.prepared import Prepared, as_bgr, as_uint8, check_file
from camkit.checkpoint import load_into, read_checkpoint
from camkit.errors import CamkitError, UsageError, closest, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

_CONFIG_FILES = {".py", ".json", ".yml", ".yaml"}


@dataclass(frozen=True, eq=False)
class _TestPipeline:
    """A config's own test pipeline and data preprocessor, built when the first image comes."""

    model: nn.Module
    config: Any
    source: str

    def __call__(self, path: str) -> Prepared:
        """Take an image through; see :meth:`camkit.adapters.classifier.Classifier.prepare`."""
        steps = self._steps
        if "://" not in path:  # MMEngine's file backends fetch it
            check_file(path)
        with same_randomness():
            results, rest = load_image(steps, path)
            loaded = results.pop("img")
            packed, picture = run_steps(rest, results | {"img": loaded.copy()}, path)

        def transform(probe: NDArray[Any]) -> NDArray[Any]:
            probe = probe[..., : loaded.shape[2]] if loaded.ndim == 3 else probe[..., 0]
            with same_randomness():
                return run_steps(rest, results | {"img": probe.astype(loaded.dtype)}, path)[1]

        from mmengine.dataset import default_collate

        model: Any = self.model
        inputs = model.data_preprocessor(default_collate([packed]), False)["inputs"]
        return Prepared(inputs, as_bgr(picture), as_bgr(as_uint8(loaded)), transform)

    @cached_property
    def _steps(self) -> list[Step]:
        from mmengine.registry import DefaultScope
        from mmpretrain.registry import TRANSFORMS

        configs = _test_pipeline(self.config, self.source)
        exchange = False
        if not any("Load" in str(config.get("type")) for config in configs):
            # Data sets such as CIFAR hand over arrays, in RGB order or grey, where other pipelines load BGR files.
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
    config: str,
    checkpoint: str | None,
    *,
    device: str = "cpu",
    cfg_options: dict[str, Any] | None = None,
    trust_checkpoint: bool = False,
) -> Classifier:
    """Build a classifier from a config file or a model name that MMPretrain knows (any case).

    Without a checkpoint the weights are random; a config's own ``pretrained`` weights are never fetched.

    Raises:
        UsageError: No such config or model name; a config that can't be read or holds no model; bad options.
        CheckpointError: See :func:`camkit.checkpoint.read_checkpoint` and ``load_into``.
        CamkitError: The device isn't available, a package is missing, or the model can't be built.
    """
    place = find_device(device)
    import_packages("mmpretrain", "mmengine", "mmcv", "mmpretrain")
    settings, source = _read_config(config, cfg_options or {})
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


def parse_cfg_options(options: Sequence[str]) -> dict[str, Any]:
    """``["model.backbone.depth=18", "a.b=[1,2]"]`` as MMEngine reads it: ``{"model.backbone.depth": 18, ...}``.

    Raises:
        UsageError: An option that isn't KEY=VALUE, or has unbalanced brackets.
    """
    for option in options:
        if not option.partition("=")[0].strip(". ") or "=" not in option:
            raise UsageError(f"--cfg-options takes KEY=VALUE, got '{option}'; for example model.backbone.depth=18")
    import_packages("mmpretrain", "mmengine")
    from mmengine.config import DictAction

    namespace = argparse.Namespace()
    action = DictAction(["--cfg-options"], "cfg_options")
    for option in options:
        try:
            action(argparse.ArgumentParser(), namespace, [option])
        except (AssertionError, ValueError) as error:
            raise UsageError(f"can't read the value in --cfg-options '{option}': {reason(error)}") from error
    return dict(getattr(namespace, "cfg_options", {}))


def _read_config(config: str, options: dict[str, Any]) -> tuple[Any, str]:
    """The config with the options merged in, and its file."""
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
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise UsageError(f"--cfg-options {given} doesn't fit the config {source}: {reason(error)}") from error
    model = settings.get("model")
    if not isinstance(model, dict) or "type" not in model:
        raise UsageError(f"the config {source} has no model = dict(type=...); take the config of a whole classifier")
    return settings, source


def _config_file(config: str) -> str:
    if Path(config).is_file():
        return config
    with quiet():
        from mmpretrain.apis.model import ModelHub, list_models

        known = {name.lower(): name for name in list_models()}
    if config.lower() in known:
        return str(ModelHub._models_dict[known[config.lower()]].config)
    hint = closest(Path(config).stem, known.values())
    advice = (
        f"CONFIG is a file, one of the {len(known)} model names that MMPretrain knows, timm:NAME, torchvision:NAME or "
        "transformers:FOLDER"
    )
    if "/" in config or Path(config).suffix in _CONFIG_FILES:
        raise UsageError(f"no config file {config}{hint.replace('closest', 'closest model names')}; {advice}")
    raise UsageError(f"no model '{config}'{hint}; {advice}")


def _build(settings: Any, source: str) -> nn.Module:
    """The model on the CPU, with the weights that its constructor gives it."""
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    config = copy.deepcopy(settings.model)
    config.setdefault("data_preprocessor", settings.get("data_preprocessor"))
    _forgo_pretrained(config)
    try:
        with quiet(), DefaultScope.overwrite_default_scope("mmpretrain"):
            model: nn.Module = MODELS.build(config)
    except ImportError as error:
        raise CamkitError(f"a package is missing for the model of {source}: {reason(error)}") from error
    except Exception as error:
        raise CamkitError(f"can't build the model of {source}: {type(error).__name__}: {reason(error)}") from error
    return model


def _forgo_pretrained(config: Any) -> None:
    """Timm's and Hugging Face's wrappers download in their constructors where ``pretrained`` is true."""
    if isinstance(config, dict):
        if config.get("pretrained") is True:
            config["pretrained"] = False
        for value in config.values():
            _forgo_pretrained(value)
    elif isinstance(config, list | tuple):
        for value in config:
            _forgo_pretrained(value)


def _classes(settings: Any, meta: dict[str, Any], model: nn.Module) -> tuple[str, ...] | None:
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import DATASETS

    dataset = _test_dataset(settings)
    with quiet(), DefaultScope.overwrite_default_scope("mmpretrain"):
        kind = dataset.get("type")
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    told = (
        _dict(meta.get("dataset_meta")).get("classes"),  # MMPretrain 1.x
        meta.get("CLASSES"),  # its predecessor MMClassification 0.x
        _dict(dataset.get("metainfo")).get("classes"),
        dataset.get("classes"),
        _dict(getattr(kind, "METAINFO", None)).get("classes"),
    )
    names = next((names for names in told if isinstance(names, list | tuple) and names), None)
    if names is None or _category_count(model) not in (None, len(names)):
        return None
    return tuple(str(name) for name in names)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _category_count(model: nn.Module) -> int | None:
    for owner in (getattr(model, "head", None), model, getattr(model, "model", None)):
        count = getattr(owner, "num_classes", None)
        if isinstance(count, int) and count > 0:
            return count
    return None


def _output(model: nn.Module) -> Callable[[Any], Any] | None:
    from mmpretrain.models.heads import ConformerHead

    return sum_of_branches if isinstance(getattr(model, "head", None), ConformerHead) else None


def sum_of_branches(logits: tuple[Tensor, Tensor]) -> Tensor:
    """What Conformer predicts from: the logits of its convolutional and its transformer branch together."""
    return logits[0] + logits[1]


def _activation(model: nn.Module) -> Activation:
    from mmpretrain.models.heads import MultiLabelClsHead

    return "sigmoid" if isinstance(getattr(model, "head", None), MultiLabelClsHead) else "softmax"


def _test_dataset(settings: Any) -> dict[str, Any]:
    """The innermost test data set: wrappers such as RepeatDataset hold one under the same key."""
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
