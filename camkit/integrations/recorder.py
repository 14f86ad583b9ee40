"""Maps of the same images again and again while a network trains: pictures, strips over time, and how maps move."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from torch import nn

from camkit.cam import CAM, Settings
from camkit.engine.network import unwrap
from camkit.errors import CamkitError, CamkitWarning, LayerError, UsageError, closest, reason
from camkit.integrations.history import Signed, Strip, drift
from camkit.integrations.loggers import Folder, as_logger
from camkit.integrations.processes import is_first_process, refuse_sharded
from camkit.integrations.samples import Reader, Transform, collect
from camkit.integrations.views import Explainer, enlarged, page, questions
from camkit.methods import METHODS, Method, configured, find_method
from camkit.models.classifier import Activation
from camkit.models.randomness import same_randomness
from camkit.smoothing import AugSmooth, EigenSmooth
from camkit.visualize.picture import Picture

if TYPE_CHECKING:
    from typing_extensions import Self

_LOG = logging.getLogger("camkit")


@dataclass(frozen=True, eq=False)
class Record:
    """What one step of a :class:`Recorder` showed.

    Attributes:
        step: when.
        pictures: an image's name to its picture, RGB: the image, and its maps beside it.
        drift: ``{method}_{target}`` to how far its maps moved since the last record, see
            :func:`camkit.integrations.history.drift`: the mean over the images; none in the first record.
    """

    step: int
    pictures: Mapping[str, Picture]
    drift: Mapping[str, float]


class Recorder:
    """Explains a fixed set of images whenever it is asked to, while the network trains.

    The training stays what it is without it, bit for bit: the network itself is explained, without wrappers and their
    communication; no ``.grad``, buffer, hook, flag or random state is touched. Images are read once, and all is tried
    out once, at the beginning: what can't work is an error then. Later on an error is one warning, counted in
    ``failures``, and never ends the training.

    With torch.distributed all processes try things out, so that an error stops all of them, and the first one alone
    explains and writes afterwards. Nobody waits for anybody.

    Args:
        model: see :class:`camkit.CAM`; wrappers such as DistributedDataParallel are taken off.
        images: what to explain: normalised images (N, C, H, W); paths; a data set, or a data loader, whose items are
            (image, label), or dicts with ``pixel_values`` and ``labels`` or the like.
        methods: names from :data:`camkit.METHODS`, or ``METHODS[name].configured(...)``.
        target_layers: see :class:`camkit.CAM`. Default layers are chosen once and kept.
        targets: ``"label"``, ``"predicted"``, ``"both"``; or classes, by index or name, or score functions. None for
            the label where all images have one, else for the predicted class.
        num_images: how many images of a data set, from the first.
        per_class: in place of that, how many of each class, from the first.
        labels: the class indices of images that are no data set's.
        transform: from a PIL image to the network's input, for paths, and data sets of PIL images.
        mean: what the images were normalised with, per channel of values in [0, 1], for the pictures. Without, values
            are drawn between percentiles.
        std: as ``mean``.
        class_names: by index.
        activation: ``"softmax"`` or ``"sigmoid"``, for the probabilities in captions.
        logger: TensorBoard's SummaryWriter, a run of Weights & Biases, or an object with ``add_image(name, image,
            step)`` and ``add_scalar(name, value, step)``.
        folder: for files ``{name}_{step}.png``, ``{name}_{method}_{target}_strip.png`` and ``curves.csv``.
        strip: how many maps a strip over time shows at most, evenly spread; 0 for no strips.
        unit: what steps count, for captions: ``"step"`` or ``"epoch"``.
        name: put in front of the names of pictures and curves, which tells several Recorders of one run apart.
        chunk_size: how many images run through the network at a time, at most.
        eigen_smooth: see :class:`camkit.EigenSmooth`.
        aug_smooth: see :class:`camkit.AugSmooth`.
        **options: of :class:`camkit.CAM` (``output``, ``image_argument``, ...), and of the methods.

    Attributes:
        failures: how many records failed.
        records: how many didn't.

    Raises:
        UsageError: arguments that name nothing that exists, no images, classes that aren't there, a logger that takes
            no pictures, or neither logger nor folder; a model whose weights are spread over processes.
        CamkitError: images that are missing or unreadable, a folder that can't be written to, and what
            :class:`camkit.CAM` raises.

    Warns:
        CamkitWarning: no default layer is live yet, as where the head begins with zeros: it is chosen later.

    Example:
        >>> recorder = Recorder(model, images, targets=[3], folder=folder)
        >>> recorder.step(1).pictures["image0"].shape
        (194, 360, 3)
    """

    def __init__(
        self,
        model: nn.Module,
        images: Any,
        *,
        methods: str | Method | Sequence[str | Method] = "GradCAM",
        target_layers: Any = None,
        targets: Any = None,
        num_images: int = 8,
        per_class: int | None = None,
        labels: Sequence[int] | None = None,
        transform: Transform | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        activation: Activation = "softmax",
        logger: Any = None,
        folder: str | Path | None = None,
        strip: int = 12,
        unit: str = "step",
        name: str = "",
        chunk_size: int = 16,
        eigen_smooth: bool = False,
        aug_smooth: bool = False,
        **options: Any,
    ) -> None:
        check_options(options)
        for option, count, least in (("strip", strip, 2), ("chunk_size", chunk_size, 1)):
            if not isinstance(count, int) or (count < least and not (option == "strip" and count == 0)):
                raise UsageError(f"{option} is a number of images, at least {least}; got {count!r}")
        if not re.fullmatch(r"[\w.+-]*", str(name)):
            raise UsageError(f"name is part of files' names: letters, digits and . _ + - alone; got {name!r}")
        if activation not in get_args(Activation):
            raise UsageError(f"activation is {' or '.join(map(repr, get_args(Activation)))}; got {activation!r}")
        if logger is None and folder is None:
            raise UsageError("maps have nowhere to go: give logger= or folder=")
        self.failures = 0
        self.records = 0
        self._unit = unit
        self._prefix = f"{name}_" if name else ""
        self._most = strip
        self._strips: dict[tuple[str, str], Strip] = {}
        self._strips_logged = True
        self._before: dict[tuple[str, str], Signed] = {}
        self._step = 0
        refuse_sharded(unwrap(model))
        settings = {each: options.pop(each) for each in list(options) if each in Settings.__annotations__}
        listed = [methods] if isinstance(methods, str | Method) else list(methods)
        wanted = configured([find_method(each) for each in listed], options)
        if len({method.name for method in wanted}) < max(len(wanted), 1):
            raise UsageError(f"name every method once, at least one; got {', '.join(each.name for each in wanted)}")
        cam: CAM = CAM(model, wanted[0], target_layers, **settings)
        cam = AugSmooth(EigenSmooth(cam, enabled=eigen_smooth), enabled=aug_smooth)
        with same_randomness():
            samples = collect(
                images, Reader(transform, mean, std), num_images=num_images, per_class=per_class, labels=labels
            )
        self._explainer: Explainer | None = Explainer(
            cam,
            wanted,
            questions(targets, samples, class_names),
            samples,
            chunk_size=chunk_size,
            class_names=class_names,
            activation=activation,
        )
        self._try_out(self._explainer, has_named_layers=target_layers is not None)
        self._logger = None if logger is None else as_logger(logger)
        self._folder = None
        if is_first_process():
            self._folder = None if folder is None else Folder(folder)
        else:
            self._explainer = None

    def step(self, step: int) -> Record | None:
        """Explain the images as the network sees them now, and write what comes of it.

        Args:
            step: how far the training is; the number in files' names and the place on curves.

        Returns:
            What was written; None after a failure, in processes other than the first, and after :meth:`finish`.

        Warns:
            CamkitWarning: it failed, the first time.
        """
        if self._explainer is None:
            return None
        self._step = step
        try:
            with same_randomness():
                record = self._record(self._explainer, step)
                self._write(record)
        except Exception as error:  # noqa: BLE001 (whatever it is, the training goes on)
            self._failed(error, step)
            return None
        self.records += 1
        return record

    def finish(self) -> None:
        """Hand the strips to the logger, tell of failures, and let go of the model and the images."""
        if self._explainer is None:
            return
        self._explainer = None
        self._before.clear()
        try:
            self._log_strips()
        except Exception as error:  # noqa: BLE001
            self._failed(error, self._step)
        self._strips.clear()
        if self.failures:
            _LOG.warning("camkit: %d of %d records failed", self.failures, self.failures + self.records)

    def __enter__(self) -> Self:
        """See :meth:`__exit__`."""
        return self

    def __exit__(self, *error: object) -> None:
        """See :meth:`finish`."""
        self.finish()

    def __repr__(self) -> str:
        return f"Recorder({self.records} records, {self.failures} failures)"

    def _try_out(self, explainer: Explainer, *, has_named_layers: bool) -> None:
        """Explain once, and tell of what is doubtful.

        Raises:
            CamkitError: it can't be done.
        """
        told: dict[str, type[CamkitWarning]] = {}
        try:
            with same_randomness():
                for _, _, found in explainer.explain():
                    told |= {line: kind for explanation in found for kind, line in explanation.doubts()}
        except LayerError as error:
            if has_named_layers:
                raise
            # A head may begin with zeros, behind which nothing is live before the first step.
            told[f"no maps yet: {error}; training goes on, and each record tries again"] = CamkitWarning
        for line, kind in told.items():
            warnings.warn(line, kind, stacklevel=3)

    def _record(self, explainer: Explainer, step: int) -> Record:
        pictures: dict[str, Picture] = {}
        moved: dict[str, list[float]] = {}
        for sample, views in zip(explainer.samples, explainer.views(), strict=True):
            pictures[sample.name] = page(sample.name, enlarged(sample.picture)[0], views)
            for view in (each for each in views if each.is_new):
                key = sample.name, view.key
                found = drift(self._before[key], view.signed) if key in self._before else None
                self._before[key] = view.signed
                if found is not None:
                    moved.setdefault(view.key, []).append(found)
                if self._most:
                    heading = f"{sample.name}: {view.method} {view.target}"
                    strip = self._strips.setdefault(key, Strip(heading, self._unit, self._most))
                    strip.add(step, view.caption, view.picture)
        return Record(step, pictures, {key: sum(each) / len(each) for key, each in moved.items()})

    def _write(self, record: Record) -> None:
        pictures = {f"{self._prefix}{name}": picture for name, picture in record.pictures.items()}
        curves = {f"{self._prefix}drift_{key}": value for key, value in record.drift.items()}
        self._strips_logged = False
        try:
            if self._folder is not None:
                self._folder.add_images(pictures, record.step)
                if curves:
                    self._folder.add_scalars(curves, record.step)
                self._folder.replace_images(self._drawn_strips())
        finally:  # what a full disk doesn't take, the logger may
            self._log(pictures, curves, record.step)

    def _log(self, pictures: Mapping[str, Picture], curves: Mapping[str, float], step: int) -> None:
        if self._logger is not None:
            for name, picture in pictures.items():
                self._logger.add_image(name, picture, step)
            for name, value in curves.items():
                self._logger.add_scalar(name, value, step)
        count = self.records + 1
        if count > 1 and count & (count - 1) == 0:  # all strips of a run together stay small
            self._log_strips()

    def _log_strips(self) -> None:
        if self._logger is not None and not self._strips_logged:
            for name, picture in self._drawn_strips().items():
                self._logger.add_image(name, picture, self._step)
        self._strips_logged = True

    def _drawn_strips(self) -> dict[str, Picture]:
        drawn = {names: strip.drawn() for names, strip in self._strips.items() if len(strip) > 1}
        return {f"{self._prefix}{name}_{key}_strip": picture for (name, key), picture in drawn.items()}

    def _failed(self, error: Exception, step: int) -> None:
        self.failures += 1
        if self.failures == 1:
            kind = "" if isinstance(error, CamkitError) else f"{type(error).__name__}: "
            line = (
                f"no maps of {self._unit} {step}: {kind}{reason(error)}; training goes on, and further failures are "
                "counted"
            )
            try:
                warnings.warn(line, CamkitWarning, stacklevel=3)
            except CamkitWarning:  # a program that makes errors of warnings trains on, too
                _LOG.warning("camkit: %s", line)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that neither a :class:`Recorder`, a CAM nor any method has.

    Raises:
        UsageError: the closest names are in the message.
    """
    known = {*signature(Recorder.__init__).parameters, *Settings.__annotations__} - {"self", "model", "options"}
    known |= {name for method in METHODS.values() for name in method.options}
    for name in options:
        if name not in known:
            raise UsageError(f"a Recorder has no argument, and no method an option, {name!r}{closest(name, known)}")
