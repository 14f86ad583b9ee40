"""Small cases in float64 that oracles, packages and camkit are compared on, and what the oracles need of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

import camkit
from tests import oracles
from tests.helpers.networks import PlainCNN, SmallCNN, SmallViT, seeded
from tests.oracles import Array

LAYER, TARGETS = "conv2", [1, 3]
"""Of :func:`strided`."""
SMALL_TARGETS = [2, 0]
"""Of :func:`plain`, which knows three classes."""

Objective = Callable[[Tensor, int], Tensor]


def logit(output: Tensor, target: int) -> Tensor:
    return output[target]


def rest(output: Tensor, target: int) -> Tensor:
    """Logit plus log-probability, which ShapleyCAM's paper explains."""
    return output[target] + output.log_softmax(-1)[target]


def pictures(height: int = 20, width: int = 16, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, height, width, dtype=torch.float64, generator=generator)


def strided() -> SmallCNN:
    """Halves the resolution; its target layer's output has both signs."""
    model: SmallCNN = seeded(SmallCNN()).double()
    return model


def plain(seed: int = 0) -> PlainCNN:
    """Keeps the resolution."""
    model: PlainCNN = seeded(PlainCNN(), seed).double()
    return model


def collected(
    model: nn.Module, images: Tensor, layer: str, targets: Sequence[int], objective: Objective = logit
) -> tuple[Array, Array, Array]:
    """Activations, gradients and the Hessian's product with the activations, (B, C, h, w) each."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    with handle:
        outputs = model(images)
    score = torch.stack([objective(output, target) for output, target in zip(outputs, targets, strict=True)]).sum()
    (g,) = torch.autograd.grad(score, kept[0], create_graph=True)
    product = torch.zeros_like(g)
    if g.requires_grad:
        found = torch.autograd.grad(g, kept[0], kept[0].detach(), allow_unused=True)[0]
        product = product if found is None else found
    return kept[0].detach().numpy(), g.detach().numpy(), product.detach().numpy()


def scorer(model: nn.Module, target: int) -> Callable[[Array], float]:
    """A class's logit as a function of one image."""

    def score(image: Array) -> float:
        with torch.no_grad():
            return float(model(torch.from_numpy(image)[None])[0, target])

    return score


def rest_of(model: nn.Module, layer: str, image: Tensor, target: int) -> Callable[[Array], float]:
    """A class's logit as a function of the activations (C, *S) of ``layer``; tokens are (C, N)."""

    def score(activations: Array) -> float:
        def put(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            given = torch.from_numpy(activations)
            return (given.mT if output.ndim == 3 else given)[None]

        with model.get_submodule(layer).register_forward_hook(put), torch.no_grad():
            return float(model(image[None])[0, target])

    return score


def each(function: Callable[..., Array], *batches: Any) -> Array:
    """``function`` of one image after the other."""
    return np.stack([function(*arguments) for arguments in zip(*batches, strict=True)])


def agree(theirs: NDArray[Any], ours: Array, tolerance: float = 1e-6) -> None:
    """To ``tolerance`` of the largest magnitude, of maps that are not flat."""
    scale = np.abs(ours).max()
    assert ours.std() > 0.01 * scale > 0
    np.testing.assert_allclose(theirs / scale, ours / scale, atol=tolerance, rtol=0)


def distance(theirs: NDArray[Any], ours: Array) -> float:
    """Largest difference, in units of our largest magnitude."""
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())


class Tokens(nn.Module):
    """Patches as tokens (B, N, C), one more in front, rectified; a head that isn't linear in them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=4)
        self.front = nn.Parameter(torch.zeros(1, 1, 6))
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch(images).flatten(2).mT
        tokens = self.relu(torch.cat([self.front.expand(len(images), -1, -1), patches], 1))
        logits: Tensor = self.head(tokens.square().mean(1) + tokens[:, 0])
        return logits


def scores(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(images)
    return found


def ablation(model: nn.Module, images: Tensor, layer: str, targets: Sequence[int]) -> Array:
    a = collected(model, images, layer, targets)[0]
    a = a.swapaxes(1, 2) if a.ndim == 3 else a
    return each(lambda a, x, t: oracles.ablationcam(a, rest_of(model, layer, x, t)), a, images, targets)


def vision_transformer(size: int = 32) -> Any:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(
        image_size=size, patch_size=8, num_layers=3, num_heads=2, hidden_dim=12, mlp_dim=24, num_classes=5
    )
    return seeded(model).double()


def own_gradients(model: Any, images: Tensor, targets: Sequence[int]) -> list[Array]:
    """Per block (B, heads, N, N): gradients, at its attention, of the logit that the mean of its tokens would have."""
    tokens = model._process_input(images)
    tokens = torch.cat([model.class_token.expand(len(images), -1, -1), tokens], 1) + model.encoder.pos_embedding
    made = []
    for block in model.encoder.layers:
        inner = block.self_attention
        mixed = functional.linear(block.ln_1(tokens), inner.in_proj_weight, inner.in_proj_bias)
        q, k, v = (part.unflatten(2, (inner.num_heads, -1)).transpose(1, 2) for part in mixed.chunk(3, 2))
        probabilities = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        tokens = tokens + inner.out_proj((probabilities @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.ln_2(tokens))
        score = model.heads(model.encoder.ln(tokens.mean(1)))[range(len(images)), list(targets)].sum()
        made.append(torch.autograd.grad(score, probabilities, retain_graph=True)[0].numpy())
    torch.testing.assert_close(model.heads(model.encoder.ln(tokens)[:, 0]), model(images))
    return made


def biases(model: nn.Module) -> dict[str, Array]:
    """Of convolutions, and of batch norms what they add in evaluation."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            found[name] = module.bias.detach().numpy()
        elif isinstance(module, nn.BatchNorm2d):
            scale = module.weight / (module.running_var + module.eps).sqrt()
            found[name] = (module.bias - module.running_mean * scale).detach().numpy()
    return found


def full(model: nn.Module, images: Tensor, targets: Sequence[int]) -> Array:
    images = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(images)[range(len(images)), list(targets)].sum(), images)
    product = (images * gradient).detach().numpy()
    gradients = [(bias, collected(model, images.detach(), name, targets)[1]) for name, bias in biases(model).items()]
    return np.stack([oracles.fullgrad(product[i], [(b, g[i]) for b, g in gradients]) for i in range(len(images))])


class Swapped(nn.Module):
    """Runs its convolutions in another order than it has them in."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.last(self.first(images).relu()).relu().flatten(2).mean(2))
        return logits


def plain_weights(model: PlainCNN) -> oracles.PlainWeights:
    layers = (model.conv1.weight, model.conv1.bias, model.conv2.weight, model.conv2.bias, model.head.weight)
    return oracles.PlainWeights(*(each.detach().numpy() for each in layers))


def contrast(ranks: Sequence[int], alpha: float, detached: bool) -> Objective:
    """Finer-CAM's objective in grad-cam: differences to the nearest classes, weighted by their probabilities."""

    def objective(output: Tensor, target: int) -> Tensor:
        near = (output - output[target]).abs().argsort()[list(ranks)]
        probabilities = output.softmax(-1)[near]
        if detached:
            probabilities = probabilities.detach()
        return (probabilities * (output[target] - alpha * output[near])).sum() / (probabilities.sum() + 1e-9)

    return objective


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str], tuple[int, ...]]] = {
    "cnn": (SmallCNN, ["conv2"], (16, 16)),
    "two layers": (SmallCNN, ["conv1", "norm2"], (16, 16)),
    "tokens": (SmallViT, ["layers.1.ln1"], (16, 16)),
    "volumes": (lambda: SmallCNN(dimensions=3), ["conv1", "conv2"], (8, 10, 12)),
}
"""Kinds of networks: what makes them, their target layers, and the size of their images."""


def images_of(size: tuple[int, ...]) -> Tensor:
    """Two images."""
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


# camkit's answers.


def raw(
    model: nn.Module, images: Tensor, method: str, layer: str | None, targets: Sequence[int] | None, **options: Any
) -> NDArray[Any]:
    """camkit's signed maps, (B, *S)."""
    made = camkit.CAM(model, method, layer, **options).explain(images, targets).raw
    (only,) = made.values()
    return np.asarray(only[:, 0].numpy())


def finished(
    model: nn.Module, images: Tensor, method: str, layers: Any, targets: Sequence[int] | None, **options: Any
) -> Tensor:
    made: Tensor = camkit.CAM(model, method, layers, **options)(images, targets)
    return made


def same(ours: Tensor, theirs: NDArray[Any]) -> None:
    """Finished maps that are, and that show something."""
    assert (theirs.std(axis=tuple(range(1, theirs.ndim))) > 0.01).all()
    assert_close(ours.double(), torch.from_numpy(theirs).double(), atol=1e-4, rtol=0)


class SmoothCNN(nn.Module):
    """Behind its target layer there are a SiLU, a convolution and a GELU: second derivatives that aren't zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Linear(5, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv2(nn.functional.silu(self.conv1(images)))
        logits: Tensor = self.head(3 * nn.functional.gelu(features).flatten(2).mean(2))
        return logits


def smooth() -> SmoothCNN:
    model: SmoothCNN = seeded(SmoothCNN()).double()
    return model


def uniform(channels: int, seed: int = 0) -> NDArray[Any]:
    weights = camkit.METHODS["RandomCAM"].function(torch.zeros(1, channels, 1, 1).double(), seed=seed)
    return np.asarray(weights.flatten().numpy())


def positive(model: nn.Module, images: Tensor) -> list[int]:
    found = scores(model, images)
    assert (found.amax(1) > 0).all()
    return list(found.argmax(1).tolist())
