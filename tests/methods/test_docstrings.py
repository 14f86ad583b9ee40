"""Docstrings of methods, which are those of their classes; that examples run is tested in tests.test_examples."""

from __future__ import annotations

import inspect
import pydoc

import pytest

import camkit
from camkit.methods import METHODS, Method

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)


@each_method
def test_says_what_it_computes_and_where_it_comes_from(method: Method) -> None:
    doc = inspect.getdoc(method.function)
    assert doc is not None
    assert doc.splitlines()[0].endswith(".")
    before = doc.partition("\n\nPaper: ")[0]
    assert any(line.startswith("    ") for line in before.splitlines()), "a formula"
    assert f"\n\nPaper: {method.paper.partition(',')[0]}, " in doc
    assert f"\n\nExample:\n    >>> cam = camkit.{method.identifier}(" in doc


@each_method
def test_help_lists_its_options(method: Method) -> None:
    constructor = getattr(camkit, method.identifier)
    shown, parameters = pydoc.plain(pydoc.render_doc(constructor)), inspect.signature(constructor).parameters
    for name, default in method.options.items():
        assert parameters[name].default == default
        assert f"\n |      {name}: " in shown
    assert list(parameters)[-len(method.options) - 1 :] == [*method.options, "settings"]
    assert ("target_layers" in parameters) == method.takes_layers
    assert "Settings that every method takes: see ``camkit.CAM``." in shown
