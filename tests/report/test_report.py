"""Reports of runs of all kinds, read as HTML without a browser."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="runs need pyarrow: pip install 'camkit[datasets]'")
pytest.importorskip("sklearn", reason="reports need scikit-learn: pip install 'camkit[report]'")

from camkit.datasets import run
from camkit.datasets.drawing import find_image
from camkit.errors import CamkitError, UsageError
from camkit.report import write_report
from tests.datasets.pictures import classifier, write_classes, write_pictures
from tests.report.runs import blobs, write_image, write_labelled, write_run


class Page(HTMLParser):
    """What a page holds: its text, the addresses it names, its scripts and elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open = ""
        self.feed(self.source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def cards(self) -> list[dict[str, str | None]]:
        return [each for each in self.all("li") if "data-id" in each]


def page_of(made: Path, out: Path, **settings: object) -> Page:
    return Page(write_report(made, out, **settings).path)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_labelled(tmp_path)


def test_what_stands_in_it(labelled: Path, tmp_path: Path) -> None:
    page = page_of(labelled, tmp_path / "report.html")
    for said in (
        "75.0%",
        "1 cup: the network looks at the border",
        "All 10 errors",
        "0 espresso is often taken for 2 tabby cat",
        "All 1 pairs",
        "How it was made",
        "GradCAM at layer4",
    ):
        assert said in page.text, said
    scores = [int(each) for each in re.findall(r"taken for 2 tabby cat \((\d+)%\)", page.text)]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    assert len(page.cards) == 10


def test_it_asks_for_nothing(labelled: Path, tmp_path: Path) -> None:
    """No address but those within the page, and a policy that lets nothing else load or run."""
    page = page_of(labelled, tmp_path / "report.html")
    addresses = [
        value for _, each in page.elements for name, value in each.items() if name in ("src", "href", "action")
    ]
    assert addresses
    assert all(each.startswith(("data:", "#")) for each in addresses if each)
    assert not re.search(r"https?://|@import|url\(", page.source)
    policy = next(each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; ")
    assert "unsafe" not in policy
    assert not [name for _, each in page.elements for name in each if name.startswith("on") or name == "style"]
    assert all(each.get("alt") for each in page.all("img"))


HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</style></script><b>",
    "{{ 7 * 7 }}{% raw %}",
    "new\nline\u202egnp",
    "lone \ud800 surrogate",
)


def test_names_are_text(tmp_path: Path) -> None:
    """Class names, ids and errors are shown as they are, whatever they hold; characters that turn text are escaped."""
    names = [*HOSTILE, "plain"]
    ids = [
        f"{number}-{name}".replace("/", "_").replace("\ud800", "").replace("\n", "")
        for number, name in enumerate(names)
    ]
    label = [number % 7 for number in range(7)]
    made = write_run(tmp_path, label, [(each + 1) % 7 for each in label], ids=ids, classes=names)
    page = page_of(made, tmp_path / "report.html")
    assert len(page.cards) == 7
    assert [each for each in page.cards if each["data-id"] == ids[0]]
    assert len(page.all("script")) == 2
    assert len(page.all("style")) == 1
    assert not page.all("b")
    assert not [name for _, each in page.elements for name in each if name.startswith("on")]
    assert "{{ 7 * 7 }}" in page.text
    assert "\u202e" not in page.source
    assert r"new\nline\u202egnp" in page.source
    assert r"lone \ud800 surrogate" in page.source


def test_both_maps_stand_side_by_side(tmp_path: Path) -> None:
    maps = blobs(np.full((6, 2), 3.0), targets=2)
    explained = [[1, 0]] * 6
    page = page_of(write_run(tmp_path, [0] * 6, [1] * 6, maps=maps, explained=explained), tmp_path / "report.html")
    assert "beside that of the true class" in page.text
    assert "predicted: 1 cup" in page.text
    assert "true: 0 espresso" in page.text


def test_without_the_true_class_that_is_said(labelled: Path, tmp_path: Path) -> None:
    page = page_of(labelled, tmp_path / "report.html")
    assert "camkit run --target both keeps them" in page.text
    assert "true: 0 espresso" not in page.text


def test_without_labels_there_is_no_accuracy(tmp_path: Path) -> None:
    made = write_run(tmp_path, [None] * 5, [0, 1, 1, 2, 0], score=[0.9, 0.2, 0.5, 0.4, 0.3])
    page = page_of(made, tmp_path / "report.html")
    assert "the run has no labels" in page.text
    assert "Least sure images" in page.text
    assert [each["data-id"] for each in page.cards] == ["001.png", "004.png", "003.png", "002.png", "000.png"]
    assert "Calibration" not in page.text


def test_probabilities_that_are_not_known_are_no_numbers(tmp_path: Path) -> None:
    nothing = [float("nan")] * 3
    page = page_of(write_run(tmp_path, [0, 0, 1], [0, 1, 1], score=nothing), tmp_path / "report.html")
    assert "the run has no probabilities" in page.text
    assert "Calibration" not in page.text
    assert not re.search(r"\bnan\b", page.source)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_number_above_zero(labelled: Path, tmp_path: Path, limit: float) -> None:
    with pytest.raises(UsageError, match="above zero"):
        write_report(labelled, tmp_path / "report.html", max_mb=limit)


def test_an_unfinished_run_says_how_far_it_is(tmp_path: Path) -> None:
    made = write_report(write_run(tmp_path, [0] * 5, [0] * 5, asked=1200), tmp_path / "report.html")
    assert made.notices[0].startswith("This run is unfinished: 5 of 1,200 images are done")
    assert "5 of 1,200 images are done" in Page(made.path).text


def test_images_that_have_moved(labelled: Path, tmp_path: Path) -> None:
    """Maps are shown without them, which is said; --images says where they are."""
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    made = write_report(labelled, tmp_path / "without.html")
    assert "can't be shown, only maps" in made.notices[0]
    assert "--images FOLDER finds them" in made.notices[0]
    assert "image of 036.png" not in Page(made.path).source
    assert "predicted: 2 tabby cat of 036.png" in Page(made.path).source
    made = write_report(labelled, tmp_path / "with.html", images=tmp_path / "elsewhere")
    assert made.notices == ()
    assert "image of 036.png" in Page(made.path).source


def test_moved_images_are_looked_for_below_the_folder_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    inside = write_image(root / "val" / "cat" / "1.png", 0)
    outside = write_image(tmp_path / "secret.png", 1)
    assert find_image(root, "nowhere.png", "/old/val/cat/1.png") == inside.resolve()
    assert find_image(root, "val/cat/1.png#2", "/gone.png") == inside.resolve()
    (root / "link.png").symlink_to(outside)
    for name in ("../secret.png", str(outside), "link.png", "x\0y", "a" * 5000, ""):
        with pytest.raises(CamkitError, match="isn't below"):
            find_image(root, name, name)


def test_the_limit_is_kept_and_samples_are_called_so(tmp_path: Path) -> None:
    label = [0] * 150
    made = write_run(tmp_path, label, [1] * 150, shard_rows=100)
    large = write_report(made, tmp_path / "large.html")
    assert "A sample: the 120 most confident of 150 errors" in Page(large.path).text
    small = write_report(made, tmp_path / "small.html", max_mb=0.3)
    assert small.bytes <= 300_000 < large.bytes
    count = len(Page(small.path).cards)
    assert 0 < count < 120
    assert f"A sample: the {count} most confident of 150 errors" in Page(small.path).text
    with pytest.raises(CamkitError, match="MB without any picture: give --max-mb more"):
        write_report(made, tmp_path / "none.html", max_mb=0.01)
    assert not (tmp_path / "none.html").exists()


def test_what_evaluate_left_is_shown(labelled: Path, tmp_path: Path) -> None:
    values = {"mean": 0.41, "low": 0.38, "high": 0.447, "count": 40, "verdict": "better than Random (p = 0.002)"}
    control = {"mean": 0.6, "low": None, "high": None, "count": 1}
    metrics = {"Deletion": {"better": "lower", "methods": {"GradCAM": values, "Random": control}}}
    told = {"format": "camkit metrics", "version": 1, "controls": ["Random"], "metrics": metrics}
    (labelled / "metrics.json").write_text(json.dumps(told))
    text = page_of(labelled, tmp_path / "report.html").text
    assert "0.410" in text
    assert "0.380 to 0.447" in text
    assert "better than Random (p = 0.002)" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": "camkit metrics", "version": 9}', "newer camkit"),
        ('{"format": "camkit metrics", "version": 1, "controls": [], "metrics": {"Deletion": 1}}', "damaged"),
    ],
)
def test_metrics_that_cannot_be_read_are_left_out_and_said(
    labelled: Path, tmp_path: Path, content: str, said: str
) -> None:
    (labelled / "metrics.json").write_text(content)
    made = write_report(labelled, tmp_path / "report.html")
    assert said in made.notices[-1]


def test_a_run_of_many_methods_layers_sizes_and_failures(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", 4)
    write_pictures(data / "cup", 3, size=(64, 40))
    (data / "cup" / "broken.png").write_bytes(b"")
    run(
        data, classifier(whole=True), tmp_path / "run", ["GradCAM", "GuidedBackprop"], "both", ["norm1", "norm2"],
        workers=0, shard_rows=5,
    )  # fmt: skip
    for method in (None, "guidedbackprop"):
        made = write_report(tmp_path / "run", tmp_path / "report.html", method)
        assert made.images == 12
        assert made.notices[0].startswith("1 image failed and count")
        page = Page(made.path)
        assert len(page.cards) > 0
    text = page_of(tmp_path / "run", tmp_path / "report.html").text
    assert "the run also holds GuidedBackprop" in text
    with pytest.raises(UsageError, match="has no maps of LayerCAM"):
        write_report(tmp_path / "run", tmp_path / "report.html", "LayerCAM")


def test_methods_that_find_concepts(tmp_path: Path) -> None:
    """They are shown where they are all there is, or asked for; else a method that explains classes is."""
    data = write_classes(tmp_path / "data", 3)
    run(data, classifier(), tmp_path / "run", ["DFF", "GradCAM"], workers=0)
    assert (
        "All figures of maps are of GradCAM, of the predicted class's map"
        in page_of(tmp_path / "run", tmp_path / "report.html").text
    )
    page = page_of(tmp_path / "run", tmp_path / "report.html", method="dff")
    assert "All figures of maps are of DFF, of the sum of the maps of all concepts" in page.text
    assert "concepts of espresso/000.png" in page.source


def test_maps_stand_alone_where_the_place_is_unknown(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", 2)
    from tests.datasets.pictures import squeezed

    run(data, classifier().model, tmp_path / "run", transform=lambda image: squeezed(image.rotate(45)), workers=0)
    made = write_report(tmp_path / "run", tmp_path / "report.html")
    assert "the preprocessing does more than resize, crop, pad and flip" in made.notices[0]


def test_a_run_of_failures_alone_has_no_report(labelled: Path, tmp_path: Path) -> None:
    shutil.rmtree(labelled / "shards")
    with pytest.raises(CamkitError, match="nothing to report: .* holds no image that was explained"):
        write_report(labelled, tmp_path / "report.html")
