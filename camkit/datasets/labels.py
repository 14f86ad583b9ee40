"""Classes of a data set's images, from names of folders and what lists say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from camkit.datasets.sources import Source, some
from camkit.errors import UsageError, closest

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier

Labels = tuple[list[int | None], str]


def labelled(source: Source, classifier: Classifier, class_count: int) -> Labels:
    """The class index of every image, and a line about what folders mean.

    Names of folders are classes' names or indices; else, where there are as many folders as classes, their sorted
    names stand for them in order, as data sets in folders are usually read. Images beside the folders have no label.

    Raises:
        UsageError: A list's labels that are no classes of the model, or names that are a class by name and another one
            by index.
    """
    names = sorted({label for label in source.labels if isinstance(label, str)})
    known, wrong = _find(names, source, classifier, class_count)
    return (_of_folders if source.folders else _of_list)(source, classifier, class_count, known, wrong)


def _find(
    names: Sequence[str], source: Source, classifier: Classifier, class_count: int
) -> tuple[dict[str, int], list[str]]:
    """Classes of names, exact names before indices and other spellings; and those that are none."""
    classes = classifier.classes or ()
    counts, places = Counter(classes), {name: index for index, name in enumerate(classes)}
    exact = {name: places[name] for name in names if counts[name] == 1}
    indices = {name: int(name) for name in names if name.isdecimal() and int(name) < class_count}
    if len(exact) < len(names) or len(indices) == len(names):
        for name in sorted(exact.keys() & indices.keys()):
            if exact[name] != indices[name]:
                raise UsageError(
                    f"{source.name} has labels such as {name!r}, which is class {exact[name]} by name and class "
                    f"{indices[name]} by index: give a .jsonl list whose labels are numbers, which are indices"
                )
    known, wrong = dict(exact), []
    for name in names:
        try:
            known.setdefault(name, classifier.find_category(name) if name not in known else known[name])
        except UsageError:
            wrong.append(name)
    return known, wrong


def _of_folders(
    source: Source, classifier: Classifier, class_count: int, known: dict[str, int], wrong: Sequence[str]
) -> Labels:
    names = sorted([*known, *wrong])
    bad = sorted([*wrong, *(name for name in known if not 0 <= known[name] < class_count)])
    line = ""
    if bad:
        wordnet = all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names)
        if len(names) != class_count or (classifier.classes is not None and not wordnet):
            count = f"{len(bad)} of " if len(bad) < len(names) else ""
            line = (
                f"no labels: {count}the {len(names)} folders ({some(bad)}) are no classes of {classifier.source}, "
                f"which has {class_count}"
            )
            return [None] * len(source), line
        known = {name: index for index, name in enumerate(names)}
        line = f"labels: the {class_count} folders in alphabetical order, {names[0]} is {classifier.named(0)}"
    beside = [
        source.ids[at].as_py() for at, label in enumerate(source.labels) if label is None and at not in source.problems
    ]
    if beside:
        line += f"{'; ' if line else ''}no labels for {len(beside)} images beside the class folders: {some(beside)}"
    return [None if label is None else known[str(label)] for label in source.labels], line


def _of_list(
    source: Source, classifier: Classifier, class_count: int, known: dict[str, int], wrong: Sequence[str]
) -> Labels:
    if wrong:
        near = closest(wrong[0], classifier.classes or ())
        raise UsageError(
            f"{source.name} has {len(wrong)} labels that are no classes of {classifier.source}: {some(wrong)}{near}"
        )
    labels = [known[each] if isinstance(each, str) else each for each in source.labels]
    outside = sorted({each for each in labels if each is not None and not 0 <= each < class_count})
    if outside:
        raise UsageError(
            f"{source.name} has {len(outside)} labels outside the classes 0..{class_count - 1} of "
            f"{classifier.source}: {some(map(str, outside))}"
        )
    return labels, ""
