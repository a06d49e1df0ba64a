"""The report in Markdown: how many mutants were caught, and how; and the survivors with their reasons."""

from collections import Counter

from mutate_kernels.digest import digest
from mutate_kernels.kernels import sources
from mutate_kernels.mutants import Mutant
from mutate_kernels.statements import statements
from mutate_kernels.survivors import JUSTIFIED, complaints

#: Columns; which of the two a wild index or an endless loop ends in is chance.
_COLUMNS = {"compile": "compile", "crash": "crash or hang", "hang": "crash or hang"}
_COLUMNS |= {"numbers": "numbers", "survived": "survived"}
_TEXT = """# Mutants of the CUDA kernels

From `python tools/mutate_kernels --output benchmarks/mutations.md`. Every statement of the text that the kernels are
made of is changed in turn; the columns say how the change was noticed. Digest of the kernels' text and of what checks
it: {digest}.

{counts}

Survivors, and why each is right:

{survivors}
"""


def markdown(chosen: tuple[Mutant, ...], found: list[str]) -> str:
    """The whole text. It has no digest where there are complaints, so that no ``--check`` trusts it."""
    of_today = "none, for there are complaints" if complaints(chosen, found) else f"`{digest()}`"
    return _TEXT.format(digest=of_today, counts=_counts(chosen, found), survivors=_survivors(chosen, found))


def _counts(chosen: tuple[Mutant, ...], found: list[str]) -> str:
    columns = tuple(dict.fromkeys(_COLUMNS.values()))
    rows = [("text", "statements", "mutants", *columns)]
    for title, included in [*((source, {source}) for source in sources()), ("all", set(sources()))]:
        outcomes = [outcome for mutant, outcome in zip(chosen, found, strict=True) if mutant.key.source in included]
        counts = Counter(_COLUMNS[outcome] for outcome in outcomes)
        split = sum(s.source in included and s.kind != "signature" for s in statements())
        rows.append((title, split, len(outcomes), *(counts[column] for column in columns)))
    return _table(rows)


def _survivors(chosen: tuple[Mutant, ...], found: list[str]) -> str:
    rows = [("text", "function", "statement, with the change", "reason")]
    for mutant, outcome in zip(chosen, found, strict=True):
        if outcome == "survived":
            reason = JUSTIFIED.get(mutant.key, "**none**")
            rows.append((*mutant.key[:2], f"`{mutant.marked}`", reason))
    return _table(rows)


def _table(rows: list[tuple]) -> str:
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
