"""A model is after a call what it was before it, also after an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from camkit.compat import eager
from camkit.engine.cache import ModelCache, cache_of
from camkit.engine.checkpointing import uncheckpointed
from camkit.errors import UsageError


@contextmanager
def borrowed(model: nn.Module) -> Iterator[ModelCache]:
    """Run ``model`` in evaluation mode, its parameters frozen, with gradients enabled, and put everything back.

    What is put back: every module's own training flag, every parameter's ``requires_grad``, the grad mode and inference
    mode around the call, and the random state of the CPU and of the model's CUDA devices. With all parameters frozen,
    autograd records nothing until a hook makes a leaf, and never computes a weight's gradient. Activation checkpointing
    is off, and what was compiled runs as the Python that it was made from: both would pass by the hooks.

    One thread at a time has the model. Inside, the same thread may borrow it again, which costs nothing.

    Yields:
        The model's cache.

    Raises:
        UsageError: parameters made under inference mode.
    """
    cache = cache_of(model)
    with cache.lock:
        if cache.in_use:
            with torch.enable_grad():
                yield cache
            return
        # One walk over the tree: networks have hundreds of modules, and this is most of what camkit costs small ones.
        modules = _modules(model)
        cache.check(modules)
        training, trainable = [], []
        devices: set[int] = set()
        is_compiled = False
        for module in modules.values():
            state = module.__dict__
            if module.training:
                training.append(module)
            if "_orig_mod" in module._modules or state.get("_compiled_call_impl"):
                is_compiled = True
            # TorchScript's modules keep them elsewhere.
            parameters = state["_parameters"].values() if "_parameters" in state else module.parameters(recurse=False)
            for parameter in parameters:
                if parameter is None:
                    continue
                if parameter.requires_grad:
                    trainable.append(parameter)
                if parameter.is_cuda:
                    devices.add(parameter.device.index)
                if parameter.is_inference():
                    raise UsageError(
                        "the model's parameters were made under inference_mode, where torch keeps no gradients: build "
                        "or load it outside"
                    )
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.random.fork_rng(sorted(devices)))
            stack.enter_context(eager(is_compiled=is_compiled))
            stack.enter_context(uncheckpointed())
            stack.callback(_put_back, cache, training, trainable)
            cache.in_use = True
            # Set directly: train() and eval() are overridden in many backbones and would do more than that.
            for module in training:
                module.training = False
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield cache


def _put_back(
    cache: ModelCache,
    training: Sequence[nn.Module],
    trainable: Sequence[nn.Parameter],
) -> None:
    cache.in_use = False
    for module in training:
        module.training = True
    for parameter in trainable:
        parameter.requires_grad_(True)


def _modules(model: nn.Module) -> dict[int, nn.Module]:
    """Every module once, by its id. ``model.modules()`` makes their names too, which takes longer than all the rest."""
    found = {id(model): model}
    waiting = [model]
    while waiting:
        for module in waiting.pop()._modules.values():
            if module is not None and id(module) not in found:
                found[id(module)] = module
                waiting.append(module)
    return found
