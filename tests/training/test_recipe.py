"""Recipes state every value, refuse what they do not know, and are found again by their hash."""

import dataclasses
import functools
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from jellyplus import model
from jellyplus._errors import InputError
from jellyplus._options import PROFILES
from jellyplus._strict import from_mapping
from jellyplus.training.network import build_network
from jellyplus.training.recipe import Recipe, as_plain_data, recipe_key
from jellyplus.training.recipe_files import has_profile, load_run, written

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(f"{path.parent.name}/{path.stem}" for path in RECIPES.glob("*/*_*.yaml"))
OFFICIAL = [name for name in NAMES if has_profile(name, "official", RECIPES)]
PAIRS = [(name, profile) for profile in PROFILES for name in (OFFICIAL if profile == "official" else NAMES)]
EVIDENCE = sorted((RECIPES.parent / "reproductions/measured/evidence").glob("*/seed*.json"))


SRIF = {"name": "srif", "decay": 1.0, "v_threshold": 0.5, "v_reset": None, "detach_reset": False, "rectify": True}
SRIF |= {"backend": "auto"}
STEP = {"name": "step", "epochs": 300, "final_learning_rate": None, "step_epochs": 100, "step_factor": 0.1}


@functools.cache
def original(name, profile="paper"):
    """A run of the recipes as they are."""
    return load_run(name, profile, RECIPES)


@pytest.fixture
def recipes(tmp_path):
    """A copy of the recipes that a test may spoil; Dspike's are written out, so that none changes with its base."""
    folder = Path(shutil.copytree(RECIPES, tmp_path / "recipes"))
    whole = {name: written(name, folder) for name in NAMES if name.startswith("dspike/")}
    for name, values in whole.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder


def edit(folder, name, **changes):
    """Change values of a YAML file, given as section__key=value; None as the key's value is YAML's null."""
    path = folder / "dspike" / f"{name}.yaml"
    values = written(f"dspike/{name}", folder)
    for dotted, value in changes.items():
        *sections, key = dotted.split("__")
        target = values
        for section in sections:
            target = target[section]
        target[key] = value
    path.write_text(yaml.safe_dump(values))


def drop(folder, name, section, key):
    path = folder / "dspike" / f"{name}.yaml"
    values = written(f"dspike/{name}", folder)
    del values[section][key]
    path.write_text(yaml.safe_dump(values))


def refused(folder, name="dspike/cifar10_t6", profile="paper"):
    """The one sentence with which the run is refused."""
    with pytest.raises(InputError) as caught:
        load_run(name, profile, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leaves(values, prefix=""):
    """Nested values as {dotted key: value}."""
    flat = {}
    for key, value in values.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def differing(one, other, profile="paper"):
    one, other = (leaves({**original(f"dspike/{name}", profile).resolved, "parent": 0}) for name in (one, other))
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


# --- What the recipes say ----------------------------------------------------------------------------------------


def test_every_paper_and_the_comparison_have_recipes_and_dspike_has_those_of_its_tables():
    papers = [name.split("/")[0] for name in NAMES]
    assert set(papers) == {"compare", "dspike", "imloss", "inflor", "shortcut", "tdbn"}
    of_tables = [name for name in NAMES if name.startswith(("dspike/cifar", "dspike/mnist"))]
    assert len(of_tables) == 10 + 2 + 1  # Table 2's rows with their ANNs, Table 1's two, and Fig. 2's ANN


@pytest.mark.parametrize(("name", "profile"), PAIRS)
def test_every_recipe_resolves(name, profile):
    run = original(name, profile)
    assert (run.name, run.profile) == (name, profile)
    assert len(run.key) == 64


@pytest.mark.parametrize("name", NAMES)
def test_the_paper_profile_is_the_file_as_it_is(name):
    """But for what came after recipes that there is evidence of, where it holds its default."""
    resolved = original(name).resolved
    stated = leaves(written(name, RECIPES))
    decided = {key: value for key, value in stated.items() if (key, value) not in LATER.items()}
    assert leaves({key: _plain(value) for key, value in resolved.items() if key != "parent"}) == decided


LATER = {
    "model.initialisation": "he_fan_out",
    "model.decoding_initialisation": "torch",
    "model.options.identity_norm": False,
    "model.options.stem_pool": "average",
    "temperature_search.batch": "fixed",
    "warm_start.weight": 1.0,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_states_what_it_could_leave_out(name):
    stated, recipe = leaves(written(name, RECIPES)), original(name).recipe
    own = {f"model.options.{option}" for option in model.options(recipe.model.architecture)}
    parts = {"model.initialisation", "model.decoding_initialisation"} | own
    parts |= {"temperature_search.batch"} if recipe.temperature_search else set()
    parts |= {"warm_start.weight"} if recipe.warm_start else set()
    assert LATER.keys() & parts == LATER.keys() & stated.keys()


@pytest.mark.parametrize(("key", "value"), LATER.items())
def test_a_stated_default_of_a_later_value_is_in_no_key_and_another_value_is(key, value):
    name = {"w": "imloss/cifar10_cifarnet_t4_bare", "t": "dspike/cifar10_t6"}.get(key[0], "imloss/imagenet_resnet34_t6")
    other = {"he_fan_out": "torch", "torch": "normal_fan_in", False: True, "average": "maximum", "fixed": "fresh"}
    keys = []
    for changed in (value, other.get(value, 2.0)):
        changes = functools.reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), changed)
        keys.append(load_run(name, "paper", RECIPES, changes).key)
    assert keys[0] == original(name).key != keys[1]


@pytest.mark.parametrize("path", EVIDENCE, ids=lambda path: path.parent.name)
def test_a_recipe_of_committed_evidence_still_has_its_key(path):
    evidence = json.loads(path.read_text())
    stated = {name: value for name, value in evidence["recipe"].items() if name != "parent"}
    recipe = from_mapping(Recipe, stated, str(path))
    assert recipe_key(as_plain_data(recipe) | {"parent": evidence["recipe"]["parent"]}) == evidence["key"]


def test_dspikes_resnet34_is_tdbns():
    """ "The same ResNet-34 as used in" tdBN (Li et al. 2021, section 5.1), but for the surrogate."""
    with torch.device("meta"):
        ours, theirs = (build_network(original(f"{paper}/imagenet_resnet34_t6").recipe) for paper in ("dspike", "tdbn"))
    shapes = [
        {name: value.shape for name, value in net.state_dict().items() if "surrogate_function" not in name}
        for net in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    strides = [[m.stride for m in net.modules() if isinstance(m, torch.nn.Conv2d)] for net in (ours, theirs)]
    assert strides[0] == strides[1]
    assert strides[0].count((2, 2)) == 1 + 4 * 2  # the stem, and branch and shortcut of each stage's first block
    assert isinstance(ours.stem, torch.nn.Identity)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("shortcut/cifar")])
def test_shortcuts_optimizer_is_that_of_one_source(name):
    """Joint-A-SNN's; a batch of 128 and a momentum of 0.9 would have made its learning rate 80 times as large."""
    recipe = original(name).recipe
    assert (recipe.optimizer.learning_rate, recipe.optimizer.momentum, recipe.data.batch_size) == (0.1, 0.0, 1024)
    assert (recipe.optimizer.weight_decay, recipe.schedule.name, recipe.schedule.epochs) == (5e-4, "cosine", 300)
    assert (recipe.neuron.v_threshold, recipe.neuron.decay, recipe.surrogate.parameters) == (0.5, 0.25, {"width": 1.0})


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_time_inheritance_goes_from_the_ann_over_6_and_4_to_2(data):
    run, names = original(f"dspike/{data}_t2"), []
    while run:
        names.append((run.name, run.recipe.model.time_steps))
        run = run.parent
    assert names == [(f"dspike/{data}_{name}", t) for name, t in (("t2", 2), ("t4", 4), ("t6", 6), ("ann", 1))]


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_t4_and_t2_differ_in_time_steps_and_parent_only(data):
    assert differing(f"{data}_t4", f"{data}_t2") == {"model.time_steps", "initial_weights.run"}


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_t6_and_t4_differ_in_schedule_too(data):
    expected = {"model.time_steps", "initial_weights.run", "schedule.epochs", "optimizer.learning_rate"}
    assert differing(f"{data}_t6", f"{data}_t4") == expected


@pytest.mark.parametrize("run", ["ann", "t6", "t4", "t2"])
def test_cifar10_and_cifar100_differ_in_what_the_data_decide(run):
    expected = {"data.dataset", "data.cutout_size", "model.num_classes"}
    expected |= set() if run == "ann" else {"initial_weights.run"}
    assert differing(f"cifar10_{run}", f"cifar100_{run}") == expected


@pytest.mark.parametrize(
    ("name", "epochs", "learning_rate"),
    [("cifar10_t6", 300, 0.01), ("cifar100_t6", 300, 0.01), ("cifar10dvs_t10", 300, 0.01)]
    + [(f"cifar{n}_t{t}", 50, 0.004) for n in (10, 100) for t in (4, 2)],
)
def test_values_are_those_the_paper_states(name, epochs, learning_rate):
    recipe = original(f"dspike/{name}").recipe
    assert (recipe.schedule.epochs, recipe.optimizer.learning_rate) == (epochs, learning_rate)
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.9, 1e-4)
    assert (recipe.surrogate.name, recipe.surrogate.parameters) == ("dspike", {"temperature": 1.0})
    assert (recipe.temperature_search.step, recipe.temperature_search.epsilon) == (0.2, 0.1)
    assert (recipe.neuron.v_threshold, recipe.neuron.v_reset) == (0.5, 0.0)
    assert recipe.temperature_search.parameter == "conv1.weight"  # of the first layer
    assert (recipe.model.architecture, recipe.model.width) == ("dspike_resnet18", 64)


@pytest.mark.parametrize("name", ["cifar10_t6", "cifar100_t2"])
def test_cifar_is_augmented_by_autoaugment_and_cutout(name):
    assert {"autoaugment", "cutout"} <= set(original(f"dspike/{name}").recipe.data.augmentation)


def test_cifar10_dvs_has_ten_frames_flipped_and_rolled_by_five():
    recipe = original("dspike/cifar10dvs_t10").recipe
    assert (recipe.model.time_steps, recipe.model.in_channels, recipe.data.roll_pixels) == (10, 2, 5)
    assert recipe.data.augmentation == ("flip", "roll")
    assert recipe.initial_weights is None


def test_embedded_keeps_what_is_compared_and_shrinks_the_rest():
    recipe = original("dspike/cifar100_t4", "embedded").recipe
    assert (recipe.data.dataset, recipe.model.num_classes, recipe.model.time_steps) == ("digit_pairs", 100, 4)
    assert recipe.model.width < 64
    assert recipe.schedule.epochs < 50
    assert differing("cifar10_t6", "cifar10_t4", "embedded") >= {"model.time_steps"}


def test_small_is_real_data():
    for name in NAMES:
        small, paper = original(name, "small").recipe.data, original(name).recipe.data
        assert dataclasses.replace(small, images=paper.images) == paper  # ImageNet's are shown smaller


def test_gpu_is_the_papers_recipe_but_for_the_epochs():
    """And another run everywhere, or evidence of one would be taken for the other's."""
    for name in NAMES:
        gpu, paper = original(name, "gpu"), original(name)
        assert dataclasses.replace(gpu.recipe, schedule=paper.recipe.schedule) == paper.recipe
        assert gpu.recipe.schedule.epochs < paper.recipe.schedule.epochs
        assert gpu.recipe.schedule.name == paper.recipe.schedule.name


# --- The profile of the authors' public code ---


def test_imloss_and_inflor_have_public_code_and_the_others_say_that_they_have_none():
    assert {name.split("/")[0] for name in OFFICIAL} == {"imloss", "inflor"}
    assert len(OFFICIAL) == sum(name.startswith(("imloss/", "inflor/")) for name in NAMES)
    assert "has no profile official; choose from paper" in refused(RECIPES, "tdbn/cifar10_plain20", "official")


@pytest.mark.parametrize(("paper", "epochs", "learning_rate"), [("imloss", 100, 0.1), ("inflor", 400, 0.01)])
def test_cifar_is_trained_as_in_the_public_code(paper, epochs, learning_rate):
    names = [name for name in OFFICIAL if name.startswith((f"{paper}/cifar10_", f"{paper}/cifar100_"))]
    assert len(names) >= 10
    for name in names:
        recipe = original(name, "official").recipe
        assert (recipe.schedule.name, recipe.schedule.epochs, recipe.schedule.final_learning_rate) == (
            "cosine",
            epochs,
            0.0,
        )
        assert dataclasses.astuple(recipe.optimizer) == (learning_rate, 0.9, False, 1e-4, "sgd", None)
        assert (recipe.data.batch_size, recipe.data.drop_last, recipe.gpu_precision) == (128, False, "32-true")
        assert recipe.data.normalisation.std[0] == (0.2675 if "cifar100" in name else 0.2023)
        assert recipe.data.augmentation[:2] == ("crop", "flip")
        if paper == "inflor":
            assert recipe.data.augmentation[2:] == ("autoaugment", "cutout")
            assert (recipe.data.cutout_size, recipe.data.cutout_before_normalisation) == (16, True)
            assert (recipe.data.autoaugment_fill, recipe.data.autoaugment_interpolation) == (128, "bicubic")


def test_the_networks_are_those_of_the_public_code():
    for name in OFFICIAL:
        recipe = original(name, "official").recipe
        model, norm = recipe.model, recipe.norm
        assert recipe.neuron is None or recipe.neuron.strict
        assert model.options.get("hidden", True) == (model.architecture != "resnet19")
        assert (model.architecture == "vgg16_global_pool") == ("/cifar" in name and "vgg16" in name)
        assert model.decoding_initialisation != "torch"
        if norm and (name.startswith("imloss/") or "vgg16" in name or "_ann_" in name):
            assert (norm.name, norm.alpha, norm.branch_alpha or 1.0) == ("bn", 1.0, 1.0)
        elif norm:
            expected = ("tdbn", 1.0, 0.5**0.5, 1.0, "bn")
            got = (norm.name, norm.alpha, norm.branch_alpha, norm.identity_alpha, norm.outside_blocks)
            assert got == pytest.approx(expected)


def test_imlosss_surrogate_is_fixed_where_no_row_is_about_it():
    for name in (name for name in OFFICIAL if name.startswith("imloss/")):
        paper, official = original(name).recipe, original(name, "official").recipe
        assert official.im_loss is None or (official.im_loss.weight, official.im_loss.variant) == (0.005, "official")
        if name.endswith(("_esg", "_rectangular", "_bare", "_no_norm")):
            assert (official.surrogate, official.evolution) == (paper.surrogate, paper.evolution)
        else:
            assert dataclasses.astuple(official.surrogate) == ("dspike", {"temperature": 3.0})
            assert official.evolution is None


def test_events_are_resized_to_the_nearest_pixel():
    for name in ("imloss/cifar10dvs_resnet19_t10", "inflor/cifar10dvs_resnet19_t10", "inflor/cifar10dvs_resnet20_t10"):
        assert original(name, "official").recipe.data.events.resize == "nearest"


def test_inflors_cutout_is_16_on_both_cifars_as_the_rest_of_its_augmentation():
    for name in NAMES:
        if name.startswith(("inflor/cifar10_", "inflor/cifar100_")):
            assert original(name).recipe.data.cutout_size == 16


# --- Overlays ---


def test_a_null_takes_away_a_parameter_or_an_option_that_another_part_does_not_have(recipes):
    surrogate = "{name: evaf, parameters: {temperature: null, k: 2.0}}"
    overlay(recipes, f"paper: {{'*': {{surrogate: {surrogate}, temperature_search: null}}}}\n")
    assert load_run("dspike/cifar10dvs_t10", "paper", recipes).recipe.surrogate.parameters == {"k": 2.0}
    options = "{architecture: resnet18_cifar, options: {stem: null, depth: null}}"
    overlay(recipes, f"paper: {{'*': {{model: {options}}}}}\n")
    model = load_run("dspike/cifar10dvs_t10", "paper", recipes).recipe.model
    assert model.options == {"blocks": (2, 2, 2, 2), "shortcut": "pool"}


def test_an_overlay_does_not_bring_back_what_a_recipe_leaves_out():
    run = original("dspike/cifar10_ann", "embedded")  # "*" overlays temperature_search, which is null here
    assert run.recipe.temperature_search is None


def test_later_patterns_win(recipes):
    text = "paper:\n  '*': {model: {width: 3}}\n  '*_t6': {model: {width: 4}}\n"
    (recipes / "dspike/profiles.yaml").write_text(text)
    run = load_run("dspike/cifar10_t4", "paper", recipes)
    assert (run.recipe.model.width, run.parent.recipe.model.width, run.parent.parent.recipe.model.width) == (3, 4, 3)


# --- The key -----------------------------------------------------------------------------------------------------


def test_the_same_resolved_recipe_has_the_same_key(recipes):
    edit(recipes, "cifar10_t6")  # other order, no comments, the same values
    for name in ("cifar10_t6", "cifar10_t4"):
        assert load_run(f"dspike/{name}", "paper", recipes).key == original(f"dspike/{name}").key


def test_every_run_on_real_data_has_a_key_of_its_own():
    """On stand-in data two recipes may come to the same run, which is then made once."""
    keys = {original(name, profile).key for name in NAMES for profile in ("paper", "small")}
    assert len(keys) == len(NAMES) * 2


def test_no_run_is_that_of_another_profile():
    keys = [{original(*pair).key for pair in PAIRS if pair[1] == profile} for profile in PROFILES]
    assert sum(map(len, keys)) == len(set.union(*keys))


CHANGES = {
    "data__batch_size": 64, "data__augmentation": ["flip", "crop", "autoaugment", "cutout"], "data__crop_padding": 3,
    "data__cutout_size": 15, "data__roll_pixels": 1, "data__dataset": "cifar100", "model__num_classes": 11,
    "model__in_channels": 1, "model__width": 63, "model__time_steps": 5,
    "model__initialisation": "torch", "model__decoding_initialisation": "normal_fan_in",
    "model__options__identity_norm": True, "temperature_search__batch": "fresh",
    "model__options__stem": "pool_before", "model__options__shortcut": "conv", "model__options__blocks": [1, 1, 1, 1],
    "neuron__decay": 0.2,
    "neuron__v_threshold": 1.0, "neuron__v_reset": None, "neuron__detach_reset": True, "neuron__backend": "torch",
    "surrogate__parameters": {"temperature": 1.1}, "norm__alpha": 0.9, "norm__branch_alpha": 0.7, "norm__eps": 1e-4,
    "norm__momentum": 0.2, "optimizer__learning_rate": 0.02, "optimizer__momentum": 0.8, "optimizer__nesterov": True,
    "optimizer__weight_decay": 0.0, "schedule__epochs": 299, "schedule__final_learning_rate": 1e-5,
    "temperature_search__epsilon": 0.2, "temperature_search__step": 0.1, "temperature_search__batch_size": 64,
    "temperature_search__statistics": "eval", "temperature_search__parameter": "fc.weight", "temperature_search": None,
    "initial_weights__ann_bias": "scale", "initial_weights": None, "gpu_precision": "32-true",
    "schedule": STEP, "neuron": SRIF,
    "finite_differences": {"parameter": "fc.weight", "epsilon": 0.1}, "im_loss": {"weight": 2.0, "variant": "membrane"},
    "warm_start": {"learning_rate": 0.1, "momentum": 0.9, "max_iterations": 9}, "norm": None,
    "shortcut": {"weight": 0.25, "evolutionary": True},
}  # fmt: skip


def test_changes_reach_every_value_of_a_recipe():
    recipe = {**original("dspike/cifar10_t6").resolved, "parent": None}
    mentioned = {change.replace("__", ".") for change in CHANGES} | {"surrogate.parameters.temperature", "parent"}
    mentioned |= {f"{part}.{key}" for part, value in CHANGES.items() if isinstance(value, dict) for key in value}
    with_a_test_of_their_own = {"model.architecture", "surrogate.name", "norm.name", "initial_weights.run", "evolution"}
    assert leaves(recipe).keys() - mentioned == with_a_test_of_their_own


@pytest.mark.parametrize("change", CHANGES)
def test_any_changed_value_gives_another_key_to_the_run_and_its_descendants(recipes, change):
    edit(recipes, "cifar10_t6", **{change: CHANGES[change]})
    run = load_run("dspike/cifar10_t4", "paper", recipes)
    assert run.key != original("dspike/cifar10_t4").key
    assert run.parent.key != original("dspike/cifar10_t6").key
    if run.parent.parent:
        assert run.parent.parent.key == original("dspike/cifar10_ann").key


def test_the_key_does_not_depend_on_where_the_recipes_are(recipes):
    assert load_run("dspike/cifar10_t2", "small", recipes).resolved == original("dspike/cifar10_t2", "small").resolved


def test_overrides_come_last_and_leave_ancestors_as_they_are():
    plain = original("dspike/cifar10_t4", "embedded")
    changes = {"model": {"width": 2}, "temperature_search": None}
    run = load_run("dspike/cifar10_t4", "embedded", RECIPES, changes)
    assert (run.recipe.model.width, run.recipe.temperature_search) == (2, None)
    assert run.recipe.model.time_steps == plain.recipe.model.time_steps
    assert run.parent.key == plain.parent.key
    assert run.key != plain.key
    assert load_run("dspike/cifar10_t4", "embedded", RECIPES, {}).key == plain.key


def test_an_override_that_does_not_fit_is_named():
    with pytest.raises(InputError, match=r"cifar10_t4.yaml under profile small with .*model\.widths"):
        load_run("dspike/cifar10_t4", "small", RECIPES, {"model": {"widths": 2}})


#: Settings that came after recipes of which there is evidence: part, name, default, another value.
OF_PUBLIC_CODE = [
    ("neuron", "strict", False, True),
    ("norm", "identity_alpha", None, 1.0),
    ("norm", "outside_blocks", None, "bn"),
    ("data", "drop_last", True, False),
    ("data", "normalisation", None, {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}),
    ("data", "cutout_before_normalisation", False, True),
    ("data", "autoaugment_fill", 0, 128),
    ("data", "autoaugment_interpolation", "nearest", "bicubic"),
    ("model", "decoding_initialisation", "torch", 0.01),
    ("model", "options", {"hidden": True, "stem_width": 0}, {"hidden": False}),
    ("model", "options", {"hidden": True}, {"stem_width": 64}),
    ("im_loss", "per_channel", False, True),
]


@pytest.mark.parametrize(("part", "setting", "default", "other"), OF_PUBLIC_CODE)
def test_a_setting_that_came_later_is_in_the_key_where_it_holds_another_value(part, setting, default, other):
    name = f"{'imloss' if part == 'im_loss' else 'inflor'}/cifar10_resnet19_t4"
    keys = [load_run(name, "paper", RECIPES, {part: {setting: value}}).key for value in (default, other)]
    assert keys[0] == original(name).key != keys[1]


def test_an_option_that_came_later_is_left_out_or_stated_and_no_other_is():
    name = "inflor/cifar10_resnet19_t4"
    assert "hidden" not in original(name).recipe.model.options
    other = load_run(name, "paper", RECIPES, {"model": {"options": {"hidden": False}}})
    assert other.recipe.model.options["hidden"] is False
    with pytest.raises(InputError, match=r"options\.hidden is 1; it must be like True"):
        load_run(name, "paper", RECIPES, {"model": {"options": {"hidden": 1}}})
    with pytest.raises(InputError, match=r"options\.stem_width is -1; it must be 0 to 65536"):
        load_run(name, "paper", RECIPES, {"model": {"options": {"stem_width": -1}}})
    with pytest.raises(InputError, match=r"options are not those of resnet19: state blocks, shortcut"):
        load_run(name, "paper", RECIPES, {"model": {"options": {"depth": 3}}})


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("imloss/cifar10_resnet19_t4", {"data": {"cutout_before_normalisation": True}}, "is for the augmentation"),
        ("imloss/cifar10_resnet19_t4", {"data": {"autoaugment_fill": 128}}, "are for autoaugment"),
        ("imloss/cifar10_resnet19_t4", {"data": {"autoaugment_interpolation": "bicubic"}}, "are for autoaugment"),
        ("inflor/cifar10_resnet19_t4", {"data": {"autoaugment_fill": 256}}, "give 0 to 255"),
        ("inflor/cifar10_resnet19_t4", {"data": {"normalisation": {"mean": [0.5], "std": []}}}, "for each channel"),
        ("inflor/cifar10_resnet19_t4", {"data": {"normalisation": {"mean": [0.5], "std": [0.0]}}}, "must be positive"),
        ("inflor/cifar10_ann_resnet19", {"norm": {"outside_blocks": "bn"}}, "are for tdbn"),
        ("inflor/cifar10_vgg16_t5", {"norm": {"identity_alpha": 1.0}}, "need blocks"),
        (
            "inflor/cifar10_resnet19_t4",
            {"norm": {"identity_alpha": 1.0}, "model": {"options": {"identity_norm": True}}},
            "is for identities without a norm",
        ),
        ("inflor/cifar10_resnet19_t4", {"data": {"drop_last": False, "micro_batch": 64}}, "divides whole batches only"),
        ("inflor/cifar10_resnet19_t4", {"model": {"decoding_initialisation": 0.0}}, "must be positive"),
        (
            "inflor/cifar10_resnet19_t4",
            {"model": {"decoding_initialisation": "zeros"}},
            "'normal_fan_in' or a finite number",
        ),
    ],
)
def test_settings_of_public_code_that_do_not_fit_are_refused(name, overrides, reason):
    with pytest.raises(InputError, match=reason):
        load_run(name, "paper", RECIPES, overrides)


def test_no_limit_of_examples_leaves_the_key_and_a_limit_changes_it():
    plain = original("dspike/cifar10_ann")
    assert "examples" not in plain.resolved["data"]
    assert load_run("dspike/cifar10_ann", "paper", RECIPES, {"data": {"examples": None}}).key == plain.key
    limited = load_run("dspike/cifar10_ann", "paper", RECIPES, {"data": {"examples": 64}})
    assert limited.resolved["data"]["examples"] == 64
    assert limited.key != plain.key
    seeds = [
        load_run("dspike/cifar10_ann", "paper", RECIPES, {"data": {"examples": 64, "examples_seed": s}}) for s in (0, 1)
    ]
    assert seeds[0].key == limited.key != seeds[1].key


def test_no_validation_split_leaves_the_key_and_one_changes_it(recipes):
    plain = original("dspike/cifar10_ann")
    assert "validation" not in plain.resolved["data"]
    held_out = load_run("dspike/cifar10_ann", "paper", RECIPES, {"data": {"validation": 5000}})
    assert held_out.resolved["data"]["validation"] == 5000
    assert held_out.key != plain.key
    edit(recipes, "cifar10_t6", data__validation=0)
    assert "validation is 0; it must be at least 1" in refused(recipes)


def test_a_seed_of_examples_without_examples_is_refused(recipes):
    edit(recipes, "cifar10_t6", data__examples_seed=1)
    assert "examples_seed is for examples" in refused(recipes)


@pytest.mark.parametrize(("name", "profile"), PAIRS)
def test_where_a_profile_takes_some_examples_every_class_has_one(name, profile):
    recipe = original(name, profile).recipe
    assert recipe.data.examples is None or recipe.data.examples >= recipe.model.num_classes


# --- What is refused ---------------------------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_its_file(recipes):
    edit(recipes, "cifar10_t6", optimizer__learningrate=0.1)
    message = refused(recipes)
    assert "'optimizer.learningrate'" in message
    assert str(recipes / "dspike/cifar10_t6.yaml") in message


def test_an_unknown_key_of_an_ancestor_is_named_with_the_ancestors_file(recipes):
    edit(recipes, "cifar10_ann", momentum=0.1)
    message = refused(recipes, "dspike/cifar10_t2")
    assert "'momentum'" in message
    assert str(recipes / "dspike/cifar10_ann.yaml") in message


@pytest.mark.parametrize(
    ("section", "key"), [("optimizer", "nesterov"), ("neuron", "v_reset"), ("neuron", "backend"), ("norm", "eps")]
)
def test_a_missing_key_is_named_with_its_file(recipes, section, key):
    drop(recipes, "cifar10_t6", section, key)
    message = refused(recipes)
    assert f"'{section}.{key}' is missing" in message
    assert "cifar10_t6.yaml" in message


def overlay(folder, text):
    (folder / "dspike/profiles.yaml").write_text(text)


@pytest.mark.parametrize("text", ["{data: {batchsize: 3}}", "{dta: {batch_size: 3}}"])
def test_an_unknown_key_in_an_overlay_is_named(recipes, text):
    overlay(recipes, f"paper: {{'*': {text}}}\n")
    assert ("'data.batchsize'" if "batchsize" in text else "'dta'") in refused(recipes)


def test_an_unknown_key_in_an_overlay_is_sought_in_the_overlays_file(recipes):
    overlay(recipes, "paper: {'*': {data: {batchsize: 3}}}\n")
    assert str(recipes / "dspike/profiles.yaml") in refused(recipes)


@pytest.mark.parametrize("text", ["", "[]", "paper: 3", "paper: [a]", "paper: {'*': 3}", "paper: {'*': null}", "a"])
def test_a_profiles_file_of_another_shape_is_refused(recipes, text):
    overlay(recipes, text)
    assert str(recipes / "dspike/profiles.yaml") in refused(recipes)


def test_an_unknown_profile_is_refused_and_the_choices_named():
    message = refused(RECIPES, profile="tiny")
    assert "tiny" in message
    assert all(profile in message for profile in set(PROFILES) - {"official"})


def test_a_missing_file_is_named(recipes):
    assert str(recipes / "dspike/cifar10_t3.yaml") in refused(recipes, "dspike/cifar10_t3")


def test_a_missing_ancestor_is_named(recipes):
    (recipes / "dspike/cifar10_t4.yaml").unlink()
    assert str(recipes / "dspike/cifar10_t4.yaml") in refused(recipes, "dspike/cifar10_t2")


def test_without_profiles_a_recipe_is_what_it_says_and_another_profile_is_named(recipes):
    with_them = load_run("dspike/cifar10_t6", "paper", recipes)
    (recipes / "dspike/profiles.yaml").unlink()
    assert load_run("dspike/cifar10_t6", "paper", recipes) == with_them
    sentence = refused(recipes, profile="small")
    assert f"there is no {recipes / 'dspike/profiles.yaml'}, and so no profile small; choose from paper" in sentence


@pytest.mark.parametrize("run", ["dspike/cifar10_t6", "dspike/cifar10_t2"])
def test_a_run_that_starts_from_itself_is_refused(recipes, run):
    edit(recipes, "cifar10_t6", initial_weights__run=run)
    assert "initial_weights" in refused(recipes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model__time_steps": 0}, "model: time_steps is 0; it must be at least 1"),
        ({"model__time_steps": -1}, "time_steps is -1"),
        ({"model__time_steps": 2.5}, "'model.time_steps' is 2.5; it must be an integer"),
        ({"model__time_steps": True}, "'model.time_steps' is True"),
        ({"model__width": 0}, "width is 0"),
        ({"model__num_classes": 0}, "num_classes is 0"),
        ({"schedule__epochs": 0}, "epochs is 0"),
        ({"schedule__epochs": 60_000}, "epochs is 60000; it must be at most 10000"),
        ({"optimizer__learning_rate": "fast"}, "'optimizer.learning_rate' is 'fast'"),
        ({"optimizer__learning_rate": float("nan")}, "'optimizer.learning_rate' is nan"),
        ({"surrogate__name": "rectangular"}, "temperature_search needs surrogate dspike"),
        ({"surrogate__name": "sigmoid"}, "surrogate: there is no surrogate 'sigmoid'; choose from dspike"),
        ({"surrogate": None}, "surrogate is null, and neurons need one"),
        ({"neuron": None}, "an ANN has one"),
        ({"neuron__name": "srif"}, "neuron: srif has neither decay nor reset potential"),
        ({"neuron__rectify": True}, "neuron: rectify is a part of srif"),
        ({"neuron": SRIF | {"v_threshold": 0.4}}, "neuron: rectify is symmetric about 0.5 and v_threshold is 0.4"),
        ({"evolution": {"k_min": 1.0, "k_max": 10.0}}, "evolution needs surrogate evaf"),
        ({"evolution": {"k_min": 0.0, "k_max": 10.0}}, "evolution: k_min is 0.0; it must be positive"),
        ({"finite_differences": {"parameter": "conv1.weight", "epsilon": 0.1}}, "finite_differences replace"),
        (
            {
                "finite_differences": {"parameter": "fc.weight", "epsilon": 0.1},
                "im_loss": {"weight": 2.0, "variant": "membrane"},
            },
            "finite_differences are those of the cross-entropy alone",
        ),
        ({"im_loss": {"weight": 2.0, "variant": "potential"}}, "'im_loss.variant' is 'potential'"),
        ({"im_loss": {"weight": 0.0, "variant": "spikes"}}, "im_loss: weight is 0.0"),
        ({"shortcut": {"weight": -1.0, "evolutionary": False}}, "shortcut: weight is -1.0"),
        ({"warm_start": {"learning_rate": 0.1, "momentum": 0.9, "max_iterations": 0}}, "max_iterations is 0"),
        ({"norm__branch_alpha": None}, "norm.branch_alpha is needed by dspike_resnet18"),
        ({"schedule__name": "step"}, "schedule: final_learning_rate must be null for step"),
        ({"schedule__final_learning_rate": None}, "schedule: final_learning_rate is needed by cosine"),
        ({"schedule__step_epochs": 3}, "schedule: step_epochs must be null for cosine"),
        ({"schedule": STEP | {"step_epochs": 0}}, "schedule: step_epochs is 0; it must be at least 1"),
        ({"model__options": {}}, "model: options are not those of dspike_resnet18: state"),
        ({"model__options__colour": 1}, "model: options are not those of dspike_resnet18: state"),
        ({"norm__name": "bn"}, "bn has no alpha"),
        ({"temperature_search__statistics": "both"}, "'temperature_search.statistics' is 'both'"),
        ({"initial_weights__ann_bias": "drop"}, "'initial_weights.ann_bias' is 'drop'"),
        ({"gpu_precision": "8"}, "'gpu_precision' is '8'"),
        ({"neuron__backend": "jax"}, "'neuron.backend' is 'jax'"),
        ({"model__architecture": "os.system"}, "model: there is no architecture 'os.system'; choose from"),
        ({"model__architecture": {"class_path": "os.system", "init_args": {"command": "x"}}}, "'model.architecture'"),
        ({"model": {"class_path": "os.system"}}, "'model.class_path'"),
        ({"neuron__class_path": "jellyplus.neuron.IterativeLIFNode"}, "'neuron.class_path'"),
        ({"data": None}, "'data' is None"),
        ({"data__augmentation": "crop"}, "'data.augmentation' is 'crop'; it must be a list"),
    ],
)
def test_a_value_that_cannot_be_is_refused(recipes, changes, reason):
    edit(recipes, "cifar10_t6", **changes)
    message = refused(recipes)
    assert reason in message
    assert "cifar10_t6.yaml" in message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model__time_steps": 2}, "time_steps is 2; an ANN has one"),
        ({"surrogate": {"name": "dspike", "parameters": {}}}, "surrogate must be null in an ANN"),
        ({"im_loss": {"weight": 2.0, "variant": "membrane"}}, "im_loss must be null in an ANN (neuron: null), where"),
        ({"warm_start": {"learning_rate": 0.1, "momentum": 0.9, "max_iterations": 1}}, "warm_start must be null in"),
        ({"norm__name": "tdbn"}, "norm tdbn needs a V_th: an ANN has bn or null"),
    ],
)
def test_an_ann_is_no_spiking_network(recipes, changes, reason):
    edit(recipes, "cifar10_ann", **changes)
    assert reason in refused(recipes, "dspike/cifar10_ann")


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__learning_rate": -0.1},
        {"optimizer__momentum": -0.9},
        {"optimizer__weight_decay": -1.0},
        {"optimizer__nesterov": True, "optimizer__momentum": 0.0},
        {"temperature_search__batch_size": 0},
        {"temperature_search__epsilon": 0.0},
        {"temperature_search__step": -0.2},
    ],
)
def test_a_number_that_torch_or_the_search_would_choke_on_is_refused(recipes, changes):
    edit(recipes, "cifar10_t6", **changes)
    assert next(iter(changes)).split("__")[1] in refused(recipes)


def test_yaml_that_would_run_something_is_refused(recipes, tmp_path):
    path = recipes / "dspike/cifar10_t6.yaml"
    path.write_text(f"data: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    assert str(path) in refused(recipes)
    assert not (tmp_path / "made").exists()


def test_a_recipe_is_immutable():
    recipe = original("dspike/cifar10_t6").recipe
    with pytest.raises(AttributeError):
        recipe.model.width = 1


def test_recipe_key_is_the_sha256_of_canonical_json():
    assert recipe_key({"b": 1.5, "a": [True, None]}) == hashlib.sha256(b'{"a":[true,null],"b":1.5}').hexdigest()
    assert recipe_key({"a": 1, "b": {"d": 2, "c": 3}}) == recipe_key({"b": {"c": 3, "d": 2}, "a": 1})
    assert recipe_key({"a": (1, 2)}) == recipe_key({"a": [1, 2]})
    assert recipe_key({"a": 1}) != recipe_key({"a": 1.0})
