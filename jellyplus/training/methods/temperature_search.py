"""Dspike's temperature search (Li et al. 2021, Algorithm 1): before every epoch, on one batch.

With several processes each searches on the whole of that batch by itself, as one process would, and all take what
process 0 found: sums over processes, in every one of some thousand passes, would cost more than they share.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn
from tqdm import tqdm

from jellyplus import _compat, functional
from jellyplus._bars import bar
from jellyplus._distributed import alone, from_first, rank
from jellyplus._errors import InputError
from jellyplus.datasets.order import derived_seed
from jellyplus.loss import cross_entropy
from jellyplus.registry import METHODS
from jellyplus.training.layout import time_first
from jellyplus.training.method import Method
from jellyplus.training.refusals import positive, refuse

if TYPE_CHECKING:
    from jellyplus.training.classifier import Classifier
    from jellyplus.training.recipe import Recipe

__all__ = ["SearchTemperature", "Settings", "check_perturbed", "refuse_other_loss"]


@dataclass(frozen=True)
class Settings:
    """See :func:`jellyplus.functional.search_temperature`.

    The batch is ``fixed``: some training examples, the same in every epoch, as evaluation sees them; or ``fresh``:
    those that the epoch begins with, augmented as training sees them. With ``lead``, elements of the parameter are
    compared in an order of the seed and the epoch, until the best candidate leads by so many standard errors.
    """

    parameter: str
    epsilon: float
    step: float
    batch_size: int
    statistics: Literal["train", "eval"]
    batch: Literal["fixed", "fresh"] = "fixed"
    lead: float | None = None

    def __post_init__(self) -> None:
        positive(self, "epsilon", "step", "batch_size")
        if self.lead is not None:
            positive(self, "lead")


@METHODS.register("temperature_search")
class SearchTemperature(Method):
    """Moves the one temperature of the network; what was found, and how long it took, goes into the history."""

    Settings = Settings
    seconds = ("search_time_s",)

    @classmethod
    def check(cls, settings: Settings, recipe: "Recipe") -> None:
        """Only Dspike has a temperature."""
        dspike = recipe.surrogate and recipe.surrogate.name == "dspike"
        refuse(not dspike, "temperature_search needs surrogate dspike: no other has a temperature")
        refuse_other_loss(recipe)

    def check_network(self, net: nn.Module) -> None:
        """See :func:`check_perturbed`."""
        check_perturbed("temperature_search", net, self.settings.parameter, self.settings.statistics == "train")

    def begin_epoch(self, training: "Classifier") -> None:
        """Search and set."""
        started = time.monotonic()
        epoch = training.current_epoch if self.settings.batch == "fresh" else None
        batch = training.trainer.datamodule.search_batch(self.settings.batch_size, epoch)
        x, labels = (t.to(training.device) for t in batch)
        net = training.net
        mode = net.training
        net.train(self.settings.statistics == "train")
        with alone(), self._shown(training) as progress:

            def loss(y_seq: Tensor) -> Tensor:
                progress.update()
                return cross_entropy(y_seq, labels)

            found = functional.search_temperature(
                net,
                self.settings.parameter,
                loss,
                time_first(x),
                self.settings.epsilon,
                self.settings.step,
                lead=self.settings.lead,
                seed=derived_seed(training.seed, training.current_epoch),
            )
        found = from_first(found)
        net.train(mode)
        functional.set_temperature(net, found.temperature)
        said = found._asdict()
        if self.settings.lead is None:  # all were compared, and nothing is left to chance
            del said["elements"], said["errors"]
        training.record(**said, search_time_s=time.monotonic() - started)

    def _shown(self, training: "Classifier") -> tqdm:
        """A bar over the passes, two for each element of the parameter, since the run's own stands still meanwhile."""
        passes = 2 * training.net.get_parameter(self.settings.parameter).numel()
        said = f"temperature search of epoch {training.current_epoch + 1}"
        return bar(total=passes, desc=said, unit="pass", leave=False, mininterval=1, disable=rank() > 0)

    def small(self) -> dict[str, int]:
        """Few examples."""
        return {"batch_size": 2}


def check_perturbed(section: str, net: nn.Module, parameter: str, random: bool) -> None:
    """Refuse a network without that parameter, or, where passes are as ``random`` as in training, with dropout.

    Raises:
        InputError: with the section's name.
    """
    if parameter not in dict(net.named_parameters()):
        raise InputError(f"{section}.parameter: the network has no {parameter}; conv1.weight is the first")
    if random and any(isinstance(module, _compat.DROPOUTS) and module.p > 0 for module in net.modules()):
        raise InputError(f"{section} needs a loss that is not random: state 0 for the dropout of model.options")


def refuse_other_loss(recipe: "Recipe") -> None:
    """Refuse differences of a loss that is not the one trained with."""
    other = recipe.output_loss.name != "cross_entropy"
    refuse(other, "temperature_search and finite_differences are of the cross-entropy: leave output_loss out")
