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

__all__ = ["write"]

_PANELS = {  # label of the axis, and what the history may have for it
    "accuracy on test data (%)": {"accuracy": ""},
    "training loss": {"train_loss": "sum", "im_loss": "IM-Loss"},
    "learning rate": {"learning_rate": ""},
    "evolving": {"temperature": "temperature b", "k": "K", "shortcut_weight": "shortcut weight"},
}


def write(evidence: Evidence, folder: Path) -> None:
    """Write ``seed<n>.csv`` and ``seed<n>.png`` into ``folder``, each whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    frame = pd.DataFrame(evidence.history)
    cells = frame.rename(columns=csv_cell).map(csv_cell)
    write_atomically(folder / f"seed{evidence.seed}.csv", cells.to_csv(index=False).encode())
    write_atomically(folder / f"seed{evidence.seed}.png", _picture(frame, evidence))


def _picture(frame: pd.DataFrame, evidence: Evidence) -> bytes:
    panels = {label: lines for label, lines in _PANELS.items() if lines.keys() & set(frame)}
    with matplotlib.style.context("default", after_reset=True):
        figure = Figure(figsize=(4 * len(panels), 3.4), dpi=150)
        for panel, (label, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            _draw(panel, frame, label, lines)
        stand_in = "stand-in data, no claim about the paper" if evidence.dataset.get("stand_in") else "real data"
        title = f"{evidence.recipe_name}, profile {evidence.profile}, seed {evidence.seed}"
        figure.suptitle(f"{title}: {evidence.dataset['name']} ({stand_in})", fontsize=11)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(panel: Axes, frame: pd.DataFrame, label: str, lines: dict[str, str]) -> None:
    shown = [name for name in lines if name in frame]
    for name, style in zip(shown, ("o-", "s--", "^:"), strict=False):
        panel.plot(frame["epoch"] + 1, frame[name], style, markersize=4, label=lines[name])
    panel.set_xlabel("epoch")
    panel.set_ylabel(lines[shown[0]] if label == "evolving" and len(shown) == 1 else label)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="0.92")
    if len(shown) > 1:
        panel.legend(frameon=False, fontsize=9)
