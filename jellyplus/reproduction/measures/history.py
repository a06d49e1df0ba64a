"""What a finished run recorded in every epoch."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jellyplus._errors import InputError
from jellyplus.reproduction.measures.base import Curve, measure


@measure("history")
def course(history: Sequence[Mapping[str, Any]], *, of: Literal["accuracy", "temperature", "k"]) -> Curve:
    """A value of every epoch, which are counted from 1.

    Raises:
        InputError: the run recorded none.
    """
    if any(entry.get(of) is None for entry in history):
        raise InputError(f"the run recorded no {of}: name a recipe that has one, or another value")
    return Curve([entry["epoch"] + 1.0 for entry in history], [float(entry[of]) for entry in history])
