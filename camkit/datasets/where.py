"""``--where``: a condition on rows, such as ``score < 0.5 and label != predicted``. It is read, never run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from camkit.errors import UsageError, closest

_COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_COMPUTED: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS: Mapping[type[ast.unaryop], int] = {ast.USub: -1, ast.UAdd: 1}
CLASS_COLUMNS = ("label", "predicted")
"""Columns that may be compared with a class by its name."""
FORMS = "columns compared by < <= > >= == != in, joined by and, or, not"


class Condition:
    """Reads conditions on a table's columns.

    Args:
        columns: That may be named.
        find_category: From a class' name to its index.
    """

    def __init__(self, columns: Sequence[str], find_category: Callable[[str], int]) -> None:
        self._columns = columns
        self._find_category = find_category

    def read(self, text: str) -> pc.Expression:
        """The expression of pyarrow that a text stands for.

        Raises:
            UsageError: It is no condition, or names a column that there isn't.
        """
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            found = self._truth(tree)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"can't read the condition {text!r}: it has {FORMS}") from error
        return found

    def _truth(self, node: ast.expr) -> Any:
        """A condition."""
        if isinstance(node, ast.BoolOp):
            join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            parts = [self._truth(each) for each in node.values]
            whole = parts[0]
            for part in parts[1:]:
                whole = join(whole, part)
            return whole
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self._truth(node.operand)
        if isinstance(node, ast.Compare):
            terms = [node.left, *node.comparators]
            whole = None
            for left, comparison, right in zip(terms, node.ops, terms[1:], strict=False):
                part = self._compared(left, comparison, right)
                whole = part if whole is None else whole & part
            return whole
        raise self._refused(node)

    def _compared(self, left: ast.expr, comparison: ast.cmpop, right: ast.expr) -> Any:
        """One comparison; None is what a column without a value holds."""
        if isinstance(comparison, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise self._refused(right)
            values = [self._constant(each, left) for each in right.elts]
            found = self._number(left).isin(values)
            return found if isinstance(comparison, ast.In) else ~found
        for one, other in ((left, right), (right, left)):
            if isinstance(one, ast.Constant) and one.value is None:
                if isinstance(comparison, ast.Is | ast.Eq):
                    return self._number(other).is_null()
                if isinstance(comparison, ast.IsNot | ast.NotEq):
                    return self._number(other).is_valid()
        compare = _COMPARED.get(type(comparison))
        if compare is None:
            raise self._refused(left)
        return compare(self._term(left, right), self._term(right, left))

    def _term(self, node: ast.expr, beside: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return pc.scalar(self._constant(node, beside))
        return self._number(node)

    def _constant(self, node: ast.expr, beside: ast.expr) -> Any:
        """A value; a class' name where it is compared with a class."""
        if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS and isinstance(node.operand, ast.Constant):
            value = node.operand.value
            if isinstance(value, int | float):
                return _SIGNS[type(node.op)] * value
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str | int | float):
            raise self._refused(node)
        if isinstance(node.value, str) and isinstance(beside, ast.Name) and beside.id in CLASS_COLUMNS:
            return self._find_category(node.value)
        return node.value

    def _number(self, node: ast.expr) -> Any:
        """A column, a value, or what is computed of them."""
        if isinstance(node, ast.Name):
            if node.id not in self._columns:
                raise UsageError(
                    f"there is no column {node.id!r}{closest(node.id, self._columns)}; there are "
                    f"{', '.join(self._columns)}"
                )
            return pc.field(node.id)
        if isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED:
            # In float64: integers of Arrow are divided without a rest, and wrap around.
            left, right = (self._number(each).cast(pa.float64()) for each in (node.left, node.right))
            return _COMPUTED[type(node.op)](left, right)
        if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS and not isinstance(node.operand, ast.Constant):
            return self._number(node.operand).cast(pa.float64()) * pc.scalar(float(_SIGNS[type(node.op)]))
        return pc.scalar(self._constant(node, node))

    def _refused(self, node: ast.expr) -> UsageError:
        return UsageError(f"a condition has no {ast.unparse(node)!r}: it has {FORMS}")
