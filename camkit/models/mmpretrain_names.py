"""What an MMPretrain model's outputs mean: whether they are class scores, the classes' names, and the activation."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from camkit.errors import UsageError, reason
from camkit.models.classifier import Activation, Task
from camkit.models.environment import quiet
from camkit.models.mmpretrain_config import as_dict, find_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

_ADVICE = (
    "in Python, camkit.GradCAM(model)(images, targets=camkit.Similarity(embedding)), or with a target of your own, "
    "explains any network"
)


def refuse_no_classifier(model: nn.Module, source: str) -> None:
    """Refuse a model of MMPretrain whose outputs are no class scores.

    Raises:
        UsageError: A retriever, self-supervised or multimodal model, or one without a classification head.
    """
    from mmpretrain.models import BaseRetriever, BaseSelfSupervisor, TimmClassifier

    name = type(model).__name__
    head = getattr(model, "head", _HAS_NONE)
    if isinstance(model, BaseRetriever):
        what = f"{name}, a retriever: it returns an embedding"
    elif isinstance(model, BaseSelfSupervisor):
        what = f"{name}, self-supervised: it is trained without classes"
    elif any(each.__module__.startswith("mmpretrain.models.multimodal") for each in type(model).__mro__):
        what = f"{name}, which compares images with text"
    elif head is None:
        what = f"{name} without a head: it returns features (a backbone that ends in logits takes dict(type='ClsHead'))"
    elif head is not _HAS_NONE and not hasattr(head, "predict"):
        what = f"{name} with a {type(head).__name__}, which predicts no classes"
    elif isinstance(model, TimmClassifier) and not getattr(model.model, "num_classes", 1):
        what = f"{name} with num_classes=0: it returns features"
    else:
        return
    raise UsageError(f"the model of {source} is no classifier but {what}; {_ADVICE}")


_HAS_NONE = object()


def read_tasks(model: nn.Module, settings: Any, meta: dict[str, Any]) -> tuple[dict[str, Task], str | None]:
    """How the model's outputs are read.

    The names are the checkpoint's (``meta``), else those that MMPretrain's data set would get from the config; names
    that are not as many as the classes are left out.

    Returns:
        The tasks by the name of their output, the one that is explained by default first; a single one, called "",
        where the model returns nothing else. And one line where names that the config gives can't be read.
    """
    from mmpretrain.models.heads import MultiTaskHead

    head = getattr(model, "head", None)
    if isinstance(head, MultiTaskHead):
        heads = dict(_task_heads(head))
        heads = {name: heads[name] for name in sorted(heads, key=lambda name: name != "logits")}
        counts = {name: _class_count(each) for name, each in heads.items()}
    else:
        heads, counts = {"": head}, {"": _class_count(head, model, getattr(model, "model", None))}
    known, problem = _dataset_meta(settings)
    metas = [as_dict(meta.get("dataset_meta")), {"classes": meta.get("CLASSES")}, known]  # the second is of 0.x
    tasks = {name: Task(_names(metas, name, counts), activation_of(each, counts[name])) for name, each in heads.items()}
    return tasks, None if any(task.classes for task in tasks.values()) else problem


def activation_of(head: Any, count: int | None) -> Activation:
    """What a head turns logits into scores with, tried out on some."""
    from mmpretrain.models.heads import MultiLabelClsHead

    logits = torch.linspace(-2, 2, count or 100)[None]
    try:
        with torch.no_grad():
            (sample,) = head._get_predictions(logits, None)
        is_sigmoid = torch.allclose(sample.pred_score, logits[0].sigmoid())
    except Exception:  # noqa: BLE001  a head with another way to predict
        is_sigmoid = isinstance(head, MultiLabelClsHead)
    return "sigmoid" if is_sigmoid else "softmax"


def prediction_output(model: nn.Module) -> Callable[[Any], Any] | None:
    """See ``Classifier.output``."""
    from mmpretrain.models.heads import ConformerHead

    return sum_of_branches if isinstance(getattr(model, "head", None), ConformerHead) else None


def sum_of_branches(logits: tuple[Tensor, Tensor]) -> Tensor:
    """Conformer's logits for prediction: those of its convolutional plus those of its transformer branch."""
    return logits[0] + logits[1]


def dataset_type(settings: Any) -> Any:
    """The class of the config's test data set; None where it names none that is known."""
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import DATASETS

    kind = find_dataset(settings).get("type")
    if not isinstance(kind, str):
        return kind
    try:
        with quiet(), DefaultScope.overwrite_default_scope("mmpretrain"):
            return DATASETS.get(kind)
    except Exception:  # noqa: BLE001  a scope or a package that isn't there
        return None


def _task_heads(head: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The heads of a MultiTaskHead, which may hold others, by the names of their outputs."""
    for name, inner in head.task_heads.items():
        if hasattr(inner, "task_heads"):
            yield from _task_heads(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}", inner


def _class_count(*owners: Any) -> int | None:
    """The number of classes that the head, the model or the model it wraps declares."""
    for owner in owners:
        count = getattr(owner, "num_classes", None)
        if isinstance(count, int) and count > 0:
            return count
    return None


def _names(metas: list[dict[str, Any]], task: str, counts: dict[str, int | None]) -> tuple[str, ...] | None:
    """The class names of a task from the first of ``metas`` that has some, if they are as many as its classes."""
    for meta in metas:
        names = _of_task(meta, task, counts) if task else meta.get("classes")
        if _is_names(names):
            return tuple(map(str, names)) if counts[task] in (None, len(names)) else None
    return None


def _of_task(meta: dict[str, Any], task: str, counts: dict[str, int | None]) -> Any:
    """The names that are given for a task, or for all; these are of the only task with as many classes, if there is.

    MMPretrain fixes no form: ``classes={TASK: [...]}``, ``tasks={TASK: [...]}``, ``tasks={TASK: {"classes": [...]}}``
    and ``TASK={"classes": [...]}`` are read.
    """
    for given in (meta.get("classes"), meta.get("tasks"), meta):
        found: Any = as_dict(given)
        found = found[task] if task in found else _walk(found, task)
        found = found.get("classes") if isinstance(found, dict) else found
        if _is_names(found):
            return found
    names = meta.get("classes")
    if not _is_names(names):
        return None
    fitting = [each for each, count in counts.items() if count == len(names)]
    return names if fitting == [task] else None


def _walk(found: Any, task: str) -> Any:
    for key in task.split("."):
        found = as_dict(found).get(key)
    return found


def _is_names(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple) and bool(value) and not any(isinstance(name, dict) for name in value)


def _dataset_meta(settings: Any) -> tuple[dict[str, Any], str | None]:
    """The meta information that MMPretrain's data set would have, in its order, and a line on what can't be read.

    The config's ``metainfo`` goes before its ``classes``, both before what the type brings; texts in them are files
    of names. The annotation file and the folders of images are looked at where nothing else has names.
    """
    dataset = find_dataset(settings)
    kind = dataset_type(settings)
    given = {"classes": dataset["classes"]} if dataset.get("classes") is not None else {}
    given |= as_dict(dataset.get("metainfo"))
    meta = dict(as_dict(getattr(kind, "METAINFO", None)))
    problem = None
    for key, value in given.items():
        meta[key] = value
        if isinstance(value, str):
            meta[key], why = _lines(value)
            if key == "classes" and why:
                problem = f"the class names of the config's data set can't be read from {value} ({why})"
    if not meta.keys() & {"classes", "tasks"}:
        meta = _found_meta(dataset, kind) | meta
    if "classes" not in meta and "categories" in meta:
        with suppress(KeyError, TypeError):  # of another form than OpenMMLab's
            ordered = sorted(meta["categories"], key=lambda category: category["id"])
            meta["classes"] = [category["category_name"] for category in ordered]
    return meta, problem


def _lines(path: str) -> tuple[Any, str | None]:
    """A file's lines, or the text itself and why it can't be read as a file."""
    from mmengine.fileio import list_from_file

    try:
        return list_from_file(str(Path(path).expanduser()) if "://" not in path else path), None
    except Exception as error:  # noqa: BLE001  as many as there are storages
        return path, getattr(error, "strerror", None) or reason(error)


def _found_meta(dataset: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The meta information in the data set's annotation file, else its folders' names, where these are here."""
    from mmengine.fileio import load
    from mmpretrain.datasets import CustomDataset

    prefix = dataset.get("data_prefix") or ""
    prefix = as_dict(prefix).get("img_path", "") if isinstance(prefix, dict) else prefix
    annotations = dataset.get("ann_file") or ""
    with suppress(Exception):  # the data needn't be here
        root = Path(dataset.get("data_root") or "").expanduser()
        if annotations:
            path = root / Path(annotations).expanduser()
            return as_dict(as_dict(load(path)).get("metainfo")) if path.suffix == ".json" and path.is_file() else {}
        folder = root / Path(prefix).expanduser()
        if folder != Path() and isinstance(kind, type) and issubclass(kind, CustomDataset):
            folders = sorted(each.name for each in folder.iterdir() if each.is_dir())
            return {"classes": folders} if dataset.get("with_label", True) else {}
    return {}
