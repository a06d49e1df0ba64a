"""The operations of a run: as evidence has them, and counted again by the convention that a claim names."""

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from jellyplus._strict import from_mapping
from jellyplus.op_counter import CONVENTIONS, OperationCount, Tallies

if TYPE_CHECKING:
    from jellyplus.reproduction.evidence import Evidence

__all__ = ["energy_in_words", "error", "record", "value"]

Name = Literal["additions", "multiplications", "energy_uj"]
_DEFAULT = "default"


@dataclass(frozen=True)
class _Kept(Tallies):
    """A measurement as evidence keeps it: not example by example, but with their standard errors by convention."""

    additions_error: dict[str, float | None] = field(default_factory=dict)


_KEYS = ("layers", "examples", "time_steps", "firing_rate", "additions_error")


def record(measured: Tallies, chosen: str) -> dict:
    """``Evidence.operations``: numbers by the default convention, and what it takes to count by another.

    Args:
        measured: on some test examples.
        chosen: how these were.
    """
    count = measured.count(CONVENTIONS[_DEFAULT])
    return {
        "macs_per_time_step": round(count.total.macs / measured.time_steps),
        "spike_rate": count.total.spike_rate,
        **{name: _number(count, name) for name in ("additions", "multiplications", "energy_uj")},
        "convention": str(count.convention),
        "chosen": chosen,
        "examples": measured.examples,
        "time_steps": measured.time_steps,
        "firing_rate": measured.firing_rate,
        "layers": [dataclasses.asdict(tally) for tally in measured.layers],
        "additions_error": {name: measured.count(c).additions_error for name, c in CONVENTIONS.items()},
    }


def value(evidence: "Evidence", name: Name, convention: str) -> float | None:
    """One number of ``evidence``, of one example over all time-steps.

    Args:
        evidence: of a run.
        name: which.
        convention: one of :data:`jellyplus.op_counter.CONVENTIONS`.

    Returns:
        The number; None where the evidence is from before layers were kept, and counted by another convention.

    Raises:
        InputError: the evidence has layers that no network has.
    """
    if count := _count(evidence, convention):
        return _number(count, name)
    counted_so = evidence.operations["convention"] == str(CONVENTIONS[convention])
    return evidence.operations[name] if counted_so else None


def error(evidence: "Evidence", name: Name, convention: str) -> float | None:
    """The standard error over examples of :func:`value`; None where there is none."""
    count = _count(evidence, convention)
    if count is None or count.additions_error is None or name == "multiplications":
        return None
    return count.additions_error if name == "additions" else count.energy_error_pj / 1e6


def energy_in_words(evidence: "Evidence") -> str:
    """The energy of an inference by the default convention, with its standard error where there is one."""
    deviation = error(evidence, "energy_uj", _DEFAULT)
    energy = f"{evidence.operations['energy_uj']:.4g}"
    return f"{energy} uJ" if deviation is None else f"{energy} ± {deviation:.1g} uJ"


def _count(evidence: "Evidence", convention: str) -> OperationCount | None:
    if "layers" not in evidence.operations:
        return None
    kept = {key: evidence.operations[key] for key in _KEYS if key in evidence.operations}
    measured = from_mapping(_Kept, kept, f"the operations of {evidence.recipe_name}, seed {evidence.seed}")
    count = measured.count(CONVENTIONS[convention])
    return dataclasses.replace(count, additions_error=measured.additions_error.get(convention))


def _number(count: OperationCount, name: Name) -> float:
    total = count.total
    return total.energy_pj / 1e6 if name == "energy_uj" else getattr(total, name)
