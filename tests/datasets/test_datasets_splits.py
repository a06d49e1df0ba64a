"""The splits of CIFAR10-DVS against SpikingJelly's and against their definitions."""

import json
from pathlib import Path

import pytest
import spikingjelly.datasets as sj
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.datasets import DatasetFolder

from jellyplus._errors import InputError
from jellyplus.datasets.settings import EventSettings
from jellyplus.datasets.splits import in_file_order, manifest, split_class


def of(split, split_seed=None):
    return EventSettings(split, split_seed, "number", None, None, 48, "events", "counts")


def names(n, name="cat"):
    return [f"{name}/cifar10_{name}_{number}" for number in range(n)]


@pytest.mark.parametrize("n", [2, 10, 113])
def test_sj90_is_spikingjellys(tmp_path, n):
    for name in ("bird", "cat"):
        for recording in names(n, name):
            file = tmp_path / f"{recording}.npz"
            file.parent.mkdir(exist_ok=True)
            file.touch()
    folder = DatasetFolder(tmp_path, loader=str, extensions=(".npz",))
    theirs = [
        [str(Path(folder.samples[index][0]).relative_to(tmp_path).with_suffix("")) for index in side.indices]
        for side in sj.split_to_train_test_set(0.9, folder, 2)
    ]
    if n < 10:  # ceil(2 * 0.9) is 2
        with pytest.raises(InputError, match="no test recording of class 0, which has 2"):
            split_class(names(n, "bird"), 0, of("sj90"))
        return
    ours = [split_class(reversed(names(n, name)), label, of("sj90")) for label, name in enumerate(("bird", "cat"))]
    assert [bird + cat for bird, cat in zip(*ours, strict=True)] == theirs


def test_sj90_of_the_whole_data_set_takes_9000_and_its_test_set_is_not_the_last_100():
    train, test = split_class(names(1000), 3, of("sj90"))
    assert (len(train), len(test)) == (900, 100)
    numbers = {int(name.rsplit("_", 1)[1]) for name in test}
    assert numbers == {99, *range(990, 1000), *range(910, 990), *range(91, 99), 909}  # the last 100 strings


def test_first900_goes_by_number():
    train, test = split_class(names(1000), 0, of("first900"))
    assert set(train) == set(names(900))
    assert set(test) == set(names(1000)) - set(names(900))
    assert train == sorted(train)
    few = ["cat/cifar10_cat_3", "cat/cifar10_cat_899", "cat/cifar10_cat_900", "cat/cifar10_cat_007"]
    assert split_class(few, 0, of("first900"))[1] == ["cat/cifar10_cat_900"]


def test_random_follows_from_seed_and_class_alone():
    first = split_class(names(100), 3, of("random", 7))
    assert (len(first[0]), len(first[1])) == (90, 10)
    assert split_class(names(100)[::-1], 3, of("random", 7)) == first
    others = [split_class(names(100), label, of("random", seed))[1] for label, seed in ((4, 7), (3, 8), (5, 9))]
    assert len({*map(tuple, others), tuple(first[1])}) == 4


@settings(max_examples=40)
@given(st.integers(10, 60), st.integers(0, 2**40))
def test_every_recording_is_on_one_side(n, seed):
    for chosen in (of("sj90"), of("random", seed)):
        train, test = split_class(names(n), 0, chosen)
        assert sorted(train + test) == sorted(names(n))
        assert len(test) == n // 10


@pytest.mark.parametrize(
    ("given", "split", "reason"),
    [
        (names(100), of("first900"), "no test recording of class 2, which has 100"),
        (["cat/cifar10_cat_900"], of("first900"), "no training recording"),
        (names(1), of("random", 0), "no test recording"),
        (["cat/a"], of("first900"), "recording cat/a does not end in a number"),
    ],
)
def test_refusals(given, split, reason):
    with pytest.raises(InputError, match=reason):
        split_class(given, 2, split)


def test_file_order_counts_the_suffix():
    assert in_file_order(["a_1-2", "a_10", "a_1", "a_2"]) == ["a_1-2", "a_1", "a_10", "a_2"]


def test_manifest_is_json():
    record = manifest(["a"], ["b"], of("random", 3))
    assert json.loads(json.dumps(record)) == {"split": "random", "split_seed": 3, "train": ["a"], "test": ["b"]}
