"""Windows, as far as a machine without a display can look into them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from camkit.errors import CamkitError
from camkit.visualize.window import require_display, show


def test_no_display_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.get_backend", lambda: "agg")
    with pytest.raises(CamkitError, match=r"^no display to show the picture on .*agg.*: give --save-path FILE\.png$"):
        require_display()


def test_an_interactive_backend_is_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.get_backend", lambda: "TkAgg")
    require_display()


def test_windows_show_the_pictures_pixel_by_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    plt.switch_backend("agg")
    shown: dict[str, np.ndarray] = {}

    def look() -> None:
        for number in plt.get_fignums():
            canvas = plt.figure(number).canvas
            canvas.draw()
            shown[plt.figure(number).get_label()] = np.asarray(canvas.buffer_rgba())[:, :, :3]  # type: ignore[attr-defined]

    monkeypatch.setattr("matplotlib.pyplot.show", look)
    random = np.random.default_rng(0)
    pictures = {f"camkit {name}": random.integers(0, 256, (40, 60, 3), dtype=np.uint8) for name in ("a", "b")}
    show(pictures)
    plt.close("all")
    assert shown.keys() == pictures.keys()
    for title, picture in pictures.items():
        np.testing.assert_array_equal(shown[title], picture)
