"""Explain a data set: from DATA to a run's shards, going on where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from camkit.datasets import manifest as manifests
from camkit.datasets.boxes import Boxes
from camkit.datasets.counting import Counts, Progress
from camkit.datasets.explaining import Explainer, RowMaker
from camkit.datasets.labels import labelled
from camkit.datasets.local import explain_locally, usual_workers
from camkit.datasets.manifest import Manifest, read_manifest
from camkit.datasets.memory import give_back_freed
from camkit.datasets.places import Place, find_place
from camkit.datasets.preparing import find_classifier, preparing
from camkit.datasets.probing import Probe
from camkit.datasets.schema import make_schema
from camkit.datasets.settings import Pace, Settings, Summary, find_target
from camkit.datasets.sources import Source, find_source, some
from camkit.datasets.stopping import Stop, listening
from camkit.datasets.store import ShardWriter, done, drop_failed, read_columns, require_same_images, shard_names
from camkit.errors import UsageError
from camkit.methods import find_methods
from camkit.models.classifier import Classifier
from camkit.models.pillow import Transform

if TYPE_CHECKING:
    from camkit.datasets.cluster import Cluster
    from camkit.methods import Method
    from camkit.models.loader import Loader


def run(
    data: str | Path,
    model: Classifier | nn.Module | str,
    out: str | Path,
    methods: str | Method | Sequence[str | Method] = "GradCAM",
    target: str | int | Sequence[str | int] = "predicted",
    target_layers: str | Sequence[str] | None = None,
    *,
    checkpoint: str | None = None,
    transform: Transform | None = None,
    classes: Sequence[str] | None = None,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
    num_extra_tokens: int | None = None,
    output: Any = None,
    chunk_size: int | None = None,
    autocast: str = "",
    map_dtype: str = "float32",
    batch_size: int = 8,
    workers: int | None = None,
    limit: int | None = None,
    shuffle: int | None = None,
    retry_failed: bool = False,
    shard_rows: int = 1000,
    engine: str = "local",
    cluster: Cluster | None = None,
    progress: Callable[[Progress], object] | None = None,
    say: Callable[[str], object] | None = None,
    **options: Any,
) -> Summary:
    """Explain a data set, and keep maps and scores in a folder of Parquet files.

    The same call goes on where an earlier one stopped. In the main thread, Ctrl-C and SIGTERM end the run when the rows
    that are ready are written; a second one ends it at once.

    Args:
        data: A folder, a folder of class folders, a list (.txt, .csv, .jsonl with path, label, id), an address that
            fsspec knows, or ``config:`` for the test data set of an MMPretrain config.
        model: What :func:`camkit.models.load.load` returns, or the CONFIG that it takes; or a module, with
            ``transform``.
        out: The run's folder, or an address that fsspec knows.
        methods: Names from :data:`camkit.METHODS`, in any case; several share the forward.
        target: ``"predicted"``, ``"label"``, ``"both"``, ``"top:K"``, or classes by index or name.
        target_layers: Dotted names; None for the default ones, chosen once and kept in the run's manifest.
        checkpoint: Of CONFIG.
        transform: Of a module: from an RGB PIL image to the normalised (C, H, W) tensor that it takes.
        classes: Of a module: its classes' names.
        eigen_smooth: See :class:`camkit.EigenSmooth`.
        aug_smooth: See :class:`camkit.AugSmooth`.
        num_extra_tokens: See :class:`camkit.CAM`.
        output: See :class:`camkit.CAM`.
        chunk_size: How many perturbed images run at a time, for methods that need many; None asks the memory.
        autocast: ``"bf16"`` or ``"fp16"`` runs the network in torch's autocast.
        map_dtype: ``"float32"``, or ``"float16"`` with a scale per map: half the bytes, to 1/2048 of a map's maximum.
        batch_size: Images that go through the network together.
        workers: Processes that read and prepare images; None for one, or up to eight beside a GPU; 0 for this process.
        limit: How many images of ``data`` are explained in all.
        shuffle: Seed of the order in which they are.
        retry_failed: Try images again that failed before.
        shard_rows: About how many rows a file holds.
        engine: ``"local"`` or ``"ray"``.
        cluster: Of Ray; None for one on this machine.
        progress: Called after each batch.
        say: Called with lines about what happens.
        **options: Of the methods; each goes to those that have it.

    Returns:
        How it ended; :func:`load` reads the rows.

    Raises:
        UsageError: Bad arguments, no images, labels that are no classes.
        CamkitError: No image can be explained; ``out`` holds something else, a run with other settings, or is in use;
            a file can't be written. What was written stays, and the same call goes on.

    Example:
        >>> summary = camkit.datasets.run("photos", model, "run", transform=transform)  # doctest: +SKIP
        >>> camkit.datasets.load(summary.path).to_pandas()  # doctest: +SKIP
    """
    classifier = find_classifier(model, checkpoint, transform, classes)
    classifier = classifier.of_output(output if isinstance(output, str) else None)
    layers = [target_layers] if isinstance(target_layers, str) else target_layers
    settings = Settings(
        methods=tuple(find_methods(methods, options)),
        target=find_target(target, classifier.find_category),
        target_layers=tuple(layers or ()),
        eigen_smooth=eigen_smooth,
        aug_smooth=aug_smooth,
        num_extra_tokens=num_extra_tokens,
        output=output,
        autocast=autocast,
        map_dtype=map_dtype,
        chunk_size=chunk_size,
    )
    pace = Pace(batch_size, workers, limit, shuffle, retry_failed, shard_rows)
    if engine not in ("local", "ray"):
        raise UsageError(f"engine is 'local' or 'ray', got {engine!r}")
    if engine == "ray":
        from camkit.datasets.cluster import Cluster

        cluster = cluster or Cluster()
        cluster.require()
    elif cluster is not None:
        raise UsageError("a cluster is the ray engine's: pass engine='ray'")
    return _Job(data, classifier, find_place(out), settings, pace, cluster, progress, say).run()


@dataclass
class _Job:
    """One call of :func:`run`."""

    data: str | Path
    classifier: Classifier
    place: Place
    settings: Settings
    pace: Pace
    cluster: Cluster | None
    progress: Callable[[Progress], object] | None
    say: Callable[[str], object] | None

    def run(self) -> Summary:
        source = find_source(self.data, self.classifier)
        loader = self.classifier.loader()
        manifest = read_manifest(self.place)
        said = self.place.lock()
        try:
            if said:
                self._say(said)
            return self._locked(source, loader, manifest)
        except Exception:
            if manifest is None and not shard_names(self.place):  # it never began
                self.place.remove(manifests.NAME)
            raise
        finally:
            self.place.unlock()

    def _locked(self, source: Source, loader: Loader, manifest: Manifest | None) -> Summary:
        fingerprint = manifests.fingerprint(self.classifier, loader, self.settings, source.name)
        order = source.order(self.pace.shuffle, self.pace.limit)
        if manifest is not None:
            manifest.require_same(fingerprint, self.place.name)
            labels, line = self._labels(source, order, manifest.class_count)
            retried = order if self.pace.retry_failed else ()
            require_same_images(self.place, source.ids, source.paths, labels, retried=retried)
        else:
            probe = Probe(self.classifier, loader, self.settings)
            probe.try_images(source, order)
            labels, line = self._labels(source, order, probe.class_count)
            manifest = probe.manifest(labels, fingerprint)
        if manifest.about.get("images") != len(order):
            manifest = replace(manifest, about={**manifest.about, "images": len(order)})
            manifest.write(self.place)
        if self.pace.retry_failed:
            drop_failed(self.place, source.ids.take(pa.array(order)))
        ids, failed = done(self.place)
        known = pc.is_in(source.ids, value_set=ids.cast(pa.string())).to_numpy(zero_copy_only=False)
        left = [position for position in order if not known[position]]
        notes = [*manifest.about.get("notes", ()), *([line] if line else [])]
        if source.skipped[0]:
            notes.append(f"{source.skipped[0]} files are no images: {some(source.skipped[1])}")
        counts = Counts(len(order), len(order) - len(left), self._failed_of(source, order, failed))
        for note in notes:
            self._say(note)
        stopped = self._explain(source, loader, manifest, labels, left, counts) if left else False
        return replace(counts.summary(self.place.name), stopped=stopped, notes=tuple(notes), layers=manifest.layers)

    def _failed_of(self, source: Source, order: Sequence[int], failed: int) -> int:
        """How many of the images asked for are errors already."""
        if not failed or len(order) == len(source):
            return failed
        table = read_columns(self.place, ["id", "error"])
        bad = table.filter(pc.is_valid(table["error"]))["id"]
        return int(np.count_nonzero(pc.is_in(source.ids.take(pa.array(order)), value_set=bad.cast(pa.string()))))

    def _labels(self, source: Source, order: Sequence[int], class_count: int) -> tuple[list[int | None], str]:
        outside = [each for each in self.settings.target.classes if not 0 <= each < class_count]
        if outside:
            raise UsageError(f"category {outside[0]} is outside 0..{class_count - 1}")
        labels, line = labelled(source, self.classifier, class_count)
        if self.settings.target.needs_labels:
            bad = source.problems
            without = [source.ids[each].as_py() for each in order if labels[each] is None and each not in bad]
            if without:
                why = f"; {line}" if line.startswith("no labels:") else ""
                raise UsageError(
                    f"--target {self.settings.target} needs labels, and {len(without)} of {len(order)} images have none"
                    f" ({some(without)}){why}; give class folders named as the classes, or a list with the column label"
                )
        return labels, line

    def _explain(
        self,
        source: Source,
        loader: Loader,
        manifest: Manifest,
        labels: Sequence[int | None],
        left: Sequence[int],
        counts: Counts,
    ) -> bool:
        """Explain what is left; whether the run was asked to stop before its end."""
        schema = make_schema(manifest.columns)
        writer = ShardWriter(self.place, schema, manifest.columns, self.pace.shard_rows)
        with (
            listening(self._say) as stop,
            closing(self._rows(source, loader, manifest, schema, labels, left, stop)) as found,
        ):
            counts.start()
            try:
                for batch in found:
                    if writer.add(batch):
                        give_back_freed()
                    counts.add(batch)
                    if self.progress is not None:
                        self.progress(counts.progress())
                    if stop.is_asked():
                        break
            except Exception:
                if not writer.is_broken:
                    writer.commit()
                raise
            writer.commit()
        return counts.done < counts.total

    def _rows(
        self,
        source: Source,
        loader: Loader,
        manifest: Manifest,
        schema: pa.Schema,
        labels: Sequence[int | None],
        left: Sequence[int],
        stop: Stop,
    ) -> Generator[pa.RecordBatch, None, None]:
        if self.cluster is not None:
            from camkit.datasets.ray_engine import explain_on_ray
            from camkit.datasets.ray_worker import Work

            work = Work(self.classifier, loader, self.settings, manifest)
            yield from explain_on_ray(
                self.cluster, work, source, labels, left, batch_size=self.pace.batch_size, stop=stop, say=self._say
            )
            return
        explainer = Explainer(self.classifier, self.settings, manifest.layers)
        maker = RowMaker(explainer, manifest.columns, schema, Boxes(manifest.rule, preparing(self.classifier)))
        workers = usual_workers(self.classifier.device) if self.pace.workers is None else self.pace.workers
        yield from explain_locally(
            maker, loader, source, labels, left, batch_size=self.pace.batch_size, workers=workers, say=self._say
        )

    def _say(self, line: str) -> None:
        if self.say is not None:
            self.say(line)
