"""transformers: the folder of an image classifier in; model, its own image processor and class names out.

The only file that imports transformers, and only inside functions. A folder never needs the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from camkit.adapters.classifier import Activation, Classifier
from camkit.adapters.fitting import other_count, refuse_count
from camkit.adapters.framework import find_device, import_packages, quiet, spelled
from camkit.adapters.photo import Normalisation, measure, prepare
from camkit.checkpoint import Checkpoint, LoadReport, hash_files, judge, read_checkpoint
from camkit.errors import CamkitError, CheckpointError, UsageError, closest, reason

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from camkit.adapters.prepared import Prepared

_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_WEIGHTS = (  # in the order in which transformers takes them
    "model.safetensors",
    "model-*-of-*.safetensors",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
)


@dataclass(frozen=True, eq=False)
class _Processor:
    """A folder's image processor, loaded when the first image comes."""

    folder: Path
    device: torch.device

    def __call__(self, path: str) -> Prepared:
        """Take an image through; see :meth:`camkit.adapters.classifier.Classifier.prepare`."""
        return prepare(path, self._transform, self._normalisation, self.device)

    def _transform(self, image: Image) -> Tensor:
        values = self._load(images=image, return_tensors="pt").get("pixel_values")
        if not isinstance(values, torch.Tensor) or values.ndim != 4 or len(values) != 1:
            raise TypeError("the image processor makes no single image of it")
        return values[0]

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
    folder: str,
    checkpoint: str | None,
    *,
    device: str = "cpu",
    options: dict[str, Any] | None = None,
    trust_checkpoint: bool = False,
    pretrained: bool = True,
) -> Classifier:
    """Build a classifier from a folder as ``save_pretrained`` writes it.

    Args:
        folder: with config.json and, for images, preprocessor_config.json.
        checkpoint: file or URL; None takes the folder's own weights.
        device: where the model goes.
        options: settings of the config to override; ``num_classes`` is taken for ``num_labels``.
        trust_checkpoint: see :func:`camkit.checkpoint.read_checkpoint`.
        pretrained: False leaves the weights random where there is no checkpoint: for the structure alone.

    Raises:
        UsageError: No such folder, no image classifier in it, or options that don't fit.
        CheckpointError: The folder holds no weights; and see ``read_checkpoint`` and ``load_into``.
        CamkitError: The device isn't available, a package is missing, or the model can't be built.
    """
    place = find_device(device)
    home = _home(folder)
    import_packages("transformers", "safetensors", "transformers")
    options = dict(options or {})
    if "num_classes" in options:
        options["num_labels"] = options.pop("num_classes")
    count = options.get("num_labels", 1)
    if not isinstance(count, int) or count < 1:
        raise UsageError(f"--cfg-options num_labels={count} is no number of classes")
    config = _config(home, options)
    report, weights = None, None
    if checkpoint is not None:
        weights = read_checkpoint(checkpoint, trust=trust_checkpoint)
    elif pretrained:
        weights = _own_weights(home, trust=trust_checkpoint)
    with _silent():
        if weights is None:
            model = _class(config, home)(config)
        else:
            model, report = _loaded(weights, config, home, options)
    model = model.to(place).eval()
    return Classifier(
        model=model,
        classes=_classes(model.config),
        activation=_activation(model.config),
        source=f"transformers:{folder}",
        checkpoint=weights.origin if weights else None,
        load_warning=report.warning if report else None,
        device=place,
        _prepare=_Processor(home, place),
    )


def _home(folder: str) -> Path:
    home = Path(folder).expanduser()
    if not home.is_dir():
        if home.exists() or folder.startswith(("/", ".", "~")) or folder.count("/") > 1:
            siblings = [path.name for path in home.parent.glob("*/")] if home.parent.is_dir() else []
            raise UsageError(
                f"no folder {folder}{closest(home.name, siblings)}; FOLDER is one that save_pretrained wrote"
            )
        raise UsageError(
            f"no folder {folder}, and camkit downloads no models; if it is one of the hub's, download it first: "
            f"hf download {folder} --local-dir {home.name}, then take transformers:{home.name}"
        )
    if not (home / "config.json").is_file():
        inner = sorted(str(path.parent) for path in home.glob("*/config.json"))
        hint = f"; there is one in {', '.join(inner[:3])}" if inner else ""
        raise UsageError(f"the folder {folder} has no config.json{hint}; give a folder that save_pretrained wrote")
    return home


def _config(home: Path, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        with _silent():
            plain = AutoConfig.from_pretrained(str(home), **_LOCAL)
    except Exception as error:
        raise UsageError(f"can't read {home / 'config.json'}: {reason(error)}") from error
    known = [*plain.to_dict(), "num_labels"]
    for key in options:
        if key not in known:
            raise UsageError(
                f"{spelled({key: options[key]})} is no setting of {home / 'config.json'}{closest(key, known)}"
            )
    try:
        with _silent():
            return AutoConfig.from_pretrained(str(home), **_LOCAL, **options)
    except Exception as error:
        raise UsageError(f"{spelled(options)} doesn't fit {home / 'config.json'}: {reason(error)}") from error


def _class(config: Any, home: Path) -> Any:
    """The class of the image classifier that the config is of."""
    from transformers import AutoModelForImageClassification as Auto

    try:
        found = Auto._model_mapping[type(config)]
    except KeyError:
        made = ", ".join(config.architectures or ()) or config.model_type
        raise UsageError(
            f"transformers has no image classifier of the kind of {home}: it holds {made}; take a folder of a "
            "...ForImageClassification"
        ) from None
    kinds = found if isinstance(found, tuple) else (found,)
    return next((kind for kind in kinds if kind.__name__ in (config.architectures or ())), kinds[0])


def _own_weights(home: Path, *, trust: bool) -> Checkpoint:
    """The weights in the folder, of one file or of several shards, in one."""
    files = next((found for found in (sorted(home.glob(pattern)) for pattern in _WEIGHTS) if found), [])
    if not files:
        raise CheckpointError(
            f"the folder {home} holds no weights (model.safetensors); give CHECKPOINT, a file with them"
        )
    parts = [read_checkpoint(str(file), trust=trust) for file in files]
    if len(parts) == 1:
        return parts[0]
    tensors = {name: tensor for part in parts for name, tensor in part.state_dict.items()}
    return Checkpoint(tensors, {}, str(home), hash_files(*files))


def _loaded(weights: Checkpoint, config: Any, home: Path, options: dict[str, Any]) -> tuple[nn.Module, LoadReport]:
    """The model, with as many classes as the weights have; transformers knows older names of the tensors."""
    from transformers import AutoConfig

    kind = _class(config, home)

    def attempt(config: Any) -> tuple[Any, dict[str, Any]]:
        try:
            model, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(weights.state_dict),
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint {weights.source} can't be loaded into the model of {home}: {reason(error)}"
            ) from error
        return model, info

    model, info = attempt(config)
    shapes = ((tuple(theirs), tuple(ours)) for _, theirs, ours in info["mismatched_keys"])
    count = other_count(shapes, config.num_labels)
    if count is not None:
        refuse_count(weights.source, options, "num_labels", count)
        model, info = attempt(AutoConfig.from_pretrained(str(home), **_LOCAL, **options, num_labels=count))
    mismatched = sorted(name for name, *_ in info["mismatched_keys"])
    if options and mismatched:
        raise UsageError(
            f"{spelled(options)} doesn't fit the weights {weights.source}: {len(mismatched)} tensors have another shape"
            f" ({mismatched[0]}, ...); leave it out"
        )
    report = judge(model, weights, sorted(info["missing_keys"]), mismatched, sorted(info["unexpected_keys"]))
    return model, report


def _classes(config: Any) -> tuple[str, ...] | None:
    """The config's names, unless transformers made them up."""
    names = config.id2label
    if not names or set(names) != set(range(config.num_labels)):
        return None
    made_up = all(str(name) == f"LABEL_{index}" for index, name in names.items())
    return None if made_up else tuple(str(names[index]) for index in range(config.num_labels))


def _activation(config: Any) -> Activation:
    return "sigmoid" if config.problem_type == "multi_label_classification" else "softmax"


@contextmanager
def _silent() -> Iterator[None]:
    """No progress bars either."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
