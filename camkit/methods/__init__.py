"""The methods: pure functions from signals to signed maps.

Most weight a layer's activations, and a reduction makes one map of the weighted channels; others make maps directly.
All work on any number of spatial dimensions and on several targets at once, and change none of their arguments. A
method never sees the model: it gets what it needs as arguments.

A method's docstring is what users read in ``help(camkit.GradCAM)``; its example runs as a test. In the examples
``model`` is a convolutional network with 10 classes, whose layers ``stem`` and ``features`` are followed by pooling and
one linear layer, ``vit`` a vision transformer, and ``images`` a batch of two normalised images of 32 x 32 pixels. After
changing one, run ``python -m docs.constructors``.
"""

from camkit.methods import gradient, activation, perturbation, attention, pixel, concept, control  # noqa: F401, I001  (in this order)
from camkit.methods.reductions import channel_sum as channel_sum
from camkit.methods.reductions import principal_component as principal_component
from camkit.methods.registry import FAMILIES as FAMILIES
from camkit.methods.registry import METHODS as METHODS
from camkit.methods.registry import Maps as Maps
from camkit.methods.registry import Method as Method
from camkit.methods.registry import Reduction as Reduction
from camkit.methods.registry import configured as configured
from camkit.methods.registry import find_method as find_method
from camkit.methods.registry import find_methods as find_methods

# The six that every CAM package has come first, then families in the order of their import.
_FIRST = ("GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM")
METHODS.update({name: METHODS.pop(name) for name in dict.fromkeys((*_FIRST, *METHODS))})
