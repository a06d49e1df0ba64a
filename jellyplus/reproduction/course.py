"""The course of a run: what its evidence recorded in every epoch, as CSV and as a picture."""

import io
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jellyplus._files import write_atomically
from jellyplus._text import csv_cell
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.picture import CAPTION, mark_stand_in, wrapped
from jellyplus.reproduction.scale import Scale

__all__ = ["write"]

_PANELS = {  # label of the axis, and what the history may have for it
    "accuracy on test data (%)": {"accuracy": ""},
    "training loss": {"train_loss": "sum", "im_loss": "IM-Loss"},
    "learning rate": {"learning_rate": ""},
    "evolving": {"temperature": "temperature b", "k": "K", "shortcut_weight": "shortcut weight"},
}
_LETTERS = 52  # of a panel's title


def write(evidence: Evidence, of: Scale, folder: Path) -> None:
    """Write ``seed<n>.csv`` and ``seed<n>.png`` of a run into ``folder``, each whole or not at all, with its scale.

    Raises:
        InputError: the folder cannot be written.
    """
    frame = pd.DataFrame(evidence.history)
    cells = frame.assign(data=str(of)).rename(columns=csv_cell).map(csv_cell)
    write_atomically(folder / f"seed{evidence.seed}.csv", cells.to_csv(index=False).encode())
    write_atomically(folder / f"seed{evidence.seed}.png", _picture(frame, evidence, of))


def _picture(frame: pd.DataFrame, evidence: Evidence, of: Scale) -> bytes:
    panels = {label: lines for label, lines in _PANELS.items() if lines.keys() & set(frame)}
    with matplotlib.style.context("default", after_reset=True):
        figure = Figure(figsize=(4 * len(panels), 3.4), dpi=150)
        for panel, (label, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            _draw(panel, frame, label, lines, of.stand_in)
            panel.set_title(wrapped("stand-in:" if of.stand_in else "", of.words, _LETTERS), fontsize=8)
            if of.stand_in:
                mark_stand_in(panel, panel.title)
        about = "stand-in data, no claim about the paper" if of.stand_in else "real data"
        figure.suptitle(f"{evidence.recipe_name}, seed {evidence.seed}", fontsize=11)
        figure.supxlabel(f"profile: {evidence.profile}, {about}", fontsize=8, color=CAPTION)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(panel: Axes, frame: pd.DataFrame, label: str, lines: dict[str, str], hollow: bool) -> None:
    shown = [name for name in lines if name in frame]
    for name, style in zip(shown, ("o-", "s--", "^:"), strict=False):
        face = {"markerfacecolor": "white"} if hollow else {}
        panel.plot(frame["epoch"] + 1, frame[name], style, markersize=4, label=lines[name], **face)
    panel.set_xlabel("epoch")
    panel.set_ylabel(lines[shown[0]] if label == "evolving" and len(shown) == 1 else label)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="0.92")
    if len(shown) > 1:
        panel.legend(frameon=False, fontsize=9)
