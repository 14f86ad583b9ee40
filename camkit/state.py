"""A model is after a call what it was before it, also after an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock

import torch
from torch import nn

from camkit.errors import UsageError
from camkit.memory import PerModel

_RECOMPUTE = ("with_cp", "use_checkpoint", "grad_checkpointing", "gradient_checkpointing")
"""How MMPretrain, torchvision-style, timm and transformers modules call their switch for activation checkpointing."""

_LOCKS = PerModel(RLock)


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Run ``model`` in evaluation mode, its parameters frozen, with gradients enabled, and put everything back.

    What is put back: every module's own training flag and its switch for activation checkpointing, every parameter's
    ``requires_grad``, the grad mode and inference mode around the call, and the random state of the CPU and of the
    model's CUDA devices. With all parameters frozen, autograd records nothing until a capture makes a root, and never
    computes a weight's gradient. Checkpointing is off because its second forward would run without the capture.

    One thread at a time has the model.

    Raises:
        UsageError: parameters made under inference mode.
    """
    # One walk over the tree, and over attributes where they are kept: networks have hundreds of modules.
    modules = _modules(model)
    parameters = [each for module in modules for each in module._parameters.values() if each is not None]
    if any(parameter.is_inference() for parameter in parameters):
        raise UsageError(
            "the model's parameters were made under inference_mode, where torch keeps no gradients: build or load it "
            "outside"
        )
    with (
        _LOCKS.of(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(_cuda_devices(parameters)),
    ):
        # The flags are set directly: train() and eval() are overridden in many backbones and would do more than that.
        training = [module for module in modules if module.training]
        recomputing = [(m, flag) for m in modules for flag in _RECOMPUTE if m.__dict__.get(flag) is True]
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        try:
            for module in training:
                module.training = False
            for module, flag in recomputing:
                setattr(module, flag, False)
            for parameter in trainable:
                parameter.requires_grad_(False)
            with _eager(modules):
                yield
        finally:
            for module in training:
                module.training = True
            for module, flag in recomputing:
                setattr(module, flag, True)
            for parameter in trainable:
                parameter.requires_grad_(True)


def _modules(model: nn.Module) -> list[nn.Module]:
    """Every module once. ``model.modules()`` makes their names too, which takes longer than all the rest here."""
    found: dict[int, nn.Module] = {}
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            if module._modules:
                waiting.extend(module._modules.values())
    return list(found.values())


@contextmanager
def _eager(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Run compiled modules as the Python they were compiled from: compiled code takes no new hooks."""
    if not any(module.__dict__.get("_compiled_call_impl") or "_orig_mod" in module._modules for module in modules):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _cuda_devices(parameters: Sequence[nn.Parameter]) -> list[int]:
    devices = {parameter.device for parameter in parameters}
    return sorted(device.index for device in devices if device.type == "cuda" and device.index is not None)
