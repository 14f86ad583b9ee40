"""CAM: a model, a method and target layers, composed into something that explains images.

The way from images to maps is :func:`compute`, top to bottom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, TypedDict

from torch import Tensor, nn

from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.engine.scores import NO_CLASS, is_nested, require_finite
from camkit.errors import LayerError, UsageError, closest
from camkit.explanation import Explanation
from camkit.layers.attention_blocks import attention_blocks, blocks_within
from camkit.layers.calls import other_calls
from camkit.layers.feature_maps import FeatureMaps
from camkit.layers.target_layers import TargetLayer, TargetLayers
from camkit.methods import Method, Reduction, find_method
from camkit.methods.apply import Application, Result
from camkit.methods.maps import finish
from camkit.methods.needs import DefaultLayer, Recording
from camkit.neighbours import ATTRIBUTES, CALL, CONSTRUCTOR, refuse_argument, refuse_layers_as_method
from camkit.signals.compute import Signals
from camkit.signals.perturbed import name_concepts
from camkit.typing import Images, Layers, Output, Progress, ReshapeTransform, Targets
from camkit.versions import versions

if TYPE_CHECKING:
    from typing_extensions import Never, Self


class Settings(TypedDict, total=False):
    """The keyword arguments that every CAM takes, see :class:`CAM`."""

    num_extra_tokens: int | None
    reshape_transform: ReshapeTransform | None
    output: Output
    forward_kwargs: Mapping[str, Any] | None
    image_argument: str | None
    batch_size: int | None
    progress: Progress | None


class CAM:
    """Class activation maps of a network's images, by any method.

    ``CAM(model, "GradCAM", ["layer4"])`` is what ``camkit.GradCAM(model, ["layer4"])`` makes.

    Args:
        model: a classifier whose forward takes images and returns logits (B, K), alone or in a tuple, dict, dataclass
            or list of data samples. ``torch.compile``d, DataParallel and DistributedDataParallel models are unwrapped.
        method: a name from :data:`camkit.METHODS`, in any case, or ``METHODS[name].configured(...)``.
        target_layers: dotted names or modules; several are fused by the mean. None takes the last norm layer that is
            spatial and that the score depends on, or what :func:`camkit.layers.default_layers.choose` finds for the
            method, at the first call. Attention methods take the transformer's blocks in place of layers, None all of
            them; pixel-level ones have none.
        num_extra_tokens: for token layers, how many tokens in front of the grid belong to no place (class,
            distillation, registers); None finds out.
        reshape_transform: your own layout, from a layer's output to (B, C, *spatial); used for its gradient too.
        output: which part of what the model returns to explain: an index, a key or attribute (``"aux.logits"`` leads
            further in), or a function of it. None takes ``logits``, else the first (B, K) tensor.
        forward_kwargs: keyword arguments for the model's forward, such as ``{"interpolate_pos_encoding": True}``.
        image_argument: the name of the argument of the model's forward that takes the images, such as
            ``"pixel_values"`` where text comes first; None for the first one.
        batch_size: how many perturbed images, or activations, run through the network at a time, for methods that need
            many; None asks the memory. A chunk that doesn't fit is halved once.
        progress: called with how many of how many are through.
        **options: of the method, such as ``num_samples=10``; ``camkit.METHODS[name].options`` lists them.

    Raises:
        UsageError: no such method, option or layer, or a model that takes no hooks (TorchScript).

    Example:
        >>> cam = camkit.CAM(model, "GradCAM", ["features"])
        >>> cam(images, targets=[3, 1]).shape
        torch.Size([2, 32, 32])
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Method = "GradCAM",
        target_layers: Layers = None,
        *,
        num_extra_tokens: int | None = None,
        reshape_transform: ReshapeTransform | None = None,
        output: Output = None,
        forward_kwargs: Mapping[str, Any] | None = None,
        image_argument: str | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        self.network = Network(
            model,
            output=output,
            forward_kwargs=forward_kwargs,
            image_argument=image_argument,
            batch_size=batch_size,
            progress=progress,
        )
        refuse_layers_as_method(self.network.model, method)
        self.method = find_method(method)
        for name in options:
            if name not in self.method.options:
                refuse_argument(name, CONSTRUCTOR)
                if near := closest(name, _ARGUMENTS):
                    raise UsageError(f"CAM has no argument, and {self.method.name} no option, {name!r}{near}")
        self.method = self.method.configured(**options)
        self.layers = TargetLayers(
            self.network, target_layers, num_extra_tokens=num_extra_tokens, reshape_transform=reshape_transform
        )
        self.smoothing: tuple[str, ...] = ()

    def __call__(self, images: Images = None, targets: Targets = None, **unknown: Never) -> Tensor:  # type: ignore[assignment]
        """Finished maps of ``images``.

        On a GPU the host waits for nothing here (but with methods that perturb, read the head, attend or factorise), so
        NaN and empty maps go unchecked, and a default layer isn't chosen anew where these targets don't depend on it.
        :meth:`explain` checks on every device.

        Args:
            images: (B, C, H, W), volumes (B, C, D, H, W) or signals (B, C, L), floating point, normalised as the model
                takes them.
            targets: None for each image's own top class, one class index for all, one per image, a list per image, or
                callables from one image's output to a scalar in place of indices (see :mod:`camkit.targets`).
            **unknown: names of other packages are answered with the name here.

        Returns:
            (B, H, W) float32 in [0, 1] on the model's device; (B, D, H, W) for volumes, (B, L) for signals. With a T in
            front of the size when ``targets`` holds a list per image, and of a method that finds concepts.

        Raises:
            UsageError: images or targets of the wrong shape, count or range.
            LayerError: a target layer that no map can be made of.
            NonFiniteError: NaN or infinity in scores, activations or gradients.
            ForwardError: the model's own forward fails on the images.
        """
        for name in unknown:
            refuse_argument(name, CALL)
            raise UsageError(f"a CAM is called with (images, targets), not with {name!r}")
        images = self.network.prepare(images)
        (explanation,) = self.compute(images, targets, check=images.device.type == "cpu")
        explanation.warn(stacklevel=2)
        return explanation.maps if explanation.finds_concepts or is_nested(targets) else explanation.maps[:, 0]

    def explain(self, images: Images, targets: Targets = None) -> Explanation:
        """Maps of ``images`` with all that belongs to them; arguments and errors as in calling the CAM.

        Warns:
            EmptyMapWarning: a map is zero everywhere.
            OutputWarning: the model returns several tensors that could be meant, and ``output`` doesn't say which.
        """
        (explanation,) = self.compute(self.network.prepare(images), targets)
        explanation.warn(stacklevel=2)
        return explanation

    def target_layers(self, images: Images, targets: Targets = None) -> dict[str, nn.Module]:
        """Name to module of the target layers; where none were named, those that are chosen for the arguments."""
        images = self.network.prepare(images)
        return {name: module for name, module, _ in self.layers.resolve(self.method.default_layer, images, targets)}

    def compute(
        self,
        images: Images,
        targets: Targets = None,
        methods: Sequence[Method] | None = None,
        *,
        layers: TargetLayers | None = None,
        reduction: Reduction | None = None,
        check: bool = True,
    ) -> list[Explanation]:
        """An explanation per method, all from one forward; what wrappers override.

        Args:
            images: prepared by the network.
            targets: as in calling the CAM.
            methods: in place of the CAM's own.
            layers: in place of the CAM's own.
            reduction: in place of the methods' own.
            check: NaN is an error and empty maps are described, which synchronises a GPU.
        """
        methods = [self.method] if methods is None else methods
        layers = self.layers if layers is None else layers
        return compute(self.network, images, targets, methods, layers, reduction=reduction, check=check)

    @property
    def model(self) -> nn.Module:
        """The network itself."""
        return self.network.model

    def __enter__(self) -> Self:
        """Nothing needs releasing: hooks are in place only during a call."""
        return self

    def __exit__(self, *error: object) -> None:
        """See :meth:`__enter__`."""

    def __getattr__(self, name: str) -> Any:
        # Reached only for what a CAM doesn't have.
        hint = f": {ATTRIBUTES[name]}" if name in ATTRIBUTES else ""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    def __repr__(self) -> str:
        layers = "default layer" if self.layers.names is None else self.layers.names
        options = "".join(f", {name}={value!r}" for name, value in self.method.options.items())
        return f"{self.method.name}({type(self.model).__name__}, {layers}{options})"


def compute(
    network: Network,
    images: Images,
    targets: Targets,
    methods: Sequence[Method],
    layers: TargetLayers,
    *,
    reduction: Reduction | None = None,
    check: bool = True,
) -> list[Explanation]:
    """Explain images with several methods; those with the same target layers share one forward.

    Args:
        network: the model.
        images: prepared by the network.
        targets: of the images.
        methods: as they are configured.
        layers: the target layers.
        reduction: in place of the methods' own.
        check: NaN is an error and empty maps are described, which synchronises a GPU.

    Returns:
        An explanation per method, in order.
    """
    _check(methods, layers, reduction)
    if targets is None and not any(method.need.depends_on_targets for method in methods):
        targets = NO_CLASS
    found: dict[int, Explanation] = {}
    with network.borrowed():
        # With layers named all methods share them, whatever each would take by default.
        rules = [methods[0 if layers.names else number].default_layer for number in range(len(methods))]
        for rule in dict.fromkeys(rules):
            group = {number: method for number, method in enumerate(methods) if rules[number] is rule}
            made = _explain_live(
                network, images, targets, list(group.values()), layers, rule, reduction=reduction, check=check
            )
            found |= dict(zip(group, made, strict=True))
    return [found[number] for number in range(len(methods))]


def _explain_live(
    network: Network,
    images: Images,
    targets: Targets,
    methods: Sequence[Method],
    layers: TargetLayers,
    rule: DefaultLayer,
    **how: Any,
) -> list[Explanation]:
    """Explain at the target layers; default ones that turn out dead are chosen anew."""
    if not any(method.of_layers for method in methods):
        return _explain(network, images, targets, methods, layers, [], **how)
    gradients = any(method.need.records.gradients for method in methods)
    chosen = layers.resolve(rule, images, targets, without_gradients=not gradients)
    try:
        found = _explain(network, images, targets, methods, layers, chosen, **how)
    except LayerError as error:
        again = layers.resolve_again(chosen, rule, images, targets)
        if again is None:
            error.args = (f"{error}{layers.advice(images, targets)}",)
            raise
    else:
        again = layers.resolve_again(chosen, rule, images, targets) if _are_dead(found, methods) else None
        if again is None:
            return found
    return _explain(network, images, targets, methods, layers, again, **how)


def _explain(
    network: Network,
    images: Images,
    targets: Targets,
    methods: Sequence[Method],
    layers: TargetLayers,
    chosen: Sequence[TargetLayer],
    *,
    reduction: Reduction | None,
    check: bool,
) -> list[Explanation]:
    """From images to maps: record one forward, lay out what the layers returned, apply the methods."""
    recording = Recording()
    for method in methods:
        recording |= method.need.records
    blocks = _attention_blocks(network, images, methods, layers) if recording.attention else {}
    modules = {**{layer.name: layer.module for layer in chosen}, **blocks}
    with record(network, images, modules, targets, recording) as forward:
        if not layers.settle_calls(forward):
            features = layers.lay_out(forward, chosen, blocks)
            return _applied(features, methods, layers, chosen, list(blocks), reduction=reduction, check=check)
    # A name means another call of its layer than the one that was recorded.
    return _explain(network, images, targets, methods, layers, chosen, reduction=reduction, check=check)


def _applied(
    features: FeatureMaps,
    methods: Sequence[Method],
    layers: TargetLayers,
    chosen: Sequence[TargetLayer],
    blocks: Sequence[str],
    *,
    reduction: Reduction | None,
    check: bool,
) -> list[Explanation]:
    """From feature maps to explanations: compute signals, apply the methods to them, finish their maps."""
    forward = features.forward
    if check:
        require_finite(forward.scores)
    applications = [Application(method, reduction, check=check) for method in methods]
    for need, signal in Signals(features, check=check).compute(method.need for method in methods):
        for application in applications:
            if application.method.need == need:
                application.add(signal)
    explanations = []
    for application in applications:
        result = application.result(forward.count)
        explanation = _finished(application.method, result, features, chosen, blocks, layers.num_extra_tokens)
        for name, concepts in (result.concepts or {}).items():
            if forward.asks_for_no_class:
                explanation = explanation.replace(targets=tuple(row * len(concepts) for row in forward.chosen))
                continue
            found, scores = name_concepts(features, name, concepts)
            explanation = explanation.replace(targets=found, scores=scores)
        explanations.append(explanation)
    return explanations


def _finished(
    method: Method,
    result: Result,
    features: FeatureMaps,
    chosen: Sequence[TargetLayer],
    blocks: Sequence[str],
    num_extra_tokens: int | None,
) -> Explanation:
    """Rectify, normalise, resize and fuse a method's maps."""
    forward = features.forward
    size = tuple(forward.images.shape[2:])
    flat = [each.flatten(0, 1) for each in result.raw.values()]
    shape = next(iter(result.raw.values())).shape[:2]
    names: Sequence[str] = list(result.raw) if method.of_layers else blocks if method.takes_layers else []
    reasons = {layer.name: layer.reason for layer in chosen if layer.reason}
    return Explanation(
        maps=finish(flat, size, method.fusion).reshape(*shape, *size),
        raw=result.raw,
        logits=forward.logits,
        scores=forward.scores,
        targets=forward.chosen,
        method=method.name,
        options=dict(method.options),
        layers=tuple(names),
        layer_reasons={name: reasons[name] for name in names if name in reasons},
        smoothing=(),
        num_extra_tokens=num_extra_tokens,
        versions=dict(versions()),
        output=forward.part.name,
        other_outputs=forward.part.others,
        other_calls={name: calls for name, calls in other_calls(forward).items() if name in names},
        unsure=tuple(name for name in names if name in features.layouts and not features.layouts[name].is_sure),
        empty=result.empty,
        pixels=result.pixels,
    )


def _check(methods: Sequence[Method], layers: TargetLayers, reduction: Reduction | None) -> None:
    """Refuse methods that can't be reduced, or applied to the layers that were named."""
    irreducible = [method.name for method in methods if not method.takes_reduction]
    if reduction is not None and irreducible:
        raise UsageError(
            f"{', '.join(irreducible)} has no weighted channels for a principal component: leave EigenSmooth out"
        )
    if layers.names is None:
        return
    if not any(method.takes_layers for method in methods):
        names = ", ".join(method.name for method in methods)
        raise UsageError(f"{names} looks at the whole network: leave target layers out")
    if len(layers.names) == 1 and any(method.fusion == "product" for method in methods):
        raise UsageError(
            "RefineCAM multiplies the maps of several layers: name two or more, or leave target layers out for the "
            "last norm layer of each resolution"
        )


def _attention_blocks(
    network: Network, images: Images, methods: Sequence[Method], layers: TargetLayers
) -> dict[str, nn.Module]:
    """The transformer's blocks; those in the layers named, if any are."""
    names: Sequence[str] = attention_blocks(network, images)
    if layers.names is not None:
        names = blocks_within(names, layers.names, or_all=any(method.of_layers for method in methods))
    return {name: network.model.get_submodule(name) for name in names}


def _are_dead(explanations: Sequence[Explanation], methods: Sequence[Method]) -> bool:
    """Whether every map is empty, as seen by methods with gradients: others make maps of dead layers all the same."""
    pairs = [(each, method) for each, method in zip(explanations, methods, strict=True) if method.of_layers]
    judges = [each for each, method in pairs if method.need.records.gradients] or [each for each, _ in pairs]
    return all(len(each.empty) == each.scores.numel() for each in judges)


_ARGUMENTS = [name for name in signature(CAM.__init__).parameters if name not in ("self", "options")]
