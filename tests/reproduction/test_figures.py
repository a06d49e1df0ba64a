"""Claim to evidence to figure: whatever a figure shows is in one of the two, and is made once."""

import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from jellyplus._errors import InputError
from jellyplus.registry import MEASURES
from jellyplus.reproduction import figure_evidence, figure_view, figures, today
from jellyplus.reproduction.figure_claims import load_figure
from jellyplus.reproduction.figure_view import Shown
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.runner import Runner
from jellyplus.reproduction.scale import Scale
from jellyplus.reproduction.source import code_digest
from jellyplus.reproduction.store import Store
from jellyplus.reproduction.today import Standing
from jellyplus.training.recipe_files import load_run

ROOT = Path(__file__).parents[2]
CLAIMS = sorted((ROOT / "reproductions" / "claims").glob("figure*.yaml"))
TOY = "dspike/mnist_toy_rectangular"
HISTOGRAM = {"parameter": "conv1.weight", "epoch_parts": 1, "low": -0.1, "high": 0.1, "bins": 4}
CLAIM = {
    "title": "Toy, Fig. 1: everything at once",
    "paper": "dspike",
    "printed_in": "nowhere",
    "says": "Nothing.",
    "panels": [
        {
            "title": "(a) formula",
            "x": "u",
            "y": "y",
            "series": [{"label": "V_th", "measure": "constant", "settings": {"y": 0.5, "start": 0, "end": 1}}],
        },
        {
            "title": "(b) network",
            "x": "epoch",
            "y": "value",
            "series": [
                {"label": "accuracy", "measure": "course", "recipe": TOY, "settings": {"of": "accuracy"}},
                {"label": "rates", "measure": "spike_rates", "recipe": TOY, "style": "bars"},
                {"label": "fresh", "measure": "spike_rates_untrained", "recipe": TOY, "style": "points"},
                {
                    "label": "gradient",
                    "measure": "gradient_histogram",
                    "recipe": TOY,
                    "style": "histogram",
                    "settings": HISTOGRAM,
                },
            ],
        },
    ],
}


def claim_with(**changes):
    """The claim with values of the second panel's last series replaced."""
    claim = json.loads(json.dumps(CLAIM))
    claim["panels"][1]["series"][-1].update(changes)
    return claim


def written(folder, claim=CLAIM):
    """A checkout with this one figure; returns its script."""
    (folder / "reproductions" / "claims").mkdir(parents=True, exist_ok=True)
    (folder / "reproductions" / "claims" / "figure1_toy.yaml").write_text(yaml.safe_dump(claim))
    shutil.copytree(ROOT / "recipes", folder / "recipes", dirs_exist_ok=True)
    return folder / "reproductions" / "figure1_toy.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The figure, made once: the folder of results, and the script."""
    folder = tmp_path_factory.mktemp("figure")
    script = written(folder)
    assert run(script, folder / "results", pictures=True) == 0
    return script, folder / "results"


@pytest.fixture
def copied(made, tmp_path):
    """What was made, to be changed."""
    script, results = made
    shutil.copytree(results, tmp_path / "results")
    return script, tmp_path / "results"


def run(script, out, *options, pictures=False):
    """The command line; pictures take most of its time, and only some tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        if not pictures:
            patch.setattr(figure_view, "_pictures", lambda *_: {})
        patch.setattr(sys, "argv", ["figure", "--profile", "smoke", "--device", "cpu", "--out", str(out), *options])
        return figures.main(str(script))


def table(results):
    return pd.read_csv(results / "smoke" / "figure1_toy" / "figure.csv")


def status(results):
    return table(results).groupby("series")["status"].unique().map(list).to_dict()


def files(results):
    folder = results / "smoke" / "figure1_toy"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def measurements_in(results):
    return Measurements(Runner(Store(results / "evidence"), None, "cpu"))


def toy():
    return load_run(TOY, "smoke", ROOT / "recipes")


# --- The claims in the repository


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_claims_and_recipes_fit_in_every_profile(path):
    claim = load_figure(path)
    for profile in ("smoke", "embedded", "small", "paper"):
        planned = figure_evidence.plan(claim, profile, ROOT / "recipes")
        assert all((run is None) == (series.recipe is None) for _, series, run, _ in planned)


def test_every_figure_has_its_script():
    scripts = {path.stem for path in (ROOT / "reproductions").glob("figure*.py")}
    assert scripts == {path.stem for path in CLAIMS}
    assert len(scripts) == 16


def test_every_measure_but_the_tables_is_in_a_figure():
    used = {series.measure for path in CLAIMS for panel in load_figure(path).panels for series in panel.series}
    assert MEASURES.keys() - used == {"quantisation_error"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"measure": "nothing"}, "has the measure nothing; choose from"),
        ({"label": "rates"}, "2 series of panel '(b) network' have the label 'rates'"),
        ({"recipe": None}, "gradient_histogram measures a network: name its recipe"),
        ({"settings": {}}, "settings of series 'gradient': key 'parameter' is missing"),
        ({"settings": HISTOGRAM | {"bins": 0}}, "key 'bins' is 0"),
        ({"style": "pie"}, "it must be one of 'line', 'points', 'bars', 'histogram'"),
        ({"colour": "red"}, "unknown key"),
    ],
)
def test_a_claim_that_does_not_fit_is_refused(tmp_path, change, said):
    written(tmp_path, claim_with(**change))
    with pytest.raises(InputError) as error:
        load_figure(tmp_path / "reproductions" / "claims" / "figure1_toy.yaml")
    assert said in str(error.value)
    assert "figure1_toy.yaml" in str(error.value)


def test_a_formula_has_no_recipe(tmp_path):
    claim = json.loads(json.dumps(CLAIM))
    claim["panels"][0]["series"][0]["recipe"] = TOY
    written(tmp_path, claim)
    with pytest.raises(InputError, match="constant needs no recipe"):
        load_figure(tmp_path / "reproductions" / "claims" / "figure1_toy.yaml")


# --- From claim to figure


def test_everything_is_made_and_shown(made):
    _, results = made
    frame = table(results)
    assert list(frame) == ["panel", "series", "x", "y", "low", "high", "seeds", "profile", "status", "data"]
    assert status(results) == {
        "V_th": ["computed"],
        "accuracy": ["stand-in"],
        "rates": ["stand-in"],
        "fresh": ["stand-in"],
        "gradient": ["stand-in"],
    }
    assert frame.loc[frame["series"] == "V_th", "profile"].isna().all()
    assert set(frame.loc[frame["series"] != "V_th", "profile"]) == {"smoke"}
    (evidence,) = Store(results / "evidence").runs(toy().key)
    assert frame.loc[frame["series"] == "accuracy", "y"].item() == pytest.approx(evidence.accuracy_last)
    assert len(frame[frame["series"] == "gradient"]) == 4


def test_the_console_says_that_data_are_a_stand_in(copied, capsys):
    script, results = copied
    assert run(script, results, "--render") == 0
    out = capsys.readouterr().out
    assert "stand-in: digits, 16x16, width 2" in out
    assert "This is stand-in data" in out


def test_measurements_are_beside_the_runs_evidence_and_not_taken_for_it(made):
    _, results = made
    store = Store(results / "evidence")
    names = {path.name.partition("-")[0] for path in store.folder(toy().key).glob("*-seed0-*.json")}
    assert names == {"spike_rates", "spike_rates_untrained", "gradient_histogram"}
    assert len(store.runs(toy().key)) == 1


def test_a_second_call_makes_nothing_and_writes_the_same(copied, monkeypatch):
    script, results = copied
    before = files(results)
    assert before.keys() == {"figure.csv", "figure.png", "figure.pdf"}
    monkeypatch.setattr(Runner, "_train", None)
    monkeypatch.setattr(Measurements, "make", None)
    assert run(script, results, pictures=True) == 0
    assert files(results) == before


def test_render_shows_what_is_missing_and_makes_nothing(copied):
    script, results = copied
    (measurement,) = (results / "evidence").glob("*/spike_rates-*-seed*.json")
    measurement.unlink()
    before = sorted((results / "evidence").rglob("*"))
    assert run(script, results, "--render") == 0
    assert status(results)["rates"] == ["not-run"]
    assert status(results)["fresh"] == ["stand-in"]
    assert table(results).set_index("series").loc["rates", ["x", "y"]].isna().all()
    assert sorted((results / "evidence").rglob("*")) == before
    assert run(script, results) == 0
    assert status(results)["rates"] == ["stand-in"]


def test_render_without_any_evidence(made, tmp_path):
    script, _ = made
    assert run(script, tmp_path, "--render") == 0
    assert set(table(tmp_path)["status"]) == {"computed", "not-run"}
    assert not (tmp_path / "evidence").exists()


def test_measures_that_changed_make_it_stale(copied, monkeypatch):
    script, results = copied
    monkeypatch.setattr(today, "code_digest", lambda: "f" * 64)
    probe = today._probe
    changed = {"x": [2.0]}
    monkeypatch.setattr(today, "_probe", lambda *of: probe(*of) if hasattr(of[1], "history") else changed)
    assert run(script, results, "--render") == 0
    assert status(results) == {
        "V_th": ["computed"],
        "accuracy": ["stand-in"],
        "rates": ["stale"],
        "fresh": ["stale"],
        "gradient": ["stale"],
    }
    assert run(script, results) == 0  # measured again, beside the old one
    assert status(results)["rates"] == ["stand-in"]
    assert len(list((results / "evidence").glob("*/spike_rates-*-seed*.json"))) == 2


def test_code_that_changed_makes_runs_stale(copied, monkeypatch):
    script, results = copied
    monkeypatch.setattr(today, "code_digest", lambda: "e" * 64)
    assert run(script, results, "--render") == 0
    assert status(results)["accuracy"] == ["stand-in"]  # it does what it did
    monkeypatch.setattr(today, "_probe", lambda plugins, record, run: {"loss of step": [9.0]})
    monkeypatch.setattr(today.Today, "_kept", lambda *_: None)
    assert run(script, results, "--render") == 0
    assert status(results)["accuracy"] == ["stale"]
    for path in (results / "evidence").glob("*/probe-*.json"):
        path.unlink()
    assert run(script, results, "--render") == 0
    assert status(results)["accuracy"] == ["unknown"]


def test_on_the_papers_data_with_its_settings_it_is_measured():
    assert figure_evidence._status(Standing("current"), Scale(("mnist",))) == "measured"
    assert figure_evidence._status(Standing("current"), Scale(("mnist", "width 2"), is_papers=False)) == "partial"
    assert figure_evidence._status(Standing("current"), SCALE) == "stand-in"
    assert figure_evidence._status(Standing("stale"), SCALE) == "stale"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": HISTOGRAM | {"parameter": "conv7.weight"}}, "no parameter 'conv7.weight'"),
        ({"settings": HISTOGRAM | {"low": 1.0}}, "bin_edges must be two or more increasing numbers"),
        ({"recipe": "dspike/nothing"}, "nothing.yaml"),
        ({"overrides": {"neuron": {"colour": "red"}}}, "unknown key 'neuron.colour'"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(copied, tmp_path, capsys, change, said):
    _, results = copied
    assert run(written(tmp_path, claim_with(**change)), results) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("profile", "why"), [("gpu", "a figure has its own epochs"), ("official", "makes no figure")])
def test_a_figure_has_neither_the_profile_of_epochs_nor_that_of_public_code(made, tmp_path, capsys, profile, why):
    assert run(made[0], tmp_path / "results", "--profile", profile) == 2
    said = capsys.readouterr().err
    assert f"--profile {profile} is for tables" in said
    assert why in said
    assert not (tmp_path / "results").exists()


def test_shards_share_what_is_trained_and_measure_it_where_it_is_made(made, tmp_path):
    script, _ = made
    seeds = ("--seeds", "0", "1")
    assert run(script, tmp_path, "--shard", "2/2", *seeds) == 0
    first = table(tmp_path).groupby("series")["seeds"].max()
    assert (first["accuracy"], first["rates"]) == (1, 1)  # of the one run that is this shard's
    assert first[["fresh", "gradient"]].sum() == 2  # of four measurements that need no training two
    assert run(script, tmp_path, "--shard", "1/2", *seeds) == 0
    both = table(tmp_path)
    assert set(both[both["status"] != "computed"]["seeds"]) == {2}


def test_numbers_below_rounding_are_zero():
    claim = load_figure(ROOT / "reproductions" / "claims" / "figure3_inflor.yaml")
    (panel,) = claim.panels
    view = [(panel, panel.series[0], Shown([-1e-17, 1.0], [1.5, -1e-13], {}, "computed"))]
    frame = figure_view.frame(view, "paper")
    assert frame.to_csv(index=False, float_format="%.7g").splitlines()[1:] == [
        "MPR,φ(u),0,1.5,,,,,computed,",
        "MPR,φ(u),1,0,,,,,computed,",
    ]


# --- Several seeds


def test_a_script_makes_all_seeds_asked_for_and_shows_their_mean_and_range(copied):
    script, results = copied
    first = table(results)
    assert run(script, results, "--seeds", "1", "2") == 0
    found = table(results)
    trained = found[found["status"] == "stand-in"]
    assert set(trained["seeds"]) == {3}
    assert found[found["status"] == "computed"]["seeds"].isna().all()
    assert ((trained["low"] <= trained["y"]) & (trained["y"] <= trained["high"])).all()
    assert (trained["low"] < trained["high"]).any()
    # seed 0 is among them
    before = first[first["status"] == "stand-in"]["y"].to_numpy()
    assert ((trained["low"].to_numpy() <= before + 1e-6) & (before <= trained["high"].to_numpy() + 1e-6)).all()
    text = (results / "smoke" / "figure1_toy" / "figure.csv").read_bytes()
    assert run(script, results, "--render") == 0  # whichever are asked for, what there is is shown
    assert (results / "smoke" / "figure1_toy" / "figure.csv").read_bytes() == text


def test_seeds_are_shown_as_their_mean_lowest_and_highest():
    one = dataclasses.replace(SHOWN, y=[0.1, 0.5, 0.3], numbers={"slope": 1.0})
    other = dataclasses.replace(SHOWN, y=[0.3, 0.1, 0.3], numbers={"slope": 2.0})
    found = figure_evidence._together([one, other])
    assert (found.y, found.low, found.high) == (pytest.approx((0.2, 0.3, 0.3)), (0.1, 0.1, 0.3), (0.3, 0.5, 0.3))
    assert (found.numbers, found.seeds, found.status) == ({"slope": 1.5}, 2, "stand-in")
    assert figure_evidence._together([one]) == one
    assert figure_evidence._together([]).status == "not-run"


def test_old_and_current_seeds_are_not_mixed_nor_those_of_another_length():
    stale, longer = dataclasses.replace(SHOWN, status="stale"), dataclasses.replace(SHOWN, x=[1.0], y=[0.5])
    assert figure_evidence._together([stale, SHOWN, longer]) == SHOWN
    assert figure_evidence._together([stale, stale]).seeds == 2


def test_seeds_by_two_old_codes_are_not_mixed():
    old = [dataclasses.replace(SHOWN, status="stale", code=code) for code in "aba"]
    assert figure_evidence._together(old).seeds == 2


def test_a_number_that_one_seed_lacks_is_of_none():
    lacking = dataclasses.replace(SHOWN, numbers={})
    for found in ([SHOWN, lacking], [lacking, SHOWN]):
        assert figure_evidence._together(found).numbers == {}


def test_a_run_copied_to_another_seed_is_said(copied):
    script, results = copied
    store = Store(results / "evidence")
    (evidence,) = store.runs(toy().key)
    path = store.path(evidence)
    other = dataclasses.replace(evidence, seed=1)
    text = path.read_text().replace('"seed": 0', '"seed": 1')
    store.path(other).write_text(text)
    assert run(script, results, "--render") == 0
    assert status(results)["accuracy"] == ["conflict"]


def test_a_seed_that_contradicts_itself_is_said():
    conflict = Shown(status="conflict", note="of two minds")
    assert figure_evidence._together([SHOWN, conflict, SHOWN]) == conflict


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_a_picture_of_several_seeds_shows_their_range(path, monkeypatch):
    shown = dataclasses.replace(SHOWN, low=(0.0, 0.1, 0.2), high=(0.2, 0.3, 0.4), seeds=2)
    _, figure = drawn(monkeypatch, path, shown)
    assert "several seeds: mean, lowest and highest" in figure.get_supxlabel().replace("\n", " ")
    for ax in figure.axes:
        (band, *_) = ax.collections
        assert band.get_paths()[0].vertices[:, 1].max() >= 0.2


# --- Measurements as evidence


def test_a_measurement_is_read_as_it_was_written(made):
    _, results = made
    found = measurements_in(results).find(toy(), "gradient_histogram", _checked(HISTOGRAM), 0)
    assert (found.recipe_name, found.profile, found.seed, found.key) == (TOY, "smoke", 0, toy().key)
    assert (found.dataset, found.stand_in, found.examples) == ("digits", True, 64)
    assert found.code == code_digest()
    assert len(found.x) == len(found.y) == 4
    assert found.numbers.keys() == {"deviation"}


def _checked(settings):
    return MEASURES["gradient_histogram"].check(settings, "test")


def test_other_settings_are_another_measurement(made):
    _, results = made
    assert measurements_in(results).find(toy(), "gradient_histogram", _checked(HISTOGRAM | {"bins": 5}), 0) is None


def test_a_measurement_is_never_overwritten(copied):
    _, results = copied
    with pytest.raises(InputError, match="evidence is never overwritten"):
        measurements_in(results).make(toy(), "spike_rates", {}, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text.replace('"seed": 0', '"seed": 1'),
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace('"measure": "spike_rates"', '"measure": "spikes"'),
        lambda text: text.replace('"numbers": {}', '"numbers": {"a": NaN}'),
        lambda text: text.replace('"x": [', '"x": [1.0,'),
    ],
    ids=["truncated", "another seed", "another schema", "another measure", "not finite", "too many x"],
)
def test_a_damaged_measurement_is_left_alone_and_said(copied, damage, capsys):
    script, results = copied
    (path,) = (results / "evidence").glob("*/spike_rates-*-seed*.json")
    path.write_text(damage(path.read_text()))
    content = path.read_bytes()
    assert run(script, results, "--render") == 2
    assert f"{path.name} is damaged or from another version" in capsys.readouterr().err
    assert path.read_bytes() == content


# --- The picture


def drawn(monkeypatch, claim_file, shown):
    """The matplotlib figure of a claim whose series all show the same."""
    seen = []
    monkeypatch.setattr(figure_view, "_saved", lambda figure, kind: seen.append(figure) or b"")
    claim = load_figure(claim_file)
    view = [(panel, series, shown) for panel in claim.panels for series in panel.series]
    figure_view._pictures(claim, view, "smoke")
    return claim, seen[0]


SCALE = Scale(("digits", "16x16", "width 2"), stand_in=True, is_papers=False)
SHOWN = Shown([1.0, 2.0, 3.0], [0.1, 0.2, 0.3], {"slope": 0.5}, "stand-in", SCALE)


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_pictures_name_axes_and_series_and_can_be_read_in_grey(path, monkeypatch):
    claim, figure = drawn(monkeypatch, path, SHOWN)
    assert figure.get_suptitle() == claim.title  # the profile is in the caption, which can be cut off
    assert "profile: smoke" in figure.get_supxlabel()
    assert "stand-in data, no claim about the paper" in figure.get_supxlabel()
    for panel, ax in zip(claim.panels, figure.axes, strict=True):
        assert (ax.get_xlabel(), ax.get_ylabel()) == (panel.x, panel.y)
        title = ax.get_title().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")
        assert title == f"stand-in for {panel.title}: digits, 16x16, width 2"
        assert "stand-in data" in [text.get_text() for text in ax.texts]
        assert {line.get_markerfacecolor() for line in ax.lines} <= {"white"}
        assert all(patch.get_facecolor()[3] == 0 for patch in ax.patches)
        legend = [text.get_text() for text in ax.get_legend().get_texts()]
        assert legend == [f"{series.label} (slope 0.5)" for series in panel.series]
        styles = {(line.get_linestyle(), line.get_marker()) for line in ax.lines}
        assert len(styles) == len(ax.lines)


def test_a_picture_says_what_is_stale_and_what_is_missing(monkeypatch):
    for status, words in (("stale", "stale: measured by other code"), ("not-run", "incomplete")):
        shown = dataclasses.replace(SHOWN, status=status)
        _, figure = drawn(monkeypatch, CLAIMS[0], shown)
        assert words in figure.get_supxlabel()


def test_a_formula_alone_has_no_profile(monkeypatch):
    _, figure = drawn(monkeypatch, CLAIMS[0], Shown([1.0, 2.0], [1.0, 2.0], {}, "computed"))
    assert "computed, no data" in figure.get_supxlabel()


def test_summary_has_the_numbers(made):
    script, results = made
    claim = load_figure(script.parent / "claims" / "figure1_toy.yaml")
    planned = figure_evidence.plan(claim, "smoke", ROOT / "recipes")
    text = figure_view.summary(figure_evidence.view(planned, measurements_in(results)))
    assert "deviation" in text
    frame = pd.read_csv(io.StringIO(text), sep="|", skiprows=[1])
    assert len(frame) == 5
