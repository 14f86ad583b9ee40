"""Compute metrics of maps: the images that they ask for run together, in batches of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from camkit.cam import CAM
from camkit.errors import UsageError
from camkit.explanation import Explanation
from camkit.methods.options import distributed
from camkit.metrics.given import (
    Subject,
    fit,
    read_explainer,
    read_images,
    read_maps,
    read_model,
    read_regions,
    read_targets,
    region_size,
    require_unit,
)
from camkit.metrics.jobs import Request
from camkit.metrics.registry import Metric, find_metric
from camkit.metrics.responses import respond, top_classes
from camkit.metrics.rows import Rows, of_rows
from camkit.metrics.trial import Explainer, Responses, Trial, known
from camkit.metrics.values import Values
from camkit.models.classifier import Classifier
from camkit.typing import Progress, Targets

Metrics = str | Metric | Sequence[str | Metric]
Model = nn.Module | Classifier | CAM | None


def measure(
    metrics: Metrics,
    maps: Any,
    images: Tensor | None = None,
    model: Model = None,
    targets: Targets = None,
    *,
    regions: Any = None,
    explain: Explainer | CAM | None = None,
    probability: str | None = None,
    resize: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Values]:
    """Compute metrics of one method's maps.

    Args:
        metrics: names from :data:`camkit.metrics.METRICS`, in any case, or ``METRICS[name].configured(...)``.
        maps: (B, H, W) or (B, T, H, W) for T targets per image, a tensor or an array, or an
            :class:`camkit.Explanation`, or rows of a run (:class:`camkit.datasets.Run`) that has one method.
        images: (B, C, H, W), normalised as the model takes them.
        model: the network, a loaded :class:`camkit.models.classifier.Classifier`, or a CAM: its network, and a way to
            explain again.
        targets: class indices: one for all images, one per image, or T per image. None takes those of an
            :class:`camkit.Explanation` or of the rows of a run, else each image's own top class.
        regions: where the objects are, (B, H, W) or (B, T, H, W), bool.
        explain: a CAM, or a function from images (N, C, H, W) and targets (N,) to maps (N, H, W), for metrics that
            explain other images, or a changed network.
        probability: ``"softmax"``, ``"sigmoid"``, or ``"none"`` where the model returns probabilities; None takes a
            classifier's own, else softmax.
        resize: resize maps of another size than the images (without images, than the regions) bilinearly; they are
            refused otherwise.
        batch_size: how many changed images run at a time; None asks the memory.
        seed: of whatever is drawn; with the same seed an image gets the same whatever it is measured with.
        progress: called with how many of how many changed images are through.
        **options: of the metrics; each goes to those that have it.

    Returns:
        The metric's name to its values, N = B * T of them, an image's targets side by side.

    Raises:
        UsageError: a metric or an option that doesn't exist; something that a metric needs and that isn't given; maps,
            images, targets or regions that don't belong together, or of the wrong range.
        ForwardError, NonFiniteError, CamkitError: see :func:`camkit.metrics.responses.respond`.

    Example:
        >>> cam = camkit.GradCAM(model, ["features"])
        >>> found = camkit.metrics.measure("Deletion", cam(images), images, model)
        >>> found["Deletion"].values.shape
        torch.Size([2])
    """
    found = measure_methods(
        metrics,
        {"": maps},
        images,
        model,
        targets,
        regions=regions,
        explain=None if explain is None else {"": explain},
        probability=probability,
        resize=resize,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
        **options,
    )
    return found[""]


def measure_methods(
    metrics: Metrics,
    maps: Mapping[str, Any] | Rows,
    images: Tensor | None = None,
    model: Model = None,
    targets: Targets = None,
    *,
    regions: Any = None,
    explain: Mapping[str, Explainer | CAM] | None = None,
    probability: str | None = None,
    resize: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, dict[str, Values]]:
    """Compute metrics of several methods' maps of the same images; all changed images run together.

    Args:
        metrics: see :func:`measure`, as for the arguments not named here.
        maps: by method; or rows of a run, for all of its methods.
        images: see :func:`measure`.
        model: see :func:`measure`.
        targets: see :func:`measure`; the same for all methods.
        regions: see :func:`measure`.
        explain: by method.
        probability: see :func:`measure`.
        resize: see :func:`measure`.
        batch_size: see :func:`measure`.
        seed: see :func:`measure`.
        progress: see :func:`measure`.
        **options: see :func:`measure`.

    Returns:
        Method to metric to values.

    Raises:
        UsageError: see :func:`measure`; or methods whose maps differ in number.
    """
    wanted = _wanted(metrics, options)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UsageError(f"seed is a whole number from 0 on; got {seed!r}")
    subject = None if model is None else read_model(model, probability, batch_size, progress)
    by_method, targets = of_rows(maps, targets)
    heats = _heats(by_method)
    batch, count = next(iter(heats.values())).shape[:2]
    if images is not None:
        images = read_images(images, None if subject is None else subject.network, batch)
        heats = {name: fit(heat, images.shape[2:], name, resize=resize) for name, heat in heats.items()}
    elif regions is not None:
        across = region_size(regions)
        heats = {name: fit(heat, across, name, resize=resize, to="regions") for name, heat in heats.items()}
    size = next(iter(heats.values())).shape[2:]
    for name, heat in heats.items():
        if strict := [metric.name for metric in wanted if "unit" in metric.needs]:
            require_unit(heat, strict, name)
    explainers = _explainers(explain, by_method, subject, batch_size, count)
    given = {
        "scores": {"images": images, "model": model},
        "region": {"regions": regions},
        "explainer": {"images": images, "explain": explainers or None},
    }
    for metric in wanted:
        for need in metric.needs:
            missing = [argument for argument, value in given.get(need, {}).items() if value is None]
            if missing:
                raise UsageError(f"{metric.name} needs {' and '.join(missing)}: pass {'=, '.join(missing)}=")
    chosen = (
        read_targets(_agreed(targets, by_method), batch, count) if _ask_class(wanted) or targets is not None else None
    )
    if chosen is None and _ask_class(wanted):
        if subject is None or images is None:
            raise UsageError("without a model there is no top class: pass targets=")
        chosen = top_classes(subject.network, images, subject.network.batch_size)
    responses = _responses(wanted, heats, images, subject, chosen, seed)
    masks = None if regions is None else read_regions(regions, batch, count, size)
    found = {}
    for name, heat in heats.items():
        trial = Trial(
            heat.flatten(0, 1),
            images=images,
            targets=None if chosen is None else chosen.flatten(),
            regions=masks,
            explain=explainers.get(name),
            network=None if subject is None else subject.network,
            seed=seed,
            responses={each.perturbation: made for each, made in responses.items() if each.method in (None, name)},
        )
        found[name] = {
            metric.name: replace(metric.values(trial), name=metric.name, options=metric.options) for metric in wanted
        }
    return found


def _wanted(metrics: Metrics, options: Mapping[str, Any]) -> list[Metric]:
    given = [metrics] if isinstance(metrics, str | Metric) else list(metrics)
    wanted = distributed([find_metric(each) for each in given], options, "metric")
    names = [metric.name for metric in wanted]
    if not wanted or len(set(names)) < len(names):
        raise UsageError(f"name every metric once, at least one; got {', '.join(names) or 'none'}")
    return wanted


def _ask_class(metrics: Sequence[Metric]) -> bool:
    return any({"scores", "explainer"} & set(metric.needs) for metric in metrics)


def _heats(maps: Mapping[str, Any]) -> dict[str, Tensor]:
    """By method, (B, T, H, W)."""
    heats = {name: read_maps(given, name) for name, given in maps.items()}
    if not heats:
        raise UsageError("there are no maps")
    shapes = {name: tuple(heat.shape[:2]) for name, heat in heats.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise UsageError(f"all methods need maps of the same images and targets (B, T): {listed}")
    return heats


def _explainers(
    explain: Mapping[str, Explainer | CAM] | None,
    maps: Mapping[str, Any],
    subject: Subject | None,
    size: int | None,
    count: int,
) -> dict[str, Explainer]:
    """By method; a CAM given as the model explains where there is one method and no other way."""
    if explain is None and subject is not None and subject.cam is not None and len(maps) == 1:
        explain = dict.fromkeys(maps, subject.cam)
    explain = explain or {}
    if explain and (missing := [name for name in maps if name not in explain]):
        raise UsageError(f"explain has nothing for {', '.join(missing)}; it has {', '.join(explain)}")
    return {name: read_explainer(each, size, name, count) for name, each in explain.items()}


def _agreed(targets: Targets, maps: Mapping[str, Any]) -> Targets:
    """The targets given, else those that the explanations among the maps have in common."""
    if targets is not None:
        return targets
    made = [each for each in maps.values() if isinstance(each, Explanation)]
    found = [each.targets for each in made if each.depends_on_targets or each.finds_concepts]
    found = found or [each.targets for each in made]
    classes = [each.cpu() for each in found if isinstance(each, Tensor)]
    if len(classes) < len(found):
        raise UsageError("the maps explain score functions: pass targets, the classes whose probabilities to measure")
    if any(not each.equal(classes[0]) for each in classes):
        raise UsageError("the methods explain different classes: pass targets")
    return classes[0] if classes else None


def _responses(
    metrics: Sequence[Metric],
    heats: Mapping[str, Tensor],
    images: Tensor | None,
    subject: Subject | None,
    targets: Tensor | None,
    seed: int,
) -> dict[Request, Responses]:
    """What the network says to all changed images that the metrics ask for."""
    asked = [
        Request(perturbation, method)
        for metric in metrics
        for perturbation in metric.requests()
        for method in (heats if perturbation.of_map else [None])
    ]
    if not asked:
        return {}
    subject = known(subject)
    return respond(
        subject.network,
        known(images),
        known(targets),
        heats,
        list(dict.fromkeys(asked)),
        probability=subject.probability,
        seed=seed,
        batch_size=subject.network.batch_size,
    )
