"""What the page is made of: papers, their tables and figures, and each printed cell beside what was measured for it."""

import base64
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from jellyplus.datasets.images import read_image
from jellyplus.reproduction.claims import Claim, ClaimTable
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.figure_claims import FigureClaim
from jellyplus.reproduction.scale import STAND_IN
from jellyplus.reproduction.today import Standing
from jellyplus.reproduction.view import GAINS

__all__ = ["CURVES", "SCALES", "STATUSES", "Figure", "Page", "Paper", "Picture", "Piece", "Row", "Table", "listed"]

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
_LEVELS = 9  # of a colour
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

    @property
    def interval(self) -> str:
        """Of our gain; empty where it has none."""
        return "" if self.values["gain_low"] is None else f"{self.signed('gain_low')} to {self.signed('gain_high')}"

    @property
    def gain(self) -> str:
        """Ours, with its interval and what it says of the printed one; none on a stand-in."""
        said = [f"({self.interval})" if self.interval else "", self.values["gain_verdict"] or ""]
        return "" if self.stand_in else " ".join(filter(None, [self.signed("gain"), *said]))

    @property
    def prints_gain(self) -> bool:
        """Whether the paper has a training of this row ahead of its baseline, or behind it."""
        return self.claim.trained and bool(self.values["paper_gain"])


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
        """In few levels of each colour, which are enough for a drawing, and take a fifth of the bytes of its file."""
        step = 255 / (_LEVELS - 1)
        image = Image.fromarray(read_image(self.path, "RGB")).point(lambda value: round(round(value / step) * step))
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
            "paper": not self.claims.is_comparison,
            "steps": any(claim.timesteps for claim in claims),
            "quantity": len(self.quantities) > 1,
            "difference": any(isinstance(claim.paper, float) for claim in claims),
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
    """What a paper prints.

    Args:
        name: as claims have it.
        short: its method's name.
        citation: authors, venue and year, or where these claims are printed.
        tables, figures: of it.
    """

    name: str
    short: str
    citation: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]

    @property
    def is_comparison(self) -> bool:
        """Whether it prints nothing that ours could be held against, and compares rows of ours."""
        return bool(self.tables) and all(table.claims.is_comparison for table in self.tables)

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
    def printed(self) -> list[Paper]:
        """Those that print something: all but comparisons of our own."""
        return [paper for paper in self.papers if not paper.is_comparison]

    @property
    def rows(self) -> list[Row]:
        """Every cell of every table of theirs."""
        return [row for paper in self.printed for row in paper.rows]

    @property
    def statuses(self) -> Counter:
        """How many of them have which status."""
        return Counter(row.status for row in self.rows)

    @property
    def tables(self) -> int:
        """How many tables they have."""
        return sum(len(paper.tables) for paper in self.printed)

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
        rows = (row for paper in self.papers for row in paper.rows)
        return Counter({piece.path: piece.evidence.device for row in rows for piece in row.pieces}.values())

    @property
    def verdict(self) -> str:
        """What the page says of the papers."""
        trained = [row.status for row in self.rows if row.claim.trained]
        computed = Counter(row.status for row in self.rows if row.scale == "computed" and row.status in COMPARED)
        compared = Counter(status for status in trained if status in COMPARED)
        text = f"{compared.total()} of {len(trained)} trained results can be held against their papers"
        text += f": {listed(compared)}." if compared else " yet."
        return text + (f" {computed.total()} more are read off our networks: {listed(computed)}." if computed else "")

    @property
    def gains(self) -> str:
        """What the page says of the gains that papers print; empty where they print none."""
        printed = [row.values["gain_verdict"] for row in self.rows if row.prints_gain]
        if not printed:
            return ""
        found = Counter(verdict for verdict in printed if verdict)
        words = ", ".join(f"{found[name]} {name}" for name in GAINS if found[name])
        text = f"Gains over a baseline: {len(printed)} printed, {found.total()} measured on real data and current"
        return f"{text} ({words})." if words else f"{text}."


def listed(statuses: Counter) -> str:
    """How many of each."""
    return ", ".join(f"{statuses[status]} {status}" for status in STATUSES if statuses[status])
