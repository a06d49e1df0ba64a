"""Measuring what has not been measured on a run's network; the store has what was."""

from collections.abc import Mapping
from typing import Any

from jellyplus._distributed import alone
from jellyplus._errors import InputError
from jellyplus.registry import MEASURES
from jellyplus.reproduction.evidence import Measurement
from jellyplus.reproduction.measures import measured
from jellyplus.reproduction.runner import Runner, device_in_words
from jellyplus.training.data import DataModule
from jellyplus.training.network import choose_backend
from jellyplus.training.recipe import Run

__all__ = ["Measurements"]


class Measurements:
    """What has been measured, and measuring what has not.

    Args:
        runner: whose store, data and device are used.
    """

    def __init__(self, runner: Runner):
        self.runner = runner

    def find(self, run: Run, measure: str, settings: Mapping[str, Any], seed: int) -> Measurement | None:
        """Return the measurement that today's code would repeat; where there is none, another; None without any.

        Raises:
            InputError: a file is damaged or from another version; it is left alone.
        """
        found = self.runner.store.measurements(run.key, measure, settings, seed)
        return next((m for m in found if self.is_current(m, run)), found[0] if found else None)

    def is_current(self, measurement: Measurement, run: Run) -> bool:
        """Whether today's code would measure the same."""
        return self.runner.today.standing(measurement, run, self.runner.store).is_current

    def is_made(self, run: Run, measure: str, settings: Mapping[str, Any], seed: int) -> bool:
        """Whether there is a measurement that today's code would repeat."""
        found = self.find(run, measure, settings, seed)
        return found is not None and self.is_current(found, run)

    def make(self, run: Run, measure: str, settings: Mapping[str, Any], seed: int) -> Measurement:
        """Measure and keep; a ``trained`` measure needs the finished run.

        Raises:
            InputError: the measure does not fit the recipe, there is no checkpoint, data are missing, the measurement
                is there already, or it cannot be written.
        """
        runner = self.runner
        data = DataModule(runner.load(run), run.recipe, seed)
        weights = runner.weights(run, seed) if MEASURES[measure].kind == "trained" else None
        backend = choose_backend(run.recipe, runner.device, say=False)
        try:
            with alone():  # of several processes one measures
                curve = measured(
                    run.recipe, data, measure, settings, weights=weights, backend=backend, device=runner.device
                )
        except ValueError as error:
            raise InputError(f"cannot measure {measure} of {run.name}: {error}; correct the figure's claim") from error
        measurement = Measurement(
            schema=1,
            key=run.key,
            recipe_name=run.name,
            profile=run.profile,
            seed=seed,
            code=runner.today.code_of(run, measure),
            measure=measure,
            settings=dict(settings),
            **runner.provenance,
            device=device_in_words(runner.device),
            dataset=data.data.name,
            stand_in=data.data.stand_in,
            examples=len(data.data.train) + len(data.data.test),
            x=tuple(curve.x),
            y=tuple(curve.y),
            numbers=curve.numbers,
        )
        runner.store.write(measurement, runner.today.probe(measurement, run))
        return measurement
