"""README and docs: examples run, links lead somewhere, and what is counted in them is what is there."""

import configparser
import contextlib
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import cuda_graphs_on_cpu
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from jellyplus import functional, op_counter, surrogate
from jellyplus.neuron import backends
from jellyplus.training import graphed

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "methods").glob("*.md"))]


def blocks(language: str) -> list[str]:
    """Of all pages."""
    found = (re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S) for page in PAGES)
    return [block for of_page in found for block in of_page]


def example(beginning: str) -> str:
    """The code block behind the line of any page that begins like this."""
    pattern = rf"^{re.escape(beginning)}.*?^```python\n(.*?)^```"
    (found,) = (block for page in PAGES for block in re.findall(pattern, page.read_text(), re.M | re.S))
    return found


def run(*beginnings: str) -> dict:
    """What the examples leave, run one after the other."""
    scope: dict = {}
    torch.manual_seed(0)
    for beginning in beginnings:
        exec(example(beginning), scope)
    return scope


PLUGIN, BACKENDS = "## Use it as a plugin", "# Backends"
TDBN, DSPIKE, IM_LOSS = "tdBN: a residual", "Dspike: the temperature", "IM-Loss and ESG: a network"
OWN = "[examples/own_network.py](examples/own_network.py) runs them all"
INFLOR, SHORTCUT, OPERATIONS = "InfLoR: soft-reset", "Shortcut back-propagation: branches", "Operations and energy, of"
NIR, ONNX = "## NIR", "## ONNX"
LESS_MEMORY, FASTER, ON_A_GPU = "## Less memory", "## Faster on a CPU", "## Faster on a GPU"


def test_every_example_is_short_and_has_a_test():
    known = {PLUGIN, OWN, BACKENDS, TDBN, DSPIKE, IM_LOSS, INFLOR, SHORTCUT, OPERATIONS, NIR, ONNX, LESS_MEMORY, FASTER}
    known |= {ON_A_GPU}
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
    script = runpy.run_path(str(ROOT / "examples" / "own_network.py"))
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


def test_the_export_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = run(NIR, ONNX)
    assert scope["nir"].read("net.nir").nodes.keys() == scope["graph"].nodes.keys()
    expected = scope["net"](scope["image"][None]).detach()
    torch.testing.assert_close(torch.from_numpy(scope["outputs"]), expected, rtol=1e-4, atol=1e-4)


def test_the_example_of_less_memory_has_the_gradients_without_it():
    scope = run(LESS_MEMORY)
    net, grads = scope["net"], [parameter.grad.clone() for parameter in scope["net"].parameters()]
    net.zero_grad()
    functional.reset_net(net)
    torch.nn.functional.cross_entropy(net(scope["images"]).mean(0), scope["labels"]).backward()
    assert all(torch.equal(grad, parameter.grad) for grad, parameter in zip(grads, net.parameters(), strict=True))
    assert grads[0].abs().sum() > 0


def test_the_example_of_a_gpu_is_recorded_where_operations_are_noted(monkeypatch):
    monkeypatch.setattr(graphed, "record", cuda_graphs_on_cpu.record)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    scope = run(ON_A_GPU)
    net, calls = scope["net"], []
    functional.set_backend(net, "torch")
    net.register_forward_hook(lambda *_: calls.append(1))
    for seed in range(6):
        x, labels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)), torch.tensor([seed, 5])
        results = []
        for step in (scope["step"], scope["losses"]):
            net.zero_grad()
            loss, outputs = step(x, labels)
            loss.backward()
            results.append((loss.detach(), outputs, net.fc.weight.grad.clone()))
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert len(calls) == 6 + 3  # the first two of these, and the recorded one


def test_every_row_that_is_shown_exists():
    script = ROOT / "reproductions" / "table2_dspike.py"
    claims = (script.parent / "claims" / "table2_dspike.yaml").read_text()
    rows = re.findall(r"--rows (\S+)", " ".join(blocks("bash")))
    assert rows
    assert all(f"- id: {row}\n" in claims for row in rows)


SET_UP = {"python3 -m venv .venv", ".venv/bin/python -m pytest -n auto --dist worksteal"}  # .ci/run runs them
INSTALL = re.compile(r"\.venv/bin/pip install --quiet --editable \"\.\[(\w+)]\"")


def options_of_script(path: Path, words: list[str], monkeypatch) -> None:
    """Parses what a script of a table or figure is given, and does not make it."""
    from jellyplus.reproduction import cli

    monkeypatch.setattr(sys, "argv", [path.name, *words])
    monkeypatch.setattr(cli, "_job", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(cli, "use_threads", lambda _: None)
    add = cli._add_rows if path.stem.startswith("table") else (lambda _: None)
    assert cli.run(str(path), "", lambda *_: None, add) == 0


@pytest.mark.parametrize("line", sorted({line for block in blocks("bash") for line in block.splitlines()} - SET_UP))
def test_every_command_that_is_shown_is_understood(line, monkeypatch):
    """Program, options and files are there; set-up, tests and two scripts are run by CI as they stand."""
    from jellyplus import __main__

    words = shlex.split(line)
    if found := INSTALL.fullmatch(line):
        extras = configparser.ConfigParser()
        extras.read(ROOT / "setup.cfg")
        assert found[1] in extras["options.extras_require"]
    elif "jellyplus" in words or words[0].endswith("/jellyplus"):
        (start,) = (i for i, word in enumerate(words) if Path(word).name == "jellyplus")
        options = __main__._parser().parse_args(words[start + 1 :])
        assert not hasattr(options, "recipe") or (ROOT / options.recipe).exists()
    elif words[1] == "examples/own_network.py":
        script = runpy.run_path(str(ROOT / words[1]))
        assert set(words[words.index("--methods") + 1 :]) <= set(script["METHODS"])
    else:
        assert words[0] == ".venv/bin/python"
        assert (ROOT / words[1]).exists()
        options_of_script(ROOT / words[1], words[2:], monkeypatch)


def test_the_readme_is_two_pages():
    assert len(README.read_text().split()) <= 900


def slugs(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_included_files_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^```{\w+} (\S+\.\w+)$", text, re.M):
        file, _, anchor = target.partition("#")
        if file.startswith("https:") or "_generated/" in file:  # made when the pages are built
            continue
        led_to = page.parent / file if file else page
        assert led_to.exists(), target
        assert not anchor or anchor in slugs(led_to), target


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text()
    names = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in PAGES[1:]} - {"index"}
    listed = re.findall(r"^[\w/]+$", index, re.M)
    assert sorted(listed) == sorted(names)


def test_accuracies_on_the_methods_pages_are_printed_by_the_papers():
    """Nothing measured is typed there."""
    printed = "".join(path.read_text() for path in (ROOT / "reproductions" / "claims").glob("*.yaml"))
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
        for number in re.findall(r"\d+\.\d+", prose.replace("2401.04486", "")):
            assert number in printed, (page.name, number)


def test_the_page_of_what_was_measured_types_no_result():
    text = (ROOT / "docs" / "measured.md").read_text()
    assert not re.findall(r"\d [%s]|\d\.\d+ (?!on the node)", text.replace("test_fuzz.py 5.5", ""))


def test_the_energy_of_an_operation_is_that_of_the_code():
    counted = op_counter.Convention
    text = (ROOT / "docs" / "energy.md").read_text()
    assert f"{counted.pj_per_addition} pJ an addition, {counted.pj_per_multiplication} pJ a multiplication" in text


def test_limits_that_the_guarantees_name_are_those_of_the_code():
    from jellyplus.datasets import archives, images, mnist, npz
    from jellyplus.training import recipe, unpickling

    text = " ".join((ROOT / "docs" / "guarantees.md").read_text().split())
    assert f"at most {recipe._MOST_EPOCHS:,} epochs" in text
    assert f"of which {unpickling.LARGEST_PICKLE // 2**20} MiB are read" in text
    assert f"({images._BYTES} bytes a pixel)" in text
    assert f"{images._LARGEST_RATIO:,} pixels a byte, or a million" in text
    assert f"{npz._AN_EVENT} bytes an event" in text
    assert f"and to {archives.LARGEST_RATIO} times its size, or {mnist._ALWAYS // 2**20} MiB" in text
    assert f"every member as {archives._BLOCK // 1024} KiB at least" in text


PAPERS = {"tdBN": "tdbn", "Dspike": "dspike", "IM-Loss": "imloss", "InfLoR": "inflor", "shortcut": "shortcut"}
PRINTED_FIGURES = {"tdbn": 6, "dspike": 5, "imloss": 4, "inflor": 5, "shortcut": 2}  # counted in the papers
SCHEMATIC = {"tdbn": [1, 5], "dspike": [1], "imloss": [1], "inflor": [1], "shortcut": [1]}


def test_the_figures_that_are_shown_are_those_that_have_a_script():
    """Table and script alike have every printed figure but the schematic ones, which the text names and counts."""
    text = (ROOT / "docs" / "reproduce.md").read_text()
    for title, paper in PAPERS.items():
        ((_, figures),) = re.findall(rf"^\| {title} \| (`table.*) \| (`figure.*) \|$", text, re.M)
        shown = sorted(map(int, re.findall(r"`(?:figure)?(\d)(?:_\w+)?`", figures)))
        scripts = sorted(int(path.stem[6]) for path in (ROOT / "reproductions").glob(f"figure*_{paper}.py"))
        drawn = [n for n in range(1, PRINTED_FIGURES[paper] + 1) if n not in SCHEMATIC[paper]]
        assert shown == scripts == drawn
    tables, figures = (len([*(ROOT / "reproductions").glob(f"{kind}*.py")]) for kind in ("table", "figure"))
    counted = f"the papers' {tables} tables and {figures} of their {sum(PRINTED_FIGURES.values())} figures"
    assert counted in " ".join(README.read_text().split())
    assert "Figs. 1 and 5 of tdBN, and Fig. 1 of each other paper" in text


def test_the_table_of_architectures_is_what_the_definitions_give(monkeypatch):
    """Those that tests/model holds against every network."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "model"))
    definitions = importlib.import_module("definitions").ARCHITECTURES
    expected = {(f"{a.parameters:,}", f"{a.macs}M") for key, a in definitions.items() if key not in UNPRINTED}
    text = (ROOT / "docs" / "architectures.md").read_text()
    rows = re.findall(r"^\| `\w+`[^|]* \|[^|]*\|[^|]*\| ([\d,]+) \| ([\d.]+M) \|$", text, re.M)
    assert set(rows) == expected
    assert len(rows) == 19


UNPRINTED = {"plain", "toy_cnn", "vgg16_diet"}
