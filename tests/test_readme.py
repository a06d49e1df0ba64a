import re
from pathlib import Path

import pytest
import torch

from jellyplus.neuron import backends

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def scope() -> dict:
    """What the plugin example leaves."""
    scope: dict = {}
    exec(blocks("python")[0], scope)
    return scope


def test_the_plugin_example_runs_and_trains_its_weights(scope):
    assert scope["spikes"].shape == (4, 8, 16, 32, 32)
    assert set(scope["spikes"].unique().tolist()) == {0.0, 1.0}
    assert scope["net"][0].weight.grad.abs().sum() > 0


@pytest.mark.skipif(backends.obstacle("cpp") is not None, reason=str(backends.obstacle("cpp")))
def test_the_example_of_another_backend_switches_the_same_network(scope):
    (example,) = blocks("python")[1:]
    exec(example, scope)
    assert scope["net"][2].backend == "cpp"
    assert torch.equal(scope["net"](torch.zeros(4, 8, 3, 32, 32)), torch.zeros(4, 8, 16, 32, 32))


def test_every_row_and_option_that_is_shown_exists():
    shown = " ".join(blocks("bash"))
    script = README.parent / "reproductions" / "table2_dspike.py"
    assert script.exists()
    claims = (script.parent / "claims" / "table2_dspike.yaml").read_text()
    rows = re.findall(r"--rows (\S+)", shown)
    assert rows
    assert all(f"- id: {row}\n" in claims for row in rows)
