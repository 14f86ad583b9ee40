"""Load transformers' image classifiers from folders, with their image processor and class names.

No other file of camkit imports transformers, and this one only when it loads a model. It never asks the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from camkit.errors import CamkitError, CheckpointError, UsageError, closest, reason
from camkit.models.checkpoint import read_checkpoint
from camkit.models.classifier import Activation, Classifier
from camkit.models.completeness import Builder, check_complete
from camkit.models.environment import find_device, import_framework, quiet
from camkit.models.loader import FloatLoader, Normalise, PillowLoader
from camkit.models.options import spelled
from camkit.models.pillow import Normalisation, measure, prepare
from camkit.models.prefixes import Fitted, is_of_other_classes, shapes_of, strip_prefix
from camkit.models.settings import Preprocessing, Reading
from camkit.models.shards import read_folder
from camkit.models.weights import LoadReport, load_report, other_class_count, refuse_class_count

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from camkit.models.checkpoint import Checkpoint
    from camkit.models.loader import Loader
    from camkit.models.prepared import Prepared

_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, eq=False)
class _Processor:
    """A folder's image processor, loaded for the first image."""

    folder: Path
    device: torch.device

    def __call__(self, path: str) -> Prepared:
        """Preprocess an image; see :meth:`camkit.models.classifier.Classifier.prepare`."""
        return prepare(path, self._transform, self._normalisation, self.device)

    def _transform(self, image: Image) -> Tensor:
        values = self._load(images=image, return_tensors="pt").get("pixel_values")
        if not isinstance(values, torch.Tensor) or values.ndim != 4 or len(values) != 1:
            raise TypeError("the image processor returns no single image in pixel_values")
        return values[0]

    def loaders(self) -> Iterator[Loader]:
        """Loaders that may give what the processor does, see :func:`camkit.models.loader.choose_loader`."""
        mean, std = (tuple(getattr(self._load, name, None) or ()) for name in ("image_mean", "image_std"))
        fused = Normalise(tuple(255 * each for each in mean), tuple(255 * each for each in std), 1.0)
        for normalise in (fused, Normalise(mean, std, 255.0)) if mean and std else ():
            yield PillowLoader(self._transform, self._colours, False, normalise, self.device)
        yield FloatLoader(self._transform, self.device)

    def describe(self) -> str:
        """The processor's settings as text."""
        return str(self._load)

    def _colours(self, image: Image) -> Tensor:
        """The transform without its last step, in 0..255."""
        found = self._load(images=image, return_tensors="pt", do_rescale=False, do_normalize=False)
        return torch.as_tensor(found["pixel_values"])[0]

    @cached_property
    def _normalisation(self) -> Normalisation:
        with quiet():
            return measure(self._transform)

    @cached_property
    def _load(self) -> Any:
        from transformers import AutoImageProcessor

        try:
            with _silent():
                return AutoImageProcessor.from_pretrained(str(self.folder), **_LOCAL)
        except Exception as error:
            if not any((self.folder / name).is_file() for name in _PROCESSORS):
                raise UsageError(
                    f"the folder {self.folder} has no preprocessor_config.json, which says how images are prepared; "
                    "copy that of the model it was trained from into it"
                ) from error
            raise CamkitError(f"can't load the image processor of {self.folder}: {reason(error)}") from error


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
    """Build a classifier of transformers; see :func:`camkit.models.load.load`.

    Args:
        name: A folder that ``save_pretrained`` wrote, with config.json and, for images, preprocessor_config.json.
        checkpoint: Path or URL; None takes the folder's own weights.
        device: Where the model goes.
        options: Settings of the config to override; ``num_classes`` is taken for ``num_labels``.
        reading: How the checkpoint is read.
        preprocessing: Refused: the folder says it.
        pretrained: False leaves the weights random where there is no checkpoint.

    Raises:
        UsageError: No such folder, no image classifier in it, or options that don't fit.
        CheckpointError: The folder holds no weights; and see ``read_checkpoint`` and ``load_into``.
        CamkitError: The device isn't available, a package is missing, or the model can't be built.
    """
    (preprocessing or Preprocessing()).refuse("set image_mean, image_std and size in preprocessor_config.json")
    reading = reading or Reading()
    place = find_device(device)
    folder = _find_folder(name)
    import_framework("transformers")
    options = dict(options or {})
    if "num_classes" in options:
        options["num_labels"] = options.pop("num_classes")
    count = options.get("num_labels", 1)
    if not isinstance(count, int) or count < 1:
        raise UsageError(f"--cfg-options num_labels={count} is no number of classes; give a whole number above 0")
    config = _config(folder, options)
    report, weights = None, None
    if checkpoint is not None:
        weights = read_checkpoint(checkpoint, trust=reading.trust, weights=reading.weights)
    elif pretrained:
        weights = read_folder(folder, reading)
    with _silent():
        if weights is None:
            model = _model_class(config, folder)(config)
        else:
            model, report = _load_model(weights, config, folder, options, reading)
    model = model.to(place).eval()
    return Classifier(
        model=model,
        classes=_classes(model.config),
        activation=_activation(model.config),
        source=f"transformers:{name}",
        checkpoint=weights.origin if weights else None,
        load_warning=report.warning if report else None,
        device=place,
        notes=report.notes if report else (),
        _prepare=_Processor(folder, place),
    )


def _find_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
            siblings = [path.name for path in folder.parent.glob("*/")] if folder.parent.is_dir() else []
            raise UsageError(
                f"no folder {name}{closest(folder.name, siblings)}; give a folder that save_pretrained wrote"
            )
        raise UsageError(
            f"no folder {name}, and camkit downloads no models; if it is one of the hub's, download it first: "
            f"hf download {name} --local-dir {folder.name}, then take transformers:{folder.name}"
        )
    if not (folder / "config.json").is_file():
        inner = sorted(str(path.parent) for path in folder.glob("*/config.json"))
        hint = f"; there is one in {', '.join(inner[:3])}" if inner else ""
        raise UsageError(f"the folder {name} has no config.json{hint}; give a folder that save_pretrained wrote")
    return folder


def _config(folder: Path, options: dict[str, Any]) -> Any:
    """The folder's config with the options set, refused where they are none of its settings."""
    from transformers import AutoConfig

    try:
        with _silent():
            plain = AutoConfig.from_pretrained(str(folder), **_LOCAL)
    except Exception as error:
        raise UsageError(f"can't read {folder / 'config.json'}: {reason(error)}") from error
    known = [*plain.to_dict(), "num_labels"]
    for key in options:
        if key not in known:
            raise UsageError(
                f"{spelled({key: options[key]})} is no setting of {folder / 'config.json'}{closest(key, known)}"
            )
    try:
        with _silent():
            return AutoConfig.from_pretrained(str(folder), **_LOCAL, **options)
    except Exception as error:
        raise UsageError(f"{spelled(options)} doesn't fit {folder / 'config.json'}: {reason(error)}") from error


def _model_class(config: Any, folder: Path) -> Any:
    """The class of the image classifier that the config describes."""
    from transformers import AutoModelForImageClassification as Auto

    try:
        found = Auto._model_mapping[type(config)]
    except KeyError:
        made = ", ".join(config.architectures or ()) or config.model_type
        raise UsageError(
            f"the folder {folder} holds {made}, and transformers has no image classifier of that kind; give the folder "
            "of a ...ForImageClassification"
        ) from None
    kinds = found if isinstance(found, tuple) else (found,)
    return next((kind for kind in kinds if kind.__name__ in (config.architectures or ())), kinds[0])


def _load_model(
    weights: Checkpoint, config: Any, folder: Path, options: dict[str, Any], reading: Reading
) -> tuple[nn.Module, LoadReport]:
    """The model with the weights, and with as many classes as these; transformers itself renames older tensors."""
    from transformers import AutoConfig

    model_class = _model_class(config, folder)

    def build(settings: dict[str, Any]) -> nn.Module:
        try:
            model: nn.Module = model_class(AutoConfig.from_pretrained(str(folder), **_LOCAL, **settings))
        except Exception as error:
            raise UsageError(f"{spelled(settings)} doesn't fit {folder / 'config.json'}: {reason(error)}") from error
        return model

    model, info, weights = _unwrapped(model_class, weights, config, folder, reading)
    shapes = {name: (tuple(theirs), tuple(ours)) for name, theirs, ours in info["mismatched_keys"]}
    count = other_class_count(model, shapes, config.num_labels)
    if count is not None:
        refuse_class_count(weights.source, options, "num_labels", count)
        options = options | {"num_labels": count}
        config = AutoConfig.from_pretrained(str(folder), **_LOCAL, **options)
        model, info = _attempt(model_class, weights.state_dict, config, weights.source, folder)
    report = load_report(
        model,
        weights,
        reading,
        missing=sorted(info["missing_keys"]),
        mismatched={name: (theirs, ours) for name, theirs, ours in sorted(info["mismatched_keys"])},
        unexpected=sorted(info["unexpected_keys"]),
    )
    builder = Builder(build, options, ("num_labels",), ("num_channels",), ("image_size",))
    check_complete(model, weights, report, reading, builder)
    return model, report


def _unwrapped(
    model_class: Any, weights: Checkpoint, config: Any, folder: Path, reading: Reading
) -> tuple[Any, dict[str, Any], Checkpoint]:
    """The model with the weights, without a prefix before their names where fewer are missing then.

    transformers knows the names of its older releases, so that trying is the only way to tell what fits.
    """
    tried: dict[tuple[str, ...], tuple[Any, dict[str, Any]]] = {}

    def fit(tensors: dict[str, Tensor]) -> Fitted:
        names = tuple(tensors)
        if names not in tried:
            tried[names] = _attempt(model_class, tensors, config, weights.source, folder)
        model, info = tried[names]
        pairs = [(theirs, ours) for _, theirs, ours in info["mismatched_keys"]]
        exact = len(model.state_dict()) - len(info["missing_keys"]) - len(pairs)
        return Fitted(exact + sum(is_of_other_classes(*pair, config.num_labels) for pair in pairs), exact)

    fit(weights.state_dict)
    model, info = tried[tuple(weights.state_dict)]
    if info["missing_keys"]:
        tensors, note = strip_prefix(
            weights.state_dict, shapes_of(model.state_dict()), weights.source, weights=reading.weights, fit=fit
        )
        weights = weights.with_tensors(tensors, note)
        model, info = tried[tuple(tensors)]
    return model, info, weights


def _attempt(
    model_class: Any, tensors: dict[str, Tensor], config: Any, source: str, folder: Path
) -> tuple[Any, dict[str, Any]]:
    """The model that transformers makes of the weights, and its account of what fitted."""
    try:
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint {source} can't be loaded into the model of {folder}: {reason(error)}"
        ) from error
    return model, info


def _classes(config: Any) -> tuple[str, ...] | None:
    """The config's class names, unless they are the LABEL_0, LABEL_1, ... that transformers fills in."""
    names = config.id2label
    if not names or set(names) != set(range(config.num_labels)):
        return None
    filled_in = all(str(name) == f"LABEL_{index}" for index, name in names.items())
    return None if filled_in else tuple(str(names[index]) for index in range(config.num_labels))


def _activation(config: Any) -> Activation:
    return "sigmoid" if config.problem_type == "multi_label_classification" else "softmax"


@contextmanager
def _silent() -> Iterator[None]:
    """``quiet``, and no progress bars of transformers."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
