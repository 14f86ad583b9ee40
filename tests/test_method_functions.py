"""Methods of scores, attention, biases and concepts, as functions, against their slow oracles: float64, to 1e-9."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit import UsageError
from camkit.methods import METHODS
from camkit.methods.concept import deep_feature_factorization, factorise, start
from camkit.methods.objectives import Finer, ReST, finer
from camkit.methods.pixel import fullgrad, guided_backprop, guided_gradcam
from camkit.methods.requests import AblatedScore, Attended, MaskedScore
from camkit.methods.scored import most_varied
from tests import oracles
from tests.kinds import DERIVED, PURE
from tests.oracles import Array

each_space = pytest.mark.parametrize(
    ("spatial", "size"), [((3, 4), (7, 6)), ((2, 3, 2), (4, 5, 3)), ((5,), (11,))], ids=["2d", "3d", "1d"]
)
each_top = pytest.mark.parametrize("top_k", [None, 1, 3, 5, 9])
CHANNELS, BATCH, TARGETS = 5, 3, 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def double(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def close(made: Tensor, slow: Any) -> None:
    expected = torch.from_numpy(np.asarray(slow))
    assert expected.std() > 0
    assert_close(made, expected, rtol=1e-9, atol=1e-9)


def chosen(sizes: Array, top_k: int | None) -> list[int]:
    """The largest, in rising order of their numbers."""
    order = sorted(range(len(sizes)), key=lambda each: -sizes[each])
    return sorted(order[:top_k])


# Scores of masked images.


class Masks:
    """Scores of masked images by a made-up network: neither linear, nor the same for every image or target."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size = size
        self.images = random(BATCH, 3, *size)
        self.weights = random(TARGETS, 3, *size, seed=1)
        self.asked = 0

    def score(self, image: Array, target: int) -> float:
        total = float((self.weights[target].numpy() * image).sum())
        return float(np.sin(total) + 0.1 * total + 0.05 * np.square(image).sum() * (1 - target))

    def __call__(self, mask: Callable[[Tensor, Tensor], Tensor], items: Tensor, samples: int = 1) -> Tensor:
        """Images in turns, two items at a time."""
        made = torch.zeros(TARGETS, *items.shape, dtype=torch.float64)
        for first in range(0, items.shape[1], 2):
            part = items[:, first : first + 2]
            for image in range(BATCH):
                masks = mask(torch.full((part.shape[1],), image), part[image])
                assert masks.shape == (part.shape[1], *self.size)
                for number, each in enumerate(masks):
                    shown = (self.images[image] * each).numpy()
                    made[:, image, first + number] = double([self.score(shown, t) for t in range(TARGETS)])
        self.asked += items.numel()
        return made


def scored(method: str, a: Tensor, masks: Masks, **options: Any) -> Tensor:
    assert isinstance(masks, MaskedScore)
    made: Tensor = METHODS[method].configured(**options).signed_maps(a, masks)
    return made


def slowly(a: Tensor, masks: Masks, oracle: Callable[..., Array], top_k: int | None) -> Array:
    """``oracle`` of a channel image's activations, the image, its score and its channels: (T, B, *S)."""
    return np.stack(
        [
            np.stack(
                [
                    oracle(each, image, lambda x, t=target: masks.score(x, t), chosen(each.std(tuple(axes)), top_k))
                    for each, image in zip(a.numpy(), masks.images.numpy(), strict=True)
                    for axes in [range(1, each.ndim)]
                ]
            )
            for target in range(TARGETS)
        ]
    )


@each_space
@each_top
def test_scorecam(spatial: tuple[int, ...], size: tuple[int, ...], top_k: int | None) -> None:
    a, masks = random(BATCH, CHANNELS, *spatial, seed=2), Masks(size)
    close(scored("ScoreCAM", a, masks, top_k=top_k), slowly(a, masks, oracles.scorecam, top_k))
    assert masks.asked == BATCH * min(top_k or CHANNELS, CHANNELS)


def noise_of(samples: int, size: tuple[int, ...], std: float, seed: int) -> Array:
    """One field per sample, which all channels and images share."""
    generator = torch.Generator().manual_seed(seed)
    return (std * torch.randn(samples, *size, generator=generator).double()).numpy()


@each_space
@pytest.mark.parametrize(
    ("options", "top_k"), [({"num_samples": 4, "std": 0.7, "seed": 5}, None), ({"num_samples": 2}, 3)]
)
def test_sscam(spatial: tuple[int, ...], size: tuple[int, ...], options: Any, top_k: int | None) -> None:
    a, masks = random(BATCH, CHANNELS, *spatial, seed=2), Masks(size)
    noise = noise_of(options["num_samples"], size, options.get("std", 2.0), options.get("seed", 0))
    expected = slowly(a, masks, lambda a, x, score, channels: oracles.sscam(a, x, score, noise, channels), top_k)
    close(scored("SS-CAM", a, masks, top_k=top_k, **options), expected)


def test_sscam_by_default() -> None:
    """35 samples, noise of twice the mask's range."""
    a, masks = random(BATCH, CHANNELS, 3, 4, seed=2), Masks((3, 4))
    noise = noise_of(35, (3, 4), 2.0, 0)
    close(
        scored("SS-CAM", a, masks),
        slowly(a, masks, lambda a, x, score, channels: oracles.sscam(a, x, score, noise), None),
    )


@pytest.mark.parametrize("samples", [1, 3])
def test_sscam_without_noise_is_scorecam(samples: int) -> None:
    a, masks = random(BATCH, CHANNELS, 3, 4, seed=2), Masks((7, 6))
    assert_close(scored("SS-CAM", a, masks, std=0.0, num_samples=samples), scored("ScoreCAM", a, masks))


@each_space
@pytest.mark.parametrize(("samples", "top_k"), [(10, None), (3, 2), (1, None)])
def test_iscam(spatial: tuple[int, ...], size: tuple[int, ...], samples: int, top_k: int | None) -> None:
    a, masks = random(BATCH, CHANNELS, *spatial, seed=2), Masks(size)
    steps = oracles.printed_path(samples)
    assert steps == pytest.approx([i * (i - 1) / 2 / samples for i in range(1, samples + 1)])
    expected = slowly(a, masks, lambda a, x, score, channels: oracles.iscam(a, x, score, steps, channels), top_k)
    close(scored("IS-CAM", a, masks, num_samples=samples, top_k=top_k), expected)


def test_iscam_by_default() -> None:
    a, masks = random(BATCH, CHANNELS, 3, 4, seed=2), Masks((3, 4))
    assert_close(scored("IS-CAM", a, masks), scored("IS-CAM", a, masks, num_samples=10), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["ScoreCAM", "SS-CAM", "IS-CAM"])
def test_the_channels_that_vary_the_most_are_each_images_own(method: str) -> None:
    """An image's map is what it is alone; others' channels don't enter."""
    a, masks = random(BATCH, CHANNELS, 3, 4, seed=2), Masks((3, 4))
    channels = most_varied(a, 2)
    assert channels.tolist() == [chosen(each, 2) for each in a.numpy().std((2, 3))]
    assert len({tuple(row) for row in channels.tolist()}) > 1
    changed = a.clone()
    others = torch.tensor(sorted({0, 1, 2, 3, 4} - set(channels[0].tolist())))
    changed[0, others] *= 0.1
    made = scored(method, a, masks, top_k=2)
    assert_close(scored(method, changed, masks, top_k=2), made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["ScoreCAM", "SS-CAM", "IS-CAM"])
def test_channels_that_are_the_same_everywhere_mask_everything(method: str, dtype: torch.dtype) -> None:
    """Their mask is 0, as one of zeros is: not NaN, nor what is left of rounding when they are resized."""
    a, masks = random(BATCH, CHANNELS, 3, 4, seed=2).to(dtype), Masks((13, 11))
    constant, nothing = a.clone(), a.clone()
    constant[:, 1], nothing[:, 1] = 7.7, 0
    made = METHODS[method].weigh(constant, masks)
    assert made.isfinite().all()
    assert_close(made, METHODS[method].weigh(nothing, masks), rtol=0, atol=0)


# Scores of ablated activations.


class Ablations:
    """Scores of activations by a made-up network behind them; target 1 scores below zero."""

    def __init__(self, activations: Tensor) -> None:
        self.activations = activations
        self.weights = random(*activations.shape[1:], seed=3)
        self.scores = double([[self.score(a, target) for a in activations.numpy()] for target in range(TARGETS)])
        assert (self.scores[1] < 0).all()
        assert (self.scores[0] > 0).all()

    def score(self, a: Array, target: int) -> float:
        found = float(np.tanh((self.weights.numpy() * a).sum()) + 0.02 * np.square(a).sum() + 1)
        return -0.3 * found if target else found

    def __call__(self, channels: Tensor) -> Tensor:
        made = torch.zeros(TARGETS, *channels.shape, dtype=torch.float64)
        for image, row in enumerate(channels.tolist()):
            for number, channel in enumerate(row):
                without = self.activations[image].clone()
                without[channel] = 0
                made[:, image, number] = double([self.score(without.numpy(), t) for t in range(TARGETS)])
        return made


@each_space
@each_top
def test_ablationcam(spatial: tuple[int, ...], size: tuple[int, ...], top_k: int | None) -> None:
    a = random(BATCH, CHANNELS, *spatial, seed=2)
    score = Ablations(a)
    assert isinstance(score, AblatedScore)
    made = METHODS["AblationCAM"].configured(top_k=top_k).signed_maps(a, score)
    norms = np.sqrt(np.square(a.numpy()).reshape(BATCH, CHANNELS, -1).sum(2))
    expected = [
        [
            oracles.ablationcam(each, lambda x, t=target: score.score(x, t), chosen(norm, top_k))
            for each, norm in zip(a.numpy(), norms, strict=True)
        ]
        for target in range(TARGETS)
    ]
    close(made, expected)


def test_ablationcam_of_a_score_of_zero_is_finite() -> None:
    class Nothing(Ablations):
        def score(self, a: Array, target: int) -> float:
            return 0.0

        def __init__(self, activations: Tensor) -> None:
            self.activations, self.scores = activations, torch.zeros(TARGETS, BATCH, dtype=torch.float64)

    a = random(BATCH, CHANNELS, 3, 4)
    assert not METHODS["AblationCAM"].signed_maps(a, Nothing(a)).any()


# Attention.

GRID, FRONT, BACK = (2, 3), 2, 1
TOKENS = FRONT + 6 + BACK
ROWS = [[[0], [1, 4]], [[3], [0, 1, 2, 8]], [[8], [5]]]
"""By image and target: the tokens that the score reads."""


def lay_out(relevance: Tensor) -> Tensor:
    return relevance[:, :, FRONT : TOKENS - BACK].unflatten(2, GRID)


@dataclass
class Blocks:
    """Three blocks of two heads."""

    attended: Attended
    probabilities: list[Array]
    gradients: list[Array]


def blocks() -> Blocks:
    probabilities = [(2 * random(BATCH, 2, TOKENS, TOKENS, seed=seed)).softmax(3) for seed in range(3)]
    gradients = [random(TARGETS, BATCH, 2, TOKENS, TOKENS, seed=seed + 10) for seed in range(3)]
    readout = torch.zeros(TARGETS, BATCH, TOKENS, dtype=torch.float64)
    for image, targets in enumerate(ROWS):
        for target, rows in enumerate(targets):
            readout[target, image, rows] = 1 / len(rows)
    attended = Attended(probabilities, gradients, readout, lay_out)
    return Blocks(attended, [each.numpy() for each in probabilities], [each.numpy() for each in gradients])


def by_target_and_image(made: Callable[[int, int], Array]) -> Array:
    return np.stack([np.stack([made(target, image) for image in range(BATCH)]) for target in range(TARGETS)])


def on_grid(relevance: Array) -> Array:
    return np.asarray(relevance[FRONT : TOKENS - BACK].reshape(GRID))


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_attention_rollout(fusion: str) -> None:
    given = blocks()
    made = METHODS["AttentionRollout"].configured(head_fusion=fusion).signed_maps(given.attended)

    def slow(target: int, image: int) -> Array:
        return on_grid(oracles.rollout([p[image] for p in given.probabilities], ROWS[image][target], fusion))

    close(made, by_target_and_image(slow))


def test_gradient_rollout() -> None:
    given = blocks()

    def slow(target: int, image: int) -> Array:
        attention, gradients = [p[image] for p in given.probabilities], [g[target, image] for g in given.gradients]
        return on_grid(oracles.gradient_rollout(attention, gradients, ROWS[image][target]))

    close(METHODS["GradientRollout"].signed_maps(given.attended), by_target_and_image(slow))


@pytest.mark.parametrize("count", [1, 3])
def test_legrad(count: int) -> None:
    given = blocks()
    attended = Attended(given.attended.probabilities[:count], given.attended.gradients[:count], torch.ones(()), lay_out)

    def slow(target: int, image: int) -> Array:
        return oracles.legrad([g[target, image] for g in given.gradients[:count]], GRID, FRONT, BACK)

    close(METHODS["LeGrad"].signed_maps(attended), by_target_and_image(slow))


def test_attention_by_images_and_targets_alone() -> None:
    """Neither the batch nor other targets enter an image's map."""
    given = blocks().attended
    alone = Attended(
        [p[1:2] for p in given.probabilities], [g[1:, 1:2] for g in given.gradients], given.readout[1:, 1:2], lay_out
    )
    for name in ("LeGrad", "AttentionRollout", "GradientRollout"):
        assert_close(METHODS[name].signed_maps(alone), METHODS[name].signed_maps(given)[1:, 1:2])


# Pixels.


@each_space
def test_fullgrad(spatial: tuple[int, ...], size: tuple[int, ...]) -> None:
    product = random(TARGETS, BATCH, 3, *size)
    layers = [
        (random(4, seed=1), random(TARGETS, BATCH, 4, *spatial, seed=2)),
        (random(2, seed=3), random(TARGETS, BATCH, 2, *size, seed=4)),
        (random(3, seed=5), random(TARGETS, BATCH, 3, *[2] * len(size), seed=6)),
    ]
    terms = [product, *(bias.view(-1, *[1] * len(size)) * gradient for bias, gradient in layers)]

    def slow(target: int, image: int) -> Array:
        biases = [(bias.numpy(), gradient[target, image].numpy()) for bias, gradient in layers]
        return oracles.fullgrad(product[target, image].numpy(), biases)

    close(fullgrad(terms, size), by_target_and_image(slow))


def test_fullgrad_of_a_channel_that_is_the_same_everywhere() -> None:
    """It adds nothing: rescaling takes it to 0."""
    product = random(1, 1, 3, 4, 5)
    flat = torch.full((1, 1, 2, 4, 5), 7.0, dtype=torch.float64)
    assert_close(fullgrad([product, flat], (4, 5)), fullgrad([product], (4, 5)))


@each_space
def test_guided(spatial: tuple[int, ...], size: tuple[int, ...]) -> None:
    images, guided = random(BATCH, 3, *size), random(TARGETS, BATCH, 3, *size, seed=1)
    a, g = random(BATCH, CHANNELS, *spatial, seed=2), random(TARGETS, BATCH, CHANNELS, *spatial, seed=3)

    def slow(target: int, image: int) -> Array:
        small = oracles.raw("GradCAM", a[image].numpy(), g[target, image].numpy())
        return oracles.guided_gradcam(guided[target, image].numpy(), small)

    close(guided_gradcam(a, g, images, guided), by_target_and_image(slow))
    assert guided_backprop(images, guided) is guided


# Concepts.


def started(matrix: Array, count: int, seed: int) -> tuple[Array, Array]:
    """Random factors, of the size that the mean asks for."""
    generator = torch.Generator().manual_seed(seed)
    scale = float(np.sqrt(matrix.mean() / count))
    shapes = (len(matrix), count), (count, matrix.shape[1])
    w, h = (torch.randn(shape, dtype=torch.float64, generator=generator).abs().numpy() for shape in shapes)
    return scale * w, scale * h


@each_space
@pytest.mark.parametrize(("count", "seed"), [(1, 0), (3, 0), (4, 7)])
def test_deep_feature_factorization(spatial: tuple[int, ...], size: tuple[int, ...], count: int, seed: int) -> None:
    a = random(BATCH, CHANNELS, *spatial).relu() + 0.1 * random(1, CHANNELS, *[1] * len(spatial), seed=1)
    places, concepts = deep_feature_factorization(a, num_concepts=count, seed=seed)
    matrix = oracles.offset(a.numpy())
    w, maps = oracles.factorized(a.numpy(), *started(matrix, count, seed))
    close(places, np.moveaxis(maps, 1, 0))
    lowest = np.moveaxis(a.numpy(), 1, 0).reshape(CHANNELS, -1).min(1)
    close(concepts, (w + lowest[:, None]).T)


def test_concepts_by_default_are_four() -> None:
    a = random(BATCH, CHANNELS, 3, 4).relu()
    given = METHODS["DFF"].signed_maps(a)
    assert_close(given, deep_feature_factorization(a, num_concepts=4, seed=0), rtol=0, atol=0)
    assert given[0].shape == (4, BATCH, 3, 4)
    assert given[1].shape == (4, CHANNELS)


def test_factors_of_what_has_so_many_are_found() -> None:
    """A product of non-negative factors comes out as one."""
    left, right = random(6, 2).relu() + 0.1, random(2, 30, seed=1).relu()
    matrix = left @ right
    found = factorise(matrix, *start(matrix, 2, 0))
    assert all((each >= 0).all() for each in found)
    assert_close(found[0] @ found[1], matrix, rtol=0, atol=2e-3 * float(matrix.max()))


def test_factors_of_nothing_are_nothing() -> None:
    a = torch.full((2, 3, 2, 2), 0.5)
    places, concepts = deep_feature_factorization(a, num_concepts=2)
    assert not places.any()
    assert_close(concepts, torch.full((2, 3), 0.5))


@pytest.mark.parametrize(("channels", "side", "count"), [(3, 4, 4), (8, 2, 9), (8, 1, 3)])
def test_more_concepts_than_there_is_room_for(channels: int, side: int, count: int) -> None:
    a = random(2, channels, side, side)
    with pytest.raises(UsageError, match=rf"num_concepts is {count}.* {channels} channels and {2 * side**2} places"):
        deep_feature_factorization(a, num_concepts=count)


# Objectives.

LOGITS = torch.tensor(
    [[2.0, -1.0, 0.5, 2.5, 1.9, 7.0], [0.0, 0.3, -0.2, 5.0, 0.31, -4.0], [1.0, 1.0, 1.0, 3.0, 1.0, 1.0]],
    dtype=torch.float64,
)
CATEGORIES = torch.tensor([[0, 3, 5], [1, 1, 0], [2, 3, 5]])


def slow_finer(row: Sequence[float], own: int, ranks: Sequence[int], gamma: float, weights: str) -> float:
    """One class's objective, from numbers."""
    others = [each for each in range(len(row)) if each != own]
    others.sort(key=lambda each: abs(row[each] - row[own]))  # stable: of equals the first class comes first
    near = [others[rank - 1] for rank in ranks if rank <= len(others)]
    total = sum(np.exp(value) for value in row)
    shares = [np.exp(row[each]) / total if weights == "probability" else 1.0 for each in near]
    differences = [row[own] - gamma * row[each] for each in near]
    summed = sum(share * difference for share, difference in zip(shares, differences, strict=True))
    return float(summed / (sum(shares) + (1e-9 if weights == "probability" else 0)))


@pytest.mark.parametrize("weights", ["equal", "probability"])
@pytest.mark.parametrize("ranks", [(1, 2, 3), (1,), (2, 5), (3, 1), (4, 5, 6, 70)])
@pytest.mark.parametrize("gamma", [0.6, 1.0, 0.0])
def test_finer(gamma: float, ranks: tuple[int, ...], weights: str) -> None:
    request = finer(gamma=gamma, comparison=ranks, weights=weights)
    assert request.objective is not None
    expected = [
        [slow_finer(row, own, ranks, gamma, weights) for own in wanted]
        for row, wanted in zip(LOGITS.tolist(), CATEGORIES.tolist(), strict=True)
    ]
    close(request.objective(LOGITS, CATEGORIES), expected)


def test_finer_compares_with_the_three_closest_by_default() -> None:
    assert finer().objective == Finer(0.6, (1, 2, 3), "equal")


@pytest.mark.parametrize("weights", ["equal", "probability"])
def test_finer_of_fewer_classes_than_ranks(weights: str) -> None:
    logits = LOGITS[:, :2]
    made = Finer(0.6, (1, 2, 3), weights)(logits, torch.zeros(3, 1, dtype=torch.long))
    assert_close(made[:, 0], logits[:, 0] - 0.6 * logits[:, 1], rtol=1e-6, atol=0)


def test_finer_gradients_leave_the_choice_of_classes_out() -> None:
    """They are those of the scores, and by "probability" of the shares too."""
    for weights in ("equal", "probability"):
        objective = Finer(0.6, (1, 3), weights)
        assert torch.autograd.gradcheck(
            lambda logits, objective=objective: objective(logits, CATEGORIES[:2]), LOGITS[:2].clone().requires_grad_()
        )


@pytest.mark.parametrize(("ranks", "classes"), [((1, 2, 3), 1), ((3, 4), 3), ((6,), 6)])
def test_finer_needs_a_class_to_compare_with(ranks: tuple[int, ...], classes: int) -> None:
    number = ", ".join(map(str, ranks))
    with pytest.raises(UsageError, match=rf"number {number}; the model has {classes}: use GradCAM"):
        Finer(0.6, ranks, "equal")(LOGITS[:, :classes], torch.zeros(3, 1, dtype=torch.long))


def test_rest() -> None:
    expected = [
        [row[own] + np.log(np.exp(row[own]) / sum(np.exp(value) for value in row)) for own in wanted]
        for row, wanted in zip(LOGITS.tolist(), CATEGORIES.tolist(), strict=True)
    ]
    close(ReST()(LOGITS, CATEGORIES), expected)


def test_every_method_has_an_oracle() -> None:
    """What is neither a function of one layer, see tests.test_methods, nor here: guided, in tests.test_peers_pixels."""
    others = {"ScoreCAM", "SS-CAM", "IS-CAM", "AblationCAM", "LeGrad", "AttentionRollout", "GradientRollout"}
    assert {*PURE, *DERIVED, *others, "FullGrad", "GuidedBackprop", "GuidedGradCAM", "DFF"} == set(METHODS)
