"""Nodes, norms, optimizers, schedules, data sets, networks, methods from outside the package train, resume, load."""

import ast
import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import jellyplus
from jellyplus import datasets, registry
from jellyplus.__main__ import main
from jellyplus._errors import InputError
from jellyplus.reproduction import quantities  # noqa: F401 - our own are there before any test puts them back
from jellyplus.training.recipe_files import load_file, load_run

OWN = Path(__file__).parents[1] / "examples/own_parts"
RECIPE = "recipes/own/stripes_t4.yaml"
REGISTRIES = [parts for parts in vars(registry).values() if isinstance(parts, registry.Registry)]


@pytest.fixture
def fresh(monkeypatch):
    """Registries as they are without a plugin, for one test."""
    for parts in REGISTRIES:
        monkeypatch.setattr(parts, "_parts", dict(parts._parts))
    monkeypatch.setattr(registry, "_files", {})


@pytest.fixture
def tree(fresh, tmp_path, monkeypatch):
    """A copy of the example as the current folder, its plugin loaded."""
    shutil.copytree(OWN, tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    registry.load([Path("plugin.py")])
    return tmp_path / "own"


def change(tree, **parts):
    """Values of the recipe, in its file."""
    values = yaml.safe_load((tree / RECIPE).read_text())
    for part, settings in parts.items():
        values[part] |= settings
    (tree / RECIPE).write_text(yaml.safe_dump(values))


def train(*words):
    return main(["train", RECIPE, "--plugin", "plugin.py", *words])


def test_they_train_and_load(tree, capsys):
    assert train() == 0
    (file,) = Path("results/evidence").glob("*/seed0-*.json")
    evidence = json.loads(file.read_text())
    assert evidence["accuracy_last"] > 95
    assert evidence["backend"] is None
    assert evidence["dataset"]["name"] == "stripes"
    assert evidence["operations"]["additions"] > 0
    costs = [entry["spike_cost"] for entry in evidence["history"]]
    assert 0 < costs[-1] < costs[0] < 0.1  # times the weight, of at most one spike a time-step
    assert "neurons run on" not in capsys.readouterr().out
    run = jellyplus.load("own/stripes_t4")
    test = datasets.load("stripes").test
    right = run.network(run.transform(test.inputs)).mean(0).argmax(1) == test.labels
    assert 100 * right.double().mean().item() == pytest.approx(evidence["accuracy_last"], abs=1e-4)


def test_an_interrupted_run_goes_on_to_the_same_numbers(tree, monkeypatch):
    assert train() == 0
    whole = _history("results")
    step, steps = torch.optim.AdamW.step, iter(range(20))

    def interrupted(*arguments, **named):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(*arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    assert train("--out", "again") == 130
    assert list(Path("again/evidence").glob("*/*.partial"))
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert train("--out", "again") == 0
    assert _history("again") == whole


def _history(out):
    (file,) = Path(out, "evidence").glob("*/seed0-*.json")
    return [
        {key: value for key, value in entry.items() if key != "time_s"}
        for entry in json.loads(file.read_text())["history"]
    ]


def test_they_stand_in_a_table(tree, monkeypatch, capsys):
    words = ["table1_own.py", "--plugin", "plugin.py", "--profile", "smoke", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("reproductions/table1_own.py", run_name="__main__")
    assert ended.value.code == 0
    with Path("results/smoke/table1_own/table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["adaptive threshold, AdamW", "adaptive threshold, SGD"]
    assert all(float(row["accuracy"]) > 20 for row in rows)


COUNTED = '''
import torch

from jellyplus.registry import QUANTITIES
from jellyplus.reproduction.measures import Curve, measure
from jellyplus.reproduction.quantities import Quantity
from jellyplus.training.layout import time_first


@measure("trained")
def spikes_of_an_image(net, data, *, images: int) -> Curve:
    """Mean number of spikes of all neurons over all time-steps."""
    spikes = []
    net.eval().neuron1.register_forward_hook(lambda node, args, out: spikes.append(out.sum().item()))
    with torch.no_grad():
        net(time_first(data.test_sample(images)))
    return Curve([], [], {"spikes": spikes[0] / images})


spikes = lambda measured: measured.numbers["spikes"]
QUANTITIES.register("spikes_of_an_image")(Quantity("spikes of an image", "run", spikes, "spikes_of_an_image"))
'''


def test_a_table_shows_what_a_plugin_measures(tree, monkeypatch):
    """From a plugin of its own: if that changes, the measurement is another code's, and the run is not."""
    Path("counted.py").write_text(COUNTED)
    claims = yaml.safe_load(Path("reproductions/claims/table1_own.yaml").read_text())
    counted = {"id": "spikes", "quantity": "spikes_of_an_image", "settings": {"images": 50}, "paper": 1.0}
    claims["rows"] = [claims["rows"][0] | counted]
    Path("reproductions/claims/table2_own.yaml").write_text(yaml.safe_dump(claims))
    shutil.copy("reproductions/table1_own.py", "reproductions/table2_own.py")
    plugins = ["--plugin", "plugin.py", "--plugin", "counted.py"]
    monkeypatch.setattr(sys, "argv", ["table2_own.py", *plugins, "--profile", "smoke", "--jobs", "1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("reproductions/table2_own.py", run_name="__main__")
    assert ended.value.code == 0
    with Path("results/smoke/table2_own/table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert 1 < float(row["ours_mean"]) < 8 * 64 * 4
    (run,) = Path("results/evidence").glob("*/seed0-*.json")
    (measured,) = Path("results/evidence").glob("*/spikes_of_an_image-*-seed0-*.json")
    codes = [json.loads(path.read_text())["code"] for path in (run, measured)]
    assert codes[0] != codes[1]


def test_a_run_of_theirs_has_the_plugins_digest_and_another_has_none(tree):
    assert len(load_file(Path(RECIPE), "paper").plugins) == 1
    assert load_run("dspike/cifar10_t6", "paper", OWN.parents[1] / "recipes").plugins == ()


@pytest.mark.parametrize(
    ("part", "settings", "sentence"),
    [
        ("neuron", {"name": "lif"}, "lif has no parameters beside the others"),
        ("optimizer", {"name": "sgd"}, "sgd has no parameters beside the others"),
        (
            "neuron",
            {"name": "missing"},
            r"no node 'missing'; choose from lif, srif \(from jellyplus\); adaptive \(from",
        ),
        ("optimizer", {"name": "missing"}, r"no optimizer 'missing'; choose from sgd \(from jellyplus\); adamw \(from"),
        ("model", {"architecture": "missing"}, r"no architecture 'missing'; choose from .*two_layers \(from"),
        ("model", {"options": {}}, "options are not those of two_layers: state kernel_size"),
        ("methods", {"missing": {}}, r"no method 'missing'; choose from .*im_loss.*; spike_cost \(from"),
        ("methods", {"spike_cost": {}}, "methods.spike_cost: key 'weight' is missing"),
        ("methods", {"spike_cost": {"weight": 0.0}}, "methods.spike_cost: weight is 0.0; it must be positive"),
        ("methods", {"spike_cost": {"weight": 1.0, "rate": 2}}, "methods.spike_cost: unknown key 'rate'"),
        ("methods", {"shortcut": {"weight": 1.0}}, "shortcut has a section of its own: state it there"),
    ],
)
def test_what_does_not_fit_is_refused(tree, part, settings, sentence):
    change(tree, **{part: settings})
    with pytest.raises(InputError, match=sentence):
        load_file(Path(RECIPE), "paper")


@pytest.mark.parametrize(
    ("part", "settings", "sentence"),
    [
        ("neuron", {"parameters": {"rise": 0.2}}, "neuron does not fit adaptive"),
        ("neuron", {"parameters": None}, "neuron does not fit adaptive"),
        ("neuron", {"parameters": {"rise": 0.2, "fall": 0.5, "decay": 0.3}}, "multiple values for keyword argument"),
        ("optimizer", {"parameters": {}}, "optimizer does not fit adamw"),
        ("schedule", {"parameters": {}}, "schedule does not fit linear"),
        ("norm", {"parameters": {"groups": 2, "channels": 3}}, "norm does not fit layer_norm"),
        ("data", {"dataset": "missing"}, "there is no data set 'missing'; choose from"),
        (
            "data",
            {"images": {"side": 8, "resize": 8, "unreadable": "stop"}},
            "data.images must be left out for stripes",
        ),
        ("model", {"initialisation": "torch"}, "two_layers draws its own weights"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(tree, part, settings, sentence, capsys):
    change(tree, **{part: settings})
    assert train() == 2
    assert sentence in capsys.readouterr().err


def test_constants_of_a_data_set_stand_in_the_recipe(tree):
    from_plugin = registry.DATASETS["stripes"]()
    spoiled = {
        "with_constants": {"mean": (0.5,) * 3, "std": (0.5,) * 3, "name": "with_constants"},
        "of_another_name": {},
    }
    for name, changes in spoiled.items():
        data = datasets.DataSet(**{**vars(from_plugin), **changes})
        registry.DATASETS.register(name)(lambda data=data: data)
    with pytest.raises(InputError, match=r"state them in data\.normalisation"):
        datasets.load("with_constants")
    with pytest.raises(InputError, match="calls itself 'stripes'"):
        datasets.load("of_another_name")


def test_parts_of_the_package_that_a_plugin_imports_stay_the_packages(tmp_path):
    """In a process of its own, where nothing of the package is there yet."""
    source = "from jellyplus import registry; registry.load([Path('plugin.py')]); import jellyplus.training.recipe; "
    source += "print({part for r in registry.REGISTRIES for part in r if r.origin(part).digest})"
    command = [sys.executable, "-W", "ignore", "-c", f"from pathlib import Path; {source}"]
    environment = os.environ | {"PYTHONPATH": str(OWN.parents[1])}
    said = subprocess.run(command, cwd=OWN, env=environment, capture_output=True, text=True, check=True).stdout
    own = {"adaptive", "adamw", "layer_norm", "linear", "spike_cost", "stripes", "two_layers"}
    assert ast.literal_eval(said) == own


def test_without_the_plugin_nothing_of_it_is_known(fresh):
    with pytest.raises(InputError, match="there is no"):
        load_file(OWN / RECIPE, "paper")
