"""Signed maps of an image as ``--save-raw`` writes them, and how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from camkit.explanation import Explanation
    from camkit.models.classifier import Classifier


def arrays(explanations: Sequence[Explanation]) -> dict[str, NDArray[Any]]:
    """The image's signed maps by ``METHOD/LAYER``, and the attributions of every input channel by ``METHOD.pixels``."""
    found = {f"{each.method}/{layer}": maps for each in explanations for layer, maps in each.raw.items()}
    found |= {f"{each.method}.pixels": each.pixels for each in explanations if each.pixels is not None}
    return {name: array[0].cpu().numpy() for name, array in found.items()}


def provenance(
    classifier: Classifier,
    explanations: Sequence[Explanation],
    *,
    image: str,
    device: str,
    cfg_options: Sequence[str] = (),
    num_extra_tokens: int | None = None,
) -> dict[str, Any]:
    """How the maps of one image were made, as JSON holds it.

    Args:
        classifier: The model.
        explanations: Of the image, by one or several methods.
        image: Its path.
        device: As it was asked for.
        cfg_options: As they were given.
        num_extra_tokens: As it was given.
    """
    told = {each.method: each.provenance() for each in explanations}
    first = next(iter(told.values()))
    logits = explanations[0].logits[0]
    categories = categories_of(explanations)
    asked = [told[each.method] for each in explanations if not each.finds_concepts]
    checkpoint = classifier.checkpoint
    return {
        "image": image,
        "config": classifier.source,
        "cfg_options": list(cfg_options),
        "checkpoint": checkpoint and {"source": checkpoint.source, "sha256": checkpoint.sha256},
        "checkpoint_notes": list(classifier.notes),
        "activation": classifier.activation,
        "methods": list(told),
        "method_options": {method: each["options"] for method, each in told.items()},
        "layers": {method: each["layers"] for method, each in told.items()},
        "smoothing": first["smoothing"],
        "num_extra_tokens": num_extra_tokens,
        "output": first["output"],
        "categories": categories,
        "names": [classifier.name(category) for category in categories],
        "scores": asked[0]["scores"][0] if asked else [],
        "probabilities": [classifier.probability(logits, category) for category in categories],
        "concepts": {each.method: _concepts(classifier, each) for each in explanations if each.finds_concepts},
        "input_size": first["input_size"],
        "device": device,
        "versions": first["versions"],
    }


def categories_of(explanations: Sequence[Explanation]) -> list[int]:
    """The class indices explained, which all methods share; none where every method finds concepts of its own."""
    asked = [each for each in explanations if not each.finds_concepts]
    return [int(cast("int", category)) for category in asked[0].targets[0]] if asked else []


def _concepts(classifier: Classifier, explanation: Explanation) -> list[dict[str, Any]]:
    pairs = zip(explanation.targets[0], explanation.scores[0], strict=True)
    return [
        {"category": int(category), "name": classifier.name(int(category)), "score": float(score)}
        for category, score in pairs
    ]
