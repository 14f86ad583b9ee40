"""The packages are run so that models come back as they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.helpers.cases import pictures, plain
from tests.parity import reference

pytestmark = pytest.mark.peers


def test_models_come_back_as_they_were() -> None:
    """In training mode, with their own modules, without hooks or gradients."""
    model, images, targets = plain(), pictures(8, 7), [2, 0]
    layout = reference.cloning()
    model.train()
    before = dict(model.named_modules())
    runs: list[Callable[[], object]] = [
        lambda: reference.reference_raw(model, images, "AblationCAM", "relu2", targets, layout=layout),
        lambda: reference.reference_raw(model, images, "GradCAM", "relu2", targets, layout=layout),
        lambda: reference.reference_raw(model, images, "FullGrad", None, targets, layout=None),
        lambda: reference.reference_finer(model, images, ["relu2"], target_idx=1, ranks=[1], layout=layout),
        lambda: reference.reference_refine(model, images, ["relu1", "relu2"], targets, layout=layout),
        lambda: reference.reference_concepts(model, images, "relu2", 2, layout=layout),
        lambda: reference.reference_guided(model, images, targets),
        lambda: reference.captum_guided(model, images, targets),
        lambda: reference.captum_guided_gradcam(model, images, "relu2", targets),
        lambda: reference.torchcam_raw(model, images, "ScoreCAM", "relu2", targets),
        lambda: reference.torchcam_refine(model, images, ["relu1", "relu2"], targets),
        lambda: reference.torchcam_finer(model, images, "relu2", targets, num_references=1),
    ]
    for run in runs:
        run()
        assert dict(model.named_modules()) == before
        assert all(module.training for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not images.requires_grad
