"""``camkit vis-cam`` on MMPretrain's networks: the pictures of MMPretrain's own tool, configs and checkpoints."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from camkit.cli.demo import METHODS as SIX
from camkit.visualize.save import load_raw, save_picture
from tests.cli.running import Run, pixels, refused
from tests.models.installed import installed

if TYPE_CHECKING:
    from camkit.visualize.picture import Picture

pytestmark = [pytest.mark.frameworks, pytest.mark.slow]

MOBILENET = "mobilenet-v3-large_8xb128_in1k"


@pytest.fixture(scope="module")
def zoo() -> Any:
    """The networks of the comparisons."""
    installed("mmpretrain")
    pytest.importorskip("skimage")
    from tests.helpers import zoo

    return zoo


@pytest.fixture(scope="module")
def folder(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph, and what the tests write."""
    folder = tmp_path_factory.mktemp("cli")
    save_picture(folder / "cat.png", zoo.photographs()[0])
    return folder


@pytest.fixture(scope="module")
def checkpoint(zoo: Any, folder: Path) -> Callable[[str], str]:
    """Network name to a checkpoint file of its seeded weights, as OpenMMLab writes them."""

    def write(name: str) -> str:
        path = folder / f"{name}.pth"
        if not path.exists():
            torch.save({"meta": {"epoch": 1}, "state_dict": zoo.network(name).state_dict()}, path)
        return str(path)

    return write


@pytest.fixture
def mobilenet(camkit: Any, folder: Path, checkpoint: Any) -> Any:
    """Explain the photograph with MobileNetV3."""

    def call(*flags: object, **positional: object) -> Run:
        given = {"img": folder / "cat.png", "config": MOBILENET, "checkpoint": checkpoint("mobilenet_v3")} | positional
        run: Run = camkit("vis-cam", *given.values(), *flags)
        return run

    return call


def original_tool(
    zoo: Any, name: str, image: Path, method: str, layers: Sequence[str], category: int, *, eigen: bool, aug: bool
) -> Picture:
    """The picture that MMPretrain's tool makes: its own pipeline, the reference's map, its formula."""
    from mmcv.transforms import Compose
    from mmengine.dataset import default_collate
    from mmengine.registry import DefaultScope
    from mmpretrain.apis.model import ModelHub
    from mmpretrain.registry import TRANSFORMS

    from tests.parity.reference import cloning, energy_sign, reference_maps

    config = ModelHub.get(zoo.ZOO[name].config).config
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        pipeline = Compose([TRANSFORMS.build(step) for step in config.test_dataloader.dataset.pipeline])
    data = pipeline({"img_path": str(image)})
    source = data["inputs"].numpy().transpose(1, 2, 0)
    model: Any = zoo.network(name)
    inputs = model.data_preprocessor(default_collate([data]), False)["inputs"]
    with energy_sign():
        heat = reference_maps(
            model,
            inputs,
            method,
            layers,
            [category],
            layout=cloning(zoo.ZOO[name].extra_tokens),
            eigen_smooth=eigen,
            aug_smooth=aug,
        )[0]
    colours = np.float32(cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_JET)) / 255
    mixed = 0.5 * colours + 0.5 * np.float32(source) / 255
    return np.asarray(np.uint8(255 * (mixed / mixed.max())))[:, :, ::-1]


EXAMPLES = {
    **{f"resnet50 {method}": ("resnet50", ["--method", method]) for method in SIX},
    "resnet50 category 238": ("resnet50", ["--target-layers", "backbone.layer4.2", "--target-category", "238"]),
    "resnet50 category 281": ("resnet50", ["--target-layers", "backbone.layer4.2", "--target-category", "281"]),
    "mobilenet": ("mobilenet_v3", ["--target-layers", "backbone.layer16", "--method", "LayerCAM"]),
    "mobilenet smooth": (
        "mobilenet_v3",
        ["--target-layers", "backbone.layer16", "--method", "layercam", "--eigen-smooth", "--aug-smooth"],
    ),
    "mobilenet smooth, other spelling": (
        "mobilenet_v3",
        ["--target-layers", "backbone.layer16", "--method", "LAYERCAM", "--eigen_smooth", "--aug_smooth"],
    ),
    "swin": ("swin_t", ["--vit-like"]),
    "vit": ("vit_b_384", ["--vit-like", "--target-layers", "backbone.layers.11.ln1"]),
    "t2t": ("t2t_vit_14", ["--vit-like", "--target-layers", "backbone.encoder.12.ln1"]),
}


@pytest.mark.peers
@pytest.mark.parametrize("example", EXAMPLES)
def test_documented_examples(example: str, zoo: Any, folder: Path, checkpoint: Any, camkit: Any) -> None:
    name, flags = EXAMPLES[example]
    saved = folder / f"{example.replace(' ', '_').replace(',', '')}.png"
    words = ("vis-cam", folder / "cat.png", zoo.ZOO[name].config, checkpoint(name), "--save-path", saved)
    run = camkit(*words, *flags)
    assert run.code == 0, run.err
    assert run.wrote == [saved]
    named = "--target-layers" in flags
    layers = [flags[flags.index("--target-layers") + 1] if named else zoo.ZOO[name].default_layer]
    assert f"target layer: {layers[0]} (" in run.out
    # The original decides anew for every augmented view what the top class is; camkit once, on the image as it is.
    predicted = re.search(r"predicted: (\d+)", run.out)
    assert predicted is not None
    category = int(flags[-1]) if "--target-category" in flags else int(predicted[1])
    method = next((m for m in SIX if m.lower() in [flag.lower() for flag in flags]), "GradCAM")
    smooth = "smooth" in example
    expected = original_tool(zoo, name, folder / "cat.png", method, layers, category, eigen=smooth, aug=smooth)
    made = pixels(saved)
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).mean() < 1
    # The comparison means something: the picture isn't the photograph alone.
    assert made.astype(int).std(axis=2).mean() > 20


def test_class_names_and_provenance(mobilenet: Any, checkpoint: Any, tmp_path: Path) -> None:
    from hashlib import sha256

    run = mobilenet("--target-category", "Tabby", 238, "--save-raw", tmp_path / "raw.npz", "--original-size")
    assert run.code == 0, run.err
    assert re.search(r"^explained: 281 tabby.* \(0\.\d\d\), 238 .* \(0\.\d\d\)$", run.out, re.MULTILINE)
    _, story = load_raw(tmp_path / "raw.npz")
    digest = sha256(Path(checkpoint("mobilenet_v3")).read_bytes()).hexdigest()
    assert story["checkpoint"] == {"source": checkpoint("mobilenet_v3"), "sha256": digest}
    assert story["categories"] == [281, 238]
    assert story["names"][0].startswith("tabby")
    assert {"camkit", "mmpretrain", "mmengine", "numpy", "python"} <= set(story["versions"])


def test_original_size(zoo: Any, mobilenet: Any, tmp_path: Path) -> None:
    mobilenet("--save-path", tmp_path / "whole.png", "--original-size")
    mobilenet("--save-path", tmp_path / "seen.png")
    whole, seen, photo = pixels(tmp_path / "whole.png"), pixels(tmp_path / "seen.png"), zoo.photographs()[0]
    assert whole.shape == photo.shape == (300, 451, 3)
    # Short side 300 became 256, the middle 224 of 384 x 256 were seen.
    scale = 300 / 256
    left, top, side = round((384 - 224) / 2 * scale), round((256 - 224) / 2 * scale), round(224 * scale)
    crop = cv2.resize(whole[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
    assert np.abs(crop.astype(int) - seen).mean() < 4


def test_cfg_options(mobilenet: Any, tmp_path: Path) -> None:
    crop = "test_dataloader.dataset.pipeline.2.crop_size=192"
    run = mobilenet("--save-path", tmp_path / "small.png", "--cfg-options", crop)
    assert run.code == 0, run.err
    assert pixels(tmp_path / "small.png").shape == (192, 192, 3)


def test_mistakes_take_one_line(mobilenet: Any, tmp_path: Path) -> None:
    saved = ("--save-path", tmp_path / "out.png")
    torch.save({"state_dict": {"other.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    torch.save({"state_dict": {"w": torch.zeros(3)}, "hook": nn.ReLU()}, tmp_path / "pickled.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "empty.py").touch()
    before = sorted(tmp_path.iterdir())
    wanted = "no model 'resnet51_8xb32_in1k'; closest: resnet"
    refused(mobilenet(*saved, config="resnet51_8xb32_in1k"), 2, wanted)
    refused(mobilenet(*saved, config="configs/resnet50.py"), 2, r"no config file configs/resnet50\.py.*closest.*resnet")
    refused(mobilenet(*saved, config=tmp_path / "empty.py"), 2, ".*has no model")
    refused(mobilenet(*saved, "--cfg-options", "oops"), 2, "--cfg-options takes KEY=VALUE, got 'oops'")
    refused(mobilenet(*saved, checkpoint="/nowhere.pth"), 1, r".*/nowhere\.pth")
    refused(mobilenet(*saved, checkpoint=tmp_path / "text.pth"), 1, r".*text\.pth")
    refused(mobilenet(*saved, checkpoint=tmp_path / "other.pth"), 1, r".*none of .*other\.weight")
    refused(mobilenet(*saved, checkpoint=tmp_path / "pickled.pth"), 1, ".*--trust-checkpoint")
    refused(mobilenet(*saved, "--device", "cuda:7"), 1, "no device 'cuda:7' on this machine; available: cpu")
    refused(mobilenet(*saved, "--device", "toaster"), 1, "no device 'toaster'")
    refused(mobilenet(*saved, "--target-layers", "data_preprocessor"), 1, "layer 'data_preprocessor' doesn't run")
    refused(mobilenet(*saved, "--target-category", "tabbi"), 2, "no class 'tabbi' .*; closest: tabby")
    assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_that_fits_in_part(zoo: Any, mobilenet: Any, tmp_path: Path) -> None:
    state_dict = dict(zoo.network("mobilenet_v3").state_dict())
    state_dict["head.layers.1.fc.weight"] = torch.zeros(10, 1280)
    del state_dict["backbone.layer0.conv.weight"]
    torch.save({"state_dict": state_dict}, tmp_path / "part.pth")
    run = mobilenet("--save-path", tmp_path / "out.png", checkpoint=tmp_path / "part.pth")
    refused(
        run, 1, r"doesn't hold what the scores .*backbone\.layer0\.conv\.weight .*; --allow-partial leaves the rest"
    )
    run = mobilenet("--allow-partial", "--save-path", tmp_path / "out.png", checkpoint=tmp_path / "part.pth")
    assert run.code == 0
    assert re.match(r"camkit: warning: .*1 .*missing.*backbone\.layer0\.conv\.weight.*--seed 0", run.err), run.err
    assert len(run.err.splitlines()) == 1


def test_console_is_quiet_in_a_process_of_its_own(folder: Path, checkpoint: Any, tmp_path: Path) -> None:
    """No import warning and no log line of another package; camkit's own lines are these."""
    command = [sys.executable, "-m", "camkit", "vis-cam", str(folder / "cat.png"), MOBILENET]
    command += [checkpoint("mobilenet_v3"), "--save-path", str(tmp_path / "out.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["target layer", "predicted", "wrote"]
    assert all("torchvision's compiled operators" in line for line in done.stderr.splitlines()), done.stderr
