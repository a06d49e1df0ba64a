"""What the claims say is what the papers print, and a table typed wrongly is refused in one sentence."""

import csv
import dataclasses
import datetime
import functools
import re
from pathlib import Path

import pytest
import yaml

from jellyplus._errors import InputError
from jellyplus._options import PROFILES
from jellyplus.reproduction import tables, view
from jellyplus.reproduction.claims import load_claims
from jellyplus.reproduction.measurements import Measurements
from jellyplus.reproduction.runner import Runner
from jellyplus.reproduction.store import Store
from jellyplus.training.recipe_files import load_run

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "reproductions" / "claims"
TABLES = {path.stem: path for path in sorted(CLAIMS.glob("table*.yaml"))}
TABLE_2 = CLAIMS / "table2_dspike.yaml"
PRINTED = Path(__file__).with_name("paper_tables.csv")  # the cells, and of other numbers what the notes say
PAPERS = {"tdBN": "tdbn", "Dspike": "dspike", "IM-Loss": "imloss", "InfLoR": "inflor", "Shortcut": "shortcut"}
NUMBERS = {"tdbn": range(1, 7), "dspike": range(1, 6), "imloss": range(1, 3), "inflor": range(1, 6)} | {
    "shortcut": range(1, 5)
}


def test_every_table_of_the_five_papers_has_its_claims_and_its_script():
    expected = {f"table{number}_{paper}" for paper, numbers in NUMBERS.items() for number in numbers}
    assert TABLES.keys() == expected
    assert {path.stem for path in (ROOT / "reproductions").glob("table*.py")} == expected


def cells():
    with PRINTED.open(newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def printed():
    tables = {}
    for row in (row for row in cells() if row["table"][0].isdigit()):
        tables.setdefault(f"table{row['table'][0]}_{PAPERS[row['paper']]}", []).append(row)
    return tables


@pytest.mark.parametrize("name", TABLES)
def test_every_printed_accuracy_is_a_claim_and_every_claimed_one_is_printed(name):
    """In the paper's order, with data set, network, time-steps and deviation; what is no accuracy has tests below."""

    def number(text):
        return float(text) if text not in ("", "?") else None

    expected = [
        (
            row["dataset"],
            row["architecture"].partition(" (")[0],  # without a description of ours
            None if row["kind"] == "ann" else number(row["timesteps"]),  # of an ANN some print 1 and some nothing
            float(row["accuracy"]),
            number(row["std"]),
        )
        for row in printed().get(name, [])
        if row["accuracy"]
    ]
    typed = [
        (
            row.dataset,
            row.architecture.replace(" (large)", "(large)"),
            None if row.kind == "ann" else row.timesteps,
            row.paper,
            row.paper_std,
        )
        for row in accuracies(name)
    ]
    assert typed == expected
    kinds = [row["kind"] for row in printed().get(name, []) if row["accuracy"]]
    assert kinds == [row.kind for row in accuracies(name)]


IN_TEXT = "printed in the text of"  # begins the note of a row that is not in the printed table


def accuracies(name, in_text=False):
    rows = [row for row in load_claims(TABLES[name]).rows if row.quantity == "accuracy" and row.paper is not None]
    return [row for row in rows if row.note.startswith(IN_TEXT) == in_text]


def test_every_accuracy_that_only_the_text_prints_is_a_claim():
    expected = [
        (PAPERS[row["paper"]], row["dataset"], row["architecture"], row["kind"], row["timesteps"], row["accuracy"])
        for row in cells()
        if row["table"].startswith("text")
    ]
    typed = [
        (name.partition("_")[2], row.dataset, row.architecture, row.kind, str(row.timesteps), f"{row.paper:.2f}")
        for name in TABLES
        for row in accuracies(name, in_text=True)
    ]
    assert typed == expected
    assert expected


def test_t_2_is_there_with_and_without_time_inheritance():
    """Section 5.2: 300 epochs in place of 50, as the first round; both print 93.13."""
    rows = [row for row in load_claims(TABLE_2).rows if row.id.startswith("cifar10-t2")]
    assert [row.paper for row in rows] == [93.13, 93.13]
    inherited, alone = (load_run(row.recipe, "paper", ROOT / "recipes") for row in rows)
    first = load_run("dspike/cifar10_t6", "paper", ROOT / "recipes")
    assert (inherited.recipe.schedule.epochs, alone.recipe.schedule.epochs) == (50, 300)
    assert (inherited.parent.name, alone.parent) == ("dspike/cifar10_t4", first.parent)
    at_t_2 = dataclasses.replace(first.recipe, model=dataclasses.replace(first.recipe.model, time_steps=2))
    assert alone.recipe == at_t_2


@pytest.mark.parametrize(
    ("name", "pattern", "quantities"),
    [
        ("table6_tdbn", r"add (\S+) mult (\S+);?", ("additions", "multiplications", "macs")),
        ("table3_inflor", r"quantization error (\S+)", ("quantisation_error_before", "quantisation_error_after")),
    ],
)
def test_every_other_printed_number_is_a_claim(name, pattern, quantities):
    expected = [
        float(number.rstrip(";")) for row in printed()[name] for number in re.search(pattern, row["notes"]).groups()
    ]
    assert [row.paper for row in load_claims(TABLES[name]).rows if row.quantity in quantities] == expected


@pytest.mark.parametrize("name", TABLES)
def test_every_row_that_trains_has_a_run_of_public_code_where_there_is_some(name):
    table = load_claims(TABLES[name])
    trained = {row.id for row in table.rows if row.trained}
    offered = tables.offers(table, "official", ROOT / "recipes")
    assert offered == (name.endswith(("_imloss", "_inflor")) or not trained)
    if offered:
        made = tables.runs(table, "official", ROOT / "recipes")
        assert made.keys() == trained
        assert all(run.profile == "official" for run in made.values())


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("profile", [profile for profile in PROFILES if profile != "official"])
def test_every_row_that_trains_has_a_run_in_every_profile(name, profile):
    table = load_claims(TABLES[name])
    made = tables.runs(table, profile, ROOT / "recipes")
    assert made.keys() == {row.id for row in table.rows if row.kind != "reported" and row.measures.source == "run"}
    for row in table.rows:
        if row.trained and row.timesteps and not (profile in ("smoke", "embedded") and "DVS" in row.dataset):
            assert made[row.id].recipe.model.time_steps == row.timesteps, row.id


def test_what_takes_no_training_comes_out_exact(tmp_path):
    """The printed numbers, recomputed; two places of tdBN's table and one of Dspike's are cut off, not rounded."""
    for name in ("table4_tdbn", "table5_tdbn", "table6_tdbn", "table3_dspike"):
        table = load_claims(TABLES[name])
        made = tables.runs(table, "embedded", ROOT / "recipes")
        measurements = Measurements(Runner(Store(tmp_path), None, "cpu"))
        frame = view.build(table, tables.results(table, made, measurements, ROOT / "recipes"), "embedded")
        untrained = frame[[row.measures.source != "run" for row in table.rows]]
        assert (
            untrained.groupby("status").size().to_dict()
            == {
                "table4_tdbn": {"consistent": 2, "reproduced": 8},  # "average pool/2" is ambiguous
                "table5_tdbn": {"consistent": 5},  # recipes have their batch sizes from there
                "table6_tdbn": {"reproduced": 4},
                "table3_dspike": {"consistent": 5, "reproduced": 4},  # energies of the printed operations
            }[name]
        )


def test_operations_are_counted_as_the_table_s_paper_counts_them():
    for name, convention in (("table3_dspike", "dspike"), ("table6_tdbn", "tdbn")):
        counted = [row for row in load_claims(TABLES[name]).rows if row.counted]
        assert {row.convention for row in counted} == {convention}
        assert {row.quantity for row in counted} == {"additions", "multiplications"}
    tables_with_counts = [name for name, path in TABLES.items() if any(row.counted for row in load_claims(path).rows)]
    assert tables_with_counts == ["table3_dspike", "table6_tdbn"]


def test_table_2_names_rows_recipes_and_examples():
    table = load_claims(TABLE_2)
    assert {row.id: row.recipe for row in table.rows if row.kind == "own"} == {
        "cifar10-t6": "dspike/cifar10_t6",
        "cifar10-t4": "dspike/cifar10_t4",
        "cifar10-t2": "dspike/cifar10_t2",
        "cifar100-t6": "dspike/cifar100_t6",
        "cifar100-t4": "dspike/cifar100_t4",
        "cifar100-t2": "dspike/cifar100_t2",
        "cifar10dvs-t10": "dspike/cifar10dvs_t10",
    }
    examples = {name: (split.train_examples, split.test_examples) for name, split in table.datasets.items()}
    assert examples == {"CIFAR-10": (50000, 10000), "CIFAR-100": (50000, 10000), "CIFAR10-DVS": (9000, 1000)}
    assert table.paper == "dspike"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t["rows"].append(dict(t["rows"][9])), "2 rows have the id 'cifar10-t6'; give each its own"),
        (
            lambda t: t["rows"][9].update(recipe=None),
            "rows[9]: row 'cifar10-t6' is own; give a recipe to own, ablation and",
        ),
        (lambda t: t["rows"][0].update(recipe="dspike/a"), "rows[0]: row 'cifar10-spikenorm' is reported; give"),
        (lambda t: t["rows"][0].update(dataset="CIFAR"), "row 'cifar10-spikenorm' has the unknown dataset 'CIFAR'"),
        (lambda t: t["rows"][0].update(papers=3), "unknown key 'rows[0].papers'"),
        (
            lambda t: t["rows"][0].update(paper_std="0.1"),
            "key 'rows[0].paper_std' is '0.1'; it must be a finite number",
        ),
        (
            lambda t: t["rows"][0].update(kind="best"),
            "key 'rows[0].kind' is 'best'; it must be one of 'own', 'ablation'",
        ),
        (
            lambda t: t["rows"][0].update(quantity="speed"),
            "row 'cifar10-spikenorm' has the quantity speed; choose from",
        ),
        (lambda t: t["rows"][9].update(baseline="none"), "row 'cifar10-t6' names none; name rows of this table"),
        (
            lambda t: t["rows"][9].update(operands=["a", "b"]),
            "row 'cifar10-t6' must have two operands where it follows",
        ),
        (lambda t: t["rows"][9].update(timesteps=0), "row 'cifar10-t6' has 0 time-steps; give a positive number"),
        (
            lambda t: t["rows"][9].update(quantity="additions"),
            "row 'cifar10-t6' counts operations by the convention None; name one of default, dspike, tdbn",
        ),
        (
            lambda t: t["rows"][9].update(quantity="energy_uj", convention="diet"),
            "row 'cifar10-t6' counts operations by the convention diet; name one of",
        ),
        (
            lambda t: t["rows"][9].update(readings=["94"]),
            "row 'cifar10-t6' has readings and prints a number; they are for ambiguous texts",
        ),
        (
            lambda t: t["rows"][9].update(convention="dspike"),
            "row 'cifar10-t6' names a convention and counts no operations of a run; leave it out",
        ),
        (lambda t: t["rows"][0].update(deviates="so"), "row 'cifar10-spikenorm' has no recipe that could deviate"),
        (lambda t: t["rows"][9].update(settings={"a": 1}), "row 'cifar10-t6' has settings and nothing is measured"),
        (
            lambda t: t["rows"][9].update(quantity="quantisation_error_after", settings={"second_block": "last"}),
            "settings of row 'cifar10-t6': key 'second_block' is 'last'; it must be one of 'residual', 'stage'",
        ),
        (lambda t: t["rows"][9].update(paper="=1+1"), "row 'cifar10-t6' has paper '=1+1'; accuracy is a number"),
        (lambda t: t["rows"][9].update(paper=1.0, quantity="layers"), "has paper 1.0; layers is a text"),
        (lambda t: t["rows"][9].update(paper=1e300), "row 'cifar10-t6' has paper 1e+300; give what is printed"),
        (lambda t: t["rows"][9].update(paper=-3.0), "row 'cifar10-t6' has paper -3.0; give what is printed"),
        (lambda t: t["rows"][9].update(paper=float("nan")), "key 'rows[9].paper' is nan"),
        (lambda t: t["rows"][9].update(paper=10**400), "key 'rows[9].paper' is 1000"),
        (lambda t: t["rows"][9].update(paper=datetime.date(2024, 1, 1)), "key 'rows[9].paper' is datetime.date(2024"),
        (lambda t: t["rows"][9].update(paper_std=-0.1), "row 'cifar10-t6' has paper_std -0.1; give what is printed"),
        (lambda t: t["rows"][9].update(resolution=0.0), "row 'cifar10-t6' has resolution 0.0; give what is printed"),
        (
            lambda t: (
                t["rows"][9].update(baseline=t["rows"][8]["id"]),
                t["rows"][8].update(paper="text", quantity="layers"),
            ),
            "row 'cifar10-t6' is computed from a text; name rows that print numbers",
        ),
        (
            lambda t: (
                t["rows"][9].update(
                    kind="own", recipe=None, quantity="energy_of_counts", operands=[t["rows"][8]["id"]] * 2
                ),
                t["rows"][8].update(paper=None),
            ),
            "row 'cifar10-t6' follows from a value that is lost; name rows that have one",
        ),
        (lambda t: t["rows"][0].pop("note"), "key 'rows[0].note' is missing"),
        (lambda t: t.pop("printed_in"), "key 'printed_in' is missing"),
        (lambda t: t["datasets"]["CIFAR-10"].pop("test_examples"), "key 'datasets.CIFAR-10.test_examples' is missing"),
    ],
)
def test_refused_by_file_and_key(tmp_path, spoil, message):
    content = yaml.safe_load(TABLE_2.read_text())
    spoil(content)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_claims(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_rows_of_recipes_that_are_not_the_papers_say_so():
    """Dspike names Diet-SNN's VGG-16, which has dropout; a recipe that stands for no run of a paper makes no row."""
    rows = {(name, row.id): row for name, path in TABLES.items() for row in load_claims(path).rows}
    assert {key for key, row in rows.items() if row.deviates} == {("table4_dspike", "vgg16")}
    texts = {row.recipe: (ROOT / f"recipes/{row.recipe}.yaml").read_text() for row in rows.values() if row.recipe}
    assert [name for name, text in texts.items() if "No run of the paper" in text] == []
    assert [name for name, text in texts.items() if "not Diet-SNN's" in text] == ["dspike/imagenet_vgg16_t5"]
