"""Other packages, asked the right way: they are what camkit's maps are compared with."""

from tests.parity.reference.captum_attr import captum_guided, captum_guided_gradcam
from tests.parity.reference.grad_cam import (
    FloatArray,
    cloning,
    energy_sign,
    factorization_start,
    half_pixel_upsampling,
    quiet,
    random_weights,
    reference_concepts,
    reference_finer,
    reference_guided,
    reference_maps,
    reference_raw,
    reference_refine,
    restored,
    running,
    token_ablation,
)
from tests.parity.reference.torch_cam import torchcam_finer, torchcam_legrad, torchcam_raw, torchcam_refine

__all__ = [
    "FloatArray",
    "captum_guided",
    "captum_guided_gradcam",
    "cloning",
    "energy_sign",
    "factorization_start",
    "half_pixel_upsampling",
    "quiet",
    "random_weights",
    "reference_concepts",
    "reference_finer",
    "reference_guided",
    "reference_maps",
    "reference_raw",
    "reference_refine",
    "restored",
    "running",
    "token_ablation",
    "torchcam_finer",
    "torchcam_legrad",
    "torchcam_raw",
    "torchcam_refine",
]
