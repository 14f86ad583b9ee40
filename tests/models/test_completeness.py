"""Checkpoints of other people, through each framework: equal to the framework's own loading, or refused in one line."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from camkit.errors import CamkitError, CheckpointError, UsageError
from camkit.models.classifier import Classifier
from camkit.models.load import load
from camkit.models.settings import Preprocessing, Reading
from tests.helpers.refusals import refusal
from tests.models.installed import installed
from tests.models.same import assert_same

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning")]

VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
VIT_OPTIONS = [f"{key}={value}" for key, value in VIT.items()]
IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def timm() -> Any:
    return installed("timm")


@pytest.fixture(scope="module")
def models() -> Any:
    return installed("torchvision").models


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Loader:
    """Writes a checkpoint and loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "net.pth"

    def __call__(self, config: str, content: object, *options: str, **how: Any) -> Classifier:
        torch.save(content, self.path)
        return load(config, str(self.path), cfg_options=options, **how)

    def refused(self, kind: type[CamkitError], config: str, content: object, *options: str, **how: Any) -> str:
        return refusal(self, kind, config, content, *options, **how)


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


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

    def test_quantised_weights(self, loader: Loader, timm: Any) -> None:
        state = timm.create_model("resnet10t").state_dict()
        state["fc.weight"] = state["fc.weight"].mul(100).to(torch.int8)
        assert "fc.weight as torch.int8" in loader.refused(CheckpointError, "timm:resnet10t", state)

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
            "names without their prefix 'module.'", "preprocessing as in its training: resize 72, crop 64",
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


class TestPreprocessing:
    def test_what_timms_training_was_told(self, loader: Loader, timm: Any, photo: str) -> None:
        from PIL import Image

        model = timm.create_model("resnet10t", num_classes=3)
        args = {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.5],
            "input_size": [3, 64, 96],
            "crop_pct": 1.0,
            "interpolation": "bilinear",
        }
        for given in (args, Namespace(**args)):
            classifier = loader("timm:resnet10t", {"state_dict": model.state_dict(), "args": given})
            (note,) = classifier.notes
            assert note.startswith("preprocessing as in its training: size 64x96, mean 0.1 0.2 0.3, std 0.5 0.5 0.5, ")
            assert note.endswith("interpolation bilinear, crop_pct 1.0")
            transform = timm.data.create_transform(**timm.data.resolve_data_config(args, model=model))
            inputs = classifier.prepare(photo).inputs
            assert inputs.shape == (1, 3, 64, 96)
            torch.testing.assert_close(inputs[0], transform(Image.open(photo)), rtol=0, atol=1e-6)
            assert_same(classifier, model, "layer4", inputs)

    @pytest.mark.parametrize(
        "args", [{"mean": "x", "std": [1, 2], "input_size": "big"}, {"mean": None}, "text", {"crop_pct": 7}]
    )
    def test_arguments_that_mean_nothing_to_timm(self, args: object, loader: Loader, timm: Any) -> None:
        state = timm.create_model("resnet10t").state_dict()
        assert loader("timm:resnet10t", {"state_dict": state, "args": args}).notes == ()

    @pytest.mark.parametrize("config", ["timm:resnet10t", "torchvision:resnet18"])
    def test_flags_come_first(self, config: str, loader: Loader, timm: Any, models: Any, photo: str) -> None:
        model = timm.create_model("resnet10t") if "timm" in config else models.resnet18()
        content = {"state_dict": model.state_dict(), "args": {"mean": [0.9] * 3, "input_size": [3, 32, 32]}}
        wanted = Preprocessing(mean=(0.5,), std=(0.25, 0.25, 0.5), input_size=(64,))
        prepared = loader(config, content, preprocessing=wanted).prepare(photo)
        assert prepared.inputs.shape == (1, 3, 64, 64)
        shown = torch.from_numpy(prepared.picture).permute(2, 0, 1).float() / 255
        expected = (shown - 0.5) / torch.tensor([0.25, 0.25, 0.5])[:, None, None]
        torch.testing.assert_close(prepared.inputs[0], expected, rtol=0, atol=1e-5)

    def test_a_size_that_is_not_square(self, loader: Loader, timm: Any, photo: str) -> None:
        model = timm.create_model("vit_tiny_patch16_224", img_size=(96, 160), num_classes=3, **VIT)
        for options, wanted in ((["img_size=(96,160)"], Preprocessing()), ([], Preprocessing(input_size=(96, 160)))):
            classifier = loader(
                "timm:vit_tiny_patch16_224", model.state_dict(), *VIT_OPTIONS, *options, preprocessing=wanted
            )
            assert classifier.model.patch_embed.grid_size == (6, 10)  # type: ignore[union-attr]
            inputs = classifier.prepare(photo).inputs
            assert inputs.shape == (1, 3, 96, 160)
            assert_same(classifier, model, "patch_embed.proj", inputs)

    def test_position_embeddings_that_timm_resamples_are_said(self, loader: Loader, timm: Any) -> None:
        state = timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=3, **VIT).state_dict()
        notes = loader("timm:vit_tiny_patch16_224", state, *VIT_OPTIONS).notes
        assert notes == ("resampled to the model's size by its framework: pos_embed (1, 37, 48) to (1, 197, 48)",)

    @pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
    def test_transform_input_is_said_and_can_be_set(self, name: str, loader: Loader, models: Any) -> None:
        layer = "Mixed_5d.branch1x1" if name == "inception_v3" else "inception5b.branch1"
        images = torch.randn(1, 3, 96, 96)
        for transform_input in (False, True):
            model = models.get_model(name, init_weights=False, num_classes=3, transform_input=transform_input)
            options = ["transform_input=True"] if transform_input else []
            classifier = loader(f"torchvision:{name}", model.state_dict(), *options)
            assert classifier.notes[0].startswith(f"transform_input={transform_input}")
            assert_same(classifier, model, layer, images)

    @pytest.mark.parametrize(
        ("config", "wanted", "says"),
        [
            ("torchvision:resnet18", Preprocessing(input_size=(64, 96)), "crop squares"),
            ("torchvision:resnet18", Preprocessing(input_size=(1, 64, 64)), "three channels"),
            ("timm:resnet18", Preprocessing(input_size=(5, 64, 64)), "in_chans=5 can't be prepared"),
            ("transformers:x", Preprocessing(mean=(0.5,)), "--mean is for timm and torchvision"),
            ("resnet18_8xb32_in1k", Preprocessing(input_size=(64,)), "--input-size is for timm and torchvision"),
        ],
    )
    def test_what_cannot_be_had(self, config: str, wanted: Preprocessing, says: str) -> None:
        assert says in refusal(load, UsageError, config, pretrained=False, preprocessing=wanted)

    @pytest.mark.parametrize(
        "wrong", [{"mean": (1.0, 2.0)}, {"std": (0.0,)}, {"input_size": (0, 3)}, {"input_size": (1, 2, 3, 4)}]
    )
    def test_values_that_are_none(self, wrong: dict[str, Any]) -> None:
        refusal(Preprocessing, UsageError, **wrong)


@pytest.mark.parametrize("config", ["timm:resnet10t", "torchvision:resnet18"])
def test_several_labels_at_once(config: str, loader: Loader, timm: Any, models: Any) -> None:
    model = timm.create_model("resnet10t", num_classes=3) if "timm" in config else models.resnet18(num_classes=3)
    logits = torch.tensor([2.0, 0.0, -1.0])
    assert loader(config, model.state_dict()).probability(logits, 0) == pytest.approx(float(logits.softmax(0)[0]))
    classifier = loader(config, model.state_dict(), activation="sigmoid")
    assert classifier.probability(logits, 0) == pytest.approx(float(logits.sigmoid()[0]))
