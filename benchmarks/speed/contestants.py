"""Who takes part. A function per package turns a question into a call, or says why it can't be asked.

Everybody is asked as its documentation shows, and returns what it returns: camkit and grad-cam finished maps of the
image's size, torchcam and Captum maps of the layer's. Objects are made once and hooks put in before the clock starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import camkit
from benchmarks.speed.cells import METHODS, Cell, Task
from benchmarks.speed.networks import NETWORKS, Layout, build, images
from camkit.compat import plain_attention

PLAIN, IDEAL, PASSES = "plain forward", "ideal", "its passes"
NOISY = 4
"""How many noisy images everybody's SmoothGradCAM++ takes by default."""
Call = Callable[[], Any]


class RefusedError(Exception):
    """A package can't be asked this; the message says why."""


@dataclass(frozen=True)
class Question:
    """What is asked: a method, all six, or a smoothed one.

    Attributes:
        channels: how many of the layer's channels are perturbed; None for all.
        chunk: how many changed images go through the network at a time; None for the package's own choice.
    """

    label: str
    method: str = "GradCAM"
    eigen_smooth: bool = False
    aug_smooth: bool = False
    all_six: bool = False
    channels: int | None = None
    chunk: int | None = None


@dataclass(frozen=True)
class Subject:
    """What is explained.

    Attributes:
        model: in eval mode.
        images: (B, 3, H, W).
        layers: dotted names of the target layers.
        categories: per image, its likeliest classes, as many as are asked for.
        layout: for peers that must be told what tokens mean.
        width: how many channels the (first) target layer has; 0 where there is none.
    """

    model: nn.Module
    images: Tensor
    layers: tuple[str, ...]
    categories: list[list[int]]
    layout: Layout | None
    width: int = 0

    @property
    def modules(self) -> list[nn.Module]:
        """The target layers."""
        return [self.model.get_submodule(name) for name in self.layers]

    def column(self, index: int) -> list[int]:
        """One category per image."""
        return [row[index] for row in self.categories]

    @property
    def columns(self) -> list[list[int]]:
        """All of them, for who explains one category per image at a time."""
        return [self.column(index) for index in range(len(self.categories[0]))]


@dataclass(frozen=True)
class Contestant:
    """Somebody's answer to a question, ready to be called; ``why_not`` where there is none.

    Attributes:
        who: the package, the plain forward or the ideal.
        what: the question's label.
        call: what is timed.
        around: what must be in place meanwhile, and is not timed.
        why_not: why it doesn't take part.
        warm: what runs before the first round in its place, where one call takes minutes.
    """

    who: str
    what: str
    call: Call
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    why_not: str = ""
    warm: Contestant | None = None


def subject(cell: Cell, device: str) -> Subject:
    """The network and images of a cell."""
    model = build(cell.network, device)
    batch = images(cell.network, cell.batch, device, cell.side)
    layout = NETWORKS[cell.network].source.layout
    widths: list[int] = []

    def look(_: nn.Module, __: Any, output: Tensor) -> None:
        widths.append((layout(output) if layout else output).shape[1])

    watched = [model.get_submodule(name).register_forward_hook(look) for name in cell.layers[:1]]
    with torch.inference_mode():
        likeliest = model(batch).topk(cell.categories).indices.tolist()
    for handle in watched:
        handle.remove()
    return Subject(model, batch, cell.layers, likeliest, layout, sum(widths))


def field(cell: Cell, of: Subject) -> list[Contestant]:
    """All contestants of a cell; the plain forward comes first."""
    contestants = [plain(of)]
    if len(of.layers) == 1 and cell.task in ("methods", "GradCAM"):
        contestants.append(Contestant(IDEAL, "", partial(ideal, of), partial(frozen, of.model)))
    if cell.task in CHANGED_IMAGES:
        (question,) = questions(cell)
        contestants.append(CHANGED_IMAGES[cell.task](question, of))
    for question in questions(cell):
        contestants.append(contestant("camkit", question, of))
        if cell.task != "methods" or question.method in cell.peer_methods:
            contestants += [contestant(peer, question, of) for peer in cell.peers]
    return contestants


def questions(cell: Cell) -> list[Question]:
    """What a cell asks."""
    match cell.task:
        case "methods":
            return [Question(method, method) for method in METHODS]
        case "GradCAM":
            return [Question("GradCAM")]
        case "eigen-smooth":  # beside what it smooths, so that the difference is one run's
            return [Question("GradCAM"), Question("GradCAM, eigen-smooth", eigen_smooth=True)]
        case "aug-smooth":
            return [Question("GradCAM, aug-smooth", aug_smooth=True)]
        case "categories":
            plural = "categories" if cell.categories > 1 else "category"
            return [Question(f"GradCAM, {cell.categories} {plural}")]
        case "layers":
            return [Question(f"GradCAM, {len(cell.layers)} layers")]
        case "all six":
            return [Question("all six methods", all_six=True)]
        case method:
            return [Question(method, method, channels=cell.channels, chunk=cell.chunk)]


def plain(of: Subject) -> Contestant:
    """The plain forward."""
    return Contestant(PLAIN, "", partial(plain_forward, of))


def contestant(who: str, question: Question, of: Subject) -> Contestant:
    """A package and what it is asked."""
    try:
        call, around = PACKAGES[who](question, of)
    except RefusedError as refusal:
        return Contestant(who, question.label, nothing, why_not=str(refusal))
    except ImportError as error:
        return Contestant(who, question.label, nothing, why_not=f"isn't installed here ({error.name})")
    warm = None
    if question.method in BY_CHANNEL and question.chunk and (question.channels or of.width) > question.chunk:
        warm = contestant(who, replace(question, channels=question.chunk), of)
    return Contestant(who, question.label, call, around, warm=warm)


def nothing() -> None:
    """The call of who doesn't take part."""


def plain_forward(of: Subject) -> Tensor:
    """What every other time is held against."""
    with torch.inference_mode():
        logits: Tensor = of.model(of.images)
    return logits


def ideal(of: Subject) -> tuple[Tensor, ...]:
    """The least that any gradient method does: one forward, and the backward from the score to the layer.

    With the parameters frozen (see :func:`frozen`) nothing before the layer is recorded, and no weight has a gradient.
    """
    roots: list[Tensor] = []

    def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        roots.append(output.detach().requires_grad_())
        return roots[0]

    handle = of.modules[0].register_forward_hook(cut)
    try:
        logits = of.model(of.images)
    finally:
        handle.remove()
    score = logits.gather(1, torch.tensor(of.categories, device=logits.device)).sum()
    return torch.autograd.grad(score, roots)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Parameters that take no gradient."""
    model.requires_grad_(False)
    try:
        yield
    finally:
        model.requires_grad_()


def masked_passes(question: Question, of: Subject) -> Contestant:
    """The forwards that ScoreCAM consists of: one of the images, and one of each image for every channel, in chunks."""
    count = question.channels or of.width
    size = question.chunk or count
    shown = of.images[:1].repeat(size, 1, 1, 1)

    def call() -> None:
        with torch.inference_mode():
            of.model(of.images)
            for _ in of.images:
                for start in range(0, count, size):
                    of.model(shown[: count - start])

    return Contestant(PASSES, "", call)


def noisy_passes(question: Question, of: Subject) -> Contestant:
    """What SmoothGradCAM++ consists of: a forward of the images, and the ideal of the noisy ones."""
    noisy = replace(of, images=of.images.repeat(NOISY, 1, 1, 1), categories=of.categories * NOISY)

    def call() -> Any:
        plain_forward(of)
        return [ideal(part) for part in parts]

    size = question.chunk or len(noisy.images)
    parts = [
        replace(noisy, images=noisy.images[start : start + size], categories=noisy.categories[start : start + size])
        for start in range(0, len(noisy.images), size)
    ]
    return Contestant(PASSES, "", call, partial(frozen, of.model))


CHANGED_IMAGES: dict[str, Callable[[Question, Subject], Contestant]] = {
    "ScoreCAM": masked_passes,
    "SmoothGradCAM++": noisy_passes,
}
"""Methods that consist of forwards of changed images, and these."""
BY_CHANNEL: tuple[Task, ...] = ("ScoreCAM", "AblationCAM")

Answer = tuple[Call, Callable[[], AbstractContextManager[Any]]]


def ask_camkit(question: Question, of: Subject) -> Answer:
    """A CAM, wrapped where it is to be smoothed; ``camkit.explain`` for several methods."""
    targets: Any = of.column(0) if len(of.categories[0]) == 1 else of.categories
    if question.all_six:
        return partial(camkit.explain, of.model, of.images, METHODS, targets, of.layers), nullcontext
    options: dict[str, Any] = {"top_k": question.channels} if question.channels else {}
    cam = camkit.CAM(of.model, question.method, of.layers or None, batch_size=question.chunk, **options)
    cam = camkit.EigenSmooth(cam) if question.eigen_smooth else cam
    cam = camkit.AugSmooth(cam) if question.aug_smooth else cam
    return partial(cam, of.images, targets), nullcontext


def ask_grad_cam(question: Question, of: Subject) -> Answer:
    """One category per image and one method at a time: the others are further calls."""
    import pytorch_grad_cam
    from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget

    methods = METHODS if question.all_six else (question.method,)
    # FullGrad takes the convolutions and norms of images, whatever is behind them.
    layout = None if question.method == "FullGrad" else first_channels(question.channels, of.layout)
    cams = [
        getattr(pytorch_grad_cam, camkit.METHODS[method].identifier)(
            model=of.model, target_layers=of.modules, reshape_transform=layout
        )
        for method in methods
    ]
    for cam in cams:
        cam.activations_and_grads.release()  # its hooks stay in as long as it lives, in everybody else's way
        if question.chunk and question.method != "ScoreCAM":  # there everybody takes as many as by default
            cam.batch_size = question.chunk
        if question.method == "AblationCAM" and of.layout:
            cam.ablation_layer = pytorch_grad_cam.ablation_layer.AblationLayerVit()
    target = ClassifierOutputReST if question.method == "ShapleyCAM" else ClassifierOutputTarget  # as its author has it
    targets = [[target(category) for category in column] for column in of.columns]
    smoothing = {"eigen_smooth": question.eigen_smooth, "aug_smooth": question.aug_smooth}

    @contextmanager
    def hooked(cam: Any) -> Iterator[None]:
        cam.activations_and_grads = ActivationsAndGradients(
            of.model, cam.target_layers, cam.reshape_transform, cam.detach
        )
        try:
            yield
        finally:
            cam.activations_and_grads.activations, cam.activations_and_grads.gradients = [], []  # it fails at views
            cam.activations_and_grads.release()

    def call() -> list[Any]:
        if len(cams) == 1:
            return [cams[0](of.images, column, **smoothing) for column in targets]
        found = []
        for cam in cams:
            with hooked(cam):  # all at once they would hook for each other
                found += [cam(of.images, column, **smoothing) for column in targets]
        return found

    @contextmanager
    def around() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(patch("tqdm.tqdm", lambda steps: steps))  # no bars
            if question.method == "ShapleyCAM":  # the fused kernels of attention have no second derivative
                stack.enter_context(plain_attention())
            if len(cams) == 1:
                stack.enter_context(hooked(cams[0]))
            try:
                yield
            finally:
                for cam in cams:
                    cam.outputs = cam.activations = None  # and with it the graph, which it keeps until the next call
                of.model.zero_grad(set_to_none=True)

    return call, around


def ask_torchcam(question: Question, of: Subject) -> Answer:
    """One forward, then a backward, or what else a method does, per category."""
    import torchcam.methods

    names = {
        "GradCAM": "GradCAM",
        "GradCAM++": "GradCAMpp",
        "XGradCAM": "XGradCAM",
        "LayerCAM": "LayerCAM",
        "ScoreCAM": "ScoreCAM",
        "SmoothGradCAM++": "SmoothGradCAMpp",
    }
    if question.all_six or question.method not in names:
        raise RefusedError("has no EigenCAM, no EigenGradCAM")
    if question.eigen_smooth or question.aug_smooth:
        raise RefusedError("has no such smoothing")
    is_scored = question.method == "ScoreCAM"
    build = partial(
        getattr(torchcam.methods, names[question.method]),
        reshape_transform=first_channels(question.channels, of.layout),
    )
    current: list[Any] = []

    def call() -> list[Tensor]:
        (extractor,) = current
        if is_scored:
            with torch.inference_mode():
                of.model(of.images)
            return [extractor.fuse_cams(extractor(column)) for column in of.columns]
        scores = of.model(of.images)
        columns = of.columns
        return [
            extractor.fuse_cams(extractor(column, scores, retain_graph=index < len(columns) - 1))
            for index, column in enumerate(columns)
        ]

    @contextmanager
    def around() -> Iterator[None]:
        with build(of.model, list(of.layers)) as extractor:
            current[:] = [extractor]
            yield
        current.clear()

    return call, around


def ask_captum(question: Question, of: Subject) -> Answer:
    """One call per layer and category."""
    from captum.attr import LayerGradCam

    if question.all_six or question.method != "GradCAM":
        raise RefusedError("has GradCAM only")
    if question.eigen_smooth or question.aug_smooth:
        raise RefusedError("has no such smoothing")
    if of.layout is not None:
        raise RefusedError("takes channels for tokens")
    explainers = [LayerGradCam(of.model, module) for module in of.modules]

    def call() -> list[Tensor]:
        return [
            explainer.attribute(of.images, target=column, relu_attributions=True)
            for explainer in explainers
            for column in of.columns
        ]

    return call, nullcontext


def first_channels(count: int | None, layout: Layout | None) -> Layout | None:
    """The layout that leaves so many channels, for peers that have no other way to perturb fewer."""
    if count is None:
        return layout

    def fewer(output: Tensor) -> Tensor:
        return (layout(output) if layout else output)[:, :count]

    return fewer


PACKAGES: dict[str, Callable[[Question, Subject], Answer]] = {
    "camkit": ask_camkit,
    "grad-cam": ask_grad_cam,
    "torchcam": ask_torchcam,
    "Captum": ask_captum,
}


def select(contestants: Sequence[Contestant], who: str, what: str) -> Contestant:
    """The one of that name."""
    return next(each for each in contestants if (each.who, each.what) == (who, what))
