"""How the pages are built: ``python -m sphinx -W -b html docs OUT``, without a network.

Pictures and tables are made here, by the package and from the committed views, into ``docs/_generated``: none is typed.
"""

import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import measured  # noqa: E402
import pictures  # noqa: E402

project = "jellyplus"
copyright = "the jellyplus authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_generated"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # what is included begins at a heading of its own level
html_theme = "furo"
pygments_dark_style = "monokai"
html_title = "jellyplus"
html_math_renderer = "mathml"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of named tuples are described once


def _inline(translator, node: nodes.math) -> None:
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="equation">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def _escape_shapes(app, what, name, obj, options, lines: list[str]) -> None:
    """Shapes such as [T, N, *] end in a star, which reStructuredText would take for emphasis."""
    lines[:] = [line.replace("*]", "\\*]") for line in lines]


def _generate(app) -> None:
    folder = HERE / "_generated"
    folder.mkdir(exist_ok=True)
    pictures.draw_all(folder)
    measured.write_all(HERE.parent / "reproductions" / "measured", folder)


def setup(app) -> None:
    """Browsers show MathML themselves, so pages need no script from elsewhere."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("autodoc-process-docstring", _escape_shapes)
    app.connect("builder-inited", _generate)
