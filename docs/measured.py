"""What was measured, as pages: from the committed views, which ``jellyplus render --check`` holds to the evidence."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import yaml

PROFILES = {
    "paper": "The paper's own data and settings",
    "small": "Real data, narrow networks, short schedules",
    "embedded": "Stand-in data: no statement about the papers",
}
_OURS = ["ours_mean", "ours_std", "n_seeds"]
_WHAT = ["dataset", "method", "architecture", "timesteps", "quantity"]
_COMPARED = ["method", "data", "accuracy", "accuracy_std", "n_seeds", "difference", "difference_low", "difference_high"]


def write_all(views: Path, folder: Path) -> None:
    """Write ``measured-PROFILE.md`` to ``folder``: a table or a picture for each view in ``views``."""
    for profile in PROFILES:
        parts = [part for view in sorted((views / profile).iterdir()) for part in _part(view)]
        (folder / f"measured-{profile}.md").write_text("\n\n".join(parts) + "\n")


def _part(view: Path) -> Iterator[str]:
    claims = yaml.safe_load((view.parents[2] / "claims" / f"{view.name}.yaml").read_text())
    yield f"### {claims['title']}"
    if (view / "table.csv").exists():
        yield _table(pd.read_csv(view / "table.csv", dtype=str, keep_default_na=False), view.parent.name)
    else:
        picture = f"../reproductions/measured/{view.parent.name}/{view.name}/figure.png"
        yield f"![The figure that {view.name}.py draws, profile {view.parent.name}]({picture})"


def _table(frame: pd.DataFrame, profile: str) -> str:
    """The rows that we have a number for, on stand-ins without the paper's number and data set."""
    if "ours_mean" not in frame:  # a comparison of our own
        shown = frame.loc[frame["accuracy"] != "", [*_COMPARED, "verdict", "energy_uj"]]
    else:
        what = ["data", *_WHAT[1:]] if profile == "embedded" else [*_WHAT, "paper"]
        shown = frame.loc[frame["ours_mean"] != "", [*what, *_OURS, "status"]]
    shown = shown.loc[:, (shown != "").any()].map(lambda text: text.replace("|", r"\|"))
    return shown.to_markdown(index=False, disable_numparse=True)
