"""The statements of the kernels' text, as tree-sitter's C++ grammar sees them."""

import functools
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import tree_sitter_cpp
from tree_sitter import Language, Node, Parser, Query, QueryCursor

from mutate_kernels.kernels import sources

_CPP = Language(tree_sitter_cpp.language())
#: By kind. A loop's three parts and a condition are statements too, and so is what stands in front of a body.
_STATEMENTS = Query(
    _CPP,
    """
    [(function_definition) (struct_specifier)] @signature
    [(declaration) (field_declaration) (type_definition)] @declaration
    [(expression_statement (_)) (continue_statement)] @expression
    (return_statement) @return
    (if_statement condition: (condition_clause value: (_) @condition))
    (else_clause "else" @else)
    (for_statement condition: (_) @condition update: (_) @step)
    (labeled_statement label: (_) @macro)
    """,
)


class Statement(NamedTuple):
    """A part of a source, from ``begin`` to ``end``, and the grammar's nodes in it.

    ``function`` may be a struct, and has `` #2`` behind it if it is the second of its name. ``nth`` is that of a
    statement, among those of the function that begin alike.
    """

    source: str
    function: str
    kind: str
    nth: str
    nodes: tuple[Node, ...]
    begin: int
    end: int

    @property
    def text(self) -> str:
        """As it stands in the source, in one line."""
        return " ".join(sources()[self.source][self.begin : self.end].split())

    @property
    def name(self) -> str:
        """Which of the function's statements it is."""
        return _beginning(self.text) + self.nth


@functools.cache
def statements() -> tuple[Statement, ...]:
    """Of all sources."""
    return tuple(statement for source in sources() for statement in _of(source))


def _of(source: str) -> Iterator[Statement]:
    root = parsed(source)
    captured = QueryCursor(_STATEMENTS).captures(root)
    found = sorted(((node, kind) for kind in captured for node in captured[kind]), key=lambda pair: pair[0].start_byte)
    functions, seen = _functions([node for node, kind in found if kind == "signature"]), Counter()
    for node, kind in found:
        function, begin, end = _around(node, functions) or source, node.start_byte, _end(node)
        nth = repeated(seen, function, _beginning(sources()[source][begin:end]))
        nodes = tuple(part for part in _tree(node) if part.end_byte <= end)
        yield Statement(source, function, kind, nth, nodes, begin, end)


def _beginning(text: str) -> str:
    return textwrap.shorten(text, 60, placeholder=" ...")


def repeated(seen: Counter, *names: str) -> str:
    """Nothing for the first of a name, `` #2`` for the second, and so on."""
    seen[names] += 1
    return f" #{seen[names]}" if seen[names] > 1 else ""


def parsed(source: str) -> Node:
    """The root of its syntax tree.

    Raises:
        ValueError: the grammar does not understand all of it.
    """
    text = sources()[source]
    root = Parser(_CPP).parse(_plain(text).encode("ascii")).root_node  # ASCII: a byte is a character
    if root.has_error:
        raise ValueError(f"tree-sitter does not understand {source}: {root}")
    return root


def _plain(text: str) -> str:
    """The text without what is no C++ before the preprocessor, every other character in its place.

    A macro in front of a statement becomes a label, and what a source leaves open is closed.
    """
    text = re.sub(r"\b(UNROLLED|EACH_LANE) ", r"\1:", text.replace("INLINE", "inline"))
    return text + ";}" * (text.count("{") - text.count("}"))


def _end(node: Node) -> int:
    """Behind a statement, without its semicolon; in front of a body."""
    body, last = node.child_by_field_name("body"), node.children[-1:]
    if body is not None:
        return body.prev_sibling.end_byte
    return last[0].start_byte if last and last[0].type == ";" else node.end_byte


def _tree(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _tree(child)


def _functions(signatures: list[Node]) -> dict[Node, str]:
    names, seen = {}, Counter()
    for node in signatures:
        name = (node.child_by_field_name("name") or declared(node)).text.decode()
        names[node] = name + repeated(seen, name)
    return names


def declared(node: Node) -> Node:
    """The name that a declarator makes, in all its pointers, brackets and initial values."""
    while (inner := node.child_by_field_name("declarator")) is not None:
        node = inner
    return node


def _around(node: Node | None, functions: dict[Node, str]) -> str | None:
    while node is not None and node not in functions:
        node = node.parent
    return functions.get(node)
