"""``camkit run``: explain a data set, and go on where an earlier run stopped."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from camkit.cli import flags
from camkit.cli.progress import RunProgress, duration
from camkit.datasets.cluster import Cluster
from camkit.datasets.running import run
from camkit.datasets.settings import AUTOCAST, MAP_DTYPES, StoppedError, Summary
from camkit.datasets.sources import forms
from camkit.errors import CamkitError, UsageError

if TYPE_CHECKING:
    from camkit.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    parser.add_argument("data", help=forms())
    flags.add_model(
        parser,
        checkpoint="checkpoint file or URL, .pth or .safetensors; default: the framework's own weights (MMPretrain has "
        "none)",
    )
    parser.add_argument(
        "--out", required=True, help="the run's folder, or an address such as s3://bucket/run; an earlier run goes on"
    )
    flags.add_targets(parser)
    flags.add_layout(parser)
    flags.add_target_layers(parser)
    flags.add_methods(parser, default="GradCAM", chunk="--chunk-size")
    flags.add_smoothing(parser)
    parser.add_argument("--autocast", choices=AUTOCAST, default="", help="run the network in half precision")
    parser.add_argument(
        "--map-dtype",
        choices=MAP_DTYPES,
        default="float32",
        help="float16 takes half the bytes, with a scale per map; default: float32",
    )
    _add_pace(parser)
    _add_engine(parser)
    parser.add_argument("--strict", action="store_true", help="exit with 1 where an image failed")


def _add_pace(parser: Parser) -> None:
    parser.add_argument(
        "--batch-size", type=flags.positive_count, default=8, metavar="N", help="images at a time; default: 8"
    )
    parser.add_argument(
        "--workers",
        type=flags.count,
        metavar="N",
        help="processes that read and prepare images; default: 1, or up to 8 beside a GPU",
    )
    parser.add_argument("--limit", type=flags.positive_count, metavar="N", help="explain the first N images alone")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="explain them in a random order")
    parser.add_argument("--retry-failed", action="store_true", help="try images again that failed before")
    parser.add_argument(
        "--shard-rows", type=flags.positive_count, default=1000, metavar="N", help="rows per file; default: 1000"
    )


def _add_engine(parser: Parser) -> None:
    usual = {field.name: field.default for field in fields(Cluster)}
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="default: local")
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="a running cluster; default: one on this machine")
    parser.add_argument("--actors", type=flags.positive_count, metavar="N", help="copies of the model on Ray")
    parser.add_argument("--num-gpus", type=float, metavar="X", help="GPUs for each copy; default: 0")
    parser.add_argument(
        "--num-cpus", type=flags.positive_count, metavar="N", help="logical CPUs of a cluster on this machine"
    )
    parser.add_argument(
        "--ray-timeout",
        type=float,
        default=usual["timeout"],
        metavar="SECONDS",
        help=f"give up when nothing comes from Ray for so long; default: {usual['timeout']:.0f}",
    )


def main(options: argparse.Namespace) -> None:
    """Explain a data set.

    Raises:
        StoppedError: It was asked to stop.
        CamkitError: Images failed, and ``--strict`` was given.
    """
    cluster = _cluster(options)
    with RunProgress() as progress:
        summary = run(
            options.data,
            flags.load_classifier(options),
            options.out,
            options.method or ["GradCAM"],
            options.target or "predicted",
            options.target_layers or None,
            eigen_smooth=options.eigen_smooth,
            aug_smooth=options.aug_smooth,
            num_extra_tokens=options.num_extra_tokens,
            output=options.output,
            chunk_size=options.chunk_size,
            autocast=options.autocast,
            map_dtype=options.map_dtype,
            batch_size=options.batch_size,
            workers=options.workers,
            limit=options.limit,
            shuffle=options.shuffle,
            retry_failed=options.retry_failed,
            shard_rows=options.shard_rows,
            engine=options.engine,
            cluster=cluster,
            progress=progress,
            say=progress.say,
            **flags.method_options(options.method_options),
        )
    if summary.stopped:
        raise StoppedError(f"stopped after {summary.done} of {summary.total} images; the same command goes on")
    _report(summary)
    if options.strict and summary.failed:
        raise CamkitError(f"{summary.failed} of {summary.total} images failed, and --strict was given")


def _report(summary: Summary) -> None:
    """Print how it ended."""
    layers = {", ".join(names) for names in summary.layers.values() if names}
    first = next((method for method, names in summary.layers.items() if names), "")
    for method, names in summary.layers.items():
        whose = f" of {method}" if len(layers) > 1 else ""
        if names and (whose or method == first):
            print(f"target layer{'s' * (len(names) > 1)}{whose}: {', '.join(names)}")
    pace = f", {summary.new / summary.seconds:.1f} images/s" if summary.new and summary.seconds else ""
    earlier = f" ({summary.done - summary.new} of them earlier)" if summary.done > summary.new else ""
    print(f"images: {summary.done}{earlier} in {duration(summary.seconds)}{pace}")
    if summary.failed:
        print(f"failed: {summary.failed}; camkit runs {summary.path} says why, --retry-failed tries them again")
        for line in summary.failures:
            print(f"  {line}")
    print(f"wrote: {summary.path}")


def _cluster(options: argparse.Namespace) -> Cluster | None:
    """The flags of the ray engine.

    Raises:
        UsageError: Some of them, and another engine.
    """
    given: dict[str, Any] = {
        "address": options.ray_address,
        "actors": options.actors,
        "num_gpus": options.num_gpus,
        "num_cpus": options.num_cpus,
    }
    named = {name: value for name, value in given.items() if value is not None}
    if options.engine != "ray":
        if named:
            flag = {"address": "--ray-address"}.get(next(iter(named)), f"--{next(iter(named))}".replace("_", "-"))
            raise UsageError(f"{flag} is the ray engine's: add --engine ray")
        return None
    return Cluster(**named, timeout=options.ray_timeout)
