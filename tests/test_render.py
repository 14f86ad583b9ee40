"""Pictures: the overlay's formula, and the grid."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.utils.image import show_cam_on_image

from camkit import grid, overlay
from camkit.errors import UsageError
from camkit.render import COLORMAPS, COLOURS, Picture, concept_colours, concepts, saliency
from camkit.sheet import Cell, sheet

RANDOM = np.random.default_rng(0)
IMAGE: Picture = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
HEAT: NDArray[np.float32] = RANDOM.random((20, 30), dtype=np.float32)


@pytest.mark.parametrize("colormap", ["jet", "viridis", "HOT"])
@pytest.mark.parametrize("alpha", [0.5, 0.2, 0.0, 1.0])
@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_overlay_is_the_references(colormap: str, alpha: float, order: str) -> None:
    expected = show_cam_on_image(
        np.float32(IMAGE) / 255,
        HEAT,
        use_rgb=order == "RGB",
        colormap=COLORMAPS[colormap.lower()],
        image_weight=1 - alpha,
    )
    made = overlay(IMAGE, torch.from_numpy(HEAT), colormap=colormap, alpha=alpha, channel_order=order)
    assert made.dtype == np.uint8
    # The last bit may differ: the sum is made in another order.
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_overlay_takes_half_precision_maps() -> None:
    heat = torch.from_numpy(HEAT).bfloat16()
    assert np.array_equal(overlay(IMAGE, heat), overlay(IMAGE, heat.float()))


def test_overlay_defaults_to_half_jet() -> None:
    assert np.array_equal(overlay(IMAGE, HEAT), overlay(IMAGE, HEAT, colormap="jet", alpha=0.5, channel_order="BGR"))


def test_overlay_leaves_what_wasnt_seen_without_heat() -> None:
    seen = np.zeros((20, 30), dtype=bool)
    seen[:, 10:20] = True
    made = overlay(IMAGE, HEAT * seen, seen=seen).astype(float)
    mixed = (
        np.where(seen[:, :, None], 0.5 * cv2.applyColorMap((255 * HEAT).astype(np.uint8), cv2.COLORMAP_JET), 0)
        + 0.5 * IMAGE
    )
    assert np.abs(made - 255 * mixed / mixed.max()).max() <= 2


def test_overlay_of_black_on_black() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert overlay(black, np.zeros((4, 4)), alpha=0.0).max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heat": HEAT[:10]}, r"a map of \(10, 30\) doesn't lie on an image of \(20, 30\)"),
        ({"heat": HEAT + 1}, r"a map must lie in \[0, 1\], got 1"),
        ({"heat": HEAT * np.nan}, r"a map must lie in \[0, 1\], got nan"),
        ({"image": IMAGE / 255}, r"must be a uint8 array \(H, W, 3\), got float64 \(20, 30, 3\)"),
        ({"image": IMAGE[:, :, 0]}, r"must be a uint8 array .*got uint8 \(20, 30\)"),
        ({"image": torch.from_numpy(IMAGE)}, "must be a uint8 array .*got Tensor"),
        ({"colormap": "jett"}, r"no colour map 'jett'; closest: jet.*; there are: autumn, "),
        ({"alpha": 1.5}, "alpha is the heat's share, 0 to 1, got 1.5"),
        ({"channel_order": "GBR"}, "channel_order is 'BGR' or 'RGB'"),
        ({"colormap": 2}, "colormap is a name such as 'jet', got 2"),
        ({"image": IMAGE[:0], "heat": HEAT[:0]}, r"the image is empty: \(0, 30, 3\)"),
        ({"seen": np.ones((3, 3), bool)}, r"seen is \(3, 3\), the image \(20, 30\)"),
    ],
)
def test_overlay_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        overlay(**({"image": IMAGE, "heat": HEAT} | arguments))


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_grid_holds_every_picture_pixel_by_pixel(order: str) -> None:
    pictures = [[RANDOM.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(3)] for _ in range(2)]
    page = grid(pictures, ["GradCAM", "LayerCAM"], ["a", "b", "c"], channel_order=order)
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            found = cv2.matchTemplate(page, picture, cv2.TM_SQDIFF)
            _, _, (x, y), _ = cv2.minMaxLoc(found)
            assert np.array_equal(page[y : y + 40, x : x + 60], picture)
            assert (y // 40, x // 60) == (i, j)
    # The labels are there: ink on the white margins.
    assert page[:26].min() < 128
    assert page[:, :26].min() < 128


def test_grid_refuses_unequal_pictures_and_missing_labels() -> None:
    with pytest.raises(UsageError, match="a grid needs equal pictures"):
        grid([[IMAGE, IMAGE[:10]]], ["row"], ["a", "b"])
    with pytest.raises(UsageError, match="1 row and 1 column labels"):
        grid([[IMAGE, IMAGE]], ["row"], ["a"])


def test_a_text_stands_where_there_is_no_picture() -> None:
    page = grid(
        [[IMAGE.repeat(5, 0).repeat(5, 1), "[2] nothing\nof the kind"], ["", IMAGE.repeat(5, 0).repeat(5, 1)]],
        ["a", "b"],
        ["c", "d"],
    )
    right, left = page[34:134, 190:340], page[140:240, 28:178]
    assert (left == 255).all()
    assert 0 < (right < 128).any(2).mean() < 0.1
    swatch = (right == concept_colours(2)[1][::-1]).all(2)
    assert 40 < swatch.sum() < 100
    with pytest.raises(UsageError, match="a grid needs equal pictures"):
        grid([["no", "picture"]], ["row"], ["a", "b"])


class TestConcepts:
    """Several maps over one image."""

    MAPS = np.zeros((3, 120, 150), dtype=np.float32)
    MAPS[0, :60] = 1
    MAPS[1, 60:] = 0.5
    MAPS[2, 60:, 100:] = 0.75
    GREY = np.full((120, 150, 3), 100, dtype=np.uint8)

    @pytest.mark.parametrize("order", ["BGR", "RGB"])
    def test_the_strongest_gives_the_colour_and_its_strength_how_much(self, order: str) -> None:
        made = concepts(self.GREY, torch.from_numpy(self.MAPS), alpha=0.5, channel_order=order).astype(float)
        colours = np.array(concept_colours(3), dtype=float)[:, :: 1 if order == "RGB" else -1]
        places = [(30, 30), (90, 30), (90, 130)]
        mixed = [0.5 * strength * colour + 50 for strength, colour in zip((1, 0.5, 0.75), colours, strict=True)]
        top = max(map(max, mixed))
        for place, expected in zip(places, mixed, strict=True):
            np.testing.assert_allclose(made[place], expected * 255 / top, atol=1.5)

    def test_labels_stand_where_their_map_is_strongest(self) -> None:
        plain, marked = (concepts(self.GREY, self.MAPS, labels=labels) for labels in ([], ["1", "2", "3"]))
        rows, columns = (plain != marked).any(2).nonzero()
        assert (rows < 60).any()
        assert (rows > 60).any()
        assert (columns > 100).any()
        small = np.ascontiguousarray(self.GREY[:20])
        assert np.array_equal(
            concepts(small, self.MAPS[:, :20], labels=["1", "2", "3"]), concepts(small, self.MAPS[:, :20])
        ), "no room"

    def test_what_wasnt_seen_has_no_colour(self) -> None:
        seen = np.zeros((120, 150), dtype=bool)
        seen[:, :75] = True
        made = concepts(self.GREY, self.MAPS, seen=seen)
        assert (made[:, 75:].std(2) == 0).all()
        assert (made[:60, :75].std(2) > 0).all()

    def test_colours_differ(self) -> None:
        assert len(set(concept_colours(14))) == 14

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


def test_saliency_saturates_the_brightest_hundredth() -> None:
    heat = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100) ** 4
    made = saliency(torch.from_numpy(heat))
    assert made.shape == (100, 100, 3)
    assert 0.009 < (made == 255).mean() < 0.011
    expected = 255 * np.minimum(heat / np.quantile(heat, 0.99), 1)
    assert np.abs(made[:, :, 0] - expected).max() < 1.01
    one = np.zeros((100, 100))
    one[3, 4] = 0.5
    assert np.argwhere(saliency(one)[:, :, 0] == 255).tolist() == [[3, 4]]
    assert not saliency(np.zeros((5, 5))).any()
    with pytest.raises(UsageError, match=r"a map is \(H, W\)"):
        saliency(np.zeros((2, 5, 5)))


def found(page: Picture, picture: Picture) -> tuple[int, int]:
    """Where on a page a picture stands, pixel by pixel: row and column of its corner."""
    _, _, (x, y), _ = cv2.minMaxLoc(cv2.matchTemplate(page, picture, cv2.TM_SQDIFF))
    assert np.array_equal(page[y : y + picture.shape[0], x : x + picture.shape[1]], picture)
    return y, x


class TestSheet:
    """Cells under the bars of their groups."""

    PICTURES = tuple(RANDOM.integers(0, 256, (80, 200, 3), dtype=np.uint8) for _ in range(4))

    def test_cells_stand_in_order_under_bars(self) -> None:
        first, second, third, fourth = self.PICTURES
        cells = [
            Cell("image", pictures=[first]),
            Cell("A", "one", pictures=[second, third], note="k=2 (1)"),
            Cell("B", "two", text="can't be applied"),
            Cell("C", "two", pictures=[fourth]),
        ]
        page = sheet(cells, ["up", "down"], 2, "heading", "remark")
        corners = [found(page, picture) for picture in self.PICTURES]
        assert corners[0][0] == corners[1][0]
        assert corners[1][1] == corners[2][1] == corners[3][1] == corners[0][1] + 210
        assert corners[2][0] == corners[1][0] + 82
        assert corners[3][0] > corners[2][0] + 80
        bars = [(page == np.array(COLOURS[group][::-1])).all(2).any(0).sum() for group in range(2)]
        assert bars == [200, 410], "a bar goes over all neighbours of a group"

    def test_wide_pictures_become_smaller_and_tiny_ones_larger(self) -> None:
        wide = np.zeros((100, 480, 3), np.uint8)
        assert sheet([Cell("a", pictures=[wide])], ["row"], 3, "").shape[1] < 300
        tiny = RANDOM.integers(0, 256, (20, 48, 3), dtype=np.uint8)
        found(sheet([Cell("a", pictures=[tiny])], ["row"], 3, ""), tiny.repeat(4, 0).repeat(4, 1))

    def test_long_words_stay_in_their_cells(self) -> None:
        words = "pneumonoultramicroscopicsilicovolcanoconiosis " * 9
        cells = [Cell("a", pictures=[self.PICTURES[0]]), Cell(words, words, words, text=words)]
        page = sheet([*cells, Cell("c")], [words], 2, words, words)
        assert (page[:, -10:] == 255).all()

    def test_refuses_unequal_pictures(self) -> None:
        with pytest.raises(UsageError, match="a sheet needs pictures of one size"):
            sheet([Cell("a", pictures=[self.PICTURES[0], self.PICTURES[0][1:]])], ["row"], 1, "")
        with pytest.raises(UsageError, match="a sheet needs pictures of one size"):
            sheet([Cell("a")], ["row"], 1, "")
