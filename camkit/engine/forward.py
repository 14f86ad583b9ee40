"""What one recorded forward left behind: outputs, scores, and the graph behind the target layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from camkit.engine.gradients import Found, backward, curvatures, grouped_backwards
from camkit.engine.listeners import Affine
from camkit.engine.network import Network
from camkit.engine.outputs import OutputPart, pick_anything, pick_output
from camkit.engine.scores import NoClass, score_targets
from camkit.engine.tensors import floats
from camkit.errors import LayerError, UsageError
from camkit.methods.needs import Objective
from camkit.typing import Chosen, Images, Output, Scores, TargetRows


@dataclass
class Heard:
    """The functions of torch that the network called, each with the names of the running modules, outermost first.

    Attributes:
        attention: probabilities (B, heads, N, N) of attention over all tokens.
        other_attention: how many attentions were within windows or to other tokens.
        affine: convolutions, linear layers and norms that have a bias.
    """

    attention: list[tuple[tuple[str, ...], Tensor]] = field(default_factory=list)
    other_attention: int = 0
    affine: list[tuple[tuple[str, ...], Affine]] = field(default_factory=list)


@dataclass(eq=False)
class Forward:
    """One forward of a borrowed model. Its gradients are to be taken while the model is borrowed.

    Attributes:
        network: what ran.
        images: what it ran on, (B, C, *size); the root of the graph where that was asked for.
        output: what it returned.
        outputs: layer to what the layer returned, in the order of execution; layers that didn't run are absent.
        counts: layer to how often it ran.
        calls: layer to the number of the call in ``outputs``, where it isn't simply the last one.
        layers: name to module, of all layers that were asked for.
        wanted: rows of targets, None for each image's top class, or that none is asked for.
        heard: functions that were recorded.
        reach: size of the largest downstream tensor over that of all of ``outputs``; bounds batched backwards.
        row_bytes: of the largest tensor that one image makes; bounds chunks of reruns.
        autocast: the caller's autocast, for further runs of the network.
    """

    network: Network
    images: Images
    output: Any
    outputs: Mapping[str, Any]
    counts: Mapping[str, int]
    calls: Mapping[str, int]
    layers: Mapping[str, nn.Module]
    wanted: TargetRows | NoClass | None
    heard: Heard
    reach: float
    row_bytes: int
    autocast: Callable[[], AbstractContextManager[Any]]

    @cached_property
    def part(self) -> OutputPart:
        """The part of the output that is explained, in the graph."""
        pick = pick_anything if isinstance(self.wanted, NoClass) else pick_output
        return pick(self.output, len(self.images), self.network.output)

    @property
    def chosen(self) -> Chosen:
        """Class indices (B, T), or the rows of targets as given where a score function is among them."""
        return self._scored[0]

    @property
    def asks_for_no_class(self) -> bool:
        """Whether the model has no classes, and none is asked for."""
        return isinstance(self.wanted, NoClass) and not isinstance(self.chosen, Tensor)

    @property
    def scores(self) -> Scores:
        """(B, T), detached."""
        return self._scored[1].detach()

    @property
    def count(self) -> int:
        """T, the number of targets of an image."""
        return self._scored[1].shape[1]

    @property
    def logits(self) -> Tensor:
        """(B, K), detached; (B, 0) where the model returns no tensor."""
        rows = self.part.rows
        return rows.detach() if isinstance(rows, Tensor) else self.scores[:, :0]

    @property
    def total(self) -> Scores:
        """The sum of all scores, (1, 1), in the graph."""
        return self._scored[1].sum().reshape(1, 1)

    @cached_property
    def _scored(self) -> tuple[Chosen, Scores]:
        return score_targets(self.part.rows, self.wanted)

    # Gradients.

    def gradients(
        self, names: Iterable[str], objective: Objective | None = None, *, keep: bool = False
    ) -> Iterator[tuple[int, Found]]:
        """Gradients in what layers returned, for successive groups of targets.

        Args:
            names: of the layers.
            objective: differentiated in place of the scores.
            keep: whether the graph is needed again afterwards.

        Raises:
            LayerError: a score doesn't depend on a layer.
            UsageError: the objective can't be applied to the targets.
        """
        yield from grouped_backwards(*self._connected(names, objective), self.reach, keep=keep)

    def curvatures(self, names: Iterable[str], objective: Objective | None = None) -> Iterator[tuple[Found, Found]]:
        """Gradients, and the Hessian times the activations, for one target after the other; errors as above."""
        yield from curvatures(*self._connected(names, objective))

    def gradients_in(self, leaves: Sequence[Any], target: int, scores: Scores | None = None) -> list[Tensor | None]:
        """Gradients of one target's scores in tensors or edges of the graph; the graph is kept.

        Args:
            leaves: tensors of the graph, or its edges.
            target: which.
            scores: (B, T), in place of the forward's own.
        """
        scores = self._scored[1] if scores is None else scores
        if not scores.requires_grad:
            return [None] * len(leaves)
        found = backward(scores, leaves, range(target, target + 1), retain=True)
        return [None if gradient is None else gradient[0] for gradient in found]

    def _connected(self, names: Iterable[str], objective: Objective | None) -> tuple[Scores, dict[str, list[Tensor]]]:
        """The scores to differentiate, and what the layers returned; a graph leads from these to those."""
        layers = {name: floats(self.outputs[name]) for name in names}
        scores = self._objective_scores(objective)
        if not scores.requires_grad:
            listed = ", ".join(map(repr, layers))
            raise LayerError(f"no gradient reaches {listed}: the layer runs after the score, or under no_grad")
        return scores, layers

    def _objective_scores(self, objective: Objective | None) -> Scores:
        if objective is None:
            return self._scored[1]
        rows = self.part.rows
        if not isinstance(self.chosen, Tensor) or not isinstance(rows, Tensor) or rows.ndim != 2:
            raise UsageError(
                f"{objective.method} compares the scores of classes: targets must be class indices of a model that "
                f"returns logits (batch, classes); {objective.instead} takes any"
            )
        return objective(rows, self.chosen)

    # Further runs of the network, as it ran here.

    @property
    def output_name(self) -> Output:
        """The part of the output that is explained, by name, so that batches of any size are read alike."""
        return self.network.output if self.network.output is not None else self.part.name or None

    def call(self, images: Images) -> Any:
        """Run the network on other images.

        Raises:
            ForwardError: it fails on them.
        """
        with self.autocast():
            return self.network.call(images)

    def rows(self, images: Images) -> Any:
        """Run the network on other images; a row of the explained part for each."""
        return pick_output(self.call(images), len(images), self.output_name).rows

    def scores_in(self, rows: Any, image: int | None) -> Scores:
        """The scores (n, T) in n rows of an output.

        Args:
            rows: from :meth:`rows`.
            image: whose targets count; None where there is a row for each image, which has its own.
        """
        chosen: Any = self.chosen if image is None else self.chosen[image : image + 1]
        if isinstance(chosen, Tensor):
            return score_targets(rows, chosen if image is None else chosen.expand(len(rows), -1))[1]
        return score_targets(rows, [list(row) for row in (chosen if image is None else chosen * len(rows))])[1]

    def comparable(self, rows: Any, image: int | None) -> Tensor:
        """The tensor that decides whether a replay equals the original: the rows, or the scores in them."""
        return rows if isinstance(rows, Tensor) else self.scores_in(rows, image)
