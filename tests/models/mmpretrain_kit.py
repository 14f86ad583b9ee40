"""Small configs of MMPretrain, and what MMPretrain itself makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

import camkit
from camkit.models.classifier import Classifier
from tests.helpers.by_hand import gradcam, of_class

BACKBONE = "backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8)"
NECK = "neck=dict(type='GlobalAveragePooling')"
HEAD = "head=dict(type='LinearClsHead', num_classes=10, in_channels=64)"
MODEL = f"dict(type='ImageClassifier', {BACKBONE}, {NECK}, {HEAD})"
LAYER = "backbone.layer4"
RGB = "dict(mean=[120.0, 115.0, 105.0], std=[58.0, 57.0, 56.0], to_rgb=True)"
AS_READ = "dict(mean=[120.0, 115.0, 105.0], std=[58.0, 57.0, 56.0], to_rgb=False)"
RESIZE = "dict(type='Resize', scale=(48, 40))"


def write_config(
    folder: Path,
    steps: str,
    *,
    model: str = MODEL,
    preprocessor: str = RGB,
    dataset: str = "type='CustomDataset', data_prefix='.', ann_file='images.txt', with_label=True",
    extra: str = "",
) -> str:
    """A config file whose test pipeline has these steps, with PackInputs behind them."""
    path = folder / "config.py"
    path.write_text(
        f"model = {model}\ndata_preprocessor = {preprocessor}\n"
        f"test_dataloader = dict(dataset=dict({dataset}, pipeline=[{steps}, dict(type='PackInputs')]))\n{extra}\n"
    )
    return str(path)


@dataclass(frozen=True)
class Own:
    """What MMPretrain's test loop gives its model, and what the model makes of it."""

    inputs: Tensor
    scores: Any
    classes: Any


def own_of(config: str, classifier: Classifier, image: str) -> Own:
    """Run MMPretrain's data set, collation, data preprocessor and model, with the classifier's weights.

    The config's data set must read the annotation file ``images.txt`` in the image's folder, or bring its own samples.
    """
    from mmengine.config import Config
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import DATASETS, MODELS

    folder = Path(image).parent
    (folder / "images.txt").write_text(f"{Path(image).name} 0\n")
    settings = Config.fromfile(config)
    dataset = settings.test_dataloader.dataset
    if dataset.keys() & {"ann_file", "data_prefix"}:
        dataset.update(data_prefix=str(folder), ann_file=str(folder / "images.txt"))
    settings.model.setdefault("data_preprocessor", settings.get("data_preprocessor"))
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        samples = DATASETS.build(dataset)
        model = MODELS.build(settings.model)
    model.load_state_dict(classifier.model.state_dict())
    model.eval()
    data = model.data_preprocessor(pseudo_collate([samples[0]]), False)
    with torch.no_grad():
        (predicted,) = model(data["inputs"], data.get("data_samples"), mode="predict")
    return Own(data["inputs"], predicted, getattr(samples, "metainfo", {}).get("classes"))


def assert_same(classifier: Classifier, image: str, own: Own, category: int = 3) -> None:
    """The input equals MMPretrain's, the scores too, and the map a GradCAM by hand on MMPretrain's input."""
    inputs = classifier.prepare(image).inputs
    assert_close(inputs, own.inputs, rtol=0, atol=0)
    layer = classifier.model.get_submodule(LAYER)
    found = camkit.CAM(classifier.model, "GradCAM", [LAYER]).explain(inputs, category)
    assert_close(found.logits.softmax(1)[0], own.scores.pred_score)
    by_hand = gradcam(classifier.model, layer, own.inputs, of_class(category))
    assert_close(found.raw[LAYER][:, 0], by_hand, rtol=1e-6, atol=1e-6 * float(by_hand.abs().max()))
