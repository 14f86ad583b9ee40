"""Faults that a review found: each was a wrong answer, or a raw error, before."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

import camkit
from camkit import CAM
from camkit.errors import UsageError
from tests.networks import SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore::camkit.errors.OutputWarning")
@pytest.mark.parametrize("method", ["ScoreCAM", "AblationCAM", "SmoothGradCAM++"])
def test_a_constant_with_as_many_rows_as_a_chunk_is_not_taken_for_the_scores(method: str) -> None:
    class Prototypes(SmallCNN):
        """Its first tensor has a row per prototype, as many as a chunk has images."""

        def forward(self, images: Tensor) -> Any:
            return torch.arange(20.0).view(4, 5), super().forward(images)

    found = CAM(seeded(Prototypes()), method, "conv2", batch_size=4).explain(IMAGES[:1], 1)
    alone = CAM(seeded(SmallCNN()), method, "conv2", batch_size=4).explain(IMAGES[:1], 1)
    assert_close(found.raw, alone.raw)


@pytest.mark.parametrize("method", ["ScoreCAM", "AblationCAM"])
def test_statistics_of_the_batch_are_those_of_the_images(method: str) -> None:
    model = seeded(SmallCNN())
    model.norm2 = nn.BatchNorm2d(6, track_running_stats=False).eval()
    maps = [CAM(model, method, "conv1", batch_size=size)(IMAGES, 1) for size in (1, 8)]
    assert_close(*maps)


def test_a_rectifier_in_place_whose_result_is_dropped_is_guided() -> None:
    class Kept(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            features = self.norm1(self.conv1(images))
            rectified = functional.relu(features)
            return self.head(self.norm2(self.conv2(rectified)).relu().mean((2, 3)))

    class Dropped(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            features = self.norm1(self.conv1(images))
            functional.relu(features, inplace=True)
            features = self.norm2(self.conv2(features))
            functional.relu_(features)
            return self.head(features.mean((2, 3)))

    kept, dropped = (CAM(seeded(make()), "GuidedBackprop").explain(IMAGES, 1).pixels for make in (Kept, Dropped))
    assert_close(dropped, kept)


def test_fullgrad_takes_the_biases_of_instance_norms_and_leaves_those_by_place() -> None:
    model = seeded(SmallCNN())
    model.norm1 = nn.InstanceNorm2d(6, affine=True)
    with_bias = CAM(model, "FullGrad")(IMAGES, 1)
    model.norm1.bias.data += 1
    assert not torch.equal(CAM(model, "FullGrad")(IMAGES, 1), with_bias)
    model.norm2 = nn.LayerNorm([6, 8, 8])
    assert CAM(model, "FullGrad")(IMAGES, 1).isfinite().all()


def test_two_threads_leave_torchs_fast_path_as_it_was() -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    models = [seeded(SmallViT()) for _ in range(2)]

    def explain(model: nn.Module) -> None:
        for _ in range(3):
            CAM(model, "AblationCAM", "layers.0.ln2")(IMAGES, 1)

    threads = [threading.Thread(target=explain, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.backends.mha.get_fastpath_enabled()


def test_blocks_are_found_anew_where_the_network_was_changed() -> None:
    model = seeded(SmallViT())
    assert CAM(model, "LeGrad").explain(IMAGES, 1).layers == ("layers.0", "layers.1")
    model.layers = model.layers[:1]
    assert CAM(model, "GradientRollout").explain(IMAGES, 1).layers == ("layers.0",)


def test_methods_can_be_hashed() -> None:
    assert len({camkit.METHODS["GradCAM"], camkit.METHODS["ScoreCAM"].configured(top_k=3)}) == 2


def test_mistyped_arguments_are_told_from_options() -> None:
    with pytest.raises(UsageError, match="CAM has no argument, and GradCAM no option, 'target_layer'; closest"):
        CAM(seeded(SmallCNN()), "GradCAM", target_layer="conv2")
    with pytest.raises(UsageError, match="progress is called with how many of how many are through, got True"):
        CAM(seeded(SmallCNN()), "ScoreCAM", progress=True)
