"""A state that this run would not have saved is refused with a sentence that names what is odd, and left alone."""

import copy

import pytest
import torch
from runs import Interruption, numbers, recipe_of, run, scale_losses, stop_after_epoch

from jellyplus._errors import InputError
from jellyplus.training.checkpoint import load_checkpoint, save_checkpoint

RECIPE = recipe_of(data={"batch_size": 32}, schedule={"epochs": 3})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The state after two of three epochs."""
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        stop_after_epoch(patch, 1)
        with pytest.raises(Interruption):
            run(folder, RECIPE)
    return load_checkpoint(folder / "state")


def replaced(place, value):
    """An edit of the state, as a dotted path; a function is given what was there."""

    def edit(state):
        *holders, key = place
        for holder in holders:
            state = state[holder]
        state[key] = value(state[key]) if callable(value) else value

    return edit


def without(*place):
    def edit(state):
        *holders, key = place
        for holder in holders:
            state = state[holder]
        del state[key]

    return edit


WEIGHT, BUFFER = "net.conv1.weight", "net.norm1.running_mean"
OPTIMIZER, SCHEDULE, FIT = ("optimizer_states", 0), ("lr_schedulers", 0), ("loops", "fit_loop")
GROUP = (*OPTIMIZER, "param_groups", 0)
MOMENTUM = (*OPTIMIZER, "state", 0, "momentum_buffer")
NAN = float("nan")

EDITS = {
    "no epoch": (without("epoch"), "its epoch is none of 3"),
    "an epoch that never comes": (replaced(["epoch"], 3), "its epoch is none of 3"),
    "a negative epoch": (replaced(["epoch"], -1), "its epoch is none of 3"),
    "half an epoch": (replaced(["epoch"], 0.5), "its epoch is none of 3"),
    "no state of callbacks": (without("callbacks"), "callbacks"),
    "callbacks of others": (replaced(["callbacks"], {"ModelCheckpoint": 3}), "callbacks.ModelCheckpoint"),
    "callbacks that are a list": (replaced(["callbacks"], []), "callbacks"),
    "something more": (replaced(["DataModule"], 5), "DataModule"),
    "no version": (without("pytorch-lightning_version"), "pytorch-lightning_version"),
    "a version that is none": (replaced(["pytorch-lightning_version"], 3), "pytorch-lightning_version"),
    "steps in words": (replaced(["global_step"], "four"), "global_step"),
    "steps of another run": (replaced(["global_step"], 5), "global_step"),
    "no weight": (without("state_dict", WEIGHT), f"state_dict.{WEIGHT}"),
    "a weight too many": (replaced(["state_dict", "net.odd"], torch.zeros(1)), "state_dict.net.odd"),
    "a weight of another size": (replaced(["state_dict", WEIGHT], torch.zeros(2, 3, 3, 3)), WEIGHT),
    "a weight of another type": (replaced(["state_dict", WEIGHT], torch.Tensor.double), WEIGHT),
    "a weight that is no tensor": (replaced(["state_dict", WEIGHT], 0.5), WEIGHT),
    "a weight that is not finite": (replaced(["state_dict", WEIGHT], lambda w: w * NAN), WEIGHT),
    "statistics that are not finite": (replaced(["state_dict", BUFFER], lambda w: w / 0), BUFFER),
    "a temperature of 0": (lambda state: [state["state_dict"][n].zero_() for n in state["state_dict"] if "temp" in n],
                           "temperature"),
    "two temperatures": (lambda state: next(w for n, w in state["state_dict"].items() if "temp" in n).add_(1),
                         "temperature"),
    "no optimizer": (replaced(["optimizer_states"], []), "optimizer_states.0"),
    "another optimizer": (replaced(OPTIMIZER, {"state": {}}), "optimizer_states.0.param_groups"),
    "a setting of another optimizer": (replaced([*GROUP, "betas"], (0, 1)), "0.betas"),
    "another learning rate": (replaced([*GROUP, "lr"], NAN), "0.lr"),
    "parameters of another network": (replaced([*GROUP, "params"], [0, 1]), "0.params.10"),
    "a momentum of another size": (replaced(MOMENTUM, torch.zeros(5)), "0.momentum_buffer"),
    "a momentum that is not finite": (replaced(MOMENTUM, lambda m: m + NAN), "0.momentum_buffer"),
    "a momentum in words": (replaced(MOMENTUM, "fast"), "0.momentum_buffer"),
    "momentum of a parameter too many": (replaced([*OPTIMIZER, "state", 999], {}), "state.999"),
    "no schedule": (replaced(["lr_schedulers"], []), "lr_schedulers.0"),
    "a schedule of length 0": (replaced([*SCHEDULE, "T_max"], 0), "lr_schedulers.0.T_max"),
    "a schedule elsewhere": (replaced([*SCHEDULE, "last_epoch"], 7), "lr_schedulers.0.last_epoch"),
    "a rate in words": (replaced([*SCHEDULE, "_last_lr"], ["fast"]), "lr_schedulers.0._last_lr.0"),
    "no loops": (replaced(["loops"], {}), "loops.fit_loop"),
    "counters in words": (replaced([*FIT, "epoch_progress"], "two"), "epoch_progress"),
    "a negative counter": (replaced([*FIT, "epoch_loop.batch_progress", "current", "ready"], -1), "ready"),
    "a counter that is no number": (replaced([*FIT, "epoch_loop.batch_progress", "total", "ready"], None), "ready"),
    "a history in words": (replaced(["history"], "none"), "history"),
    "a history that is too short": (lambda state: state["history"].pop(), "history.1"),
    "an entry that is none": (replaced(["history", 0], 3), "history.0"),
    "an entry without accuracy": (without("history", 1, "accuracy"), "history.1.accuracy"),
    "more than all of it right": (replaced(["history", 1, "accuracy"], 101.0), "history.1.accuracy"),
    "an accuracy that is no number": (replaced(["history", 0, "accuracy"], NAN), "history.0.accuracy"),
    "a time in words": (replaced(["history", 0, "search_time_s"], "long"), "history.0.search_time_s"),
    "a column of lists of lists": (replaced(["history", 0, "candidates"], [[1]]), "history.0.candidates"),
    "a column of no name": (replaced(["history", 0, 3], 1.0), "history.0.3"),
    "a number without end": (replaced(["history", 0, "odd"], 10**600), "history.0.odd"),
    "a count without end": (replaced(["history", 0, "skipped_test"], 10**600), "history.0.skipped_test"),
    "a negative count": (replaced(["history", 0, "skipped_test"], -1), "history.0.skipped_test"),
    "an entry of another epoch": (replaced(["history", 1, "epoch"], 0), "history.1.epoch"),
    "no origin": (without("origin"), "is not the state of a run"),
    "an origin of another kind": (replaced(["origin", "data"], 5), "is not the state of a run"),
    "an origin that holds itself": (lambda state: state["origin"].update(data=state["origin"]), "is not the state of"),
    "no mapping": ("a list", "is not the state of a run"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_state_is_one_sentence(tmp_path, saved, name):
    edit, reason = EDITS[name]
    state = copy.deepcopy(saved) if callable(edit) else [saved]
    if callable(edit):
        edit(state)
    save_checkpoint(state, tmp_path / "state")
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(InputError) as caught:
        run(tmp_path, RECIPE)
    message = str(caught.value)
    assert (reason if " " in reason else f"{reason} is not what it saves; ") in message
    assert message.startswith(f"{tmp_path / 'state'} ")
    assert message.endswith("; it was left alone: delete it to train from the beginning")
    assert (tmp_path / "state").read_bytes() == before


@pytest.mark.parametrize(
    "recipe",
    [
        recipe_of(search=False, optimizer={"momentum": 0.0}, schedule={"epochs": 2}),
        recipe_of(
            search=False,
            schedule={"name": "step", "epochs": 2, "final_learning_rate": None, "step_epochs": 1, "step_factor": 0.3},
        ),
        recipe_of("mnist_toy_finite_differences", schedule={"epochs": 2}),
    ],
    ids=["without momentum", "in steps", "finite differences"],
)
def test_what_other_recipes_save_is_taken(tmp_path, monkeypatch, recipe):
    """Each in the middle and at the end; most others are in test_combinations."""
    with monkeypatch.context() as patch:
        stop_after_epoch(patch, 0)
        with pytest.raises(Interruption):
            run(tmp_path, recipe)
    first = numbers(run(tmp_path, recipe))
    assert numbers(run(tmp_path, recipe)) == first


def test_the_scale_of_gradients_is_part_of_the_state(tmp_path, monkeypatch):
    scale_losses(monkeypatch)
    recipe = recipe_of(search=False, schedule={"epochs": 2})
    with monkeypatch.context() as patch:
        stop_after_epoch(patch, 0)
        with pytest.raises(Interruption):
            run(tmp_path, recipe)
    state = load_checkpoint(tmp_path / "state")
    (name,) = (name for name in state if name.endswith("Scaled"))
    save_checkpoint(state | {name: state[name] | {"scale": NAN}}, tmp_path / "state")
    with pytest.raises(InputError, match="Scaled is not what it saves"):
        run(tmp_path, recipe)
    save_checkpoint(state, tmp_path / "state")
    assert len(run(tmp_path, recipe).history) == 2
