"""Answers to what people type who come from grad-cam, torchcam or Captum: what to write here."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from camkit.errors import UsageError
from camkit.methods import METHODS, Method

CONSTRUCTOR = {
    "target_layer": "target_layers=[layer]",
    "layer": "target_layers=[layer]",
    "layers": "target_layers=[layer]",
    "use_cuda": "model.cuda(); the maps are made where the model is",
    "device": "model.to(device); the maps are made where the model is",
    "input_shape": "nothing: shapes are those of the images that the CAM is called with",
    "conv_layer": "target_layers=[layer]",
    "fc_layer": "nothing: the head is found by itself",
    "uses_gradients": "nothing: the method says what it needs",
    "device_ids": "nothing: DataParallel models are unwrapped",
    "forward_func": "model",
}
"""Arguments of constructors."""
CALL = {
    "input_tensor": "cam(images, targets)",
    "inputs": "cam(images, targets)",
    "input": "cam(images, targets)",
    "x": "cam(images, targets)",
    "target": "cam(images, targets=...)",
    "target_category": "cam(images, targets=...)",
    "class_idx": "cam(images, targets=...)",
    "scores": "cam(images, targets=...); the forward is run for you",
    "aug_smooth": "camkit.AugSmooth(cam)(images, targets)",
    "eigen_smooth": "camkit.EigenSmooth(cam)(images, targets)",
    "additional_forward_args": "forward_kwargs={...} of the constructor",
    "relu_attributions": "cam.explain(images, targets).raw, which is signed",
    "normalized": "cam.explain(images, targets).raw, which isn't normalised",
    "attribute_to_layer_input": "the layer in front as target layer",
}
"""Arguments of calls."""
ATTRIBUTES = {
    "attribute": "call the CAM itself, cam(images, targets)",
    "forward": "call the CAM itself, cam(images, targets)",
    "generate": "call the CAM itself, cam(images, targets)",
    "fuse_cams": "layers are fused already; cam.explain(images, targets).raw has the map of each",
    "remove_hooks": "no hooks stay in the model after a call",
    "release": "no hooks stay in the model after a call",
    "reset_hooks": "no hooks stay in the model after a call",
    "activations_and_grads": "no hooks stay in the model after a call",
}
"""Methods and attributes."""


def refuse_argument(name: str, known: Mapping[str, str]) -> None:
    """Raise a UsageError for an argument of another package."""
    if name in known:
        raise UsageError(f"camkit has no argument {name!r}: write {known[name]}")


def refuse_layers_as_method(model: nn.Module, method: object) -> None:
    """Answer ``CAM(model, [layer])``, the order of arguments of other packages."""
    if isinstance(method, Method):
        return
    if isinstance(method, str):
        if method in METHODS or method not in dict(model.named_modules()):
            return
        layers = repr(method)
    elif isinstance(method, nn.Module):
        layers = "layer"
    elif isinstance(method, list | tuple):
        layers = ", ".join(repr(each) if isinstance(each, str) else "layer" for each in method) or "layer"
    else:
        raise UsageError(f"a method is a name such as 'GradCAM', got {type(method).__name__}")
    raise UsageError(
        f"CAM takes the method before the layers: write camkit.GradCAM(model, [{layers}]), or camkit.CAM(model, "
        f'"GradCAM", [{layers}])'
    )
