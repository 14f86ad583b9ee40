"""Layers that run several times in a forward: siamese networks, mirrored images, shared heads, chains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM, METHODS
from camkit.errors import LayerError, LayerWarning
from tests.engine.test_model_state import assert_unchanged, state
from tests.helpers.by_hand import gradcam, of_class
from tests.helpers.kinds import ON_SMALL_CNN, options
from tests.helpers.networks import SmallCNN, seeded

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, SECOND = torch.randn(2, 2, 3, 32, 32, generator=GENERATOR)


class Siamese(nn.Module):
    """Two images through one backbone; the second one as an argument."""

    def __init__(self, *, first_last: bool = False) -> None:
        super().__init__()
        self.net = SmallCNN()
        self.head = nn.Linear(12, 4)
        self.first_last = first_last

    def embed(self, images: Tensor) -> Tensor:
        return self.net.norm2(self.net.conv2(self.net.relu(self.net.norm1(self.net.conv1(images))))).relu().mean((2, 3))

    def forward(self, images: Tensor, second: Tensor) -> Tensor:
        if self.first_last:
            embedded = [self.embed(second), self.embed(images)][::-1]
        else:
            embedded = [self.embed(images), self.embed(second)]
        logits: Tensor = self.head(torch.cat(embedded, 1))
        return logits


class InChannels(nn.Module):
    """The second image in channels 4 to 6."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Siamese()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images[:, :3], images[:, 3:])
        return logits


class Mirrored(nn.Module):
    """The image and its mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Siamese()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images, images.flip(3))
        return logits


class SharedHead(nn.Module):
    """One head for two resolutions, as detectors have."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(3, 6, 8, 8)
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.fine(images)).mean((2, 3)) + self.head(self.coarse(images).relu()).mean((2, 3))


class Tied(SmallCNN):
    """Weight-tied blocks: each sees what the one before it returned."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm1(self.conv1(images))
        for _ in range(3):
            features = self.norm2(self.conv2(features)).tanh()
        logits: Tensor = self.head(features.flatten(2).mean(2))
        return logits


@pytest.mark.parametrize("first_last", [False, True])
def test_the_call_that_sees_the_images_is_shown(first_last: bool) -> None:
    model = seeded(Siamese(first_last=first_last))
    before = state(model)
    given: Any = {"second": SECOND}
    for layers in (["net.norm2"], None):
        found = CAM(model, "GradCAM", layers, forward_kwargs=given).explain(IMAGES, 1)
        expected = gradcam(model, model.net.norm2, IMAGES, of_class(1), call=int(first_last), **given)
        assert found.layers == ("net.norm2",)
        assert_close(found.raw["net.norm2"][:, 0], expected)
        assert found.other_calls == {}
    assert_unchanged(state(model), before)


def test_every_call_has_a_name() -> None:
    model = seeded(Siamese())
    for call in (0, 1):
        name = f"net.norm2@{call}"
        found = CAM(model, "GradCAM", name, forward_kwargs={"second": SECOND}).explain(IMAGES, 1)
        assert_close(found.raw[name][:, 0], gradcam(model, model.net.norm2, IMAGES, of_class(1), call, second=SECOND))
    with pytest.raises(LayerError, match=r"'net.norm2@2' runs 2 times in this forward: its calls are @0 to @1"):
        CAM(model, "GradCAM", "net.norm2@2", forward_kwargs={"second": SECOND})(IMAGES, 1)


def test_where_several_see_the_images_one_warning_says_which_is_shown() -> None:
    model = seeded(InChannels())
    both = torch.cat([IMAGES, SECOND], 1)
    cam = CAM(model, "GradCAM", "net.net.norm2")
    with pytest.warns(LayerWarning, match=r"runs several times.*name another one with 'net.net.norm2@0'") as caught:
        found = cam.explain(both, 1)
    assert len(caught) == 1
    assert_close(found.raw["net.net.norm2"][:, 0], gradcam(model, model.net.net.norm2, both, of_class(1), 1))
    first = CAM(model, "GradCAM", "net.net.norm2@0").explain(both, 1)
    assert_close(first.raw["net.net.norm2@0"][:, 0], gradcam(model, model.net.net.norm2, both, of_class(1), 0))


def test_a_mirrored_call_keeps_no_places() -> None:
    model = seeded(Mirrored())
    found = CAM(model, "GradCAM", "net.net.norm2").explain(IMAGES, 1)
    assert_close(found.raw["net.net.norm2"][:, 0], gradcam(model, model.net.net.norm2, IMAGES, of_class(1), 0))
    assert found.other_calls == {}


def test_a_head_of_several_resolutions() -> None:
    model = seeded(SharedHead())
    with pytest.warns(LayerWarning, match=r"'head@0'"):
        found = CAM(model, "GradCAM", "head").explain(IMAGES, 1)
    assert_close(found.raw["head"][:, 0], gradcam(model, model.head, IMAGES, of_class(1), 1))


@pytest.mark.parametrize("make", [Tied, SmallCNN])
def test_the_last_call_of_a_chain_counts_without_a_word(make: Any) -> None:
    model = seeded(make())
    name = "norm2" if make is Tied else "relu"
    found = CAM(model, "GradCAM", name).explain(IMAGES, 1)
    assert_close(found.raw[name][:, 0], gradcam(model, model.get_submodule(name), IMAGES, of_class(1)))


@pytest.mark.parametrize("method", [name for name in ON_SMALL_CNN if METHODS[name].takes_layers and name != "CAM"])
def test_other_second_images_change_no_place_of_the_first(method: str) -> None:
    """The heat lies where the first image has its evidence, whichever the second one is."""
    model = seeded(Siamese())
    made = []
    for second in (SECOND, SECOND.flip(3)):
        layers = ["net.norm1", "net.norm2"] if METHODS[method].fusion == "product" else ["net.norm2"]
        small = options(method, num_samples=2, top_k=3, num_concepts=2)
        cam = CAM(model, method, layers, forward_kwargs={"second": second}, **small)
        made.append(cam.explain(IMAGES, 1).raw)
    if not METHODS[method].need.depends_on_targets:
        assert_close(made[0], made[1])
    own = CAM(model, method, "net.norm2@0", forward_kwargs={"second": SECOND}, **small) if len(layers) == 1 else None
    if own is not None:
        assert_close(made[0]["net.norm2"], own.explain(IMAGES, 1).raw["net.norm2@0"])


def test_what_was_found_out_costs_later_calls_nothing() -> None:
    model = seeded(Siamese())
    runs: list[int] = []
    model.head.register_forward_hook(lambda module, args, output: runs.append(1))
    cam = CAM(model, "GradCAM", "net.norm2", forward_kwargs={"second": SECOND})
    for _ in range(2):
        cam(IMAGES, 1)
    runs.clear()
    for second in (SECOND, SECOND + 1):
        CAM(model, "GradCAM", "net.norm2", forward_kwargs={"second": second})(IMAGES, 1)
    assert len(runs) == 2


class Turned(nn.Module):
    """One network on the image in all ways of turning and mirroring it."""

    def __init__(self, *, mirrored: bool) -> None:
        super().__init__()
        self.net = SmallCNN()
        self.mirrored = mirrored

    def forward(self, images: Tensor) -> Tensor:
        views = [images, images.flip(3)] if self.mirrored else [images]
        return torch.stack([self.net(view.rot90(k, (2, 3))) for view in views for k in range(4)]).mean(0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_and_mirrored_calls_keep_no_places(mirrored: bool) -> None:
    model = seeded(Turned(mirrored=mirrored))
    found = CAM(model, "GradCAM", "net.norm2").explain(IMAGES, 1)
    assert_close(found.raw["net.norm2"][:, 0], gradcam(model, model.net.norm2, IMAGES, of_class(1), 0))
    assert found.other_calls == {}


class UntilSmall(nn.Module):
    """As many calls as the image is large."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = nn.Conv2d(3, 3, 3, 2, 1), nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        while images.shape[-1] > 8:
            images = self.block(images).tanh()
        logits: Tensor = self.head(images.mean((2, 3)))
        return logits


def test_other_sizes_may_run_it_more_often_or_less() -> None:
    model = seeded(UntilSmall())
    for side in (32, 64, 16, 64, 32):
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
        found = CAM(model, "GradCAM", "block").explain(images, 1)
        assert_close(found.raw["block"][:, 0], gradcam(model, model.block, images, of_class(1)))


def test_autocast_is_followed_where_a_call_is_found_out() -> None:
    model = seeded(InChannels())
    both = torch.cat([IMAGES, SECOND], 1)
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(LayerWarning):
        first, second = (CAM(model, "GradCAM", "net.net.norm2").explain(both, 1) for _ in range(2))
    assert first.logits.dtype == second.logits.dtype == torch.bfloat16
    assert_close(first.maps, second.maps)
