"""Read MMPretrain's configs: find the file, and in it the model, the test data set and its pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from camkit.errors import UsageError, closest, reason
from camkit.models.environment import quiet
from camkit.models.frameworks import config_forms, prefixed_name
from camkit.models.mmpretrain_packages import find_packages
from camkit.models.options import spelled

_CONFIG_FILES = {".py", ".json", ".yml", ".yaml"}
_OF_THE_PAST = "MMClassification 0.x's"
_MIGRATE = "rewrite it for MMPretrain 1.x (https://mmpretrain.readthedocs.io/en/latest/migration.html)"


def read_config(config: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Read a config.

    Args:
        config: A file, or a model name that MMPretrain knows, in any case.
        options: Settings to override, by dotted name.

    Returns:
        The config with the options merged in, and the path of its file.

    Raises:
        UsageError: No such file or name, a file that can't be read, a module of its ``custom_imports`` that can't be
            imported, options that don't fit, or no model in it.
    """
    from mmengine.config import Config

    source = _config_file(config)
    try:
        with quiet(), find_packages():
            settings = Config.fromfile(source, import_custom_modules=False)
            lazy = Config._is_lazy_import(source)
    except (Exception, SystemExit) as error:
        raise UsageError(f"can't read the config {source}: {type(error).__name__}: {reason(error)}") from error
    if not lazy:  # MMEngine leaves custom_imports alone in configs that import
        _import_modules(as_dict(settings.get("custom_imports")), source)
    try:
        settings.merge_from_dict(options)
    except Exception as error:
        raise UsageError(f"{spelled(options)} doesn't fit the config {source}: {reason(error)}") from error
    model = settings.get("model")
    if not isinstance(model, dict) or "type" not in model:
        raise UsageError(f"the config {source} has no model = dict(type=...); take the config of a whole classifier")
    return settings, source


def find_dataset(settings: Any) -> dict[str, Any]:
    """The config's test data set, else its validation set: the first one of several, out of wrappers.

    Wrappers are such as RepeatDataset, which has a ``dataset``, and ConcatDataset, which has ``datasets``.
    """
    loaders = (as_dict(settings.get(name)).get("dataset") for name in ("test_dataloader", "val_dataloader"))
    dataset = next((found for found in loaders if isinstance(found, dict)), {})
    while "pipeline" not in dataset:
        inner = dataset.get("dataset", dataset.get("datasets"))
        inner = inner[0] if isinstance(inner, list | tuple) and inner else inner
        if not isinstance(inner, dict):
            break
        dataset = inner
    return dataset


def find_pipeline(settings: Any, source: str) -> list[dict[str, Any]]:
    """The transforms that images are prepared with.

    Raises:
        UsageError: The config has none, or is one of MMClassification 0.x.
    """
    pipeline = find_dataset(settings).get("pipeline") or settings.get("test_pipeline")
    if is_outdated(settings):
        raise UsageError(
            f"the config {source} is {_OF_THE_PAST} (data = dict(test=...) in place of test_dataloader), whose test "
            f"pipeline MMPretrain can't run; {_MIGRATE}"
        )
    if not isinstance(pipeline, list | tuple) or not pipeline or not all(isinstance(step, dict) for step in pipeline):
        raise UsageError(
            f"the config {source} has no test pipeline (test_dataloader.dataset.pipeline, or val_dataloader's); images "
            "are prepared with it"
        )
    return list(pipeline)


def is_outdated(settings: Any) -> bool:
    """Whether a config is one of MMClassification 0.x: ``data = dict(...)`` and no data loader."""
    data = as_dict(settings.get("data"))
    named = {"samples_per_gpu", "workers_per_gpu", "train", "val", "test"} & data.keys()
    return bool(named) and not any(settings.get(f"{split}_dataloader") for split in ("train", "val", "test"))


def migration_advice(settings: Any) -> str:
    """What to add to the message of a model that can't be built; empty for a config of MMPretrain 1.x."""
    return f"; the config is {_OF_THE_PAST}: {_MIGRATE}" if is_outdated(settings) else ""


def as_dict(value: object) -> dict[str, Any]:
    """The value, or an empty dict where it is no dict."""
    return value if isinstance(value, dict) else {}


def _import_modules(custom_imports: dict[str, Any], source: str) -> None:
    """Import what the config's ``custom_imports`` names, as MMEngine does, and say which module fails and why."""
    from mmengine.utils import import_modules_from_strings

    imports = custom_imports.get("imports")
    names = [imports] if isinstance(imports, str) else imports or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"custom_imports in the config {source} takes imports=[MODULE, ...], got imports={imports!r}")
    for name in names:
        try:
            with quiet():
                import_modules_from_strings(name, allow_failed_imports=bool(custom_imports.get("allow_failed_imports")))
        except (Exception, SystemExit) as error:
            # MMEngine raises a new error while it handles the one that says what is missing.
            cause = error.__context__ if isinstance(error, ImportError) and error.__context__ else error
            raise UsageError(
                f"can't import {name}, which custom_imports in the config {source} names "
                f"({type(cause).__name__}: {reason(cause)}); {_import_advice(name, cause)}"
            ) from error


def _import_advice(name: str, error: BaseException) -> str:
    if name.partition(".")[0] == "mmcls":
        return f"mmcls is {_OF_THE_PAST} package: {_MIGRATE}"
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{name}.".startswith(f"{missing}."):
        return f"put the folder that holds {name.partition('.')[0]} on PYTHONPATH"
    return f"it needs {missing}, which isn't installed or on PYTHONPATH" if missing else "mend the module"


def _config_file(config: str) -> str:
    """The path of a config file, given itself or by its model's name."""
    path = Path(config).expanduser()
    if path.is_file():
        return str(path) if config.startswith("~") else config
    if path.is_dir():
        raise UsageError(f"{config} is a folder, not a config; CONFIG is {config_forms()}")
    with quiet():
        from mmpretrain.apis.model import ModelHub, list_models

        known = {name.lower(): name for name in list_models()}
    if config.lower() in known:
        return str(ModelHub._models_dict[known[config.lower()]].config)
    prefixed = prefixed_name(config)
    if prefixed and path.suffix not in _CONFIG_FILES:
        raise UsageError(f"no config file {config}; for that model write {prefixed}; CONFIG is {config_forms()}")
    hint = closest(re.split(r"[/\\]", config)[-1].removesuffix(path.suffix), known.values())
    advice = f"MMPretrain knows {len(known)} model names; CONFIG is {config_forms()}"
    if re.search(r"[/\\]", config) or path.suffix in _CONFIG_FILES:
        raise UsageError(f"no config file {config}{hint.replace('closest', 'closest model names')}; {advice}")
    raise UsageError(f"no model '{config}'{hint}; {advice}")
