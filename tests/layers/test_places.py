"""Do a layer's positions stand for places of the image? Queries, latents and turned images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM
from camkit.errors import LayerError
from tests.helpers.by_hand import gradcam, of_class
from tests.helpers.networks import SmallCNN, seeded

pytestmark = pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning")

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
"""The encoder's grid is 8 x 8: as many tokens as there are queries in some of the networks."""


class Detector(nn.Module):
    """A convolution, an encoder over its places, and a decoder of learned queries, as DETR's."""

    def __init__(self, queries: int = 64) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.place = nn.Parameter(torch.zeros(64, 16))
        self.query = nn.Parameter(torch.zeros(queries, 16))
        encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), 2)
        self.classes = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.encoder(self.patch(images).flatten(2).mT + self.place)
        logits: Tensor = self.classes(self.decoder(self.query.expand(len(images), -1, -1), tokens))
        return logits


class Latents(nn.Module):
    """Learned latents that read the image by cross-attention, as Perceiver's; a sure convolution in front."""

    def __init__(self, latents: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.norm = nn.BatchNorm2d(16)
        self.latent = nn.Parameter(torch.zeros(latents, 16))
        self.start = nn.LayerNorm(16)
        self.read = nn.MultiheadAttention(16, 2, batch_first=True)
        self.blocks = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
        )
        self.classes = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.patch(images)).flatten(2).mT
        latents = self.start(self.latent).expand(len(images), -1, -1)
        latents = latents + self.read(latents, tokens, tokens)[0]
        logits: Tensor = self.classes(self.blocks(latents).mean(1))
        return logits


def best(row: Tensor) -> Tensor:
    """The best score of one class of a row (queries, classes)."""
    return row[:, 2].amax()


@pytest.mark.parametrize("queries", [64, 16, 100])
def test_queries_are_no_picture(queries: int) -> None:
    model = seeded(Detector(queries))
    found = CAM(model).explain(IMAGES, best)
    assert found.layers == ("encoder.layers.1.norm2",)
    for name in ("decoder.layers.0.norm1", "decoder.layers.1.norm3"):
        with pytest.raises(LayerError, match="tokens"):
            CAM(model, target_layers=name).explain(IMAGES, best)


@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM", "EigenCAM", "AttentionRollout", "LeGrad"])
def test_the_order_of_queries_changes_no_map(method: str) -> None:
    model = seeded(Detector())
    before = CAM(model, method).explain(IMAGES, best).maps
    with torch.no_grad():
        model.query.copy_(model.query[torch.randperm(64, generator=torch.Generator().manual_seed(0))])
    assert_close(CAM(model, method).explain(IMAGES, best).maps, before, rtol=0, atol=1e-4)


def test_rollout_is_of_the_encoder() -> None:
    model = seeded(Detector())
    found = CAM(model, "AttentionRollout").explain(IMAGES, best)
    assert found.layers == ("encoder.layers.0", "encoder.layers.1")


@pytest.mark.parametrize("latents", [16, 64])
def test_latents_are_no_picture(latents: int) -> None:
    model = seeded(Latents(latents))
    assert CAM(model).explain(IMAGES, 1).layers == ("norm",)
    with pytest.raises(LayerError):
        CAM(model, target_layers="blocks.layers.1.norm2").explain(IMAGES, 1)


class Turns(nn.Module):
    """Works on the image with its sides exchanged, as networks of spectrograms do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(images.transpose(2, 3))


class Tokens(nn.Module):
    """Tokens of patches, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.encoder(self.patch(images).flatten(2).mT)).mean(1))
        return logits


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 48)])
@pytest.mark.parametrize(("make", "layer"), [(SmallCNN, "norm2"), (Tokens, "norm"), (Tokens, "encoder.layers.0.norm2")])
@pytest.mark.parametrize("method", ["GradCAM", "EigenCAM", "AblationCAM"])
def test_turned_images_make_turned_maps(make: Any, layer: str, method: str, size: tuple[int, int]) -> None:
    """Transposing the image and the network transposes the map."""
    plain = seeded(make())
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    turned = CAM(Turns(plain), method, f"net.{layer}").explain(images, 1)
    expected = CAM(plain, method, layer).explain(images.transpose(2, 3), 1)
    assert_close(turned.raw[f"net.{layer}"], expected.raw[layer].transpose(2, 3))
    assert_close(turned.maps, expected.maps.transpose(2, 3), rtol=0, atol=1e-5)


def test_a_turned_network_at_other_sizes_and_by_default() -> None:
    model = seeded(SmallCNN())
    turns = Turns(model)
    for size in ((64, 64), (32, 80)):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
        found = CAM(turns).explain(images, 1)
        expected = gradcam(turns, model.norm2, images, of_class(1)).transpose(1, 2)
        assert found.layers == ("net.norm2",)
        assert_close(found.raw["net.norm2"][:, 0], expected)


@pytest.mark.parametrize("make", [SmallCNN, Tokens])
def test_a_mirrored_image_mirrors_the_map(make: Any) -> None:
    """As far as the network itself treats mirrored images alike: tokens without positions do, but for rounding."""
    if make is SmallCNN:
        model = seeded(make())
        with torch.no_grad():
            for conv in (model.conv1, model.conv2):
                conv.weight.copy_(conv.weight + conv.weight.flip(3))
            model.conv1.stride = (1, 1)
    else:
        model = seeded(make())
        with torch.no_grad():
            model.patch.weight.copy_(model.patch.weight + model.patch.weight.flip(3))
    plain, mirrored = (CAM(model).explain(images, 1).maps for images in (IMAGES, IMAGES.flip(3)))
    with torch.no_grad():
        apart = (model(IMAGES) - model(IMAGES.flip(3))).abs().max() / model(IMAGES).abs().max()
    assert_close(mirrored.flip(3), plain, rtol=0, atol=max(1e-4, 10 * float(apart)))


class Mixes(nn.Module):
    """A convolution, then layers that mix all places: no corner of their outputs stands out."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, 8)
        self.mix = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.patch(images).flatten(2)
        for mix in self.mix:
            features = mix(features).tanh()
        logits: Tensor = self.head(self.norm(features.unflatten(2, (8, 8))).square().mean((2, 3)))
        return logits


@pytest.mark.parametrize("seed", range(4))
def test_the_first_convolutions_tell_where_a_layer_does_not(seed: int) -> None:
    plain = seeded(Mixes(), seed)
    turned = CAM(Turns(plain), "GradCAM", "net.norm").explain(IMAGES, 1)
    expected = CAM(plain, "GradCAM", "norm").explain(IMAGES.transpose(2, 3), 1)
    assert_close(turned.raw["net.norm"], expected.raw["norm"].transpose(2, 3))


class MixesOften(Mixes):
    """Has several layers that can't tell."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(6))
        self.forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        features = self.patch(images).flatten(2)
        for mix in self.mix:
            features = mix(features).tanh()
        maps = features.unflatten(2, (8, 8))
        for norm in self.norms:
            maps = norm(maps)
        logits: Tensor = self.head(self.norm(maps).square().mean((2, 3)))
        return logits


def test_many_layers_that_cannot_tell_ask_the_first_convolutions_once() -> None:
    def forwards(names: list[str]) -> int:
        model = seeded(MixesOften())
        for norm in model.norms:
            norm.reset_parameters()  # all return the same, and can tell as little as the first
        CAM(model, "GradCAM", names).explain(IMAGES, 1)
        return int(model.forwards)

    assert forwards(["norms.0"]) > 2  # the images, tilted ones, and once more for the convolutions
    assert forwards([f"norms.{number}" for number in range(6)]) == forwards(["norms.0"])


class AsAsked(nn.Module):
    """Turns the image if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallCNN()

    def forward(self, images: Tensor, turn: bool = True) -> Any:
        return self.net(images.transpose(2, 3) if turn else images)


def test_what_is_found_out_holds_for_the_same_arguments() -> None:
    model = seeded(AsAsked())
    for turn in (True, False, True):
        found = CAM(model, "GradCAM", "net.norm2", forward_kwargs={"turn": turn}).explain(IMAGES, 1)
        by_hand = gradcam(model, model.net.norm2, IMAGES, of_class(1), turn=turn)
        assert_close(found.raw["net.norm2"][:, 0], by_hand.transpose(1, 2) if turn else by_hand)


class Rotates(Turns):
    """Works on the image upside down, which is no exchange of its sides."""

    def forward(self, images: Tensor) -> Any:
        return self.net(images.rot90(2, (2, 3)))


def test_other_turns_are_refused() -> None:
    with pytest.raises(LayerError, match="no map of a 64x64 input"):
        CAM(Rotates(seeded(SmallCNN())), "GradCAM", "net.norm2").explain(IMAGES, 1)


def test_fullgrad_of_turned_networks_is_refused() -> None:
    with pytest.raises(LayerError, match="exchanges the image's sides"):
        CAM(Turns(seeded(SmallCNN())), "FullGrad").explain(IMAGES, 1)


class Blind(SmallCNN):
    """Its last norm works on a learned map."""

    def __init__(self) -> None:
        super().__init__()
        self.learned = nn.Parameter(torch.zeros(1, 6, 8, 8))
        self.last = nn.BatchNorm2d(6)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(images)))))
        weights = self.last(self.learned).expand(len(images), -1, -1, -1).mean((2, 3))
        logits: Tensor = self.head(features.relu().mean((2, 3)) * weights)
        return logits


def test_the_default_layer_depends_on_the_images() -> None:
    assert CAM(seeded(Blind())).explain(IMAGES, 1).layers == ("norm2",)
