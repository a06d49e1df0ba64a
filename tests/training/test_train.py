"""A run gives the same numbers however often it was interrupted, learns, and keeps state that is whole and harmless."""

import dataclasses
import errno
import gc
import math
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from runs import RECIPES, Interruption, embedded, numbers, recipe_of, run, spy_on_steps, stop_after_epoch, tiny

from jellyplus import datasets, model
from jellyplus import functional as jellyplus_functional
from jellyplus._errors import InputError
from jellyplus.datasets.transforms import normalisation
from jellyplus.loss import read_out
from jellyplus.neuron import Node, backends
from jellyplus.surrogate import Dspike
from jellyplus.training.checkpoint import is_sealed, load_checkpoint, save_checkpoint, seal
from jellyplus.training.classifier import Classifier
from jellyplus.training.data import DataModule
from jellyplus.training.layout import time_first
from jellyplus.training.methods.temperature_search import SearchTemperature
from jellyplus.training.network import InitialState, build_network
from jellyplus.training.recipe import Normalisation
from jellyplus.training.recipe_files import load_run
from jellyplus.training.train import choose_device, memory_format


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The numbers of the uninterrupted run."""
    return numbers(run(tmp_path_factory.mktemp("whole")))


# --- The same numbers --------------------------------------------------------------------------------------------


def test_two_runs_with_one_seed_are_bit_identical_and_another_seed_differs(tmp_path, whole):
    assert numbers(run(tmp_path / "a")) == whole
    other = numbers(run(tmp_path / "b", seed=1))
    assert other[0] != whole[0]
    assert other[1] != whole[1]


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_run_interrupted_after_an_epoch_ends_with_the_same_numbers(tmp_path, monkeypatch, whole, epoch):
    with monkeypatch.context() as patch:
        stop_after_epoch(patch, epoch)
        with pytest.raises(Interruption):
            run(tmp_path)
    seen = {}
    spy_on_steps(monkeypatch, seen)
    torch.rand(7)  # another random state
    assert numbers(run(tmp_path)) == whole
    assert {e for e, _ in seen} == set(range(epoch + 1, 3))  # finished epochs are not run again


@pytest.mark.parametrize("stop_at", [(0, 2), (1, 0), (2, 3)])
def test_a_run_interrupted_within_an_epoch_repeats_that_epoch(tmp_path, monkeypatch, whole, stop_at):
    with monkeypatch.context() as patch:
        spy_on_steps(patch, {}, stop_at)
        with pytest.raises(Interruption):
            run(tmp_path)
    assert (tmp_path / "state").exists() is (stop_at[0] > 0)
    seen = {}
    spy_on_steps(monkeypatch, seen)
    assert numbers(run(tmp_path)) == whole
    assert min(seen) == (stop_at[0], 0)


def test_lightnings_variables_change_nothing_and_are_named_once(tmp_path, monkeypatch, whole, capfd):
    variables = {"PL_TRAINER_LIMIT_TRAIN_BATCHES": "1", "PL_TRAINER_FAST_DEV_RUN": "True", "PL_GLOBAL_SEED": "7"}
    variables |= {"PL_TRAINER_GRADIENT_CLIP_VAL": "1e-9", "PL_TRAINER_OVERFIT_BATCHES": "1", "PL_SEED_WORKERS": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert numbers(run(tmp_path / "a")) == whole
    run(tmp_path / "b", recipe_of(schedule={"epochs": 1}))
    said = [line for line in capfd.readouterr().err.splitlines() if "PL_TRAINER_FAST_DEV_RUN" in line]
    assert len(said) == 1
    assert all(name in said[0] for name in variables)
    assert {name: os.environ.get(name) for name in variables} == variables  # they are the user's


@pytest.mark.parametrize("tasks", ["1", None])
def test_slurm_does_not_requeue_a_run_and_what_it_left_is_not_resumed_from(tmp_path, monkeypatch, whole, tasks):
    variables = {"SLURM_NTASKS": tasks, "SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    for name, value in variables.items():
        if tasks:
            monkeypatch.setenv(name, value)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of an earlier version")
    (tmp_path / "hpc_ckpt_x.ckpt").write_bytes(b"")
    asked, step = [], Classifier.training_step

    def look(self, batch):
        asked.append(signal.getsignal(signal.SIGUSR1))
        return step(self, batch)

    monkeypatch.setattr(Classifier, "training_step", look)
    assert numbers(run(tmp_path)) == whole
    assert set(asked) == {signal.SIG_DFL}
    assert {path.name for path in tmp_path.iterdir()} == {"hpc_ckpt_1.ckpt", "hpc_ckpt_x.ckpt", "state"}


def die_in_epoch_1(folder):
    """For the subprocess of the next test: no handler, no clean-up."""
    step = Classifier.training_step

    def deadly(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch)

    Classifier.training_step = deadly
    run(Path(folder))


def test_a_killed_process_ends_with_the_same_numbers(tmp_path, whole):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_train; test_train.die_in_epoch_1(sys.argv[2])"
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    killed = subprocess.run(arguments, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert numbers(run(tmp_path)) == whole


def test_loading_processes_are_forked_before_training_with_all_objects_frozen(tmp_path, monkeypatch):
    """Or the collector would write to what they share, and their memory would grow for many epochs."""
    seen, original = [], DataModule.start_workers

    def start(module):
        original(module)
        started = all(loader._iterator is not None for loader in (module.train_dataloader(), module.val_dataloader()))
        seen.append((started, gc.get_freeze_count()))

    monkeypatch.setattr(DataModule, "start_workers", start)
    run(tmp_path, workers=1)
    ((started, frozen),) = seen
    assert started
    assert frozen > 10_000
    assert gc.get_freeze_count() == 0


def test_a_finished_state_trains_nothing_more(tmp_path, monkeypatch, whole):
    run(tmp_path)
    seen = {}
    spy_on_steps(monkeypatch, seen)
    assert numbers(run(tmp_path)) == whole
    assert not seen


def test_batches_and_draws_follow_from_seed_epoch_and_step(tmp_path, monkeypatch):
    first, other = {}, {}
    with monkeypatch.context() as patch:
        spy_on_steps(patch, first)
        run(tmp_path / "a", recipe_of(search=False))
    with monkeypatch.context() as patch:
        spy_on_steps(patch, other)
        run(tmp_path / "b", recipe_of(search=False, optimizer={"learning_rate": 0.001}, model={"width": 2}))
    assert sorted(first) == [(epoch, step) for epoch in range(3) for step in range(4)]
    for at in first:  # another network, and yet the same examples, crops and draws
        assert (first[at].inputs, first[at].labels, first[at].drawn) == (
            (other[at].inputs, other[at].labels, other[at].drawn)
        )
    assert len({at.drawn for at in first.values()}) == 12
    assert len({str(at.inputs) for at in first.values()}) == 12
    with monkeypatch.context() as patch:
        spy_on_steps(patch, other)
        run(tmp_path / "c", recipe_of(search=False), seed=1)
    assert all(first[at].drawn != other[at].drawn and first[at].inputs != other[at].inputs for at in first)


def test_every_epoch_shows_full_batches_of_different_examples(tmp_path, monkeypatch):
    seen = {}
    spy_on_steps(monkeypatch, seen)
    data = tiny(train_examples=40)
    run(tmp_path, recipe_of(search=False, data={"augmentation": ()}), data)
    assert sorted(seen) == [(epoch, step) for epoch in range(3) for step in range(2)]  # 8 of 40 are dropped
    for epoch in range(3):
        shown = [tuple(torch.tensor(x).flatten().tolist()) for s in range(2) for x in seen[epoch, s].inputs]
        assert len(set(shown)) == len(shown) == 32


def test_the_short_last_batch_of_an_epoch_is_a_step_where_it_is_kept(tmp_path, monkeypatch):
    seen = {}
    spy_on_steps(monkeypatch, seen)
    recipe = recipe_of(search=False, data={"augmentation": (), "drop_last": False})
    outcome = run(tmp_path, recipe, tiny(train_examples=40))
    assert sorted(seen) == [(epoch, step) for epoch in range(3) for step in range(3)]
    for epoch in range(3):
        assert [len(seen[epoch, step].inputs) for step in range(3)] == [16, 16, 8]
        shown = [tuple(torch.tensor(x).flatten().tolist()) for s in range(3) for x in seen[epoch, s].inputs]
        assert len(set(shown)) == len(shown) == 40
    assert not any("skipped_train" in entry for entry in outcome.history)


@pytest.mark.parametrize("name", ["imloss/cifar10_resnet19_t4", "inflor/cifar10_resnet20_t4"])
def test_a_run_of_public_code_trains(tmp_path, name):
    """Narrow, on stand-in data: that its parts go together."""
    blocks = (1, 1, 1) if "resnet19" in name else (1, 1, 1, 1)
    small = {"model": {"width": 4, "time_steps": 2, "options": {"blocks": blocks}}, "schedule": {"epochs": 1}}
    recipe = load_run(name, "official", RECIPES, small | {"data": {"batch_size": 16}}).recipe
    outcome = run(tmp_path, recipe, tiny(train_examples=40))
    assert all(math.isfinite(value.sum()) for value in outcome.weights.values())
    assert ("im_loss" in outcome.history[-1]) == name.startswith("imloss")


def cifar10_of_its_size():
    """As many black images as CIFAR-10 has, in the memory of one."""
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    train, test = (datasets.Split(image.expand(n, -1, -1, -1), torch.zeros(n).long()) for n in (50_000, 10_000))
    return dataclasses.replace(tiny(), name="cifar10", train=train, test=test)


@pytest.mark.parametrize(("profile", "steps", "last"), [("paper", 390, 128), ("official", 391, 80)])
def test_cifar10_has_390_steps_an_epoch_and_in_the_public_code_391(profile, steps, last):
    recipe = load_run("inflor/cifar10_resnet20_t4", profile, RECIPES).recipe
    loader = DataModule(cifar10_of_its_size(), recipe, seed=0).train_dataloader()
    sizes = [len(batch) for batch in loader.batch_sampler]
    assert (len(loader), len(sizes), sizes[0], sizes[-1]) == (steps, steps, 128, last)


def test_the_public_codes_cutout_leaves_a_hole_of_minus_2_4():
    """(0 - 0.4914) / 0.2023 and so on: black. The paper's own recipe has the mean there."""
    data = cifar10_of_its_size()
    white = datasets.Split(torch.full_like(data.train.inputs[:1], 255), data.train.labels[:1])
    holes = {}
    for profile in ("official", "paper"):
        recipe = load_run("inflor/cifar10_resnet20_t4", profile, RECIPES, {"data": PLAIN[profile]}).recipe
        image, *_ = DataModule(dataclasses.replace(data, train=white), recipe, seed=0).train[0, 0]
        holes[profile] = image.amin((-2, -1)).tolist()
    assert holes["official"] == pytest.approx([-0.4914 / 0.2023, -0.4822 / 0.1994, -0.4465 / 0.2010])
    assert holes["official"][0] == pytest.approx(-2.43, abs=0.005)
    assert holes["paper"] == [0.0, 0.0, 0.0]


_CUTOUT = {"augmentation": ["cutout"], "batch_size": 1}
PLAIN = {"paper": _CUTOUT, "official": _CUTOUT | {"autoaugment_fill": 0, "autoaugment_interpolation": "nearest"}}


def test_constants_of_the_recipe_normalise_training_and_test_images():
    constants = Normalisation(mean=(0.5, 0.25, 0.0), std=(0.5, 0.125, 2.0))
    module = DataModule(cifar10_of_its_size(), recipe_of(data={"augmentation": (), "normalisation": constants}), seed=0)
    for image in (module.train[0, 0][0], module.test[0][0]):
        assert image[:, 0, 0].tolist() == [-1.0, -2.0, 0.0]


needs_cpp = pytest.mark.skipif(backends.obstacle("cpp") is not None, reason="the compiled path cannot run here")


def test_deterministic_torch_does_not_fill_the_memory_that_it_makes(tmp_path, monkeypatch):
    """It would take as long as a node itself."""
    step, seen = Classifier.training_step, []

    def spied(self, batch):
        flags = (torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)
        seen.append(flags)
        return step(self, batch)

    monkeypatch.setattr(Classifier, "training_step", spied)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    run(tmp_path, recipe_of(search=False, schedule={"epochs": 1}))
    assert set(seen) == {(True, False)}


@needs_cpp
def test_how_many_threads_the_compiled_path_has_changes_no_number(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)  # asked by the compiled path alone
    outcome = run(tmp_path)
    assert outcome.backend == "cpp"
    assert numbers(outcome) == whole


def test_a_finished_network_is_on_the_cpu_and_its_neurons_on_torch(tmp_path):
    net = run(tmp_path, recipe_of(search=False, schedule={"epochs": 1})).net
    assert {module.backend for module in net.modules() if isinstance(module, Node)} == {"torch"}


def test_without_a_compiler_training_runs_on_torch(tmp_path, monkeypatch):
    found = backends.Obstacle("no C++ compiler found", "install g++")
    monkeypatch.setattr(backends.cpp_backend, "obstacle", lambda: found)
    outcome = run(tmp_path / "auto")
    assert outcome.backend == "torch"
    assert numbers(outcome) == numbers(run(tmp_path / "torch", recipe_of(neuron={"backend": "torch"})))
    with pytest.raises(InputError, match=r"no C.. compiler found; install g"):
        run(tmp_path / "cpp", recipe_of(neuron={"backend": "cpp"}))
    assert not (tmp_path / "cpp").exists()


@needs_cpp
def test_the_search_finds_the_same_on_every_backend():
    """Its finite differences fold many perturbations into a batch; its gradients differ by rounding."""
    recipe, found = recipe_of(model={"width": 2}), {}
    x, labels = DataModule(tiny(), recipe, seed=0).search_batch(4)
    for backend in ("torch", "cpp"):
        torch.manual_seed(0)
        net = build_network(recipe, backend)
        loss = lambda y_seq: F.cross_entropy(read_out(y_seq), labels)  # noqa: E731
        found[backend] = jellyplus_functional.search_temperature(net, "conv1.weight", loss, time_first(x))
    assert found["cpp"].temperature == found["torch"].temperature
    assert found["cpp"].similarities == pytest.approx(found["torch"].similarities, abs=1e-4)


# --- What is learnt ----------------------------------------------------------------------------------------------


def test_the_loss_falls_on_a_few_examples(tmp_path):
    data = tiny(train_examples=16)
    settings = {"data": {"augmentation": (), "batch_size": 8}, "optimizer": {"learning_rate": 0.1}}
    recipe = recipe_of(search=False, model={"width": 4}, schedule={"epochs": 12}, **settings)
    history = run(tmp_path, recipe, data).history
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]  # 0.80 to 0.84 with other seeds


@pytest.fixture(scope="module")
def learning():
    data = tiny(train_examples=640, test_examples=240)
    settings = {"data": {"augmentation": ()}, "optimizer": {"learning_rate": 0.2}}
    return data, recipe_of(search=False, model={"width": 6}, schedule={"epochs": 4}, **settings)


def test_true_labels_are_learnt(tmp_path, learning):
    data, recipe = learning
    assert run(tmp_path, recipe, data).history[-1]["accuracy"] > 40  # 66 and more with other seeds


def test_shuffled_labels_stay_near_chance(tmp_path, learning):
    data, recipe = learning
    labels = data.train.labels[torch.randperm(640, generator=torch.Generator().manual_seed(0))]
    data = dataclasses.replace(data, train=datasets.Split(data.train.inputs, labels))
    assert run(tmp_path, recipe, data).history[-1]["accuracy"] < 20  # 10 and two standard deviations are 14


def test_event_frames_are_learnt_from(tmp_path):
    data = tiny("moving_digits", 16, 8)
    recipe = recipe_of("cifar10dvs_t10", schedule={"epochs": 1}, temperature_search={"batch_size": 2})
    outcome = run(tmp_path, recipe, data)
    assert outcome.net.time_steps == 10
    assert math.isfinite(outcome.history[0]["train_loss"])


def test_initial_weights_are_where_training_starts(tmp_path):
    ann = build_network(recipe_of("cifar10_ann"))
    weights = {name: value.clone() for name, value in ann.state_dict().items()}
    still = {"learning_rate": 0.0, "weight_decay": 0.0}
    recipe = recipe_of(optimizer=still, schedule={"epochs": 1})
    recipe = dataclasses.replace(recipe, initial_weights=embedded("cifar10_t6").initial_weights)
    outcome = run(tmp_path, recipe, initial_state=InitialState(weights, spiking=False))
    assert all(torch.equal(value, weights[name]) for name, value in outcome.net.named_parameters())
    assert not torch.equal(outcome.net.norm1.running_mean, weights["norm1.running_mean"])
    assert len(outcome.left_over) == 19  # temperatures


def test_narrow_strided_1x1_convolutions_are_not_trained_channels_last():
    """torch 2.14.1 corrupts memory there."""
    wide, narrow = (model.resnet19(width=width, time_steps=1) for width in (8, 4))
    assert memory_format(wide) is torch.channels_last
    assert memory_format(narrow) is torch.contiguous_format
    assert memory_format(model.dspike_resnet18(width=1)) is torch.channels_last  # it pools, and then convolves


@pytest.mark.parametrize("name", ["mnist_toy_finite_differences", "mnist_toy_rectangular"])
def test_finite_differences_train_in_the_format_that_is_fast_for_them(name, tmp_path, monkeypatch):
    contiguous, original = [], Classifier.training_step

    def spied(self, batch):
        contiguous.append(self.net.conv1.weight.is_contiguous())
        return original(self, batch)

    monkeypatch.setattr(Classifier, "training_step", spied)
    run(tmp_path, recipe_of(name, schedule={"epochs": 1}))
    assert set(contiguous) == {name == "mnist_toy_finite_differences"}


# --- What is recorded --------------------------------------------------------------------------------------------


def test_the_history_has_an_entry_an_epoch(whole):
    keys = {"epoch", "learning_rate", "accuracy", "train_loss", "samples", "temperature", "candidates", "similarities"}
    assert [entry["epoch"] for entry in whole[1]] == [0, 1, 2]
    assert all(entry.keys() == keys for entry in whole[1])


def test_times_are_in_the_history_and_the_search_is_part_of_the_whole(tmp_path):
    for entry in run(tmp_path).history:
        assert 0 < entry["search_time_s"] < entry["time_s"] < 60


def test_without_a_search_the_history_has_none(tmp_path):
    entry = run(tmp_path, recipe_of(search=False, schedule={"epochs": 1})).history[0]
    assert entry.keys() == {"epoch", "learning_rate", "accuracy", "train_loss", "samples", "time_s"}


def test_accuracy_is_that_of_the_network_on_the_test_split(tmp_path, learning):
    data = tiny()
    outcome = run(tmp_path, recipe_of(model={"width": 2}), data)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (data.mean, data.std))
    x = (data.test.inputs / 255 - mean) / std
    with torch.no_grad():
        y = outcome.net.eval()(x[None])
    right = [int(sum(step[i] for step in y).argmax()) == int(data.test.labels[i]) for i in range(len(x))]
    assert outcome.history[-1]["accuracy"] == pytest.approx(100 * sum(right) / len(right))


def test_train_loss_is_the_mean_over_the_steps(tmp_path, monkeypatch):
    seen = {}
    spy_on_steps(monkeypatch, seen)
    history = run(tmp_path, recipe_of(search=False)).history
    for epoch in range(3):
        assert history[epoch]["train_loss"] == pytest.approx(sum(seen[epoch, step].loss for step in range(4)) / 4)


@pytest.mark.parametrize(
    ("epochs", "final", "rates"),
    [(4, 0.0, [0.4, 0.341421356, 0.2, 0.058578644]), (2, 0.1, [0.4, 0.25]), (1, 0.0, [0.4])],
)
def test_the_learning_rate_follows_the_cosine(tmp_path, monkeypatch, epochs, final, rates):
    seen = {}
    spy_on_steps(monkeypatch, seen)
    schedule = {"epochs": epochs, "final_learning_rate": final}
    history = run(tmp_path, recipe_of(search=False, optimizer={"learning_rate": 0.4}, schedule=schedule)).history
    assert [entry["learning_rate"] for entry in history] == pytest.approx(rates)
    assert [seen[epoch, step].rate for epoch in range(epochs) for step in (0, 3)] == pytest.approx(
        [rate for rate in rates for _ in range(2)]
    )


def test_the_optimizer_is_the_recipes_over_all_parameters():
    settings = {"learning_rate": 0.3, "momentum": 0.7, "nesterov": True, "weight_decay": 0.02}
    recipe = recipe_of(optimizer=settings)
    net = build_network(recipe)
    optimizer = Classifier(net, recipe, seed=0).configure_optimizers()["optimizer"]
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.3, 0.7, True, 0.02)
    assert {id(p) for p in group["params"]} == {id(p) for p in net.parameters()}


def test_the_read_out_is_the_mean_over_time():
    y_seq = torch.tensor([[[1.0, 4.0]], [[3.0, 0.0]]])  # T = 2, one example, two classes
    assert read_out(y_seq).tolist() == [[2.0, 2.0]]


def test_images_get_a_time_dimension_and_event_frames_time_first():
    assert time_first(torch.zeros(5, 3, 8, 8)).shape == (1, 5, 3, 8, 8)
    frames = torch.arange(2 * 3).view(2, 3, 1, 1, 1)  # N = 2, T = 3
    assert time_first(frames).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("name", ["cifar10_t6", "cifar10_ann"])
def test_macs_are_those_counted_by_hand(tmp_path, name):
    """Width 2, 3x16x16, one example in one time-step, padded taps included: pixels x taps x output channels."""
    stem = 256 * 27 * 2 + 256 * 18 * 2 + 64 * 18 * 2
    stages = 4 * 64 * 18 * 2
    for pixels, before, channels in [(16, 2, 4), (4, 4, 8), (1, 8, 16)]:
        stages += pixels * channels * (9 * before + 3 * 9 * channels + before)
    hand = stem + stages + 16 * 10
    assert hand == 59296
    recipe = recipe_of(name, search=False, model={"width": 2}, schedule={"epochs": 1})
    outcome = run(tmp_path, recipe)
    assert outcome.operations.count().total.macs == outcome.operations.time_steps * hand
    assert outcome.net.time_steps == recipe.model.time_steps


# --- The temperature search --------------------------------------------------------------------------------------


def spy_on_search(monkeypatch, seen, keep=False):
    """Note every search; with ``keep``, let it find that the temperature is best as it is."""
    search = jellyplus_functional.search_temperature

    def spied(net, name, loss, x, epsilon, step, **others):
        before = next(module.temperature.item() for module in net.modules() if isinstance(module, Dspike))
        found = search(net, name, loss, x, epsilon, step, **others)
        record = {"training": net.training, "x": x, "settings": (name, epsilon, step), "before": before}
        y = torch.randn(1, x.shape[1], 10, generator=torch.Generator().manual_seed(0))
        seen.append(SimpleNamespace(**record, loss=loss(y).item(), logits=y))
        return found._replace(temperature=before) if keep else found

    monkeypatch.setattr(jellyplus_functional, "search_temperature", spied)


def test_the_search_uses_one_batch_of_training_examples_as_they_are(tmp_path, monkeypatch):
    seen, data = [], tiny()
    spy_on_search(monkeypatch, seen)
    run(tmp_path, recipe_of(temperature_search={"batch_size": 5, "epsilon": 0.07, "step": 0.3}))
    assert len(seen) == 3
    assert all(search.settings == ("conv1.weight", 0.07, 0.3) for search in seen)
    assert seen[0].x.shape == (1, 5, 3, 16, 16)
    assert all(torch.equal(search.x, seen[0].x) and search.loss == seen[0].loss for search in seen)
    examples = zip(normalisation(data)(data.train.inputs).flatten(1).tolist(), data.train.labels.tolist(), strict=True)
    known = {tuple(pixels): label for pixels, label in examples}
    labels = torch.tensor([known[tuple(x.flatten().tolist())] for x in seen[0].x[0]])
    assert seen[0].loss == pytest.approx(F.cross_entropy(seen[0].logits[0], labels).item())


@pytest.mark.parametrize("examples", [1, 10, 14, 31, 40])
def test_a_test_sample_is_even_over_classes_of_any_order(examples):
    """33 examples of 4 classes, sorted as folders are: 3, 10, 10 and 10; every class gives as many as it can."""
    labels = torch.arange(4).repeat_interleave(torch.tensor([3, 10, 10, 10]))
    inputs = labels[:, None, None, None].expand(-1, 1, 16, 16).to(torch.uint8)
    data = dataclasses.replace(tiny(), classes=10, test=datasets.Split(inputs, labels))
    module = DataModule(data, recipe_of(), 0)
    sample = module.test_sample(examples)
    of_class = [
        (sample[:, 0, 0, 0] == value).sum().item() for value in normalisation(data)(inputs)[:, 0, 0, 0].unique()
    ]
    assert sum(of_class) == min(examples, 33)
    assert max(of_class[1:]) - min(of_class[1:]) <= 1
    assert of_class[0] == 3 or max(of_class) - min(of_class) <= 1
    assert torch.equal(sample, DataModule(data, recipe_of(), 1).test_sample(examples))


def test_the_search_batch_follows_the_seed():
    batches = [DataModule(tiny(), recipe_of(), seed).search_batch(8)[0] for seed in (0, 0, 1)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


@pytest.mark.parametrize("batch", ["fixed", "fresh"])
def test_the_search_sees_one_batch_or_the_one_that_each_epoch_begins_with(tmp_path, monkeypatch, batch):
    recipe = recipe_of(temperature_search={"batch_size": 16, "batch": batch})
    seen, searched, search = {}, [], jellyplus_functional.search_temperature
    spy_on_steps(monkeypatch, seen)

    def spied(net, name, loss, x, *settings, **others):
        searched.append(x[0].tolist())
        return search(net, name, loss, x, *settings, **others)

    monkeypatch.setattr(jellyplus_functional, "search_temperature", spied)
    run(tmp_path, recipe)
    begun = [seen[epoch, 0].inputs for epoch in range(3)]  # cropped at random, of 16 examples too
    assert (searched == begun) == (batch == "fresh")
    assert (searched == searched[:1] * 3) == (batch == "fixed")


def test_the_sample_of_test_data_is_even_over_classes_and_does_not_depend_on_their_order():
    whole = datasets.load("digits")
    by_class = dataclasses.replace(whole, test=whole.test.at(whole.test.labels.argsort()))
    one, other, third = (DataModule(data, recipe_of(), seed) for data, seed in ((whole, 0), (by_class, 0), (whole, 1)))
    sample = one.test_sample(100)
    assert torch.equal(sample, other.test_sample(100))
    assert torch.equal(sample, third.test_sample(100))  # whatever the run's seed
    pixels = normalisation(whole)(whole.test.inputs)
    labels = torch.tensor([whole.test.labels[(pixels == x).flatten(1).all(1)][0] for x in sample])
    assert labels.bincount().tolist() == [10] * 10
    assert torch.equal(one.test_sample(10**6), pixels)


def test_all_temperatures_move_together_to_the_best_candidate(tmp_path):
    outcome = run(tmp_path)
    b = 1.0
    for entry in outcome.history:
        assert entry["candidates"] == pytest.approx([c for c in (b, b - 0.2, b + 0.2) if c >= 0.1])
        assert len(entry["similarities"]) == len(entry["candidates"])
        b = entry["temperature"]
        assert b == entry["candidates"][entry["similarities"].index(max(entry["similarities"]))]
    assert b != 1.0  # this run does move
    temperatures = [module.temperature.item() for module in outcome.net.modules() if isinstance(module, Dspike)]
    assert temperatures == pytest.approx([b] * 19)


def test_a_search_for_a_lead_says_how_much_it_compared_in_an_order_of_the_seed_and_the_epoch(tmp_path, monkeypatch):
    seeds = []
    search = jellyplus_functional.search_temperature

    def spy(*arguments, **options):
        seeds.append(options["seed"])
        return search(*arguments, **options)

    monkeypatch.setattr(jellyplus_functional, "search_temperature", spy)
    outcome = run(tmp_path, recipe_of(temperature_search={"lead": 0.1}))
    whole = outcome.net.conv1.weight.numel()
    assert all(0 < entry["elements"] <= whole for entry in outcome.history)
    assert all(len(entry["errors"]) == len(entry["candidates"]) for entry in outcome.history)
    assert min(entry["elements"] for entry in outcome.history) < whole
    assert len(set(seeds)) == len(outcome.history)
    assert "elements" not in run(tmp_path / "all").history[0]


@pytest.mark.parametrize("statistics", ["train", "eval"])
def test_the_search_uses_the_statistics_that_the_recipe_names(tmp_path, monkeypatch, statistics):
    seen, modes = [], []
    spy_on_search(monkeypatch, seen)
    step = Classifier.training_step
    monkeypatch.setattr(
        Classifier, "training_step", lambda self, batch, _: (modes.append(self.net.training), step(self, batch))[1]
    )
    run(tmp_path, recipe_of(temperature_search={"statistics": statistics}))
    assert [search.training for search in seen] == [statistics == "train"] * 3
    assert all(modes)  # training goes on in training mode


@pytest.mark.parametrize("statistics", ["train", "eval"])
def test_a_search_that_keeps_the_temperature_changes_nothing(tmp_path, monkeypatch, statistics):
    without = run(tmp_path / "without", recipe_of(search=False))
    seen = []
    spy_on_search(monkeypatch, seen, keep=True)
    with_search = run(tmp_path / "with", recipe_of(temperature_search={"statistics": statistics}))
    assert len(seen) == 3
    assert numbers(with_search)[0] == numbers(without)[0]


@pytest.mark.parametrize("statistics", ["train", "eval"])
def test_the_search_leaves_statistics_neurons_and_random_state_alone(statistics):
    recipe = recipe_of(temperature_search={"statistics": statistics})
    module = Classifier(build_network(recipe), recipe, seed=0)
    module.net.train()
    trainer = SimpleNamespace(datamodule=DataModule(tiny(), recipe, seed=0))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    known = {name: getattr(module, name) for name in ("net", "device", "seed", "current_epoch", "record")}
    SearchTemperature(recipe.temperature_search).begin_epoch(SimpleNamespace(trainer=trainer, **known))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in module.state_dict().items():
        assert name.endswith("temperature") or torch.equal(value, before[name]), name
    assert module.net.training
    assert all(parameter.grad is None for parameter in module.net.parameters())


def test_a_search_over_a_parameter_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"temperature_search\.parameter"):
        run(tmp_path / "out", recipe_of(temperature_search={"parameter": "conv0.weight"}))
    assert not (tmp_path / "out").exists()


# --- Recipes that do not fit the data ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "section", "key", "value", "reason"),
    [
        ("cifar10_t6", "digits", "model", "num_classes", 100, "model.num_classes is 100 and digits has 10"),
        ("cifar10_t6", "digits", "model", "in_channels", 2, "model.in_channels is 2 and digits has 3"),
        ("cifar10dvs_t10", "moving_digits", "model", "time_steps", 6, "time_steps is 6 and moving_digits has 10"),
        ("cifar10_t6", "digits", "data", "batch_size", 65, "data.batch_size is 65 and digits has 64 training examples"),
        ("cifar10_t6", "digits", "data", "augmentation", ("roll",), "roll does not fit the images of digits"),
        ("cifar10_t6", "digits", "data", "augmentation", ("blur",), "there is no augmentation 'blur'"),
        ("cifar10_t6", "digits", "data", "crop_padding", -1, "crop_padding is -1"),
        ("cifar10_t6", "digits", "data", "normalisation", Normalisation((0.5,), (1.0,)), "1 channels and digits has 3"),
        (
            "cifar10dvs_t10",
            "moving_digits",
            "data",
            "normalisation",
            Normalisation((0.0,) * 2, (1.0,) * 2),
            "has events",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_the_data_is_refused(tmp_path, name, data, section, key, value, reason):
    with pytest.raises(InputError, match=reason) as caught:
        run(tmp_path / "out", recipe_of(name, **{section: {key: value}}), tiny(data))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_cuda_without_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cuda, but torch sees no CUDA device here"):
        choose_device("cuda")
    assert (choose_device("auto"), choose_device("cpu")) == ("cpu", "cpu")


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


# --- State and checkpoints ---------------------------------------------------------------------------------------


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_state_before_intact(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        stop_after_epoch(patch, 0)
        with pytest.raises(Interruption):
            run(tmp_path)
    before = (tmp_path / "state").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device") as caught:
            run(tmp_path)
    assert str(tmp_path / "state") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "state").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert numbers(run(tmp_path)) == whole  # goes on once there is space


def test_a_full_disk_leaves_no_part_of_a_first_state(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_come_back_as_they_were(tmp_path):
    content = {"weights": {"a": torch.randn(3)}, "history": [{"epoch": 0, "similarities": (0.5, 0.25)}]}
    save_checkpoint(content, tmp_path / "new" / "file")
    loaded = load_checkpoint(tmp_path / "new" / "file")
    assert torch.equal(loaded["weights"]["a"], content["weights"]["a"])
    assert loaded["history"] == content["history"]


CONTENT = {
    "state_dict": {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3), "empty": torch.zeros(0)},
    "history": [{"epoch": 0, "accuracy": 50.0, "similarities": (0.5, float("nan"))}],
    "loops": {"epoch": 1, "name": None},
}


def _other_weight(content):
    content["state_dict"]["weight"][1, 2] = 7.0


@pytest.mark.parametrize(
    "edit",
    [
        _other_weight,
        lambda content: content["state_dict"].update(weight=content["state_dict"]["weight"].reshape(3, 2)),
        lambda content: content["state_dict"].update(steps=torch.tensor(3.0)),
        lambda content: content["history"][0].update(accuracy=99.99),
        lambda content: content["history"].append({}),
        lambda content: content["loops"].update(epoch="1"),
        lambda content: content.update(more=None),
        lambda content: content.pop("loops"),
        lambda content: content.pop("sha256"),
    ],
)
def test_a_seal_tells_whether_anything_was_changed(tmp_path, edit):
    save_checkpoint(seal(CONTENT), tmp_path / "file")
    content = load_checkpoint(tmp_path / "file")
    assert is_sealed(content)
    edit(content)
    assert not is_sealed(content)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda evil, path: path.write_bytes(pickle.dumps(evil))])
@pytest.mark.parametrize("read", ["load_checkpoint", "train"])
def test_a_crafted_checkpoint_runs_nothing(tmp_path, write, read):
    state = tmp_path / "state"
    write(Evil(tmp_path / "made"), state)
    before = state.read_bytes()
    with pytest.raises(InputError, match="it was left alone") as caught:
        load_checkpoint(state) if read == "load_checkpoint" else run(tmp_path)
    assert str(state) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    assert state.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda content: content[:1],
        lambda content: content[:100],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda _: b"no checkpoint\n",
        lambda _: bytes(range(256)) * 4,
        lambda _: b"\x80",
        lambda _: b"\x80\x02.",
        lambda _: b"\x80\x02cos\nsystem\n.",
        lambda _: b"\x00" * 1000,
    ],
)
def test_a_damaged_checkpoint_is_named_and_left_alone(tmp_path, damage):
    path = tmp_path / "file"
    save_checkpoint({"weights": torch.arange(10_000)}, path)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "delete it" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("content", [{}, [1], {"state_dict": {}, "epoch": 1}])
def test_a_state_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "state")
    with pytest.raises(InputError) as caught:
        run(tmp_path)
    assert str(tmp_path / "state") in str(caught.value)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match="No such file") as caught:
        load_checkpoint(tmp_path / "absent")
    assert str(tmp_path / "absent") in str(caught.value)
