"""AblationCAM of several layers, which :mod:`.ablation_cam` takes as well as one."""

from camkit.integrations.pytorch_grad_cam.ablation_cam import AblationCAM as AblationCAM
