"""Pipelines with readers of their own: what MMPretrain's test loop feeds, and pictures in the right colours."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.testing import assert_close

from camkit.errors import CamkitError
from camkit.models import mmpretrain
from tests.helpers.refusals import refusal
from tests.models.installed import installed
from tests.models.mmpretrain_kit import AS_READ, MODEL, RESIZE, RGB, assert_same, own_of, write_config

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning"),  # as weights are drawn
]

load = partial(mmpretrain.load, pretrained=False)


def read_rgb(path: str) -> NDArray[np.uint8]:
    return np.array(Image.open(path).convert("RGB"))


class RgbReader:
    """Returns RGB; not called Load..."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        image = self.read(results["img_path"])
        return results | {"img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}

    def read(self, path: str) -> Any:
        return read_rgb(path)


class BgrReader(RgbReader):
    def read(self, path: str) -> Any:
        return cv2.imread(path)


class PillowReader(RgbReader):
    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        results["img"] = Image.open(results["img_path"]).convert("RGB")
        return results


class ArrayReader(RgbReader):
    """Reads ``.npy`` files, with the channels last."""

    def read(self, path: str) -> Any:
        array = np.load(path)
        assert array.ndim == 3
        return array


class FlippedArrayReader(ArrayReader):
    """Makes BGR of files in RGB, as MMPretrain has it."""

    def read(self, path: str) -> Any:
        return np.ascontiguousarray(super().read(path)[..., ::-1])


class PlanesReader(ArrayReader):
    """Channels first until a later step."""


class ChannelsLast:
    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return results | {"img": np.ascontiguousarray(results["img"].transpose(1, 2, 0))}


class TiffReader(RgbReader):
    def read(self, path: str) -> Any:
        found, pages = cv2.imreadmulti(path, flags=cv2.IMREAD_UNCHANGED)
        assert found, f"{path} is no TIFF"
        return np.dstack(pages)


class FilenameReader(RgbReader):
    """Asks for what its own data set gives."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return super().__call__(results | {"img_path": results["filename"]})


class OldReader(RgbReader):
    """As in MMClassification 0.x."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        name = results["img_info"]["filename"]
        if results["img_prefix"] is not None:
            name = str(Path(results["img_prefix"]) / name)
        return super().__call__(results | {"img_path": name})


class GetReader(RgbReader):
    """Asks without a KeyError."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return super().__call__(results | {"img_path": results.get("ann", {}).get("file_name")})


class TwoSteps:
    """First the bytes, then the image."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        if "bytes" not in results:
            return results | {"bytes": Path(results["img_path"]).read_bytes()}
        decoded = cv2.imdecode(np.frombuffer(results["bytes"], np.uint8), cv2.IMREAD_COLOR)
        return results | {"img": decoded, "img_shape": decoded.shape[:2]}


class NeedsLabel:
    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return results | {"half": results["gt_label"] / 2}


class ExchangeChannels:
    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return results | {"img": np.ascontiguousarray(results["img"][..., ::-1])}


class TensorReader(RgbReader):
    """As torchvision.io reads."""

    def read(self, path: str) -> Any:
        return torch.from_numpy(read_rgb(path)).permute(2, 0, 1).contiguous()

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return results | {"img": self.read(results["img_path"])}


class PhotoReader:
    """Puts the image elsewhere than MMPretrain's readers do."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return results | {"photo": read_rgb(results["img_path"])}


class LidarReader:
    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return results | {"img": results["lidar"]}


STEPS = [
    RgbReader, BgrReader, PillowReader, ArrayReader, FlippedArrayReader, PlanesReader, ChannelsLast, TiffReader,
    FilenameReader, OldReader, GetReader, TwoSteps, NeedsLabel, ExchangeChannels, TensorReader, PhotoReader,
    LidarReader,
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    installed("mmpretrain")
    from mmpretrain.datasets import CIFAR10, BaseDataset
    from mmpretrain.registry import DATASETS, TRANSFORMS

    for step in STEPS:
        TRANSFORMS.register_module(module=step, force=True)

    class KeyedDataset(BaseDataset):  # type: ignore[misc]
        """Samples with the keys that its pipeline asks for."""

        def __init__(self, sample: dict[str, Any], **settings: Any) -> None:
            self.sample = sample
            super().__init__(ann_file="", **settings)

        def load_data_list(self) -> list[dict[str, Any]]:
            return [self.sample]

    class PhotoAsCifar(CIFAR10):  # type: ignore[misc]
        """CIFAR's data set with one picture."""

        def __init__(self, picture: str, **settings: Any) -> None:
            self.picture = picture
            super().__init__(data_prefix=".", split="test", **settings)

        def load_data_list(self) -> list[dict[str, Any]]:
            return [{"img": read_rgb(self.picture), "gt_label": 0}]

    for dataset in (KeyedDataset, PhotoAsCifar):
        DATASETS.register_module(module=dataset, force=True)


def step(kind: str) -> str:
    return f"dict(type='{kind}')"


@pytest.mark.parametrize("preprocessor", [RGB, AS_READ])
@pytest.mark.parametrize("reader", ["RgbReader", "BgrReader", "TwoSteps", "LoadImageFromFile"])
def test_own_readers_feed_what_mmpretrain_feeds(tmp_path: Path, photo: str, reader: str, preprocessor: str) -> None:
    """And red is red in the picture, whatever the reader returns and the network takes."""
    steps = ", ".join([step(reader)] * (2 if reader == "TwoSteps" else 1) + [RESIZE])
    config = write_config(tmp_path, steps, preprocessor=preprocessor)
    classifier = load(config, None)
    assert_same(classifier, photo, own_of(config, classifier, photo))
    prepared = classifier.prepare(photo)
    np.testing.assert_array_equal(prepared.original, read_rgb(photo))
    np.testing.assert_array_equal(prepared.picture, cv2.resize(read_rgb(photo), (48, 40)))
    assert prepared.geometry.scale_x == pytest.approx(120 / 48, rel=0.01)


def test_pillow_reader(tmp_path: Path, photo: str) -> None:
    steps = f"{step('PillowReader')}, dict(type='torchvision/Resize', size=(40, 48)), dict(type='ToNumpy')"
    config = write_config(tmp_path, steps, preprocessor=AS_READ)
    classifier = load(config, None)
    assert_same(classifier, photo, own_of(config, classifier, photo))
    prepared = classifier.prepare(photo)
    np.testing.assert_array_equal(prepared.original, read_rgb(photo))
    assert_close(torch.from_numpy(prepared.picture).permute(2, 0, 1).float(), _undone(prepared.inputs))
    assert prepared.geometry.scale_y == pytest.approx(90 / 40, rel=0.01)


def test_tensor_reader(tmp_path: Path, photo: str) -> None:
    config = write_config(tmp_path, f"{step('TensorReader')}, dict(type='torchvision/CenterCrop', size=(40, 48))")
    classifier = load(config, None)
    assert_same(classifier, photo, own_of(config, classifier, photo))
    prepared = classifier.prepare(photo)
    np.testing.assert_array_equal(prepared.original, read_rgb(photo))
    np.testing.assert_array_equal(prepared.picture, read_rgb(photo)[25:65, 36:84])
    assert prepared.geometry.offset_x == pytest.approx(36, abs=0.5)


@pytest.mark.parametrize("reader", ["ArrayReader", "FlippedArrayReader"])
def test_numpy_files(tmp_path: Path, photo: str, reader: str) -> None:
    """Their channels count as red, green, blue in the order of the file, whichever way round the reader gives them."""
    path = str(tmp_path / "image.npy")
    np.save(path, read_rgb(photo))
    config = write_config(
        tmp_path, f"{step(reader)}, {RESIZE}", preprocessor=RGB if reader == "FlippedArrayReader" else AS_READ,
        dataset="type='CustomDataset', data_prefix='.', ann_file='images.txt', extensions=['.npy']",
    )  # fmt: skip
    classifier = load(config, None)
    assert_same(classifier, path, own_of(config, classifier, path))
    prepared = classifier.prepare(path)
    np.testing.assert_array_equal(prepared.original, read_rgb(photo))
    np.testing.assert_array_equal(prepared.picture, cv2.resize(read_rgb(photo), (48, 40)))


def test_planes_that_a_later_step_puts_last(tmp_path: Path, photo: str) -> None:
    path = str(tmp_path / "image.npy")
    np.save(path, read_rgb(photo).transpose(2, 0, 1))
    steps = f"{step('PlanesReader')}, {step('ChannelsLast')}, {RESIZE}"
    config = write_config(tmp_path, steps, preprocessor=AS_READ)
    classifier = load(config, None)
    assert_same(classifier, path, own_of(config, classifier, path))
    prepared = classifier.prepare(path)
    np.testing.assert_array_equal(prepared.original, read_rgb(photo))
    assert prepared.geometry.scale_x == pytest.approx(120 / 48, rel=0.01)


@pytest.mark.parametrize("bands", [4, 6])
def test_multi_band_tiff(tmp_path: Path, photo: str, bands: int) -> None:
    path = str(tmp_path / "image.tif")
    cv2.imwritemulti(path, [read_rgb(photo)[..., band % 3] // (1 + band // 3) for band in range(bands)])
    mean, std = [100.0 + band for band in range(bands)], [50.0 + band for band in range(bands)]
    config = write_config(
        tmp_path, f"{step('TiffReader')}, {RESIZE}", preprocessor=f"dict(mean={mean}, std={std}, to_rgb=True)",
        model=MODEL.replace("depth=18", f"depth=18, in_channels={bands}"),
    )  # fmt: skip
    classifier = load(config, None)
    assert_same(classifier, path, own_of(config, classifier, path))
    prepared = classifier.prepare(path)
    assert prepared.inputs.shape == (1, bands, 40, 48)
    np.testing.assert_array_equal(prepared.original, read_rgb(photo))  # the first three bands, in their order
    assert prepared.geometry.scale_x == pytest.approx(120 / 48, rel=0.01)


@pytest.mark.parametrize(
    ("reader", "sample"),
    [
        ("FilenameReader", lambda path: {"filename": path}),
        ("OldReader", lambda path: {"img_prefix": None, "img_info": {"filename": path}}),
        ("GetReader", lambda path: {"ann": {"file_name": path}}),
    ],
)
def test_data_sets_with_other_keys(tmp_path: Path, photo: str, reader: str, sample: Any) -> None:
    config = write_config(
        tmp_path, f"{step(reader)}, {RESIZE}", preprocessor=AS_READ,
        dataset=f"type='KeyedDataset', sample={sample(photo)}",
    )  # fmt: skip
    classifier = load(config, None)
    assert_same(classifier, photo, own_of(config, classifier, photo))
    np.testing.assert_array_equal(classifier.prepare(photo).original, read_rgb(photo))


def test_a_step_that_needs_the_label(tmp_path: Path, photo: str) -> None:
    config = write_config(tmp_path, f"{step('LoadImageFromFile')}, {step('NeedsLabel')}, {RESIZE}")
    classifier = load(config, None)
    assert_same(classifier, photo, own_of(config, classifier, photo))


def test_an_image_under_another_key(tmp_path: Path, photo: str) -> None:
    config = write_config(tmp_path, step("PhotoReader"), preprocessor=AS_READ)
    Path(config).write_text(Path(config).read_text().replace("'PackInputs'", "'PackInputs', input_key='photo'"))
    classifier = load(config, None)
    assert_same(classifier, photo, own_of(config, classifier, photo))
    np.testing.assert_array_equal(classifier.prepare(photo).picture, read_rgb(photo))


@pytest.mark.parametrize("reader", ["RgbReader", "BgrReader"])
def test_channels_that_a_step_exchanges(tmp_path: Path, photo: str, reader: str) -> None:
    """The picture's colours are right all the same."""
    config = write_config(tmp_path, f"{step(reader)}, {step('ExchangeChannels')}, {RESIZE}")
    classifier = load(config, None)
    assert_same(classifier, photo, own_of(config, classifier, photo))
    prepared = classifier.prepare(photo)
    np.testing.assert_array_equal(prepared.original, read_rgb(photo))
    np.testing.assert_array_equal(prepared.picture, cv2.resize(read_rgb(photo), (48, 40)))


@pytest.mark.parametrize("preprocessor", [RGB, AS_READ])
def test_data_sets_of_arrays(tmp_path: Path, photo: str, preprocessor: str) -> None:
    """CIFAR's are RGB whatever the data preprocessor does with them."""
    config = write_config(
        tmp_path, RESIZE, preprocessor=preprocessor, dataset=f"type='PhotoAsCifar', picture='{photo}'"
    )
    classifier = load(config, None)
    assert_same(classifier, photo, own_of(config, classifier, photo))
    np.testing.assert_array_equal(classifier.prepare(photo).picture, cv2.resize(read_rgb(photo), (48, 40)))


@pytest.mark.parametrize("preprocessor", [RGB, AS_READ])
def test_a_pipeline_without_a_reader_gets_what_the_inferencer_gives(
    tmp_path: Path, photo: str, preprocessor: str
) -> None:
    config = write_config(tmp_path, RESIZE, preprocessor=preprocessor, dataset="type='ImageNet'")
    classifier = load(config, None)
    torch.save({"state_dict": classifier.model.state_dict(), "meta": {}}, tmp_path / "net.pth")
    from mmpretrain import ImageClassificationInferencer

    inferencer = ImageClassificationInferencer(config, pretrained=str(tmp_path / "net.pth"), device="cpu")
    batch = inferencer.model.data_preprocessor(next(inferencer.preprocess([photo])), False)
    prepared = classifier.prepare(photo)
    assert_close(prepared.inputs, batch["inputs"], rtol=0, atol=0)
    np.testing.assert_array_equal(prepared.original, read_rgb(photo))


def test_files_that_the_reader_does_not_read(tmp_path: Path, photo: str) -> None:
    """In the reader's own words; MMPretrain's reader doesn't step in."""
    classifier = load(write_config(tmp_path, f"{step('ArrayReader')}, {RESIZE}"), None)
    message = refusal(classifier.prepare, CamkitError, photo)
    assert message.startswith(f"ArrayReader can't read {photo} as an image (")
    classifier = load(write_config(tmp_path, f"{step('TiffReader')}, {RESIZE}"), None)
    assert "is no TIFF" in refusal(classifier.prepare, CamkitError, tmp_path / "config.py")
    classifier = load(write_config(tmp_path, f"{step('LidarReader')}, {RESIZE}"), None)
    message = refusal(classifier.prepare, CamkitError, photo)
    assert "starts with LidarReader, which can't read an image file (it needs 'lidar')" in message


def test_pictures_of_a_pipeline_without_a_reader_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello\n" * 99)
    classifier = load(write_config(tmp_path, RESIZE, dataset="type='CIFAR10'"), None)
    assert "can't read" in refusal(classifier.prepare, CamkitError, tmp_path / "text.png")


def _undone(inputs: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([120.0, 115.0, 105.0]), torch.tensor([58.0, 57.0, 56.0])
    return (inputs[0] * std[:, None, None] + mean[:, None, None]).round()


@pytest.mark.parametrize("mode", ["RGBA", "RGB"])
def test_colours_of_images_read_as_they_are(tmp_path: Path, mode: str) -> None:
    """Four channels are read blue first, too; bands count from red wherever it stands."""
    path = str(tmp_path / "red.png")
    Image.new(mode, (48, 40), (250, 10, 20, 200)[: len(mode)]).save(path)
    model = MODEL.replace("depth=18", f"depth=18, in_channels={len(mode)}")
    steps = "dict(type='LoadImageFromFile', color_type='unchanged')"
    config = write_config(tmp_path, steps, model=model, preprocessor="dict(mean=None, std=None)")
    prepared = load(config, None).prepare(path)
    assert prepared.picture[0, 0].tolist() == prepared.original[0, 0].tolist() == [250, 10, 20]
    assert replace(prepared, bands=(3, 2, 1)).picture[0, 0].tolist() == [20, 10, 250]
