import importlib
import re
import runpy
from pathlib import Path

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from jellyplus import surrogate
from jellyplus.neuron import backends

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def example(beginning: str) -> str:
    """The code block behind the line that begins like this."""
    (found,) = re.findall(rf"^{re.escape(beginning)}.*?^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    return found


def run(*beginnings: str) -> dict:
    """What the examples leave, run one after the other."""
    scope: dict = {}
    torch.manual_seed(0)
    for beginning in beginnings:
        exec(example(beginning), scope)
    return scope


PLUGIN, BACKENDS = "## Use it as a plugin", "### Backends"
TDBN, DSPIKE, IM_LOSS = "tdBN: a residual", "Dspike: the temperature", "IM-Loss and ESG: a network"
OWN = "### In your own network"
INFLOR, SHORTCUT, OPERATIONS = "InfLoR: soft-reset", "Shortcut back-propagation: branches", "Operations and energy, of"


def test_every_example_is_short_and_has_a_test():
    known = {PLUGIN, OWN, BACKENDS, TDBN, DSPIKE, IM_LOSS, INFLOR, SHORTCUT, OPERATIONS}
    assert sorted(map(example, known)) == sorted(blocks("python"))
    assert all(len(list(filter(None, block.splitlines()))) < 15 for block in blocks("python"))


def test_the_plugin_example_runs_and_trains_its_weights():
    scope = run(PLUGIN)
    assert scope["spikes"].shape == (4, 8, 16, 32, 32)
    assert set(scope["spikes"].unique().tolist()) == {0.0, 1.0}
    assert scope["net"][0].weight.grad.abs().sum() > 0


@pytest.mark.skipif(backends.obstacle("cpp") is not None, reason=str(backends.obstacle("cpp")))
def test_the_example_of_another_backend_switches_the_same_network():
    scope = run(PLUGIN, BACKENDS)
    assert scope["net"][2].backend == "cpp"
    assert torch.equal(scope["net"](torch.zeros(4, 8, 3, 32, 32)), torch.zeros(4, 8, 16, 32, 32))


def test_the_lines_for_an_own_network_are_those_of_the_example_script():
    torch.manual_seed(0)
    script = runpy.run_path(str(README.parent / "examples" / "own_network.py"))
    x, y = script["digits"]()[:2]
    rest = {"images": x[:4], "error": lambda logits: script["error"](y[:4], logits)}
    rest |= {"epoch": 1, "epochs": 4, "step": 3, "steps": 4}
    scope = script | rest
    exec(example(OWN), scope)
    assert len(scope["report"].changed) == 10
    assert "layers=5" in repr(scope["im_loss"])
    assert scope["net"].shortcuts.weight == 0.0625


def test_tdbns_example_trains_and_fuses():
    scope = run(TDBN)
    assert all(p.grad is not None for p in scope["net"].parameters())
    norms = [[m for m in net.modules() if isinstance(m, _BatchNorm)] for net in (scope["net"], scope["fast"])]
    assert norms[0]
    assert not norms[1]


def test_dspikes_example_moves_the_temperature():
    scope = run(DSPIKE)
    temperatures = {m.temperature.item() for m in scope["net"].modules() if isinstance(m, surrogate.Dspike)}
    assert [*temperatures] == pytest.approx([scope["found"].temperature])
    assert scope["found"].temperature in scope["found"].candidates


def test_im_losss_example_trains_under_an_evolving_surrogate():
    scope = run(IM_LOSS)
    ks = {m.k.item() for m in scope["net"].modules() if isinstance(m, surrogate.EvAF)}
    assert [*ks] == pytest.approx([10**0.5])  # the second of two epochs
    assert scope["net"].conv1.weight.grad.abs().sum() > 0


def test_inflors_example_prints_a_smaller_error_after_rectifying(capsys):
    run(INFLOR)
    before, after = map(float, capsys.readouterr().out.split())
    assert before > after > 0


def test_the_shortcut_and_operation_examples(capsys):
    scope = run(SHORTCUT, OPERATIONS)
    assert scope["net"].shortcuts.weight == 0  # the last of two iterations
    assert scope["plain"].shortcuts is None
    out = capsys.readouterr().out
    assert "| total |" in out
    assert "mean of 8, standard error" in out


def test_every_row_and_option_that_is_shown_exists():
    shown = " ".join(blocks("bash"))
    script = README.parent / "reproductions" / "table2_dspike.py"
    assert script.exists()
    claims = (script.parent / "claims" / "table2_dspike.yaml").read_text()
    rows = re.findall(r"--rows (\S+)", shown)
    assert rows
    assert all(f"- id: {row}\n" in claims for row in rows)


PAPERS = {"tdBN": "tdbn", "Dspike": "dspike", "IM-Loss": "imloss", "InfLoR": "inflor", "shortcut": "shortcut"}
PRINTED_FIGURES = {"tdbn": 6, "dspike": 5, "imloss": 4, "inflor": 5, "shortcut": 2}  # counted in the papers
SCHEMATIC = {"tdbn": [1, 5], "dspike": [1], "imloss": [1], "inflor": [1], "shortcut": [1]}


def test_the_figures_that_are_shown_are_those_that_have_a_script():
    """Table and script alike have every printed figure but the schematic ones, which the text names and counts."""
    text = README.read_text()
    for title, paper in PAPERS.items():
        ((_, figures),) = re.findall(rf"^\| {title} \| (`table.*) \| (`figure.*) \|$", text, re.M)
        shown = sorted(map(int, re.findall(r"`(?:figure)?(\d)(?:_\w+)?`", figures)))
        scripts = sorted(int(path.stem[6]) for path in (README.parent / "reproductions").glob(f"figure*_{paper}.py"))
        drawn = [n for n in range(1, PRINTED_FIGURES[paper] + 1) if n not in SCHEMATIC[paper]]
        assert shown == scripts == drawn
    assert "16 of their 22 figures" in " ".join(text.split())
    assert "Figs. 1 and 5 of tdBN, and Fig. 1 of each other paper" in text


def test_the_table_of_architectures_is_what_the_definitions_give(monkeypatch):
    """Those that tests/model holds against every network."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "model"))
    definitions = importlib.import_module("definitions").ARCHITECTURES
    expected = {(f"{a.parameters:,}", f"{a.macs}M") for key, a in definitions.items() if key not in UNPRINTED}
    rows = re.findall(r"^\| `\w+`[^|]* \|[^|]*\|[^|]*\| ([\d,]+) \| ([\d.]+M) \|$", README.read_text(), re.M)
    assert set(rows) == expected
    assert len(rows) == 19


UNPRINTED = {"plain", "toy_cnn", "vgg16_diet"}
