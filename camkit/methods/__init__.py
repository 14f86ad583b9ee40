"""The methods: pure functions of a layer's activations and their gradient, and the reductions over channels.

A method makes weights for the activations; a reduction makes one map of the weighted channels. Both work on any number
of spatial dimensions, on the gradients of several targets at once, and leave their arguments alone.
"""

from camkit.methods import gradient, activation  # noqa: F401, I001  (they register in this order)
from camkit.methods.reductions import channel_sum as channel_sum
from camkit.methods.reductions import principal_component as principal_component
from camkit.methods.registry import METHODS as METHODS
from camkit.methods.registry import Method as Method
from camkit.methods.registry import Reduction as Reduction
from camkit.methods.registry import find_method as find_method
