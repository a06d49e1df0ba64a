"""Recipes based on others are what the committed snapshot says they are; what a base may not be is refused."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import yaml

from jellyplus.__main__ import main
from jellyplus._errors import InputError
from jellyplus.training.recipe import as_plain_data
from jellyplus.training.recipe_files import layers, load_run, written
from jellyplus.training.show import shown

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
SNAPSHOT = yaml.safe_load((ROOT / "tests/training/resolved.yaml").read_text())


@pytest.fixture
def recipes(tmp_path):
    """A copy of a paper's recipes that a test may spoil."""
    shutil.copytree(RECIPES / "dspike", tmp_path / "recipes/dspike")
    return tmp_path / "recipes"


def write(recipes, name, text):
    (recipes / f"dspike/{name}.yaml").write_text(text)


def refused(recipes, name):
    with pytest.raises(InputError) as caught:
        load_run(f"dspike/{name}", "paper", recipes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- What is committed -------------------------------------------------------------------------------------------


def test_every_recipe_is_what_the_snapshot_says():
    """Where a change is meant, ``python tools/snapshot_recipes.py`` writes it anew."""
    now = runpy.run_path(str(ROOT / "tools/snapshot_recipes.py"))["resolved"]()
    assert now.keys() == SNAPSHOT.keys()
    for name, values in now.items():
        assert values == SNAPSHOT[name], name


def test_a_based_recipe_states_nothing_that_its_base_states():
    """But where the comment is another, or the value is said to be decided anew."""
    based = [name for name in SNAPSHOT if len(layers(name, RECIPES)) == 2]
    assert len(based) > 50
    for name in based:
        (base, _), (own, _) = layers(name, RECIPES)
        assert len(own.read_text().splitlines()) < 0.75 * len(base.read_text().splitlines()), name


# --- Bases -------------------------------------------------------------------------------------------------------


def test_a_recipe_is_its_base_with_its_own_values(recipes):
    text = "base: cifar10_t6\nmodel: {width: 3, options: {stem: null, blocks: [1]}}\ntemperature_search: null\n"
    write(recipes, "own", text + "im_loss: {weight: 2.0, variant: spikes}\n")
    base, own = (written(f"dspike/{name}", recipes) for name in ("cifar10_t6", "own"))
    expected = base | {"temperature_search": None, "im_loss": {"weight": 2.0, "variant": "spikes"}}
    options = {"blocks": [1], "shortcut": "pool", "identity_norm": False}
    assert own == expected | {"model": base["model"] | {"width": 3, "options": options}}


def test_a_key_is_the_same_written_out_or_based(recipes):
    write(recipes, "whole", yaml.safe_dump(written("dspike/cifar10_t2", recipes)))
    assert load_run("dspike/whole", "paper", recipes).key == load_run("dspike/cifar10_t2", "paper", recipes).key


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("missing", "base is missing, and there is no"),
        ("cifar10_t2", "base is cifar10_t2, which is based on 'cifar10_t6'"),
        ("own", "base is own, which is based on 'own'"),
        ("../tdbn/cifar10_resnet19_t2", "it must be the name of a run of the same paper"),
        ("[cifar10_t6]", "it must be the name of a run of the same paper"),
        ("3", "it must be the name of a run of the same paper"),
    ],
)
def test_what_is_no_base_is_refused(recipes, base, sentence):
    write(recipes, "own", f"base: {base}\nmodel: {{width: 3}}\n")
    assert sentence in refused(recipes, "own")


def test_an_unknown_key_is_refused_beside_a_base(recipes):
    write(recipes, "own", "base: cifar10_t6\nmodel: {widht: 3}\n")
    assert "widht" in refused(recipes, "own")


def test_a_profile_gives_no_base(recipes):
    (recipes / "dspike/profiles.yaml").write_text('paper:\n  "*": {base: cifar10_t2}\n')
    assert "base" in refused(recipes, "cifar10_t6")


# --- show --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["paper", "small", "embedded"])
@pytest.mark.parametrize("name", ["dspike/cifar10_t2", "compare/cifar10_resnet20_t2_all", "tdbn/cifar10_plain20"])
def test_what_is_shown_is_the_resolved_recipe(name, profile):
    run = load_run(name, profile, RECIPES)
    for document in yaml.safe_load_all(shown(RECIPES / f"{name}.yaml", profile)):
        stated = as_plain_data(run.recipe)
        assert _without_defaults(document, stated) == json.loads(json.dumps(stated))
        run = run.parent
    assert run is None


def _without_defaults(document, stated):
    return {
        key: _without_defaults(value, stated[key]) if isinstance(stated[key], dict) and value is not None else value
        for key, value in document.items()
        if key in stated
    }


def test_every_value_has_the_place_that_decides_it(capsys):
    assert main(["show", str(RECIPES / "dspike/cifar10_t2.yaml"), "--profile", "small"]) == 0
    lines = {line.partition(":")[0].strip(): line for line in capsys.readouterr().out.split("---")[0].splitlines()}
    base, own, profiles = (
        (RECIPES / f"dspike/{name}.yaml").read_text().splitlines() for name in ("cifar10_t6", "cifar10_t2", "profiles")
    )
    for key, file, text in (("decay", "cifar10_t6", base), ("time_steps", "cifar10_t2", own)):
        number = int(lines[key].partition(f"# {file}.yaml:")[2].partition(":")[0])
        assert text[number - 1].strip().startswith(f"{key}:")
    assert lines["decay"].endswith("not stated; tdBN's example value, which the paper builds on")
    number = int(lines["width"].partition("# profiles.yaml:")[2])
    assert "width" in profiles[number - 1]
    assert lines["examples"].endswith("null  # default")


def test_without_a_profile_it_is_the_one_that_train_takes(capsys):
    assert main(["show", str(RECIPES / "compare/cifar10_resnet20_t2.yaml")]) == 0
    assert "profile embedded" in capsys.readouterr().out


def test_what_cannot_be_read_is_one_sentence(capsys):
    assert main(["show", str(RECIPES / "dspike/missing.yaml")]) == 2
    assert "missing.yaml" in capsys.readouterr().err
