"""The Recorder: a training that is looked at is the training that isn't, and what it shows is what a CAM shows."""

from __future__ import annotations

import gc
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit.errors import CamkitError, CamkitWarning, LayerError, UsageError
from camkit.integrations import Recorder
from tests.helpers.forwards import count_forwards, count_hooks
from tests.helpers.networks import SmallCNN, SmallViT, seeded
from tests.helpers.refusals import refusal
from tests.helpers.training import Checkpointed, Way, assert_identical, examples, pictures, train

IMAGES, LABELS = examples(3)
PAIRS = list(zip(*examples(12), strict=True))
WAYS = {
    "plain": Way(),
    "gradients that add up": Way(accumulate=2),
    "bfloat16": Way(dtype=torch.bfloat16),
    "averaged weights": Way(averaged=True),
    "checkpointing": Way(network=Checkpointed),
    "checkpointing and bfloat16": Way(network=Checkpointed, dtype=torch.bfloat16, accumulate=2),
    "a transformer": Way(network=lambda: SmallViT((16, 16))),
}


class Log:
    """A logger that keeps what it gets."""

    def __init__(self) -> None:
        self.images: dict[str, dict[int, Any]] = {}
        self.scalars: dict[str, dict[int, float]] = {}

    def add_image(self, name: str, image: Any, step: int) -> None:
        self.images.setdefault(name, {})[step] = image

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.setdefault(name, {})[step] = value


class Silent(Log):
    """A logger that forgets."""

    def add_image(self, name: str, image: Any, step: int) -> None:
        pass

    def add_scalar(self, name: str, value: float, step: int) -> None:
        pass


def recorder(model: Any = None, images: Any = IMAGES, **options: Any) -> Recorder:
    model = seeded(SmallCNN()) if model is None else model
    return Recorder(model, images, **{"logger": Log(), **options})


def watching(**options: Any) -> Callable[[nn.Module], Callable[[nn.Module, int], object]]:
    """For :func:`train`: records at every turn, and every time something comes of it."""

    def watch(model: nn.Module) -> Callable[[nn.Module, int], object]:
        how = {"logger": Silent(), "labels": [0], "targets": "both", **options}
        kept = recorder(model, IMAGES[:1], **how)

        def look(model: nn.Module, step: int) -> None:
            assert kept.step(step) is not None

        return look

    return watch


class TestTraining:
    @pytest.mark.parametrize("name", WAYS)
    def test_is_bit_for_bit_the_one_without(self, name: str) -> None:
        assert_identical(train(WAYS[name], watching()), train(WAYS[name]))

    def test_of_a_scaled_loss_is_the_one_without(self) -> None:
        if not hasattr(torch.amp, "GradScaler"):
            pytest.skip("torch before 2.3 scales losses on GPUs alone")
        way = Way(dtype=torch.bfloat16, scaler=True, accumulate=2)
        assert_identical(train(way, watching()), train(way))

    def test_is_the_one_without_whatever_the_methods(self) -> None:
        how = {"methods": ["LayerCAM", "RandomCAM", "ScoreCAM", "EigenCAM"], "aug_smooth": True}
        assert_identical(train(Way(), watching(**how), steps=2), train(Way(), steps=2))

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
    def test_of_a_compiled_network_is_the_one_without(self, backend: str) -> None:
        if not hasattr(torch.compiler, "set_stance"):
            pytest.skip("torch before 2.6 runs nothing compiled as the Python it was")
        way = Way(wrap=lambda model: torch.compile(model, backend=backend), network=Least)
        torch._dynamo.reset()
        try:
            without = train(way)
        except Exception as error:  # noqa: BLE001
            pytest.skip(f"nothing compiles here: {type(error).__name__}")
        torch._dynamo.reset()
        assert_identical(train(way, watching()), without)

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_on_a_gpu_is_the_one_without(self, dtype: torch.dtype) -> None:
        way = Way(dtype=dtype, scaler=dtype == torch.float16, accumulate=2, averaged=True, device="cuda")
        before = torch.cuda.memory_allocated()
        with torch.backends.cudnn.flags(deterministic=True):
            assert_identical(train(way, watching()), train(way))
        assert torch.cuda.memory_allocated() <= before + 2**20

    def test_compiles_nothing_anew(self) -> None:
        if not hasattr(torch.compiler, "set_stance"):
            pytest.skip("torch before 2.6 runs nothing compiled as the Python it was")
        compiled = []

        def backend(graph: Any, inputs: Any) -> Any:
            compiled.append(graph)
            return graph

        torch._dynamo.reset()
        train(Way(wrap=lambda model: torch.compile(model, backend=backend)), watching())
        assert len(compiled) == 1

    def test_keeps_random_numbers_flags_hooks_and_gradients(self) -> None:
        model = seeded(SmallCNN()).train()
        model.conv1.eval()
        model.conv2.weight.requires_grad_(False)
        model(IMAGES).sum().backward()
        grads = {name: each.grad for name, each in model.named_parameters()}
        before = {name: each.clone() for name, each in model.state_dict().items()}
        flags = [each.training for each in model.modules()]
        kept = recorder(model, methods=["GradCAM", "RandomCAM"])

        def draws() -> list[float]:
            random.seed(3)
            np.random.seed(3)  # noqa: NPY002
            torch.default_generator.manual_seed(3)
            kept.step(1)
            return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

        found = draws()
        kept.finish()
        assert found == draws()
        assert all(each.grad is grads[name] for name, each in model.named_parameters())
        assert [each.training for each in model.modules()] == flags
        assert [name for name, each in model.named_parameters() if not each.requires_grad] == ["conv2.weight"]
        assert count_hooks(model) == 0
        assert_close(dict(model.state_dict()), before, rtol=0, atol=0)

    @pytest.mark.parametrize(("targets", "forwards"), [("label", 1), ("predicted", 1), ("both", 2)])
    def test_costs_a_forward_per_question_and_chunk(self, targets: str, forwards: int) -> None:
        model = seeded(SmallCNN())
        kept = recorder(model, labels=LABELS.tolist(), targets=targets, chunk_size=2)
        seen = count_forwards(model)
        kept.step(1)
        kept.step(2)
        assert seen == 2 * [*forwards * [2], *forwards * [1]]

    def test_takes_no_more_memory_after_many_records_than_after_a_few(self) -> None:
        model = seeded(SmallCNN())
        kept = recorder(model, logger=Silent(), labels=LABELS.tolist(), targets="both", strip=4)

        def record(steps: range) -> tuple[int, int]:
            for step in steps:
                with torch.no_grad():
                    model.head.weight.add_(0.01)
                kept.step(step)
            gc.collect()
            alive = gc.get_objects()
            # Deprecated objects of torch warn when their class is asked for.
            arrays = [each.nbytes for each in alive if issubclass(type(each), np.ndarray)]
            return sum(issubclass(type(each), Tensor) for each in alive), sum(arrays)

        tensors, memory = record(range(10))
        later = record(range(10, 30))
        # What other tests left may go meanwhile.
        assert later[0] <= tensors
        assert later[1] <= memory
        assert kept.records == 30


class TestPictures:
    def test_show_the_maps_that_a_cam_makes(self, tmp_path: Path) -> None:
        model = seeded(SmallCNN())
        record = recorder(model, labels=LABELS.tolist(), mean=[0.5] * 3, std=[0.25] * 3, folder=tmp_path).step(7)
        image = IMAGES[1] * 0.25 + 0.5
        shown = (255 * image).clamp(0, 255).round().byte().permute(1, 2, 0).numpy().repeat(10, 0).repeat(10, 1)
        heat = camkit.GradCAM(model)(IMAGES, LABELS.tolist())[1:2, None]
        large = nn.functional.interpolate(heat, scale_factor=10, mode="bilinear").clamp(0, 1)[0, 0]
        picture = record.pictures["image1"]
        np.testing.assert_array_equal(picture[28:188, 28:188], shown)
        np.testing.assert_array_equal(picture[28:188, 194:354], camkit.overlay(shown, large))
        assert set(pictures(tmp_path)) == {"image0_7", "image1_7", "image2_7"}
        np.testing.assert_array_equal(pictures(tmp_path)["image1_7"], picture)

    def test_go_to_logger_and_folder_alike(self, tmp_path: Path) -> None:
        log = Log()
        kept = recorder(logger=log, folder=tmp_path, labels=LABELS.tolist())
        for step in (10, 20, 30):
            kept.step(step)
        kept.finish()
        files = pictures(tmp_path)
        for step in (10, 20, 30):
            np.testing.assert_array_equal(log.images["image2"][step], files[f"image2_{step}"])
        # Strips are logged when the number of records has doubled, and at the end.
        assert sorted(log.images["image0_GradCAM_label_strip"]) == [20, 30]
        np.testing.assert_array_equal(log.images["image0_GradCAM_label_strip"][30], files["image0_GradCAM_label_strip"])
        lines = (tmp_path / "curves.csv").read_text().splitlines()
        assert lines[0] == "name,step,value"
        assert [line.split(",")[:2] for line in lines[1:]] == [["drift_GradCAM_label", step] for step in ("20", "30")]
        assert sorted(log.scalars["drift_GradCAM_label"]) == [20, 30]

    def test_are_named_after_files_each_once(self, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            camkit.save_picture(tmp_path / folder / "my cat.png", np.full((16, 16, 3), 90, np.uint8))
        paths = [tmp_path / "a" / "my cat.png", str(tmp_path / "b" / "my cat.png")]
        record = recorder(images=paths, transform=as_tensor, mean=[0.0] * 3, std=[1.0] * 3).step(1)
        assert list(record.pictures) == ["my_cat", "my_cat-2"]
        assert (record.pictures["my_cat"][30:180, 30:180] == 90).all()

    def test_of_two_recorders_stand_side_by_side(self, tmp_path: Path) -> None:
        log, model = Log(), seeded(SmallCNN())
        both = [recorder(model, logger=log, folder=tmp_path, name=name, targets=[1]) for name in ("early", "late")]
        for step in (1, 2):
            assert [list(kept.step(step).pictures) for kept in both] == 2 * [["image0", "image1", "image2"]]
        assert {"early_image0_1", "late_image0_1", "late_image0_GradCAM_class1_strip"} <= set(pictures(tmp_path))
        assert set(log.scalars) == {"early_drift_GradCAM_class1", "late_drift_GradCAM_class1"}
        assert {"early_image0", "late_image0_GradCAM_class1_strip"} <= set(log.images)

    def test_of_images_of_several_sizes(self) -> None:
        sized = [(torch.randn(3, 16, 16), 1), (torch.randn(3, 24, 16), 2), (torch.randn(3, 16, 16), 3)]
        record = recorder(images=sized).step(1)
        assert [each.shape for each in record.pictures.values()] == [(194, 360, 3), (274, 360, 3), (194, 360, 3)]

    def test_of_concepts_and_of_methods_that_ask_for_no_class(self) -> None:
        log = Log()
        kept = recorder(logger=log, methods=["GradCAM", "EigenCAM", "DFF"], targets=[3, 1])
        assert kept.step(1) is not None
        assert kept.step(2).drift.keys() == {"GradCAM_class3", "GradCAM_class1", "EigenCAM_class3"}
        assert kept.failures == 0

    def test_of_the_first_images_or_of_so_many_per_class(self) -> None:
        assert list(recorder(images=PAIRS, num_images=2).step(1).pictures) == ["image0", "image1"]
        found = recorder(images=PAIRS, per_class=2).step(1)
        assert list(found.pictures) == [f"image{number}" for label in range(5) for number in (label, label + 5)]


def as_tensor(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


class TestTargets:
    def test_are_labels_where_there_are_some(self) -> None:
        assert recorder(images=PAIRS).step(1) is not None
        for images, name in ((PAIRS, "label"), (IMAGES, "predicted")):
            kept = recorder(images=images)
            kept.step(1)
            with torch.no_grad():
                kept._explainer._cam.model.conv2.weight.mul_(-1)
            assert list(kept.step(2).drift) == [f"GradCAM_{name}"]

    def test_are_named_as_classes_are(self) -> None:
        names = ["zero", "one", "two", "three", "four"]
        kept = recorder(targets=["three", 1], class_names=names)
        kept.step(1)
        assert list(kept.step(2).drift) == ["GradCAM_class3", "GradCAM_class1"]

    def test_may_be_functions(self) -> None:
        kept = recorder(targets=[camkit.Probability(2)])
        kept.step(1)
        assert list(kept.step(2).drift) == ["GradCAM_target0"]


class Least(nn.Module):
    """Compiles in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(nn.functional.dropout(self.conv(images).relu(), 0.5, self.training).mean((2, 3)))
        return logits


class Unusable(nn.Module):
    """Looks at all pixels at once."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 16 * 16, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits


class TestStart:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"logger": None}, "nowhere to go: give logger= or folder="),
            ({"logger": object()}, "a object takes no pictures: give a SummaryWriter"),
            ({"targets": [7]}, "outside 0..4"),
            ({"targets": "tree", "class_names": list("abcde")}, "no class 'tree' among the 5 of the network"),
            ({"targets": "label"}, "image0 has none: give labels="),
            ({"targets": []}, "targets is 'label', 'predicted', 'both', or a list of classes; got []"),
            ({"labels": [1, 2]}, "3 images need as many labels, got 2"),
            ({"labels": [1, 2, 9]}, "outside 0..4"),
            ({"target_layers": ["conv9"]}, "no layer 'conv9'"),
            ({"methods": "GradCan"}, "no method"),
            ({"methods": []}, "name every method once"),
            ({"num_image": 3}, "closest: num_images"),
            ({"strip": 1}, "strip is a number of images, at least 2; got 1"),
            ({"images": IMAGES[:0]}, "no images to explain"),
            ({"images": IMAGES[0]}, "images are (N, C, H, W)"),
            ({"images": IMAGES.byte()}, "normalised floats"),
            ({"images": PAIRS, "per_class": 0}, "per_class is a number of images, at least 1; got 0"),
            ({"images": iter([])}, "a data set with a length"),
            ({"images": ["cat.png"]}, "no image cat.png"),
            ({"name": "a/b"}, "name is part of files' names"),
            ({"activation": "relu"}, "activation is 'softmax' or 'sigmoid'; got 'relu'"),
            ({"mean": [0.5]}, "mean and std go together"),
            ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "have 2 and 2 values, the images 3 channels"),
        ],
    )
    def test_refuses_what_cannot_work_in_one_line(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(CamkitError) as caught:
            recorder(**options)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_refuses_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        assert "can't write" in refusal(recorder, CamkitError, folder=tmp_path / "file")

    def test_refuses_weights_that_are_spread_over_processes(self) -> None:
        class FullyShardedDataParallel(SmallCNN):
            pass

        said = refusal(recorder, UsageError, nn.Sequential(FullyShardedDataParallel()))
        assert "spread over processes (FullyShardedDataParallel)" in said

    def test_takes_no_label_of_an_image_with_several(self) -> None:
        pairs = [(image, torch.tensor([0.0, 1, 0, 1, 0])) for image in IMAGES]
        assert "image0 has none" in refusal(recorder, UsageError, images=pairs, targets="label")
        assert "item 0 of the data set has none" in refusal(recorder, UsageError, images=pairs, per_class=1)
        kept = recorder(images=pairs)
        kept.step(1)
        assert list(kept.step(2).drift) == ["GradCAM_predicted"]

    def test_refuses_a_named_layer_of_which_no_map_can_be_made(self) -> None:
        assert "'head'" in refusal(recorder, LayerError, target_layers=["head"])

    def test_warns_once_of_a_network_without_a_live_layer_and_goes_on(self) -> None:
        with pytest.warns(CamkitWarning, match="no maps yet: no layer of the network has more than one place") as told:
            kept = recorder(Unusable())
        assert len(told) == 1
        with pytest.warns(CamkitWarning, match="no maps of step 1") as told:
            assert [kept.step(1), kept.step(2)] == [None, None]
        assert (len(told), kept.failures) == (1, 2)

    def test_waits_for_a_head_that_begins_with_zeros(self) -> None:
        model = seeded(SmallCNN())
        nn.init.zeros_(model.head.weight)
        with pytest.warns(CamkitWarning, match="no maps yet"):
            kept = recorder(model, targets=[1])
        nn.init.ones_(model.head.weight)
        assert kept.step(1) is not None

    def test_leaves_random_numbers_alone(self) -> None:
        model = seeded(SmallCNN())
        torch.default_generator.manual_seed(5)
        recorder(model, Drawing(), num_images=2)
        found = torch.rand(())
        torch.default_generator.manual_seed(5)
        assert found == torch.rand(())


class Drawing(torch.utils.data.Dataset[Any]):
    """Augments its images by chance."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return torch.randn(3, 16, 16) * random.random()


class Fails(SmallCNN):
    """While it is told to."""

    broken = False

    def forward(self, images: Tensor) -> Tensor:
        if self.broken and not self.training:
            raise MemoryError("no room")
        return super().forward(images)


class TestFailures:
    def test_are_one_warning_and_counted_and_end_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        model = seeded(Fails()).train()
        kept = recorder(model, labels=LABELS.tolist())
        kept.step(1)
        model.broken = True
        with pytest.warns(CamkitWarning) as told:
            assert [kept.step(2), kept.step(3)] == [None, None]
        assert len(told) == 1
        assert "no maps of step 2: " in str(told[0].message)
        assert "no room" in str(told[0].message)
        assert "further failures are counted" in str(told[0].message)
        model.broken = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert kept.step(4).drift.keys() == {"GradCAM_label"}
        assert model.training
        kept.finish()
        assert (kept.failures, kept.records) == (2, 2)
        assert "2 of 4 records failed" in caplog.text

    def test_of_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        log = Log()
        kept = recorder(folder=tmp_path, logger=log)

        def full(*args: Any) -> None:
            raise CamkitError("can't write 'image0_1.png': No space left on device")

        monkeypatch.setattr("camkit.integrations.loggers.write_together", full)
        with pytest.warns(CamkitWarning, match="No space left on device"):
            kept.step(1)
        assert pictures(tmp_path) == {}
        assert list(log.images["image0"]) == [1]

    def test_end_nothing_where_warnings_are_errors(self, caplog: pytest.LogCaptureFixture) -> None:
        model = seeded(Fails()).train()
        kept = recorder(model)
        model.broken = True
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert kept.step(1) is None
        assert "no maps of step 1: " in caplog.text

    def test_stop_with_the_user(self) -> None:
        class Impatient(Log):
            def add_image(self, name: str, image: Any, step: int) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            recorder(logger=Impatient()).step(1)


class TestFinish:
    def test_lets_go_of_model_and_images(self) -> None:
        import weakref

        model = seeded(SmallCNN())
        with recorder(model) as kept:
            kept.step(1)
        gone = weakref.ref(model)
        del model
        gc.collect()
        assert gone() is None
        assert kept.step(2) is None
        assert repr(kept) == "Recorder(1 records, 0 failures)"
