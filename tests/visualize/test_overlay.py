"""Maps to pictures: overlays, concepts, saliency maps, and all maps of an image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from camkit.errors import UsageError
from camkit.models.prepared import Prepared
from camkit.visualize.colours import COLORMAPS, concept_colour
from camkit.visualize.overlay import Style, concepts, draw_maps, fit_maps, overlay, saliency
from camkit.visualize.picture import Picture

RANDOM = np.random.default_rng(0)
IMAGE: Picture = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
HEAT: NDArray[np.float32] = RANDOM.random((20, 30), dtype=np.float32)


def formula(image: Picture, heat: NDArray[Any], colormap: str, alpha: float) -> NDArray[np.float64]:
    """grad-cam's formula, in float64: an image and the heat in RGB, before truncation to whole numbers."""
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), COLORMAPS[colormap.lower()])[:, :, ::-1]
    mixed = alpha * colours.astype(float) / 255 + (1 - alpha) * image.astype(float) / 255
    return 255 * mixed / mixed.max()


class TestOverlay:
    """One map over an image."""

    @pytest.mark.parametrize("colormap", ["jet", "viridis", "HOT"])
    @pytest.mark.parametrize("alpha", [0.5, 0.2, 0.0, 1.0])
    def test_is_the_formula_truncated(self, colormap: str, alpha: float) -> None:
        made = overlay(IMAGE, torch.from_numpy(HEAT), colormap=colormap, alpha=alpha)
        assert made.dtype == np.uint8
        # Truncation is from float32: values next to a whole number may fall on either side of it.
        left = formula(IMAGE, HEAT, colormap, alpha) - made
        assert left.min() > -0.001
        assert left.max() < 1.001

    def test_the_hottest_place_is_red_in_rgb_and_bgr(self) -> None:
        black, heat = np.zeros((2, 2, 3), np.uint8), np.array([[0, 0], [0, 1]])
        assert overlay(black, heat)[1, 1].tolist() == [255, 0, 0]
        assert overlay(black, heat, channel_order="BGR")[1, 1].tolist() == [0, 0, 255]

    def test_bgr_is_rgb_reversed(self) -> None:
        made = overlay(IMAGE[:, :, ::-1], HEAT, channel_order="BGR")
        np.testing.assert_array_equal(made[:, :, ::-1], overlay(IMAGE, HEAT))
        assert made.flags.c_contiguous

    def test_defaults_to_half_jet_in_rgb(self) -> None:
        expected = overlay(IMAGE, HEAT, colormap="jet", alpha=0.5, channel_order="RGB")
        np.testing.assert_array_equal(overlay(IMAGE, HEAT), expected)

    def test_takes_pil_images(self) -> None:
        image = Image.fromarray(IMAGE)
        np.testing.assert_array_equal(overlay(image, HEAT), overlay(IMAGE, HEAT))
        grey = np.asarray(image.convert("L"))
        np.testing.assert_array_equal(overlay(image.convert("L"), HEAT), overlay(grey, HEAT))
        bgr = overlay(image, HEAT, channel_order="BGR")
        np.testing.assert_array_equal(bgr[:, :, ::-1], overlay(IMAGE, HEAT))

    def test_takes_half_precision_maps(self) -> None:
        heat = torch.from_numpy(HEAT).bfloat16()
        np.testing.assert_array_equal(overlay(IMAGE, heat), overlay(IMAGE, heat.float()))

    def test_changes_neither_image_nor_map(self) -> None:
        image, heat = IMAGE.copy(), HEAT.copy()
        overlay(image, heat)
        np.testing.assert_array_equal(image, IMAGE)
        np.testing.assert_array_equal(heat, HEAT)

    def test_what_wasnt_seen_has_no_heat(self) -> None:
        seen = np.zeros((20, 30), dtype=bool)
        seen[:, 10:20] = True
        made = overlay(IMAGE, HEAT, seen=seen).astype(float)
        colours = cv2.applyColorMap((255 * HEAT).astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1]
        mixed = 0.5 * np.where(seen[:, :, None], colours, 0) + 0.5 * IMAGE
        np.testing.assert_allclose(made, 255 * mixed / mixed.max(), rtol=0, atol=1.001)

    def test_black_on_black_stays_black(self) -> None:
        black = np.zeros((4, 4, 3), np.uint8)
        assert not overlay(black, np.zeros((4, 4)), alpha=0.0).any()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"heat": HEAT[:10]}, r"a map of \(10, 30\) doesn't lie on an image of \(20, 30\)"),
            ({"heat": HEAT[None]}, r"a map is \(H, W\), got \(1, 20, 30\); take one of them, such as maps\[0\]"),
            ({"heat": HEAT + 1}, r"a map must lie in \[0, 1\], got 1"),
            ({"heat": HEAT * np.nan}, r"a map must lie in \[0, 1\], got nan"),
            ({"image": IMAGE / 255}, r"must be a PIL image or a uint8 array .*got float64 \(20, 30, 3\)"),
            ({"colormap": "jett"}, "no colour map 'jett'"),
            ({"alpha": 1.5}, "alpha is the heat's share, 0 to 1, got 1.5"),
            ({"channel_order": "GBR"}, "channel_order is 'RGB' or 'BGR'"),
            ({"seen": np.ones((3, 3), bool)}, r"seen is \(3, 3\), the image \(20, 30\)"),
        ],
    )
    def test_refuses(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            overlay(**({"image": IMAGE, "heat": HEAT} | arguments))


class TestConcepts:
    """Several maps over one image."""

    MAPS = np.zeros((3, 120, 150), dtype=np.float32)
    MAPS[0, :60] = 1
    MAPS[1, 60:] = 0.5
    MAPS[2, 60:, 100:] = 0.75
    GREY = np.full((120, 150), 100, dtype=np.uint8)

    @pytest.mark.parametrize("order", ["RGB", "BGR"])
    def test_the_strongest_map_gives_the_colour_and_its_strength(self, order: str) -> None:
        made = concepts(self.GREY, torch.from_numpy(self.MAPS), alpha=0.5, channel_order=order).astype(float)
        colours = np.array([concept_colour(number) for number in (1, 2, 3)], dtype=float)
        colours = colours if order == "RGB" else colours[:, ::-1]
        mixed = [0.5 * strength * colour + 50 for strength, colour in zip((1, 0.5, 0.75), colours, strict=True)]
        top = max(map(max, mixed))
        for place, expected in zip([(30, 30), (90, 30), (90, 130)], mixed, strict=True):
            np.testing.assert_allclose(made[place], expected * 255 / top, rtol=0, atol=1.001)

    def test_bgr_is_rgb_reversed_labels_too(self) -> None:
        image = RANDOM.integers(0, 256, (120, 150, 3), dtype=np.uint8)
        labels = ["1", "2", "3"]
        rgb = concepts(image, self.MAPS, labels=labels)
        bgr = concepts(image[:, :, ::-1], self.MAPS, labels=labels, channel_order="BGR")
        np.testing.assert_array_equal(bgr[:, :, ::-1], rgb)

    def test_labels_stand_where_their_map_is_strongest(self) -> None:
        plain, marked = (concepts(self.GREY, self.MAPS, labels=labels) for labels in ([], ["1", "2", "3"]))
        rows, columns = (plain != marked).any(2).nonzero()
        assert (rows < 60).any()
        assert (rows > 60).any()
        assert (columns > 100).any()

    def test_small_images_have_no_labels(self) -> None:
        small, maps = self.GREY[:20], self.MAPS[:, :20]
        np.testing.assert_array_equal(concepts(small, maps, labels=["1", "2", "3"]), concepts(small, maps))

    def test_what_wasnt_seen_has_no_colour(self) -> None:
        seen = np.zeros((120, 150), dtype=bool)
        seen[:, :75] = True
        made = concepts(self.GREY, self.MAPS, seen=seen)
        assert (made[:, 75:].std(2) == 0).all()
        assert (made[:60, :75].std(2) > 0).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"maps": MAPS[:0]}, "got 0 maps, 0 labels"),
            ({"labels": ["1"]}, "a label for each or none: got 3 maps, 1 labels"),
            ({"maps": MAPS[:, 1:]}, r"a map of \(119, 150\) doesn't lie on an image of \(120, 150\)"),
            ({"maps": MAPS[0]}, r"a map is \(H, W\), got \(150,\)"),
            ({"maps": 2 * MAPS}, r"a map must lie in \[0, 1\]"),
            ({"alpha": 2}, "the heat's share"),
            ({"seen": np.ones((3, 3), bool)}, r"seen is \(3, 3\), the image \(120, 150\)"),
            ({"channel_order": "GBR"}, "channel_order is"),
        ],
    )
    def test_refuses(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            concepts(**({"image": self.GREY, "maps": self.MAPS} | arguments))


class TestSaliency:
    """White on black, without an image."""

    def test_the_brightest_hundredth_is_white(self) -> None:
        heat = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100) ** 4
        made = saliency(torch.from_numpy(heat))
        assert made.shape == (100, 100, 3)
        assert 0.009 < (made == 255).mean() < 0.011
        expected = 255 * np.minimum(heat / np.quantile(heat, 0.99), 1)
        np.testing.assert_allclose(made[:, :, 0], expected, rtol=0, atol=1.01)

    def test_a_single_pixel_is_white(self) -> None:
        heat = np.zeros((100, 100))
        heat[3, 4] = 0.5
        assert np.argwhere(saliency(heat)[:, :, 0] == 255).tolist() == [[3, 4]]

    def test_an_empty_map_is_black(self) -> None:
        assert not saliency(np.zeros((5, 5))).any()

    def test_refuses_several_maps(self) -> None:
        with pytest.raises(UsageError, match=r"a map is \(H, W\)"):
            saliency(np.zeros((2, 5, 5)))


class TestDrawMaps:
    """All maps of one image, by the kind of method."""

    MAPS = torch.from_numpy(RANDOM.random((2, 20, 30), dtype=np.float32))
    SEEN = RANDOM.random((20, 30)) < 0.5

    @pytest.mark.parametrize("image", [IMAGE, Image.fromarray(IMAGE)])
    def test_an_overlay_per_map(self, image: Any) -> None:
        made = draw_maps(image, self.MAPS, style=Style("hot", 0.3), seen=self.SEEN)
        assert len(made) == 2
        for picture, heat in zip(made, self.MAPS, strict=True):
            np.testing.assert_array_equal(picture, overlay(IMAGE, heat, colormap="hot", alpha=0.3, seen=self.SEEN))

    def test_saliency_maps(self) -> None:
        made = draw_maps(IMAGE, self.MAPS, is_saliency=True)
        assert len(made) == 2
        for picture, heat in zip(made, self.MAPS, strict=True):
            np.testing.assert_array_equal(picture, saliency(heat))

    def test_concepts_are_one_numbered_picture(self) -> None:
        image = IMAGE.repeat(6, 0).repeat(6, 1)
        maps = [heat.numpy().repeat(6, 0).repeat(6, 1) for heat in self.MAPS]
        (made,) = draw_maps(image, maps, style=Style(alpha=0.7), are_concepts=True)
        np.testing.assert_array_equal(made, concepts(image, maps, labels=["1", "2"], alpha=0.7))

    def test_default_style(self) -> None:
        np.testing.assert_array_equal(draw_maps(IMAGE, self.MAPS)[0], overlay(IMAGE, self.MAPS[0]))


class TestFitMaps:
    """Maps of the network's input on the picture that it saw, or on the whole image."""

    @staticmethod
    def prepared() -> Prepared:
        """The middle of a wide image, twice as large, padded by the network's data preprocessor."""
        original = IMAGE
        picture = original[5:15, 10:20].repeat(2, 0).repeat(2, 1)

        def crop(image: NDArray[Any]) -> NDArray[Any]:
            return image[5:15, 10:20].repeat(2, 0).repeat(2, 1)

        return Prepared(torch.zeros(1, 3, 24, 32), picture, original, crop)

    def test_the_picture_ends_before_the_padding(self) -> None:
        maps = torch.from_numpy(RANDOM.random((2, 24, 32), dtype=np.float32))
        image, fitted, seen = fit_maps(self.prepared(), maps)
        assert image.shape == (20, 20, 3)
        assert seen is None
        for heat, whole in zip(fitted, maps, strict=True):
            np.testing.assert_array_equal(heat, whole[:20, :20])

    def test_original_size(self) -> None:
        image, (heat,), seen = fit_maps(self.prepared(), torch.ones(1, 24, 32), original_size=True)
        np.testing.assert_array_equal(image, IMAGE)
        assert seen is not None
        expected = np.zeros((20, 30), dtype=bool)
        expected[5:15, 10:20] = True
        np.testing.assert_array_equal(seen, expected)
        np.testing.assert_allclose(heat, expected.astype(np.float32), rtol=0, atol=1e-6)
        assert overlay(image, heat, seen=seen).shape == IMAGE.shape
