"""``jellyplus doctor`` shows the original errors and runs what claims to work; its exit code is the torch backend's."""

import configparser
import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from jellyplus import __main__ as command
from jellyplus import doctor
from jellyplus._errors import InputError
from jellyplus.neuron import IterativeLIFNode
from jellyplus.neuron.backends import Obstacle

BANNER = "\n=====\nFailed to import CuPy.\n\nOriginal error:\n  ImportError: libnvrtc.so.12: cannot open\n=====\n"


class Faulty(IterativeLIFNode):
    """A node whose ``backend`` is only a name: it computes on torch what ``fault`` makes of it."""

    fault = staticmethod(lambda spikes, x: spikes)

    def __init__(self, step_mode, backend="torch"):
        super().__init__(step_mode=step_mode)
        self.claimed = backend

    def forward(self, x):
        spikes = super().forward(x)
        return type(self).fault(spikes, x) if self.claimed == "cpp" else spikes


@pytest.fixture
def report(monkeypatch, capsys):
    """The exit code and the rows of a report, label to text, with the given obstacles and faults of 'cpp'."""

    def run(fault=Faulty.fault, obstacles=None, choose=lambda device: ("torch", "it is the only one")):
        obstacles = {"cupy": Obstacle("no CuPy", "get CuPy")} if obstacles is None else obstacles
        monkeypatch.setattr(Faulty, "fault", staticmethod(fault))
        monkeypatch.setattr(doctor, "IterativeLIFNode", Faulty)
        monkeypatch.setattr(doctor.backends, "obstacle", obstacles.get)
        monkeypatch.setattr(doctor.backends, "choose", choose)
        monkeypatch.setattr(doctor, "_devices", lambda: ("cpu",))
        code = command.main(["doctor"])
        return code, rows(capsys.readouterr().out)

    return run


def rows(text):
    table, label = {}, ""
    for line in text.splitlines():
        label = line[:16].strip() or label
        table[label] = f"{table[label]}\n{line[16:]}" if label in table else line[16:]
    return table


def test_every_backend_that_works_has_been_run(report):
    code, table = report()
    assert code == 0
    assert table["backend torch"] == table["backend cpp"] == "works: forward and backward are right on cpu"
    assert table["backend cupy"] == "does not work: no CuPy\nfirst: get CuPy"
    assert table["auto on cpu"] == "torch: it is the only one"


def test_the_original_error_is_shown_whole_and_the_remedy_below_it(report):
    code, table = report(obstacles={"cupy": Obstacle(BANNER, 'pip install "jellyplus[cupy13]"')})
    assert code == 0
    first, *rest = table["backend cupy"].splitlines()
    assert first.startswith("does not work: ====")
    assert rest[1:3] == ["Original error:", "  ImportError: libnvrtc.so.12: cannot open"]
    assert rest[-1] == 'first: pip install "jellyplus[cupy13]"'


def test_exit_code_is_1_without_torch(report):
    code, table = report(obstacles={"torch": Obstacle("broken", "mend it")})
    assert code == 1
    assert table["backend torch"] == "does not work: broken\nfirst: mend it"
    assert table.keys() >= {"backend cpp", "backend cupy", "auto on cpu"}, "the rest is shown all the same"


def raises(spikes, x):
    raise OSError("kernels.so: undefined symbol: step")


FAULTS = {
    "spikes": (lambda spikes, x: 1 - spikes, "wrong numbers on cpu: spikes [[0.0, 1.0, 0.0, 1.0]"),
    "gradients": (lambda spikes, x: spikes + x - x.detach(), "wrong numbers on cpu: gradients [["),
    "not a number": (lambda spikes, x: spikes * float("nan"), "wrong numbers on cpu: spikes [[nan"),
    "no gradient": (lambda spikes, x: spikes.detach(), "RuntimeError: element 0 of tensors does not require grad"),
    "exception": (raises, "OSError: kernels.so: undefined symbol: step"),
}


@pytest.mark.parametrize(("fault", "said"), FAULTS.values(), ids=FAULTS)
def test_a_backend_that_claims_to_work_and_does_not(report, fault, said):
    code, table = report(fault=fault)
    assert code == 0
    assert table["backend cpp"].startswith(f"does not work: {said}")
    assert table["backend cpp"].splitlines()[-1].startswith('first: use backend="torch"')


def test_the_reference_run_is_right():
    # H[0] = 0.9, 0.2, 0.6, -0.3; after the reset V = 0, 0.2, 0, -0.3; H[1] = 0.25 V + x = 0.1, 0.45, 0.3, 0.625
    spikes, gradient = doctor._run(IterativeLIFNode(step_mode="s"), "cpu")
    assert spikes.tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]
    assert (gradient != 0).sum() >= 5, "the gradients say something about both time-steps"


def test_an_obstacle_that_cannot_be_told_is_the_obstacle(report):
    def choose(device):
        raise RuntimeError("no choice")

    code, table = report(obstacles=Failing(), choose=choose)
    assert code == 1
    assert table["backend cpp"].startswith("does not work: KeyError: 'cpp'")
    assert table["auto on cpu"] == "fails: RuntimeError: no choice"


class Failing(dict):
    def get(self, key):
        return self[key]


def test_versions_are_the_installed_ones(report):
    _, table = report()
    for name in ("jellyplus", "numpy", "spikingjelly"):
        assert table[name] == metadata.version(name)
    assert table["python"].startswith(sys.version.split()[0])
    assert table["torch"].startswith(f"{torch.__version__}, built ")
    assert table["NVIDIA driver"]
    assert table["GPU"].startswith("none visible to torch: ") is not torch.cuda.is_available()


class Distribution:
    def __init__(self, name, version):
        self.metadata, self.version = {"Name": name}, version


def cupy_rows(monkeypatch, module, *installed):
    """The rows about CuPy when importing it gives this module or error, and these distributions are there."""

    def importing(name):
        if isinstance(module, Exception):
            raise module
        return module

    monkeypatch.setattr(metadata, "distributions", lambda: [Distribution(*one) for one in installed])
    monkeypatch.setattr(importlib, "import_module", importing)
    return [text for _, text in doctor._cupy()]


class Cupy:
    __version__ = "14.2.0"


def test_cupy_that_imports(monkeypatch):
    found = [("cupy_cuda13x", "14.2.0"), (None, "1"), ("cupy-helpers", "3"), ("numpy", "2")]
    assert cupy_rows(monkeypatch, Cupy, *found) == ["14.2.0 (cupy-cuda13x 14.2.0)"]


def test_cupy_that_is_installed_and_does_not_import(monkeypatch):
    shown = cupy_rows(monkeypatch, ImportError(BANNER), ("cupy-cuda12x", "13.6.0"))
    assert shown == ["does not import, ImportError (cupy-cuda12x 13.6.0)"]


@pytest.mark.parametrize(("cuda", "extra"), [("12.8", "cupy12"), ("13.2", "cupy13")])
def test_several_cupys(monkeypatch, cuda, extra):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = [("cupy-cuda13x", "14.2.0"), ("cupy-cuda12x", "13.6.0"), ("cupy-cuda12x", "13.6.0")]
    _, warning = cupy_rows(monkeypatch, Cupy, *found)
    assert "more than one is installed" in warning
    assert f'first: pip uninstall -y cupy-cuda12x cupy-cuda13x, then pip install "jellyplus[{extra}]"' in warning


def test_no_cupy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cupy_rows(monkeypatch, ModuleNotFoundError("cupy")) == ["not installed"]


def run_here(*arguments):
    python = [sys.executable, "-W", "error::UserWarning", "-m", "jellyplus"]
    return subprocess.run([*python, *arguments], capture_output=True, text=True)


def test_for_real():
    run = run_here("doctor")
    table = rows(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert table["backend torch"].startswith("works")
    for backend in ("cpp", "cupy"):
        text = table[f"backend {backend}"]
        assert text.startswith("works") or ("does not work: " in text and "\nfirst: " in text)
        assert "wrong numbers" not in text
    if metadata_missing("cupy"):
        assert "ModuleNotFoundError: No module named 'cupy'" in table["backend cupy"], "the original error"
    assert table["auto on cpu"].split(":")[0] in doctor.backends.BACKENDS


def metadata_missing(module):
    return importlib.util.find_spec(module) is None


def test_an_unknown_command_is_bad_input():
    run = run_here("docotr")
    assert run.returncode == 2
    assert "invalid choice: 'docotr'" in run.stderr
    assert run.stderr.startswith("usage: jellyplus ")


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--version"])
    assert capsys.readouterr().out == f"jellyplus {metadata.version('jellyplus')}\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(InputError("there is no such folder"), 2, "error: there is no such folder"), (KeyboardInterrupt(), 130, "inter")],
)
def test_errors_are_one_sentence(monkeypatch, capsys, error, code, said):
    def failing():
        raise error

    monkeypatch.setattr(doctor, "main", failing)
    assert command.main(["doctor"]) == code
    assert f"jellyplus: {said}" in capsys.readouterr().err


def test_the_installed_command_is_this_one():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    scripts = dict(line.split(" = ") for line in setup["options.entry_points"]["console_scripts"].split("\n") if line)
    module, function = scripts["jellyplus"].split(":")
    assert getattr(importlib.import_module(module), function) is command.main
