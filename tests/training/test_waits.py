"""What a GPU must not wait for: between two looks at it, a training step reads nothing back and copies no list to it.

A step on torch's meta device shows it, whose tensors have no numbers to be read; an epoch of Lightning's loop on the
CPU, in which all calls that would make a GPU wait are counted; and a GPU itself, where there is one.
"""

import dataclasses
import math
import os
from types import SimpleNamespace

import pytest
import torch
from runs import (
    RECIPES,
    Interruption,
    ahead,
    numbers,
    recipe_of,
    run,
    scale_losses,
    stop_after_epoch,
    tiny,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from jellyplus.training import classifier as classifier_module
from jellyplus.training import train as training
from jellyplus.training.checkpoint import load_checkpoint
from jellyplus.training.classifier import Classifier
from jellyplus.training.data import DataModule
from jellyplus.training.network import build_network
from jellyplus.training.recipe_files import load_run

META = torch.device("meta")
LOOK_EVERY = 5
DATA = {"train_examples": 8 * 16}  # eight steps an epoch


# --- What would wait ---------------------------------------------------------------------------------------------


class Elsewhere(TorchDispatchMode):
    """Operations in which a tensor of another device than meta takes part."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        if any(tensor.device.type != "meta" for tensor in tensors):
            self.seen.append(str(func))
        return result


class Waits(TorchFunctionMode):
    """Calls that read numbers of a GPU, or copy numbers to it; each with the step of the epoch."""

    READ = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")
    READ += ("nonzero", "unique", "equal", "allclose", "masked_select")
    COPY = ("tensor", "as_tensor", "new_tensor", "from_numpy")

    def __init__(self):
        super().__init__()
        self.seen, self.module = [], None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in self.READ + self.COPY:
            self.seen.append((len(self.module._seen), func.__name__))
        return func(*args, **(kwargs or {}))


# --- Steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("dspike/cifar10_t6", "imloss/cifar10_cifarnet_t4", "imloss/cifar10_cifarnet_t4_esg"),
        *("inflor/cifar10_resnet20_t4", "inflor/cifar10_ann_resnet19", "imloss/cifar10_cifarnet_t4_no_norm"),
        *("tdbn/cifar10_resnet19_t2", "shortcut/cifar100_resnet18_t2_evolutionary"),
    ],
)
def test_a_training_step_reads_nothing_and_copies_nothing(name, monkeypatch):
    ahead(monkeypatch, look_every=3)
    recipe = load_run(name, "embedded", RECIPES).recipe
    classifier = Classifier(build_network(recipe).to("meta"), recipe, seed=0)
    classifier._trainer = SimpleNamespace(num_training_batches=100, current_epoch=0)
    classifier._loss_sums, classifier._seen = torch.zeros(2, device="meta"), []
    optimizer = torch.optim.SGD(classifier.net.parameters(), lr=0.1, momentum=0.9)
    labels, ids = torch.zeros(2, dtype=torch.int64, device="meta"), torch.arange(2)
    batch = (torch.zeros(2, recipe.model.in_channels, 16, 16, device="meta"), labels, ids)
    with Elsewhere() as elsewhere, Waits() as waits:
        waits.module = classifier
        for step in range(2):
            optimizer.zero_grad()
            classifier.on_train_batch_start(batch, step)
            classifier.training_step(batch).backward()
            optimizer.step()
            classifier.on_train_batch_end(None, batch, step)
        assert waits.seen == []
        with pytest.raises(NotImplementedError, match="meta tensor"):  # the third step is looked at
            classifier.training_step(batch)
    assert elsewhere.seen == ["aten.clone.default"] * 3  # the ids


# --- Epochs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [False, True])
def test_an_epoch_is_looked_at_every_fifth_step_and_at_its_end(tmp_path, monkeypatch, scaled):
    ahead(monkeypatch, LOOK_EVERY)
    if scaled:
        scale_losses(monkeypatch)
    start, waits = Classifier.on_train_epoch_start, Waits()

    def enter(module):
        start(module)
        waits.module = module
        waits.__enter__()

    monkeypatch.setattr(Classifier, "on_train_epoch_start", enter)
    monkeypatch.setattr(Classifier, "on_validation_start", lambda _: waits.__exit__(None, None, None), raising=False)
    run(tmp_path, recipe_of(search=False, schedule={"epochs": 1}), tiny(**DATA), workers=1)
    assert {step for step, _ in waits.seen} == {5, 8}
    assert {name for _, name in waits.seen} == {"tolist"}


@pytest.mark.parametrize("scaled", [False, True])
def test_steps_that_run_ahead_learn_the_same_but_for_rounding(tmp_path, monkeypatch, scaled):
    recipe = recipe_of(search=False, optimizer={"learning_rate": 0.01}, schedule={"epochs": 1})
    weights, history = numbers(run(tmp_path / "every", recipe, tiny(**DATA)))
    ahead(monkeypatch, LOOK_EVERY)
    if scaled:
        scale_losses(monkeypatch)
    found_weights, found_history = numbers(run(tmp_path / "fifth", recipe, tiny(**DATA)))
    assert found_history[0]["samples"] == history[0]["samples"]
    assert found_history[0]["train_loss"] == pytest.approx(history[0]["train_loss"], rel=1e-4)
    found, expected = (torch.tensor(values["fc.weight"]) for values in (found_weights, weights))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_a_first_step_that_is_none_leaves_no_momentum(tmp_path, monkeypatch):
    """torch makes a fused optimizer's momentum in memory as it is, and a step that overflows leaves it so."""
    ahead(monkeypatch, LOOK_EVERY)
    scale_losses(monkeypatch)
    monkeypatch.setattr(torch, "empty_like", lambda x, **_: torch.full_like(x, math.nan))
    original = Classifier.on_before_optimizer_step

    def overflow(module, optimizer):
        original(module, optimizer)
        if len(module._seen) == 1:
            module.net.fc.weight.grad.fill_(math.inf)

    monkeypatch.setattr(Classifier, "on_before_optimizer_step", overflow)
    recipe = recipe_of(search=False, neuron={"backend": "torch"}, schedule={"epochs": 1})
    weights = run(tmp_path, recipe, tiny(**DATA)).weights
    assert all(weight.isfinite().all() for weight in weights.values())


# --- Which runs, and their data ----------------------------------------------------------------------------------


def test_all_runs_on_a_gpu_run_ahead_but_those_with_finite_differences(monkeypatch):
    for name, ahead_on_gpu in (("dspike/cifar10_t6", True), ("dspike/mnist_toy_finite_differences", False)):
        recipe = load_run(name, "embedded", RECIPES).recipe
        classifier = Classifier(build_network(recipe), recipe, seed=0)
        assert not classifier.runs_ahead
        assert classifier.configure_optimizers()["optimizer"].defaults["fused"] is None
        monkeypatch.setattr(Classifier, "device", torch.device("cuda"))
        assert classifier.runs_ahead is ahead_on_gpu
        monkeypatch.undo()


def test_a_state_from_the_cpu_goes_on_on_a_gpu_and_back(tmp_path, monkeypatch):
    recipe = recipe_of(search=False)
    for epoch, on_gpu in enumerate((False, True)):
        with monkeypatch.context() as patch:
            if on_gpu:
                ahead(patch, LOOK_EVERY)
                scale_losses(patch)
            stop_after_epoch(patch, epoch)
            with pytest.raises(Interruption):
                run(tmp_path, recipe)
        (group,) = load_checkpoint(tmp_path / "state")["optimizer_states"][0]["param_groups"]
        assert group["fused"] is (on_gpu or None)
    assert [entry["epoch"] for entry in run(tmp_path, recipe).history] == [0, 1, 2]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_training_batches_are_pinned_for_a_gpu_and_their_processes_forked_last(monkeypatch, device):
    made, started = [], []
    monkeypatch.setattr(training, "DataModule", lambda *arguments, **options: made.append(options) or no_more())
    with pytest.raises(Interruption):
        training.train(recipe_of(), tiny(), 0, device, None, None, "test", workers=1)
    module = DataModule(tiny(), recipe_of(), 0, workers=1, **made[0])
    assert module.train_dataloader().pin_memory is (device == "cuda")
    assert not module.val_dataloader().pin_memory
    monkeypatch.setattr(DataLoader, "__iter__", lambda loader: iter(started.append(loader) or ()))
    module.start_workers()
    assert started == [module.val_dataloader(), module.train_dataloader()]


def no_more():
    raise Interruption


def test_ids_stay_where_they_were_read(monkeypatch):
    recipe = recipe_of()
    classifier = Classifier(build_network(recipe), recipe, seed=0)
    x, labels, ids = classifier.transfer_batch_to_device([torch.ones(2), torch.ones(2), torch.ones(2)], META, 0)
    assert (x.device, labels.device, ids.device) == (META, META, torch.device("cpu"))


def test_an_epoch_keeps_no_files_of_loading_processes_open(tmp_path, monkeypatch):
    """Each tensor of theirs is one, and a process may have some thousand."""
    open_files, end = [], Classifier.on_train_batch_end

    def count(module, *arguments):
        end(module, *arguments)
        open_files.append(len(os.listdir("/proc/self/fd")))

    monkeypatch.setattr(Classifier, "on_train_batch_end", count)
    recipe = recipe_of(search=False, data={"batch_size": 2}, schedule={"epochs": 1})
    run(tmp_path, recipe, tiny(), workers=1)
    assert len(open_files) == 32
    assert max(open_files) < open_files[0] + 16


# --- A GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_torch_sees_no_wait_of_a_gpu_between_looks(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(classifier_module, "_LOOK_EVERY", LOOK_EVERY)
    step, end = Classifier.on_train_batch_start, Classifier.on_train_batch_end

    def start_step(module, *arguments):
        step(module, *arguments)
        torch.cuda.set_sync_debug_mode("default" if (len(module._seen) + 1) in (1, 5, 8) else "error")

    def end_step(module, *arguments):
        end(module, *arguments)
        torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Classifier, "on_train_batch_start", start_step)
    monkeypatch.setattr(Classifier, "on_train_batch_end", end_step)
    recipe = dataclasses.replace(recipe_of(search=False, schedule={"epochs": 1}), gpu_precision=precision)
    history = training.train(recipe, tiny(**DATA), 0, "cuda", tmp_path / "state", None, "test", workers=1).history
    assert math.isfinite(history[0]["train_loss"])
