"""The methods: pure functions of what a network tells, and the reductions over channels.

A method makes weights for a layer's activations of its gradients, of scores or of nothing else; a reduction makes one
map of the weighted channels. Others make maps directly. All work on any number of spatial dimensions, on several
targets at once, and leave their arguments alone. What a method needs it gets as arguments: none ever sees a model.
"""

from camkit.methods import gradient, activation, scored, attention, pixel, concept  # noqa: F401, I001  (in this order)
from camkit.methods.reductions import channel_sum as channel_sum
from camkit.methods.reductions import principal_component as principal_component
from camkit.methods.registry import FAMILIES as FAMILIES
from camkit.methods.registry import METHODS as METHODS
from camkit.methods.registry import Method as Method
from camkit.methods.registry import Reduction as Reduction
from camkit.methods.registry import configured as configured
from camkit.methods.registry import find_method as find_method

# The six that every CAM tool has come first, then families in order.
_FIRST = ("GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM")
_ORDERED = sorted(METHODS.values(), key=lambda method: (method.name not in _FIRST, FAMILIES.index(method.family)))
_ORDERED.sort(key=lambda method: _FIRST.index(method.name) if method.name in _FIRST else len(_FIRST))
METHODS.update({method.name: METHODS.pop(method.name) for method in _ORDERED})
