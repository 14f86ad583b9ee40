"""Whatever the state of a model and of its surroundings: it works, and it is left as it was."""

from __future__ import annotations

import copy
from contextlib import nullcontext, suppress
from functools import partial
from threading import Thread
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM, AugSmooth, EigenSmooth
from camkit.compat import autocast_state, torch_version
from camkit.engine.model_state import borrowed
from camkit.errors import UsageError
from tests.helpers.forwards import count_hooks, fast_path
from tests.helpers.kinds import ON_SMALL_CNN, ON_SMALL_VIT, ONE_PER_NEED, SIX, layer_of, options
from tests.helpers.networks import SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def state(model: nn.Module) -> dict[str, Any]:
    """All that a call must leave as it was."""
    return {
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "tensors": copy.deepcopy(model.state_dict()),
        "hooks": count_hooks(model),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "random": torch.get_rng_state(),
        "autocast": autocast_state("cpu")[0],
        "forwards": [module.__dict__.get("forward") for module in model.modules()],
        "attention kernel": fast_path(),
        "attention kernels": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
        "modes": torch._C._len_torch_function_stack(),
    }


class Raises(SmallCNN):
    """Fails behind its layers, with dropout drawn before."""

    def forward(self, images: Tensor) -> Tensor:
        torch.rand(3)
        super().forward(images)
        raise RuntimeError("the model failed")


@pytest.fixture(params=[SmallCNN, Raises, SmallViT], ids=["cnn", "raising", "vit"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    """A model with mixed flags and gradients from a training step."""
    network: nn.Module = seeded(request.param())
    network.train()
    next(module for name, module in network.named_modules() if "norm" in name or "ln" in name).eval()
    for index, parameter in enumerate(network.parameters()):
        parameter.requires_grad_(index % 3 != 0)
        parameter.grad = torch.full_like(parameter, 0.5) if index % 2 else None
    return network


@pytest.mark.parametrize("method", ["GradCAM", "EigenCAM"])
@pytest.mark.parametrize(
    "surroundings",
    [nullcontext, torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["plain", "no_grad", "inference_mode", "autocast"],
)
def test_everything_is_put_back(model: nn.Module, method: str, surroundings: Any) -> None:
    with surroundings():
        before = state(model)
        cam = CAM(model, method, "conv1" if isinstance(model, SmallCNN) else "layers.0.ln1")
        with pytest.raises(RuntimeError, match="the model failed") if isinstance(model, Raises) else nullcontext():
            AugSmooth(EigenSmooth(cam))(IMAGES)
        after = state(model)
    assert_unchanged(after, before)


def assert_unchanged(after: dict[str, Any], before: dict[str, Any]) -> None:
    assert_close(after.pop("tensors"), before.pop("tensors"), rtol=0, atol=0)
    assert_close(after.pop("random"), before.pop("random"), rtol=0, atol=0)
    for kept, was in zip(after.pop("grad"), before.pop("grad"), strict=True):
        assert (kept is None) == (was is None)
        assert kept is None or torch.equal(kept, was)
    assert after == before


class Counts(nn.Module):
    """A network around another one that fails in the n-th call, with something drawn before."""

    def __init__(self, network: nn.Module, failing: int | None) -> None:
        super().__init__()
        self.network, self.failing, self.calls = network, failing, 0

    def forward(self, images: Tensor) -> Tensor:
        torch.rand(3)
        self.calls += 1
        made: Tensor = self.network(images)
        if self.failing is not None and self.calls >= self.failing:
            raise RuntimeError("the model failed")
        return made


def counting(make: Any, failing: int | None) -> Counts:
    """With a forward of its own in the middle, and with mixed flags."""
    network = seeded(make())
    middle = network.norm2 if make is SmallCNN else network.layers[1].ln2
    middle.forward = partial(type(middle).forward, middle)
    model = Counts(network, failing).train()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 0)
        parameter.grad = torch.full_like(parameter, 0.5) if index % 2 else None
    return model


EVERY = [
    *(pytest.param(SmallCNN, name, id=f"cnn {name}") for name in ON_SMALL_CNN),
    *(pytest.param(SmallViT, name, id=f"vit {name}") for name in ON_SMALL_VIT if name in ONE_PER_NEED),
]
FAILING = [case for case in EVERY if case.values[1] in ONE_PER_NEED]


def counted_cam(model: nn.Module, make: Any, method: str) -> CAM:
    layer = layer_of(method) and ("network.layers.1.ln1" if make is SmallViT else f"network.{layer_of(method)}")
    return CAM(model, method, layer, batch_size=2, **options(method, num_samples=2, num_concepts=2, top_k=3))


@pytest.mark.parametrize("mode", [nullcontext, torch.inference_mode], ids=["plain", "inference_mode"])
@pytest.mark.parametrize(("make", "method"), EVERY)
def test_every_method_puts_everything_back(make: Any, method: str, mode: Any) -> None:
    model = counting(make, None)
    with mode():
        before = state(model)
        counted_cam(model, make, method)(IMAGES, 1)
        after = state(model)
    assert_unchanged(after, before)


@pytest.mark.parametrize(("make", "method"), FAILING)
def test_everything_is_put_back_wherever_the_model_fails(make: Any, method: str) -> None:
    whole = counting(make, None)
    counted_cam(whole, make, method)(IMAGES, 1)
    last = whole.calls
    for failing in sorted({1, 2, 3, last // 2, last - 1, last} & set(range(1, last + 1))):
        model = counting(make, failing)
        before = state(model)
        with suppress(RuntimeError, ValueError):  # where a layer is tried out, failing is an answer
            counted_cam(model, make, method)(IMAGES, 1)
        assert_unchanged(state(model), before)


@pytest.mark.parametrize("network", [SmallCNN, SmallViT])
@pytest.mark.parametrize("method", ["GradCAM", "EigenCAM"])
class TestSameMap:
    """The map doesn't depend on the state of the model or of its surroundings."""

    def explain(self, model: nn.Module, method: str, images: Tensor = IMAGES) -> Tensor:
        cam = CAM(model, method)
        maps = cam(images, [1, 3])
        assert maps.dtype == torch.float32
        assert not maps.requires_grad
        assert not maps.is_inference()  # whatever the mode around, so that maps can be trained with
        return maps

    def test_of_a_frozen_model(self, network: type[nn.Module], method: str) -> None:
        model = seeded(network())
        assert_close(self.explain(copy.deepcopy(model).requires_grad_(False), method), self.explain(model, method))

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_without_gradients(self, network: type[nn.Module], method: str, mode: Any) -> None:
        model = seeded(network())
        expected = self.explain(model, method)
        with mode():
            assert_close(self.explain(model, method, IMAGES.clone()), expected)

    def test_of_a_training_model(self, network: type[nn.Module], method: str) -> None:
        model = seeded(network())
        expected = self.explain(model, method)
        assert_close(self.explain(model.train(), method), expected)

    def test_inside_a_training_step(self, network: type[nn.Module], method: str) -> None:
        model, alone = seeded(network()), seeded(network())
        alone(IMAGES).square().sum().backward()
        loss = model(IMAGES).square().sum()
        self.explain(model, method)
        loss.backward()
        for name, parameter in model.named_parameters():
            assert_close(parameter.grad, alone.get_parameter(name).grad)

    def test_of_a_wrapped_model(self, network: type[nn.Module], method: str) -> None:
        model = seeded(network())
        expected = self.explain(model, method)
        assert_close(self.explain(nn.DataParallel(model), method), expected)

    def test_of_a_compiled_model(self, network: type[nn.Module], method: str) -> None:
        model = seeded(network())
        expected = self.explain(model, method)
        # Compiling is lazy: the original module is what runs, so no compiler is ever called.
        compiled: Any = torch.compile(model, backend=_no_compiler)
        assert_close(self.explain(compiled, method), expected)


class TestHalfPrecision:
    """Rounding to 8 or 11 bits in each of a few layers moves maps, which lie in [0, 1], by some hundredths at most.

    XGradCAM divides by a sum of signed activations that may all but cancel, where rounding decides.
    """

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.08), (torch.float16, 0.02)])
    @pytest.mark.parametrize("method", [name for name in SIX if name != "XGradCAM"])
    @pytest.mark.parametrize(("make", "layer"), [(SmallCNN, "conv1"), (SmallViT, "layers.1.ln1")])
    def test_gives_the_same_map(self, make: Any, layer: str, method: str, dtype: torch.dtype, tolerance: float) -> None:
        model = seeded(make())
        expected = CAM(model, method, layer)(IMAGES, [1, 3])
        made = CAM(copy.deepcopy(model).to(dtype), method, layer)(IMAGES, [1, 3])
        assert made.dtype == torch.float32
        assert (made - expected).abs().mean() < tolerance
        if dtype == torch.bfloat16:
            with torch.autocast("cpu", dtype):
                made = CAM(model, method, layer)(IMAGES, [1, 3])
            assert made.dtype == torch.float32
            assert (made - expected).abs().mean() < tolerance

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.005), (torch.float16, 0.0005)])
    def test_gives_the_same_xgradcam_where_its_sum_cant_cancel(self, dtype: torch.dtype, tolerance: float) -> None:
        """Behind a ReLU the activations are not negative, so rounding decides nothing."""
        model = seeded(SmallCNN())
        expected = CAM(model, "XGradCAM", "relu")(IMAGES, [1, 3])
        made = CAM(copy.deepcopy(model).to(dtype), "XGradCAM", "relu")(IMAGES, [1, 3])
        assert (made - expected).abs().mean() < tolerance
        if dtype == torch.bfloat16:
            with torch.autocast("cpu", dtype):
                assert (CAM(model, "XGradCAM", "relu")(IMAGES, [1, 3]) - expected).abs().mean() < tolerance

    def test_gradients_dont_underflow(self) -> None:
        """Gradients of 1e-7 are subnormal in float16; they are computed larger and scaled back."""
        model = seeded(SmallCNN())
        model.head.weight.data *= 1e-5
        expected = CAM(model, "GradCAM", "norm2").explain(IMAGES, 1).raw["norm2"]
        made = CAM(model.half(), "GradCAM", "norm2").explain(IMAGES, 1).raw["norm2"]
        size = expected.abs().max()
        assert_close(made / size, expected / size, rtol=0, atol=0.05)


def _no_compiler(*_: Any) -> Any:
    raise AssertionError("compiled code was run")


@pytest.mark.skipif(torch_version() < (2, 6), reason="compiled modules are refused with torch before 2.6")
@pytest.mark.parametrize("inside", ["in place", "submodule"])
def test_parts_compiled_in_place_run_as_written(inside: str) -> None:
    model = seeded(SmallCNN())
    expected = CAM(model, "GradCAM", "norm2")(IMAGES, 1)
    if inside == "in place":
        model.compile(backend=_no_compiler)
    else:
        model.conv2 = torch.compile(model.conv2, backend=_no_compiler)
    assert_close(CAM(model, "GradCAM", "norm2")(IMAGES, 1), expected)


@pytest.mark.parametrize("flag", ["with_cp", "use_checkpoint", "grad_checkpointing", "gradient_checkpointing"])
@pytest.mark.parametrize("layer", ["conv1", "norm2"], ids=["before", "inside"])
def test_a_checkpointing_model_runs_once(flag: str, layer: str) -> None:
    class Recomputes(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            if getattr(self, flag):
                return torch.utils.checkpoint.checkpoint(super().forward, images, use_reentrant=False)
            return super().forward(images)

    model = seeded(Recomputes())
    setattr(model, flag, False)
    expected = CAM(model, "LayerCAM", layer)(IMAGES, 1)
    setattr(model, flag, True)
    assert_close(CAM(model, "LayerCAM", layer)(IMAGES, 1), expected)
    assert getattr(model, flag) is True


def test_parameters_made_under_inference_mode_are_refused_and_left_alone() -> None:
    model = seeded(SmallCNN())
    with torch.inference_mode():
        model.head = nn.Linear(6, 5)
    before = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(UsageError, match="parameters were made under inference_mode.*build or load it outside"):
        CAM(model, "GradCAM", "norm1")(IMAGES)
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def test_images_may_be_in_a_graph_of_their_own() -> None:
    model = seeded(SmallCNN())
    images = IMAGES.clone().requires_grad_()
    doubled = 2 * images
    assert_close(CAM(model)(doubled, 1), CAM(model)(2 * IMAGES, 1))
    doubled.sum().backward()
    assert_close(images.grad, torch.full_like(images, 2))


class TestBorrowed:
    def test_may_be_borrowed_again_inside(self) -> None:
        model = seeded(SmallCNN()).train()
        before = state(model)
        with borrowed(model) as cache:
            with torch.no_grad(), borrowed(model) as again:
                assert again is cache
                assert torch.is_grad_enabled()
            # Who has it only inside puts nothing back.
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
        assert_unchanged(state(model), before)

    def test_costs_nothing_inside(self) -> None:
        """The model's tree is walked once: a module that comes later keeps its flag until the next time."""
        model = seeded(SmallCNN())
        with borrowed(model):
            model.late = nn.ReLU()
            with borrowed(model):
                assert model.late.training
        with borrowed(model):
            assert not model.late.training
        assert model.late.training

    @pytest.mark.parametrize("inner", [False, True], ids=["outside", "inside"])
    def test_is_given_back_after_an_error(self, inner: bool) -> None:
        model = seeded(SmallCNN()).train()
        model.norm1.eval()
        model.head.requires_grad_(False)
        before = state(model)

        def fail() -> None:
            torch.rand(3)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), borrowed(model), borrowed(model) if inner else nullcontext():
            fail()
        assert_unchanged(state(model), before)
        with borrowed(model):  # and can be borrowed again
            assert not model.training

    def test_belongs_to_one_thread_at_a_time(self) -> None:
        model = seeded(SmallCNN())
        seen: list[str] = []

        def borrow() -> None:
            with borrowed(model):
                seen.append("other")

        other = Thread(target=borrow)
        with borrowed(model):
            other.start()
            other.join(0.05)
            seen.append("first")
        other.join()
        assert seen == ["first", "other"]


def test_several_threads_share_a_model() -> None:
    model = seeded(SmallCNN()).train()
    expected = CAM(model, "GradCAM", "norm2")(IMAGES, 1)
    found: list[Tensor] = []

    def work() -> None:
        found.extend(CAM(model, "GradCAM", "norm2")(IMAGES, 1) for _ in range(20))

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    for maps in found:
        assert_close(maps, expected)
    assert model.training
