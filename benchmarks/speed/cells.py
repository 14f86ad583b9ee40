"""What is timed: one cell is one network, batch and question, asked of everybody who can answer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.speed.networks import NETWORKS

Task = Literal[
    "methods",
    "GradCAM",
    "eigen-smooth",
    "aug-smooth",
    "categories",
    "layers",
    "all six",
    "ScoreCAM",
    "AblationCAM",
    "SmoothGradCAM++",
    "ShapleyCAM",
    "FullGrad",
]
Depth = Literal["late", "early", "four", "first", "second", "third", "fourth", "all"]

ALL = ("grad-cam", "torchcam", "Captum")
METHODS = ("GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM")


@dataclass(frozen=True)
class Cell:
    """A network, its target layers, a batch, and what is asked for.

    Attributes:
        network: a key of :data:`benchmarks.speed.networks.NETWORKS`.
        depth: which of its layers.
        batch: how many images.
        task: what is asked for.
        peers: who takes part beside camkit.
        peer_methods: in a cell of methods, which of them the peers are asked for.
        categories: how many of each image.
        channels: how many of the layer's channels are perturbed, of whoever perturbs them; None for all.
        chunk: how many changed images go through the network at a time, for who can be told.
        side: of the images in pixels; None for the network's usual.
        rounds: everybody's at least, and at most.
        seconds: time after which no further round starts, once everybody had the least.
    """

    network: str
    depth: Depth
    batch: int
    task: Task
    peers: tuple[str, ...] = ALL
    peer_methods: tuple[str, ...] = METHODS
    categories: int = 1
    channels: int | None = None
    chunk: int | None = None
    side: int | None = None
    rounds: tuple[int, int] = (3, 15)
    seconds: float = 20.0

    @property
    def name(self) -> str:
        """What ``--only`` takes."""
        task = f"{self.categories}-categories" if self.task == "categories" else self.task.replace(" ", "-")
        fewer = f"-{self.channels}-channels" if self.channels else ""
        pixels = f"-{self.side}px" if self.side else ""
        return f"{self.network}-{self.depth}-b{self.batch}-{task}{fewer}{pixels}"

    @property
    def layers(self) -> tuple[str, ...]:
        """The target layers' names on this machine."""
        source = NETWORKS[self.network].source
        known: dict[Depth, tuple[str, ...]] = {
            "late": (source.late,),
            "early": (source.early,),
            "four": source.four,
            "all": (),  # the method looks at the whole network
        }
        if self.depth in known:
            return known[self.depth]
        return (source.four[("first", "second", "third", "fourth").index(self.depth)],)


TOKENS = ("grad-cam", "torchcam")
"""Captum's LayerGradCam averages over what stands behind the channels, which in a sequence of tokens they do."""

SCORED = (
    # Everybody takes the same few channels where all of them would take minutes; chunks are camkit's own on a CPU.
    Cell("resnet50", "late", 1, "ScoreCAM", TOKENS, channels=128, chunk=6, rounds=(3, 6), seconds=150),
    Cell("vit", "late", 1, "ScoreCAM", TOKENS, channels=32, chunk=8, rounds=(3, 6), seconds=130),
    # One call of the peer's takes two minutes.
    Cell("resnet50", "late", 1, "AblationCAM", ("grad-cam",), chunk=32, rounds=(1, 4), seconds=150),
    Cell("vit", "late", 1, "AblationCAM", ("grad-cam",), channels=64, chunk=32, rounds=(1, 4), seconds=30),
    Cell("resnet50", "late", 1, "SmoothGradCAM++", ("torchcam",), chunk=4, rounds=(5, 15), seconds=25),
    Cell("vit", "late", 1, "SmoothGradCAM++", ("torchcam",), chunk=4, rounds=(3, 10), seconds=30),
    Cell("resnet50", "late", 1, "ShapleyCAM", ("grad-cam",), rounds=(5, 15), seconds=10),
    Cell("vit", "late", 1, "ShapleyCAM", ("grad-cam",), rounds=(3, 10), seconds=15),
    Cell("resnet50", "all", 1, "FullGrad", ("grad-cam",), rounds=(3, 10), seconds=15),
    Cell("vit", "all", 1, "FullGrad", ("grad-cam",), rounds=(3, 10), seconds=20),
)
"""Methods of many passes, and of other passes than one forward and one backward behind a layer."""

FULL = (
    # The cells with targets get the most rounds.
    Cell("resnet50", "late", 1, "methods", rounds=(15, 30), seconds=70),
    Cell("resnet50", "late", 16, "methods", rounds=(5, 12), seconds=210),
    Cell("lite0", "late", 1, "GradCAM", rounds=(15, 60), seconds=15),
    Cell("resnet50", "early", 1, "GradCAM", rounds=(5, 15), seconds=12),
    Cell("resnet50", "early", 16, "GradCAM", rounds=(6, 15), seconds=120),
    Cell("resnet50", "late", 1, "eigen-smooth", ("grad-cam",), rounds=(10, 30), seconds=15),
    Cell("resnet50", "late", 16, "eigen-smooth", ("grad-cam",), rounds=(2, 15), seconds=60),
    Cell("resnet50", "late", 1, "aug-smooth", ("grad-cam",), rounds=(5, 15), seconds=22),
    Cell("resnet50", "late", 1, "all six", ("grad-cam",), rounds=(4, 30), seconds=18),
    Cell("resnet50", "late", 16, "all six", (), rounds=(5, 15), seconds=25),
    Cell("resnet50", "late", 1, "categories", categories=1, rounds=(8, 30), seconds=10),
    Cell("resnet50", "late", 1, "categories", categories=10, rounds=(3, 15), seconds=15),
    Cell("resnet50", "late", 1, "categories", ("grad-cam", "torchcam"), categories=100, rounds=(1, 20), seconds=45),
    Cell("resnet50", "four", 1, "layers", rounds=(5, 15), seconds=12),
    Cell("resnet50", "four", 16, "layers", ("grad-cam", "torchcam"), rounds=(1, 10), seconds=25),
    Cell("swin", "late", 1, "methods", TOKENS, ("GradCAM",), rounds=(5, 15), seconds=15),
    Cell("swin", "late", 4, "methods", TOKENS, ("GradCAM",), rounds=(5, 15), seconds=32),
    Cell("swin", "late", 16, "methods", ("grad-cam",), ("GradCAM",), rounds=(2, 4), seconds=30),
    Cell("vit", "late", 1, "methods", TOKENS, ("GradCAM",), rounds=(4, 15), seconds=20),
    Cell("vit", "late", 4, "methods", TOKENS, ("GradCAM",), rounds=(6, 15), seconds=230),
    Cell("vit", "late", 16, "methods", ("grad-cam",), ("GradCAM",), rounds=(1, 3), seconds=30),
    Cell("swin", "early", 1, "GradCAM", TOKENS, rounds=(3, 15), seconds=6),
    Cell("swin", "early", 16, "GradCAM", ("grad-cam",), rounds=(2, 5), seconds=10),
    Cell("vit", "early", 1, "GradCAM", TOKENS, rounds=(2, 15), seconds=8),
    Cell("vit", "early", 16, "GradCAM", ("grad-cam",), rounds=(1, 2), seconds=10),
    *(
        Cell(network, depth, batch, "GradCAM", rounds=(3 if batch == 1 else 1, 15), seconds=6 if batch == 1 else 10)
        for network in ("mobilenet", "convnext")
        for depth in ("late", "early")
        for batch in (1, 16)
    ),
    *SCORED,
)

QUICK = (
    Cell("resnet50", "late", 1, "methods", rounds=(3, 9), seconds=10),
    Cell("lite0", "late", 1, "GradCAM", rounds=(15, 40), seconds=6),
    Cell("resnet50", "early", 4, "GradCAM", rounds=(2, 5), seconds=5),
    Cell("resnet50", "late", 1, "eigen-smooth", ("grad-cam",), rounds=(3, 9), seconds=3),
    Cell("resnet50", "late", 1, "aug-smooth", ("grad-cam",), rounds=(2, 5), seconds=4),
    Cell("resnet50", "late", 1, "all six", (), rounds=(3, 9), seconds=3),
    Cell("resnet50", "late", 1, "categories", ("torchcam",), categories=100, rounds=(2, 9), seconds=4),
    Cell("resnet50", "four", 1, "layers", rounds=(2, 5), seconds=3),
    Cell("swin", "late", 1, "methods", TOKENS, ("GradCAM",), rounds=(2, 5), seconds=3),
    Cell("vit", "late", 1, "GradCAM", TOKENS, rounds=(2, 5), seconds=4),
    Cell("mobilenet", "late", 1, "GradCAM", rounds=(2, 5), seconds=2),
    Cell("convnext", "late", 1, "GradCAM", rounds=(2, 5), seconds=3),
    Cell("resnet50", "late", 1, "ScoreCAM", TOKENS, channels=32, chunk=6, rounds=(1, 2), seconds=8),
    Cell("resnet50", "late", 1, "AblationCAM", ("grad-cam",), channels=64, chunk=32, rounds=(1, 2), seconds=5),
    Cell("resnet50", "late", 1, "SmoothGradCAM++", ("torchcam",), chunk=4, rounds=(2, 5), seconds=4),
    Cell("resnet50", "late", 1, "ShapleyCAM", ("grad-cam",), rounds=(2, 5), seconds=3),
    Cell("resnet50", "all", 1, "FullGrad", ("grad-cam",), rounds=(2, 5), seconds=4),
)

SMOKE = (
    Cell("tiny", "late", 2, "methods", rounds=(2, 2)),
    Cell("tiny", "early", 2, "GradCAM", rounds=(2, 2)),
    Cell("tiny", "late", 1, "eigen-smooth", ("grad-cam",), rounds=(2, 2)),
    Cell("tiny", "late", 1, "aug-smooth", ("grad-cam",), rounds=(2, 2)),
    Cell("tiny", "late", 1, "all six", ("grad-cam",), rounds=(2, 2)),
    Cell("tiny", "late", 1, "categories", categories=3, rounds=(2, 2)),
    Cell("tiny", "four", 1, "layers", rounds=(2, 2)),
    Cell("tiny", "late", 2, "ScoreCAM", TOKENS, channels=12, chunk=8, rounds=(2, 2)),
    Cell("tiny", "late", 2, "AblationCAM", ("grad-cam",), chunk=8, rounds=(2, 2)),
    Cell("tiny", "late", 2, "SmoothGradCAM++", ("torchcam",), chunk=4, rounds=(2, 2)),
    Cell("tiny", "late", 2, "ShapleyCAM", ("grad-cam",), rounds=(2, 2)),
    Cell("tiny", "all", 2, "FullGrad", ("grad-cam",), rounds=(2, 2)),
)
