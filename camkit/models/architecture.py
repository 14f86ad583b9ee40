"""Tell another architecture's checkpoint from one with extras, by where its unknown tensors lie in the model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

# What frameworks and profilers keep inside blocks and the network doesn't need: computed, or counted.
_COMPUTED = re.compile(
    r"(relative_position_index|relative_coords_table|attn_mask|position_ids|inv_freq|total_ops|total_params"
    r"|num_batches_tracked|_extra_state)$"
)
# What training keeps beside the network: its losses, copies, queues and statistics.
_AUXILIARY = re.compile(
    r"(^|[._])(aux\w*|proj\w*|teacher|student|dist\w*|ema|loss\w*|criterion|momentum|queue\w*|memory|prototypes?|centers?"
    r"|target|predictor|mask\w*|\w*preprocessor|mean|std|var)(?=$|[._\d])",
    re.IGNORECASE,
)
_EMBEDDED = re.compile(r"(embed|embedding|embeddings|tokens?)$")  # what is added or put to a sequence of patches
_TOKENS = re.compile(r"(cls|class|dist|distillation|reg|register)_tokens?$")


def foreign_tensors(
    own: Iterable[str], unknown: Mapping[str, Tensor | None], modules: Collection[str] = ()
) -> dict[str, list[str]]:
    """The unknown tensors that belong to blocks of the model's, and the model's own tensors beside them.

    These are further members of its numbered families (``layer1.2.*`` where it has ``layer1.0`` and ``layer1.1``), and
    what more there is in each of its numbered blocks (``layer1.0.se.*``). So are what more its layers have
    (``fc.lora_A`` beside ``fc.weight``, ``neck.p`` where ``neck`` is a layer without parameters), and tokens and
    position embeddings (``reg_token`` beside ``cls_token``, ``backbone.absolute_pos_embed``), unless their names say
    that training alone needs them. A copy of the network, an auxiliary head, a teacher or a projection head lies beside
    these, under names of its own.

    Args:
        own: The names of the model's tensors.
        unknown: The checkpoint's tensors that the model doesn't have, by name; None where the tensor isn't at hand.
        modules: The names of the model's modules.

    Returns:
        Each such name with the names of the model's tensors in the family, block or layer; none for a layer without.
    """
    tree = _Tree(own)
    outer = {each.rpartition(".")[0] for each in modules}
    layers = {each for each in modules if each and (each not in outer or f"{each}." not in tree.places)}
    found: dict[str, list[str]] = {}
    for name, tensor in unknown.items():
        if is_computed(name) or (tensor is not None and (tensor.numel() == 0 or not tensor.is_floating_point())):
            continue
        within = name.rpartition(".")[0] in set(modules) - {""}
        if tensor is not None and tensor.numel() < 2 and not within:  # a count, or a scale of the logits
            continue
        place = tree.family_of(name)
        if place is not None:
            found[name] = [each for each in tree.names if each.startswith(place)]
            continue
        beside = _beside(name, tree.names, modules, layers)
        if beside is not None:
            found[name] = beside
    return found


def _beside(name: str, own: list[str], modules: Collection[str], layers: Collection[str]) -> list[str] | None:
    """The model's tensors in the layer that an unknown name lies in, or beside a token; None for extras."""
    ends = [at for at, letter in enumerate(name) if letter == "."]
    layer = next((name[:end] for end in ends if name[:end] in layers), None)
    if layer is not None:
        inside = [each for each in own if each.startswith(f"{layer}.")]
        looked_at = name[len(layer) + 1 :] if inside else name
        return None if _AUXILIARY.search(looked_at) else inside
    place, _, leaf = name.rpartition(".")
    if place not in modules or not _EMBEDDED.search(leaf) or (_AUXILIARY.search(leaf) and not _TOKENS.match(leaf)):
        return None
    begin = f"{place}." if place else ""
    direct = [each for each in own if each.startswith(begin) and "." not in each[len(begin) :]]
    embedded = [each for each in direct if _EMBEDDED.search(each)]
    # Beside a whole network lies what belongs to another part of it, such as CLIP's positional_embedding of texts.
    return embedded or (direct or [each for each in own if each.startswith(begin)] if place else None)


def is_computed(name: str) -> bool:
    """Whether a tensor is an index, a mask, a table or a count, which the network computes itself."""
    return _COMPUTED.search(name) is not None


class _Tree:
    """The model's names by their dotted parts."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self.places = {""}
        self.families: dict[tuple[str, str], set[str]] = {}
        for name in self.names:
            before = ""
            for part in name.split("."):
                stem, number = _numbered(part)
                if number:
                    self.families.setdefault((before, stem), set()).add(number)
                before += f"{part}."
                self.places.add(before)

    def family_of(self, name: str) -> str | None:
        """What the names of the family or block begin with that an unknown name belongs to; None for extras."""
        before, block = "", None
        for part in name.split("."):
            stem, number = _numbered(part)
            family = self.families.get((before, stem), set())
            if f"{before}{part}." in self.places:
                if number and len(family) > 1:
                    block = f"{before}{part}."
                before += f"{part}."
                continue
            if number and family:
                return f"{before}{stem}"
            return block
        return block


def _numbered(part: str) -> tuple[str, str]:
    """``("layer", "3")`` of ``layer3``; no number where there is none at the end."""
    match = re.fullmatch(r"(.*?)(\d+)", part)
    return (match[1], match[2]) if match else (part, "")
