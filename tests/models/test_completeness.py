"""Checkpoints of other people, through each framework: equal to the framework's own loading, or refused in one line."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
import torch
from torch import Tensor

from camkit.errors import CheckpointError, UsageError
from camkit.models.settings import Reading
from tests.models.loading import IMAGES, VIT, VIT_OPTIONS, Loader, assert_same

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning")]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def renamed(state: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): tensor for name, tensor in state.items()}


class TestNothingIsExplainedAtRandom:
    """What the scores depend on comes from the file, or an error says what is there instead."""

    def test_a_head_under_another_name(self, loader: Loader, timm: Any, models: Any) -> None:
        state = renamed(timm.create_model("resnet10t", num_classes=10).state_dict(), "fc.", "fc.1.")
        message = loader.refused(CheckpointError, "timm:resnet10t", state)
        assert "fc.weight (1000, 512) is missing (the file has fc.1.weight (10, 512))" in message
        state = renamed(models.resnet18(num_classes=3).state_dict(), "fc.", "head.")
        assert "the file has head.weight (3, 512)" in loader.refused(CheckpointError, "torchvision:resnet18", state)

    @pytest.mark.parametrize("channels", [1, 4])
    def test_another_number_of_channels(self, channels: int, loader: Loader, timm: Any) -> None:
        model = timm.create_model("resnet10t", in_chans=channels, num_classes=3)
        message = loader.refused(CheckpointError, "timm:resnet10t", model.state_dict())
        assert f"conv1.0.weight is (24, {channels}, 3, 3) in the file and (24, 3, 3, 3) in the model" in message
        assert ("build the network that fits with --cfg-options in_chans=1;" in message) == (channels == 1)

    def test_grey_images_for_a_network_of_one_channel(self, loader: Loader, timm: Any, photo: str) -> None:
        model = timm.create_model("resnet10t", in_chans=1, num_classes=3)
        classifier = loader("timm:resnet10t", model.state_dict(), "in_chans=1")
        inputs = classifier.prepare(photo).inputs
        assert inputs.shape[1] == 1
        assert_same(classifier, model, "layer4", inputs)

    def test_a_position_embedding_of_another_size(self, loader: Loader, models: Any) -> None:
        model = models.vit_b_32(image_size=96, num_classes=3)
        message = loader.refused(CheckpointError, "torchvision:vit_b_32", model.state_dict())
        assert "encoder.pos_embedding is (1, 10, 768) in the file and (1, 50, 768) in the model" in message
        assert "--cfg-options image_size=96" in message

    def test_half_a_file(self, loader: Loader, timm: Any) -> None:
        state = timm.create_model("resnet10t").state_dict()
        message = loader.refused(CheckpointError, "timm:resnet10t", dict(list(state.items())[: len(state) // 2]))
        assert "is missing" in message

    def test_running_statistics_left_out(self, loader: Loader, timm: Any) -> None:
        state = timm.create_model("resnet10t").state_dict()
        kept = {name: tensor for name, tensor in state.items() if name != "layer3.0.bn2.running_var"}
        message = loader.refused(CheckpointError, "timm:resnet10t", kept)
        assert "layer3.0.bn2.running_var (256,) is missing" in message

    @pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2])
    def test_quantised_weights(self, kind: torch.dtype, loader: Loader, timm: Any) -> None:
        state = timm.create_model("resnet10t").state_dict()
        state["fc.weight"] = state["fc.weight"].mul(100).to(kind)
        assert f"fc.weight as {kind}" in loader.refused(CheckpointError, "timm:resnet10t", state)

    def test_a_part_where_it_is_asked_for(self, loader: Loader, timm: Any) -> None:
        state = timm.create_model("resnet10t").state_dict()
        del state["fc.weight"]
        first, second, other = (
            loader("timm:resnet10t", state, reading=Reading(allow_partial=True, seed=seed)) for seed in (3, 3, 4)
        )
        assert first.load_warning is not None
        assert (
            "1 missing from the checkpoint (fc.weight); what is lacking is random, drawn with --seed 3"
            in first.load_warning
        )
        heads = [each.model.fc.weight for each in (first, second, other)]  # type: ignore[union-attr]
        assert torch.equal(heads[0], heads[1])  # type: ignore[arg-type]
        assert not torch.equal(heads[0], heads[2])  # type: ignore[arg-type]

    def test_what_the_scores_do_not_need(self, loader: Loader, models: Any) -> None:
        """Auxiliary heads: missing, of another size, or more of them than the model has."""
        model = models.googlenet(num_classes=3, init_weights=False)
        state = model.state_dict()
        classifier = loader("torchvision:googlenet", {key: state[key] for key in state if not key.startswith("aux")})
        assert classifier.load_warning is not None
        assert "isn't needed for the scores" in classifier.load_warning
        assert_same(classifier, model, "inception5b.branch1", IMAGES)
        state["aux1.fc2.weight"] = torch.ones(7, 1024)
        assert "1 of another shape" in str(loader("torchvision:googlenet", state).load_warning)
        extras = {
            "ema.fc.weight": torch.ones(3, 3),
            "head_dist.weight": torch.ones(3, 3),
            "projection.0.weight": torch.ones(3, 3),
        }
        warned = loader("torchvision:googlenet", model.state_dict() | extras)
        assert "3 unknown to the model (ema.fc.weight, head_dist.weight, projection.0.weight)" in str(
            warned.load_warning
        )
        assert_same(warned, model, "inception5b.branch1", IMAGES)


class TestOtherArchitectures:
    """All of the model's tensors fit, and the file has blocks besides: the score would be another network's."""

    def test_a_deeper_resnet(self, loader: Loader, models: Any) -> None:
        state = models.resnet34(num_classes=3).state_dict()
        message = loader.refused(CheckpointError, "torchvision:resnet18", {"state_dict": state, "arch": "resnet34"})
        assert "is of another architecture: 80 of its tensors" in message
        assert "layer1.2.conv1.weight" in message
        assert "the file says that it is of resnet34" in message

    def test_a_deeper_transformer(self, loader: Loader, timm: Any) -> None:
        state = timm.create_model("vit_tiny_patch16_224", **(VIT | {"depth": 3})).state_dict()
        message = loader.refused(CheckpointError, "timm:vit_tiny_patch16_224", state, *VIT_OPTIONS)
        assert "12 of its tensors belong to blocks that the VisionTransformer doesn't have (blocks.2." in message

    def test_squeeze_and_excitation_in_every_block(self, loader: Loader, timm: Any) -> None:
        state = timm.create_model("seresnet18").state_dict()
        assert "layer1.0.se." in loader.refused(CheckpointError, "timm:resnet18", state)

    def test_layer_scale(self, loader: Loader, timm: Any) -> None:
        state = timm.create_model("vit_tiny_patch16_224", init_values=0.1, **VIT).state_dict()
        message = loader.refused(CheckpointError, "timm:vit_tiny_patch16_224", state, *VIT_OPTIONS)
        assert "blocks.0.ls1.gamma" in message
        assert loader("timm:vit_tiny_patch16_224", state, *VIT_OPTIONS, "init_values=0.1").load_warning is None


class TestWeightsAndWrappers:
    @pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
    def test_averaged_weights_of_timm(self, key: str, loader: Loader, timm: Any) -> None:
        live, averaged = (timm.create_model("resnet10t", num_classes=3) for _ in range(2))
        content = {"state_dict": live.state_dict(), key: averaged.state_dict(), "args": Namespace(model="resnet10t")}
        classifier = loader("timm:resnet10t", content)
        own = timm.create_model("resnet10t", num_classes=3)
        timm.models.load_checkpoint(own, str(loader.path))
        assert classifier.notes == (f"EMA weights ({key}); --weights live takes the live ones (state_dict)",)
        assert_same(classifier, own, "layer4", IMAGES)
        assert_same(loader("timm:resnet10t", content, reading=Reading(weights="live")), live, "layer4", IMAGES)
        message = loader.refused(
            UsageError, "timm:resnet10t", {"model": live.state_dict()}, reading=Reading(weights="ema")
        )
        assert "it has model (live)" in message

    def test_averaged_weights_of_torchvisions_scripts(self, loader: Loader, models: Any) -> None:
        """They are of a subclass of torch's AveragedModel."""
        live, source = models.resnet18(num_classes=3), models.resnet18(num_classes=3)
        averaged = torch.optim.swa_utils.AveragedModel(source)
        args = Namespace(val_crop_size=64, val_resize_size=72, interpolation="bilinear")
        content = {"model": live.state_dict(), "model_ema": averaged.state_dict(), "epoch": 3, "args": args}
        classifier = loader("torchvision:resnet18", content)
        assert "EMA weights (model_ema)" in classifier.notes[0]
        assert classifier.notes[1:] == (
            "names without their prefix 'module.'", "preprocessing as in its training: resize 72 (bilinear), crop 64",
        )  # fmt: skip
        assert_same(classifier, source, "layer4", IMAGES)
        assert_same(loader("torchvision:resnet18", content, reading=Reading(weights="live")), live, "layer4", IMAGES)

    @pytest.mark.parametrize(
        ("prefix", "entry"),
        [
            ("module.", "state_dict"),
            ("model.", "model_state_dict"),
            ("net.backbone.", "net"),
            ("_orig_mod.module.", "checkpoint"),
            ("lit.student_net.", "weights"),
        ],
    )
    def test_prefixes_in_entries(self, prefix: str, entry: str, loader: Loader, timm: Any) -> None:
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64, **VIT)
        state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
        classifier = loader(
            "timm:vit_tiny_patch16_224", {"run": {entry: state}, "epoch": 3}, *VIT_OPTIONS, "img_size=64"
        )
        assert f"names without their prefix '{prefix}'" in classifier.notes
        assert_same(classifier, model, "patch_embed.proj", IMAGES)

    def test_averaged_model_alone(self, loader: Loader, timm: Any) -> None:
        model = timm.create_model("resnet10t", num_classes=3)
        averaged = torch.optim.swa_utils.AveragedModel(model)
        classifier = loader("timm:resnet10t", averaged.state_dict())
        assert classifier.load_warning is None
        assert_same(classifier, model, "layer4", IMAGES)
