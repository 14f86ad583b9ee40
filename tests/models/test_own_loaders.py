"""Files as MMPretrain and transformers write them, against these frameworks' own loaders: logits and maps are equal."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from camkit.errors import CheckpointError
from camkit.models.load import load
from camkit.models.settings import Reading
from tests.helpers.refusals import refusal
from tests.models.installed import installed
from tests.models.loading import IMAGES, assert_same

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning")]

CONFIG = """
model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18), neck={neck}, head={head})
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
test_dataloader = dict(dataset=dict(type='ImageNet', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='CenterCrop', crop_size=56), dict(type='PackInputs')]))
"""
POOLED = "dict(type='GlobalAveragePooling')"
HEADS = {
    "linear": (POOLED, "dict(type='LinearClsHead', num_classes=5, in_channels=512)"),
    "stacked": (POOLED, "dict(type='StackedLinearClsHead', num_classes=5, in_channels=512, mid_channels=[16])"),
    "CSRA": ("None", "dict(type='CSRAClsHead', num_classes=5, in_channels=512, num_heads=1, lam=0.1)"),
    "ArcFace": (POOLED, "dict(type='ArcFaceClsHead', num_classes=5, in_channels=512)"),
}


def own_model(config: Path, checkpoint: Path | None) -> Any:
    """MMPretrain's model with the weights as MMEngine's own loader takes them."""
    from mmengine.config import Config
    from mmengine.runner import load_checkpoint
    from mmpretrain.registry import MODELS
    from mmpretrain.utils import register_all_modules

    register_all_modules()
    settings = Config.fromfile(config)
    model = MODELS.build(copy.deepcopy(settings.model) | {"data_preprocessor": settings.data_preprocessor})
    if checkpoint:
        load_checkpoint(model, str(checkpoint), map_location="cpu", strict=True)
    return model.eval()


class TestMMPretrain:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        installed("mmpretrain")
        torch.manual_seed(0)

    @pytest.fixture
    def write(self, tmp_path: Path) -> Any:
        def write(head: str) -> Path:
            neck, text = HEADS[head]
            (tmp_path / "config.py").write_text(CONFIG.format(neck=neck, head=text))
            return tmp_path / "config.py"

        return write

    @pytest.mark.parametrize("head", HEADS)
    def test_heads(self, head: str, write: Any, tmp_path: Path) -> None:
        config = write(head)
        torch.save({"state_dict": own_model(config, None).state_dict(), "meta": {}}, tmp_path / "net.pth")
        classifier = load(str(config), str(tmp_path / "net.pth"))
        assert classifier.load_warning is None
        assert classifier.notes == ()
        assert_same(classifier, own_model(config, tmp_path / "net.pth"), "backbone.layer4", IMAGES)

    def test_the_hook_that_averages(self, write: Any, tmp_path: Path) -> None:
        """MMEngine's EMA as its hook saves it: the averaged weights are the state dict."""
        from mmengine.hooks import EMAHook
        from mmengine.model import ExponentialMovingAverage

        config = write("linear")
        live, averaged = own_model(config, None), own_model(config, None)
        hook = EMAHook()
        hook.src_model, hook.ema_model = live, ExponentialMovingAverage(averaged)
        content: dict[str, Any] = {"state_dict": live.state_dict(), "meta": {"mmengine_version": "0.10.7"}}
        hook.before_save_checkpoint(None, content)
        torch.save(content, tmp_path / "net.pth")
        classifier = load(str(config), str(tmp_path / "net.pth"))
        assert classifier.notes == ("EMA weights (state_dict); --weights live takes the live ones (ema_state_dict)",)
        assert_same(classifier, own_model(config, tmp_path / "net.pth"), "backbone.layer4", IMAGES)
        assert_same(classifier, averaged, "backbone.layer4", IMAGES)
        chosen = load(str(config), str(tmp_path / "net.pth"), reading=Reading(weights="live"))
        assert_same(chosen, live, "backbone.layer4", IMAGES)

    def test_a_state_dict_comes_before_averaged_weights_of_others(self, write: Any, tmp_path: Path) -> None:
        config = write("linear")
        live, averaged = (own_model(config, None).state_dict() for _ in range(2))
        torch.save({"state_dict": live, "model_ema": averaged}, tmp_path / "net.pth")
        classifier = load(str(config), str(tmp_path / "net.pth"))
        assert_same(classifier, own_model(config, tmp_path / "net.pth"), "backbone.layer4", IMAGES)

    @pytest.mark.parametrize(
        "lacking", ["head.fc.weight", "backbone.layer3.0.bn1.running_mean", "backbone.conv1.weight"]
    )
    def test_what_is_lacking_is_named(self, lacking: str, write: Any, tmp_path: Path) -> None:
        config = write("linear")
        state = own_model(config, None).state_dict()
        del state[lacking]
        torch.save({"state_dict": state}, tmp_path / "net.pth")
        assert f"{lacking} (" in refusal(load, CheckpointError, str(config), str(tmp_path / "net.pth"))

    def test_another_depth(self, write: Any, tmp_path: Path) -> None:
        config = write("linear")
        deep = tmp_path / "deep.py"
        deep.write_text(config.read_text().replace("depth=18", "depth=34"))
        torch.save({"state_dict": own_model(deep, None).state_dict()}, tmp_path / "net.pth")
        message = refusal(load, CheckpointError, str(config), str(tmp_path / "net.pth"))
        assert "is of another architecture: 80 of its tensors" in message


TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def transformers() -> Any:
    transformers = installed("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    return transformers


class TestTransformers:
    def vit(self, transformers: Any, **settings: Any) -> Any:
        config = transformers.ViTConfig(**(TINY | settings), num_labels=3)
        return transformers.ViTForImageClassification(config).eval()

    @pytest.mark.parametrize("shards", [False, True])
    def test_folders(self, shards: bool, tmp_path: Path, transformers: Any) -> None:
        self.vit(transformers).save_pretrained(tmp_path, **({"max_shard_size": "50KB"} if shards else {}))
        assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == shards
        own = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
        layer = "vit.embeddings.patch_embeddings.projection"
        assert_same(load(f"transformers:{tmp_path}"), own, layer, IMAGES)

    @pytest.mark.parametrize("prefix", ["model.", "net.module.", "lit."])
    def test_prefixes(self, prefix: str, tmp_path: Path, transformers: Any) -> None:
        model = self.vit(transformers)
        self.vit(transformers).save_pretrained(tmp_path)
        state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
        torch.save({"state_dict": state}, tmp_path / "net.ckpt")
        classifier = load(f"transformers:{tmp_path}", str(tmp_path / "net.ckpt"))
        assert classifier.notes == (f"names without their prefix '{prefix}'",)
        assert_same(classifier, model, "vit.embeddings.patch_embeddings.projection", IMAGES)

    def test_a_shard_that_is_missing(self, tmp_path: Path, transformers: Any) -> None:
        self.vit(transformers).save_pretrained(tmp_path, max_shard_size="50KB")
        files = sorted(tmp_path.glob("model-*.safetensors"))
        files[1].unlink()
        message = refusal(load, CheckpointError, f"transformers:{tmp_path}")
        assert f"lacks 1 of its {len(files)} shards ({files[1].name})" in message
        partial = load(f"transformers:{tmp_path}", reading=Reading(allow_partial=True))
        assert "missing from the checkpoint" in str(partial.load_warning)

    def test_shards_of_an_earlier_save(self, tmp_path: Path, transformers: Any) -> None:
        """The index says which count; without one, nothing does."""
        self.vit(transformers).save_pretrained(tmp_path / "old", max_shard_size="30KB")
        self.vit(transformers).save_pretrained(tmp_path, max_shard_size="50KB")
        count = len(list(tmp_path.glob("model-*.safetensors")))
        for file in (tmp_path / "old").glob("model-*.safetensors"):
            file.rename(tmp_path / file.name)
        assert len({file.name[-17:] for file in tmp_path.glob("model-*.safetensors")}) > 1
        own = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
        layer = "vit.embeddings.patch_embeddings.projection"
        assert_same(load(f"transformers:{tmp_path}"), own, layer, IMAGES)
        index = tmp_path / "model.safetensors.index.json"
        text = index.read_text()
        index.unlink()
        assert "holds shards of several saves" in refusal(load, CheckpointError, f"transformers:{tmp_path}")
        for spoilt in ("{}", "[", '{"weight_map": {}}', '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 3}}'):
            index.write_text(spoilt)
            assert "can't read the weight_map" in refusal(load, CheckpointError, f"transformers:{tmp_path}")
        index.write_text(text)
        next(tmp_path.glob(f"model-00001-of-{count:05}*")).unlink()
        message = refusal(load, CheckpointError, f"transformers:{tmp_path}")
        assert f"lacks 1 of its {count} shards (model-00001-of-{count:05}.safetensors)" in message

    @pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
    @pytest.mark.parametrize("begin", ["", "model."])
    def test_quantised_weights(self, kind: torch.dtype, begin: str, tmp_path: Path, transformers: Any) -> None:
        model = self.vit(transformers)
        model.save_pretrained(tmp_path)
        state = {
            begin + name: tensor.to(kind) if tensor.ndim == 2 else tensor for name, tensor in model.state_dict().items()
        }
        torch.save(state, tmp_path / "net.pth")
        message = refusal(load, CheckpointError, f"transformers:{tmp_path}", str(tmp_path / "net.pth"))
        assert f"weight as {kind}: its weights are quantised" in message

    @pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Siglip", "CLIP"])
    def test_bases_without_a_classifier(self, kind: str, tmp_path: Path, transformers: Any) -> None:
        text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        both = {"vision_config": TINY, "text_config": text | {"vocab_size": 50, "projection_size": 32}}
        config = getattr(transformers, f"{kind}Config")(**(both if kind in ("Siglip", "CLIP") else TINY))
        getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)
        message = refusal(load, CheckpointError, f"transformers:{tmp_path}")
        assert "classifier.weight (2, " in message
        runs = [load(f"transformers:{tmp_path}", reading=Reading(allow_partial=True, seed=seed)) for seed in (0, 0, 1)]
        heads: list[Any] = [run.model.classifier.weight for run in runs]
        assert torch.equal(heads[0], heads[1])
        assert not torch.equal(heads[0], heads[2])

    @pytest.mark.parametrize(
        ("changed", "says"),
        [
            ({"num_hidden_layers": 3}, "is of another architecture: 16 of its tensors"),
            ({"image_size": 96}, "build the network that fits with --cfg-options image_size=96"),
            ({"num_channels": 1}, "build the network that fits with --cfg-options num_channels=1"),
        ],
    )
    def test_other_networks(self, changed: dict[str, int], says: str, tmp_path: Path, transformers: Any) -> None:
        self.vit(transformers).save_pretrained(tmp_path / "here")
        self.vit(transformers, **changed).save_pretrained(tmp_path / "there")
        weights = tmp_path / "there" / "model.safetensors"
        assert says in refusal(load, CheckpointError, f"transformers:{tmp_path / 'here'}", str(weights))
