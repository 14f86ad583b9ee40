"""Whether maps depend on what the network has learned: they are made again with random parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from camkit.engine.network import Network
from camkit.errors import CamkitError
from camkit.methods.options import Count
from camkit.metrics.cascade import layer_groups, randomising
from camkit.metrics.correlation import spearman
from camkit.metrics.maps import even_maps
from camkit.metrics.ranks import share_of_ties
from camkit.metrics.registry import metric
from camkit.metrics.trial import Trial, known
from camkit.metrics.values import Values
from camkit.typing import Images, Progress

BINS = 100
"""Of the histogram whose entropy efficient MPRT takes."""
Found = TypeVar("Found")


def explain_in_cascade(
    model: nn.Module | Network,
    images: Images,
    explain: Callable[[], Found],
    *,
    groups: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Found]:
    """Explain a network whose layers are randomised in cascade from the output, group by group.

    Args:
        model: the network, see :func:`camkit.metrics.cascade.layer_groups`; it is left as it was, see
            :func:`camkit.metrics.cascade.randomising`.
        images: (B, C, H, W).
        explain: called after each step.
        groups: how many steps there are at most, see :func:`camkit.metrics.cascade.layer_groups`.
        seed: of the parameters that are drawn.
        progress: called with how many of how many steps are through.

    Returns:
        What ``explain`` returned, by the name of the last group that was randomised.

    Raises:
        CamkitError: what ``explain`` raises, with the name of the group.
    """
    found: dict[str, Found] = {}
    steps = layer_groups(model, images, groups)
    with randomising(model.model if isinstance(model, Network) else model, seed) as randomised:
        for group in steps:
            randomised.randomise(group)
            try:
                found[group.name] = explain()
            except CamkitError as error:
                raise type(error)(f"with random parameters from the output to {group.name}: {error}") from error
            if progress:
                progress(len(found), len(steps))
    return found


@metric(
    "MPRT",
    family="randomisation",
    paper="Adebayo et al. 2018, cascading randomisation",
    formula="mean over steps of Spearman of (|M|, |M with random layers from the output on|)",
    better="lower",
    needs=("scores", "explainer"),
)
def mprt(trial: Trial, *, groups: Count = 16) -> Values:
    """Correlate the map with maps of the network while its layers are randomised from the output on.

        MPRT = mean over s of Spearman(|M|, |M_s|),  M_s after s of S groups of layers got random parameters

    Lower is better, in [-1, 1]: a map that stays the same while the network forgets all it learned gets 1, and shows
    the image, not what the network sees in it. The curve ``correlation`` has all steps; its last one is of a network
    without any trained parameter. The target stays that of the trained network. Equal values get the mean of their
    ranks, so that normalising the maps changes nothing, and ``ties`` has the share of pixels with an equal. Maps that
    are the same everywhere correlate with nothing: 0.

    The network is left bit for bit as it was. A CAM's default layers stay those of the trained network; where its
    ``output`` is a function they are chosen in every call, so name them.

    Paper: Adebayo et al. 2018, cascading randomisation; how parameters are drawn stands in
    :func:`camkit.metrics.cascade.randomising`.

    Args:
        trial: maps, images, the network, and a way to explain it again that makes the same maps.
        groups: how many groups of layers there are at most; each costs an explanation,
            and the trained network one more.

    Raises:
        UsageError: quantised weights, or none at all; an explainer that makes maps of another size.

    Example:
        >>> cam = camkit.GradCAM(model, ["features"])
        >>> found = camkit.metrics.measure("MPRT", cam(images, 3), images, cam, targets=3)
        >>> found["MPRT"].curves["correlation"].shape[0]
        2
    """
    return correlations(trial.maps, _cascade(trial, groups))


@metric(
    "Efficient MPRT",
    family="randomisation",
    paper="Hedström et al. 2024, eMPRT",
    formula="(H(M of the random network) - H(M)) / H(M), H the entropy of a histogram",
    better="higher",
    needs=("scores", "explainer"),
)
def efficient_mprt(trial: Trial) -> Values:
    """Measure how much more complex the map is when the whole network is randomised.

        efficient MPRT = (H(M_random) - H(M)) / H(M),  H the entropy of the map's values in 100 bins

    from a map's least to its largest value. Higher is better: a map of a trained network should be simpler than one of
    noise; 0 where it is as complex. A map that is the same everywhere has no entropy to compare with: 0.

    The network is left bit for bit as it was.

    Paper: Hedström et al. 2024, eMPRT.

    Args:
        trial: maps, images, the network, and a way to explain it again that makes the same maps.

    Raises:
        UsageError: quantised weights, or none at all; an explainer that makes maps of another size.

    Example:
        >>> cam = camkit.GradCAM(model, ["features"])
        >>> found = camkit.metrics.measure("Efficient MPRT", cam(images, 3), images, cam, targets=3)
        >>> found["Efficient MPRT"].values.shape
        torch.Size([2])
    """
    (random,) = _cascade(trial, 1).values()
    return entropy_rise(trial.maps, random)


def correlations(maps: Tensor, steps: Mapping[str, Tensor]) -> Values:
    """MPRT of maps (N, H, W) of a trained network and, by the name of the step, of one more and more random."""
    rows = [
        [spearman(before, after) for before, after in zip(_magnitudes(maps), _magnitudes(random), strict=True)]
        for random in steps.values()
    ]
    curve = torch.tensor(rows, dtype=torch.float64).T
    notes = {number: f"{line}: correlation 0" for number, line in even_maps(maps).items()}
    for name, random in steps.items():
        for number in even_maps(random):
            notes.setdefault(number, f"the map is the same everywhere after {name} was randomised: correlation 0")
    taken = torch.arange(1, len(steps) + 1, dtype=torch.float64) / len(steps)
    return Values(curve.mean(1), {"correlation": curve}, taken, share_of_ties(maps.abs()), notes)


def entropy_rise(maps: Tensor, random: Tensor) -> Values:
    """Efficient MPRT of maps (N, H, W) of a trained and a wholly random network."""
    pairs = [(histogram_entropy(a), histogram_entropy(b)) for a, b in zip(maps, random, strict=True)]
    values = [(after - before) / before if before else 0.0 for before, after in pairs]
    curve = torch.tensor(pairs, dtype=torch.float64)
    notes = {number: f"of the random network {line}: its entropy is 0" for number, line in even_maps(random).items()}
    notes |= {number: f"{line}: no entropy to compare with" for number, line in even_maps(maps).items()}
    return Values(torch.tensor(values, dtype=torch.float64), {"entropy": curve}, notes=notes)


def histogram_entropy(heat: Tensor) -> float:
    """Entropy, in nats, of the histogram of a map (H, W) from its least to its largest value, in 100 bins."""
    values = heat.flatten().numpy()
    low, high = values.min(), values.max()
    if low < high and not (np.diff(np.linspace(low, high, BINS + 1)) > 0).all():
        # Numbers have no room for the edges of so many bins between the two.
        values = (values - low) / (high - low)
    counts, _ = np.histogram(values, bins=BINS)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _cascade(trial: Trial, groups: int) -> dict[str, Tensor]:
    """Maps (N, H, W) after each step."""
    images, targets, explain = trial.image_of_each, known(trial.targets), known(trial.explain)
    explain(images, targets)  # a CAM chooses its default layers by the trained network
    return explain_in_cascade(
        known(trial.network), known(trial.images), lambda: explain(images, targets), groups=groups, seed=trial.seed
    )


def _magnitudes(maps: Tensor) -> Tensor:
    return maps.flatten(1).abs()
