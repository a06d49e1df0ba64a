"""Rows held against a baseline, seed by seed: numbers against plain loops, and what may not be compared."""

import copy
import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from jellyplus import loss
from jellyplus.reproduction import comparison_view, tables
from jellyplus.reproduction.claims import Claim, ClaimTable, Split, load_claims
from jellyplus.reproduction.scale import Scale
from jellyplus.reproduction.today import Standing
from jellyplus.reproduction.view import Result
from jellyplus.training.network import build_network
from jellyplus.training.recipe import recipe_key
from jellyplus.training.recipe_files import load_run

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "reproductions/claims"
NAMES = ("compare_methods", "compare_learning_rate", "compare_rates")
METHODS = {"neuron", "surrogate", "norm", "temperature_search", "evolution", "im_loss", "shortcut"}


def claim(name, **other):
    base = {"dataset": "d", "method": name, "kind": "own", "architecture": "n", "timesteps": 2, "note": ""}
    return Claim(id=name, paper=None, paper_std=None, recipe="compare/r", **(base | other))


TABLE = ClaimTable(
    "t",
    "compare",
    "here",
    {"d": Split(10, 10)},
    (claim("base"), claim("a", baseline="base"), claim("b", baseline="base")),
)


@pytest.fixture
def results(make_evidence):
    def make(accuracies, epoch_s=2.0, standing="current", profile="small"):
        def one(seed, accuracy):
            entry = {"epoch": 0, "accuracy": accuracy, "time_s": epoch_s + seed}
            named = {"accuracy_last": accuracy, "accuracy_best": accuracy, "history": (entry,), "profile": profile}
            evidence = make_evidence(seed=seed, **named)
            return Result(accuracy, evidence, Standing(standing), scale=Scale(("cifar10",)))

        return [one(seed, accuracy) for seed, accuracy in accuracies.items()]

    return make


def built(results):
    return comparison_view.build(TABLE, results, "small").set_index("method")


def test_difference_interval_and_p_are_those_of_the_seeds_in_common(results):
    base, better = {0: 50.0, 1: 52.0, 2: 51.0, 3: 10.0}, {2: 56.5, 1: 56.0, 0: 55.0, 7: 99.0}
    row = built({"base": results(base), "a": results(better, epoch_s=5.0)}).loc["a"]
    differences = [better[seed] - base[seed] for seed in (0, 1, 2)]
    mean = sum(differences) / 3
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2)
    reach = 4.302652729911275 * deviation / math.sqrt(3)  # t of 97.5 % with two degrees of freedom, from a table
    assert row["pairs"] == 3
    assert row["difference"] == pytest.approx(mean)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((mean - reach, mean + reach))
    t = mean / (deviation / math.sqrt(3))
    assert row["p"] == pytest.approx(2 * scipy.stats.t.sf(t, 2))
    assert row["time_ratio"] == pytest.approx(np.mean([(5 + s) / (2 + s) for s in (0, 1, 2)]))
    assert row["verdict"] == "better"


def test_only_runs_of_one_device_are_held_against_each_other(results):
    """Float32 on a CPU and half precision on a GPU are not everything else equal, nor are their times."""

    def on(device, result):
        return dataclasses.replace(result, evidence=dataclasses.replace(result.evidence, device=device))

    base, ours = results({0: 50.0, 1: 52.0, 2: 51.0}), results({0: 55.0, 1: 56.0, 2: 57.0})
    mixed = [on("GPU", base[0]), on("CPU", base[1]), on("GPU", base[2])]
    frame = built({"base": mixed, "a": [on("GPU", result) for result in ours]})
    assert frame.loc["a", "pairs"] == 2
    assert frame.loc["a", "difference"] == pytest.approx((5 + 6) / 2)
    assert frame["device"].fillna("").tolist() == ["CPU; GPU", "GPU", ""]


def test_times_of_other_code_are_no_ratio(results):
    def by(code, result):
        return dataclasses.replace(result, evidence=dataclasses.replace(result.evidence, code=code))

    base, ours = results({0: 50.0, 1: 52.0, 2: 51.0}), results({0: 55.0, 1: 56.0, 2: 57.0}, epoch_s=6.0)
    faster = [by("0" * 64, ours[0]), ours[1], by("0" * 64, ours[2])]
    row = built({"base": base, "a": faster, "b": [by("0" * 64, result) for result in ours]})
    assert row.loc["a", "time_ratio"] == pytest.approx((6 + 1) / (2 + 1))
    assert row.loc["a", "pairs"] == 3  # of accuracies, which code that trains alike has in common
    assert pd.isna(row.loc["b", "time_ratio"])


def test_numbers_beside_points_do_not_lie_on_each_other():
    figure = Figure(figsize=(5, 3))
    panel = figure.subplots()
    points = {str(number): (1 + 0.001 * (number % 3), 50 + 0.1 * (number // 3)) for number in range(9)} | {"9": (2, 10)}
    panel.plot(*zip(*points.values(), strict=True), "o")
    comparison_view._name(panel, points)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in panel.texts]  # without its line
    assert len(boxes) == 10
    overlapping = [
        (a, b) for a, b in itertools.combinations(boxes, 2) if a.shrunk(0.8, 0.8).overlaps(b.shrunk(0.8, 0.8))
    ]
    assert not overlapping
    assert panel.texts[-1].xyann == (4, 3)  # alone: nothing leads away from it


def test_worse_undecided_and_too_few_seeds(results):
    base = results({0: 50.0, 1: 50.0, 2: 50.0})
    frame = built({"base": base, "a": results({0: 45.0, 1: 45.1, 2: 44.9}), "b": results({0: 40.0, 1: 62.0, 2: 55.0})})
    assert frame["verdict"].tolist() == ["baseline", "worse", "undecided"]
    frame = built({"base": base, "a": results({0: 45.0, 1: 45.1}), "b": results({5: 40.0})})
    assert frame["verdict"].fillna("").tolist() == ["baseline", "too few seeds", ""]
    assert frame["p"].isna().all()
    assert frame.loc["a", "difference_low"] < -5 < frame.loc["a", "difference_high"]
    assert frame.loc["b", "pairs"] == 0


def test_the_correction_can_take_a_verdict_away(results):
    """Alone p is 0.035; of two rows tested, twice that."""
    base = results({0: 50.0, 1: 50.0, 2: 50.0})
    alone = {"base": base, "a": results({0: 51.0, 1: 51.5, 2: 52.0})}
    assert built(alone).loc["a", "p"] == pytest.approx(0.0351, abs=1e-4)
    assert built(alone).loc["a", "verdict"] == "better"
    frame = built(alone | {"b": results({0: 40.0, 1: 62.0, 2: 55.0})})
    assert frame.loc["a", "p_holm"] == pytest.approx(2 * frame.loc["a", "p"])
    assert frame.loc["a", "verdict"] == "undecided"


def test_what_is_of_other_code_or_another_profile_is_not_compared(results):
    base = results({0: 50.0, 1: 50.0, 2: 50.0})
    stale = results({0: 60.0, 1: 61.0, 2: 62.0}, standing="stale")
    assert built({"base": base, "a": stale}).loc["a", "pairs"] == 0
    assert built({"base": base, "a": results({0: 60.0}, profile="paper")}).loc["a", "pairs"] == 0


def test_files_say_what_was_found_and_equal_frames_give_equal_bytes(results, tmp_path):
    made = {"base": results({0: 50.0, 1: 50.0, 2: 50.0}), "a": results({0: 45.0, 1: 45.1, 2: 44.9})}
    frame = comparison_view.build(TABLE, made, "small")
    for folder in ("one", "two"):
        comparison_view.write(frame, TABLE, tmp_path / folder, "small")
    names = ("table.csv", "table.md", "table.png")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(names)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    text = (tmp_path / "one/table.md").read_text()
    assert "| 2     | a        |" in text
    assert "-5.00" in text
    assert "worse" in text
    written = pd.read_csv(tmp_path / "one/table.csv")
    assert written.columns.tolist() == list(comparison_view.COLUMNS)
    assert written["accuracy"].tolist()[:2] == [50.0, 45.0]
    assert "worse" in comparison_view.summary(frame)


@pytest.mark.parametrize(("words", "panels"), [("digits", 3), ("", 0)])
def test_every_panel_tells_that_its_data_are_a_stand_in(results, tmp_path, monkeypatch, words, panels):
    marked = []
    monkeypatch.setattr(comparison_view.picture, "mark_stand_in", lambda panel, title: marked.append(panel))
    frame = comparison_view.build(TABLE, {"base": results({0: 50.0}), "a": results({0: 45.0})}, "embedded")
    frame["data"] = f"stand-in: {words}" if words else "cifar10"
    comparison_view.write(frame, TABLE, tmp_path, "embedded")
    assert len(set(marked)) == panels


def test_a_table_that_prints_something_is_no_comparison():
    assert all(load_claims(CLAIMS / f"{name}.yaml").is_comparison for name in NAMES)
    assert not any(load_claims(path).is_comparison for path in CLAIMS.glob("table*.yaml"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", ["paper", "small"])
def test_rows_differ_in_what_their_names_say_and_in_nothing_else(name, profile):
    """Data, schedule, first weights and optimizer are the baseline's in every row."""
    table = load_claims(CLAIMS / f"{name}.yaml")
    runs = tables.runs(table, profile, ROOT / "recipes")
    first = runs[table.rows[0].id].resolved
    may = {
        "compare_methods": METHODS,
        "compare_learning_rate": {"optimizer"},
        "compare_rates": {*METHODS, "optimizer"},
    }[name]
    assert len({run.key for run in runs.values()}) == len(table.rows)
    for row in table.rows[1:]:
        resolved = runs[row.id].resolved
        differing = {part for part in first | resolved if first.get(part) != resolved.get(part)}
        if row.id == "relu":
            steps = resolved["model"] | {"time_steps": first["model"]["time_steps"]}
            assert steps == first["model"]
            assert differing == {"model", "neuron", "surrogate"}
        else:
            assert differing <= may
        assert row.baseline == table.rows[0].id


@pytest.mark.parametrize("profile", ["paper", "small"])
def test_rows_at_the_baselines_rate_are_those_of_the_comparison(profile):
    """So that they are made once, and others differ from them in the rate alone."""
    compared, rates = (
        tables.runs(load_claims(CLAIMS / f"{name}.yaml"), profile, ROOT / "recipes")
        for name in ("compare_methods", "compare_rates")
    )
    assert rates["baseline"].key == compared["baseline"].key
    for method in ("tdbn", "dspike-search", "esg", "shortcut"):
        assert rates[f"{method}-0-1"].key == compared[method].key
        for rate in (0.03, 0.3):
            other = rates[f"{method}-{str(rate).replace('.', '-')}"].resolved
            assert other["optimizer"].pop("learning_rate") == rate
            own = compared[method].resolved
            assert other == own | {"optimizer": {n: v for n, v in own["optimizer"].items() if n != "learning_rate"}}


def test_the_learning_rate_is_chosen_on_images_that_the_comparison_trains_with():
    """And on nothing else that differs from its baseline."""
    chosen, baseline = (
        load_run(f"compare/cifar10_resnet20_t2{of}", "paper", ROOT / "recipes").resolved for of in ("_validation", "")
    )
    assert chosen["data"].pop("validation") == 5000
    assert chosen == baseline


def test_memory_is_counted_from_the_recipes_and_left_open_where_they_cannot_be_read(results):
    """IM-Loss keeps the potentials that it reads besides: as many numbers as spikes come out of these nodes."""

    def of(name, found):
        recipe = load_run(name, "small", ROOT / "recipes").resolved
        changes = {"recipe": recipe, "key": recipe_key(recipe)}
        return [dataclasses.replace(r, evidence=dataclasses.replace(r.evidence, **changes)) for r in found]

    base, with_loss = "compare/cifar10_resnet20_t2", "compare/cifar10_resnet20_t2_imloss"
    rows = built({"base": of(base, results({0: 1.0})), "a": of(with_loss, results({0: 2.0})), "b": results({0: 3.0})})
    net = build_network(load_run(base, "small", ROOT / "recipes").recipe).train()
    kept, spikes = {}, []
    for node in loss.IMLoss(copy.deepcopy(net)).nodes:  # outside residual branches
        node = net.get_submodule(node)
        node.register_forward_hook(lambda node, x, y: spikes.append(y.nbytes))

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(torch.rand(1, 8, 3, 32, 32))
    given = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    bytes_kept = sum(tensor.untyped_storage().nbytes() for at, tensor in kept.items() if at not in given)
    assert rows.loc["a", "memory_ratio"] == pytest.approx((bytes_kept + sum(spikes)) / bytes_kept, rel=0.01)
    assert pd.isna(rows.loc["b", "memory_ratio"])
    assert pd.isna(rows.loc["base", "memory_ratio"])
