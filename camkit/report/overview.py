"""The first thing in a report: figures of the whole run, and what stands out."""

from __future__ import annotations

from typing import Any

import numpy as np

from camkit.report.findings import Finding
from camkit.report.found import Found, captioned, own_map
from camkit.report.making import count_of
from camkit.report.maps import UNIFORM
from camkit.report.numbers import interval, mean
from camkit.report.pictures import Artist, Budget, draw_mean


def subject(found: Found) -> str:
    """Whose maps the figures are of, in words."""
    return {
        "predicted": "the predicted class's map",
        "label": "the true class's map",
        "first": "the map of the first class that the run explains",
        "concepts": "the sum of the maps of all concepts",
    }[found.rows.subject]


def tiles(found: Found) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, remark."""
    rows = found.rows
    tiles = [("Images", f"{len(rows):,}", f"{len(found.classes):,} class{'' if len(found.classes) == 1 else 'es'}")]
    labelled = int(rows.labelled.sum())
    if labelled:
        right = int(rows.right.sum())
        low, high = interval(right, labelled)
        of = "" if labelled == len(rows) else f", of {labelled:,} with a label"
        tiles.append(("Accuracy", f"{right / labelled:.1%}", f"95% interval {low:.1%} to {high:.1%}{of}"))
    else:
        tiles.append(("Accuracy", "unknown", "the run has no labels"))
    confidence = mean(rows.score)
    if confidence is None:
        tiles.append(("Mean confidence", "unknown", "the run has no probabilities"))
    else:
        tiles.append(("Mean confidence", f"{confidence:.1%}", "probability of the predicted class"))
    if found.calibration is not None:
        excess = found.calibration.excess
        said = f"confidence is {abs(excess):.1%} {'above' if excess > 0 else 'below'} accuracy"
        tiles.append(("Calibration error", f"{found.calibration.error:.1%}", said))
    border = found.maps.mean_border(np.arange(len(rows)))
    if border is not None:
        tiles.append(("Energy at the border", f"{border:.0%}", f"of {found.method}; a uniform map has {UNIFORM:.0%}"))
    return tiles


def told(finding: Finding, found: Found, artist: Artist, budget: Budget) -> dict[str, Any]:
    """A finding in words, with its mean map and typical images."""
    named = found.rows.run.named
    name = named(finding.category)
    if finding.kind == "border":
        title = f"{name}: the network looks at the border"
        text = (
            f"{finding.values['own']:.0%} of the maps' energy lies in the outer eighth of the picture, in all other "
            f"images {finding.values['others']:.0%}. Look for something there that gives the class away, such as a "
            "mark, a frame or a caption."
        )
    elif finding.kind == "cluster":
        title = f"{name}: some maps lie at the border"
        text = (
            f"In {count_of(len(finding.rows), 'image')} of one cluster {finding.values['own']:.0%} of the energy lies "
            f"in the outer eighth of the picture, in the class's other images {finding.values['others']:.0%}."
        )
    elif finding.kind == "confusion":
        title = f"{name} is often taken for {named(int(finding.values['predicted']))}"
        text = f"That happens to {finding.weight:.0%} of its images."
    else:
        excess = finding.values["excess"]
        title = f"The network is {'too sure of itself' if excess > 0 else 'less sure of itself than it could be'}"
        text = f"Its mean confidence is {abs(excess):.0%} {'above' if excess > 0 else 'below'} its accuracy."
    return {"kind": finding.kind, "title": title, "text": text, "pictures": _evidence(finding, found, artist, budget)}


def examples(finding: Finding, found: Found) -> list[int]:
    """Two images that show what a finding says: at the eighth and the third of those with most at the border."""
    rows = finding.rows[found.maps.there[finding.rows]] if len(finding.rows) else finding.rows
    order = rows[np.argsort(-found.maps.border[rows], kind="stable")] if len(rows) else rows
    return [int(order[len(order) // part]) for part in (8, 3)] if len(order) else []


def _evidence(finding: Finding, found: Found, artist: Artist, budget: Budget) -> list[dict[str, str]]:
    rows = finding.rows[found.maps.there[finding.rows]] if len(finding.rows) else finding.rows
    mean = found.maps.mean(rows) if len(rows) else None
    if mean is None:
        return []
    pictures = captioned(budget, [draw_mean(mean, found.aspect)], ["mean map"])
    for row in examples(finding, found):
        drawn = artist.draw(row)
        both = [each for each in (drawn.image, *own_map(found.rows, row, drawn)) if each is not None]
        pictures += captioned(budget, both, ["image", found.method][-len(both) :])
    return pictures
