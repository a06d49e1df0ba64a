"""Runs as objects: loaded by name, file and folder they give what was trained; what contradicts itself is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import jellyplus
from jellyplus import datasets, model
from jellyplus.__main__ import main
from jellyplus._errors import InputError
from jellyplus.datasets.classes import class_names
from jellyplus.datasets.transforms import normalisation
from jellyplus.reproduction import loading
from jellyplus.reproduction.runs import InputTransform
from jellyplus.training.recipe_files import load_run

RECIPES = Path(__file__).parents[2] / "recipes"
NAME = "shortcut/cifar100_resnet18_t2_evolutionary"
OTHER = "tdbn/cifar10_resnet19_t2"


def plant(folder):
    """Recipes of two papers with profiles of seconds, one of which has shortcut branches in training alone."""
    for name, data in ((NAME, "digit_pairs"), (OTHER, "digits")):
        paper = name.split("/")[0]
        shutil.copytree(RECIPES / paper, folder / "recipes" / paper)
        tiny = f"data: {{dataset: {data}, batch_size: 500, augmentation: []}}, model: {{width: 1}}"
        lines = [f'{profile}:\n  "*": {{{tiny}, schedule: {{epochs: {n}}}}}' for profile, n in PROFILES.items()]
        (folder / "recipes" / paper / "profiles.yaml").write_text("\n".join(["paper: {}", *lines]))


PROFILES = {"embedded": 2, "smoke": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four finished runs: two seeds of a network, one of them under another profile too, and another network."""
    folder = tmp_path_factory.mktemp("made")
    plant(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in ([NAME, "embedded", "0", "1"], [NAME, "smoke", "0"], [OTHER, "embedded", "0"]):
            name, profile, *seeds = words
            assert main(["train", f"recipes/{name}.yaml", "--profile", profile, "--seeds", *seeds]) == 0
    return folder


@pytest.fixture
def tree(made, tmp_path, monkeypatch):
    """A copy that may be spoiled, as the current folder."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def files(profile="embedded", name=NAME):
    """Of evidence, by seed."""
    table = jellyplus.runs()
    return table[(table["recipe"] == name) & (table["profile"] == profile)]["file"].map(Path).tolist()


# --- load --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def accuracy(run, split):
    """In percent, image by image in uint8 as anybody has them."""
    logits = run.network(run.transform(split.inputs)).mean(0)
    return 100 * (logits.argmax(1) == split.labels).float().mean().item()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_loaded_network_has_the_accuracy_that_the_evidence_states(tree, seed):
    run = jellyplus.load(NAME, seed, profile="embedded")
    assert accuracy(run, datasets.load("digit_pairs").test) == pytest.approx(run.evidence.accuracy_last, abs=1e-4)
    assert not any(module.training for module in run.network.modules())
    assert run.evidence.seed == seed
    assert run.history["epoch"].tolist() == [0, 1]
    assert run.history["accuracy"].iloc[-1] == run.evidence.accuracy_last
    assert run.recipe == load_run(NAME, "embedded", tree / "recipes").recipe
    assert run.classes[7] == "07"
    assert not any(isinstance(module, model.Shortcuts) for module in run.network.modules())


def test_every_way_to_name_a_run_gives_the_same(tree):
    first, _ = files()
    ways = [(first, None), (first.with_suffix(".ckpt"), None), (first.parent, 0), (tree / f"recipes/{NAME}.yaml", 0)]
    wanted = jellyplus.load(NAME, 0, profile="embedded")
    for way, seed in ways:
        found = jellyplus.load(way, seed, profile="embedded", root=tree / "results")
        assert found.evidence == wanted.evidence
        state, other = found.network.state_dict(), wanted.network.state_dict()
        assert state.keys() == other.keys()
        assert all(torch.equal(state[name], other[name]) for name in state)


def several_seeds(tree):
    return (NAME, None, "embedded"), "has the seeds 0, 1: state seed"


def several_profiles(tree):
    return (NAME, 0), "is several runs: state profile"


def no_such_seed(tree):
    return (NAME, 5), "has no seed 5; it has 0, 1"


def no_such_name(tree):
    return ("tdbn/none",), "tdbn/none has no run; jellyplus list runs"


def no_name(tree):
    return ("nothing",), "there is no file or folder nothing, and a recipe's name is like"


def no_results(tree):
    shutil.rmtree("results")
    return (NAME,), "there is no folder results/evidence"


def no_checkpoint(tree):
    file = files()[0]
    file.with_suffix(".ckpt").unlink()
    return (file,), "has no checkpoint"


def no_evidence(tree):
    file = files()[0]
    file.unlink()
    return (file.with_suffix(".ckpt"),), "a run is loaded with its evidence"


def another_seeds_checkpoint(tree):
    first, second = files()
    shutil.copy(second.with_suffix(".ckpt"), first.with_suffix(".ckpt"))
    return (first,), "contradicts itself: its checkpoint"


def a_byte_of_the_checkpoint(tree):
    file = files()[0].with_suffix(".ckpt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return (file,), "is not the one that the run left"


def an_edited_accuracy(tree):
    file = files()[0]
    content = json.loads(file.read_text())
    content["accuracy_last"] += 0.5
    content["accuracy_best"] = 99.0
    file.write_text(json.dumps(content))
    return (file,), "contradicts itself: its accuracy"


def a_probe(tree):
    return (next(files()[0].parent.glob("probe-*.json")),), "is not a run's"


REFUSED = [
    several_seeds,
    several_profiles,
    no_such_seed,
    no_such_name,
    no_name,
    no_results,
    no_checkpoint,
    no_evidence,
    another_seeds_checkpoint,
    a_byte_of_the_checkpoint,
    an_edited_accuracy,
    a_probe,
]


@pytest.mark.parametrize("spoil", REFUSED)
def test_what_is_not_one_sound_run_is_refused_in_a_sentence(tree, spoil):
    (run, *others), reason = spoil(tree)
    seed, profile = [*others, None, None][:2]
    with pytest.raises(InputError) as refusal:
        jellyplus.load(run, seed, profile=profile)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


# --- The transform -----------------------------------------------------------------------------------------------


def transform_of(name, profile="paper"):
    recipe = load_run(name, profile, RECIPES).recipe
    return InputTransform(recipe, loading.evaluation(recipe))


def test_an_image_of_pil_and_the_same_as_array_become_the_same_input():
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    transform = transform_of("tdbn/cifar10_resnet19_t2")
    of_image = transform(Image.fromarray(pixels))
    assert of_image.shape == (1, 1, 3, 32, 32)
    assert torch.equal(of_image, transform(pixels.transpose(2, 0, 1)))
    red = (pixels[0, 1, 0] / 255 - 0.4914) / 0.2470  # CIFAR-10's, as published
    assert of_image[0, 0, 0, 0, 1].item() == pytest.approx(red, abs=1e-6)


def test_images_of_any_size_are_resized_where_the_data_set_does_so():
    transform = transform_of("dspike/imagenet_resnet34_t6")
    assert transform(Image.new("RGB", (300, 260), (255, 0, 0))).shape == (1, 1, 3, 224, 224)


@pytest.mark.parametrize("name", ["digits", "digit_pairs", "moving_digits"])
def test_stand_ins_are_presented_as_in_training(name):
    data = datasets.load(name)
    run = {"digits": "tdbn/cifar10_resnet19_t2", "digit_pairs": "shortcut/cifar100_resnet18_t2"}
    transform = transform_of(run.get(name, "tdbn/cifar10dvs_resnet19_t10"), "embedded")
    expected = torch.stack([normalisation(data)(example) for example in data.test.inputs[:3]])
    shown = transform(data.test.inputs[:3])
    assert torch.equal(shown, expected.unsqueeze(0) if data.kind == "images" else expected.transpose(0, 1))


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (torch.zeros(3, 28, 28, dtype=torch.uint8), r"shape \[N, 3, 32, 32\], and these have \[1, 3, 28, 28\]"),
        (torch.zeros(1, 32, 32, dtype=torch.uint8), "these have"),
        (torch.zeros(32, 32, dtype=torch.uint8), "these have"),
        (torch.zeros(3, 32, 32), "images are uint8 from 0 to 255, and these are torch.float32"),
    ],
)
def test_examples_of_another_kind_are_refused(example, reason):
    with pytest.raises(InputError, match=reason):
        transform_of("tdbn/cifar10_resnet19_t2")(example)


def test_class_names_are_by_label():
    assert class_names("cifar100", 100)[99] == "worm"
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        names = class_names(name, classes)
        assert list(names) == sorted(set(names))  # labels number the official names in alphabetical order
        assert len(names) == classes
    assert class_names("imagenet", 1000)[0] == "tench"
    assert class_names("imagenet", 50) is None
    assert class_names("event_camera", 10) is None


# --- runs and compare --------------------------------------------------------------------------------------------


def test_runs_lists_what_there_is(tree):
    table = jellyplus.runs()
    assert list(zip(table["recipe"], table["profile"], table["seed"], strict=True)) == [
        (NAME, "embedded", 0),
        (NAME, "embedded", 1),
        (NAME, "smoke", 0),
        (OTHER, "embedded", 0),
    ]
    assert table["weights"].all()
    assert table["stand_in"].all()
    row = table.iloc[3]
    held = json.loads(Path(row["file"]).read_text())
    assert (row["accuracy_last"], row["energy_uj"]) == (held["accuracy_last"], held["operations"]["energy_uj"])
    Path(row["file"]).with_suffix(".ckpt").unlink()
    assert jellyplus.runs()["weights"].tolist() == [True, True, True, False]


def compare(tree, capsys, *words):
    code = main(["compare", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_compare_shows_what_was_measured_and_the_settings_that_differ(tree, capsys):
    code, out, _ = compare(tree, capsys, NAME, f"recipes/{OTHER}.yaml")
    assert code == 0
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in out.splitlines()[:-1]}
    assert cells["quantity"] == [f"{NAME}, embedded", f"{NAME}, smoke", f"{OTHER}, embedded"]
    assert cells["seeds"] == ["0 1", "0", "0"]
    a, b = (json.loads(file.read_text())["accuracy_last"] for file in files())
    mean, deviation = (a + b) / 2, abs(a - b) / 2**0.5  # of two values, with n - 1
    assert cells["accuracy, last epoch (%)"][0] == f"{mean:.2f} ± {deviation:.2f}"
    assert cells["schedule.epochs"] == ["2", "1", "2"]
    assert cells["shortcut.evolutionary"] == ["True", "True", "-"]
    assert cells["data"] == ["stand-in: digit_pairs", "stand-in: digit_pairs", "stand-in: digits"]
    assert "model.width" not in cells  # 1 in all of them
    assert (tree / "results/compare/compare.png").read_bytes().startswith(b"\x89PNG")
    assert (tree / "results/compare/compare.csv").read_text().count("\n") == len(cells) - 1


def test_one_seed_of_several_is_compared_by_its_file(tree, capsys):
    _, second = files()
    code, out, _ = compare(tree, capsys, str(second))
    assert code == 0
    assert "| 1 " in next(line for line in out.splitlines() if line.startswith("| seeds"))


def test_compare_refuses_seeds_of_several_data_sets(tree, capsys):
    _, second = files()
    other = json.loads(second.read_text())
    other["dataset"]["fingerprint"] = "0" * 64
    second.write_text(json.dumps(other))
    code, _, err = compare(tree, capsys, NAME)
    assert code == 2
    assert "contradict each other: 2 data sets of one name" in err
    assert not (tree / "results/compare").exists()


def test_train_says_how_to_load_and_compare(tree, capsys):
    assert main(["train", f"recipes/{OTHER}.yaml", "--profile", "embedded"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Load it: ")
    call, _, words = last.removeprefix("Load it: ").partition("; compare it with other runs: jellyplus compare ")
    loaded = eval(call)
    assert loaded.evidence.recipe_name == OTHER
    assert compare(tree, capsys, words.split()[0], NAME)[0] == 0
