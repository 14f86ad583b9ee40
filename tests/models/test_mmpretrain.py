"""MMPretrain's models: its own numbers and test pipelines, class names, and configs and images that don't work."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import camkit
from camkit.errors import CamkitError, CheckpointError, UsageError
from camkit.models import mmpretrain
from tests.helpers.refusals import refusal
from tests.models.installed import installed

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[..., str]

pytestmark = pytest.mark.frameworks

load = partial(mmpretrain.load, pretrained=False)
"""Random weights where no checkpoint is named."""

BACKBONE = "backbone=dict(type='ResNet', depth=18)"
HEAD = "head=dict(type='LinearClsHead', num_classes=1000, in_channels=512)"
MODEL = f"dict(type='ImageClassifier', {BACKBONE}, neck=dict(type='GlobalAveragePooling'), {HEAD})"
PREPROCESSOR = "dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)"
STEPS = "dict(type='ResizeEdge', scale=64, edge='short'), dict(type='CenterCrop', crop_size=56)"
LOAD = "dict(type='LoadImageFromFile')"


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    installed("mmpretrain")


def rgb_of(path: str) -> Any:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A config file: a small ResNet-18 with a short test pipeline, or what is given instead."""

    def write(
        model: str = MODEL,
        steps: str = STEPS,
        loader: str = LOAD,
        dataset: str = "type='ImageNet'",
        preprocessor: str = PREPROCESSOR,
        extra: str = "",
    ) -> str:
        path = tmp_path / "config.py"
        pipeline = ", ".join(part for part in (loader, steps, "dict(type='PackInputs')") if part)
        path.write_text(
            f"model = {model}\ndata_preprocessor = {preprocessor}\n"
            f"test_dataloader = dict(dataset=dict({dataset}, pipeline=[{pipeline}]))\n{extra}\n"
        )
        return str(path)

    return write


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet50_8xb32_in1k", 224),
        ("SWIN-tiny_16xb64_in1k", 224),
        ("vit-base-p16_in21k-pre_3rdparty_in1k-384px", 384),
        ("t2t-vit-t-14_8xb64_in1k", 224),
        ("deit-small_4xb256_in1k", 224),
        ("mobilenet-v3-large_8xb128_in1k", 224),
    ],
)
def test_models_by_name(name: str, side: int, photo: str) -> None:
    classifier = load(name, None)
    prepared = classifier.prepare(photo)
    assert prepared.inputs.shape == (1, 3, side, side)
    assert prepared.picture.shape == (side, side, 3)
    assert not classifier.model.training
    assert classifier.activation == "softmax"
    assert classifier.name(281) == "tabby, tabby cat"
    assert classifier.name(1000) == "category 1000"
    assert classifier.checkpoint is None
    assert classifier.load_warning is None
    if "resnet" in name or "mobilenet" in name:  # the quick ones
        with torch.inference_mode():
            assert classifier.model(prepared.inputs).shape == (1, 1000)


def test_the_same_numbers_as_mmpretrain_itself(write: Write, photo: str, tmp_path: Path) -> None:
    """Input tensor and logits against MMPretrain's own inferencer on the same config and checkpoint."""
    config = write()
    torch.manual_seed(0)
    source = load(config, None)
    torch.save({"state_dict": source.model.state_dict(), "meta": {}}, tmp_path / "net.pth")
    classifier = load(config, str(tmp_path / "net.pth"))
    prepared = classifier.prepare(photo)

    from mmpretrain import ImageClassificationInferencer

    inferencer = ImageClassificationInferencer(config, pretrained=str(tmp_path / "net.pth"), device="cpu")
    batch = inferencer.model.data_preprocessor(next(inferencer.preprocess([photo])), False)
    torch.testing.assert_close(prepared.inputs, batch["inputs"], rtol=0, atol=0)
    with torch.inference_mode():
        scores = classifier.model(prepared.inputs).softmax(dim=1)[0]
    np.testing.assert_allclose(scores.numpy(), inferencer(photo)[0]["pred_scores"], rtol=1e-5, atol=1e-8)


def test_what_is_prepared(write: Write, photo: str) -> None:
    prepared = load(write(), None).prepare(photo)
    np.testing.assert_array_equal(prepared.original, rgb_of(photo))
    known = cv2.resize(rgb_of(photo), (85, 64), interpolation=cv2.INTER_LINEAR)[4:60, 14:70]
    np.testing.assert_array_equal(prepared.picture, known)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    rgb = torch.from_numpy(known.copy()).float()
    torch.testing.assert_close(prepared.inputs[0].permute(1, 2, 0), (rgb - mean) / std)
    assert prepared.picture.dtype == prepared.original.dtype == np.uint8


def test_back_to_the_whole_image(write: Write, photo: str) -> None:
    prepared = load(write(), None).prepare(photo)
    red, seen = prepared.to_original(prepared.picture[..., 0].astype(np.float32))
    assert red.shape == seen.shape == (90, 120)
    assert 0.4 < seen.mean() < 0.6  # 56 of 64 by 56 of 85
    known = prepared.original[..., 0].astype(np.float32)
    inner = cv2.erode(seen.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert np.abs(red - known)[inner].max() < 3  # a pixel is worth one or two levels
    assert prepared.geometry.scale_x == pytest.approx(120 / 85, rel=0.003)


def test_original_survives_a_step_that_draws_on_it(write: Write, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = load(write(steps=""), None)
    steps = classifier._prepare._steps  # type: ignore[attr-defined]

    def paint(results: dict[str, Any]) -> dict[str, Any]:
        results["img"][:] = 7
        return results

    steps.insert(1, paint)
    prepared = classifier.prepare(photo)
    assert (prepared.picture == 7).all()
    assert not (prepared.original == 7).all()
    with pytest.raises(CamkitError, match="can't undo"):
        _ = prepared.geometry


def test_randomness_is_repeatable_and_borrowed(write: Write, photo: str) -> None:
    """A random flip is the same flip in picture and geometry, and the process' random state isn't touched."""
    config = write(steps="dict(type='RandomFlip', prob=0.5), dict(type='RandomCrop', crop_size=48)")
    classifier = load(config, None)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = random.Random(1).random(), np.random.RandomState(1).rand(), torch.rand(1)
    torch.manual_seed(1)
    first, second = classifier.prepare(photo), classifier.prepare(photo)
    back, seen = first.to_original(first.picture[..., 0].astype(np.float32))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002
    np.testing.assert_array_equal(first.picture, second.picture)
    assert np.abs(back - first.original[..., 0])[seen].max() < 2


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("kind", ["upside", "grey", "alpha", "16 bit", "palette", "cmyk"])
def test_odd_files_are_read_as_the_loader_reads_them(write: Write, tmp_path: Path, kind: str, backend: str) -> None:
    y, x = np.mgrid[0:40, 0:60]
    rgb = np.stack([4 * x, 6 * y, 255 - 4 * x], axis=2).astype(np.uint8)
    image, name = Image.fromarray(rgb), "x.png"
    options: dict[str, Any] = {}
    if kind == "upside":  # EXIF orientation 6: stored lying, shown standing
        orientation = Image.Exif()
        orientation[0x0112] = 6
        name, options = "x.jpg", {"exif": orientation, "quality": 100, "subsampling": 0}
    elif kind == "grey":
        image = image.convert("L")
    elif kind == "alpha":
        image.putalpha(Image.fromarray((4 * x).astype(np.uint8)))
    elif kind == "16 bit":
        image = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
    elif kind == "palette":
        image = image.quantize(64)
    elif kind == "cmyk":
        image, name, options = image.convert("CMYK"), "x.jpg", {"quality": 100}
    path = tmp_path / name
    image.save(path, **options)
    loader = f"dict(type='LoadImageFromFile', imdecode_backend='{backend}')"
    prepared = load(write(loader=loader, steps="dict(type='Resize', scale=(30, 30))"), None).prepare(path)
    import mmcv

    known = mmcv.imread(str(path), backend=backend)
    np.testing.assert_array_equal(prepared.original, known[..., ::-1])
    assert prepared.original.shape == ((60, 40, 3) if kind == "upside" else (40, 60, 3))
    assert prepared.picture.shape == (30, 30, 3)
    values, seen = prepared.to_original(prepared.picture[..., 0].astype(np.float32))
    assert values.shape == prepared.original.shape[:2]
    assert seen.all()


def test_float_pipeline_that_normalises(write: Write, photo: str) -> None:
    """The picture is what was there before Normalize, and can be laid back on the original."""
    steps = STEPS + ", dict(type='Normalize', mean=[100.0, 110.0, 120.0], std=[50.0, 60.0, 70.0], to_rgb=True)"
    plain = load(write(), None).prepare(photo)
    prepared = load(write(steps=steps, preprocessor="None"), None).prepare(photo)
    assert prepared.inputs.min() < 0
    np.testing.assert_array_equal(prepared.picture, plain.picture)
    assert prepared.geometry == plain.geometry
    floats = load(write(loader="dict(type='LoadImageFromFile', to_float32=True)"), None).prepare(photo)
    assert np.abs(floats.picture.astype(int) - plain.picture).max() <= 1
    assert floats.geometry.scale_x == pytest.approx(plain.geometry.scale_x, rel=0.01)


def test_torchvision_steps(write: Write, photo: str) -> None:
    """Pillow pictures, and tensors that are normalised in the pipeline."""
    steps = (
        "dict(type='NumpyToPIL'), dict(type='torchvision/Resize', size=64, interpolation='bicubic'), "
        "dict(type='torchvision/CenterCrop', size=(56, 56)), dict(type='torchvision/ToTensor'), "
        "dict(type='torchvision/Normalize', mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))"
    )
    prepared = load(write(steps=steps, preprocessor="None"), None).prepare(photo)
    assert prepared.picture.shape == (56, 56, 3)
    # Nothing exchanges channels here, so that the network gets BGR.
    picture = torch.from_numpy(prepared.picture).permute(2, 0, 1).flip(0).float()
    torch.testing.assert_close(prepared.inputs[0], picture / 127.5 - 1)
    assert prepared.geometry.scale_x == pytest.approx(120 / 85, rel=0.005)


def test_data_sets_that_hand_over_arrays(photo: str) -> None:
    """CIFAR's pipeline has no loader; its network was trained on RGB without an exchange in the preprocessor."""
    classifier = load("resnet18_8xb16_cifar10", None)
    prepared = classifier.prepare(photo)
    np.testing.assert_array_equal(prepared.original, rgb_of(photo))
    np.testing.assert_array_equal(prepared.picture, rgb_of(photo))
    red = (torch.from_numpy(rgb_of(photo)[..., 0].astype(np.float32)) - 125.307) / 51.5865
    torch.testing.assert_close(prepared.inputs[0, 0], red)
    assert classifier.name(3) == "cat"


def test_grey_network(photo: str, write: Write) -> None:
    backbone = "backbone=dict(type='LeNet5', num_classes=10)"
    model = f"dict(type='ImageClassifier', {backbone}, neck=None, head=dict(type='ClsHead'))"
    config = write(
        model, "dict(type='Resize', scale=32)", loader="", dataset="type='MNIST'",
        preprocessor="dict(mean=[33.46], std=[78.87])",
    )  # fmt: skip
    prepared = load(config, None).prepare(photo)
    assert prepared.inputs.shape == (1, 1, 32, 32)
    assert prepared.picture.shape == (32, 32, 3)
    assert prepared.to_original(prepared.picture[..., 0].astype(np.float32))[0].shape == (90, 120)


def test_timm(write: Write, tmp_path: Path, photo: str) -> None:
    """TimmClassifier drops its prefix on saving and adds it on loading; ``pretrained=True`` must not download."""
    timm = installed("timm")
    torch.manual_seed(3)
    weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save({"state_dict": weights}, tmp_path / "lite0.pth")
    config = write("dict(type='TimmClassifier', model_name='tf_efficientnet_lite0', pretrained=True)")
    classifier = load(config, str(tmp_path / "lite0.pth"))
    assert classifier.load_warning is None
    torch.testing.assert_close(dict(classifier.model.model.state_dict()), dict(weights), rtol=0, atol=0)  # type: ignore[union-attr]
    assert classifier.name(0) == "tench, Tinca tinca"
    assert classifier.prepare(photo).inputs.shape == (1, 3, 56, 56)
    assert classifier.checkpoint is not None
    assert len(classifier.checkpoint.sha256) == 64


def test_vit_resizes_its_position_embedding(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    small = {"model.backbone.arch": "deit-t", "model.head.in_channels": 192, "model.backbone.drop_rate": 0.0}
    first = load("vit-base-p16_32xb128-mae_in1k", None, options=small)
    torch.save({"state_dict": first.model.state_dict()}, tmp_path / "vit.pth")
    capfd.readouterr()
    larger = load(
        "vit-base-p16_32xb128-mae_in1k", str(tmp_path / "vit.pth"), options=small | {"model.backbone.img_size": 384}
    )
    assert larger.load_warning is None
    assert larger.model.state_dict()["backbone.pos_embed"].shape == (1, 577, 192)
    assert capfd.readouterr() == ("", "")


def test_class_names(write: Write, tmp_path: Path) -> None:
    """Checkpoint first, then the config's data set; names whose number isn't the model's are not used."""
    config = write(MODEL.replace("1000", "3"))
    assert load(config, None).classes is None  # ImageNet's thousand names for three logits
    state = load(config, None).model.state_dict()
    for number, meta in enumerate(
        [
            {"dataset_meta": {"classes": ["a", "b", "c"]}},
            {"CLASSES": ("a", "b", "c")},
            {"dataset_meta": {"classes": ["a"]}},
        ]
    ):
        path = tmp_path / f"{number}.pth"
        torch.save({"state_dict": state, "meta": meta}, path)
        assert load(config, str(path)).classes == (("a", "b", "c") if number < 2 else None)
    named = write(MODEL.replace("1000", "2"), dataset="type='CustomDataset', metainfo=dict(classes=['x', 'y'])")
    assert load(named, None).name(1) == "y"


def test_multi_label_scores_are_sigmoids(write: Write) -> None:
    head = "dict(type='MultiLabelLinearClsHead', num_classes=20, in_channels=512)"
    model = f"dict(type='ImageClassifier', {BACKBONE}, neck=dict(type='GlobalAveragePooling'), head={head})"
    assert load(write(model), None).activation == "sigmoid"


def test_a_part_of_a_checkpoint(write: Write, tmp_path: Path) -> None:
    state = load(write(MODEL.replace("1000", "3")), None).model.state_dict()
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    message = refusal(load, CheckpointError, write(), str(tmp_path / "x.pth"))
    assert "head.fc.weight is (3, 512) in the file and (1000, 512) in the model" in message
    assert "--cfg-options model.head.num_classes=3" in message
    assert load(write(), str(tmp_path / "x.pth"), options={"model.head.num_classes": 3}).load_warning is None
    torch.save({"state_dict": {"other": torch.ones(1)}}, tmp_path / "x.pth")
    assert "fits none" in refusal(load, CheckpointError, write(), str(tmp_path / "x.pth"))


def test_cfg_options(write: Write, photo: str) -> None:
    options = mmpretrain.parse_options(["model.head.num_classes=7", "a=[1,(2,x)]", "b=1,2.5,True", "c=x=y"])
    assert options == {"model.head.num_classes": 7, "a": [1, (2, "x")], "b": [1, 2.5, True], "c": "x=y"}
    assert mmpretrain.parse_options([]) == {}
    pipeline = "test_dataloader.dataset.pipeline.1.scale"
    classifier = load(write(), None, options={"model.head.num_classes": 7, pipeline: 90})
    assert classifier.model.head.num_classes == 7  # type: ignore[union-attr]
    assert classifier.prepare(photo).geometry.scale_y == pytest.approx(1, abs=0.01)  # the photo's 90 pixels, unscaled


@pytest.mark.parametrize("option", ["model", "=3", "a=[1,(2", "", ".=1"])
def test_malformed_cfg_options(option: str) -> None:
    assert f"'{option}'" in refusal(mmpretrain.parse_options, UsageError, [option])


@pytest.mark.parametrize(
    "options", [{"model.backbone.depth.more": 1}, {"test_dataloader.dataset.pipeline.9.x": 1}, {3: 4}]
)
def test_cfg_options_that_do_not_fit(write: Write, options: dict[str, Any]) -> None:
    (key, value), *_ = options.items()
    assert f"--cfg-options {key}={value} doesn't fit" in refusal(load, UsageError, write(), None, options=options)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("resnet5_8xb32_in1k", "closest: resnet50_8xb32_in1k"),
        ("configs/resnet/resnet50_8xb32_in1k.py", "closest model names: resnet50_8xb32_in1k"),
        ("nothing-like-it-at-all", "548 model names"),
        ("missing.yml", "no config file"),
    ],
)
def test_unknown_config(config: str, says: str) -> None:
    assert says in refusal(load, UsageError, config, None)


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("model = dict(", UsageError, "SyntaxError"),
        ("_base_ = './gone.py'", UsageError, "gone.py"),
        ("x = 1", UsageError, "no model"),
        ("model = dict(backbone=3)", UsageError, "no model"),
        ("custom_imports = dict(imports=['no_such_module'])\nmodel = dict(type='A')", UsageError, "no_such_module"),
        ("model = dict(type='Nope')", CamkitError, "Nope"),
        ("model = dict(type='ImageClassifier', backbone=dict(type='ResNet', dept=1))", CamkitError, "dept"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # MMEngine leaves the file open that it gives up on
def test_bad_config(tmp_path: Path, text: str, kind: type[CamkitError], says: str) -> None:
    (tmp_path / "config.py").write_text(text)
    assert says in refusal(load, kind, str(tmp_path / "config.py"), None)
    gc.collect()


def test_package_that_the_model_misses_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("timm")
    monkeypatch.setitem(sys.modules, "timm.models", None)
    config = write("dict(type='TimmClassifier', model_name='tf_efficientnet_lite0')")
    assert "timm" in refusal(load, CamkitError, config, None)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no image"),
        (Path.mkdir, "folder"),
        (Path.touch, "empty"),
        (lambda path: path.write_text("hello\n" * 99), "as an image"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50)), "as an image"),
    ],
)
@pytest.mark.parametrize("backend", ["cv2", "pillow"])
def test_bad_image(write: Write, tmp_path: Path, make: Callable[[Path], object], says: str, backend: str) -> None:
    path = tmp_path / "bad.png"
    make(path)
    classifier = load(write(loader=f"dict(type='LoadImageFromFile', imdecode_backend='{backend}')"), None)
    message = refusal(classifier.prepare, CamkitError, path)
    assert says in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ({"steps": "dict(type='NoSuchStep')"}, CamkitError, "NoSuchStep"),
        ({"steps": "dict(type='torchvision/Normalize', mean=0.5, std=0.5)"}, CamkitError, "Normalize"),
        ({"steps": "dict(type='PackInputs'), dict(type='ResizeEdge', scale=9)"}, CamkitError, "ResizeEdge"),
        ({"preprocessor": "dict(mean=[1.0, 2.0], std=[1.0, 2.0])"}, CamkitError, "data preprocessor fails"),
        ({"loader": "dict(type='LoadImageFromNDArray')"}, CamkitError, "LoadImageFromNDArray"),
        ({"extra": "test_dataloader = None"}, UsageError, "no test pipeline"),
    ],
)
def test_bad_pipeline(write: Write, photo: str, how: dict[str, str], kind: type[CamkitError], says: str) -> None:
    classifier = load(write(**how), None)
    assert says in refusal(classifier.prepare, kind, photo)


QUIET = """
import sys
from camkit.models.load import load
assert not [name for name in sys.modules if name.partition(".")[0] in ("mmpretrain", "mmengine", "mmcv", "torchvision")]
for name in ("resnet18_8xb32_in1k", "swin-tiny_16xb64_in1k"):
    load(name, pretrained=False).prepare(sys.argv[1])
import warnings, logging
warnings.warn("still heard")
logging.getLogger("mmengine").warning("still logged")
"""


@pytest.mark.slow
def test_nothing_is_printed(photo: str) -> None:
    """A fresh interpreter with every warning on: silence but for camkit's own line, and afterwards all is as before."""
    done = subprocess.run([sys.executable, "-W", "always", "-c", QUIET, photo], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "torchvision's compiled operators" not in line]
    assert len(done.stderr.splitlines()) - len(lines) <= 1
    assert "still heard" in lines[0]
    assert any("still logged" in line for line in lines)
    assert done.stdout + "".join(line for line in lines if "still" not in line and "warn" not in line) == ""


@pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning")  # as weights are drawn
def test_conformer_is_explained_by_what_it_predicts_from() -> None:
    """Its two branches' logits together, as its head's predict does."""
    classifier = load("conformer-tiny-p16_3rdparty_in1k", None)
    model: Any = classifier.model
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    cam = camkit.CAM(model, "GradCAM", ["backbone.conv_trans_12"], output=classifier.output)
    result = cam.explain(images, 3)
    with torch.no_grad():
        (sample,) = model(images, mode="predict")
    torch.testing.assert_close(result.logits.softmax(1)[0], sample.pred_score)
    assert result.output == "sum_of_branches"
    assert load("mobilenet-v2_8xb32_in1k", None).output is None


@pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning")  # as weights are drawn
def test_data_samples_are_explained_by_their_scores() -> None:
    model: Any = load("mobilenet-v2_8xb32_in1k", None).model
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    result = camkit.CAM(model, "GradCAM", forward_kwargs={"mode": "predict"}).explain(images, 3)
    torch.testing.assert_close(result.logits, model(images).softmax(1))
