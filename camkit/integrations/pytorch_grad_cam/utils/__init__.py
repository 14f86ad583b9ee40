"""Pictures, targets, layouts and layers."""

from camkit.integrations.pytorch_grad_cam.utils import model_targets as model_targets
from camkit.integrations.pytorch_grad_cam.utils import reshape_transforms as reshape_transforms
from camkit.integrations.pytorch_grad_cam.utils.image import deprocess_image as deprocess_image
from camkit.integrations.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection as get_2d_projection
