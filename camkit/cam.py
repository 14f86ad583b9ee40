"""CAM: model, layers and method composed into something that explains images."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from camkit.errors import CamkitError, EmptyMapWarning, LayerError, OutputWarning, UsageError
from camkit.evidence import Maps, maps_of
from camkit.forward import Setup, as_input
from camkit.layers import LIST_LAYERS, Layer, is_norm, resolve, split_branch, unwrap
from camkit.layout import ReshapeTransform
from camkit.maps import finish
from camkit.methods import Method, Reduction, find_method
from camkit.outputs import Output
from camkit.probe import Choice, default_layer, forget, has_functions, modules_of, probe
from camkit.run import Pass, run
from camkit.shapes import Images, Scores, TargetMaps
from camkit.targets import Chosen, Targets, is_nested, require_finite
from camkit.versions import versions


@dataclass(frozen=True)
class Explanation:
    """Maps and how they were made.

    Attributes:
        maps: (B, T, H, W) float32 in [0, 1], T targets per image ((B, T, D, H, W) for volumes).
        raw: layer name to signed, unnormalised maps (B, T, *spatial) at the layer's resolution.
        logits: (B, K), the model's output for the images as given; (B, 0) where it returns no tensor.
        scores: (B, T), the scores that were explained.
        targets: class indices (B, T), or the rows as given where a score function is among them.
        method: the method's name.
        layers: the target layers' names; of one with several feature tensors the name of each, ``name[0]``, ...
        smoothing: the wrappers' names, innermost first.
        versions: package to version.
        output: which part of the model's output was explained; empty where there is only one.
        other_outputs: parts that could have been meant in its place.
        empty: (image, target) to a line that says why that map is zero everywhere.
    """

    maps: TargetMaps
    raw: dict[str, TargetMaps]
    logits: Tensor
    scores: Scores
    targets: Chosen
    method: str
    layers: tuple[str, ...]
    smoothing: tuple[str, ...]
    versions: dict[str, str]
    output: str
    other_outputs: tuple[str, ...]
    empty: dict[tuple[int, int], str]

    def warn(self, stacklevel: int = 1) -> None:
        """Warn of maps that are empty, and of a part of the output that was taken among several."""
        if self.other_outputs:
            line = (
                f"the model returns several tensors of scores: explaining {self.output!r}; take another with "
                f"output=: {', '.join(map(repr, self.other_outputs))}"
            )
            warnings.warn(line, OutputWarning, stacklevel=stacklevel + 1)
        for line in self.empty.values():
            warnings.warn(line, EmptyMapWarning, stacklevel=stacklevel + 1)


class CAM:
    """Class activation maps of a network's images.

    Args:
        model: a classifier whose forward takes images and returns logits (B, K), alone or in a tuple, dict, dataclass
            or list of data samples. ``torch.compile``d, DataParallel and DistributedDataParallel models are unwrapped.
        method: a name from :data:`camkit.METHODS`, in any case.
        target_layers: dotted names or modules; several are fused by the mean. None takes the last norm layer that is
            spatial and live, or what :func:`camkit.probe.default_layer` finds instead, at the first call.
        num_extra_tokens: for token layers, how many tokens in front of the grid belong to no place (class,
            distillation, registers); None finds out.
        reshape_transform: your own layout, from a layer's output to (B, C, *spatial); used for its gradient too.
        output: which part of what the model returns to explain: an index, a key or attribute (``"aux.logits"`` leads
            further in), or a function of it. None takes ``logits``, else the first (B, K) tensor.
        forward_kwargs: keyword arguments for the model's forward, such as ``{"interpolate_pos_encoding": True}``.

    Raises:
        UsageError: no such method or layer, or a model that takes no hooks (TorchScript).
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Method = "GradCAM",
        target_layers: Layer | Sequence[Layer] | None = None,
        *,
        num_extra_tokens: int | None = None,
        reshape_transform: ReshapeTransform | None = None,
        output: Output = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = unwrap(model)
        self.method = find_method(method)
        if num_extra_tokens is not None and (not isinstance(num_extra_tokens, int) or num_extra_tokens < 0):
            raise UsageError(f"num_extra_tokens counts tokens, got {num_extra_tokens!r}")
        self.setup = Setup(num_extra_tokens, reshape_transform, output, dict(forward_kwargs or {}))
        self.smoothing: tuple[str, ...] = ()
        self._layers = None if target_layers is None else resolve(self.model, target_layers)
        self._last: tuple[Any, dict[str, nn.Module]] | None = None

    def __call__(self, images: Images, targets: Targets = None) -> Tensor:
        """Finished maps of ``images``.

        On an accelerator nothing here waits for the device, and looking would be waiting: NaN stays NaN, empty maps
        aren't warned of, and a default layer isn't chosen anew where these targets don't depend on it.
        :meth:`explain` looks on every device.

        Args:
            images: (B, C, H, W) or (B, C, D, H, W), normalised as the model takes them.
            targets: None for each image's own top class, one class index for all, one per image, a list per image, or
                callables from one image's output to a scalar in place of indices (see :mod:`camkit.objectives`).

        Returns:
            (B, H, W) float32 in [0, 1] on the model's device; (B, T, H, W) when ``targets`` holds a list per image.

        Raises:
            UsageError: images or targets of the wrong shape, count or range.
            LayerError: a target layer that no map can be made of.
            NonFiniteError: NaN or infinity in scores, activations or gradients.
            ForwardError: the model's own forward fails on the images.
        """
        explanation = self.compute(images, targets, check=as_input(self.model, images).device.type == "cpu")
        explanation.warn(stacklevel=2)
        return explanation.maps if is_nested(targets) else explanation.maps[:, 0]

    def explain(self, images: Images, targets: Targets = None) -> Explanation:
        """Maps of ``images`` with all that belongs to them; arguments and errors as in calling the CAM.

        Warns:
            EmptyMapWarning: a map is zero everywhere.
            OutputWarning: the model returns several tensors that could be meant, and ``output`` doesn't say which.
        """
        explanation = self.compute(images, targets)
        explanation.warn(stacklevel=2)
        return explanation

    def target_layers(self, images: Images, targets: Targets = None) -> dict[str, nn.Module]:
        """Name to module of the target layers; where none were given, the default one is found with the arguments."""
        if self._layers is not None:
            return self._layers
        if not has_functions(targets):
            return self._module_of(default_layer(self.model, images, targets, self.setup))
        # Choices for functions, which may look anywhere, are remembered here alone, and for the last ones.
        asked = (tuple(images.shape[1:]), targets)
        if self._last is None or self._last[0] != asked:
            self._last = asked, self._module_of(default_layer(self.model, images, targets, self.setup))
        return self._last[1]

    def pinned(self, layers: Sequence[str]) -> CAM:
        """The same CAM with these target layers in place of a default one."""
        if self._layers is not None:
            return self
        fixed = copy(self)
        fixed._layers = resolve(self.model, list(layers))
        return fixed

    def _module_of(self, choice: Choice) -> dict[str, nn.Module]:
        """Looked up by its path: walking the whole model would cost at every call."""
        return {choice.name: self.model.get_submodule(split_branch(choice.name)[0])}

    def compute(self, images: Images, targets: Targets = None, *, check: bool = True) -> Explanation:
        """What :meth:`explain` does, without its warnings; without ``check`` nothing waits for the device."""
        return self.compute_all(images, targets, [self.method], check=check)[0]

    def compute_all(
        self,
        images: Images,
        targets: Targets,
        methods: Sequence[Method],
        reduction: Reduction | None = None,
        *,
        check: bool = True,
    ) -> list[Explanation]:
        """An explanation per method, all from one forward and one backward.

        Args:
            images: as in calling the CAM.
            targets: as in calling the CAM.
            methods: in place of the CAM's own.
            reduction: in place of the methods' own; what wrappers pass.
            check: look at the maps: NaN is an error, and empty ones are described. Waits for the device.
        """
        images = as_input(self.model, images)
        layers = self.target_layers(images, targets)
        try:
            found = self._compute(layers, images, targets, methods, reduction, check=check)
        except LayerError as error:
            again = self._chosen_anew(layers, images, targets)
            if again is None:
                raise type(error)(f"{error}{self._alternatives(images, targets)}") from error
        else:
            # Of a layer that the score doesn't depend on methods without gradients make maps all the same.
            judges = [e for e, method in zip(found, methods, strict=True) if method.needs_gradients] or found
            is_dead = all(len(each.empty) == each.scores.numel() for each in judges)
            again = self._chosen_anew(layers, images, targets) if is_dead else None
            if again is None:
                return found
        return self._compute(again, images, targets, methods, reduction, check=check)

    def _compute(
        self,
        layers: dict[str, nn.Module],
        images: Images,
        targets: Targets,
        methods: Sequence[Method],
        reduction: Reduction | None,
        *,
        check: bool,
    ) -> list[Explanation]:
        needed = any(method.needs_gradients for method in methods)
        with run(self.model, layers, images, targets, self.setup, gradients=needed) as evidence:
            if check:
                require_finite(evidence.scores)
            made = maps_of(evidence, methods, reduction, check=check)
        return [self._explanation(maps, evidence, images.shape[2:]) for maps in made]

    def _explanation(self, maps: Maps, evidence: Pass, size: Sequence[int]) -> Explanation:
        flat = [each.flatten(0, 1) for each in maps.raw.values()]
        return Explanation(
            maps=finish(flat, size).reshape(*evidence.scores.shape, *size),
            raw=maps.raw,
            logits=evidence.logits,
            scores=evidence.scores,
            targets=evidence.chosen,
            method=maps.method.name,
            layers=tuple(maps.raw),
            smoothing=(),
            versions=dict(versions()),
            output=evidence.answer.name,
            other_outputs=evidence.answer.others,
            empty=maps.empty,
        )

    def _chosen_anew(
        self, layers: dict[str, nn.Module], images: Images, targets: Targets
    ) -> dict[str, nn.Module] | None:
        """Another default layer, where the one remembered isn't live any more: other targets, weights, arguments."""
        if self._layers is not None:
            return None
        forget(self.model)
        self._last = None
        again = self.target_layers(images, targets)
        return again if list(again) != list(layers) else None

    def _alternatives(self, images: Images, targets: Targets) -> str:
        """The end of a message about a layer that can't be used: the last ones that can."""
        norms = {name: module for name, module in modules_of(self.model).items() if is_norm(module)}
        try:
            live = [each.name for each in probe(self.model, norms, images, targets, self.setup) if each.is_live]
        except CamkitError:  # the error that is being reported says more
            live = []
        return f"; live norm layers: {', '.join(map(repr, live[-3:]))}; {LIST_LAYERS}" if live else f"; {LIST_LAYERS}"
