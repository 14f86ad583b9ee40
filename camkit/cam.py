"""CAM: model, layers and method composed into something that explains images."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor, nn

from camkit.attention import blocks_of
from camkit.errors import CamkitError, EmptyMapWarning, LayerError, OutputWarning, UsageError, closest
from camkit.evidence import Maps, maps_of
from camkit.forward import Progress, Setup, as_input
from camkit.layers import LIST_LAYERS, Layer, is_norm, resolve, split_branch, unwrap
from camkit.layout import ReshapeTransform
from camkit.maps import finish
from camkit.methods import Method, Reduction, find_method
from camkit.methods.requests import Attention, BiasGradients, Concepts
from camkit.outputs import Output
from camkit.probe import default_layers, forget, has_functions, modules_of, probe
from camkit.recording import Recording
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
        pixels: (B, T, C, H, W), signed, what each channel of the input contributes; None but for guided methods, whose
            maps show the largest size over channels.

    A method that finds concepts has a map for each of those: T counts concepts, ``targets`` are the classes that the
    network sees in them, and ``scores`` the classes' scores where a concept is everywhere.
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
    pixels: Tensor | None = None

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
            spatial and live, or what :func:`camkit.probe.default_layers` finds for the method, at the first call.
            Attention methods take the transformer's blocks in place of layers, None all of them; pixel-level ones
            have none.
        num_extra_tokens: for token layers, how many tokens in front of the grid belong to no place (class,
            distillation, registers); None finds out.
        reshape_transform: your own layout, from a layer's output to (B, C, *spatial); used for its gradient too.
        output: which part of what the model returns to explain: an index, a key or attribute (``"aux.logits"`` leads
            further in), or a function of it. None takes ``logits``, else the first (B, K) tensor.
        forward_kwargs: keyword arguments for the model's forward, such as ``{"interpolate_pos_encoding": True}``.
        batch_size: how many changed images, or activations, go through the network at a time, for methods that need
            many; None asks the memory. A chunk that doesn't fit is halved once.
        progress: called with how many of how many are through.
        **options: of the method, such as ``num_samples=10``; ``camkit.METHODS[name].options`` lists them.

    Raises:
        UsageError: no such method, option or layer, or a model that takes no hooks (TorchScript).
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
        batch_size: int | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        self.model = unwrap(model)
        self.method = find_method(method)
        for name in options:
            if name not in self.method.options and (near := closest(name, _ARGUMENTS)):
                raise UsageError(f"CAM has no argument, and {self.method.name} no option, {name!r}{near}")
        self.method = self.method.configured(**options)
        if num_extra_tokens is not None and (not isinstance(num_extra_tokens, int) or num_extra_tokens < 0):
            raise UsageError(f"num_extra_tokens counts tokens, got {num_extra_tokens!r}")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1 or batch_size is True):
            raise UsageError(f"batch_size counts images, got {batch_size!r}")
        if progress is not None and not callable(progress):
            raise UsageError(f"progress is called with how many of how many are through, got {progress!r}")
        kwargs = dict(forward_kwargs or {})
        self.setup = Setup(num_extra_tokens, reshape_transform, output, kwargs, batch_size, progress)
        self.smoothing: tuple[str, ...] = ()
        self._layers = None if target_layers is None else resolve(self.model, target_layers)
        self._last: dict[str, tuple[Any, dict[str, nn.Module]]] = {}
        self._pins: dict[str, dict[str, nn.Module]] = {}

    def __call__(self, images: Images, targets: Targets = None) -> Tensor:
        """Finished maps of ``images``.

        On an accelerator nothing here waits for the device (but methods that change activations, read the head,
        attend or factorise do), and looking would be waiting: NaN stays NaN, empty maps
        aren't warned of, and a default layer isn't chosen anew where these targets don't depend on it.
        :meth:`explain` looks on every device.

        Args:
            images: (B, C, H, W) or (B, C, D, H, W), normalised as the model takes them.
            targets: None for each image's own top class, one class index for all, one per image, a list per image, or
                callables from one image's output to a scalar in place of indices (see :mod:`camkit.objectives`).

        Returns:
            (B, H, W) float32 in [0, 1] on the model's device; (B, T, H, W) when ``targets`` holds a list per image, and
            of a method that finds concepts.

        Raises:
            UsageError: images or targets of the wrong shape, count or range.
            LayerError: a target layer that no map can be made of.
            NonFiniteError: NaN or infinity in scores, activations or gradients.
            ForwardError: the model's own forward fails on the images.
        """
        explanation = self.compute(images, targets, check=as_input(self.model, images).device.type == "cpu")
        explanation.warn(stacklevel=2)
        has_own = isinstance(self.method.request, Concepts)
        return explanation.maps if has_own or is_nested(targets) else explanation.maps[:, 0]

    def explain(self, images: Images, targets: Targets = None) -> Explanation:
        """Maps of ``images`` with all that belongs to them; arguments and errors as in calling the CAM.

        Warns:
            EmptyMapWarning: a map is zero everywhere.
            OutputWarning: the model returns several tensors that could be meant, and ``output`` doesn't say which.
        """
        explanation = self.compute(images, targets)
        explanation.warn(stacklevel=2)
        return explanation

    def target_layers(self, images: Images, targets: Targets = None, kind: str = "norm") -> dict[str, nn.Module]:
        """Name to module of the target layers; where none were given, default ones are found with the arguments.

        Args:
            images: as in calling the CAM.
            targets: as in calling the CAM.
            kind: of default layers, see :func:`camkit.probe.default_layers`.
        """
        known = self._layers if self._layers is not None else self._pins.get(kind)
        if known is not None:
            return known
        if not has_functions(targets):
            return self._chosen(kind, images, targets)
        # Choices for functions, which may look anywhere, are remembered here alone, and for the last ones.
        asked = (tuple(images.shape[1:]), targets)
        if kind not in self._last or self._last[kind][0] != asked:
            self._last[kind] = asked, self._chosen(kind, images, targets)
        return self._last[kind][1]

    def pinned(self, layers: Mapping[str, Sequence[str]]) -> CAM:
        """The same CAM with target layers, by kind, in place of default ones."""
        if self._layers is not None:
            return self
        fixed = copy(self)
        fixed._pins = {kind: resolve(self.model, list(names)) for kind, names in layers.items()}
        return fixed

    def _chosen(self, kind: str, images: Images, targets: Targets) -> dict[str, nn.Module]:
        """Default layers, looked up by their paths: walking the whole model would cost at every call."""
        choices = default_layers(self.model, images, targets, self.setup, kind)
        return {each.name: self.model.get_submodule(split_branch(each.name)[0]) for each in choices}

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
        self._check_methods(methods, reduction)
        found: dict[int, Explanation] = {}
        # With layers given all methods share a pass.
        kinds = ["norm" if self._layers is not None else method.default_layers for method in methods]
        for kind in dict.fromkeys(kinds):
            group = {number: method for number, method in enumerate(methods) if kinds[number] == kind}
            made = self._compute_live(kind, images, targets, list(group.values()), reduction, check=check)
            found |= dict(zip(group, made, strict=True))
        return [found[number] for number in range(len(methods))]

    def _compute_live(
        self,
        kind: str,
        images: Images,
        targets: Targets,
        methods: Sequence[Method],
        reduction: Reduction | None,
        *,
        check: bool,
    ) -> list[Explanation]:
        """Explanations of methods with the same target layers; default ones that aren't live are chosen anew."""
        if not any(method.request.of_layers for method in methods):
            return self._compute({}, images, targets, methods, reduction, check=check)
        layers = self.target_layers(images, targets, kind)
        try:
            found = self._compute(layers, images, targets, methods, reduction, check=check)
        except LayerError as error:
            again = self._chosen_anew(kind, layers, images, targets)
            if again is None:
                raise type(error)(f"{error}{self._alternatives(images, targets)}") from error
        else:
            # Of a layer that the score doesn't depend on methods without gradients make maps all the same.
            of_layers = [(e, m) for e, m in zip(found, methods, strict=True) if m.request.of_layers]
            judges = [e for e, method in of_layers if method.needs_gradients] or [e for e, _ in of_layers]
            is_dead = all(len(each.empty) == each.scores.numel() for each in judges)
            again = self._chosen_anew(kind, layers, images, targets) if is_dead else None
            if again is None:
                return found
        return self._compute(again, images, targets, methods, reduction, check=check)

    def _check_methods(self, methods: Sequence[Method], reduction: Reduction | None) -> None:
        irreducible = [method.name for method in methods if not method.takes_reduction]
        if reduction is not None and irreducible:
            raise UsageError(
                f"{', '.join(irreducible)} has no weighted channels for a principal component: leave EigenSmooth out"
            )
        if self._layers is None:
            return
        blind = [method.name for method in methods if not method.takes_layers]
        if blind and len(blind) == len(methods):
            raise UsageError(f"{', '.join(blind)} looks at the whole network: leave target layers out")
        if len(self._layers) == 1 and any(method.fusion == "product" for method in methods):
            raise UsageError(
                "RefineCAM multiplies the maps of several layers: name two or more, or leave target layers out for the "
                "last norm layer of each resolution"
            )

    def _blocks(self, images: Images, methods: Sequence[Method]) -> dict[str, nn.Module]:
        """The transformer's blocks, where a method asks for attention; those in the layers given, if any are."""
        if not any(isinstance(method.request, Attention) for method in methods):
            return {}
        inside = None if self._layers is None else list(self._layers)
        is_mixed = any(method.request.of_layers for method in methods)
        return blocks_of(self.model, images, self.setup, inside, or_all=is_mixed)

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
        requests = [method.request for method in methods]
        blocks = self._blocks(images, methods)
        recording = Recording(
            inputs=any(request.inputs for request in requests),
            twice=any(request.twice for request in requests),
            attention=bool(blocks),
            biases=any(isinstance(request, BiasGradients) for request in requests),
        )
        with run(
            self.model,
            layers,
            images,
            targets,
            self.setup,
            gradients=any(request.backward for request in requests),
            recording=recording,
            beside=blocks,
        ) as evidence:
            if check:
                require_finite(evidence.scores)
            made = maps_of(evidence, methods, reduction, blocks=blocks, check=check)
        return [self._explanation(maps, evidence, images.shape[2:], blocks) for maps in made]

    def _explanation(
        self, maps: Maps, evidence: Pass, size: Sequence[int], blocks: Mapping[str, nn.Module]
    ) -> Explanation:
        flat = [each.flatten(0, 1) for each in maps.raw.values()]
        shape = next(iter(maps.raw.values())).shape[:2]
        layers: Sequence[str] = ()
        if maps.method.takes_layers:
            layers = list(maps.raw) if maps.method.request.of_layers else list(blocks)
        return Explanation(
            maps=finish(flat, size, maps.method.fusion).reshape(*shape, *size),
            raw=maps.raw,
            logits=evidence.logits,
            scores=evidence.scores if maps.scores is None else maps.scores,
            targets=evidence.chosen if maps.targets is None else maps.targets,
            method=maps.method.name,
            layers=tuple(layers),
            smoothing=(),
            versions=dict(versions()),
            output=evidence.answer.name,
            other_outputs=evidence.answer.others,
            empty=maps.empty,
            pixels=maps.pixels,
        )

    def _chosen_anew(
        self, kind: str, layers: dict[str, nn.Module], images: Images, targets: Targets
    ) -> dict[str, nn.Module] | None:
        """Other default layers, where those remembered aren't live any more: other targets, weights, arguments."""
        if self._layers is not None or kind in self._pins:
            return None
        forget(self.model)
        self._last.clear()
        again = self.target_layers(images, targets, kind)
        return again if list(again) != list(layers) else None

    def _alternatives(self, images: Images, targets: Targets) -> str:
        """The end of a message about a layer that can't be used: the last ones that can."""
        norms = {name: module for name, module in modules_of(self.model).items() if is_norm(module)}
        try:
            live = [each.name for each in probe(self.model, norms, images, targets, self.setup) if each.is_live]
        except CamkitError:  # the error that is being reported says more
            live = []
        return f"; live norm layers: {', '.join(map(repr, live[-3:]))}; {LIST_LAYERS}" if live else f"; {LIST_LAYERS}"


_ARGUMENTS = [name for name in signature(CAM.__init__).parameters if name not in ("self", "options")]
