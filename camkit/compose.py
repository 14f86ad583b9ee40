"""Several methods at once."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any

from torch import nn

from camkit.cam import CAM, Explanation
from camkit.errors import UsageError
from camkit.layers import Layer
from camkit.methods import Method, configured, find_method
from camkit.shapes import Images
from camkit.smoothing import AugSmooth, EigenSmooth
from camkit.targets import Targets

_READING = frozenset(name for name, each in signature(CAM).parameters.items() if each.kind is Parameter.KEYWORD_ONLY)


def explain(
    model: nn.Module,
    images: Images,
    methods: str | Method | Sequence[str | Method],
    targets: Targets = None,
    target_layers: Layer | Sequence[Layer] | None = None,
    *,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
    **reading: Any,
) -> dict[str, Explanation]:
    """Explain images with several methods that share one forward and one backward.

    Args:
        model: see :class:`camkit.CAM`, as for the arguments not named here.
        images: (B, C, H, W) or (B, C, D, H, W), normalised as the model takes them.
        methods: names from :data:`camkit.METHODS`, in any case, or ``METHODS[name].configured(...)``.
        targets: see :meth:`camkit.CAM.__call__`.
        target_layers: names or modules; None for the default layer.
        eigen_smooth: wrap in :class:`camkit.EigenSmooth`.
        aug_smooth: wrap in :class:`camkit.AugSmooth`.
        **reading: ``num_extra_tokens``, ``reshape_transform``, ``output``, ``forward_kwargs``, ``batch_size`` and
            ``progress``; all else is an option of the methods, and goes to those that have it.

    Returns:
        The method's name to its explanation, in the order asked for.

    Raises:
        UsageError: no method, one that doesn't exist or is named twice; and what :class:`camkit.CAM` raises.

    Warns:
        EmptyMapWarning: a map is zero everywhere.
        OutputWarning: see :meth:`camkit.CAM.explain`.
    """
    wanted = [find_method(each) for each in ([methods] if isinstance(methods, str | Method) else methods)]
    options = {name: reading.pop(name) for name in list(reading) if name not in _READING}
    wanted = configured(wanted, options)
    names = [method.name for method in wanted]
    if not wanted or len(set(names)) < len(names):
        raise UsageError(f"name every method once, at least one; got {', '.join(names) or 'none'}")
    cam: CAM = CAM(model, target_layers=target_layers, **reading)
    cam = AugSmooth(EigenSmooth(cam, enabled=eigen_smooth), enabled=aug_smooth)
    found = cam.compute_all(images, targets, wanted)
    for explanation in found:
        explanation.warn(stacklevel=2)
    return dict(zip(names, found, strict=True))
