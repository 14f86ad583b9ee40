"""Evaluate methods on a data set or a finished run: metrics of their maps, with controls beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from camkit.datasets.counting import Progress
from camkit.datasets.manifest import NAME as MANIFEST
from camkit.datasets.preparing import find_classifier
from camkit.datasets.reading import Run
from camkit.datasets.reading import load as load_run
from camkit.datasets.settings import Settings, find_target
from camkit.datasets.sources import find_source, some
from camkit.datasets.store import FOLDER as SHARDS
from camkit.errors import UsageError
from camkit.methods import Method, find_method, find_methods
from camkit.methods.options import distributed
from camkit.metrics.comparing import RANDOMCAM, check_controls
from camkit.metrics.controls import CONTROLS
from camkit.metrics.evaluator import Evaluation, Evaluator, Plan
from camkit.metrics.explained import FromNetwork, FromRun, source_of
from camkit.metrics.registry import METRICS, Metric, find_metric
from camkit.metrics.rows import refuse_concepts

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier
    from camkit.models.pillow import Transform

USUAL = ("ROADCombined", "Average drop", "Sparseness")
"""Metrics where none is named: what ranks methods best where the truth is known, what papers report, what needs no
network."""
OF_PLACES = ("Pointing game", "Energy pointing game")
"""Those that come with boxes or masks."""
OF_MOSAICS = ("GridPG", "Pointing game")
"""Those of mosaics."""
ALL_CONTROLS = (RANDOMCAM, *CONTROLS)


def evaluate(
    data: str | Path | None,
    model: Classifier | nn.Module | str,
    methods: str | Method | Sequence[str | Method] | None = None,
    metrics: str | Metric | Sequence[str | Metric] | None = None,
    target: str | int | Sequence[str | int] = "predicted",
    target_layers: str | Sequence[str] | None = None,
    *,
    run: str | Path | Run | None = None,
    boxes: str | Path | None = None,
    mosaic: int = 0,
    min_confidence: float = 0.5,
    checkpoint: str | None = None,
    transform: Transform | None = None,
    classes: Sequence[str] | None = None,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
    num_extra_tokens: int | None = None,
    output: Any = None,
    chunk_size: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    controls: Sequence[str] = ALL_CONTROLS,
    method_options: Mapping[str, Any] | None = None,
    metric_options: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], object] | None = None,
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure methods' maps of a data set's images.

    Images go through batch by batch; values and curves are kept, maps aren't.

    Args:
        data: An image, or what :func:`camkit.datasets.run` takes; None with ``run``.
        model: See :func:`camkit.datasets.run`.
        methods: Names from :data:`camkit.METHODS`; None for GradCAM, or all of the run.
        metrics: Names from :data:`camkit.metrics.METRICS`; None for :data:`USUAL`, and :data:`OF_PLACES` with boxes;
            :data:`OF_MOSAICS` of mosaics.
        target: See :func:`camkit.datasets.run`.
        target_layers: See :func:`camkit.datasets.run`.
        run: A run, or its folder: its maps are measured, not made again. Its images are read where it says.
        boxes: Boxes or masks, see :func:`camkit.metrics.annotations.read_annotations`. Where labels are classes of the
            network, objects of the class that is explained count alone.
        mosaic: n: measure maps of mosaics of n x n of the images, confidently classified ones of distinct classes.
        min_confidence: The least probability of an image in a mosaic.
        checkpoint: See :func:`camkit.datasets.run`, as for the next ones.
        transform: Of a module.
        classes: Of a module.
        eigen_smooth: See :class:`camkit.EigenSmooth`.
        aug_smooth: See :class:`camkit.AugSmooth`.
        num_extra_tokens: See :class:`camkit.CAM`.
        output: See :class:`camkit.CAM`.
        chunk_size: How many perturbed images run at a time for methods that need many; None asks the memory.
        batch_size: How many changed images run at a time for metrics; None asks the memory.
        workers: Processes that read and prepare images; None for as many as there is use for, 0 for this one.
        limit: How many images are measured, the first ones.
        seed: Of whatever is drawn.
        controls: Some of ``RandomCAM``, ``Random``, ``Gaussian`` and ``Edges``.
        method_options: Each goes to those methods that have it.
        metric_options: Each goes to those metrics that have it.
        progress: Called with how far it is.
        say: Called with lines about what happens.

    Raises:
        UsageError: Bad arguments, no images, a metric that needs what isn't given.
        CamkitError: No image can be measured; or a run that another network made.

    Example:
        >>> found = evaluate("photos", model, ["GradCAM", "LayerCAM"], transform=transform)  # doctest: +SKIP
        >>> found.comparison.verdicts()[0]  # doctest: +SKIP
        'Average drop: GradCAM is better than Random (p = 0.0001)'
    """
    plan = Plan(
        metrics=find_wanted(metrics, metric_options, boxes, mosaic),
        controls=controls,
        boxes=boxes,
        mosaic=mosaic,
        min_confidence=min_confidence,
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        seed=seed,
    )
    classifier = find_classifier(model, checkpoint, transform, classes)
    classifier = classifier.of_output(output if isinstance(output, str) else None)
    chosen = [methods] if isinstance(methods, str | Method) else list(methods or ())
    if run is not None:
        rows = run if isinstance(run, Run) else load_run(run)
        if rows is not run and len(rows) < (rows.asked or 0) and say is not None:
            say(f"{rows.path} has {len(rows)} of the {rows.asked} images that it was to have: they alone are measured")
        return _of_run(rows, classifier, chosen, plan, progress, say)
    if data is None:
        raise UsageError("name an image, a folder or a list, or a run")
    if all((Path(data) / name).exists() for name in (MANIFEST, SHARDS)):
        raise UsageError(f"{data} is a run: measure its maps with --run {data}")
    layers = [target_layers] if isinstance(target_layers, str) else target_layers
    settings = Settings(
        methods=tuple(find_methods(chosen or ["GradCAM"], method_options or {})),
        target=find_target(target, classifier.find_category),
        target_layers=tuple(layers or ()),
        eigen_smooth=eigen_smooth,
        aug_smooth=aug_smooth,
        num_extra_tokens=num_extra_tokens,
        output=output,
        chunk_size=chunk_size,
    )
    refuse_concepts(settings.methods)
    names = [each.name for each in settings.methods]
    plan = replace(plan, controls=_controls(controls, names))
    if RANDOMCAM in plan.controls and any(each.of_layers for each in settings.methods):
        settings = replace(settings, methods=(*settings.methods, find_method(RANDOMCAM)))
    source = find_source(data, classifier, one_image=True)
    if source.skipped[0] and say is not None:
        say(f"{source.skipped[0]} files are no images: {some(source.skipped[1])}")
    return Evaluator(classifier, plan, source, FromNetwork(classifier, settings, source), progress, say).run()


def _of_run(
    run: Run,
    classifier: Classifier,
    methods: Sequence[str | Method],
    plan: Plan,
    progress: Callable[[Progress], object] | None,
    say: Callable[[str], None] | None,
) -> Evaluation:
    """Measure maps that a run has; rows without maps are failures."""
    names = [run.column_method(find_method(each).name) for each in methods] or run.methods
    plan = replace(plan, controls=_controls(plan.controls, names))
    maps = FromRun(run, classifier, names, with_random=RANDOMCAM in plan.controls)
    errors = run.table["error"].to_pylist()
    failed = {position: error for position, error in enumerate(errors) if error is not None}
    return Evaluator(classifier, plan, source_of(run, failed), maps, progress, say).run()


def _controls(controls: Sequence[str], methods: Sequence[str]) -> list[str]:
    """The controls, without those that are compared as methods."""
    return [name for name in check_controls(controls, dict.fromkeys(methods)) if name not in methods]


def find_wanted(
    metrics: str | Metric | Sequence[str | Metric] | None,
    options: Mapping[str, Any] | None = None,
    boxes: str | Path | None = None,
    mosaic: int = 0,
) -> list[Metric]:
    """The metrics with their options; arguments as for :func:`evaluate`.

    Raises:
        UsageError: No such metric or option; metrics of places without places, or places that none of them reads.
    """
    usual = OF_MOSAICS if mosaic else USUAL + OF_PLACES * (boxes is not None)
    given = [metrics] if isinstance(metrics, str | Metric) else list(metrics or usual)
    found = distributed([find_metric(each) for each in given], options or {}, "metric")
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise UsageError(f"name every metric once, got {', '.join(names)}")
    if boxes is not None and mosaic:
        raise UsageError("mosaics have regions of their own: leave out the boxes, or the mosaics")
    of_places = [each.name for each in found if "region" in each.needs]
    if of_places and boxes is None and not mosaic:
        verb = "needs" if len(of_places) == 1 else "need"
        raise UsageError(f"{', '.join(of_places)} {verb} boxes or masks: pass --boxes FILE, or --mosaic 2")
    if boxes is not None and not of_places:
        known = ", ".join(each.name for each in METRICS.values() if "region" in each.needs)
        raise UsageError(f"none of the metrics reads boxes or masks; those that do: {known}")
    return found
