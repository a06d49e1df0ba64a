"""How long runs took where they were made before: what can be said of the time before a run of one's own."""

from collections import defaultdict
from collections.abc import Sequence

from tqdm import tqdm

from jellyplus._text import one_line
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.store import Store
from jellyplus.training.recipe import Run

__all__ = ["expectation"]


def expectation(planned: Sequence[tuple[Run, int]], stores: Sequence[Store]) -> str:
    """One sentence on the time that these runs took before, one after the other, by device, written as on the bar.

    Args:
        planned: runs and their seeds. Any seed and any code of the same recipe tells the time.
        stores: where evidence is looked for, the nearest first; of several in one the slowest counts.
    """
    known = [found for run, _ in planned if (found := _slowest(run.key, stores))]
    seconds = defaultdict(list)
    for evidence in known:
        seconds[evidence.device].append(evidence.wall_time_s)
    parts = [
        f"{len(taken)} took {tqdm.format_interval(sum(taken))} before on {one_line(device)}"
        for device, taken in seconds.items()
    ]
    if untimed := len(planned) - len(known):
        parts.append(f"{untimed} not timed before")
    runs = "1 run" if len(planned) == 1 else f"{len(planned)} runs"
    return f"{runs} to make: {'; '.join(parts)}"


def _slowest(key: str, stores: Sequence[Store]) -> Evidence | None:
    found = next(filter(None, (store.runs(key) for store in stores)), [])
    return max(found, key=lambda evidence: evidence.wall_time_s, default=None)
