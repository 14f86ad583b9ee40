"""What was found out lately, within a bound of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Lately(Generic[Value]):
    """Values by key; those not asked for longest go first.

    Args:
        most_bytes: That all values take together, at most. A larger one isn't kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def find(self, key: Hashable) -> Value | None:
        """The value, or None."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def keep(self, key: Hashable, value: Value, nbytes: int) -> Value:
        """Remember a value of so many bytes, and return it."""
        if key in self._values:
            self.nbytes -= self._values.pop(key)[1]
        if nbytes <= self._most:
            self._values[key] = value, nbytes
            self.nbytes += nbytes
            while self.nbytes > self._most:
                _, (_, freed) = self._values.popitem(last=False)
                self.nbytes -= freed
        return value
