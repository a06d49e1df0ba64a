"""The view says of each row what claim and evidence say together; expectations are worked out by hand."""

import dataclasses
import io

import matplotlib
import pandas as pd
import pytest

from jellyplus._errors import InputError
from jellyplus.reproduction import page, picture, view
from jellyplus.reproduction.claims import Claim, ClaimTable, Split
from jellyplus.reproduction.scale import Scale
from jellyplus.reproduction.today import Standing

NEW, OLD = "c" * 64, "0" * 64
STALE = Standing("stale", {"a": "loss of step 3: 2.3, now 2.2", "b": "another"})


def table(paper=90.0, paper_std=None):
    own = Claim("own", "digits", "Ours", "own", "Net", 4, paper, paper_std, "dspike/a", "as printed, twice")
    other = Claim("other", "digits", "Theirs", "reported", "Net", 8, 88.5, None, None, "")
    return ClaimTable("Table 0", "dspike", "Nowhere", {"digits": Split(100, 20)}, (other, own))


def build(table, evidence, profile="paper", old=STALE):
    """With the accuracy of each evidence as its row's result; that of other code than NEW stands as ``old`` does."""

    def result(e):
        return view.Result(e.accuracy_last, e, Standing("current") if e.code == NEW else old)

    return view.build(table, {name: list(map(result, runs)) for name, runs in evidence.items()}, profile)


def own_row(evidence, profile="paper", **claim):
    return build(table(**claim), {"own": evidence}, profile).iloc[1]


@pytest.fixture
def runs(make_evidence):
    def make(*values, **changes):
        return [make_evidence(accuracy_last=v, seed=seed, **changes) for seed, v in enumerate(values)]

    return make


def test_columns_and_numbers(runs):
    frame = build(table(paper_std=0.1), {"own": runs(89.0, 90.0, 92.0)})
    assert list(frame.columns) == [
        "dataset",
        "method",
        "kind",
        "architecture",
        "timesteps",
        "quantity",
        "paper",
        "paper_std",
        "ours_mean",
        "ours_std",
        "n_seeds",
        "delta",
        "best",
        "baseline",
        "paper_gain",
        "gain",
        "gain_low",
        "gain_high",
        "gain_n",
        "gain_p",
        "gain_p_holm",
        "gain_verdict",
        "status",
        "profile",
        "data",
        "recipe",
        "commit",
        "versions",
        "note",
    ]
    row = frame.iloc[1]
    assert row.ours_mean == pytest.approx(271 / 3)
    # deviations from 271/3 are -4/3, -1/3, 5/3; squares sum to 42/9; over n - 1 = 2: 21/9
    assert row.ours_std == pytest.approx((21 / 9) ** 0.5)
    assert row.delta == pytest.approx(1 / 3)
    assert (row.n_seeds, row.best, row.profile) == (
        3,
        pytest.approx(274 / 3),
        "paper",
    )  # each best is a point above the last
    assert (row.commit, row.recipe) == ("0123456789ab", "dspike/a")


def test_reported_and_not_run():
    other, own = build(table(), {}).itertuples(index=False)
    assert (other.status, other.paper) == ("reported", 88.5)
    assert pd.isna(other.n_seeds)
    assert pd.isna(other.profile)
    assert (own.status, own.n_seeds, own.profile) == ("not-run", 0, "paper")
    assert pd.isna(own.ours_mean)


# Three equal seeds: sigma_ours = 0, so that the tolerance is max(0.3, 2 sigma_paper).
@pytest.mark.parametrize(
    ("paper", "paper_std", "ours", "status"),
    [
        (94.25, None, 93.95, "reproduced"),  # exactly 0.3 below
        (94.25, None, 94.55, "reproduced"),  # exactly 0.3 above
        (94.25, None, 93.94, "below"),
        (94.25, None, 94.56, "above"),
        (90.0, 0.15, 89.7, "reproduced"),  # 2 * 0.15 is 0.3 as well
        (90.0, 0.2, 90.4, "reproduced"),  # exactly 2 * 0.2
        (90.0, 0.2, 90.41, "above"),
        (90.0, 0.2, 89.59, "below"),
    ],
)
def test_tolerance(runs, paper, paper_std, ours, status):
    assert own_row(runs(ours, ours, ours), paper=paper, paper_std=paper_std).status == status


# Seeds m - 0.4, m, m + 0.4: sigma_ours = 0.4; with sigma_paper = 0.3 the tolerance is 2 * 0.5 = 1.
@pytest.mark.parametrize(
    ("mean", "status"), [(91.0, "reproduced"), (91.01, "above"), (89.0, "reproduced"), (88.99, "below")]
)
def test_tolerance_adds_variances(runs, mean, status):
    assert own_row(runs(mean - 0.4, mean, mean + 0.4), paper=90.0, paper_std=0.3).status == status


@pytest.mark.parametrize(
    "changes",
    [
        {"profile": "small"},
        {"profile": "official"},
        {"epochs_completed": 2},
        {"dataset": {"name": "cifar10", "train_examples": 99, "test_examples": 20}},
        {"dataset": {"name": "cifar10", "train_examples": 100, "test_examples": 19}},
    ],
)
def test_partial(runs, make_evidence, changes):
    assert own_row(runs(90.0, 90.0, 90.0, **changes)).status == "partial"
    one_of_three = [*runs(90.0, 90.0), make_evidence(seed=2, **changes)]
    assert own_row(one_of_three).status == "partial"


def deviating(**changes):
    whole = table()
    other, own = whole.rows
    own = dataclasses.replace(own, deviates="the network is another", **changes)
    return dataclasses.replace(whole, rows=(other, own))


@pytest.mark.parametrize("value", [90.0, 80.0])
def test_a_run_of_a_recipe_that_deviates_is_partial_and_says_in_what(runs, value):
    row = build(deviating(), {"own": runs(value, value, value)}).iloc[1]
    assert (row.status, row.note) == ("partial", "deviates: the network is another; as printed, twice")


@pytest.mark.parametrize("value", [90.0, 80.0])
def test_so_is_what_a_deviating_network_shows_untrained(value):
    frame = view.build(deviating(quantity="macs"), {"own": [view.Result(value)]}, "paper")
    assert (frame.iloc[1].status, frame.iloc[1].ours_mean) == ("partial", value)


@pytest.mark.parametrize(("code", "status"), [(NEW, "partial"), (OLD, "stale")])
def test_evidence_that_does_not_tell_the_value_gives_a_row_without_one(runs, code, status, tmp_path):
    """Neither a number nor a deviation nor a seed; the note says why, after the claim's."""
    standing = Standing("current") if code == NEW else STALE
    made = [view.Result(None, e, standing, "counted otherwise") for e in runs(90.0, 91.0, code=code)]
    frame = view.build(table(), {"own": made}, "paper")
    row = frame.iloc[1]
    assert (row.status, row.n_seeds, row.note) == (status, 0, "as printed, twice; counted otherwise")
    assert row[["ours_mean", "ours_std", "delta", "best"]].isna().all()
    assert (row.profile, row.commit) == ("paper", "0123456789ab")
    view.write(frame, table(), tmp_path, "paper")
    assert "counted otherwise" in (tmp_path / "table.md").read_text()


def test_values_are_those_of_the_evidence_that_tells_them_and_each_note_stands_once(runs):
    notes = ["± 1", "± 1", "± 2"]
    current = Standing("current")
    pairs = zip(runs(90.0, 92.0, 94.0), notes, strict=True)
    told = [view.Result(e.accuracy_last, e, current, note) for e, note in pairs]
    untold = view.Result(None, told[0].evidence, current, "counted otherwise")
    row = view.build(table(), {"own": [untold, *told[1:]]}, "paper").iloc[1]
    assert (row.ours_mean, row.n_seeds, row.status) == (93.0, 2, "partial")
    assert row.note == "as printed, twice; ± 1; ± 2"


STAND_IN = {"name": "digits", "train_examples": 100, "test_examples": 20}


@pytest.mark.parametrize(("stand_in", "code"), [(True, NEW), (False, NEW), (True, OLD)])
def test_stand_in_data_have_their_own_status_whatever_else_there_is_to_say(runs, stand_in, code):
    """Also where the run is complete, where the evidence denies it of data that are one, and where it is stale."""
    name = "cifar10" if stand_in else "digits"
    data = STAND_IN | {"name": name, "stand_in": stand_in}
    row = own_row(runs(90.0, 90.0, 90.0, dataset=data, code=code))
    assert (row.status, row.ours_mean, row.n_seeds) == ("stand-in" if code == NEW else "stale", 90.0, 3)
    assert pd.isna(row.delta)
    assert row.data.startswith("stand-in")
    mixed = own_row([*runs(90.0, 90.0, 90.0), *runs(1.0, 2.0, dataset=data)])
    assert (mixed.status, mixed.data[:8]) == ("stand-in", "stand-in")


SCALE = Scale(("digits", "16x16", "width 8", "2 of 300 epochs"), stand_in=True, is_papers=False)


def on_stand_ins(runs):
    """The row 'own' on digits and another on the paper's data."""
    cells = table().rows
    real = dataclasses.replace(cells[1], id="real", method="Real")
    claims = dataclasses.replace(table(), rows=(*cells, real))
    results = [view.Result(e.accuracy_last, e, scale=SCALE) for e in runs(71.5, 72.5, dataset=STAND_IN)]
    partial = [
        view.Result(e.accuracy_last, e, scale=Scale(("cifar10", "width 8"), is_papers=False)) for e in runs(80.0)
    ]
    return claims, view.build(claims, {"own": results, "real": partial}, "embedded")


def test_numbers_on_stand_ins_are_not_beside_the_papers(runs, tmp_path):
    claims, frame = on_stand_ins(runs)
    assert list(frame["data"][1:]) == ["stand-in: digits, 16x16, width 8, 2 of 300 epochs", "cifar10, width 8"]
    assert list(frame["status"]) == ["reported", "stand-in", "partial"]
    view.write(frame, claims, tmp_path, "embedded", draw=False)
    texts = [(tmp_path / "table.md").read_text().partition("## On stand-in data: no claim about the paper")]
    texts.append(view.summary(frame).partition("On stand-ins, no claim about the paper:"))
    for compared, _, apart in texts:
        assert "72.00" not in compared
        assert "80.00" in compared
        (line,) = [line for line in apart.splitlines() if "72.00" in line]
        assert "digits, 16x16, width 8" in line
        assert not {"90.00", "80.00"} & set(apart.split())
    row = pd.read_csv(tmp_path / "table.csv").iloc[1]
    assert (row.status, row.ours_mean, row.data) == (
        "stand-in",
        72.0,
        "stand-in: digits, 16x16, width 8, 2 of 300 epochs",
    )


def test_stand_ins_have_panels_of_their_own_that_tell_without_the_rest_of_the_picture(runs, monkeypatch):
    _, frame = on_stand_ins(runs)
    axes = {}
    monkeypatch.setattr(picture, "_write_beside", lambda panel, *_, **__: axes.setdefault(panel))
    picture.draw(frame, "title", "caption")
    real, stand_in = axes
    assert stand_in.get_title(loc="left").replace("\N{NO-BREAK SPACE}", " ").split("\n") == [
        "stand-in for digits: digits, 16x16, width 8, 2 of 300 epochs"
    ]
    assert real.get_title(loc="left").startswith("digits; ours: cifar10, width")
    assert [text.get_text() for text in stand_in.texts] == ["stand-in data"]
    assert stand_in.get_facecolor() != real.get_facecolor()
    shown = [line for line in stand_in.lines if line.get_marker() == "o"]
    assert [(line.get_xdata().tolist(), line.get_markerfacecolor()) for line in shown] == [([72.0], "none")]
    assert not [line for line in stand_in.lines if line.get_marker() == "s"]  # the paper's
    low, high = stand_in.get_xlim()
    assert not low < 90 < high
    assert [line.get_xdata().tolist() for line in real.lines if line.get_marker() == "s"] == [[90.0]]


def test_two_seeds_are_partial_and_one_has_no_deviation(runs):
    assert own_row(runs(90.0, 90.2)).status == "partial"
    row = own_row(runs(90.0))
    assert (row.status, row.n_seeds) == ("partial", 1)
    assert pd.isna(row.ours_std)


def test_stale(runs, make_evidence):
    row = own_row(runs(90.0, 90.0, 90.0, code=OLD))
    assert (row.status, row.ours_mean, row.n_seeds) == ("stale", 90.0, 3)
    assert row.note == "as printed, twice; stale: loss of step 3: 2.3, now 2.2 (1 more)"
    unknown = build(table(), {"own": runs(90.0, code=OLD)}, old=Standing("unknown")).iloc[1]
    assert (unknown.status, unknown.note) == ("unknown", "as printed, twice")
    fresh = make_evidence(seed=7, accuracy_last=80.0, code=NEW)
    row = own_row([*runs(90.0, 90.0, 90.0, code=OLD), fresh])
    assert (row.status, row.ours_mean, row.n_seeds) == ("partial", 80.0, 1)  # fresh is preferred


def test_stale_evidence_of_two_codes_is_not_mixed(runs):
    row = own_row([*runs(70.0, code=OLD), *runs(90.0, 92.0, code="1" * 64)])
    assert (row.status, row.ours_mean, row.n_seeds) == ("stale", 91.0, 2)


def test_the_settings_of_public_code_are_named_over_the_table(make_evidence, tmp_path):
    evidence = [make_evidence(profile="official")]
    view.write(build(table(), {"own": evidence}, "official"), table(), tmp_path, "official", draw=False)
    assert "settings of the authors' public code, which are not the paper's" in (tmp_path / "table.md").read_text()


def test_profile_and_commit_are_the_evidences(make_evidence):
    row = own_row([make_evidence(profile="small"), make_evidence(seed=1, commit="f" * 40, dirty=True)], "embedded")
    assert row.profile == "paper, small"
    assert row.commit == "0123456789ab, ffffffffffff+dirty"


@pytest.fixture
def written(runs, tmp_path):
    frame = build(table(paper_std=0.1), {"own": runs(89.0, 90.0, 92.0, commit="1234567")}, "embedded")
    view.write(frame, table(), tmp_path, "embedded")
    return frame, tmp_path


def test_csv_round_trip(written):
    frame, folder = written
    text = {"commit": "string", "status": "string"}
    read = pd.read_csv(folder / "table.csv", dtype=text)
    assert list(read.columns) == list(view.COLUMNS)
    # 271/3 = 90.333, sqrt(21/9) = 1.5275, 1/3 = 0.333
    own = read.iloc[1]
    assert (own.ours_mean, own.ours_std, own.delta, own.n_seeds) == (90.33, 1.53, 0.33, 3)
    assert (own.commit, own.note) == ("1234567", "as printed, twice")
    for column in ("dataset", "method", "kind", "architecture", "timesteps", "status", "recipe"):
        assert list(read[column].fillna("")) == list(frame[column].fillna(""))
    line = "digits,Theirs,reported,Net,8,accuracy,88.50,,,,,,,,,,,,,,,,reported,,,,,,"
    assert (folder / "table.csv").read_text().splitlines()[1] == line


def test_no_minus_zero(runs, tmp_path):
    frame = build(table(), {"own": runs(89.999)})
    view.write(frame, table(), tmp_path, "paper")
    assert "-0.00" not in (tmp_path / "table.csv").read_text()


def test_markdown(written):
    text = (written[1] / "table.md").read_text()
    assert text.startswith("# Table 0\n")
    assert "Profile: `embedded`. This is stand-in data" in text
    assert "no number of ours here is a claim about the paper" in text
    for status in page.STATUSES:
        assert f"`{status}`" in text
    row = next(line for line in text.splitlines() if line.startswith("| digits") and "Ours" in line)
    assert [cell.strip() for cell in row.split("|")[7:14]] == ["90.00", "0.10", "90.33", "1.53", "3", "0.33", "91.33"]
    assert "1234567 " in row  # a commit of digits only stays text


def test_same_frame_same_bytes(written, tmp_path):
    frame, folder = written
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20}):  # a user's own style does not matter
        view.write(frame, table(), tmp_path / "again", "embedded")
    for name in ("table.csv", "table.md", "table.png"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_png_is_a_picture_without_dates(written):
    from PIL import Image

    content = (written[1] / "table.png").read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        assert image.size[0] >= 1000
        assert set(image.info) <= {"dpi"}
        assert len(image.convert("L").getcolors()) > 10


def test_picture_tells_not_run_from_run(runs):
    frames = [build(table(), evidence) for evidence in ({}, {"own": runs(90.0)})]
    pictures = [picture.draw(frame, "title", "caption") for frame in frames]
    assert pictures[0] != pictures[1]


def test_a_folder_that_cannot_be_written(written, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        view.write(written[0], table(), tmp_path / "file" / "below", "embedded")


# --- Values that take no training, gains over a baseline -----------------------------------------------------------


def exact_row(paper, ours, quantity="macs", **more):
    claim = Claim("own", "digits", "Ours", "own", "Net", 4, paper, None, "dspike/a", "", quantity=quantity, **more)
    one = ClaimTable("Table 0", "dspike", "Nowhere", {"digits": Split(100, 20)}, (claim,))
    return view.build(one, {"own": [view.Result(ours)]}, "embedded").iloc[0]


@pytest.mark.parametrize(
    ("paper", "ours", "more", "status"),
    [
        (36, 36, {}, "reproduced"),
        (36, 37, {}, "above"),
        (1.9e8, 187_372_544, {"resolution": 1e7}, "reproduced"),  # 18.7 tens of millions round to 19
        (1.87e8, 187_372_544, {"resolution": 1e6}, "reproduced"),
        (1.88e8, 187_372_544, {"resolution": 1e6}, "below"),
        (2.2e9, 2_285_373_952, {"resolution": 1e8}, "above"),  # rounds to 2.3e9
        (2.2e9, 2_285_373_952, {"resolution": 1e8, "truncated": True}, "reproduced"),
        (80.3, 80.272, {"resolution": 0.1}, "reproduced"),
    ],
)
def test_what_takes_no_training_equals_the_last_printed_place_or_not(paper, ours, more, status):
    row = exact_row(paper, ours, **more)
    assert (row.status, row.ours_mean, row.delta) == (status, ours, pytest.approx(ours - paper))
    assert pd.isna(row.n_seeds)
    assert pd.isna(row.profile)


@pytest.mark.parametrize(
    ("ours", "status"), [("conv 3x3", "reproduced"), ("conv 5x5", "differs"), ("conv 9", "consistent")]
)
def test_a_printed_text_is_ours_or_differs_or_is_ambiguous(ours, status):
    row = exact_row("conv 3x3", ours, "layers", readings=("conv 9",))
    assert (row.ours_mean, row.status) == (ours, status)


@pytest.mark.parametrize("ours", [36, 37])
def test_a_constant_that_was_typed_twice_is_no_reproduction(ours):
    assert exact_row(36, ours, "batch_size").status == ("consistent" if ours == 36 else "inconsistent")
    cells = [Claim(n, "digits", n, "reported", "Net", 4, v, None, None, "") for n, v in (("a", 10.0), ("b", 2.0))]
    energy = {"quantity": "energy_of_counts", "operands": ("a", "b")}
    sums = [Claim(kind, "digits", "Ours", kind, "Net", 4, 36, None, None, "", **energy) for kind in ("own", "reported")]
    table = ClaimTable("Table 0", "dspike", "Nowhere", {"digits": Split(100, 20)}, (*cells, *sums))
    frame = view.build(table, {claim.id: [view.Result(ours)] for claim in sums}, "embedded")
    assert set(frame["status"][2:]) == {"consistent" if ours == 36 else "inconsistent"}


@pytest.mark.parametrize(
    ("paper", "ours", "more"),
    [(2.2e9, 2_285_373_952, {"resolution": 1e8, "truncated": True}), (1.87e8, 187_372_544, {"resolution": 1e6})],
)
def test_values_that_agree_are_together_in_the_picture(paper, ours, more, monkeypatch):
    axes = []
    monkeypatch.setattr(picture, "_write_beside", lambda panel, *_, **__: axes.append(panel))
    claim = Claim("own", "digits", "Ours", "own", "Net", 4, paper, None, "dspike/a", "", quantity="macs", **more)
    one = ClaimTable("Table 0", "dspike", "Nowhere", {"digits": Split(100, 20)}, (claim,))
    picture.draw(view.build(one, {"own": [view.Result(ours)]}, "paper"), "title", "caption")
    low, high = axes[0].get_xlim()
    assert low < min(paper, ours) < max(paper, ours) < high
    assert abs(ours - paper) <= (high - low) / 9.99


def ablations(without, **with_methods):
    """Rows and the row without their methods, by (seed, value); each is printed 1.5 points better."""
    claims = [
        Claim(name, "digits", name, "own", "Net", 4, 93.0, None, "dspike/a", "", baseline="without")
        for name in with_methods
    ]
    claims.append(Claim("without", "digits", "Without", "ablation", "Net", 4, 91.5, None, "dspike/b", ""))
    both = ClaimTable("Table 0", "dspike", "Nowhere", {"digits": Split(100, 20)}, tuple(claims))
    return build(both, with_methods | {"without": without}).set_index("method")


def ablation(with_method, without):
    return ablations(without, ours=with_method).loc["ours"]


def test_a_gain_is_paired_over_the_seeds_that_both_rows_have(make_evidence):
    ours = [make_evidence(seed=s, accuracy_last=v) for s, v in ((0, 90.0), (1, 92.0), (2, 95.0), (7, 10.0))]
    theirs = [make_evidence(seed=s, accuracy_last=v) for s, v in ((2, 92.0), (0, 89.0), (1, 90.0))]
    row = ablation(ours, theirs)
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 2 sqrt(3) with 2 degrees of freedom;
    # there P(|t| > x) = 1 - x / sqrt(x^2 + 2), and 97.5 % lie below 4.3027
    t, reach = 2 * 3**0.5, 4.302652729911275 / 3**0.5
    assert (row.gain, row.gain_n, row.paper_gain) == (pytest.approx(2.0), 3, 1.5)
    assert (row.gain_low, row.gain_high) == pytest.approx((2 - reach, 2 + reach))
    assert row.gain_p == pytest.approx(1 - t / (t**2 + 2) ** 0.5)


@pytest.mark.parametrize("other", [{"profile": "embedded"}, {"code": OLD}, {"device": "a GPU"}])
def test_runs_of_two_profiles_codes_or_devices_are_no_pair(make_evidence, other):
    ours, theirs = [make_evidence()], [make_evidence(**other)]
    row = ablation(ours, theirs)
    assert row.gain_n == 0
    assert pd.isna(row.gain)


@pytest.mark.parametrize("seeds", [(), (0,), (0, 1)])
def test_a_gain_of_too_few_or_equal_differences_has_no_p(make_evidence, seeds):
    ours, theirs = ([make_evidence(seed=s, accuracy_last=v) for s in seeds] for v in (91.0, 90.0))
    row = ablation(ours, theirs)
    assert row.gain_n == len(seeds)
    assert pd.isna(row.gain_p)
    assert pd.isna(row.gain) == (not seeds)
    assert row.gain_verdict == ("too few seeds" if seeds else None)


def test_a_printed_gain_agrees_is_opposite_or_undecided_after_holms_correction(runs):
    """The p of differences of d, d + 0.1 and d - 0.1 is far below 0.05 / 3, that of 3, 2, 1 is 0.074."""
    frame = ablations(
        runs(90.0, 90.0, 90.0),
        better=runs(91.0, 91.1, 90.9),
        worse=runs(87.0, 87.1, 86.9),
        perhaps=runs(93.0, 92.0, 91.0),
        hardly=runs(91.0, 92.0),
        never=[],
    )
    verdicts = {"better": "agrees", "worse": "opposite", "perhaps": "undecided", "hardly": "too few seeds"}
    assert frame["gain_verdict"].dropna().to_dict() == verdicts
    # the largest of three p is that after correction, the smallest three times what it is
    assert frame.gain_p_holm["perhaps"] == frame.gain_p["perhaps"] == pytest.approx(0.0742, abs=1e-4)
    assert frame.gain_p_holm["worse"] == pytest.approx(3 * frame.gain_p["worse"])


def test_what_is_no_chance_alone_can_be_among_others(runs):
    """Differences of 1, 1.5 and 2: p is 0.035."""
    ours, base = runs(91.0, 91.5, 92.0), runs(90.0, 90.0, 90.0)
    assert ablations(base, ours=ours).gain_verdict["ours"] == "agrees"
    assert ablations(base, ours=ours, other=runs(80.0, 99.0, 90.0)).gain_verdict["ours"] == "undecided"


def test_what_contradicts_itself_has_no_gain(runs):
    sound, base = runs(91.0, 91.1, 90.9), runs(90.0, 90.0, 90.0)

    def result(e, *faults):
        return view.Result(e.accuracy_last, e, faults=faults)

    claims = [
        Claim("ours", "digits", "ours", "own", "Net", 4, 93.0, None, "dspike/a", "", baseline="without"),
        Claim("without", "digits", "Without", "ablation", "Net", 4, 91.5, None, "dspike/b", ""),
    ]
    both = ClaimTable("Table 0", "dspike", "Nowhere", {"digits": Split(100, 20)}, tuple(claims))
    for broken in ("ours", "without", None):
        results = {"ours": list(map(result, sound)), "without": list(map(result, base))}
        if broken:
            results[broken][2] = result(results[broken][2].evidence, "seed 2: of two minds")
        row = view.build(both, results, "paper").iloc[0]
        assert row.gain_n == (0 if broken else 3)
        assert row.gain_verdict == (None if broken else "agrees")


def test_numbers_of_threads_are_no_other_device(make_evidence):
    ours = [make_evidence(seed=s, device="x86_64 CPU, 1 threads") for s in range(3)]
    theirs = [make_evidence(seed=s, device="x86_64 CPU, 2 threads") for s in range(3)]
    assert ablation(ours, theirs).gain_n == 3


def test_gains_on_stand_ins_of_old_code_or_not_printed_have_no_verdict(runs):
    ours, base = (91.0, 91.1, 90.9), (90.0, 90.0, 90.0)
    stand_in = {"profile": "embedded", "dataset": {"name": "digits", "train_examples": 100, "test_examples": 20}}
    frame = ablations(runs(*base, code=OLD), ours=runs(*ours, code=OLD))
    assert (frame.gain_n["ours"], frame.gain_verdict["ours"]) == (3, None)
    assert ablations(runs(*base, **stand_in), ours=runs(*ours, **stand_in)).gain_verdict["ours"] is None


def test_no_paper_value_no_delta_and_only_partial(runs):
    row = own_row(runs(90.0, 90.0, 90.0), paper=None)
    assert (row.status, row.ours_mean) == ("partial", 90.0)
    assert pd.isna(row.delta)


def test_what_a_row_changes_in_its_recipe_is_said():
    claim = Claim("a", "d", "m", "own", "n", 4, 1.0, None, "dspike/a", "", {"norm": None, "model": {"time_steps": 2}})
    assert view.made_by(claim) == "dspike/a with norm = null, model.time_steps = 2"
