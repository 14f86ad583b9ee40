"""Scores of masked images and of what is left without a channel, against the plainest way to compute them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from camkit import CAM, AugSmooth
from camkit.errors import LayerError, NonFiniteError
from camkit.methods import METHODS
from camkit.methods.needs import AblatedScore, MaskedScore
from camkit.signals.perturbed import Ablated, Fillings, Masked
from tests.helpers.forwards import feature_maps
from tests.helpers.kinds import options
from tests.helpers.networks import SmallCNN, SmallViT, seeded
from tests.helpers.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MASKS = torch.rand(2, 7, 16, 16, generator=torch.Generator().manual_seed(1))


def plain_mask(images: Tensor, items: Tensor) -> Tensor:
    return MASKS[images, items]


def probability(row: Tensor) -> Tensor:
    """The third class's probability."""
    return row.softmax(0)[2]


class Weighted(SmallCNN):
    """Takes an argument that belongs to the images one by one."""

    def forward(self, images: Tensor, weights: Any = (1.0, 1.0)) -> Tensor:
        return super().forward(images) * torch.tensor(weights)[:, None]


class TestMasked:
    @pytest.mark.parametrize(
        ("targets", "columns"),
        [([[0, 2, 4], [1, 1, 3]], [[0, 2, 4], [1, 1, 3]]), (2, [[2], [2]])],
        ids=["several", "one"],
    )
    @pytest.mark.parametrize("weights", [None, [1.0, 2.0]], ids=["alone", "together"])
    def test_scores_are_of_masked_images(self, targets: Any, columns: list[list[int]], weights: Any) -> None:
        model = seeded(Weighted()) if weights else seeded(SmallCNN())
        kwargs = {"weights": weights} if weights else {}
        items = torch.tensor([[0, 3, 6, 2], [5, 5, 1, 0]])
        with feature_maps(model, [], IMAGES, targets, forward_kwargs=kwargs) as found:
            score = Masked(found.forward, check=True)
            assert isinstance(score, MaskedScore)
            made = score(plain_mask, items)
        for image in range(2):
            for number, item in enumerate(items[image].tolist()):
                shown = IMAGES.clone()
                shown[image] *= MASKS[image, item]
                logits = model(shown, **kwargs)[image].detach()
                assert_close(made[:, image, number], logits[columns[image]])

    def test_functions_score_too(self) -> None:
        model = seeded(SmallCNN())
        with feature_maps(model, [], IMAGES, [[probability, 1], [2, probability]]) as found:
            made = Masked(found.forward, check=True)(plain_mask, torch.tensor([[0, 1], [2, 3]]))
        logits = model(IMAGES * MASKS[[0, 1], [0, 2]][:, None]).detach()
        assert_close(made[:, 0, 0], torch.stack([probability(logits[0]), logits[0, 1]]))
        assert_close(made[:, 1, 0], torch.stack([logits[1, 2], probability(logits[1])]))

    def test_volumes(self) -> None:
        volumes = torch.randn(2, 3, 8, 10, 12, generator=torch.Generator().manual_seed(0))
        made = CAM(seeded(SmallCNN(dimensions=3)), "ScoreCAM", "conv2")(volumes, 1)
        assert made.shape == (2, 8, 10, 12)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_in_other_precisions(self, dtype: torch.dtype) -> None:
        expected = CAM(seeded(SmallCNN()), "ScoreCAM", "conv2")(IMAGES, 1)
        made = CAM(seeded(SmallCNN()).to(dtype), "ScoreCAM", "conv2")(IMAGES, 1)
        assert_close(made, expected, rtol=0, atol=1e-5 if dtype == torch.float64 else 0.05)

    @pytest.mark.parametrize("broken", [torch.nan, torch.inf])
    def test_scores_that_arent_finite_are_named(self, broken: float) -> None:
        class Breaks(SmallCNN):
            """Can't take an image whose corner is dark, as the second image's is behind its second channel."""

            def forward(self, images: Tensor) -> Tensor:
                logits = super().forward(images)
                return torch.where((images[:, 0, :1, :1] == 0).flatten(1), broken, logits)

        model = seeded(Breaks())
        masks = MASKS.clone()
        masks[1, 2, 0, 0] = 0
        with feature_maps(model, [], IMAGES, [[0, 3], [1, 4]]) as found:
            score = Masked(found.forward, check=True)
            with pytest.raises(NonFiniteError, match=f"image 1 scores {broken} for target 0 behind channel 2: "):
                score(lambda images, items: masks[images, items], torch.arange(7).expand(2, -1))
            unchecked = Masked(found.forward, check=False)(
                lambda images, items: masks[images, items], torch.arange(7).expand(2, -1)
            )
            assert not unchecked[:, 1, 2].isfinite().any()
            assert unchecked[:, 0].isfinite().all()

    def test_by_a_cam_too(self) -> None:
        class Divides(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images) / (images.flatten(1).amin(1) < -2).float()[:, None]

        images = IMAGES.clone()
        images[:, :, 3, 4] = -3
        with pytest.raises(NonFiniteError, match=r"image 0 scores -?inf for target 0 behind channel \d"):
            CAM(seeded(Divides()), "ScoreCAM", "conv2")(images, 1)


class TestAblated:
    def test_some_channels(self) -> None:
        model = seeded(SmallCNN())
        with feature_maps(model, "conv2", IMAGES, [[0, 3], [1, 4]]) as found:
            score = Ablated(found, "conv2", check=True)
            assert isinstance(score, AblatedScore)
            every = score(torch.arange(6).expand(2, -1))
            some = score(torch.tensor([[5, 0], [2, 2]]))
        assert_close(some[:, 0], every[:, 0, [5, 0]])
        assert_close(some[:, 1], every[:, 1, [2, 2]])
        assert_close(score.scores.T, found.forward.scores)

    def test_all_tokens_lose_the_channel(self) -> None:
        model = seeded(SmallViT())
        kept: list[Tensor] = []
        with feature_maps(model, "layers.1.ln1", IMAGES, 1) as found:
            made = Ablated(found, "layers.1.ln1", check=True)(torch.tensor([[3], [3]]))

        def without(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            kept.append(output)
            changed = output.clone()
            changed[:, :, 3] = 0
            return changed

        model.layers[1].ln1.register_forward_hook(without)
        assert_close(made[0, :, 0], model(IMAGES)[:, 1].detach())

    def test_branches_are_changed_one_by_one(self) -> None:
        class Pair(nn.Module):
            def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
                return features.relu(), functional.avg_pool2d(features, 2)

        class Net(SmallCNN):
            def __init__(self) -> None:
                super().__init__()
                self.pair = Pair()

            def forward(self, images: Tensor) -> Tensor:
                fine, coarse = self.pair(self.conv2(self.conv1(images)))
                return self.head(fine.mean((2, 3)) + 2 * coarse.mean((2, 3)))

        model = seeded(Net())
        found = CAM(model, "AblationCAM", "pair").explain(IMAGES, 1)
        assert set(found.raw) == {"pair[0]", "pair[1]"}
        features = model.conv2(model.conv1(IMAGES)).detach()
        fine, coarse = model.pair(features)
        scores = found.scores[:, :, None, None]
        for name, layer, factor in (("pair[0]", fine, 1), ("pair[1]", coarse, 2)):
            losses = factor * layer.mean((2, 3)) * model.head.weight[1].detach()
            expected = (losses[:, :, None, None] * layer).sum(1) / scores[:, 0].abs()
            assert_close(found.raw[name][:, 0], expected, rtol=1e-4, atol=1e-5)

    def test_a_layout_of_ones_own_shows_where_channels_are(self) -> None:
        """Rearranged, scaled and resized ones; which are exchanged or mixed can't be told."""
        model = seeded(SmallViT())
        own = CAM(model, "AblationCAM", "layers.1.ln1").explain(IMAGES, 1).raw["layers.1.ln1"]

        def on_grid(output: Tensor) -> Tensor:
            return 2 * output[:, 1:].mT.unflatten(2, (4, 4))

        found = CAM(model, "AblationCAM", "layers.1.ln1", reshape_transform=on_grid).explain(IMAGES, 1)
        assert_close(found.raw["layers.1.ln1"], 2 * own)
        for mixed in (lambda output: on_grid(output).flip(1), lambda output: on_grid(output).cumsum(1)):
            cam = CAM(model, "AblationCAM", "layers.1.ln1", reshape_transform=mixed)
            with pytest.raises(LayerError, match="a reshape_transform that mixes channels.*such as LayerCAM"):
                cam(IMAGES, 1)

    def test_class_scores_near_zero_dont_turn_the_map_over(self) -> None:
        model = seeded(SmallCNN())
        plain = CAM(model, "AblationCAM", "conv2").explain(IMAGES, 1)
        model.head.bias.data[1] -= 2 * plain.scores.max().item()
        moved = CAM(model, "AblationCAM", "conv2").explain(IMAGES, 1)
        assert moved.scores.max() < 0
        ratio = (plain.scores.abs() / moved.scores.abs())[:, :, None, None]
        assert_close(moved.raw["conv2"], plain.raw["conv2"] * ratio, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["ScoreCAM", "SS-CAM", "IS-CAM", "AblationCAM"])
class TestTopK:
    def test_all_is_all(self, method: str) -> None:
        model, given = seeded(SmallCNN()), options(method, num_samples=3)
        expected = CAM(model, method, "conv2", **given).explain(IMAGES, 1).raw["conv2"]
        for top_k in (6, 100):
            made = CAM(model, method, "conv2", top_k=top_k, **given).explain(IMAGES, 1).raw["conv2"]
            assert_close(made, expected)

    def test_fewer_run_fewer_and_are_those_of_each_image(self, method: str) -> None:
        model, given = seeded(SmallCNN()).double(), options(method, num_samples=3)
        told: list[tuple[int, int]] = []
        cam = CAM(model, method, "conv2", top_k=2, progress=lambda *how: told.append(how), **given)
        made = cam(IMAGES, 1)
        assert told[-1][1] == 2 * 2 * given.get("num_samples", 1)
        assert_close(made, torch.cat([cam(IMAGES[i : i + 1], 1) for i in range(2)]), rtol=0, atol=1e-5)


def test_noise_is_the_same_for_every_image_and_call() -> None:
    model = seeded(SmallCNN())
    for method in ("SS-CAM", "SmoothGradCAM++"):
        twins = torch.cat([IMAGES[:1], IMAGES[:1]])
        cam = CAM(model, method, "conv2", num_samples=3)
        made = cam(twins, 1)
        assert_close(made[0], made[1])
        assert_close(cam(twins, 1), made)
        other = CAM(model, method, "conv2", num_samples=3, seed=1)(twins, 1)
        assert not torch.allclose(other, made, atol=1e-3)


def test_smooth_gradients_without_noise_are_grad_cam_pp() -> None:
    model = seeded(SmallCNN()).double()
    made = CAM(model, "SmoothGradCAM++", "conv2", std=0).explain(IMAGES, [[0, 1], [2, 3]])
    expected = CAM(model, "GradCAM++", "conv2").explain(IMAGES, [[0, 1], [2, 3]])
    assert_close(made.raw, expected.raw)


def test_smooth_gradients_follow_autocast() -> None:
    kinds: set[torch.dtype] = set()

    class Notes(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            features = self.conv2(self.conv1(images))
            kinds.add(features.dtype)
            return self.head(features.flatten(2).mean(2))

    model = seeded(Notes())
    with torch.autocast("cpu", torch.bfloat16):
        CAM(model, "SmoothGradCAM++", "conv2")(IMAGES, 1)
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if each.family == "perturbation"])
def test_aug_smooth(method: str) -> None:
    model, given = seeded(SmallCNN()).double(), options(method, num_samples=2)
    made = AugSmooth(CAM(model, method, "conv2", **given), chunk_size=2)(IMAGES, 1)
    assert_close(made, AugSmooth(CAM(model, method, "conv2", **given), chunk_size=100)(IMAGES, 1))


@pytest.mark.filterwarnings("ignore::camkit.errors.OutputWarning")
@pytest.mark.parametrize("method", ["ScoreCAM", "AblationCAM", "SmoothGradCAM++"])
def test_a_constant_with_as_many_rows_as_a_chunk_is_not_taken_for_the_scores(method: str) -> None:
    class Prototypes(SmallCNN):
        """Its first tensor has a row per prototype, as many as a chunk has images."""

        def forward(self, images: Tensor) -> Any:
            return torch.arange(20.0).view(4, 5), super().forward(images)

    found = CAM(seeded(Prototypes()), method, "conv2", batch_size=4).explain(IMAGES[:1], 1)
    alone = CAM(seeded(SmallCNN()), method, "conv2", batch_size=4).explain(IMAGES[:1], 1)
    assert_close(found.raw, alone.raw)


class TestFillings:
    def test_take_every_place_and_leave_other_tokens(self) -> None:
        model = seeded(SmallViT()).double()
        values = torch.randn(3, 8, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with feature_maps(model, "layers.1.ln1", IMAGES.double(), 1) as found, torch.no_grad():
            made = Fillings(found, "layers.1.ln1").run(1, values, 3)
        model.layers[1].ln1.register_forward_hook(
            lambda module, args, output: torch.cat([output[:, :1], values.flatten(1)[:, None].expand(-1, 16, -1)], 1)
        )
        assert_close(made, model(IMAGES[[1, 1, 1]].double()).detach())

    def test_of_ones_own_layout_are_refused(self) -> None:
        with feature_maps(seeded(SmallCNN()), "conv2", IMAGES, 1, reshape_transform=lambda output: output) as found:
            message = refusal(Fillings, LayerError, found, "conv2")
        assert message.startswith("what 'conv2' returns can't be changed through a reshape_transform")
