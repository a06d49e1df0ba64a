"""What a result is of, in words; expectations are read off the recipes and the profiles."""

import dataclasses
from pathlib import Path

import pytest

from jellyplus import datasets
from jellyplus.reproduction import scale
from jellyplus.reproduction.claims import Split
from jellyplus.reproduction.scale import Scale
from jellyplus.training.recipe_files import load_run

RECIPES = Path(__file__).parents[2] / "recipes"


def of(make_evidence, name, profile, data, examples=(50000, 10000), epochs=3, split=(50000, 10000), **overrides):
    run = load_run(name, profile, RECIPES, overrides)
    held = {"name": data, "train_examples": examples[0], "test_examples": examples[1]}
    evidence = make_evidence(recipe=run.resolved, dataset=held, epochs_completed=epochs)
    return scale.of_evidence(evidence, run, scale.printed(name, RECIPES, overrides), Split(*split))


def test_a_stand_in_is_named_with_its_size_and_width(make_evidence):
    found = of(make_evidence, "dspike/cifar100_t4", "embedded", "digit_pairs", (6000, 1000), 2)
    assert str(found) == "stand-in: digit_pairs, 16x16, width 8, 6,000 images, 2 of 50 epochs"
    assert (found.stand_in, found.is_papers) == (True, False)
    found = of(make_evidence, "tdbn/imagenet_resnet34_large_t6", "embedded", "digits", (1437, 360), 6)
    assert str(found).startswith("stand-in: digits, 16x16, width 32, blocks 1-1-1-1, 1,437 images, 6 of ")
    found = of(make_evidence, "tdbn/dvs128_gesture_resnet17_t40", "embedded", "moving_digits", (1437, 360), 12)
    assert str(found).startswith("stand-in: moving_digits, 16x16, width 16, blocks 1-1, T = 10, 1,437 recordings")


def test_real_data_name_what_is_smaller(make_evidence):
    found = of(make_evidence, "dspike/cifar10_t6", "small", "cifar10", (20000, 10000), 5)
    assert (str(found), found.stand_in) == ("cifar10, width 16, 20,000 of 50,000 images, 5 of 300 epochs", False)
    found = of(make_evidence, "dspike/imagenet_resnet34_t6", "small", "imagenet", (10, 10), 2, (10, 10))
    assert str(found) == "imagenet, 64x64, width 16, 2 of 100 epochs"


def test_the_papers_own_has_a_name_and_no_more(make_evidence):
    found = of(make_evidence, "dspike/cifar10_t6", "paper", "cifar10", epochs=300)
    assert (str(found), found.is_papers) == ("cifar10", True)
    assert of(make_evidence, "dspike/cifar10_t6", "paper", "cifar10", epochs=300, model={"width": 4}).is_papers


def test_a_paper_overlay_that_changes_something_is_not_the_papers(make_evidence, tmp_path):
    folder = tmp_path / "dspike"
    folder.mkdir()
    for name in ("cifar10_t6", "cifar10_ann"):
        (folder / f"{name}.yaml").write_text((RECIPES / f"dspike/{name}.yaml").read_text())
    (folder / "profiles.yaml").write_text('paper:\n  "*": {model: {width: 8}}\n')
    run, paper = load_run("dspike/cifar10_t6", "paper", tmp_path), scale.printed("dspike/cifar10_t6", tmp_path)
    assert (run.recipe.model.width, paper.recipe.model.width) == (8, 64)
    data = {"name": "cifar10", "train_examples": 50000, "test_examples": 10000}
    evidence = make_evidence(recipe=run.resolved, dataset=data, epochs_completed=300)
    found = scale.of_evidence(evidence, run, paper, Split(50000, 10000))
    assert (str(found), found.is_papers) == ("cifar10, width 8", False)


def test_several_together_say_everything_once():
    scales = [Scale(("digits", "16x16", "width 8"), True), Scale(("digits", "16x16", "width 16"), True)]
    assert scale.together(scales) == "stand-in: digits, 16x16, width 8, width 16"


@pytest.mark.parametrize("name", ["digits", "digit_pairs", "moving_digits"])
def test_sizes_are_those_of_the_data(name):
    data = datasets.load(name)
    assert data.stand_in
    assert data.train.inputs.shape[-2:] == (scale._SIDES[name],) * 2
    assert name in scale.STAND_INS


def test_in_short_is_for_stand_ins():
    assert scale.in_short(load_run("dspike/cifar10_t6", "embedded", RECIPES).recipe) == "digits, 16x16, width 8"
    recipe = load_run("dspike/cifar10_t6", "small", RECIPES).recipe
    assert scale.in_short(recipe) == ""
    assert scale.in_short(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, dataset="cifar100"))) == ""
