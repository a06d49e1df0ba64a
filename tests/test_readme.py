import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_plugin_example_runs_and_trains_its_weights():
    (example,) = blocks("python")
    scope: dict = {}
    exec(example, scope)
    assert scope["spikes"].shape == (4, 8, 16, 32, 32)
    assert set(scope["spikes"].unique().tolist()) == {0.0, 1.0}
    assert scope["net"][0].weight.grad.abs().sum() > 0


def test_every_row_and_option_that_is_shown_exists():
    shown = " ".join(blocks("bash"))
    script = README.parent / "reproductions" / "table2_dspike.py"
    assert script.exists()
    claims = (script.parent / "claims" / "table2_dspike.yaml").read_text()
    rows = re.findall(r"--rows (\S+)", shown)
    assert rows
    assert all(f"- id: {row}\n" in claims for row in rows)
