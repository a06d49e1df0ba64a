"""Text that others wrote, such that it is only text where it is put: on a terminal, in a CSV file, in Markdown."""

import re
from typing import Any

_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_MARKUP = str.maketrans({"<": "&lt;", ">": "&gt;"} | {mark: f"\\{mark}" for mark in "|`[]*~\\"})
_EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # not between letters or digits, where Markdown has none


def one_line(text: str) -> str:
    r"""Escape what is not printable: line ends, what moves a terminal's cursor, what turns the direction of writing.

    >>> print(one_line("a\x1b[31mb\n\u202ec"))
    a\x1b[31mb\n\u202ec
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def csv_cell(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would run as a formula; what is no text is left as it is.

    >>> csv_cell("=1+1"), csv_cell("-0.35"), csv_cell("tdBN")
    ("'=1+1", '-0.35', 'tdBN')
    """
    if not isinstance(value, str):
        return value
    line = one_line(value)
    return f"'{line}" if _FORMULA.match(line) and not _is_number(line) else line


def markdown_cell(text: str) -> str:
    r"""Escape what would end the cell of a table, or be HTML, a link, code or emphasis.

    >>> print(markdown_cell("<b>|\n[a](b)"))
    &lt;b&gt;\|\\n\[a\](b)
    >>> print(markdown_cell("*a* _b_ cifar10_t2"))
    \*a\* \_b\_ cifar10_t2
    """
    return _EMPHASIS.sub(r"\_", _ENTITY.sub("&amp;", one_line(text)).translate(_MARKUP))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
