"""Every kind of bad input is one sentence and exit code 2, and leaves every file as it was.

All cases run once, in this process, before the first test looks at one.
"""

import contextlib
import functools
import io
import json
import os
import re
import shutil
import struct
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from jellyplus import _errors, datasets
from jellyplus.__main__ import main
from jellyplus.reproduction import runner, today
from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.source import libraries
from jellyplus.reproduction.store import Probe, Store
from jellyplus.training.recipe_files import load_run, written

RECIPES = Path(__file__).parents[1] / "recipes"
CODE = "c" * 64
PROFILES = """
paper: {}
small: {"*": {model: {width: 1}}}
embedded:
  "*":
    data: {dataset: digits, batch_size: 400, augmentation: [], events: null}
    model: {width: 1}
    schedule: {epochs: 1}
"""
ANN, T6, TOY = "dspike/cifar10_ann", "dspike/cifar10_t6", "dspike/mnist_toy_rectangular"
HUNDRED, DVS, GESTURE = "dspike/cifar100_ann", "dspike/cifar10dvs_t10", "tdbn/dvs128_gesture_resnet17_t40"
EVIDENCE = "results/evidence"

CASES = {}


def case(name, reason, recipe=ANN, profile="embedded", words=(), command=None):
    """Register what spoils a tree; ``reason`` is a pattern that the sentence must have."""

    def register(spoil):
        assert name not in CASES
        path = f"recipes/{recipe}.yaml"
        arguments = command or ["train", path, "--profile", profile, *words]
        CASES[name] = SimpleNamespace(reason=reason, recipe=Path(path), arguments=arguments, spoil=spoil)
        return spoil

    return register


def nothing(path):
    """The command line alone is wrong."""


# --- Files of recipes ----------------------------------------------------------------------------------------------


def rewrite(name, reason, content):
    case(name, reason)(lambda path: path.write_bytes(content))


rewrite("an empty recipe", "the content is None; it must be a mapping", b"")
rewrite("a recipe that is a list", r"the content is \[1\]", b"[1]")
rewrite("YAML that does not end", "line 2 is not YAML", b"a: [1,\n")
rewrite("a recipe that is not UTF-8", "is not YAML: 'utf-8' codec", b"\xff\xfe")
rewrite("a null character", "is not YAML", b"a: \0")
rewrite("a tag that would run something", "is not YAML: could not determine a constructor", b"!!python/name:os.system")
rewrite("a scalar that PyYAML chokes on", "is not YAML: month must be in 1..12", b"a: 2024-13-45")
rewrite("an integer of 5000 digits", "is not YAML", b"a: " + b"9" * 5000)
rewrite("a key given twice", "line 2 is not YAML: the key 'a' is given twice", b"a: 1\na: 2")
rewrite("aliases that multiply", "line 2 is not YAML: an alias", b"a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]")
rewrite("a list that holds itself", "is not YAML: an alias", b"a: &a [*a]")
rewrite("ten thousand brackets", "too many brackets within brackets", b"[" * 10_000)
rewrite("three thousand dashes", "is nested too deeply", b"- " * 3000)
rewrite("a recipe of 2 MB", "is larger than 256 KiB", b"#" * 2_000_000)
rewrite("a key with a line break", r"unknown key 'a\\nb'", b'"a\\nb": 1')


@case("no recipe", "cifar10_ann.yaml: No such file")
def _(path):
    path.unlink()


@case("a folder for a recipe", "is not a file")
def _(path):
    path.unlink()
    path.mkdir()


@case("a pipe for a recipe", "is not a file")
def _(path):
    path.unlink()
    os.mkfifo(path)


@case("a link to itself", "Too many levels of symbolic links")
def _(path):
    path.unlink()
    path.symlink_to(path.name)


@case("no profiles", "profiles.yaml, and so no profile embedded")
def _(path):
    (path.parent / "profiles.yaml").unlink()


@case("profiles without the one asked for", "has no profile embedded")
def _(path):
    (path.parent / "profiles.yaml").write_text("paper: {}")


@case("a profile that is no mapping", "key 'profiles.embedded' is 3")
def _(path):
    (path.parent / "profiles.yaml").write_text("embedded: 3")


@case("a profile with an unknown key", "under profile embedded of .*unknown key 'model.wide'")
def _(path):
    (path.parent / "profiles.yaml").write_text('embedded: {"*": {model: {wide: 3}}}')


@case("a base that is not there", "base is nobody, and there is no .*nobody.yaml", recipe="dspike/own")
def _(path):
    path.write_text("base: nobody")


@case("a base in another folder", "it must be the name of a run of the same paper", recipe="dspike/own")
def _(path):
    path.write_text("base: ../tdbn/cifar10_resnet19_t6")


@case("a base with a base", "base is cifar10_t2, which is based on 'cifar10_t6'", recipe="dspike/own")
def _(path):
    path.write_text("base: cifar10_t2")


@case("a run that starts from itself", "lead back to dspike/cifar10_t6", recipe=T6)
def _(path):
    edit(path, {"initial_weights.run": T6})


# --- Values of recipes ---------------------------------------------------------------------------------------------


def edit(path, changes):
    values = written(f"{path.parent.name}/{path.stem}", path.parents[1])
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        target = values
        for section in sections:
            target = target[section]
        target[key] = value
    path.write_text(yaml.safe_dump(values))


def value(name, reason, changes, recipe=ANN, **options):
    case(name, reason, recipe, **options)(lambda path: edit(path, changes))


PARTS = {
    "evolution": {"k_min": 1.0, "k_max": 10.0},
    "im_loss": {"weight": 2.0, "variant": "membrane"},
    "warm_start": {"learning_rate": 0.1, "momentum": -0.9, "max_iterations": 3},
    "finite_differences": {"parameter": "conv1.weight", "epsilon": 0.1},
}
STEP = {"name": "step", "epochs": 3, "final_learning_rate": None, "step_epochs": 1, "step_factor": 0.0}

value("an unknown key", "unknown key 'optimizer.lr'", {"optimizer.lr": 0.1})
value("a string for a number", "'optimizer.learning_rate' is 'fast'; it must be a finite number",
      {"optimizer.learning_rate": "fast"})  # fmt: skip
value("a number for a list", "'data.augmentation' is 3; it must be a list", {"data.augmentation": 3})
value("an unknown choice", "'neuron.backend' is 'gpu'; it must be one of", {"neuron.backend": "gpu"}, T6)
value("an unknown norm", "there is no norm 'gn'; choose from bn, tdbn", {"norm.name": "gn"})
value("a list for a mapping", r"'surrogate.parameters' is \[\]", {"surrogate.parameters": []}, T6)
value("none of a union", "'model.options.stem' is None", {"model.options.stem": None})
value("a control character", "write it without control characters", {"data.dataset": "digits\0"})
value("an unknown architecture", "there is no architecture 'os.system'", {"model.architecture": "os.system"})
value("options of another architecture", "options are not those of", {"model.options": {}})
value("an option of another type", r"options.blocks is 'ab'; it must be like \(2, 2, 2, 2\)",
      {"model.options.blocks": "ab"})  # fmt: skip
value("an option that is no size", "options.input_size is 0", {"model.options.input_size": 0}, TOY)
value("no blocks", r"blocks=\(\) leave a stage empty", {"model.options.blocks": []})
value("a stage without blocks", r"blocks=\(2, 0\) leave a stage empty", {"model.options.blocks": [2, 0]})
value("an unknown shortcut", "shortcut='bridge' is unknown", {"model.options.shortcut": "bridge"})
value("no time-step", "time_steps is 0; it must be at least 1", {"model.time_steps": 0})
value("endless time-steps", "time_steps is 1000000000000; it must be at most", {"model.time_steps": 10**12})
value("no batch", "data: batch_size is 0", {"data.batch_size": 0})
value("srif with a decay", "srif has neither decay nor reset", {"neuron.name": "srif"}, T6)
value("rectify without srif", "rectify is a part of srif", {"neuron.rectify": True}, T6)
value("a negative decay", "decay is -0.5", {"neuron.decay": -0.5}, T6)
value("a negative threshold", "v_threshold is -1.0; it must be positive", {"neuron.v_threshold": -1.0}, T6)
value("batch norm with an alpha", "bn has no alpha", {"norm.name": "bn"}, T6)
value("eps of 0", "eps is 0.0", {"norm.eps": 0.0})
value("a norm's momentum above 1", "norm: momentum is 2.0", {"norm.momentum": 2.0})
value("a negative learning rate", "learning_rate is -1.0", {"optimizer.learning_rate": -1.0})
value("a learning rate beyond float32", "learning_rate is 1e[+]308; it must be at most",
      {"optimizer.learning_rate": 1e308})  # fmt: skip
value("nesterov without momentum", "nesterov needs a momentum", {"optimizer.nesterov": True, "optimizer.momentum": 0.0})
value("no epoch", "epochs is 0", {"schedule.epochs": 0})
value("what the other schedule needs", "step_epochs must be null for cosine", {"schedule.step_epochs": 3})
value("a step of 0", "step_factor is 0.0", {"schedule": STEP})
value("a negative last learning rate", "final_learning_rate is -0.1", {"schedule.final_learning_rate": -0.1})
value("a search without step", "temperature_search: step is 0.0", {"temperature_search.step": 0.0}, T6)
value("a search for no lead", "temperature_search: lead is 0.0; it must be positive",
      {"temperature_search.lead": 0.0}, T6)  # fmt: skip
value("evolution of another surrogate", "evolution needs surrogate evaf", {"evolution": PARTS["evolution"]}, T6)
value("K of 0", "k_min is 0.0", {"evolution": {"k_min": 0.0, "k_max": 1.0}}, T6)
value("IM-Loss without weight", "im_loss: weight is 0.0", {"im_loss": PARTS["im_loss"] | {"weight": 0.0}}, T6)
value("IM-Loss in an ANN", "im_loss must be null in an ANN", {"im_loss": PARTS["im_loss"]})
value("a negative momentum of the warm start", "momentum is -0.9", {"warm_start": PARTS["warm_start"]}, T6)
value("a negative shortcut weight", "shortcut: weight is -1.0", {"shortcut": {"weight": -1.0, "evolutionary": False}})
value("finite differences of what is searched", "finite_differences replace",
      {"finite_differences": PARTS["finite_differences"]}, T6)  # fmt: skip
value("differences of IM-Loss", "finite_differences are those of the cross-entropy alone",
      {"finite_differences": PARTS["finite_differences"], "im_loss": PARTS["im_loss"]}, T6)  # fmt: skip
value(
    "a name that leaves the recipes",
    "run is '../../etc/passwd'; it must be",
    {"initial_weights.run": "../../etc/passwd"},
    T6,
)
value("neurons without surrogate", "surrogate is null", {"surrogate": None, "temperature_search": None}, T6)
value("an ANN with time-steps", "an ANN has one", {"model.time_steps": 2})
value("tdBN in an ANN", "norm tdbn needs a V_th", {"norm.name": "tdbn"})
value("branches without alpha", "norm.branch_alpha is needed", {"norm.branch_alpha": None})
value("a search of another surrogate", "temperature_search needs surrogate dspike", {"surrogate.name": "evaf"}, T6)
value(
    "a backend of another device", "cupy does not run on cpu", {"neuron.backend": "cupy"}, T6, words=("--device", "cpu")
)
value(
    "another parameter of the surrogate",
    "surrogate.parameters do not fit dspike",
    {"surrogate.parameters": {"k": 1.0}},
    T6,
)
value("a temperature of 0", "temperature must be a positive number", {"surrogate.parameters": {"temperature": 0.0}}, T6)
value("a parameter that is not there", "the network has no fc.wait", {"temperature_search.parameter": "fc.wait"}, T6)
value("other classes", "model.num_classes is 7 and digits has 10", {"model.num_classes": 7})
value("images for digits", "data.images must be left out for digits",
      {"data.images": {"side": 8, "resize": None, "unreadable": "stop"}})  # fmt: skip
value(
    "resize below the side",
    "resize is 4 pixels and side 8",
    {"data.images": {"side": 8, "resize": 4, "unreadable": "stop"}},
)
value("a split without seed", "random needs one", {"data.events.split": "random", "data.events.split_seed": None}, DVS)
value("frames larger than the sensor", "side is 300 pixels", {"data.events.side": 300}, DVS)


def overlay(name, reason, changes, recipe=ANN):
    """Values that the embedded profile states."""

    def spoil(path):
        profiles = yaml.safe_load(PROFILES)
        for section, values in changes.items():
            profiles["embedded"]["*"].setdefault(section, {}).update(values)
        (path.parent / "profiles.yaml").write_text(yaml.safe_dump(profiles))

    case(name, reason, recipe)(spoil)


overlay("an unknown data set", "there is no data set 'fashion'", {"data": {"dataset": "fashion"}})
overlay("an unknown augmentation", "there is no augmentation 'mixup'", {"data": {"augmentation": ["mixup"]}})
overlay("an augmentation of events", "roll does not fit the images", {"data": {"augmentation": ["roll"]}})
overlay("a negative cutout", "cutout_size is -1 pixels", {"data": {"cutout_size": -1}})
overlay("more padding than image", "crop_padding is 99 pixels and digits has 16",
        {"data": {"augmentation": ["crop"], "crop_padding": 99}})  # fmt: skip
overlay("a batch larger than the data", "data.batch_size is 5000 and digits has", {"data": {"batch_size": 5000}})
overlay("micro-batches that are no part of a batch", "micro_batch is 5 and batch_size 32: state a divisor",
        {"data": {"batch_size": 32, "micro_batch": 5}})  # fmt: skip
overlay("a network larger than the memory", "makes a network of [0-9,]+ GiB", {"model": {"width": 60_000}})
overlay("an input size of other data", "do not fit examples of 3x16x16",
        {"model": {"in_channels": 3, "options": {"input_size": 64}}}, TOY)  # fmt: skip


@case("the parent has another width", "initial weights from dspike/cifar10_ann do not fit", recipe=T6)
def _(path):
    profiles = yaml.safe_load(PROFILES)
    profiles["embedded"]["*_ann"] = {"model": {"width": 2}}
    (path.parent / "profiles.yaml").write_text(yaml.safe_dump(profiles))


# --- Options -------------------------------------------------------------------------------------------------------

case("CUDA where there is none", "torch sees no CUDA device", words=("--device", "cuda"))(nothing)


@case("out is a file", "--out taken is a file", words=("--out", "taken"))
def _(path):
    Path("taken").write_text("mine")


@case("out is below a file", "--out taken is a file", words=("--out", "taken/deep/er"))
def _(path):
    Path("taken").write_text("mine")


# --- Folders of data -----------------------------------------------------------------------------------------------

ROOT = ("--data-root", "data")


def data(name, reason, recipe, files, root=ROOT):
    """``files`` is content by name below ``data``; None makes a folder."""

    def spoil(path):
        for file, content in files.items():
            place = Path("data", file)
            place.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                place.mkdir()
            else:
                place.write_bytes(content)

    case(name, reason, recipe, profile="small", words=root)(spoil)


def png(side=32):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, format="png")
    return buffer.getvalue()


def images(split_classes, content):
    return {f"cifar10/{split}/c{c}/0.png": content for split, n in split_classes.items() for c in range(n)}


def idx(shape, body):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + body


def mnist(**changes):
    files = {
        f"MNIST/raw/{prefix}-{kind}-ubyte": content
        for prefix in ("train", "t10k")
        for kind, content in (("images-idx3", idx((2, 28, 28), bytes(2 * 784))), ("labels-idx1", idx((2,), b"\0\1")))
    }
    return files | {f"MNIST/raw/train-{kind.replace('_', '-')}-ubyte": content for kind, content in changes.items()}


data("no root", "say where it lies with --data-root", ANN, {}, root=())
data("a root that is not there", "data is not a readable folder", ANN, {})
data("a root that is a file", "data/x is not a readable folder", ANN, {"x": b""}, root=("--data-root", "data/x"))
data("an empty root", "data/x is empty", ANN, {"x": None}, root=("--data-root", "data/x"))
data("another data set", "holds the CIFAR-100 batches", ANN, {"cifar-100-python/x": b""})
data(
    "batches that are not the published ones",
    "fails the published MD5 sums",
    ANN,
    {"cifar-10-batches-py/data_batch_1": b""},
)
data("CIFAR-100 without its batches", "cifar-100-python lacks a batch", HUNDRED, {"cifar-100-python/train": b"x"})
data("no test images", "test is missing; a data set needs both", ANN, images({"train": 10}, png()))
data("too few classes", "cifar10 has 10 classes, but .* has 3", ANN, images({"train": 3, "test": 3}, png()))
data("a class without images", "every class needs a folder with images", ANN,
     images({"train": 10, "test": 9}, png()) | {"cifar10/test/c9": None})  # fmt: skip
data("a class on one side", "is in only one of train and test", ANN,
     images({"train": 10, "test": 9}, png()) | {"cifar10/test/other/0.png": png()})  # fmt: skip
data("images of another size", "is 8x8 pixels, not 32x32", ANN, images({"train": 10, "test": 10}, png(8)))
data("images that are none", "cannot read the image", ANN, images({"train": 10, "test": 10}, b"no image"))
data("half an image", "cannot read the image", ANN, images({"train": 10, "test": 10}, png()[:60]))
data("MNIST without a file", "is missing, with and without .gz", TOY, {"MNIST/raw/train-images-idx3-ubyte": b""})
data("MNIST with another head", "does not begin as MNIST's files do", TOY, mnist(images_idx3=b"PK"))
data("MNIST cut off", "bytes where its head says", TOY, mnist(images_idx3=idx((2, 28, 28), b"x")))
data(
    "MNIST with a size that would fill the memory",
    "bytes where its head says",
    TOY,
    mnist(images_idx3=idx((2**32 - 1,) * 3, b"x")),
)
data("MNIST of another size", "holds 2 images of 1x1 pixels", TOY, mnist(images_idx3=idx((2, 1, 1), b"xx")))
data("MNIST with fewer labels", "holds 2 images and .* 1 labels", TOY, mnist(labels_idx1=idx((1,), b"\0")))
data("MNIST with another label", "holds the label 200", TOY, mnist(labels_idx1=idx((2,), b"\0\xc8")))
data("MNIST that is not gzip", "cannot read .*gz; put the original", TOY,
     {f"{name}.gz": b"x" for name in mnist()})  # fmt: skip

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def recordings(content):
    return {f"CIFAR10DVS/{name}/cifar10_{name}_{i}.aedat": content for name in CLASSES for i in range(10)}


AEDAT2 = b"#!AER-DAT2.0\r\n"
data("a split with an empty side", "leaves no test recording of class 0", DVS,
     {k: v for k, v in recordings(b"x").items() if "_0." in k})  # fmt: skip
data("no recordings", "cifar10_dvs needs", DVS, {"x/y": b""})
data(
    "archives that are not unpacked", "jellyplus data prepare", DVS, {f"CIFAR10DVS/{name}.zip": b"" for name in CLASSES}
)
data("recordings of nine classes", "CIFAR10DVS", DVS, {k: v for k, v in recordings(b"x").items() if "truck" not in k})
data("a recording of another format", "has no header", DVS, recordings(b"PK\3\4"))
data("a recording without events", "holds no event", DVS, recordings(AEDAT2))
data("a recording cut off", "ends within an event", DVS, recordings(AEDAT2 + b"\0" * 12))
data("no gestures", "dvs128_gesture needs", GESTURE, {"x/y": b""})

# --- The commands for data -----------------------------------------------------------------------------------------

case("a user that is not known", "~nobody3/x is not a readable folder", command=["data", "check", "~nobody3/x"])(
    nothing
)
case("check without a folder", "is not a readable folder", command=["data", "check", "nowhere"])(nothing)
case("check of nothing", "holds no data set", command=["data", "check", "recipes"])(nothing)

# --- Evidence, checkpoints and states ------------------------------------------------------------------------------


@functools.cache
def digits():
    return datasets.load("digits")


def evidence(run, fingerprint):
    return Evidence(
        schema=3, key=run.key, recipe_name=run.name, profile=run.profile, seed=0, code=CODE, recipe=run.resolved,
        parent=None, commit="unknown", dirty=None, versions=libraries(), device="cpu", backend=None,
        dataset={"name": "digits", "train_examples": 1, "test_examples": 1, "fingerprint": fingerprint}, parameters=1,
        operations={"macs_per_time_step": 1, "spike_rate": 0.5, "additions": 1.0, "multiplications": 1.0,
                    "energy_uj": 1.0, "examples": 1, "convention": "c"},
        accuracy_last=1.0, accuracy_best=1.0, best_epoch=0, epochs_completed=1, epochs_planned=1, wall_time_s=1.0,
        search_time_s=0.0, left_over=(), history=({"epoch": 0, "accuracy": 1.0},),
    )  # fmt: skip


PROBE = Probe(1, CODE, {}, {})


def stored(path, fingerprint=None):
    """Write evidence of the ANN; return its file and its checkpoint's."""
    run = load_run(ANN, "embedded", path.parents[1])
    store = Store(EVIDENCE)
    return store.write(evidence(run, fingerprint or digits().fingerprint), PROBE), store.checkpoint(run.key, 0, CODE)


def record(name, reason, **changes):
    @case(name, reason)
    def spoil(path):
        file, _ = stored(path)
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))


record("evidence of another schema", "key 'schema' is 2, and this jellyplus reads 3", schema=2)
record("evidence of another recipe", "the key is not the recipe's", key="0" * 64)
record("evidence under another's name", "its name is another's", seed=1)
record("evidence without its operations", "operations lacks additions", operations={})
record("evidence with words for numbers", "dataset has another kind of train_examples",
       dataset={"name": "a", "train_examples": "many", "test_examples": 1})  # fmt: skip
record("more than all of it right", "accuracy_last is 101.0 percent", accuracy_last=101.0)
record("evidence of another type", "'seed' is '0'; it must be an integer", seed="0")
record("evidence with a key too many", "unknown key 'colour'", colour=1)


@case("evidence cut off", "is damaged or from another version")
def _(path):
    file, _ = stored(path)
    file.write_bytes(file.read_bytes()[:100])


@case("evidence nested too deeply", "is damaged or from another version")
def _(path):
    stored(path)[0].write_text("[" * 100_000)


@case("evidence too large", "it is larger than 16 MiB")
def _(path):
    with stored(path)[0].open("ab") as file:
        file.truncate(2**25)


@case("evidence without a checkpoint", "has no checkpoint")
def _(path):
    stored(path)


class Crafted:
    """A pickle that would make a file."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def checkpoint(name, reason, write):
    case(name, reason, recipe=T6)(lambda path: write(stored(path)[1]))


checkpoint("a checkpoint that is none", "cannot load the checkpoint", lambda file: file.write_bytes(b"no checkpoint"))
checkpoint("an empty checkpoint", "cannot load the checkpoint", lambda file: file.write_bytes(b""))
checkpoint(
    "a checkpoint that would run something", "cannot load the checkpoint", lambda file: torch.save(Crafted(), file)
)
checkpoint("another run's checkpoint", "is not the checkpoint of dspike/cifar10_ann",
           lambda file: torch.save({"key": "0" * 64, "weights": {}}, file))  # fmt: skip


def odd_weights(name, weights):
    @case(f"a checkpoint with {name}", "is not the checkpoint of dspike/cifar10_ann", recipe=T6)
    def spoil(path):
        _, file = stored(path)
        torch.save({"key": load_run(ANN, "embedded", path.parents[1]).key, "weights": weights}, file)


odd_weights("no weights", None)
odd_weights("weights in words", {"conv1.weight": "heavy"})
odd_weights("weights that are not finite", {"conv1.weight": torch.tensor(float("nan"))})
odd_weights("a weight without a name", {3: torch.zeros(1)})


@case("a parent trained on other data", "was trained on other data", recipe=T6)
def _(path):
    torch.save({}, stored(path, fingerprint="0" * 64)[1])


def state(name, reason, content):
    @case(name, reason)
    def spoil(path):
        run = load_run(ANN, "embedded", path.parents[1])
        file = Store(EVIDENCE).checkpoint(run.key, 0, CODE).with_suffix(".partial")
        file.parent.mkdir(parents=True)
        torch.save(content, file) if not isinstance(content, bytes) else file.write_bytes(content)


state("a state that is none", "cannot load the checkpoint", b"no state")
state("a state of something else", "is not the state of a run", {"weights": {}})


# --- The tests -----------------------------------------------------------------------------------------------------

_ASKED = {"_refuse", "_at_least", "_at_most", "_positive", "_wrong", "choose"}  # raise for whoever asks them


def site(error):
    """Where the innermost cause that is ours was raised: file and line."""
    found = None
    while error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name not in _ASKED]
        if frames and "/jellyplus/" in frames[-1].filename:
            found = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        error = error.__cause__
    return found


def contents():
    """Every file, link and folder by name, with what it holds and when it was changed."""
    return {
        str(path): (
            path.lstat().st_mtime_ns if path.is_file() else None,
            path.read_bytes() if path.is_file() else os.readlink(path) if path.is_symlink() else None,
        )
        for path in sorted(Path().rglob("*"))
        if path.suffix != ".lock"
    }


def outcome(bad, folder, errors):
    for paper in ("dspike", "tdbn"):
        shutil.copytree(RECIPES / paper, folder / "recipes" / paper)
        (folder / "recipes" / paper / "profiles.yaml").write_text(PROFILES)
    with contextlib.chdir(folder):
        bad.spoil(bad.recipe)
        before = contents()
        out, err = io.StringIO(), io.StringIO()
        errors.clear()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(bad.arguments)
        place = site(errors[-1]) if errors else None
        return SimpleNamespace(code=code, err=err.getvalue(), site=place, before=before, after=contents())


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What every case led to, by its name."""
    errors = []
    initialise = _errors.InputError.__init__

    def remember(self, sentence):
        errors.append(self)
        initialise(self, sentence)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_errors.InputError, "__init__", remember)
        patch.setattr(today, "code_digest", lambda: CODE)
        patch.setattr(runner, "provenance", lambda: {"commit": "unknown", "dirty": None, "versions": {}})
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return {name: outcome(bad, tmp_path_factory.mktemp("bad"), errors) for name, bad in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_exit_code_2_and_nothing_changed(outcomes, name):
    found = outcomes[name]
    assert found.code == 2
    last = found.err.rstrip("\n").rpartition("\n")[2].rpartition("\r")[2]
    assert re.match("jellyplus: error: .*" + CASES[name].reason, last)
    assert found.err.count("jellyplus: error: ") == 1
    assert "Traceback" not in found.err
    assert len(last) < 600
    assert found.after == found.before


def test_there_are_sixty_kinds_from_forty_sites(outcomes):
    sites = {found.site for found in outcomes.values()}
    assert None not in sites
    assert len(outcomes) >= 60
    assert len(sites) >= 40, sorted(sites)
