"""Small faults in a module: found in its syntax tree and applied to its text, so that comments and layout stay."""

from __future__ import annotations

import ast
import collections
import random
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COMPARISONS = {
    ast.Lt: ["<=", ">="],
    ast.LtE: ["<", ">"],
    ast.Gt: [">=", "<="],
    ast.GtE: [">", "<"],
    ast.Eq: ["!="],
    ast.NotEq: ["=="],
    ast.Is: ["is not"],
    ast.IsNot: ["is"],
    ast.In: ["not in"],
    ast.NotIn: ["in"],
}
OPERATORS = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
FUNCTIONS = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "sum": "max",
    "floor": "ceil",
    "ceil": "floor",
    "bisect_right": "bisect_left",
    "bisect_left": "bisect_right",
    "amax": "amin",
    "isfinite": "isnan",
    "is_file": "is_dir",
    "is_dir": "is_file",
    "startswith": "endswith",
    "endswith": "startswith",
    "zeros": "ones",
    "ones": "zeros",
    "removeprefix": "removesuffix",
    "discard": "add",
}
TYPE_NAMES = {"None", "list", "tuple", "dict", "int", "float", "str", "bool"}
GENERIC_TYPES = {"Annotated", "Literal", "Callable", "Mapping", "TypeVar", "Sequence", "dict", "list", "tuple"}


@dataclass(frozen=True)
class Mutant:
    """A replacement of the bytes from ``start`` to ``end`` of a module."""

    kind: str
    start: int
    end: int
    line: int
    old: str
    new: str

    def apply(self, source: bytes) -> bytes:
        """Return the source with the replacement."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.kind}: {self.old!r} → {self.new!r}"


def find_mutants(path: Path) -> list[Mutant]:
    """Return all mutants of a module that compile."""
    source = path.read_bytes()
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return [mutant for mutant in dict.fromkeys(finder.found) if _compiles(mutant.apply(source))]


def sample(mutants: Sequence[Mutant], count: int, seed: str) -> list[int]:
    """Return the indices of up to ``count`` mutants, spread over lines and kinds as evenly as possible."""
    remaining = list(range(len(mutants)))
    random.Random(seed).shuffle(remaining)
    used: collections.Counter[object] = collections.Counter()
    chosen: list[int] = []
    while remaining and len(chosen) < count:
        best = min(remaining, key=lambda n: (used[mutants[n].line], used[mutants[n].kind]))
        remaining.remove(best)
        used.update((mutants[best].line, mutants[best].kind))
        chosen.append(best)
    return sorted(chosen)


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


class _Finder(ast.NodeVisitor):
    """Collect the mutants of a module; annotations and docstrings are left out, because they are not executed."""

    def __init__(self, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._source = source
        self._line_starts = [0]
        for line in source.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))

    def visit_Module(self, node: ast.Module) -> None:
        self._visit_body(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_body(node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        self._visit_body(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if self._text(node.test) == "TYPE_CHECKING":
            return
        if not isinstance(node.test, ast.Compare) or len(node.test.ops) > 1:
            self._replace("negated if", node.test, f"not ({self._text(node.test)})")
        self._replace("if True", node.test, "True")
        self._replace("if False", node.test, "False")
        self.visit(node.test)
        self._visit_body(node.body)
        self._visit_body(node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        test, body, orelse = map(self._text, (node.test, node.body, node.orelse))
        self._replace("swapped if-else", node, f"({orelse} if {test} else {body})")
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._replace("while False", node.test, "False")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace("removed raise", node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._replace("return None", node, "return None")
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._replace("removed call", node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._text(node.targets[0]) in {"__slots__", "__all__"}:
            return
        if isinstance(node.targets[0], ast.Attribute | ast.Subscript):
            self._replace("removed assignment", node, "pass")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace("removed update", node, "pass")
        if type(node.op) in OPERATORS:
            new = f"{self._text(node.target)} {OPERATORS[type(node.op)]}= {self._text(node.value)}"
            self._replace("update operator", node, new)
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._replace("removed del", node, "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace("continue", node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace("break", node, "continue")

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if not isinstance(node.body[0], ast.Raise):
            self._replace("except raises", node.body[0], "raise")
        self._visit_body(node.body)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = pairwise([node.left, *node.comparators])
        for op, (left, right) in zip(node.ops, operands, strict=True):
            for new in COMPARISONS[type(op)]:
                self._replace_between("comparison", left, right, new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in pairwise(node.values):
            self._replace_between("and/or", left, right, "or" if isinstance(node.op, ast.And) else "and")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if self._is_union_of_types(node):
            return
        is_text = isinstance(node.left, ast.JoinedStr) or isinstance(getattr(node.left, "value", None), str)
        if not is_text and type(node.op) in OPERATORS:
            self._replace_between("arithmetic", node.left, node.right, OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self._replace("removed not or minus", node, f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in GENERIC_TYPES:
            return
        if isinstance(node.slice, ast.Slice):
            for bound in (node.slice.lower, node.slice.upper):
                if bound is not None and not isinstance(bound, ast.Constant | ast.UnaryOp):
                    self._replace("slice bound", bound, f"({self._text(bound)}) + 1")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            self._replace("other function", node.func, FUNCTIONS[node.func.id])
        elif isinstance(node.func, ast.Attribute) and node.func.attr in FUNCTIONS:
            new = f"{self._text(node.func.value)}.{FUNCTIONS[node.func.attr]}"
            self._replace("other function", node.func, new)
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace("constant", node, str(not value))
        elif isinstance(value, int):
            self._replace("constant", node, str(value + 1))
            if value > 1:
                self._replace("constant", node, str(value - 1))
        elif isinstance(value, float):
            self._replace("constant", node, repr(value * 2 or 1.0))

    def _visit_body(self, nodes: Sequence[ast.stmt]) -> None:
        for node in nodes:
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                self.visit(node)

    def _is_union_of_types(self, node: ast.BinOp) -> bool:
        if not isinstance(node.op, ast.BitOr) or not isinstance(node.right, ast.Name | ast.Constant | ast.Subscript):
            return False
        text = self._text(node.right)
        return text[0].isupper() or text in TYPE_NAMES

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self._line_starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, self._line_starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()

    def _replace(self, kind: str, node: ast.AST, new: str) -> None:
        start, end = self._span(node)
        old = self._text(node)
        if old != new:
            self.found.append(Mutant(kind, start, end, node.lineno, old, new))  # type: ignore[attr-defined]

    def _replace_between(self, kind: str, left: ast.expr, right: ast.expr, new: str) -> None:
        """Replace the operator between two operands, unless a line break or a comment is there too."""
        start, end = self._span(left)[1], self._span(right)[0]
        gap = self._source[start:end].decode()
        operator = gap.strip().strip("()").strip()
        if not operator or "#" in gap or "\n" in operator:
            return
        start += len(gap[: gap.index(operator)].encode())
        line = left.end_lineno or left.lineno
        self.found.append(Mutant(kind, start, start + len(operator.encode()), line, operator, new))
