"""Every method combines with every other: recipes that cover all pairs of choices train, and each choice acts."""

import dataclasses
import functools
import itertools
import random
import tempfile
from pathlib import Path

import pytest
import torch

from jellyplus import datasets
from jellyplus.training import recipe as parts
from jellyplus.training.recipe_files import load_run
from jellyplus.training.train import train

RECIPES = Path(__file__).parents[2] / "recipes"
FIRST = "conv1.weight"

# Every factor's choices as what they replace in the base recipe; the first one is the default.
HARD = {"name": "lif", "decay": 0.25, "v_reset": 0.0, "detach_reset": False, "rectify": False}
FACTORS = {
    "neuron": {
        "LIF": {"neuron": HARD},
        "LIF, soft reset": {"neuron": HARD | {"v_reset": None}},
        "LIF, detached": {"neuron": HARD | {"detach_reset": True}},
        "IF": {"neuron": HARD | {"decay": 1.0}},
        "SRIF": {"neuron": HARD | {"name": "srif", "decay": 1.0, "v_reset": None}},
        "SRIF, MPR": {"neuron": HARD | {"name": "srif", "decay": 1.0, "v_reset": None, "rectify": True}},
    },
    "surrogate": {
        "rectangular": {"surrogate": parts.Surrogate("rectangular", {"width": 1.0})},
        "rectangular, a = 2": {"surrogate": parts.Surrogate("rectangular", {"width": 2.0})},
        "triangular": {"surrogate": parts.Surrogate("triangular", {"gamma": 1.0, "v_threshold": 0.5})},
        "Dspike": {"surrogate": parts.Surrogate("dspike", {"temperature": 3.0})},
        "Dspike, b = 5": {"surrogate": parts.Surrogate("dspike", {"temperature": 5.0})},
        "EvAF": {"surrogate": parts.Surrogate("evaf", {"k": 1.5})},
        "EvAF, k = 3": {"surrogate": parts.Surrogate("evaf", {"k": 3.0})},
    },
    "norm": {
        "tdBN": {},
        "tdBN, alpha 1 everywhere": {"norm": {"branch_alpha": 1.0}},
        "BN": {"norm": {"name": "bn", "alpha": 1.0, "branch_alpha": 1.0}},
        "none": {"norm": None},
    },
    "loss": {
        "cross-entropy": {},
        "IM-Loss": {"im_loss": parts.im_loss.Settings(2.0, "membrane")},
        "IM-Loss of spikes": {"im_loss": parts.im_loss.Settings(0.5, "spikes")},
    },
    "schedule": {
        "cosine": {"schedule": parts.Schedule("cosine", 2, 0.0, None, None)},
        "step": {"schedule": parts.Schedule("step", 2, None, 1, 0.1)},
    },
    "gradient": {
        "surrogate": {},
        "temperature search": {"temperature_search": parts.temperature_search.Settings(FIRST, 0.1, 0.5, 2, "train")},
        "K(i)": {"evolution": parts.evolution.Settings(0.5, 10.0)},
        "finite differences": {"finite_differences": parts.finite_differences.Settings(FIRST, 0.1)},
    },
    "shortcut": {
        "none": {},
        "plain": {"shortcut": parts.shortcut.Settings(1.0, False)},
        "evolutionary": {"shortcut": parts.shortcut.Settings(0.25, True)},
    },
}


DEFAULTS = {factor: next(iter(names)) for factor, names in FACTORS.items()}


def fits(choice):
    """Whether a recipe may have these choices together."""
    gradient, surrogate = choice["gradient"], choice["surrogate"]
    return not (
        (gradient == "temperature search" and not surrogate.startswith("Dspike"))
        or (gradient == "K(i)" and not surrogate.startswith("EvAF"))
        or (gradient == "finite differences" and choice["loss"] != "cross-entropy")
    )


def pairs(choice):
    return set(itertools.combinations(choice.items(), 2))


def covering():
    """Combinations in which every pair of choices that may stand together does, found greedily."""
    draw = random.Random(0)
    product = [dict(zip(FACTORS, names, strict=True)) for names in itertools.product(*FACTORS.values())]
    allowed = [choice for choice in product if fits(choice)]
    open_pairs = set().union(*map(pairs, allowed))
    chosen = []
    while open_pairs:
        best = max(draw.sample(allowed, 1000), key=lambda choice: len(pairs(choice) & open_pairs))
        chosen.append(best)
        open_pairs -= pairs(best)
    return chosen


COVERING = covering()


def test_at_least_forty_combinations_cover_all_pairs():
    """A pair is left out only where it is refused, which the test of contradictory settings has one by one."""
    levels = [(factor, name) for factor, names in FACTORS.items() for name in names]
    possible = {pair for pair in itertools.combinations(levels, 2) if pair[0][0] != pair[1][0]}
    left_out = possible - set().union(*map(pairs, COVERING))
    search, evolution, differences = (
        ("gradient", name) for name in ("temperature search", "K(i)", "finite differences")
    )
    surrogates = [level for level in levels if level[0] == "surrogate"]
    refused = {(level, search) for level in surrogates if not level[1].startswith("Dspike")}
    refused |= {(level, evolution) for level in surrogates if not level[1].startswith("EvAF")}
    refused |= {(("loss", name), differences) for name in ("IM-Loss", "IM-Loss of spikes")}
    assert left_out == refused
    assert len(COVERING) >= 40


# --- Training one of them ----------------------------------------------------------------------------------------


@functools.cache
def tiny():
    """Sixteen images, which are one batch."""
    whole = datasets.load("digits")
    train, test = (datasets.Split(split.inputs[:16], split.labels[:16]) for split in (whole.train, whole.test))
    return dataclasses.replace(whole, train=train, test=test)


@functools.cache
def base():
    """tdBN's recipe on a network of two stages with one block each, T = 2, for one batch of images."""
    recipe = load_run("tdbn/cifar10_resnet19_t2", "embedded", RECIPES).recipe
    options = {"blocks": (1, 1), "shortcut": "conv"}
    model = dataclasses.replace(recipe.model, architecture="resnet18_cifar", width=4, options=options)
    neuron = dataclasses.replace(recipe.neuron, backend="torch")
    data = dataclasses.replace(recipe.data, batch_size=16)
    return dataclasses.replace(recipe, model=model, neuron=neuron, data=data)


def recipe_of(choice):
    changes = {}
    for factor, name in choice.items():
        for part, value in FACTORS[factor][name].items():
            changes[part] = dataclasses.replace(getattr(base(), part), **value) if isinstance(value, dict) else value
    return dataclasses.replace(base(), **changes)


MAIN = ("conv1", "stages.0.0.branch.0", "stages.0.0.branch.3", "stages.1.0.branch.0", "stages.1.0.branch.3", "fc")


@functools.cache
def trained(choice):
    """The main branch's weights after two steps, which are two epochs of one batch."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(recipe_of(dict(choice)), tiny(), 0, "cpu", Path(folder) / "state", None, "test")
    assert [entry["epoch"] for entry in outcome.history] == [0, 1]
    return torch.cat([outcome.weights[f"{name}.weight"].flatten() for name in MAIN])


@pytest.mark.parametrize("choice", COVERING, ids=lambda choice: "; ".join(choice.values()))
def test_two_steps_of_a_combination_change_with_each_of_its_factors(choice):
    weights = trained(tuple(choice.items()))
    assert weights.isfinite().all()
    for factor, default in DEFAULTS.items():
        other = {**choice, factor: default}
        if not fits(other):  # a surrogate's own schedule goes with it
            other |= {"gradient": DEFAULTS["gradient"]}
        acts = not torch.equal(weights, trained(tuple(other.items())))
        assert acts == (choice[factor] != default), (factor, choice)
