"""Find a transformer's blocks: modules with one attention over all tokens each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from camkit.engine.forward import Forward
from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.engine.rerun import alone_or_whole
from camkit.errors import ForwardError, LayerError
from camkit.layers.names import LIST_LAYERS
from camkit.layers.survey import noise_like
from camkit.methods.needs import Recording
from camkit.typing import Images

INSTEAD = "use LayerCAM or GradCAM"


@dataclass(frozen=True)
class Blocks:
    """The names of a network's attention blocks, from front to back.

    Attributes:
        names: dotted.
        at_any_size: whether they are the same for images of any size: every attention is over the same tokens.
    """

    names: tuple[str, ...]
    at_any_size: bool


def attention_blocks(network: Network, images: Images) -> tuple[str, ...]:
    """The names of all blocks, from front to back.

    Where attention works at several resolutions, the blocks at the last one count. Remembered for the model; takes one
    forward of one image.

    Args:
        network: its model.
        images: prepared, to run it on.

    Raises:
        LayerError: there are none.
    """
    about = "attention blocks", network.arguments
    here = *about, tuple(images.shape[1:])
    with network.borrowed() as cache:
        found: Blocks | None = cache.find(about) or cache.find(here)
        if found is None:
            found = _find(network, images)
            cache.keep(about if found.at_any_size else here, found)
    return found.names


def blocks_within(names: Sequence[str], layers: Sequence[str], *, or_all: bool) -> list[str]:
    """Those of the blocks that are among ``layers`` or inside one of them.

    Args:
        names: of all blocks.
        layers: names of layers.
        or_all: all blocks where none is inside; otherwise that is an error.

    Raises:
        LayerError: none is inside.
    """
    chosen = [name for name in names if any(name == each or name.startswith(f"{each}.") for each in layers)]
    if not chosen and not or_all:
        raise LayerError(
            f"no attention block in {', '.join(map(repr, layers))}: leave target layers out for all blocks, "
            f"or name some: {', '.join(map(repr, names))}; {LIST_LAYERS}"
        )
    return chosen or list(names)


Attention = tuple[tuple[str, ...], Tensor]


def _of_encoder(forward: Forward) -> list[Attention]:
    """The attentions in front of a decoder, whose first one attends among learned queries, whatever the images."""
    heard = forward.heard.attention
    try:
        with (
            forward.autocast(),
            record(forward.network, noise_like(forward.images), {}, recording=Recording(attention=True)) as other,
        ):
            noise = other.heard.attention
    except ForwardError:  # the network takes no noise
        return heard
    if len(noise) != len(heard):
        return heard
    same = [one.equal(other) for (_, one), (_, other) in zip(heard, noise, strict=True)]
    # Where the first one is the same already, it may be uniform by its weights.
    return heard[: same.index(True)] if True in same and not same[0] else heard


def _find(network: Network, images: Images) -> Blocks:
    def attend(image: int | None) -> tuple[list[Attention], int]:
        shown = images if image is None else images[:1]
        with record(network, shown, {}, recording=Recording(attention=True)) as forward:
            return _of_encoder(forward), forward.heard.other_attention

    heard, others = alone_or_whole(network, attend)
    if not heard:
        what = (
            f"attends only within windows or to other tokens ({others} times)" if others else "has no attention at all"
        )
        raise LayerError(
            f"attention methods need attention over all tokens of an image, and this network {what}: {INSTEAD}"
        )
    counts = [probabilities.shape[-1] for _, probabilities in heard]
    paths = [path for (path, _), count in zip(heard, counts, strict=True) if count == counts[-1]]
    uses = Counter(name for path in paths for name in set(path))
    elements = {
        f"{name}.{child}" if name else child
        for name, module in network.model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for child, _ in module.named_children()
    }
    found = []
    for path in paths:
        alone = [name for name in path if name and uses[name] == 1]
        listed = [name for name in alone if name in elements]
        if not alone:
            raise LayerError(f"several attentions share the module {path[-1]!r}, so they make no blocks: {INSTEAD}")
        found.append((listed or alone)[0])
    return Blocks(tuple(found), at_any_size=not others and len(set(counts)) == 1)
