"""One page that has every table and figure of the papers beside what was measured: HTML, Markdown and LaTeX.

Like the tables it is a view: claims and evidence decide it, and nothing else does.
"""

import argparse
from pathlib import Path

from jellyplus._errors import InputError
from jellyplus._files import write_atomically
from jellyplus.reproduction.page.collect import collect
from jellyplus.reproduction.page.pieces import SCALES, STATUSES, Picture, listed
from jellyplus.reproduction.page.render import render

__all__ = ["SCALES", "STATUSES", "Picture", "collect", "render", "report"]


def report(options: argparse.Namespace) -> int:
    """Write the page of ``options.reproductions`` and ``options.root`` to ``options.out``."""
    for root in options.root or ():
        if not root.is_dir():
            raise InputError(f"--root {root} is no folder; give one that has evidence/ in it, such as results")
    page = collect(options.reproductions, options.root or [Path("results"), options.reproductions / "measured"])
    for name, content in render(page, options.out).items():
        write_atomically(options.out / name, content)
    print(f"{page.verdict}\nOf {len(page.rows)} cells: {listed(page.statuses)}.")
    print(f"Written: {options.out}/index.html, index.md, index.tex")
    return 0
