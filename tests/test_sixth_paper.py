"""A sixth paper runs from outside the package, with one command, and its plugin counts where it is used."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from jellyplus import registry
from jellyplus._errors import InputError
from jellyplus.reproduction.today import Today
from jellyplus.training.recipe_files import load_file

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "examples/sixth_paper"
OWN = "recipes/tet/cifar10_resnet19_t4.yaml"


@pytest.fixture
def plugin(monkeypatch):
    """The plugin, loaded for one test."""
    for parts in (registry.LOSSES, registry.SURROGATES):
        monkeypatch.setattr(parts, "_parts", dict(parts._parts))
    monkeypatch.setattr(registry, "_files", {})
    registry.load([PAPER / "plugin.py"])


def test_one_command_makes_the_table_also_in_processes_of_their_own(tmp_path):
    words = ["--plugin", PAPER / "plugin.py", "--profile", "smoke", "--jobs", "2", "--out", tmp_path]
    command = [sys.executable, PAPER / "reproductions/table1_tet.py", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "smoke/table1_tet/table.csv").open()))
    assert [row["status"] for row in rows] == ["stand-in"] * 4
    evidence = [json.loads(path.read_text()) for path in (tmp_path / "evidence").glob("*/*seed0*.json")]
    codes = {e["recipe"].get("output_loss", {}).get("name", "none"): e["code"] for e in evidence if "recipe" in e}
    assert codes["none"] == Today().code != codes["tet"]


def test_the_loss_is_that_of_a_slow_loop(plugin):
    y_seq, labels = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 1, 1, 2])
    slow = sum(0.9 * F.cross_entropy(y, labels) + 0.1 * ((y - 1.0) ** 2).mean() for y in y_seq) / 3
    assert registry.LOSSES["tet"](y_seq, labels, regulariser=0.1, target=1.0) == pytest.approx(slow.item(), rel=1e-6)


def test_the_surrogate_is_the_derivative_of_its_primitive(plugin):
    function = registry.SURROGATES["super_spike"](slope=5.0)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function.primitive(x).sum(), x)
    torch.testing.assert_close(function.gradient(x.detach()), slope)


def test_a_plugin_is_part_of_the_code_of_the_runs_that_use_it_alone(plugin):
    today = Today()
    with_tet, without = (load_file(PAPER / name, "smoke") for name in (OWN, OWN.replace(".", "_cross_entropy.")))
    assert len(with_tet.plugins) == 1
    assert without.plugins == ()
    assert today.code_of(without) == today.code != today.code_of(with_tet)


def test_without_the_plugin_the_recipe_is_refused_and_what_there_is_named():
    with pytest.raises(InputError, match=r"no loss on the outputs 'tet'; choose from cross_entropy \(from jellyplus\)"):
        load_file(PAPER / OWN, "smoke")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_of_this_name", "cannot be loaded: ModuleNotFoundError"),
        (
            "from jellyplus.registry import LOSSES\nLOSSES.register('cross_entropy')(print)",
            "'cross_entropy' from jelly",
        ),
    ],
)
def test_a_plugin_that_fails_is_one_sentence(tmp_path, source, reason):
    (tmp_path / "plugin.py").write_text(source)
    with pytest.raises(InputError, match=reason):
        registry.load([tmp_path / "plugin.py"])
    with pytest.raises(InputError, match="cannot read the plugin"):
        registry.load([tmp_path / "missing.py"])


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """An entry point of a module with this source."""
    monkeypatch.setattr(registry.LOSSES, "_parts", dict(registry.LOSSES._parts))
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(source, module="a_method"):
        (tmp_path / "a_method.py").write_text(source)
        points = metadata.EntryPoints([metadata.EntryPoint("own", module, "jellyplus.methods")])
        monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points.select(group=group))
        registry._load_installed.cache_clear()

    yield install
    sys.modules.pop("a_method", None)
    registry._load_installed.cache_clear()


def test_an_installed_package_registers_its_parts_without_an_option(installed):
    source = "from jellyplus.registry import LOSSES\nLOSSES.register('own')(lambda y_seq, labels: y_seq.sum())\n"
    installed(source)
    registry.load([])
    where, digest = registry.LOSSES.origin("own")
    assert where == "a_method, installed"
    assert digest == hashlib.sha256(source.encode()).hexdigest()


@pytest.mark.parametrize(("source", "module"), [("1 / 0", "a_method"), ("", "not_there"), ("", "not.there")])
def test_an_installed_package_that_fails_is_one_sentence(installed, source, module):
    installed(source, module)
    with pytest.raises(InputError, match=f"the entry point {module} fails: "):
        registry.load([])
