"""grad-cam's names on camkit's engine: in a script written for grad-cam 1.5.7, changing the import is all.

``from camkit.integrations.pytorch_grad_cam import GradCAM`` in place of ``from pytorch_grad_cam import GradCAM``, and
so for all submodules. :func:`install` answers ``import pytorch_grad_cam`` itself, for scripts that can't be changed;
``python -m camkit.integrations.pytorch_grad_cam script.py ...`` runs one that way. grad-cam isn't needed. Where
camkit's maps differ, docs/migrating.md says how and why.
"""

from camkit.integrations.pytorch_grad_cam.ablation_cam import AblationCAM as AblationCAM
from camkit.integrations.pytorch_grad_cam.ablation_layer import AblationLayer as AblationLayer
from camkit.integrations.pytorch_grad_cam.ablation_layer import AblationLayerFasterRCNN as AblationLayerFasterRCNN
from camkit.integrations.pytorch_grad_cam.ablation_layer import AblationLayerVit as AblationLayerVit
from camkit.integrations.pytorch_grad_cam.activations_and_gradients import (
    ActivationsAndGradients as ActivationsAndGradients,
)
from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM as BaseCAM
from camkit.integrations.pytorch_grad_cam.eigen_cam import EigenCAM as EigenCAM
from camkit.integrations.pytorch_grad_cam.eigen_grad_cam import EigenGradCAM as EigenGradCAM
from camkit.integrations.pytorch_grad_cam.feature_factorization.deep_feature_factorization import (
    DeepFeatureFactorization as DeepFeatureFactorization,
)
from camkit.integrations.pytorch_grad_cam.feature_factorization.deep_feature_factorization import (
    run_dff_on_image as run_dff_on_image,
)
from camkit.integrations.pytorch_grad_cam.fem import FEM as FEM
from camkit.integrations.pytorch_grad_cam.finer_cam import FinerCAM as FinerCAM
from camkit.integrations.pytorch_grad_cam.fullgrad_cam import FullGrad as FullGrad
from camkit.integrations.pytorch_grad_cam.grad_cam import GradCAM as GradCAM
from camkit.integrations.pytorch_grad_cam.grad_cam_elementwise import GradCAMElementWise as GradCAMElementWise
from camkit.integrations.pytorch_grad_cam.grad_cam_plusplus import GradCAMPlusPlus as GradCAMPlusPlus
from camkit.integrations.pytorch_grad_cam.guided_backprop import GuidedBackpropReLUModel as GuidedBackpropReLUModel
from camkit.integrations.pytorch_grad_cam.hirescam import HiResCAM as HiResCAM
from camkit.integrations.pytorch_grad_cam.installing import install as install
from camkit.integrations.pytorch_grad_cam.kpca_cam import KPCA_CAM as KPCA_CAM
from camkit.integrations.pytorch_grad_cam.layer_cam import LayerCAM as LayerCAM
from camkit.integrations.pytorch_grad_cam.random_cam import RandomCAM as RandomCAM
from camkit.integrations.pytorch_grad_cam.refine_cam import RefineCAM as RefineCAM
from camkit.integrations.pytorch_grad_cam.score_cam import ScoreCAM as ScoreCAM
from camkit.integrations.pytorch_grad_cam.seg_eigen_cam import SegEigenCAM as SegEigenCAM
from camkit.integrations.pytorch_grad_cam.sess import SESS as SESS
from camkit.integrations.pytorch_grad_cam.shapley_cam import ShapleyCAM as ShapleyCAM
from camkit.integrations.pytorch_grad_cam.xgrad_cam import XGradCAM as XGradCAM
