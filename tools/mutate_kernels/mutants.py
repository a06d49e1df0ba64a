"""All changes of all statements, each under a name that stays when another statement is edited."""

import functools
from collections import Counter
from typing import NamedTuple

from mutate_kernels.kernels import AFFECTED, sources
from mutate_kernels.operators import OPERATORS, Change
from mutate_kernels.statements import Statement, repeated, statements


class Key(NamedTuple):
    """A mutant's name; the change is shown in the expression around it, the second such in a statement with ``#2``."""

    source: str
    function: str
    statement: str
    change: str


class Mutant(NamedTuple):
    """A changed statement."""

    key: Key
    statement: Statement
    operator: str
    change: Change

    @property
    def affected(self) -> tuple[str, ...]:
        """The kernels to run."""
        source, function = self.statement.source, self.statement.function
        return AFFECTED[function if source == "kernels.h" else source]

    @property
    def text(self) -> str:
        """The source with the change."""
        return _changed(self.statement.source, self.change)

    @property
    def marked(self) -> str:
        """The whole statement, with the change as ``[old -> new]``."""
        whole = _marked(self.statement, self.change, self.statement.begin, self.statement.end)
        return whole + self.statement.nth


@functools.cache
def mutants() -> tuple[Mutant, ...]:
    """All changes of all statements, each text once."""
    found: dict[tuple[str, str], Mutant | None] = dict.fromkeys(sources().items())  # what changes nothing is none
    for statement in statements():
        source, function, seen = statement.source, statement.function, Counter()
        for operator in OPERATORS:
            for change in operator(statement):
                if (text := (source, _changed(source, change))) not in found:
                    shown = _shown(statement, change)
                    key = Key(source, function, statement.name, shown + repeated(seen, shown))
                    found[text] = Mutant(key, statement, operator.__name__, change)
    return tuple(filter(None, found.values()))


def _changed(source: str, change: Change) -> str:
    text = sources()[source]
    return text[: change.begin] + change.text + text[change.end :]


def _shown(statement: Statement, change: Change) -> str:
    """The change within the smallest expression around it."""
    begin, end = statement.begin, statement.end
    for node in statement.nodes:  # the inner ones come later
        is_around = node.start_byte <= change.begin and change.end <= node.end_byte
        is_larger = node.end_byte - node.start_byte > change.end - change.begin
        if node.is_named and is_around and is_larger and not node.type.endswith("_list"):
            begin, end = node.start_byte, node.end_byte
    return _marked(statement, change, begin, end)


def _marked(statement: Statement, change: Change, begin: int, end: int) -> str:
    text = sources()[statement.source]
    marked = f"{text[begin : change.begin]}[{text[change.begin : change.end]} -> {change.text}]{text[change.end : end]}"
    return " ".join(marked.split())
