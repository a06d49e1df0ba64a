"""What the claims say is what the papers print, and a table typed wrongly is refused in one sentence."""

import csv
import re
from pathlib import Path

import pytest
import yaml

from jellyplus._errors import InputError
from jellyplus.reproduction.claims import load_claims

ROOT = Path(__file__).parents[2]
TABLE_2 = ROOT / "reproductions" / "claims" / "table2_dspike.yaml"
PRINTED = ROOT.parent / "shared" / "paper_tables.csv"


@pytest.mark.skipif(not PRINTED.exists(), reason=f"the printed cells are not beside this checkout: {PRINTED}")
def test_table_2_is_what_the_paper_prints():
    with PRINTED.open(newline="") as file:
        printed = [row for row in csv.DictReader(file) if (row["paper"], row["table"]) == ("Dspike", "2")]
    expected = [
        (
            re.sub(r" \[\d+\]$", "", row["row_label"]),
            row["kind"],
            row["dataset"],
            row["architecture"],
            int(row["timesteps"]),
            float(row["accuracy"]),
            float(row["std"]) if row["std"] else None,
        )
        for row in printed
    ]
    typed = [
        (row.method, row.kind, row.dataset, row.architecture, row.timesteps, row.paper, row.paper_std)
        for row in load_claims(TABLE_2).rows
    ]
    assert typed == expected
    assert len(typed) == 20


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
        (lambda t: t["rows"][9].update(recipe=None), "rows[9]: row 'cifar10-t6' is own; give a recipe to own rows"),
        (lambda t: t["rows"][0].update(recipe="dspike/a"), "rows[0]: row 'cifar10-spikenorm' is reported; give"),
        (lambda t: t["rows"][0].update(dataset="CIFAR"), "row 'cifar10-spikenorm' has the unknown dataset 'CIFAR'"),
        (lambda t: t["rows"][0].update(papers=3), "unknown key 'rows[0].papers'"),
        (lambda t: t["rows"][0].update(paper="91.55"), "key 'rows[0].paper' is '91.55'; it must be a finite number"),
        (lambda t: t["rows"][0].update(kind="ann"), "key 'rows[0].kind' is 'ann'; it must be one of 'own', 'reported'"),
        (lambda t: t["rows"][0].pop("note"), "key 'rows[0].note' is missing"),
        (lambda t: t.pop("metric"), "key 'metric' is missing"),
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
