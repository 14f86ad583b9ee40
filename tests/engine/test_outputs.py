"""What models return, and which part of it is explained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM, OutputWarning
from camkit.errors import UsageError
from camkit.typing import Output
from tests.helpers.networks import SmallCNN, seeded

IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Named(NamedTuple):
    logits: Tensor
    other: int


@dataclass
class Fields:
    loss: Tensor | None
    logits: Tensor


class Wrapping(nn.Module):
    """A small network and what a function makes of its logits."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.net = SmallCNN()
        self.wrap = wrap

    def forward(self, images: Tensor, **options: Any) -> Any:
        return self.wrap(self.net(images), **options)


def explain(wrap: Any, targets: Any = 1, output: Output = None, **options: Any) -> Any:
    cam = CAM(seeded(Wrapping(wrap)), target_layers="net.norm1", output=output, forward_kwargs=options)
    return cam.explain(IMAGES, targets)


EXPECTED = explain(lambda t: t)


def samples(logits: Tensor, **_: Any) -> list[Any]:
    """As MMPretrain's heads predict."""
    return [SimpleNamespace(pred_score=row, pred_label=row.argmax(0, keepdim=True)) for row in logits]


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda t: (t,), "0"),
        (lambda t: [t], "0"),
        (lambda t: {"a": t}, "a"),
        (lambda t: {"logits": t, "x": 1, "aux": 2 * t}, "logits"),
        (lambda t: Named(t, 1), "logits"),
        (lambda t: Fields(None, t), "logits"),
        (lambda t: SimpleNamespace(logits=t), "logits"),
        (lambda t: {"logits": (t,)}, "logits.0"),
        (lambda t: {"hidden": t[:, :, None], "deep": [3, {"scores": t}]}, "deep.1.scores"),
        (lambda t: (t.argmax(1), t, t.mean()), "1"),
        (samples, ""),
        (lambda t: list(t), ""),
    ],
)
def test_logits_are_found(wrap: Any, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = explain(wrap)
    assert_close(made.maps, EXPECTED.maps)
    assert_close(made.logits, EXPECTED.logits)
    assert (made.output, made.other_outputs) == (name, ())


class TestSeveral:
    def wrap(self, logits: Tensor) -> Any:
        return {"main": logits, "aux": {"a": -logits, "b": 2 * logits}}

    def test_the_first_is_taken_and_named(self) -> None:
        with pytest.warns(OutputWarning, match=r"explaining 'main'; take another with output=: 'aux.a', 'aux.b'"):
            made = explain(self.wrap)
        assert_close(made.maps, EXPECTED.maps)
        assert made.other_outputs == ("aux.a", "aux.b")

    @pytest.mark.parametrize(
        "output", ["aux.a", lambda returned: returned["aux"]["a"], lambda r: {"logits": -r["main"]}]
    )
    def test_another_can_be_picked(self, output: Output) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = explain(self.wrap, output=output)
        assert_close(made.maps, explain(lambda t: -t).maps)

    def test_by_index(self) -> None:
        made = explain(lambda t: (t, -t), output=1)
        assert made.output == "1"
        assert_close(made.maps, explain(lambda t: -t).maps)

    @pytest.mark.parametrize("output", ["aux.c", 7, "maim"])
    def test_a_part_there_isnt_is_refused_with_those_there_are(self, output: Output) -> None:
        with pytest.raises(UsageError, match=rf"no part '{output}'.*there are: main \(2, 5\), aux.a \(2, 5\), aux.b"):
            explain(self.wrap, output=output)

    def test_a_part_of_a_plain_tensor(self) -> None:
        with pytest.raises(UsageError, match="no part 'logits'; it is one tensor, leave that out"):
            explain(lambda t: t, output="logits")

    def test_a_part_that_holds_no_rows(self) -> None:
        with pytest.raises(UsageError, match="output taken is int: a tensor with one row per image"):
            explain(lambda t: (t, 3), output=1)


def test_forward_gets_its_keyword_arguments() -> None:
    def scaled(logits: Tensor, *, factor: float, per_image: Tensor) -> Tensor:
        return factor * logits * per_image[:, None]

    weights = torch.tensor([1.0, 3.0])
    made = explain(scaled, factor=-1.0, per_image=weights)
    assert_close(made.logits, -EXPECTED.logits * weights[:, None])
    # The default layer is found with all images, as arguments may belong to them one by one.
    cam = CAM(seeded(Wrapping(scaled)), forward_kwargs={"factor": 2.0, "per_image": weights})
    assert_close(cam(IMAGES, 1), CAM(seeded(Wrapping(lambda t: t)))(IMAGES, 1))


@pytest.mark.parametrize(
    ("wrap", "output", "sign"), [(lambda t: {"a.b": -t, "c": t}, "a.b", -1), (lambda t: (t, -t), -1, -1)]
)
def test_keys_with_dots_and_indices_from_the_end(wrap: Any, output: Output, sign: int) -> None:
    assert_close(explain(wrap, output=output).logits, sign * EXPECTED.logits)


def test_the_others_are_named_as_they_can_be_asked_for() -> None:
    with pytest.warns(OutputWarning, match=r"explaining 'logits.0'; take another with output=: 'logits.1'"):
        explain(lambda t: {"logits": (t, -t)})
    assert_close(explain(lambda t: {"logits": (t, -t)}, output="logits.1").logits, -EXPECTED.logits)


def test_heads_with_a_number_per_image_are_no_rows() -> None:
    """As many heads as images: which is which can't be told from the shapes, and rows it isn't."""
    with pytest.raises(UsageError, match="holds no row of scores per image"):
        explain(lambda t: (t[:, 0], t[:, 1]))


def test_warnings_point_at_the_caller() -> None:
    model = seeded(Wrapping(lambda t: (t, -t)))
    for call in (lambda: CAM(model, target_layers="net.norm1")(IMAGES), lambda: CAM(model).explain(IMAGES)):
        with pytest.warns(OutputWarning) as caught:
            call()
        assert caught[0].filename == __file__


class TestPerImage:
    """Detectors return a list of dicts."""

    def wrap(self, logits: Tensor) -> list[dict[str, Tensor]]:
        return [{"scores": row, "labels": row.argsort()} for row in logits]

    def test_a_function_gets_one_images_part(self) -> None:
        made = explain(self.wrap, lambda found: found["scores"][1])
        assert_close(made.maps, EXPECTED.maps)
        assert made.logits.shape == (2, 0)

    def test_a_class_index_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"class targets need logits .*returns a dict per image: pass a callable"):
            explain(self.wrap, 1)
