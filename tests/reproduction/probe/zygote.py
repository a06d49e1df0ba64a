"""Edits of the package, each in a process of its own: ``python zygote.py < edits.json > found.json``.

To import torch and Lightning takes seconds, so they are imported once, before the processes are forked; the package is
imported in each of them, from a copy with the edit.
"""

import importlib
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[3]
LIBRARIES = ("torch", "lightning", "torchmetrics.classification", "torchvision.transforms.v2", "sklearn.datasets")
LIBRARIES += ("sklearn.model_selection", "pandas", "matplotlib.figure", "scipy.stats", "jinja2", "joblib", "filelock")
LIBRARIES += ("torchvision.datasets", "spikingjelly.activation_based.layer", "spikingjelly.activation_based.neuron")
LIBRARIES += ("spikingjelly.activation_based.auto_cuda.base", "torch.fx", "torch.utils.flop_counter")
PROCESSES = 2


def copy_with(edits, folder):
    """The package, edited: [file, old, new]; a file that is not there is made."""
    package = folder / "jellyplus"
    shutil.copytree(ROOT / "jellyplus", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in edits:
        text = (package / name).read_text() if old else ""
        assert text.count(old) == 1 or not old, f"{name} has {text.count(old)} times {old!r}"
        (package / name).write_text(text.replace(old, new) if old else new)


def probe_all(runs):
    """What the package does, by the name of the run."""
    from jellyplus.reproduction import probe
    from jellyplus.training.recipe_files import load_run

    values = {}
    for name, (recipe, profile, overrides, measure, settings) in runs.items():
        run = load_run(recipe, profile, ROOT / "recipes", overrides)
        values[name] = probe.of_measure(run, measure, settings) if measure else probe.of_run(run)
    return values


def child(edits, runs, answer):
    with tempfile.TemporaryDirectory() as folder:
        copy_with(edits, Path(folder))
        sys.path.insert(0, folder)
        values = probe_all(runs)
        assert Path(sys.modules["jellyplus"].__file__).is_relative_to(folder)
    answer.write_text(json.dumps(values))


def fork(edits, runs, answer):
    if process := os.fork():
        return process
    try:
        child(edits, runs, answer)
    except BaseException:
        answer.with_suffix(".error").write_text(traceback.format_exc())
    os._exit(0)


def main():
    asked = json.load(sys.stdin)
    warnings.simplefilter("ignore")
    for name in LIBRARIES:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for number, (name, edits) in enumerate(asked["edits"].items()):
            if len(running) == PROCESSES:
                del running[os.wait()[0]]
            running[fork(edits, asked["runs"], Path(folder) / f"{number}.json")] = name
        while running:
            del running[os.wait()[0]]
        for number, name in enumerate(asked["edits"]):
            error, answer = (Path(folder) / f"{number}.{kind}" for kind in ("error", "json"))
            found[name] = error.read_text() if error.exists() else json.loads(answer.read_text())
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
