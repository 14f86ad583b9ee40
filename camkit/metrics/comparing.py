"""Compare methods by metrics, with controls beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from camkit.cam import CAM
from camkit.errors import UsageError
from camkit.explaining import explain as explain_images
from camkit.explanation import Explanation
from camkit.methods import METHODS, Method, find_method
from camkit.metrics.comparison import Comparison, Item
from camkit.metrics.controls import CONTROLS, Control, make_controls
from camkit.metrics.given import read_images, read_maps, read_targets
from camkit.metrics.measuring import measure_methods
from camkit.metrics.registry import Metric
from camkit.metrics.rows import Rows, of_rows
from camkit.metrics.trial import Explainer

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier

RANDOMCAM = "RandomCAM"
"""The method that is a control, too."""


def compare(
    metrics: str | Metric | Sequence[str | Metric],
    methods: Mapping[str, Any] | Rows | str | Method | Sequence[str | Method],
    images: Tensor,
    model: nn.Module | Classifier | CAM | None = None,
    targets: Any = None,
    target_layers: Any = None,
    *,
    regions: Any = None,
    explain: Mapping[str, Explainer | CAM] | None = None,
    controls: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Comparison:
    """Measure several methods, and controls beside them.

    Args:
        metrics: names from :data:`camkit.metrics.METRICS`, in any case.
        methods: a method's name to its maps, as :func:`camkit.metrics.measure` takes them (what
            :func:`camkit.explain` returns is such a mapping); rows of a run; or names of methods, which explain the
            images here.
        images: (B, C, H, W), normalised as the model takes them.
        model: the network, a :class:`camkit.models.classifier.Classifier` or a CAM, for its network; None for metrics
            that need no scores.
        targets: the classes that the maps explain; None for those of the explanations, else the predicted ones.
        target_layers: of methods that are named, and of RandomCAM, see :func:`camkit.explain`.
        regions: where the objects are, see :func:`camkit.metrics.measure`.
        explain: method's name to a CAM, or to a function from images and targets to maps, for metrics that explain
            again. Methods that are named explain again themselves, and so do controls.
        controls: some of ``RandomCAM`` and :data:`camkit.metrics.CONTROLS`. None for all, RandomCAM where a method is
            named, or was explained, at a layer of the network: there it stands too.
        ids: (B,), the images' names; None numbers them.
        seed: of whatever is drawn.
        **settings: of :func:`camkit.metrics.measure`: ``probability``, ``resize``, ``batch_size``, ``progress``, and
            metrics' options.

    Raises:
        UsageError: what :func:`camkit.metrics.measure` raises, no method, a method with the name of a control.

    Example:
        >>> found = compare("Sparseness", ["GradCAM", "LayerCAM"], images, model, target_layers=["features"])
        >>> found.methods, found.controls
        (['GradCAM', 'LayerCAM'], ('RandomCAM', 'Random', 'Gaussian', 'Edges'))
    """
    read_images(images, None, len(images))
    again: dict[str, Explainer | CAM] = dict(explain or {})
    named, targets = of_rows(methods, targets)
    given: dict[str, Any] = dict(named) if isinstance(named, Mapping) else {}
    wanted = [] if isinstance(named, Mapping) else _found(named)
    layers = layers_of(given) if target_layers is None else target_layers
    if controls is None:
        at_layers = any(each.of_layers for each in wanted) or (model is not None and layers_of(given))
        controls = (RANDOMCAM, *CONTROLS) if at_layers else CONTROLS
    compared = dict.fromkeys([*given, *(each.name for each in wanted)])
    beside = check_controls(controls, compared)
    if compared and RANDOMCAM in beside and RANDOMCAM not in compared:
        wanted.append(find_method(RANDOMCAM))
    if wanted:
        module, how = _called(model, wanted)
        classes = _classes(given, targets)
        explains_again = bool(again) or not given
        given |= explain_images(module, images, wanted, classes, layers, **how)
        for each in wanted if explains_again else ():
            own = list(given[each.name].layers) if each.of_layers else target_layers
            again.setdefault(each.name, CAM(module, each, own, **how))
    if not given:
        raise UsageError("there is no method to compare: give maps by the method's name, or names of methods")
    made = make_controls(grid_of(given), seed)
    count = read_maps(next(iter(given.values()))).shape[1]
    targets = read_targets(_classes(given, targets), len(images), count)
    if again:
        again |= {name: explainer_of(made[name]) for name in beside if name in made}
    given |= {name: control_maps(made[name], images, count) for name in beside if name in made}
    measured = measure_methods(
        metrics, given, images, model, targets, regions=regions, explain=again or None, seed=seed, **settings
    )
    names = list(ids) if ids is not None else [str(number) for number in range(len(images))]
    if len(names) != len(images):
        raise UsageError(f"{len(images)} images have {len(names)} ids: give one for each")
    items = items_of(names, targets, count)
    return Comparison(by_metric(measured), dict.fromkeys(next(iter(measured.values())), items), beside, seed)


def check_controls(controls: Sequence[str], methods: Mapping[str, Any]) -> tuple[str, ...]:
    """The controls' names, which no method has.

    Raises:
        UsageError: no such control, or a method of that name.
    """
    known = (RANDOMCAM, *CONTROLS)
    for name in controls:
        if name not in known:
            raise UsageError(f"no control {name!r}; there are: {', '.join(known)}")
        if name in methods and name != RANDOMCAM:
            raise UsageError(
                f"{name!r} is the name of a control: give the method another one, or leave the control out"
            )
    return tuple(dict.fromkeys(controls))


def grid_of(methods: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The layer's resolution, of the first explanation that is at a layer; None where there is none."""
    for each in methods.values():
        if isinstance(each, Explanation) and each.pixels is None:
            return tuple(next(iter(each.raw.values())).shape[2:])
    return None


def layers_of(methods: Mapping[str, Any]) -> list[str] | None:
    """The target layers of the first explanation that is at layers; None where there is none."""
    for each in methods.values():
        if isinstance(each, Explanation) and each.layers and each.method in METHODS and METHODS[each.method].of_layers:
            return list(each.layers)
    return None


def control_maps(control: Control, images: Tensor, count: int) -> Tensor:
    """A control's maps (B, T, H, W), the same for each of an image's T targets."""
    maps = control(images)
    return maps[:, None].expand(-1, count, -1, -1)


def explainer_of(control: Control) -> Explainer:
    """Explains other images with a control, which asks for no class."""

    def explained(images: Tensor, targets: Tensor) -> Tensor:
        return control(images)

    return explained


def by_metric(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Method to metric to values as metric to method to values."""
    first = next(iter(measured.values()))
    return {metric: {method: each[metric] for method, each in measured.items()} for metric in first}


def items_of(names: Sequence[str], targets: Tensor | None, count: int) -> list[Item]:
    """Whose values they are, an image's targets (B, T) side by side; -1 for classes that nobody asks for."""
    classes = [-1] * (len(names) * count) if targets is None else targets.flatten().tolist()
    return [Item(names[number // count], each) for number, each in enumerate(classes)]


def _classes(methods: Mapping[str, Any], targets: Any) -> Any:
    """The classes that maps explain: as given, those of the explanations, else those with the highest scores."""
    found = [each for each in methods.values() if isinstance(each, Explanation)]
    asked = [each.targets for each in found if each.depends_on_targets]
    if targets is not None or asked:
        return targets if targets is not None else asked[0]
    scored = [each.logits for each in found if each.logits.ndim == 2 and each.logits.shape[1]]
    return scored[0].argmax(1) if scored else None


def _found(methods: str | Method | Sequence[str | Method]) -> list[Method]:
    return [find_method(name) for name in ([methods] if isinstance(methods, str | Method) else methods)]


def _called(model: Any, methods: Sequence[Method]) -> tuple[nn.Module, dict[str, Any]]:
    """The network that explains, and how it is called and laid out."""
    if model is None:
        raise UsageError(f"{', '.join(each.name for each in methods)} can't be computed without a model: pass model=")
    if isinstance(model, nn.Module):
        return model, {}
    if not isinstance(model, CAM):
        return model.model, {"output": model.output}
    return model.model, {
        "output": model.network.output,
        "forward_kwargs": model.network.forward_kwargs,
        "image_argument": model.network.image_argument,
        "num_extra_tokens": model.layers.num_extra_tokens,
        "reshape_transform": model.layers.reshape_transform,
    }
