"""One page that has every table and figure of the papers beside what was measured: HTML, Markdown and LaTeX.

Like the tables it is a view: claims and evidence decide it, and nothing else does.
"""

import argparse
import base64
import io
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import jinja2
import pandas as pd
from PIL import Image

from jellyplus._errors import InputError
from jellyplus._files import below, write_atomically
from jellyplus._options import NOT_OF_FIGURES
from jellyplus._text import one_line
from jellyplus.datasets.images import read_image
from jellyplus.reproduction import figure_evidence, tables, view
from jellyplus.reproduction.claims import Claim, ClaimTable, is_table, load_claims
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.figure_claims import FigureClaim, load_figure
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.runner import Runner
from jellyplus.reproduction.scale import STAND_IN
from jellyplus.reproduction.store import Store
from jellyplus.reproduction.today import Standing, Today
from jellyplus.reproduction.views import Plan
from jellyplus.training.recipe import Run

__all__ = ["collect", "render", "report"]

PAPERS = {
    "tdbn": ("tdBN", "Zheng et al., AAAI 2021"),
    "dspike": ("Dspike", "Li et al., NeurIPS 2021"),
    "imloss": ("IM-Loss", "Guo et al., NeurIPS 2022"),
    "inflor": ("InfLoR", "Guo et al., ECCV 2022"),
    "shortcut": ("shortcut", "Guo et al., arXiv 2401.04486"),
}
#: What a value can come from, the most telling first; all but the last are profiles.
SCALES = {
    "paper": "the paper's own data and settings",
    "gpu": "the paper's own data and settings, fewer epochs",
    "official": "the paper's data, settings of the authors' public code",
    "small": "real data, smaller networks, fewer epochs",
    "embedded": "stand-in data, small networks",
    "computed": "exact, nothing trained",
}
STATUSES = {
    "reproduced": "within the tolerance of the paper's value, measured as the paper did or computed exactly",
    "below": "the same, but further below the paper's value than the tolerance",
    "above": "the same, but further above the paper's value than the tolerance",
    "differs": "a text that follows from our network and is another than the printed one",
    "consistent": "no result of ours: the paper agrees with itself, or with a constant or a reading of our recipe's",
    "inconsistent": "the same, and they disagree",
    "partial": "real data and fewer seeds, epochs or images, or a narrower network: no statement about the paper",
    STAND_IN: "other data in place of the paper's: a test of the code, no statement about the paper",
    "conflict": "evidence contradicts itself, its recipe or other evidence, as the note says: it is not believed",
    "stale": "measured, but today's code does something else",
    "unknown": "measured, but nobody recorded what the code did then",
    "not-run": "not measured yet",
    "reported": "quoted by the paper from others: shown, not measured by us",
}
#: Of a figure's curves; those that tables have too mean the same.
CURVES = STATUSES | {
    "measured": "measured on the paper's data with its settings; there are no printed numbers to compare with",
    "computed": "a formula or a simulation, nothing trained",
}
COMPARED = ("reproduced", "below", "above", "differs")
_MEANS = {"paper": "", "ours": "_mean"}
_LONGEST = 16383  # pixels of a side, the most that WebP has


@dataclass(frozen=True)
class Piece:
    """A piece of evidence and its file."""

    evidence: Evidence
    path: Path
    standing: Standing

    @property
    def told(self) -> str:
        """What today's code has to say of it."""
        return ": ".join(filter(None, (self.standing.status, self.standing.why)))

    @property
    def commit(self) -> str:
        """The commit, marked where the checkout differed from it."""
        return self.evidence.commit[:12] + ("+dirty" if self.evidence.dirty else "")

    @property
    def versions(self) -> str:
        """Of Python and the libraries."""
        return ", ".join(f"{name} {version}" for name, version in self.evidence.versions.items())


@dataclass(frozen=True)
class Row:
    """A printed cell beside what was measured for it.

    Args:
        claim: what is printed.
        values: the row of the table's view.
        recipe: the file of its recipe, None where it has none.
        pieces: all evidence that there is for it, of one profile.
        scale: one of ``SCALES``; empty where nothing was measured.
    """

    claim: Claim
    values: Mapping[str, Any]
    recipe: Path | None
    pieces: tuple[Piece, ...]
    scale: str

    @property
    def status(self) -> str:
        """One of ``STATUSES``."""
        return self.values["status"]

    @property
    def data(self) -> str:
        """What the value was measured on, in words."""
        if not self.pieces:
            return ""
        return self.values["data"] if self.stand_in else f"real data: {self.values['data']}"

    @property
    def stand_in(self) -> bool:
        """Whether that takes the place of the paper's data."""
        return (self.values["data"] or "").startswith(STAND_IN)

    @property
    def measured_on(self) -> str:
        """Scale and data."""
        return ", ".join(filter(None, (self.scale, self.data)))

    def text(self, side: Literal["paper", "ours"]) -> str:
        """The value of a side with its deviation."""
        value, deviation = (self.values[f"{side}{suffix}"] for suffix in (_MEANS[side], "_std"))
        text = self.claim.measures.text(value)
        return f"{text} ± {self.claim.measures.text(deviation)}" if deviation is not None else text

    def signed(self, column: str) -> str:
        """A difference."""
        value = self.values[column]
        return ("+" if value is not None and value > 0 else "") + self.claim.measures.text(value)


@dataclass(frozen=True)
class Picture:
    """A table or figure as it was last drawn."""

    path: Path
    scale: str

    @property
    def stand_in(self) -> bool:
        """Whether it shows data in place of the papers'."""
        return self.scale == "embedded"

    @cached_property
    def _image(self) -> Image.Image:
        """In 11 levels of each colour, which are enough for a drawing, and take a fifth of the bytes of its file."""
        image = Image.fromarray(read_image(self.path, "RGB")).point(lambda value: round(round(value / 25.5) * 25.5))
        image.thumbnail((_LONGEST, _LONGEST))
        return image

    @property
    def uri(self) -> str:
        """The picture itself.

        Raises:
            InputError: the file holds no picture, or half of one.
        """
        buffer = io.BytesIO()
        self._image.save(buffer, "webp", lossless=True)
        return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

    @property
    def width(self) -> int:
        """In CSS pixels, 96 to the inch of a table's 150: its letters are as large as those beside it, or larger."""
        return round(self._image.width * 96 / 150)


@dataclass(frozen=True)
class Table:
    """A table of a paper, row by row."""

    name: str
    claims: ClaimTable
    rows: tuple[Row, ...]
    picture: Picture | None

    @property
    def quantities(self) -> list[str]:
        """What its values are, each once."""
        return list(dict.fromkeys(row.claim.measures.label for row in self.rows))

    @property
    def columns(self) -> dict[str, bool]:
        """Which of the columns that not every table needs it has."""
        claims = [row.claim for row in self.rows]
        return {
            "steps": any(claim.timesteps for claim in claims),
            "quantity": len(self.quantities) > 1,
            "difference": any(not isinstance(claim.paper, str) for claim in claims),
            "gain": any(claim.baseline for claim in claims),
            "seeds": any(claim.trained for claim in claims),
        }


@dataclass(frozen=True)
class Figure:
    """A figure of a paper; ``statuses`` counts its curves."""

    name: str
    claims: FigureClaim
    statuses: Counter
    picture: Picture | None

    @property
    def scale(self) -> str:
        """One of ``SCALES``; empty where nothing was drawn."""
        if not self.picture:
            return ""
        return "computed" if set(self.statuses) == {"computed"} else self.picture.scale


@dataclass(frozen=True)
class Paper:
    """What a paper prints."""

    name: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]

    @property
    def short(self) -> str:
        """Its method's name; of claims that are not the five papers', what they say their paper is."""
        return PAPERS[self.name][0] if self.name in PAPERS else self.name

    @property
    def citation(self) -> str:
        """Authors, venue and year, or where these claims are printed."""
        return PAPERS[self.name][1] if self.name in PAPERS else (self.tables + self.figures)[0].claims.printed_in

    @property
    def drawn(self) -> int:
        """How many of its figures there are pictures of."""
        return sum(figure.picture is not None for figure in self.figures)

    @property
    def rows(self) -> list[Row]:
        """Every cell of its tables."""
        return [row for table in self.tables for row in table.rows]

    @property
    def statuses(self) -> Counter:
        """How many of them have which status."""
        return Counter(row.status for row in self.rows)


@dataclass(frozen=True)
class Page:
    """Everything that the templates read."""

    papers: tuple[Paper, ...]
    code: str

    @property
    def rows(self) -> list[Row]:
        """Every cell of every table."""
        return [row for paper in self.papers for row in paper.rows]

    @property
    def statuses(self) -> Counter:
        """How many of them have which status."""
        return Counter(row.status for row in self.rows)

    @property
    def tables(self) -> int:
        """How many tables there are."""
        return sum(len(paper.tables) for paper in self.papers)

    @property
    def ours(self) -> int:
        """How many cells are for us to measure."""
        return len(self.rows) - self.statuses["reported"]

    @property
    def scales(self) -> dict[str, Counter]:
        """How many of them have which status, by what they were measured on."""
        return {scale: Counter(row.status for row in self.rows if row.scale == scale) for scale in SCALES}

    @property
    def shown(self) -> list[str]:
        """The statuses of what was measured; the usual ones also where there are none."""
        rare = {"differs", "consistent", "inconsistent", "conflict", "unknown"} - self.statuses.keys()
        return [name for name in STATUSES if name not in {"not-run", "reported", *rare}]

    @property
    def devices(self) -> Counter:
        """How many runs were made on which device."""
        return Counter({piece.path: piece.evidence.device for row in self.rows for piece in row.pieces}.values())

    @property
    def verdict(self) -> str:
        """What the page says of the papers."""
        printed = [table for paper in self.papers for table in paper.tables if not table.claims.is_comparison]
        trained = [row.status for table in printed for row in table.rows if row.claim.trained]
        computed = Counter(row.status for row in self.rows if row.scale == "computed" and row.status in COMPARED)
        compared = Counter(status for status in trained if status in COMPARED)
        text = f"{compared.total()} of {len(trained)} trained results can be held against their papers"
        text += f": {_listed(compared)}." if compared else " yet."
        return text + (f" {computed.total()} more are read off our networks: {_listed(computed)}." if computed else "")


def collect(reproductions: Path, roots: Sequence[Path]) -> Page:
    """Return what the page shows.

    Of every cell, the evidence is that of the most telling profile that has any.

    Args:
        reproductions: has ``claims/``; the recipes are in ``recipes/`` beside it.
        roots: folders of results, which need not be there; of evidence that several have, that of the first counts.

    Raises:
        InputError: there are no claims, or a claim, a recipe or a piece of evidence cannot be read.
    """
    paths = sorted((reproductions / "claims").glob("*.yaml"), key=_order)
    if not paths:
        raise InputError(f"there are no claims in {reproductions / 'claims'}; name the folder with --reproductions")
    runner = Runner(_Stores(roots), data_root=None, device="cpu")
    measurements, recipes = Measurements(runner), reproductions.parent / "recipes"
    Plan(reproductions).judge(measurements)  # all together, before each of them is asked for
    printed = [_table(path, roots, measurements, recipes) for path in paths if is_table(path)]
    figures = [_figure(path, roots, measurements, recipes) for path in paths if not is_table(path)]
    own = sorted({part.claims.paper for part in (*printed, *figures)} - PAPERS.keys())
    papers = [
        Paper(
            name,
            tuple(table for table in printed if table.claims.paper == name),
            tuple(figure for figure in figures if figure.claims.paper == name),
        )
        for name in (*PAPERS, *own)
    ]
    return Page(tuple(paper for paper in papers if paper.tables or paper.figures), runner.today.code)


def render(page: Page, folder: Path) -> dict[str, bytes]:
    """Return the files ``index.html``, ``index.md`` and ``index.tex``; links start from ``folder``."""
    return {f"index.{kind}": _render(page, kind, folder).encode() for kind in ("html", "md", "tex")}


def report(options: argparse.Namespace) -> int:
    """Write the page of ``options.reproductions`` and ``options.root`` to ``options.out``."""
    for root in options.root or ():
        if not root.is_dir():
            raise InputError(f"--root {root} is no folder; give one that has evidence/ in it, such as results")
    page = collect(options.reproductions, options.root or [Path("results"), options.reproductions / "measured"])
    for name, content in render(page, options.out).items():
        write_atomically(options.out / name, content)
    print(f"{page.verdict}\nOf {len(page.rows)} cells: {_listed(page.statuses)}.")
    print(f"Written: {options.out}/index.html, index.md, index.tex")
    return 0


def _listed(statuses: Counter) -> str:
    return ", ".join(f"{statuses[status]} {status}" for status in STATUSES if statuses[status])


def _order(path: Path) -> tuple[bool, float, str]:
    """Tables before figures, 2 before 10, and those without a number behind the others."""
    number = re.match(r"[a-z]+(\d+)", path.stem)
    return not is_table(path), int(number[1]) if number else math.inf, path.stem


class _Stores(Store):
    """The evidence of several folders of results, as if of one; where two disagree on a run, both are there."""

    def __init__(self, roots: Sequence[Path]):
        super().__init__(roots[0] / "evidence")  # where what belongs to a run would be
        self._stores = [Store(root / "evidence") for root in roots]

    def files(self, key: str, pattern: str) -> list[Path]:
        found = {path.name: path for store in self._stores[::-1] for path in store.files(key, pattern)}
        return [found[name] for name in sorted(found)]

    def runs(self, key: str) -> list[Evidence]:
        return sorted((evidence for evidence, _ in self._found(key)), key=lambda e: (e.seed, e.code))

    def pieces(self, run: Run, today: Today) -> list[Piece]:
        """The evidence of a run, with its files."""
        return [Piece(evidence, path, today.standing(evidence, run, self)) for evidence, path in self._found(run.key)]

    def _found(self, key: str) -> list[tuple[Evidence, Path]]:
        """Equal evidence once."""
        found: dict[str, list[tuple[Evidence, Path]]] = defaultdict(list)
        for path in (path for store in self._stores for path in store.files(key, "seed*-*.json")):
            evidence, alike = self.read(path, Evidence), found[path.name]
            if evidence.key == key and all(evidence != other for other, _ in alike):
                alike.append((evidence, path))
        return [pair for name in sorted(found) for pair in found[name]]


def _table(path: Path, roots: Sequence[Path], measurements: Measurements, recipes: Path) -> Table:
    claims = load_claims(path)
    stores, today = measurements.runner.store, measurements.runner.today
    made = _most_telling(claims, measurements, recipes)
    results = tables.results(claims, made, measurements, recipes)
    frame = view.build(claims, results, "paper")
    rows = []
    for claim, values in zip(claims.rows, frame.to_dict("records"), strict=True):
        run = made.get(claim.id)
        measured = pd.notna(values["ours_mean"]) or values["status"] == "conflict"
        pieces = tuple(stores.pieces(run, today)) if run and measured else ()
        rows.append(
            Row(
                claim,
                {column: None if pd.isna(value) else value for column, value in values.items()},
                recipes / f"{claim.recipe}.yaml" if claim.recipe else None,
                pieces,
                run.profile if pieces else "computed" if measured else "",
            )
        )
    return Table(path.stem, claims, tuple(rows), _picture(roots, path.stem, "table.png"))


def _most_telling(claims: ClaimTable, measurements: Measurements, recipes: Path) -> dict[str, Run]:
    """Return the run of every row that trains, under the first profile that has a value of it."""
    rows = {claim.id: claim for claim in claims.rows}
    made: dict[str, Run] = {}
    for profile in (p for p in _PROFILES[::-1] if tables.offers(claims, p, recipes)):
        runs = tables.runs(claims, profile, recipes)
        made |= {name: run for name, run in runs.items() if name not in made or _has(rows[name], run, measurements)}
    return made


def _has(claim: Claim, run: Run, measurements: Measurements) -> bool:
    evidence, measure = measurements.runner.store.runs(run.key), claim.measures.measure
    return any(not measure or measurements.find(run, measure, claim.settings, e.seed) for e in evidence)


def _figure(path: Path, roots: Sequence[Path], measurements: Measurements, recipes: Path) -> Figure:
    """Under the first profile that anything was measured in; where nothing was, or had to be, under any."""
    claims = load_figure(path)
    for profile in (p for p in _PROFILES if p not in NOT_OF_FIGURES):
        planned = figure_evidence.plan(claims, profile, recipes)
        statuses = Counter(figure_evidence.status(series, measurements, figure_evidence.SEED) for series in planned)
        if statuses.keys() - {"computed", "not-run"}:
            return Figure(path.stem, claims, statuses, _picture(roots, path.stem, "figure.png", (profile,)))
    return Figure(path.stem, claims, statuses, _picture(roots, path.stem, "figure.png"))


_PROFILES = ("paper", "gpu", "official", "small", "embedded")


def _picture(roots: Sequence[Path], name: str, file: str, profiles: Sequence[str] = _PROFILES) -> Picture | None:
    paths = ((below(root / profile / name / file, root), profile) for profile in profiles for root in roots)
    return next((Picture(path, profile) for path, profile in paths if path.is_file()), None)


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
    return template.render(page=page, statuses=STATUSES, curves=CURVES, scales=SCALES)


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
