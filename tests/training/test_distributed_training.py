"""Two processes train as one does with the joint batch, write once, and go on after one of them was killed.

The processes are forked from a server that has imported everything, and meet at a store of this process, as torchrun's
do at its agent's.
"""

import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import signal
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import RECIPES, TIMES, recipe_of, tiny
from torch import distributed

from jellyplus import datasets
from jellyplus.__main__ import main
from jellyplus._errors import InputError
from jellyplus.datasets.order import EpochOrder, PartOfBatches
from jellyplus.training import data as data_module
from jellyplus.training import job
from jellyplus.training import recipe as parts
from jellyplus.training.checkpoint import KeepLast, load_checkpoint
from jellyplus.training.classifier import Classifier
from jellyplus.training.data import DataModule
from jellyplus.training.network import build_network
from jellyplus.training.recipe_files import load_run
from jellyplus.training.train import _fit, _Hooks, _processes, _trainer

EXACT = {"rtol": 1e-9, "atol": 1e-9}
FILE = "recipes/imloss/cifar10_cifarnet_t4.yaml"
PROFILE = """
embedded:
  "*":
    data: {dataset: digits, batch_size: %d, augmentation: [crop], crop_padding: 1}
    model: {width: 2, time_steps: 2, options: {input_size: 16}}
    schedule: {epochs: 3}
"""


# --- Processes ---------------------------------------------------------------------------------------------------


def together(folder, work, *arguments):
    """Run ``work`` in two processes; of each, by rank, its exit code and all it printed."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jellyplus.reproduction.cli", "jellyplus.reproduction.runner", __name__])
    folder.mkdir(exist_ok=True)
    started = []
    for rank in range(2):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
        environment |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_RESTART_COUNT": 0, "GROUP_RANK": 0}
        environment |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        printed = str(folder / f"printed{rank}")
        started.append(context.Process(target=_process, args=(environment, printed, work, arguments)))
        started[-1].start()
    for process in started:
        process.join(600)
        process.kill()
        process.join()
    printed = [(folder / f"printed{rank}").read_text() for rank in range(2)]
    return [SimpleNamespace(code=p.exitcode, printed=text) for p, text in zip(started, printed, strict=True)]


def _process(environment, printed, work, arguments):
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    torch.set_num_threads(1)
    raise SystemExit(work(*arguments))


# --- The same numbers --------------------------------------------------------------------------------------------


def cifarnet(epochs, **changes):
    """CIFARNet with tdBN, EvAF's K(i) and IM-Loss, T = 2, 4 steps an epoch."""
    recipe = load_run("imloss/cifar10_cifarnet_t4", "embedded", RECIPES).recipe
    changes = {
        "data": dataclasses.replace(recipe.data, batch_size=16, augmentation=()),
        "model": dataclasses.replace(recipe.model, width=2, time_steps=2),
        "neuron": dataclasses.replace(recipe.neuron, backend="torch"),  # float64
        "schedule": dataclasses.replace(recipe.schedule, epochs=epochs),
    } | changes
    return dataclasses.replace(recipe, **changes)


def shortcuts():
    recipe = recipe_of(search=False, neuron={"backend": "torch"}, schedule={"epochs": 1}, data={"augmentation": ()})
    return dataclasses.replace(recipe, shortcut=parts.shortcut.Settings(0.25, True))


def cases():
    dspike = {"surrogate": parts.Surrogate("dspike", {"temperature": 1.0}), "evolution": None}
    search = parts.temperature_search.Settings("conv1.weight", 0.1, 0.2, 4, "train")
    differences = {"finite_differences": parts.finite_differences.Settings("conv1.weight", 0.1), "im_loss": None}
    batch_norm = parts.Norm("bn", 1.0, None, 1e-5, 0.1)
    model = dataclasses.replace(cifarnet(1).model, time_steps=1)
    ann = dict.fromkeys(("neuron", "surrogate", "evolution", "im_loss")) | {"model": model, "norm": batch_norm}
    return {
        "tdBN, EvAF, IM-Loss": cifarnet(5),
        "Dspike with search": cifarnet(2, **dspike, temperature_search=search),
        "finite differences": cifarnet(1, **differences),
        "warm start": cifarnet(1, norm=None, warm_start=parts.warm_start.Settings(0.05, 0.9, 200)),
        "ANN with batch norm": cifarnet(1, **ann),
        "shortcut branches": shortcuts(),
        "micro-batches": cifarnet(1, data=dataclasses.replace(cifarnet(1).data, micro_batch=8)),
    }


class Recorded(Classifier):
    """Keeps of every step the loss, all gradients, and what torch would draw in it."""

    def on_fit_start(self):
        self.seen = {"losses": [], "gradients": [], "drawn": []}

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        self.seen["drawn"].append(torch.rand(()))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen["losses"].append(outputs["loss"])

    def on_before_optimizer_step(self, optimizer):
        self.seen["gradients"].append([parameter.grad.clone() for parameter in self.net.parameters()])


def _in_float64(transform):
    return lambda *arguments, **settings: lambda x: transform(*arguments, **settings)(x).double()


def learn(folder):
    """Train every case in float64, and save what was seen of it."""
    folder = Path(folder)
    with job.joined("cpu"), pytest.MonkeyPatch.context() as patch:
        for name in ("augmentation", "normalisation"):
            patch.setattr(data_module, name, _in_float64(getattr(data_module, name)))
        results = {}
        for number, (case, recipe) in enumerate(cases().items()):
            torch.manual_seed(0)
            classifier = Recorded(build_network(recipe).double(), recipe, seed=0)
            module = DataModule(tiny(test_examples=31), recipe, seed=0)
            callbacks = [_Hooks(), KeepLast(folder / f"state{number}", {})]
            _fit(_trainer(recipe, "cpu", callbacks, **_processes()), classifier, module, None)
            history = [{k: v for k, v in entry.items() if k not in TIMES} for entry in classifier.history]
            results[case] = classifier.seen | {"history": history, "buffers": dict(classifier.net.named_buffers())}
        torch.save(results, folder / f"{os.environ.get('RANK', 'alone')}.pt")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """What each of two processes saw, and what one did."""
    folder = tmp_path_factory.mktemp("learnt")
    alone = tmp_path_factory.mktemp("alone")
    ended = together(folder, learn, str(folder))
    assert [process.code for process in ended] == [0, 0], ended
    learn(alone)
    return [torch.load(path, weights_only=True) for path in (folder / "0.pt", folder / "1.pt", alone / "alone.pt")]


@pytest.mark.parametrize("case", cases())
def test_two_processes_train_as_one(learnt, case):
    first, second, one = (results[case] for results in learnt)
    assert len(one["gradients"]) == 4 * cases()[case].schedule.epochs
    mean = (torch.stack(first["losses"]) + torch.stack(second["losses"])) / 2
    torch.testing.assert_close(mean, torch.stack(one["losses"]), **EXACT)
    for own in (first, second):
        for key in ("gradients", "buffers"):
            torch.testing.assert_close(own[key], one[key], **EXACT)
        assert len(own["history"]) == len(one["history"])
        for entry, expected in zip(own["history"], one["history"], strict=True):
            assert entry.keys() == expected.keys()
            assert entry["samples"] == expected["samples"]
            numbers = entry.keys() - {"samples"}
            assert all(entry[key] == pytest.approx(expected[key], rel=1e-6) for key in numbers)  # losses are float32
    assert first["history"] == second["history"]
    assert max(gradient.abs().max() for gradient in one["gradients"][-1]) > 1e-3


def test_what_a_step_draws_differs_between_processes(learnt):
    drawn = [results["tdBN, EvAF, IM-Loss"]["drawn"] for results in learnt]
    assert len({value.item() for own in drawn for value in own}) == 3 * 20


def test_the_search_finds_the_same_on_every_process_and_moves(learnt):
    first, second, one = (results["Dspike with search"]["history"] for results in learnt)
    assert [entry["similarities"] for entry in first] == [entry["similarities"] for entry in second]
    assert [entry["temperature"] for entry in first] == [entry["temperature"] for entry in one]
    assert first[-1]["temperature"] != 1.0


def test_the_warm_start_took_some_iterations(learnt):
    assert learnt[0]["warm start"]["history"][0]["warm_start_iterations"] > 0


# --- The command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of a paper's recipes with a tiny profile."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(RECIPES / "imloss", folder / "recipes/imloss")
    (folder / "recipes/imloss/profiles.yaml").write_text(PROFILE % 16)
    return folder


def train(tree, out):
    """The command on a few examples, of which processes do not get equally many to test."""
    data = tiny(test_examples=31)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda *_, **__: data)
        return main(["train", f"{tree}/{FILE}", "--profile", "embedded", "--device", "cpu", "--out", str(out)])


def train_and_die(tree, out):
    """Process 1 ends in the middle of the second epoch: no handler, no clean-up."""
    start = Classifier.on_train_batch_start

    def deadly(self, batch, batch_idx):
        if (self.current_epoch, batch_idx, self.global_rank) == (1, 1, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        start(self, batch, batch_idx)

    Classifier.on_train_batch_start = deadly
    return train(tree, out)


def found(out):
    """The one evidence and the one checkpoint in ``out``."""
    (evidence,), (checkpoint,) = out.glob("evidence/*/seed*.json"), out.glob("evidence/*/*.ckpt")
    return json.loads(evidence.read_text()), load_checkpoint(checkpoint)["weights"]


@pytest.fixture(scope="module")
def whole(tree):
    """The folder of the uninterrupted run, and how its processes ended."""
    return tree / "whole", together(tree / "log", train, tree, tree / "whole")


def test_the_command_writes_and_says_everything_once(whole):
    out, ended = whole
    assert [process.code for process in ended] == [0, 0], ended
    assert ended[1].printed == ""
    assert ended[0].printed.count("Written: ") == 1
    files = {path.name.partition("-")[0] + path.suffix for path in out.rglob("*") if path.is_file()}
    assert files == {"seed0.json", "probe.json", "seed0.ckpt", "seed0.csv.csv", "seed0.png.png"}
    assert found(out)[0]["device"].startswith("2 processes, each on ")


def test_every_test_example_counts_once(whole):
    """The accuracy is that of the checkpoint's network on all examples at once."""
    evidence, weights = found(whole[0])
    data = tiny(test_examples=31)
    recipe = load_run("imloss/cifar10_cifarnet_t4", "embedded", whole[0].parent / "recipes").recipe
    net = build_network(recipe).eval()
    net.load_state_dict(weights)
    with torch.no_grad():
        inputs = DataModule(data, recipe, 0).test_sample(len(data.test))
        right = (net(inputs.unsqueeze(0)).mean(0).argmax(1) == data.test.labels).sum().item()
    assert evidence["accuracy_last"] == pytest.approx(100 * right / len(data.test), rel=1e-6)
    assert 0 < right < len(data.test)


def test_a_killed_process_ends_the_job_and_the_same_command_goes_on(tree, whole):
    out = tree / "killed"
    survivor, killed = together(tree / "log", train_and_die, tree, out)
    assert killed.code == -signal.SIGKILL
    assert survivor.code == 2
    last = survivor.printed.splitlines()[-1]
    assert last.endswith("the same command goes on from the last finished epoch")
    assert "jellyplus: error: process 0: another process of the job ended" in last
    assert "Traceback" not in survivor.printed
    assert [path.suffix for path in out.rglob("*") if path.is_file()] == [".partial"]
    ended = together(tree / "log", train, tree, out)
    assert [process.code for process in ended] == [0, 0], ended
    (evidence, weights), (expected, whole_weights) = found(out), found(whole[0])
    assert weights.keys() == whole_weights.keys()
    assert all(torch.equal(weights[name], whole_weights[name]) for name in weights)
    histories = [[{**e, "time_s": 0} for e in record["history"]] for record in (evidence, expected)]
    assert histories[0] == histories[1]


def test_a_batch_that_cannot_be_shared_is_refused_in_one_sentence(tree):
    recipes = tree / "odd/recipes/imloss"
    shutil.copytree(RECIPES / "imloss", recipes)
    (recipes / "profiles.yaml").write_text(PROFILE % 33)
    first, second = together(tree / "log", train, tree / "odd", tree / "refused")
    assert (first.code, second.code) == (2, 2)
    assert "data.batch_size is 33, which 2 processes cannot share equally" in first.printed
    assert (first.printed.count("\n"), second.printed) == (1, "")
    assert not (tree / "refused").exists()


# --- How a job is started ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [6, 3])
def test_the_parts_of_all_processes_are_the_batches_of_one(monkeypatch, at_once):
    module = "jellyplus.datasets.order"
    whole = list(PartOfBatches(EpochOrder(29, seed=3), 6, at_once))
    shares = []
    monkeypatch.setattr(f"{module}.processes", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(f"{module}.rank", lambda rank=rank: rank)
        shares.append(list(PartOfBatches(EpochOrder(29, seed=3), 6, at_once)))
    assert [[*itertools.chain(*share)] for share in zip(*shares, strict=True)] == whole
    assert {len(part) for share in shares for part in share} == {at_once // 3}
    assert len(whole) == len(PartOfBatches(EpochOrder(29, seed=3), 6, at_once)) == 24 // at_once
    assert list(itertools.chain(*whole)) == list(EpochOrder(29, seed=3))[:24]


def test_a_short_last_batch_is_shared_equally_too(monkeypatch):
    whole = list(PartOfBatches(EpochOrder(27, seed=3), 6, 6, drop_last=False))
    monkeypatch.setattr("jellyplus.datasets.order.processes", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr("jellyplus.datasets.order.rank", lambda rank=rank: rank)
        shares.append(list(PartOfBatches(EpochOrder(27, seed=3), 6, 6, drop_last=False)))
    assert [[*itertools.chain(*share)] for share in zip(*shares, strict=True)] == whole
    assert [len(part) for part in shares[2]] == [2, 2, 2, 2, 1]


def test_a_last_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr("jellyplus.training.data.processes", lambda: 2)
    recipe = recipe_of(data={"drop_last": False, "batch_size": 32})
    with pytest.raises(InputError, match=r"last batch has 3 examples, which 2 processes cannot share equally"):
        DataModule(tiny(train_examples=67), recipe, seed=0)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SLURM = {"SLURM_NTASKS": "6", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "3", "SLURM_PROCID": "5"}


@pytest.mark.parametrize(
    ("variables", "spread"),
    [
        ({}, None),
        (TORCHRUN, (2, 3)),
        (SLURM, (3, 2)),
        (SLURM | TORCHRUN, (2, 3)),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_NNODES": "1"}, None),
        (SLURM | {"SLURM_JOB_NAME": "bash"}, None),  # an interactive shell
    ],
)
def test_the_environment_says_how_processes_are_spread(monkeypatch, variables, spread):
    for name in (*TORCHRUN, *SLURM, "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    started = job.launch()
    assert (started and (started.per_node, started.nodes)) == spread
    assert started is None or started.environment.global_rank() == 5


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NTASKS": "2", "SLURM_NNODES": "1"},  # srun -n 2
        {"SLURM_NTASKS": "2"},
        SLURM | {"SLURM_NTASKS": "4"},  # srun -n 4 in a job of other numbers
        SLURM | {"SLURM_NTASKS_PER_NODE": "none"},
    ],
)
def test_slurm_must_say_how_processes_are_spread(monkeypatch, variables):
    for name in (*TORCHRUN, *SLURM, "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"SLURM started . processes, and .* as in srun --nodes 1"), job.joined("cpu"):
        pass


def test_processes_that_never_come_are_not_waited_for_forever(monkeypatch):
    for name, value in (TORCHRUN | {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(job, "_PATIENCE", timedelta(seconds=1))
    with (
        pytest.raises(InputError, match=r"the 6 processes of the job did not meet .*start them all"),
        job.joined("cpu"),
    ):
        pass


def test_another_error_keeps_its_traceback():
    assert job._is_about_another(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    assert not job._is_about_another(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
