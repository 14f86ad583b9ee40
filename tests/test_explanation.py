"""Explanation: what it holds, how it is drawn, saved and described."""

from __future__ import annotations

import dataclasses
import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

import camkit
from camkit import CAM, AugSmooth, EigenSmooth, Explanation
from camkit.errors import EmptyMapWarning, UsageError
from tests.helpers.forwards import feature_maps
from tests.helpers.kinds import options
from tests.helpers.networks import Returns, SmallCNN, SmallViT, seeded
from tests.helpers.pictures import read
from tests.helpers.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def explained(method: str = "GradCAM", targets: Any = (1, 3), layers: Any = "conv2", **given: Any) -> Explanation:
    return CAM(seeded(SmallCNN()), method, layers, **given).explain(IMAGES, targets)


class TestContents:
    def test_are_all_that_belongs_to_the_maps(self) -> None:
        model = seeded(SmallCNN())
        result = EigenSmooth(CAM(model, "layercam", ["norm2", "conv1"])).explain(IMAGES, [[0, 1, 4], [1, 2, 3]])
        assert result.maps.shape == (2, 3, 16, 16)
        assert {name: maps.shape for name, maps in result.raw.items()} == {"norm2": (2, 3, 8, 8), "conv1": (2, 3, 8, 8)}
        assert (result.method, result.layers, result.smoothing) == ("LayerCAM", ("norm2", "conv1"), ("EigenSmooth",))
        assert_close(result.logits, model(IMAGES).detach())
        assert_close(result.scores, result.logits.gather(1, result.targets))
        assert result.versions["torch"] == version("torch")
        assert result.empty == {}

    def test_are_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            explained().method = "other"

    def test_raw_maps_are_signed_and_unnormalised(self) -> None:
        model = seeded(SmallCNN())
        raw = CAM(model, "GradCAM", "conv2").explain(IMAGES, 1).raw["conv2"][:, 0]
        with feature_maps(model, "conv2", IMAGES, 1) as found:
            gradient = next(found.gradients())["conv2"][0]
            expected = (gradient.mean((2, 3), keepdim=True) * found.activations["conv2"]).sum(1)
        assert_close(raw, expected)
        assert raw.min() < 0 < raw.max()

    @pytest.mark.parametrize("tensor", ["maps", "logits", "scores"])
    def test_carry_no_graph(self, tensor: str) -> None:
        assert not getattr(explained(), tensor).requires_grad

    def test_can_be_replaced_in_a_copy(self) -> None:
        result = explained()
        other = result.replace(method="LayerCAM", smoothing=("AugSmooth",))
        assert (other.method, other.smoothing, other.maps) == ("LayerCAM", ("AugSmooth",), result.maps)
        assert (result.method, result.smoothing) == ("GradCAM", ())

    def test_warnings_can_be_given_again(self) -> None:
        model = seeded(Returns(lambda tensor: tensor))
        model.conv.weight.data.zero_()
        model.conv.bias.data.zero_()
        with pytest.warns(EmptyMapWarning):
            result = CAM(model, "GradCAM", "layer").explain(IMAGES, 0)
        with pytest.warns(EmptyMapWarning, match="the activations of 'layer' are all zero") as caught:
            result.warn()
        assert [warning.filename for warning in caught] == [__file__] * 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result.replace(empty={}).warn()


class TestOverlay:
    def test_is_of_the_map_asked_for(self) -> None:
        result = explained(targets=[[1, 3], [0, 2]])
        for image in (0, 1, -1):
            for target in (0, 1, -1):
                expected = camkit.overlay(PHOTO, result.maps[image, target])
                made = result.overlay(PHOTO, image_index=image, target_index=target)
                np.testing.assert_array_equal(made, expected)
        np.testing.assert_array_equal(result.overlay(PHOTO), camkit.overlay(PHOTO, result.maps[0, 0]))

    def test_takes_what_overlay_takes(self) -> None:
        result = explained()
        made = result.overlay(PHOTO, colormap="viridis", alpha=0.2, channel_order="BGR")
        expected = camkit.overlay(PHOTO, result.maps[0, 0], colormap="viridis", alpha=0.2, channel_order="BGR")
        np.testing.assert_array_equal(made, expected)

    def test_is_red_where_the_map_is_hot(self) -> None:
        """RGB: the first channel is red."""
        heat = torch.zeros(1, 1, 16, 16)
        heat[..., 3, 5] = 1
        made = explained().replace(maps=heat).overlay(np.zeros((16, 16, 3), np.uint8))
        assert made.dtype == np.uint8
        red, _, blue = made[3, 5].astype(int)
        assert red > blue + 50
        red, _, blue = made[8, 8].astype(int)
        assert blue > red + 50

    def test_takes_pil_images(self) -> None:
        result = explained()
        np.testing.assert_array_equal(result.overlay(Image.fromarray(PHOTO)), result.overlay(PHOTO))

    @pytest.mark.parametrize("which", ["image_index", "target_index"])
    def test_of_what_isnt_there(self, which: str) -> None:
        result = explained(targets=[[1, 3], [0, 2]])
        for index in (2, -3):
            given: dict[str, Any] = {which: index}
            assert refusal(result.overlay, UsageError, PHOTO, **given) == f"{which} {index} is outside 0..1"

    def test_of_volumes(self) -> None:
        model = seeded(SmallCNN(dimensions=3))
        result = CAM(model, "GradCAM", "conv2").explain(torch.randn(1, 3, 8, 8, 8), 1)
        message = refusal(result.overlay, UsageError, PHOTO)
        assert message == "maps of volumes have no picture: draw a slice, explanation.maps[b, t, d], with overlay()"
        assert refusal(result.pictures, UsageError, PHOTO) == message
        assert camkit.overlay(PHOTO[:8, :8], result.maps[0, 0, 3]).shape == (8, 8, 3)

    def test_of_an_image_of_another_size(self) -> None:
        message = refusal(explained().overlay, UsageError, PHOTO[:8])
        assert "(8, 16" in message
        assert "(16, 16)" in message


class TestPictures:
    def test_are_one_per_target(self) -> None:
        result = explained(targets=[[1, 3, 0], [0, 2, 4]])
        made = result.pictures(PHOTO, image_index=1)
        assert len(made) == 3
        for target, picture in enumerate(made):
            np.testing.assert_array_equal(picture, result.overlay(PHOTO, image_index=1, target_index=target))

    def test_of_concepts_are_one(self) -> None:
        (made,) = explained("DFF", num_concepts=3).pictures(PHOTO)
        assert made.shape == (16, 16, 3)
        assert (made != PHOTO).any()

    def test_of_pixels_are_grey(self) -> None:
        (made,) = explained("GuidedBackprop", layers=None).pictures(PHOTO)
        assert (made == made[:, :, :1]).all()
        assert made.max() == 255


class TestSave:
    def test_writes_a_picture(self, tmp_path: Path) -> None:
        result = explained(targets=[[1, 3], [0, 2]])
        path = result.save(tmp_path / "map.png", PHOTO, image_index=1, target_index=1, alpha=0.3)
        assert path == tmp_path / "map.png"
        expected = result.overlay(PHOTO, image_index=1, target_index=1, alpha=0.3)
        np.testing.assert_array_equal(read(path), expected)

    def test_writes_the_same_file_in_either_channel_order(self, tmp_path: Path) -> None:
        result = explained()
        ours = result.save(tmp_path / "rgb.png", PHOTO)
        theirs = result.save(tmp_path / "bgr.png", PHOTO[:, :, ::-1], channel_order="BGR")
        np.testing.assert_array_equal(read(theirs), read(ours))

    @pytest.mark.parametrize("method", ["GradCAM", "GuidedGradCAM"])
    def test_writes_maps_with_their_provenance(self, method: str, tmp_path: Path) -> None:
        result = explained(method, targets=[[1, 3], [0, 2]])
        found = camkit.load_raw(result.save(str(tmp_path / "maps.npz")))
        maps, provenance = found
        assert set(maps) == {"conv2"} | ({"pixels"} if method == "GuidedGradCAM" else set())
        assert_close(torch.from_numpy(maps["conv2"]), result.raw["conv2"], rtol=0, atol=0)
        assert {name: provenance[name] for name in result.provenance()} == json.loads(json.dumps(result.provenance()))

    @pytest.mark.parametrize(
        ("name", "given", "message"),
        [
            ("map.png", (), "needs the image that the map lies over; end in .npz for maps"),
            ("map.gif", (PHOTO,), ".gif"),
            ("map", (PHOTO,), "map"),
        ],
    )
    def test_refuses_what_it_cant_write(self, name: str, given: Any, message: str, tmp_path: Path) -> None:
        assert message in refusal(explained().save, UsageError, tmp_path / name, *given)
        assert list(tmp_path.iterdir()) == []

    def test_writes_nothing_of_an_image_that_doesnt_fit(self, tmp_path: Path) -> None:
        refusal(explained().save, UsageError, tmp_path / "map.png", PHOTO[:8])
        assert list(tmp_path.iterdir()) == []


class TestProvenance:
    def test_says_how_the_maps_were_made(self) -> None:
        cam = AugSmooth(CAM(seeded(SmallViT()), "ScoreCAM", "layers.1.ln1", num_extra_tokens=1, top_k=3))
        result = cam.explain(IMAGES, [[1, 3], [0, 2]])
        found = result.provenance()
        scores, versions = found.pop("scores"), found.pop("versions")
        assert found == {
            "method": "ScoreCAM",
            "options": dict(camkit.METHODS["ScoreCAM"].configured(top_k=3).options),
            "layers": ["layers.1.ln1"],
            "layer_reasons": {},
            "smoothing": ["AugSmooth"],
            "num_extra_tokens": 1,
            "output": "",
            "targets": [[1, 3], [0, 2]],
            "input_size": [16, 16],
            "device": "cpu",
        }
        assert_close(torch.tensor(scores), result.scores)
        assert {"torch", "camkit"} <= set(versions)

    def test_says_why_a_default_layer_was_chosen(self) -> None:
        found = explained(layers=None).provenance()
        assert found["layers"] == ["norm2"]
        assert set(found["layer_reasons"]) == {"norm2"}

    @pytest.mark.parametrize("method", camkit.METHODS)
    def test_fits_into_json(self, method: str) -> None:
        is_attention = camkit.METHODS[method].family == "attention"
        model = seeded(SmallViT() if is_attention else SmallCNN())
        result = CAM(model, method, **options(method, num_samples=2, num_concepts=2)).explain(IMAGES, [1, 3])
        found = result.provenance()
        assert json.loads(json.dumps(found, allow_nan=False)).keys() == found.keys()

    def test_names_functions_among_the_targets(self) -> None:
        def third(row: Tensor) -> Tensor:
            return row[2]

        found = explained(targets=[[1, third], [0, camkit.Logit(2)]]).provenance()
        (one, function), (other, ready) = json.loads(json.dumps(found["targets"]))
        assert (one, other) == (1, 0)
        assert "third" in function
        assert "Logit" in ready


class TestRepr:
    def test_says_what_it_is(self) -> None:
        assert repr(explained()) == "Explanation(GradCAM at conv2: 2 x 1 maps (16, 16), targets [[1], [3]])"
        smooth = AugSmooth(EigenSmooth(CAM(seeded(SmallCNN()), "LayerCAM", ["conv1", "norm2"])))
        assert repr(smooth.explain(IMAGES, [[1, 3], [0, 2]])) == (
            "Explanation(LayerCAM at conv1, norm2, EigenSmooth, AugSmooth: 2 x 2 maps (16, 16), targets "
            "[[1, 3], [0, 2]])"
        )

    def test_fits_on_a_line_however_much_there_is(self) -> None:
        model = seeded(SmallCNN())
        found = CAM(model, "EigenCAM", "conv2").explain(torch.randn(40, 3, 16, 16), [[0, 1, 2]] * 40)
        assert repr(found) == "Explanation(EigenCAM at conv2: 40 x 3 maps (16, 16), targets 3 per image)"

    def test_counts_empty_maps(self) -> None:
        result = explained()
        assert repr(result.replace(empty={(0, 0): "a reason"})).endswith("targets [[1], [3]], 1 empty)")

    def test_of_functions(self) -> None:
        assert repr(explained(targets=lambda row: row[2])).endswith("targets 1 per image)")
