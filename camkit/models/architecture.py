"""Tell another architecture's checkpoint from one with extras, by where its unknown tensors lie in the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# What frameworks and profilers keep inside blocks and the network doesn't need: computed, or counted.
_COMPUTED = re.compile(
    r"(relative_position_index|relative_coords_table|attn_mask|position_ids|inv_freq|total_ops|total_params"
    r"|num_batches_tracked|_extra_state)$"
)


def foreign_tensors(own: Iterable[str], unknown: Mapping[str, Tensor | None]) -> dict[str, list[str]]:
    """The unknown tensors that belong to blocks of the model's, and the model's own tensors beside them.

    These are further members of its numbered families (``layer1.2.*`` where it has ``layer1.0`` and ``layer1.1``), and
    what more there is in each of its numbered blocks (``layer1.0.se.*``). A copy of the network, an auxiliary head, a
    teacher or a projection head lies beside them, under names of its own.

    Args:
        own: The names of the model's tensors.
        unknown: The checkpoint's tensors that the model doesn't have, by name; None where the tensor isn't at hand.

    Returns:
        Each such name with the names of the model's tensors in the family or block.
    """
    tree = _Tree(own)
    found: dict[str, list[str]] = {}
    for name, tensor in unknown.items():
        if is_computed(name) or (tensor is not None and (tensor.numel() < 2 or not tensor.is_floating_point())):
            continue
        place = tree.family_of(name)
        if place is not None:
            found[name] = [each for each in tree.names if each.startswith(place)]
    return found


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
