"""Every kind of network is explained with no flags: the rows of benchmarks.coverage that CI has time for."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

from benchmarks import coverage, families
from benchmarks.coverage import Row
from benchmarks.families import Built, Case
from benchmarks.networks import enliven
from benchmarks.provenance import RESULTS

# One of each way in which networks lay out their places, end and answer.
NETWORKS = {
    "mmpretrain": (
        "conformer-tiny-p16_3rdparty_in1k",
        "convnext-v2-atto_fcmae-pre_3rdparty_in1k",
        "davit-tiny_3rdparty_in1k",
        "deit3-small-p16_3rdparty_in1k",
        "edgenext-xxsmall_3rdparty_in1k",
        "hornet-tiny_3rdparty_in1k",
        "hrnet-w18_3rdparty_8xb32-ssld_in1k",
        "levit-128s_3rdparty_in1k",
        "mixmim-base_mixmim-pre_8xb128-coslr-100e_in1k",
        "mlp-mixer-base-p16_3rdparty_64xb64_in1k",
        "mobilevit-xxsmall_3rdparty_in1k",
        "poolformer-s12_3rdparty_32xb128_in1k",
        "revvit-small_3rdparty_in1k",
        "tinyvit-5m_3rdparty_in1k",
        "van-tiny_3rdparty_in1k",
        "vit-base-p16_clip-laion2b-in12k-pre_3rdparty_in1k",
        "vit-small-p16_mocov3-pre_8xb128-linear-coslr-90e_in1k",
        "xcit-nano-12-p16_3rdparty_in1k",
        "TimmClassifier",
        "HuggingFaceClassifier",
    ),
    "timm": (
        "coatnet_nano_rw_224",
        "efficientvit_b0",
        "levit_128s",
        "mobilevit_xxs",
        "pvt_v2_b0",
        "regnetx_002",
        "vit_tiny_patch16_224",
        "xcit_nano_12_p16_224",
    ),
    "other": ("DETR", "CLIP", "AST", "Perceiver", "CRNN", "siamese", "DenseNet, volumes", "ResNet, signals", "LR-ASPP"),
    "torchvision": ("googlenet", "maxvit_t", "squeezenet1_1"),
    "transformers": (
        "ConvNextForImageClassification",
        "Dinov2WithRegistersForImageClassification",
        "ViTForImageClassification",
    ),
}


@pytest.mark.frameworks
@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [Case(ecosystem, name, name) for ecosystem, names in NETWORKS.items() for name in names],
    ids=lambda case: case.model,
)
def test_it_is_explained_with_no_flags(case: Case) -> None:
    pytest.importorskip("transformers" if case.ecosystem == "other" else case.ecosystem)
    pytest.importorskip("skimage")  # has the photograph
    row = coverage.row_of(case)
    assert row.verdict == "ok", row.reason


class Tiny(nn.Module):
    """Two convolutions with norms, and a score that comes from them as ``kind`` says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        if self.kind == "blind":
            features = torch.ones_like(features) + 0 * features
        if self.kind == "broken":
            features = features / 0
        return self.head(features.mean((2, 3)))


@pytest.mark.parametrize(("kind", "verdict"), [("plain", "ok"), ("blind", "FAIL"), ("broken", "FAIL")])
def test_a_network_that_no_map_can_be_made_of_fails(kind: str, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.BUILDERS, "timm", lambda name, folder: Built(Tiny(name), torch.randn(1, 3, 32, 32)))
    row = coverage.row_of(Case("timm", "tiny", kind))
    assert row.verdict == verdict, row.reason
    assert bool(row.reason) == (verdict != "ok")


def test_a_network_that_cant_be_built_fails() -> None:
    row = coverage.row_of(Case("timm", "none", "no_such_model"))
    assert row.verdict == "FAIL"
    assert "can't be built" in row.reason


def test_enlivened_weights_keep_the_signal_and_its_gradient() -> None:
    """Sixty layers deep without norms, where drawn weights alone let both die."""
    deep = nn.Sequential(*[layer for _ in range(60) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())])
    image = torch.randn(1, 8, 16, 16).requires_grad_()
    outputs = enliven(deep, image)(image)
    (gradient,) = torch.autograd.grad(outputs.square().sum(), image)
    assert 0.3 < outputs.std() < 1
    assert gradient.abs().median() > 1e-3


def test_published_results_are_complete() -> None:
    """Every row of the last run passed, what wasn't run is what can't be, and the table is the JSON's."""
    record = json.loads((RESULTS / "coverage.json").read_text())
    rows = [Row(**row) for row in record["rows"]]
    assert all(set(row) == {field.name for field in fields(Row)} for row in record["rows"])
    assert not [row.reason for row in rows if row.verdict == "FAIL"]
    skipped = [row for row in rows if row.verdict == "not run"]
    assert all(row.reason in families.NOT_HERE.values() or "MMEngine can't read" in row.reason for row in skipped)
    for ecosystem, least in (("mmpretrain", 80), ("timm", 25), ("torchvision", 20), ("transformers", 5), ("other", 11)):
        assert sum(row.ecosystem == ecosystem and row.verdict == "ok" for row in rows) >= least
    assert (RESULTS / "coverage.md").read_text() == coverage.markdown(rows)
    assert set(coverage.PEERS) <= set(record["machine"]["versions"])
