"""A small checkout for the report page: recipes, claims, evidence and pictures, generated."""

import shutil
from pathlib import Path

from jellyplus.reproduction import runner, today
from jellyplus.reproduction.store import Probe, Store
from jellyplus.training.recipe_files import load_run

RECIPES = Path(__file__).parents[2] / "recipes"
RUN = "imloss/cifar10_cifarnet_t4"
PROFILES = """
paper: {}
gpu:
  "*":
    schedule: {epochs: 1}
small:
  "*":
    model: {width: 8}
embedded:
  "*":
    data: {dataset: digits}
    model: {width: 4}
smoke:
  "*":
    data: {dataset: digits}
    model: {width: 2}
"""
NASTY = r"""50% & $x_1$ #2 {a} ~b^c \d | "q" 'p' <b>*bold*</b> [z] ± `t`"""
ROWS = """
- {id: quoted, dataset: CIFAR-10, method: Theirs, kind: reported, architecture: VGG-16, timesteps: 100, paper: 91.5,
   paper_std: null, recipe: null, note: ""}
- {id: bare, dataset: CIFAR-10, method: Bare, kind: ablation, architecture: CIFARNet, timesteps: 4, paper: 88.0,
   paper_std: null, recipe: RUN, overrides: {im_loss: null}, note: ""}
- {id: full, dataset: CIFAR-10, method: Full, kind: own, architecture: CIFARNet, timesteps: 4, paper: 90.0,
   paper_std: 0.1, recipe: RUN, baseline: bare, note: "the text prints 91"}
- {id: never, dataset: CIFAR-10, method: Never, kind: own, architecture: CIFARNet, timesteps: 2, paper: 92.0,
   paper_std: null, recipe: RUN, overrides: {model: {time_steps: 2}}, note: ""}
- {id: batch, dataset: CIFAR-10, method: NASTY, kind: own, architecture: CIFARNet, timesteps: null, paper: 128,
   paper_std: null, recipe: RUN, quantity: batch_size, note: ""}
"""
TABLE = """
title: "IM-Loss, Table {number}: a table"
paper: imloss
printed_in: Guo et al., Table {number}
datasets:
  CIFAR-10: {{train_examples: 50000, test_examples: 10000}}
rows:
"""
FIGURE = """
title: "Dspike, Fig. 3: a function"
paper: dspike
printed_in: Li et al., Fig. 3
says: it is a function
panels:
- title: forward
  x: u
  y: phi
  series:
  - {label: b = 1, measure: surrogate_primitive, settings: {name: dspike, shape: 1.0, v_threshold: 0.5, span: 1.0}}
  - {label: accuracy, measure: course, recipe: RUN, overrides: {im_loss: null}, settings: {of: accuracy}}
  - {label: never, measure: course, recipe: RUN, overrides: {model: {time_steps: 2}}, settings: {of: accuracy}}
"""
PAPERS = """\
dspike: {short: Dspike, citation: "Li et al., NeurIPS 2021"}
imloss: {short: IM-Loss, citation: "Guo et al., NeurIPS 2022"}
"""
PROBE = Probe(1, "p" * 64, {}, {"loss of step": [2.5]})
PNG = bytes.fromhex(  # one white pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ffff3f0005fe02fe0def46b8"
    "0000000049454e44ae426082"
)


def as_of_today(monkeypatch) -> None:
    """Make the code of generated evidence today's; what the page says of the code does not depend on it."""
    monkeypatch.setattr(today, "code_digest", lambda: "c" * 64)
    monkeypatch.setattr(runner, "provenance", dict)


class Checkout:
    """In ``folder``: ``recipes``, ``reproductions/claims`` and ``results``.

    Of the cells, 'full' has three seeds of the paper's profile, 'bare' two of stand-in data, 'never' none, and 'batch'
    needs none. The figure has a formula, the course of 'bare', and that of 'never'.
    """

    def __init__(self, folder: Path, make_evidence):
        self.folder, self.make_evidence = folder, make_evidence
        self.reproductions, self.results = folder / "reproductions", folder / "results"
        (folder / "recipes/imloss").mkdir(parents=True)
        shutil.copy(RECIPES / f"{RUN}.yaml", folder / "recipes/imloss")
        (folder / "recipes/imloss/profiles.yaml").write_text(PROFILES)
        (self.reproductions / "claims").mkdir(parents=True)
        rows = ROWS.replace("RUN", RUN).replace("NASTY", "'" + NASTY.replace("'", "''") + "'")
        (self.reproductions / "papers.yaml").write_text(PAPERS)
        self.claim("table2_imloss", TABLE.format(number=2) + rows)
        self.claim("table10_imloss", TABLE.format(number=10) + rows.partition("- {id: bare")[0])
        self.claim("figure3_dspike", FIGURE.replace("RUN", RUN))
        self.full = [self.add("paper", seed=seed, accuracy_last=89.9 + seed / 10) for seed in range(3)]
        self.bare = [self.add("embedded", {"im_loss": None}, seed=seed, accuracy_last=70.0 + seed) for seed in range(2)]

    def claim(self, name: str, text: str) -> None:
        (self.reproductions / f"claims/{name}.yaml").write_text(text)

    def add(self, profile: str, overrides=None, root: str = "results", **changes) -> Path:
        """Write evidence of the recipe under a profile, by today's code; return its file."""
        run = load_run(RUN, profile, self.folder / "recipes", overrides)
        stand_in = profile in ("embedded", "smoke")
        sizes = (1437, 360) if stand_in else (50000, 10000)
        dataset = {"name": "digits" if stand_in else "cifar10", "stand_in": stand_in}
        dataset |= dict(zip(("train_examples", "test_examples"), sizes, strict=True))
        own = {"recipe": run.resolved, "recipe_name": RUN, "profile": profile, "dataset": dataset}
        evidence = self.make_evidence(**own | changes)
        return Store(self.folder / root / "evidence").write(evidence, PROBE)

    def draw(self, profile: str, name: str) -> Path:
        """Write a picture as a table's or figure's script would."""
        kind = name.partition("_")[0].rstrip("0123456789")
        picture = self.results / profile / name / f"{kind}.png"
        picture.parent.mkdir(parents=True)
        picture.write_bytes(PNG + profile.encode())
        return picture
