"""Options of methods where users give them: to a CAM, to its class, to ``explain``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

import camkit
from camkit import CAM
from camkit.errors import UsageError
from camkit.methods import METHODS
from tests.helpers.networks import SmallCNN, seeded
from tests.helpers.refusals import refusal

IMAGES = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class TestUnknownOnes:
    def test_of_a_cam(self) -> None:
        message = refusal(CAM, UsageError, seeded(SmallCNN()), "FEM", sigma=1)
        assert message == "FEM has no option 'sigma'; it has: k=2.0"

    def test_of_a_constructor(self) -> None:
        message = refusal(camkit.FEM, UsageError, seeded(SmallCNN()), batchsize=1)
        assert message.startswith("CAM has no argument, and FEM no option, 'batchsize'; closest: batch_size")

    def test_of_all_methods(self) -> None:
        message = refusal(camkit.explain, UsageError, seeded(SmallCNN()), IMAGES, ["FEM", "SS-CAM", "GradCAM"], num=1)
        assert message.startswith("no method has the option 'num'")
        assert "FEM: k=2.0; SS-CAM: num_samples=35, std=2.0, seed=0, top_k=None" in message


class TestGivenOptions:
    def test_a_cam_takes_them(self) -> None:
        model = seeded(SmallCNN())
        cam = CAM(model, "SS-CAM", "conv2", std=1.0, num_samples=2)
        assert dict(cam.method.options) == {"num_samples": 2, "std": 1.0, "seed": 0, "top_k": None}
        same = CAM(model, METHODS["SS-CAM"].configured(std=1.0).configured(num_samples=2), "conv2")
        assert_close(cam(IMAGES), same(IMAGES))
        named = camkit.SSCAM(model, target_layers="conv2", std=1, num_samples=2)
        assert_close(cam(IMAGES), named(IMAGES))

    def test_explain_hands_them_to_those_that_have_them(self) -> None:
        model = seeded(SmallCNN())
        wanted = ["SS-CAM", "GradCAM", "IS-CAM", METHODS["FEM"].configured(k=1)]
        found = camkit.explain(model, IMAGES, wanted, 1, "conv2", num_samples=3, std=0.5)
        assert_close(found["SS-CAM"].maps[:, 0], CAM(model, "SS-CAM", "conv2", num_samples=3, std=0.5)(IMAGES, 1))
        assert_close(found["IS-CAM"].maps[:, 0], CAM(model, "IS-CAM", "conv2", num_samples=3)(IMAGES, 1))
        assert_close(found["FEM"].maps[:, 0], CAM(model, "FEM", "conv2", k=1)(IMAGES, 1))

    def test_lists_are_taken_as_tuples(self) -> None:
        model = seeded(SmallCNN())
        assert_close(
            CAM(model, "FinerCAM", "conv2", comparison=[1, 2])(IMAGES),
            CAM(model, "FinerCAM", "conv2", comparison=(1, 2))(IMAGES),
        )

    @pytest.mark.parametrize(
        ("method", "given"),
        [
            ("SS-CAM", {"std": 0.1, "num_samples": 4}),
            ("SS-CAM", {"seed": 7, "num_samples": 4}),
            ("IS-CAM", {"num_samples": 3}),
            ("ScoreCAM", {"top_k": 2}),
            ("AblationCAM", {"top_k": 2}),
            ("SmoothGradCAM++", {"std": 2.0}),
            ("SmoothGradCAM++", {"numerator": 1}),
            ("FEM", {"k": 0}),
            ("RandomCAM", {"seed": 2**63 - 1}),
            ("FinerCAM", {"gamma": 2.0}),
            ("FinerCAM", {"comparison": (4,)}),
            ("FinerCAM", {"weights": "probability"}),
            ("ShapleyCAM", {"utility": "score"}),
            ("KPCA-CAM", {"kernel": "poly"}),
            ("KPCA-CAM", {"gamma": 2.0}),
            ("DFF", {"num_concepts": 2}),
            ("DFF", {"seed": 3, "num_concepts": 3}),
        ],
        ids=str,
    )
    def test_each_changes_the_map(self, method: str, given: dict[str, Any]) -> None:
        model = seeded(SmallCNN())
        base = {
            name: value for name, value in given.items() if name in ("num_samples", "num_concepts") and len(given) > 1
        }
        plain = CAM(model, method, "conv2", **base)(IMAGES, 1)
        made = CAM(model, method, "conv2", **given)(IMAGES, 1)
        assert made.shape != plain.shape or not torch.allclose(made, plain, atol=1e-4)
