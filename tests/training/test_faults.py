"""What may happen to a long run: each fault ends in one sentence, and nothing that was finished is lost."""

import contextlib
import dataclasses
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
import zipfile

import filelock
import pytest
import torch
from runs import Interruption, ahead, numbers, recipe_of, run, scale_losses, spy_on_steps, stop_after_epoch, tiny
from torch import nn
from torch.utils.data import get_worker_info

from jellyplus._errors import InputError
from jellyplus.datasets import Split
from jellyplus.datasets.base import UnreadableError
from jellyplus.datasets.splits import manifest_digest
from jellyplus.reproduction.runner import Runner, _only_one
from jellyplus.reproduction.store import Store
from jellyplus.training import data as data_module
from jellyplus.training import train as training
from jellyplus.training.checkpoint import load_checkpoint, save_checkpoint
from jellyplus.training.classifier import Classifier
from jellyplus.training.not_finite import origin
from jellyplus.training.recipe import Run
from jellyplus.training.train import train

RECIPE = recipe_of(search=False, schedule={"epochs": 2})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return numbers(run(tmp_path_factory.mktemp("whole"), RECIPE))


def refusal(folder, recipe=RECIPE, data=None, **options):
    with pytest.raises(InputError) as caught:
        train(recipe, data or tiny(), 0, "cpu", folder / "state", None, "test", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def interrupt(folder, monkeypatch, recipe=RECIPE, data=None):
    with monkeypatch.context() as patch:
        stop_after_epoch(patch, 0)
        with pytest.raises(Interruption):
            run(folder, recipe, data)


# --- A loss that is not finite -----------------------------------------------------------------------------------


def poison(monkeypatch, step, spoil):
    """Spoil a step; the iterator that is returned gives next the number of the step to come."""
    original, steps = Classifier.training_step, iter(range(1, 100))

    def poisoned(self, batch):
        if next(steps) == step:
            spoil(self, batch)
        return original(self, batch)

    monkeypatch.setattr(Classifier, "training_step", poisoned)
    return steps


def spoil_input(module, batch):
    batch[0][1, 2, 3, 4] = float("nan")


def spoil_weight(module, batch):
    module.net.get_parameter("stages.1.0.branch.0.weight").data[0] = float("inf")


def spoil_output(module, batch):
    module.net.fc.weight.data.fill_(3e38)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_input, r"epoch 2, step 3 made norm1\.running_mean not finite from an input that is not finite; "),
        (spoil_weight, r"epoch 2, step 3 made stages\.1\.0\.branch\.1\.running_mean not finite; "),
        (spoil_output, r"the loss is (nan|inf) in epoch 2, step 3: the first layer .* not finite is fc; "),
    ],
)
def test_what_is_not_finite_stops_the_run_where_it_began_and_loses_nothing(tmp_path, monkeypatch, whole, spoil, reason):
    with monkeypatch.context() as patch:
        poison(patch, 4 + 3, spoil)  # epochs have four steps
        assert re.match(reason, refusal(tmp_path))
    assert load_checkpoint(tmp_path / "state")["epoch"] == 0
    assert numbers(run(tmp_path, RECIPE)) == whole


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("step", [1, 4, 5, 7])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_input, r"epoch 2, step {} made norm1\.running_mean not finite from an input that is not finite; "),
        (spoil_weight, r"epoch 2, step {} made stages\.1\.0\.branch\.1\.running_mean not finite; "),
        (spoil_output, r"the loss is (nan|inf) in epoch 2, step {}: the first layer .* not finite is fc; "),
    ],
)
def test_a_gpu_looked_at_every_fifth_step_stops_soon_and_says_the_same(
    tmp_path, monkeypatch, spoil, message, step, scaled
):
    ahead(monkeypatch, look_every=5)
    if scaled:
        scale_losses(monkeypatch)
    steps = poison(monkeypatch, 8 + step, spoil)
    found = refusal(tmp_path, data=tiny(train_examples=8 * 16))
    assert re.match(message.format(step), found)
    assert next(steps) - 1 == 8 + (5 if step <= 5 else 8)  # the fifth, and the epoch's last
    assert load_checkpoint(tmp_path / "state")["epoch"] == 0


def test_the_first_layer_with_an_output_that_is_not_finite_is_named():
    class Overflow(nn.Module):
        def forward(self, x):
            return x * float("inf")

    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Overflow()), nn.ReLU())
    assert origin(net, torch.ones(1, 2)) == "the first layer with an output that is not finite is 1.1"
    assert origin(nn.ReLU(), torch.ones(1)) == "all layers are finite"


# --- Data --------------------------------------------------------------------------------------------------------


def changed(data):
    inputs = data.train.inputs.clone()
    inputs[5, 0, 0, 0] ^= 1
    return dataclasses.replace(data, train=Split(inputs, data.train.labels))


def test_data_that_changed_between_two_calls_are_refused(tmp_path, monkeypatch, whole):
    interrupt(tmp_path, monkeypatch)
    message = refusal(tmp_path, data=changed(tiny()))
    assert "was trained on other data" in message
    assert tiny().fingerprint[:16] in message
    assert numbers(run(tmp_path, RECIPE)) == whole


def test_the_state_of_another_recipe_is_refused(tmp_path, monkeypatch):
    interrupt(tmp_path, monkeypatch)
    other = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, learning_rate=0.5))
    assert "is the state of another run" in refusal(tmp_path, other)


class Files:
    """The images of a split, of which one cannot be read."""

    identity = b"files"

    def __init__(self, inputs, damaged):
        self.inputs, self.damaged, self.shape = inputs, damaged, inputs.shape

    def __getitem__(self, index):
        if index == self.damaged:
            raise UnreadableError(f"cannot read {index}.jpg; replace or remove it")
        return self.inputs[index]


def in_files(train=None, test=None, skip=False):
    data = tiny()
    splits = {
        name: Split(Files(getattr(data, name).inputs, damaged), getattr(data, name).labels)
        for name, damaged in (("train", train), ("test", test))
    }
    return dataclasses.replace(data, **splits, skip_unreadable=skip)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_the_epoch_with_its_name(tmp_path, whole, workers):
    assert refusal(tmp_path, data=in_files(train=17), workers=workers) == "cannot read 17.jpg; replace or remove it"
    assert numbers(run(tmp_path, RECIPE, in_files())) == whole  # once it is replaced


def test_unreadable_images_are_counted_where_the_recipe_skips_them(tmp_path):
    history = run(tmp_path, RECIPE, in_files(train=17, test=3, skip=True)).history
    assert [(entry["skipped_train"], entry["skipped_test"]) for entry in history] == [(1, 1)] * 2
    assert 0 <= history[-1]["accuracy"] <= 100


def test_the_ids_of_the_samples_seen_are_recorded(whole, tmp_path, monkeypatch):
    samples = [entry["samples"] for entry in whole[1]]
    assert len(set(samples)) == 2  # each epoch has its own order
    interrupt(tmp_path, monkeypatch)
    assert [entry["samples"] for entry in run(tmp_path, RECIPE).history] == samples
    other = train(RECIPE, tiny(), 1, "cpu", tmp_path / "other", None, "test").history
    assert {entry["samples"] for entry in other}.isdisjoint(samples)


# --- Processes ---------------------------------------------------------------------------------------------------


def test_processes_that_load_data_change_no_number(tmp_path, whole):
    outcome = train(RECIPE, tiny(), 0, "cpu", tmp_path / "state", None, "test", workers=2)
    assert numbers(outcome) == whole


def test_a_loading_process_that_dies_ends_in_a_sentence(tmp_path, monkeypatch, whole):
    def kill(module, batch):
        loader = module.trainer.train_dataloader._iterator
        os.kill(loader._workers[0].pid, signal.SIGKILL)
        time.sleep(0.2)

    with monkeypatch.context() as patch:
        poison(patch, 4 + 1, kill)
        message = refusal(tmp_path, workers=1)
    assert re.match(r"a process that loads data ended \(DataLoader worker \(pid.*same command goes on", message)
    assert numbers(run(tmp_path, RECIPE)) == whole


def test_a_folder_for_sockets_with_a_long_name_is_a_sentence(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setitem(multiprocessing.process.current_process()._config, "tempdir", str(folder))
    message = refusal(tmp_path, workers=2)
    assert re.match(r"--workers need sockets in .* \(AF_UNIX path too long\): name a short folder .*\$TMPDIR", message)


def test_shared_memory_without_room_for_the_batches_is_a_sentence(tmp_path, monkeypatch):
    asked = []

    def refuse(tensor):
        asked.append(tensor.nbytes)
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    message = refusal(tmp_path, workers=2)
    assert re.match(r"--workers 2 have up to 1 MiB in shared memory, .* No space left .* give fewer --workers", message)
    examples = 64 + 32  # which are no more than two batches for each of two workers
    assert asked == [4 * tiny().train.inputs[0].numel() * examples + 2**20]


def test_shared_memory_that_fills_up_while_training_is_a_sentence(tmp_path, monkeypatch):
    share = torch.Tensor.share_memory_

    def full(tensor):
        if get_worker_info():
            raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")
        return share(tensor)

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    message = refusal(tmp_path, workers=1)
    assert message.startswith("a batch cannot be sent to the process that trains (unable to allocate shared memory(")


def test_a_batch_that_cannot_be_sent_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "_batch", lambda *_, **__: lambda: None)  # which no process can send to another
    message = refusal(tmp_path, workers=1)
    assert message.startswith("a batch cannot be sent to the process that trains (Can't pickle")


def test_a_loading_process_that_dies_before_training_ends_in_a_sentence(tmp_path, monkeypatch):
    others = set(multiprocessing.active_children())  # of tests before this one

    def kill_and_build(*_):
        worker, *_ = set(multiprocessing.active_children()) - others  # a second one would be noticed in another test
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(5)

    monkeypatch.setattr(training, "build_network", kill_and_build)
    assert refusal(tmp_path, workers=1).startswith("a process that loads data ended (DataLoader worker (pid")


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path, monkeypatch, whole):
    start, looks = time.time(), iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: start - 3600 * next(looks))
    outcome = run(tmp_path, RECIPE)
    assert numbers(outcome) == whole
    assert all(0 < entry["time_s"] < 60 for entry in outcome.history)


# --- Files from elsewhere ----------------------------------------------------------------------------------------


def test_a_checkpoint_that_would_unpack_to_any_size_is_refused(tmp_path):
    save_checkpoint({"weights": torch.zeros(10**6)}, tmp_path / "stored")
    with zipfile.ZipFile(tmp_path / "stored") as stored, zipfile.ZipFile(tmp_path / "packed", "w", 8) as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry))
    assert (tmp_path / "packed").stat().st_size < 10**5
    with pytest.raises(InputError, match="packed entries"):
        load_checkpoint(tmp_path / "packed")


# --- Evidence ----------------------------------------------------------------------------------------------------


@pytest.fixture
def runner(tmp_path):
    runner = Runner(Store(tmp_path / "evidence"), None, "cpu")
    runner._data = {("digits", None, None, None): tiny()}
    return runner


RUN = Run("dspike/tiny", "embedded", RECIPE, None)


def test_only_one_process_makes_a_run(runner):
    checkpoint = runner.store.checkpoint(RUN.key, 0, runner.today.code)
    checkpoint.parent.mkdir(parents=True)
    with filelock.FileLock(checkpoint.with_suffix(".lock")), pytest.raises(InputError, match="another process makes"):
        runner.make([(RUN, 0)])
    runner.make([(RUN, 0)])
    assert {path.suffix for path in checkpoint.parent.iterdir()} == {".ckpt", ".json"}


def take_turns(folder, number, begin, turns):
    own = folder / "inside" / str(number)
    begin.wait()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        with contextlib.suppress(InputError), _only_one(folder / "seed0-a.lock"):
            own.touch()
            alone = list(own.parent.iterdir()) == [own]
            own.unlink()
            turns.put(alone)


def test_two_processes_are_never_inside_at_once(tmp_path):
    (tmp_path / "inside").mkdir()
    fork = multiprocessing.get_context("fork")
    begin, turns = fork.Barrier(3), fork.SimpleQueue()
    processes = [fork.Process(target=take_turns, args=(tmp_path, n, begin, turns)) for n in range(3)]
    for process in processes:
        process.start()
    alone = []
    while any(process.is_alive() for process in processes) or not turns.empty():
        if turns.empty():
            time.sleep(0.001)
        else:
            alone.append(turns.get())
    assert len(alone) > 20
    assert all(alone)


def test_a_lock_that_is_a_link_does_not_empty_what_it_leads_to(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "seed0-a.lock").symlink_to("precious")
    lock = tmp_path / "seed0-a.lock"
    with pytest.raises(InputError, match=r"cannot write .*seed0-a\.lock"), _only_one(lock):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_what_killed_processes_left_behind_is_removed(runner):
    checkpoint = runner.store.checkpoint(RUN.key, 0, runner.today.code)
    checkpoint.parent.mkdir(parents=True)
    checkpoint.with_name(f".{checkpoint.stem}.partial.x1").write_text("killed while it wrote the state")
    runner.make([(RUN, 0)])
    made = sorted(checkpoint.parent.iterdir())
    assert {path.suffix for path in made} == {".ckpt", ".json"}
    checkpoint.with_suffix(".partial").write_text("killed after it wrote the evidence")
    checkpoint.with_suffix(".lock").touch()
    assert runner.missing([(RUN, 0)]) == []  # which removes nothing
    assert len(list(checkpoint.parent.iterdir())) == len(made) + 2
    runner.make([])
    assert sorted(checkpoint.parent.iterdir()) == made


def test_a_run_that_another_process_has_just_made_is_not_made_again(runner, monkeypatch):
    runner.make([(RUN, 0)])
    spy_on_steps(monkeypatch, seen := {})
    runner.make([(RUN, 0)])  # planned before the other one had finished
    assert seen == {}


def test_a_run_does_not_start_from_one_on_other_data(runner):
    settings = dataclasses.replace(RECIPE.schedule, epochs=1)
    child = Run("dspike/child", "embedded", dataclasses.replace(RECIPE, schedule=settings), RUN)
    runner.make([(RUN, 0)])
    runner._data = {("digits", None, None, None): changed(tiny())}
    with pytest.raises(InputError, match=r"dspike/tiny was trained on other data: .* use another --out"):
        runner.make([(child, 0)])


def test_evidence_says_which_data_it_is_about(runner):
    manifest = {"split": "first900", "train": ["a/1"], "test": ["a/2"]}
    data = dataclasses.replace(in_files(test=3, skip=True), manifest=manifest)
    runner._data = {("digits", None, None, None): data}
    runner.make([(RUN, 0)])
    dataset = runner.store.runs(RUN.key)[0].dataset
    digest = manifest_digest(manifest)
    assert (dataset["fingerprint"], dataset["split"], dataset["split_sha256"]) == (data.fingerprint, "first900", digest)
    assert (dataset["train_examples"], dataset["test_examples"]) == (64, 31)
    written = (runner.store.root / "splits" / f"{digest[:16]}.json").read_text()
    assert re.sub(r"\s", "", written) == '{"split":"first900","test":["a/2"],"train":["a/1"]}'


def test_a_folder_that_cannot_be_written_is_noticed_before_training(runner, tmp_path, monkeypatch):
    spy_on_steps(monkeypatch, seen := {})
    root = tmp_path / "evidence"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(root)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(InputError, match=r"cannot write .*: Read-only file system; choose another --out"):
            runner.make([(RUN, 0)])
    finally:
        subprocess.run(["umount", str(root)], check=True)
    assert seen == {}
