"""Whether a run fits is known before it starts, and micro-batches are the batch in parts."""

import dataclasses
import math
import os
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from runs import RECIPES, Interruption, ahead, numbers, recipe_of, run, stop_after_epoch, tiny
from torch.profiler import ProfilerActivity, profile

from jellyplus._errors import InputError
from jellyplus.loss import IMLoss, read_out
from jellyplus.reproduction.measures.steps import _train as train_plain
from jellyplus.reproduction.probe.watch import float64, watched
from jellyplus.training import memory
from jellyplus.training.data import DataModule, evaluation_batch
from jellyplus.training.layout import time_first
from jellyplus.training.network import build_network
from jellyplus.training.recipe_files import load_run
from jellyplus.training.train import memory_format

GIB = 2**30


def paper(name, width, **sections):
    """A recipe of the paper's, narrow."""
    return load_run(name, "paper", RECIPES, {"model": {"width": width}} | sections).recipe


# --- The estimate


def peak(recipe, x):
    """What torch's allocator holds at most in a training step beyond what it held before: the profiler's own count."""
    net = build_network(recipe).train()
    net.to(memory_format=memory_format(net))
    loss = IMLoss(net) if recipe.im_loss else lambda: 0
    labels = torch.zeros(len(x), dtype=torch.long)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        (F.cross_entropy(read_out(net(time_first(x))), labels) + loss()).backward()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize(
    ("name", "width", "batch"),
    [("dspike/cifar10_t6", 16, 16), ("imloss/cifar10_cifarnet_t4", 16, 8), ("imloss/cifar10_resnet19_t4", 16, 8)],
)
def test_the_estimate_is_near_the_measured_peak(name, width, batch):
    """Within a fifth; weights and momenta are there before, gradients come in the step."""
    recipe = paper(name, width)
    need = memory.estimate(recipe, (3, 32, 32), "cpu")
    measured = peak(recipe, torch.rand(batch, 3, 32, 32)) + need.weights * 2 / 3
    assert measured == pytest.approx(need.training(batch), rel=0.2)


def test_it_grows_with_batch_and_time_steps_and_ends_up_where_the_issue_says():
    """VGG-16 on ImageNet, T = 5, 320 images, in half precision: about 110 GiB are saved."""
    recipe = paper("dspike/imagenet_vgg16_t5", 64)
    half = memory.estimate(recipe, (3, 224, 224), "cuda")
    assert 320 * half.saved / GIB == pytest.approx(110, abs=2)
    single = memory.estimate(recipe, (3, 224, 224), "cpu")
    assert single.saved == 2 * half.saved
    assert single.weights == half.weights == 12 * sum(p.numel() for p in build_network(recipe).parameters())
    longer = memory.estimate(paper("dspike/imagenet_vgg16_t5", 64, model={"time_steps": 10}), (3, 224, 224), "cpu")
    assert 1.9 < longer.saved / single.saved < 2  # all but the encoding layer


def test_im_loss_keeps_the_potentials_of_the_layers_that_it_reads():
    recipe = paper("imloss/cifar10_cifarnet_t4", 4)
    bare = dataclasses.replace(recipe, im_loss=None)
    more = [memory.estimate(r, (3, 32, 32), "cpu").saved for r in (recipe, bare)]
    channels = 32 * 32 * (4 + 8) + 16 * 16 * 16 + 8 * 8 * (32 + 16) + 32 + 16  # at 32x32, 16x16, 8x8, and linear
    assert more[0] - more[1] == 4 * 4 * channels  # T = 4, four bytes


def test_events_have_their_own_time_steps():
    recipe = paper("tdbn/cifar10dvs_resnet19_t10", 4)
    assert memory.estimate(recipe, (10, 2, 42, 42), "cpu").saved > 0


# --- What is said


def refused(recipe, has, monkeypatch, shape=(3, 32, 32), device="cpu"):
    monkeypatch.setattr(memory, "available", lambda device: has)
    with pytest.raises(InputError) as error:
        _check(recipe, shape, device)
    return str(error.value)


def _check(recipe, shape, device):
    memory.check_network(recipe, device)
    memory.check_run(recipe, shape, device)


def test_a_step_that_does_not_fit_names_the_micro_batch_that_does(monkeypatch):
    recipe = dataclasses.replace(paper("dspike/cifar10_t6", 16), temperature_search=None)
    need = memory.estimate(recipe, (3, 32, 32), "cpu", compressed=True)
    message = refused(recipe, need.training(40), monkeypatch)
    assert message == (
        f"a training step of 128 examples needs about {need.training(128) / GIB:.1f} GiB, "
        f"the machine has {need.training(40) / GIB:.1f}: "
        "state data.micro_batch 32, which changes the statistics of norms, or a smaller model.width"
    )
    small = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, micro_batch=32))
    memory.check_run(small, (3, 32, 32), "cpu")


def test_the_temperature_search_has_a_batch_of_its_own(monkeypatch):
    recipe = paper("dspike/cifar10_t6", 16)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, micro_batch=32))
    has = memory.estimate(recipe, (3, 32, 32), "cpu").training(40)
    message = refused(recipe, has, monkeypatch)
    assert "the temperature search on 128 examples needs about" in message
    assert message.endswith("state temperature_search.batch_size 40")


def test_where_nothing_fits_it_says_so(monkeypatch):
    recipe = paper("dspike/cifar10_t6", 16)
    need = memory.estimate(recipe, (3, 32, 32), "cuda")
    message = refused(recipe, need.training(0.5), monkeypatch, device="cuda")
    assert ", the GPU has " in message
    assert message.endswith("state a smaller data.batch_size or model.width")


def test_evaluation_counts_where_training_is_in_small_parts(monkeypatch):
    recipe = dataclasses.replace(paper("dspike/cifar10_t6", 16, data={"batch_size": 8}), temperature_search=None)
    message = refused(recipe, memory.estimate(recipe, (3, 32, 32), "cpu").training(8), monkeypatch)
    assert message.startswith("the evaluation, 250 examples at a time, needs about")
    assert "state data.micro_batch 8, which" in message


def test_the_weights_alone_may_be_too_many(monkeypatch):
    recipe = paper("dspike/cifar10_t6", 64)
    assert "model.width 64 makes a network of 0 GiB in training" in refused(recipe, 2**20, monkeypatch)


def test_memory_is_the_machines_or_the_gpus(monkeypatch):
    whole = memory.available("cpu")
    assert 2**28 < whole < 2**50
    monkeypatch.setattr(memory, "launch", lambda: SimpleNamespace(per_node=4))
    assert memory.available("cpu") == whole / 4
    monkeypatch.delattr(os, "sysconf")  # as on Windows
    assert memory.available("cpu") == math.inf
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3 * GIB)
    assert memory.available("cuda") == 8 * GIB


def test_unknown_memory_refuses_nothing(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: math.inf)
    memory.check_run(paper("dspike/imagenet_vgg16_t5", 64), (3, 224, 224), "cpu")


# --- Micro-batches


def micro(size, **sections):
    """Batches of 16 in parts, without norm."""
    data = {"batch_size": 16, "micro_batch": size}
    recipe = recipe_of(search=False, data=data, model={"width": 2}, neuron={"backend": "torch"}, **sections)
    return dataclasses.replace(recipe, norm=None)


def test_without_norm_the_gradients_are_those_of_the_whole_batch(tmp_path):
    """In double precision, where no spike hangs on the order of a sum; lambda(i) counts steps."""
    shortcut = load_run("shortcut/cifar10_resnet18_t2_evolutionary", "smoke", RECIPES).recipe.shortcut
    found = []
    for size in (None, 4):
        with float64(), watched() as seen:
            history = run(tmp_path / str(size), dataclasses.replace(micro(size), shortcut=shortcut)).history
        found.append((seen["gradient of step"], seen["weights after step"], history))
    (gradients, weights, history), (in_parts, weights_in_parts, history_in_parts) = found
    assert len(gradients) == len(in_parts) == 12  # three epochs of four steps
    assert all(gradients)
    assert in_parts == pytest.approx(gradients, rel=1e-9)
    assert weights_in_parts == pytest.approx(weights, rel=1e-12)
    for name in ("samples", "learning_rate", "shortcut_weight", "accuracy"):
        assert [entry[name] for entry in history_in_parts] == [entry[name] for entry in history]
    losses = [[entry["train_loss"] for entry in h] for h in (history_in_parts, history)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert history[-1]["shortcut_weight"] == 0  # lambda(i) of the last iteration


def test_norms_take_their_statistics_from_each_micro_batch(tmp_path):
    recipe = dataclasses.replace(micro(8, schedule={"epochs": 1}), norm=recipe_of().norm)
    outcome = run(tmp_path, recipe, tiny(train_examples=16))
    assert outcome.weights["norm1.num_batches_tracked"] == 2


def test_an_interrupted_run_in_micro_batches_goes_on(tmp_path, monkeypatch):
    recipe = recipe_of(search=False, data={"batch_size": 16, "micro_batch": 4})
    whole = run(tmp_path / "whole", recipe)
    with monkeypatch.context() as patch:
        stop_after_epoch(patch, 1)
        with pytest.raises(Interruption):
            run(tmp_path / "interrupted", recipe)
    assert numbers(run(tmp_path / "interrupted", recipe)) == numbers(whole)


def test_a_remainder_is_no_step(tmp_path):
    """Of 40 examples two batches of 16 are shown, in eight micro-batches, and not the ninth."""
    with watched() as seen:
        history = run(tmp_path, micro(4, schedule={"epochs": 1}), tiny(train_examples=40)).history
    assert len(seen["gradient of step"]) == 2
    assert len(seen["outputs in training"]) == 8
    assert "skipped_train" not in history[0]


@pytest.mark.parametrize("look_every", [None, 3])
def test_a_step_that_is_not_finite_is_named_by_its_number(tmp_path, monkeypatch, look_every):
    if look_every:
        ahead(monkeypatch, look_every)  # as on a GPU, in the middle of a step
    recipe = micro(4, optimizer={"learning_rate": 65000.0, "momentum": 0.0}, schedule={"epochs": 3})
    with pytest.raises(InputError, match=r"epoch 1, step [234]\b"):
        run(tmp_path, recipe)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"data": {"micro_batch": 3}}, "micro_batch is 3 and batch_size 128: state a divisor of it, or null"),
        ({"data": {"micro_batch": 0}}, "micro_batch is 0; it must be at least 1"),
        (
            {"data": {"micro_batch": 64}, "finite_differences": {"parameter": "conv1.weight", "epsilon": 0.1}},
            "finite_differences are those of a whole batch: data.micro_batch must be null",
        ),
    ],
)
def test_micro_batches_that_do_not_fit_are_refused(overrides, said):
    name = "dspike/mnist_toy_finite_differences" if "finite_differences" in overrides else "dspike/cifar10_t6"
    with pytest.raises(InputError, match=said):
        load_run(name, "paper", RECIPES, overrides)


def test_measures_that_train_refuse_them():
    recipe = micro(4)
    with pytest.raises(InputError, match=r"the recipe has data\.micro_batch"):
        train_plain(build_network(recipe), DataModule(tiny(), recipe, 0), 1, lambda step: None, None)


def test_recipes_without_them_keep_their_keys():
    run_of = load_run("dspike/cifar10_t6", "paper", RECIPES)
    assert "micro_batch" not in run_of.resolved["data"]
    assert load_run("dspike/cifar10_t6", "paper", RECIPES, {"data": {"micro_batch": 64}}).key != run_of.key


# --- Compressed activations


def test_a_step_that_fits_only_with_compressed_activations_has_them(monkeypatch):
    recipe = dataclasses.replace(paper("tdbn/cifar10_resnet19_t4", 8), temperature_search=None)
    shown = recipe.data.at_once
    plain, compressed = (memory.estimate(recipe, (3, 32, 32), "cpu", how).training(shown) for how in (False, True))
    assert compressed < 0.75 * plain
    for has, expected in ((plain, False), (plain - 1, True), (compressed, True)):
        monkeypatch.setattr(memory, "available", lambda device, has=has: has)
        memory.check_run(recipe, (3, 32, 32), "cpu")
        assert memory.compresses(recipe, (3, 32, 32), "cpu") == expected
    assert "a training step of" in refused(recipe, compressed - 1, monkeypatch)


def test_a_step_keeps_its_memory_where_the_other_passes_fit_beside_it(monkeypatch):
    recipe = paper("dspike/cifar10_t6", 16)
    need = memory.estimate(recipe, (3, 32, 32), "cuda")
    step, evaluation = need.training(recipe.data.at_once), need.evaluation(evaluation_batch(recipe))
    search = need.training(recipe.temperature_search.batch_size)
    for has, expected in ((step + max(evaluation, search), True), (step + max(evaluation, search) - 1, False)):
        monkeypatch.setattr(memory, "available", lambda device, has=has: has)
        assert memory.keeps_steps(recipe, (3, 32, 32), "cuda") is expected
    smaller_last = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, drop_last=False))
    for has, expected in ((2 * step, True), (2 * step - 1, False)):
        monkeypatch.setattr(memory, "available", lambda device, has=has: has)
        assert memory.keeps_steps(smaller_last, (3, 32, 32), "cuda") is expected


def test_in_several_processes_tdbn_keeps_its_outputs(monkeypatch):
    recipe = dataclasses.replace(paper("tdbn/cifar10_resnet19_t4", 8), temperature_search=None)
    alone = memory.estimate(recipe, (3, 32, 32), "cpu", True)
    monkeypatch.setattr(memory, "processes", lambda: 2)
    two, plain = (memory.estimate(recipe, (3, 32, 32), "cpu", how) for how in (True, False))
    assert alone.saved < two.saved < plain.saved


def test_bytes_do_not_become_less_in_half_precision():
    recipe = dataclasses.replace(paper("tdbn/cifar10_resnet19_t4", 8), gpu_precision="16-mixed")
    single, half = (memory.estimate(recipe, (3, 32, 32), device, True) for device in ("cpu", "cuda"))
    assert 0.5 < half.saved / single.saved < 0.7


def test_training_with_compressed_activations_makes_the_same_weights(tmp_path):
    plain, compressed = (run(tmp_path / str(how), compressed=how) for how in (False, True))
    assert numbers(plain) == numbers(compressed)
