"""What stands in a report: sections of plain values, which the template lays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camkit.report.charts import calibration_chart
from camkit.report.clusters import FEWEST, MOST, Cluster
from camkit.report.found import Found, captioned, own_map
from camkit.report.maps import UNIFORM
from camkit.report.overview import examples, subject, tiles, told
from camkit.report.pictures import Artist, Budget, draw_mean

CARDS = 120
"""Images that are shown one by one."""
CONFUSIONS = 50
CLASSES = 500
"""Rows of the table of classes."""
CLUSTERED = 24
"""Classes whose clusters are shown."""
CARDS_SHARE, CLUSTERS_SHARE = 0.6, 0.7
"""Of the room for pictures: what the cards may take; what clusters may take of the rest."""


def wanted_rows(found: Found) -> list[int]:
    """The rows that a report shows where there is room for all of them."""
    shown = [*_in_order(found)[0][:CARDS].tolist()]
    for clusters in list(found.clusters.values())[:CLUSTERED]:
        shown += [int(row) for each in clusters for row in each.typical]
    return shown + [row for each in found.findings for row in examples(each, found)]


def lay_out(found: Found, artist: Artist, room: int) -> dict[str, Any]:
    """The sections, with as many pictures as there is room for.

    Args:
        found: What to say.
        artist: Who draws.
        room: Bytes that pictures may take in the page.
    """
    first = Budget(room)
    findings = [told(each, found, artist, first) for each in found.findings]
    cards = Budget(int(first.left * CARDS_SHARE))
    images = _images(found, artist, cards)
    rest = first.left - int(first.left * CARDS_SHARE) + cards.left
    clusters = Budget(int(rest * CLUSTERS_SHARE))
    clustered = _clusters(found, artist, clusters)
    classes = _classes(found, Budget(rest - int(rest * CLUSTERS_SHARE) + clusters.left))
    return {
        "method": found.method,
        "subject": subject(found),
        "has_labels": found.rows.has_labels,
        "uniform": UNIFORM,
        "tiles": tiles(found),
        "findings": findings,
        "calibration": None if found.calibration is None else calibration_chart(found.calibration),
        "images": images,
        "confusions": _confusions(found),
        "classes": classes,
        "clusters": clustered,
    }


def _images(found: Found, artist: Artist, budget: Budget) -> dict[str, Any]:
    """Confident errors, or the least sure images where there are no errors or no labels."""
    order, kind = _in_order(found)
    cards = []
    for row in order[:CARDS].tolist():
        card = _card(row, found, artist, budget)
        if card is None:
            break
        cards.append(card)
    return {
        "kind": kind,
        "cards": cards,
        "total": len(order),
        "labels": _options(cards, "label"),
        "predicted": _options(cards, "predicted"),
        "both": any(each["both"] for each in cards),
    }


def _in_order(found: Found) -> tuple[NDArray[np.int64], str]:
    """The rows that are shown one by one, the first first, and what they are."""
    rows = found.rows
    wrong = np.flatnonzero(rows.wrong)
    if len(wrong):
        return wrong[np.argsort(-rows.score[wrong], kind="stable")], "errors"
    return np.argsort(rows.score, kind="stable"), "unsure"


def _options(cards: Sequence[dict[str, Any]], name: str) -> list[tuple[int, str]]:
    """The classes to filter cards by."""
    return sorted({(card[name], card[f"{name}_name"]) for card in cards if card[f"{name}_name"]})


def _card(row: int, found: Found, artist: Artist, budget: Budget) -> dict[str, Any] | None:
    """An image with its maps; None where there is no room."""
    rows = found.rows
    about = rows.run.row(row)
    label, predicted = int(rows.label[row]), int(rows.predicted[row])
    drawn = artist.draw(row)
    shown: list[bytes] = []
    captions: list[str] = []
    if drawn.image is not None:
        shown.append(drawn.image)
        captions.append("image")
    names = {predicted: f"predicted: {rows.run.named(predicted)}", label: f"true: {rows.run.named(label)}"}
    if predicted == label:
        names = {predicted: rows.run.named(predicted)}
    wanted = [each for each in (predicted, label) if each in drawn.categories]
    for category in dict.fromkeys(wanted) or drawn.categories[:2]:
        shown.append(drawn.maps[drawn.categories.index(category)])
        captions.append(names.get(category, rows.run.named(category)))
    if not drawn.categories and drawn.maps:
        shown.append(drawn.maps[0])
        captions.append("concepts")
    pictures = captioned(budget, shown, captions)
    if shown and not pictures:
        return None
    border = float(found.maps.border[row])
    return {
        "id": about["id"],
        "label": label,
        "predicted": predicted,
        "label_name": rows.run.named(label) if label >= 0 else "",
        "predicted_name": rows.run.named(predicted) if predicted >= 0 else "no class",
        "score": float(rows.score[row]),
        "label_score": None if np.isnan(rows.label_score[row]) else float(rows.label_score[row]),
        "border": None if np.isnan(border) else border,
        "pictures": pictures,
        "both": len(wanted) > 1 and predicted != label,
    }


def _confusions(found: Found) -> dict[str, Any]:
    named = found.rows.run.named
    shown = [
        {
            "label": each.label,
            "predicted": each.predicted,
            "label_name": named(each.label),
            "predicted_name": named(each.predicted),
            "count": each.count,
            "share": each.share,
            "score": each.score,
        }
        for each in found.confusions[:CONFUSIONS]
    ]
    return {"rows": shown, "total": len(found.confusions)}


def _classes(found: Found, budget: Budget) -> dict[str, Any]:
    """The table of classes: the least accurate first, or the most frequent."""
    rows = found.rows
    order = sorted(found.classes, key=lambda each: -len(each.rows) if each.accuracy is None else each.accuracy)
    shown = []
    for each in order[:CLASSES]:
        right, wrong = each.rows[rows.right[each.rows]], each.rows[rows.wrong[each.rows]]
        means = []
        for which, members in (("right", right), ("wrong", wrong)) if rows.has_labels else (("all", each.rows),):
            mean = found.maps.mean(members)
            drawn = [] if mean is None else captioned(budget, [draw_mean(mean, found.aspect)], [which])
            means.append({"which": which, "count": len(members), "picture": drawn[0] if drawn else None})
        shown.append(
            {
                "name": rows.run.named(each.category),
                "count": len(each.rows),
                "accuracy": each.accuracy,
                "score": each.score,
                "border": found.maps.mean_border(each.rows),
                "border_right": found.maps.mean_border(right),
                "border_wrong": found.maps.mean_border(wrong),
                "means": means,
            }
        )
    return {"rows": shown, "total": len(order), "whole": budget.refused == 0}


def _clusters(found: Found, artist: Artist, budget: Budget) -> dict[str, Any]:
    """Classes with their clusters, each with typical images."""
    shown = []
    for category, clusters in list(found.clusters.items())[:CLUSTERED]:
        total = sum(len(each.rows) for each in clusters)
        laid = [_cluster(number, each, total, found, artist, budget) for number, each in enumerate(clusters, 1)]
        if not any(each["pictures"] for each in laid):
            break
        own = next(each for each in found.classes if each.category == category)
        sampled = total if total < int(found.maps.there[own.rows].sum()) else None
        shown.append(
            {"category": category, "name": found.rows.run.named(category), "clusters": laid, "sample": sampled}
        )
    return {"classes": shown, "total": len(found.clusters), "fewest": FEWEST, "most": MOST}


def _cluster(number: int, cluster: Cluster, total: int, found: Found, artist: Artist, budget: Budget) -> dict[str, Any]:
    rows = found.rows
    mean = found.maps.mean(cluster.rows)
    pictures = [] if mean is None else captioned(budget, [draw_mean(mean, found.aspect)], ["mean map"])
    for row in cluster.typical.tolist() if pictures else ():
        pictures += captioned(budget, list(own_map(rows, row, artist.draw(row)))[:1], [rows.run.ids[row]])
    labelled = rows.labelled[cluster.rows]
    return {
        "number": number,
        "count": len(cluster.rows),
        "share": len(cluster.rows) / total,
        "accuracy": float(rows.right[cluster.rows].sum() / labelled.sum()) if labelled.any() else None,
        "border": found.maps.mean_border(cluster.rows),
        "pictures": pictures,
    }
