"""Whether nearly equal images get nearly equal maps."""

from __future__ import annotations

import torch

from camkit.methods.options import Count, NotNegative
from camkit.metrics.perturbations import generator_of
from camkit.metrics.registry import metric
from camkit.metrics.trial import Trial, known
from camkit.metrics.values import Values


@metric(
    "Max-sensitivity",
    family="robustness",
    paper="Yeh et al. 2019, max-sensitivity",
    formula="max over d of |M(x + d) - M(x)| / |M(x)|",
    better="lower",
    needs=("scores", "explainer"),
)
def max_sensitivity(trial: Trial, *, num_samples: Count = 10, radius: NotNegative = 0.02) -> Values:
    """Explain images with a little noise, and measure how far the map moves at most.

        sensitivity = max over d of |M(x + d) - M(x)| / |M(x)|,  d uniform in [-radius, radius]

    at every pixel and channel, with the Euclidean norm over pixels, and 1 in place of a norm of 0. Lower is steadier,
    0 the best; a map that depends on nothing gets 0 too. The curve ``distance`` has all samples.

    Paper: Yeh et al. 2019, max-sensitivity, sampled as in Captum.

    Args:
        trial: maps, images, and a way to explain again that makes the same maps.
        num_samples: how many times noise is drawn; each costs an explanation.
        radius: largest change of a value, in units of the normalised image.

    Raises:
        UsageError: the explainer makes maps of another size.

    Example:
        >>> cam = camkit.GradCAM(model, ["features"])
        >>> found = camkit.metrics.measure("Max-sensitivity", cam(images, 3), images, cam, targets=3, num_samples=3)
        >>> found["Max-sensitivity"].curves["distance"].shape
        torch.Size([2, 3])
    """
    images, targets, explain = trial.image_of_each, known(trial.targets), known(trial.explain)
    generators = [generator_of(image, trial.seed) for image in images]
    norms = trial.maps.flatten(1).norm(dim=1)
    distances = []
    for _ in range(num_samples):
        noise = [radius * (2 * torch.rand(images.shape[1:], generator=each) - 1) for each in generators]
        moved = explain(images + torch.stack(noise).to(images), targets) - trial.maps
        distances.append(moved.flatten(1).norm(dim=1) / norms.where(norms > 0, 1))
    curve = torch.stack(distances, 1)
    zero = (norms == 0).nonzero()[:, 0].tolist()
    notes = dict.fromkeys(zero, "the map is 0 everywhere: distances are not divided by its norm")
    return Values(curve.amax(1), {"distance": curve}, notes=notes)
