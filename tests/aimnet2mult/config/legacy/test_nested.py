"""Access by dotted keys."""

from aimnet2mult.config.legacy import nested
from aimnet2mult.config.legacy.nested import MISSING


def test_null_is_a_value() -> None:
    tree = {"a": {"b": None}}
    assert nested.get(tree, "a.b") is None
    assert nested.has(tree, "a.b")
    assert nested.get(tree, "a.b.c") is MISSING
    assert nested.get(tree, "x", 3) == 3


def test_pop_removes_the_sections_that_it_empties() -> None:
    tree = {"a": {"b": {"c": 1}, "d": 2}, "e": {}}
    assert nested.pop(tree, "a.b.c") == 1
    assert nested.pop(tree, "a.x.c") is MISSING
    assert tree == {"a": {"d": 2}, "e": {}}


def test_put_creates_sections_and_replaces_values_in_its_way() -> None:
    tree = {"a": None}
    nested.put(tree, "a.b.c", 1)
    assert tree == {"a": {"b": {"c": 1}}}
