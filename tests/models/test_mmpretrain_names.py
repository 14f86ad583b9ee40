"""Class names in MMPretrain's order, activations, tasks, and models that are no classifiers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import camkit
from camkit.cli.main import main
from camkit.errors import UsageError
from camkit.models import mmpretrain
from camkit.models.classifier import Classifier
from tests.helpers.refusals import refusal
from tests.models.installed import installed
from tests.models.mmpretrain_kit import BACKBONE, HEAD, LAYER, MODEL, NECK, RESIZE, write_config

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning"),  # as weights are drawn
]

load = partial(mmpretrain.load, pretrained=False)

LOAD = f"dict(type='LoadImageFromFile'), {RESIZE}"
TEN = [f"mine{number}" for number in range(10)]


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    installed("mmpretrain")
    from mmpretrain.models.heads import LinearClsHead
    from mmpretrain.registry import MODELS

    class SigmoidHead(LinearClsHead):  # type: ignore[misc]
        """Multi-label, without MMPretrain's class for it."""

        def _get_predictions(self, cls_score: Any, data_samples: Any) -> Any:
            samples = super()._get_predictions(cls_score, data_samples)
            for sample, row in zip(samples, cls_score, strict=True):
                sample.set_pred_score(row.sigmoid())
            return samples

    MODELS.register_module(module=SigmoidHead, force=True)


@pytest.fixture
def lines(tmp_path: Path) -> str:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(TEN) + "\n")
    return str(path)


def names_of_the_data_set(config: str) -> Any:
    """As MMPretrain's own data set has them."""
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import DATASETS

    with DefaultScope.overwrite_default_scope("mmpretrain"):
        dataset: Any = DATASETS.build(Config.fromfile(config).test_dataloader.dataset)
    return dataset.metainfo["classes"]


@pytest.mark.parametrize(
    "given",
    [
        "classes='{lines}'",
        "metainfo=dict(classes='{lines}')",
        "classes={others}, metainfo=dict(classes={ten})",
        "classes='{lines}', metainfo=dict(author='me')",
        "classes={ten}",
    ],
)
@pytest.mark.parametrize("kind", ["CIFAR10", "CustomDataset"])
def test_names_as_the_data_set_has_them(tmp_path: Path, lines: str, given: str, kind: str) -> None:
    given = given.format(lines=lines, ten=TEN, others=[f"other{number}" for number in range(10)])
    config = write_config(
        tmp_path, LOAD, dataset=f"type='{kind}', data_root='{tmp_path}', lazy_init=True, test_mode=True, {given}"
    )
    assert load(config, None).classes == tuple(TEN) == tuple(names_of_the_data_set(config))


def test_a_file_of_names_that_is_not_there(tmp_path: Path) -> None:
    """Better no names than the type's own."""
    config = write_config(tmp_path, LOAD, dataset="type='CIFAR10', classes='gone.txt'")
    classifier = load(config, None)
    assert classifier.classes is None
    assert classifier.name(9) == "category 9"
    warning = "the class names of the config's data set can't be read from gone.txt (No such file or directory)"
    assert classifier.load_warning == warning


def test_a_checkpoint_goes_before_the_config(tmp_path: Path, lines: str) -> None:
    config = write_config(tmp_path, LOAD, dataset=f"type='CIFAR10', classes='{lines}'")
    state = load(config, None).model.state_dict()
    theirs = [f"theirs{number}" for number in range(10)]
    torch.save({"state_dict": state, "meta": {"dataset_meta": {"classes": theirs}}}, tmp_path / "x.pth")
    assert load(config, str(tmp_path / "x.pth")).name(9) == "theirs9"


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"classes": TEN}, TEN),
        ({"categories": [{"id": 9 - number, "category_name": name} for number, name in enumerate(TEN)]}, TEN[::-1]),
        ({"classes": TEN[:4]}, None),
        ({}, None),
    ],
)
def test_names_in_the_annotation_file(tmp_path: Path, meta: Any, expected: Any) -> None:
    data = [{"img_path": "a.png", "gt_label": 0}]
    (tmp_path / "all.json").write_text(json.dumps({"metainfo": meta, "data_list": data}))
    dataset = f"type='BaseDataset', data_root='{tmp_path}', ann_file='all.json'"
    config = write_config(tmp_path, LOAD, dataset=dataset)
    found = load(config, None).classes
    assert found == (expected and tuple(expected))
    if expected:
        assert found == tuple(names_of_the_data_set(config))


def test_names_of_folders(tmp_path: Path) -> None:
    for name in TEN[::-1]:
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        (tmp_path / "data" / "val" / name / "a.png").touch()
    config = write_config(
        tmp_path, LOAD, dataset=f"type='CustomDataset', data_root='{tmp_path}/data', data_prefix='val'"
    )
    assert load(config, None).classes == tuple(TEN) == tuple(names_of_the_data_set(config))


@pytest.mark.parametrize(
    "wrapper",
    [
        "dict(type='ConcatDataset', datasets=[{one}, {one}])",
        "dict(type='RepeatDataset', times=2, dataset={one})",
        "dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[{one}, {one}]))",
    ],
)
def test_wrapped_data_sets(tmp_path: Path, photo: str, wrapper: str) -> None:
    one = f"dict(type='CustomDataset', data_prefix='.', lazy_init=True, classes={TEN}, pipeline=pipeline)"
    wrapped = wrapper.format(one=one)
    plain = write_config(tmp_path, LOAD)
    expected = load(plain, None).prepare(photo).inputs
    extra = f"pipeline = [{LOAD}, dict(type='PackInputs')]\ntest_dataloader = dict(dataset={wrapped})"
    classifier = load(write_config(tmp_path, LOAD, extra=extra), None)
    assert classifier.classes == tuple(TEN)
    assert_close(classifier.prepare(photo).inputs, expected, rtol=0, atol=0)


def head_of(classifier: Classifier, head: Any, photo: str) -> Any:
    """The scores that MMPretrain's head predicts, for the first image."""
    model: Any = classifier.model
    inputs = classifier.prepare(photo).inputs
    with torch.no_grad():
        (sample,) = head.predict(model.extract_feat(inputs))
    return inputs, sample.pred_score


@pytest.mark.parametrize(
    ("head", "activation"),
    [
        ("dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64)", "sigmoid"),
        ("dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64, topk=20)", "sigmoid"),
        ("dict(type='SigmoidHead', num_classes=10, in_channels=64)", "sigmoid"),
        ("dict(type='LinearClsHead', num_classes=10, in_channels=64)", "softmax"),
        ("dict(type='ArcFaceClsHead', num_classes=10, in_channels=64)", "softmax"),
    ],
)
def test_activation_is_the_head_s(tmp_path: Path, photo: str, head: str, activation: str) -> None:
    model = f"dict(type='ImageClassifier', {BACKBONE}, {NECK}, head={head})"
    classifier = load(write_config(tmp_path, LOAD, model=model), None)
    assert classifier.activation == activation
    if "topk" not in head:
        inputs, scores = head_of(classifier, classifier.model.head, photo)
        with torch.no_grad():
            logits = classifier.model(inputs)[0]
        assert classifier.probability(logits, 4) == pytest.approx(float(scores[4]), rel=1e-5)


TASKS = (
    "dict(colour=dict(type='LinearClsHead', num_classes=3, in_channels=64), "
    "things=dict(type='MultiLabelLinearClsHead', num_classes=4, in_channels=64), "
    "deep=dict(type='MultiTaskHead', task_heads=dict("
    "size=dict(type='LinearClsHead', num_classes=4, in_channels=64))))"
)
MULTI = f"dict(type='ImageClassifier', {BACKBONE}, {NECK}, head=dict(type='MultiTaskHead', task_heads={TASKS}))"
COLOURS, THINGS, SIZES = ["red", "green", "blue"], ["cup", "dog", "hat", "car"], ["xs", "s", "m", "l"]


@pytest.mark.parametrize(
    ("metainfo", "expected"),
    [
        ({"classes": COLOURS}, (COLOURS, None, None)),
        ({"classes": THINGS}, (None, None, None)),  # of things or of sizes?
        ({"classes": {"things": THINGS, "colour": COLOURS}}, (COLOURS, THINGS, None)),
        ({"tasks": {"things": {"classes": THINGS}, "deep": {"size": SIZES}}}, (None, THINGS, SIZES)),
        ({"tasks": ["colour", "things"], "deep.size": SIZES}, (None, None, SIZES)),
        ({"colour": {"classes": COLOURS}, "things": THINGS[:3]}, (COLOURS, None, None)),
        ({}, (None, None, None)),
    ],
)
def test_names_of_tasks(tmp_path: Path, metainfo: Any, expected: Any) -> None:
    config = write_config(
        tmp_path, LOAD, model=MULTI, dataset=f"type='MultiTaskDataset', ann_file='x.json', metainfo={metainfo}"
    )
    classifier = load(config, None)
    found = tuple(classifier.of_output(task).classes for task in ("colour", "things", "deep.size"))
    assert found == tuple(names and tuple(names) for names in expected)
    assert classifier.classes == found[0]  # what is explained by default
    assert classifier.of_output(None) is classifier


@pytest.mark.parametrize("task", ["colour", "things", "deep.size"])
def test_a_task_is_explained_as_mmpretrain_predicts_it(
    tmp_path: Path, photo: str, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    metainfo = {"classes": {"colour": COLOURS, "things": THINGS, "deep": {"size": SIZES}}}
    config = write_config(
        tmp_path, LOAD, model=MULTI, dataset=f"type='MultiTaskDataset', ann_file='x.json', metainfo={metainfo}"
    )
    classifier = load(config, None)
    assert classifier.of_output(task).activation == ("sigmoid" if task == "things" else "softmax")
    torch.save({"state_dict": classifier.model.state_dict()}, tmp_path / "x.pth")
    head = classifier.model.get_submodule("head.task_heads." + task.replace(".", ".task_heads."))
    inputs, scores = head_of(classifier, head, photo)
    found = camkit.CAM(classifier.model, "GradCAM", [LAYER], output=task).explain(inputs, 1)
    probability = classifier.of_output(task).probability(found.logits[0], 1)
    assert probability == pytest.approx(float(scores[1]), rel=1e-5)

    names = {"colour": COLOURS, "things": THINGS, "deep.size": SIZES}[task]
    options = ["--output", task, "--target-category", names[1], "--save-path", str(tmp_path / "out.png")]
    assert main(["vis-cam", photo, config, str(tmp_path / "x.pth"), *options]) == 0
    top = int(scores.argmax())
    assert f"predicted: {top} {names[top]} ({float(scores[top]):.2f})" in capsys.readouterr().out


ENCODER = f"[dict(type='ResNet', depth=18, stem_channels=8, base_channels=8), {NECK.removeprefix('neck=')}]"
SIMSIAM = (
    "dict(type='SimSiam', backbone=dict(type='ResNet', depth=18, norm_cfg=dict(type='BN')), "
    "neck=dict(type='NonLinearNeck', in_channels=512, hid_channels=8, out_channels=8, num_layers=2), "
    "head=dict(type='LatentPredictHead', loss=dict(type='CosineSimilarityLoss'), predictor=dict("
    "type='NonLinearNeck', in_channels=8, hid_channels=8, out_channels=8)))"
)
CONTRASTIVE = "head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'))"
NO_HEAD = "ImageClassifier without a head: it returns features"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            f"dict(type='ImageToImageRetriever', image_encoder={ENCODER}, prototype=dict(), {HEAD})",
            "ImageToImageRetriever, a retriever: it returns an embedding",
        ),
        (f"dict(type='ImageClassifier', {BACKBONE}, {NECK})", NO_HEAD),
        (f"dict(type='ImageClassifier', {BACKBONE}, {NECK}, head=None)", NO_HEAD),
        (SIMSIAM, "SimSiam, self-supervised: it is trained without classes"),
        (
            f"dict(type='ImageClassifier', {BACKBONE}, {NECK}, {CONTRASTIVE})",
            "ImageClassifier with a ContrastiveHead, which predicts no classes",
        ),
        (
            "dict(type='TimmClassifier', model_name='resnet18', num_classes=0)",
            "TimmClassifier with num_classes=0: it returns features",
        ),
    ],
)
def test_models_that_are_no_classifiers(tmp_path: Path, model: str, says: str) -> None:
    if "Timm" in model:
        installed("timm")
    config = write_config(tmp_path, LOAD, model=model)
    message = refusal(load, UsageError, config, None)
    assert message.startswith(f"the model of {config} is no classifier but {says}")
    assert "camkit.GradCAM(model)(images, targets=camkit.Similarity(embedding))" in message


def test_what_is_said_to_do_with_them_works(tmp_path: Path) -> None:
    """A target of one's own on features."""
    from mmpretrain import get_model

    config = write_config(tmp_path, LOAD, model=MODEL.replace(f", {HEAD}", ""))
    model = get_model(config, pretrained=False).eval()
    images = torch.randn(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (features,) = model(images)
    cam = camkit.GradCAM(model, [LAYER])
    assert cam(images, targets=camkit.Similarity(features[0].roll(1))).shape == (1, 40, 48)
