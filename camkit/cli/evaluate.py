"""``camkit evaluate``: measure how far to trust maps, of a data set or of a finished run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from camkit.cli import flags, metrics, table
from camkit.cli.printing import write_files
from camkit.cli.progress import RunProgress, duration
from camkit.datasets.places import Folder, find_place
from camkit.datasets.reading import Run, load
from camkit.datasets.sources import forms
from camkit.errors import CamkitError, UsageError
from camkit.methods import find_methods
from camkit.metrics import METRICS
from camkit.metrics.annotations import FORMS
from camkit.metrics.comparing import check_controls
from camkit.metrics.evaluating import ALL_CONTROLS, OF_MOSAICS, OF_PLACES, USUAL, evaluate, find_wanted
from camkit.visualize.save import PICTURE_SUFFIXES, check_suffix, check_writable, picture_writer

if TYPE_CHECKING:
    from camkit.cli.parser import Parser
    from camkit.metrics.comparison import Comparison
    from camkit.metrics.evaluator import Evaluation
    from camkit.visualize.save import Writer

IN_RUN = "metrics.json"
"""The file of a run's folder that holds what was measured."""
_MAKING = ("target", "target_layers", "method_options", "eigen_smooth", "aug_smooth", "num_extra_tokens", "output")
"""Flags about how maps are made, which a run has settled."""


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    parser.add_argument("data", nargs="?", help=f"an image, {forms()}; may be left out with --run")
    flags.add_model(
        parser,
        checkpoint="checkpoint file or URL, .pth or .safetensors; default: the framework's own weights (MMPretrain has "
        "none), with --run the run's",
        config="the run's, with --run",
        seed="of random weights, and of whatever metrics, controls and intervals draw",
    )
    parser.add_argument("--list", action="store_true", help="print the metrics there are, as camkit metrics does")
    flags.add_repeated(parser, "--metric", list(METRICS))
    parser.add_argument(
        "--metric",
        action="append",
        metavar="METRIC [METRIC ...]",
        help=f"one or more of {', '.join(METRICS)}, in any case, with hyphens for blanks; default: {', '.join(USUAL)}, "
        f"with --boxes {', '.join(OF_PLACES)} too; with --mosaic {', '.join(OF_MOSAICS)}",
    )
    flags.add_options(parser, "metric", "pixels_per_step=448")
    flags.add_methods(parser, default="GradCAM; with --run all of the run", chunk="--chunk-size")
    parser.add_argument(
        "--run",
        metavar="RUN",
        help="measure the maps of a finished run, which are read and not made again; also writes RUN/metrics.json",
    )
    parser.add_argument("--boxes", metavar="FILE", help=f"where objects are: {FORMS}")
    parser.add_argument(
        "--mosaic",
        type=flags.positive_count,
        default=0,
        metavar="N",
        help="measure maps of mosaics of N x N of the images, confidently classified ones of distinct classes",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        default=0.5,
        metavar="P",
        help="the least probability of an image in a mosaic; default: 0.5",
    )
    parser.add_argument(
        "--controls",
        nargs="*",
        default=list(ALL_CONTROLS),
        metavar="CONTROL",
        help=f"maps that know nothing, beside the methods; default: {' '.join(ALL_CONTROLS)}",
    )
    flags.add_targets(parser)
    flags.add_layout(parser)
    flags.add_target_layers(parser)
    flags.add_smoothing(parser)
    parser.add_argument("--limit", type=flags.positive_count, metavar="N", help="measure the first N images alone")
    parser.add_argument(
        "--batch-size",
        type=flags.positive_count,
        metavar="N",
        help="how many changed images go through the network at a time; default: what the memory allows",
    )
    parser.add_argument("--workers", type=flags.count, metavar="N", help="processes that read and prepare images")
    parser.add_argument("--json", type=flags.path, metavar="FILE", help="write all values, intervals and p there")
    parser.add_argument(
        "--plot",
        type=flags.path,
        metavar="FILE",
        help=f"draw curves with their intervals, methods against controls ({', '.join(PICTURE_SUFFIXES)})",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 where an image failed")


def main(options: argparse.Namespace) -> None:
    """Measure maps.

    Raises:
        UsageError: Flags that don't go together.
        CamkitError: Images failed, and ``--strict`` was given.
    """
    if options.list:
        metrics.main(argparse.Namespace(markdown=False))
        return
    if options.plot:
        check_writable(check_suffix(options.plot, PICTURE_SUFFIXES))
    if options.json:
        check_writable(check_suffix(options.json, (".json",)))
    metric_options = flags.method_options(options.metric_options, "--metric-options")
    # Before a model is loaded, which may take minutes.
    find_wanted(options.metric, metric_options, options.boxes, options.mosaic)
    find_methods(options.method or ["GradCAM"], flags.method_options(options.method_options))
    check_controls(options.controls, {})
    run = None if options.run is None else _open(options)
    if run is not None and isinstance(place := find_place(run.path), Folder):
        check_writable(place.path / IN_RUN)
    if run is None and (options.data is None or options.config is None):
        raise UsageError("name DATA and CONFIG, or a run with --run; camkit evaluate --help says more")
    with RunProgress() as progress:
        found = evaluate(
            options.data,
            flags.load_classifier(options),
            options.method,
            options.metric,
            options.target or "predicted",
            options.target_layers or None,
            run=options.run,
            boxes=options.boxes,
            mosaic=options.mosaic,
            min_confidence=options.min_confidence,
            eigen_smooth=options.eigen_smooth,
            aug_smooth=options.aug_smooth,
            num_extra_tokens=options.num_extra_tokens,
            output=options.output,
            chunk_size=options.chunk_size,
            batch_size=options.batch_size,
            workers=options.workers,
            limit=options.limit,
            seed=options.seed,
            controls=options.controls,
            method_options=flags.method_options(options.method_options),
            metric_options=metric_options,
            progress=progress,
            say=progress.say,
        )
    _print(found)
    write_files(_files(found.comparison, options.json, options.plot))
    if run is not None:
        find_place(run.path).write(IN_RUN, found.comparison.to_json().encode())
        print(f"wrote: {run.path}/{IN_RUN}")
    if options.strict and found.failed:
        raise CamkitError(f"{found.failed} of {found.failed + found.images} images failed, and --strict was given")


def _open(options: argparse.Namespace) -> Run:
    """The run of ``--run``; CONFIG and CHECKPOINT are its own where they are left out.

    Raises:
        UsageError: No such run, other data than its, or flags about how maps are made, which it has settled.
    """
    values = {name: getattr(options, name) for name in _MAKING}
    given = [name for name, value in values.items() if value or (value == 0 and value is not False)]
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{flag} is about how maps are made, and those of --run are made already: leave it out")
    run = load(options.run)
    told, about = run.manifest.fingerprint, run.manifest.about
    if options.data is not None and _plain(options.data) != _plain(told["data"]):
        raise UsageError(f"{run.path} is a run of {told['data']}, not of {options.data}: leave DATA out")
    if options.config is None:
        options.config = told["config"]
        options.checkpoint = (about.get("checkpoint") or {}).get("source")
    return run


def _plain(data: str) -> str:
    return data if "://" in data or data.startswith("config:") else str(Path(data).expanduser().resolve())


def _print(found: Evaluation) -> None:
    """Print a table of means and intervals, what differs from the controls, and what was left out."""
    comparison = found.comparison
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, layers in found.layers.items():
        groups.setdefault(tuple(layers), []).append(name)
    for layers, names in groups.items():
        if layers:
            whose = f" of {', '.join(names)}" if len(groups) > 1 else ""
            print(f"target layer{'s' * (len(layers) > 1)}{whose}: {', '.join(layers)}")
    what = f"{found.images} image{'s' * (found.images != 1)} in {duration(found.seconds)}"
    print(f"measured: {what}")
    if found.failed:
        print(f"failed: {found.failed}")
        for line in found.failures:
            print(f"  {line}")
    for line in comparison.notes:
        print(f"left out: {line}")
    for part in _fitting(comparison):
        print()
        table.show(*rows(comparison, part))
    print()
    for metric in comparison.metrics:
        count = comparison.summary(metric, comparison.methods[0]).count
        if count != found.images or count == 1:
            print(f"{metric}: of {count} image{'s' * (count != 1)}{', no interval of one' * (count == 1)}")
    for line in comparison.verdicts():
        print(line)


def rows(comparison: Comparison, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: methods, controls and the share of ties, by metrics."""
    made = []
    for method in [*comparison.methods, *comparison.controls]:
        label = f"{method} (control)" if method in comparison.controls else method
        made.append([label, *(str(comparison.summary(metric, method)) for metric in metrics)])
    shares = [_ties(comparison, metric) for metric in metrics]
    if any(share is not None for share in shares):
        made.append(["share of ties", *("" if share is None else f"{share:.2f}" for share in shares)])
    return ["method", *map(_heading, metrics)], made


def _heading(metric: str) -> str:
    return f"{metric} ({METRICS[metric].better} is better)"


def _fitting(comparison: Comparison) -> Iterator[list[str]]:
    """Metrics that stand side by side on the terminal; all of them elsewhere."""
    room = get_terminal_size().columns if sys.stdout.isatty() else table.UNLIMITED
    labels = max(len(name) for name in (*comparison.methods, *comparison.controls)) + len(" (control)")
    part: list[str] = []
    width = labels
    for metric in comparison.metrics:
        cells = [str(comparison.summary(metric, name)) for name in comparison.values[metric]]
        wide = max(map(len, [_heading(metric), *cells])) + 3
        if part and width + wide > room:
            yield part
            part, width = [], labels
        part.append(metric)
        width += wide
    yield part


def _ties(comparison: Comparison, metric: str) -> float | None:
    """The mean share of ties of the methods' maps; None for metrics that rank nothing."""
    shares = [comparison.summary(metric, name).ties for name in comparison.methods]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _files(comparison: Comparison, json: Path | None, plot: Path | None) -> dict[Path, Writer]:
    files: dict[Path, Writer] = {}
    if json is not None:
        content = comparison.to_json().encode()
        files[json] = lambda file: file.write(content)
    if plot is not None:
        from camkit.metrics.plotting import plot as draw

        files[plot] = picture_writer(plot, draw(comparison))
    return files
