"""The page as HTML, Markdown and LaTeX."""

import os
import re
from pathlib import Path
from urllib.parse import quote

import jinja2

from jellyplus._text import one_line
from jellyplus.reproduction.page.pieces import CURVES, SCALES, STATUSES, Page
from jellyplus.reproduction.view import GAINS

__all__ = ["render"]


def render(page: Page, folder: Path) -> dict[str, bytes]:
    """Return the files ``index.html``, ``index.md`` and ``index.tex``; links start from ``folder``."""
    return {f"index.{kind}": _render(page, kind, folder).encode() for kind in ("html", "md", "tex")}


def _render(page: Page, kind: str, folder: Path) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jellyplus.reproduction"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **_ESCAPING[kind],
    )
    environment.filters["link"] = lambda path: quote(os.path.relpath(path, folder))
    template = environment.get_template(f"page.{kind}.jinja")
    return template.render(page=page, statuses=STATUSES, curves=CURVES, scales=SCALES, gains=GAINS)


_SPACES = re.compile(r"\s+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~&])")
_TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",  # \\[ and \\* are other commands than \\
    "*": "{*}",
    "±": r"\ensuremath{\pm}",
}


def _markdown(value: object) -> str:
    return _MARKDOWN.sub(r"\\\1", _flat(str(value)).strip())


def _tex(value: object) -> str:
    return "".join(_TEX.get(character, character) for character in _flat(str(value)))


def _html(value: object) -> object:
    return _flat(value) if type(value) is str else value  # markup and numbers as they are


def _flat(text: str) -> str:
    """On one line: an empty one would end a paragraph, which headings may not."""
    return one_line(_SPACES.sub(" ", text))


#: Escaping is no matter of the single place: everything that a template puts out goes through it.
_ESCAPING = {
    "html": {"autoescape": True, "finalize": _html},
    "md": {"finalize": _markdown},
    "tex": {
        "finalize": _tex,
        "block_start_string": "((*",
        "block_end_string": "*))",
        "variable_start_string": "((",
        "variable_end_string": "))",
        "comment_start_string": "((=",
        "comment_end_string": "=))",
    },
}
