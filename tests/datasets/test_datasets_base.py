"""Some examples of a data set are a data set of their own: evenly over classes, the same from every layout."""

import dataclasses

import pytest
import torch
from torch import Generator

from jellyplus import datasets
from jellyplus._errors import InputError
from jellyplus.datasets import Split


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def listed_otherwise(data, order):
    """The same examples in another order: a random one, or by class, as image folders have them."""

    def reordered(split):
        indices = split.labels.argsort() if order is None else torch.randperm(len(split), generator=order)
        return split.at(indices)

    return dataclasses.replace(data, train=reordered(data.train), test=reordered(data.test))


def pixels(*rows):
    return torch.tensor(rows, dtype=torch.uint8)[:, None, None]


def shown(split):
    return [
        (*inputs.flatten().tolist(), label) for inputs, label in zip(split.inputs, split.labels.tolist(), strict=True)
    ]


def test_some_examples_of_each_split(digits):
    few = dataclasses.replace(digits, manifest={"split": "random"}).first(34)
    for name in ("train", "test"):
        split, whole = getattr(few, name), set(shown(getattr(digits, name)))
        assert set(shown(split)) <= whole
        assert len(set(shown(split))) == 34
        assert sorted(split.labels.bincount().tolist()) == [3] * 6 + [4] * 4
    assert (few.name, few.mean, few.manifest) == (digits.name, digits.mean, None)
    assert few.counts()["train"] == {"examples": 34, "per_class_min": 3, "per_class_max": 4}
    assert few.fingerprint != digits.fingerprint


@pytest.mark.parametrize("name", ["digits", "digit_pairs", "moving_digits"])
def test_they_are_the_same_whatever_the_order_on_disk(name):
    data = datasets.load(name)
    for order in (None, Generator().manual_seed(0), Generator().manual_seed(1)):
        other = listed_otherwise(data, order)
        assert other.fingerprint != data.fingerprint
        assert other.first(130).fingerprint == data.first(130).fingerprint


def test_duplicates_and_examples_of_two_labels_do_not_depend_on_the_order_either():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randint(3, (60, 1, 1, 2), generator=draw).to(torch.uint8)  # 9 images, each many times, in 4 classes
    split = Split(inputs, torch.randint(4, (60,), generator=draw))
    for examples in range(4, 60):
        found = {
            tuple(shown(other.at(other.drawn(examples, 7))))
            for other in (split.at(torch.randperm(60, generator=draw)) for _ in range(4))
        }
        assert len(found) == 1


def test_a_small_class_gives_all_it_has_and_the_others_share_the_rest():
    split = Split(pixels(*([i] for i in range(12))), torch.tensor([0] * 8 + [1] * 3 + [2]))
    assert split.labels[split.drawn(9, 0)].bincount().tolist() == [5, 3, 1]


def test_fewer_are_the_beginning_of_more_and_seeds_differ(digits):
    more = digits.test.drawn(100, 3)
    assert digits.test.drawn(40, 3).tolist() == more[:40].tolist()
    for start in range(0, 100, 10):
        assert sorted(digits.test.labels[more[start : start + 10]].tolist()) == list(range(10))
    assert set(digits.test.drawn(100, 4).tolist()) != set(more.tolist())
    assert digits.first(50).fingerprint == digits.first(50, seed=0).fingerprint != digits.first(50, seed=1).fingerprint


def test_no_class_is_favoured_by_its_number_when_not_all_get_one_more(digits):
    extra = [digits.test.labels[digits.test.drawn(11, seed)[10:]].item() for seed in range(40)]
    assert len(set(extra)) >= 8


def test_the_draw_is_the_same_on_every_machine():
    split = Split(pixels(*([i, 2 * i] for i in range(20))), torch.arange(20) % 2)
    assert split.drawn(8, 0).tolist() == [13, 2, 11, 12, 0, 19, 8, 9]  # evidence hangs on it


def test_more_examples_than_there_are_is_all_of_them(digits):
    assert digits.first(10**6).fingerprint == digits.fingerprint


@pytest.mark.parametrize(("name", "examples"), [("digits", 9), ("digit_pairs", 32)])
def test_fewer_examples_than_classes_are_refused(name, examples):
    classes = {"digits": 10, "digit_pairs": 100}[name]
    with pytest.raises(
        InputError, match=rf"data\.examples is {examples} and {name} has {classes} classes: state as many"
    ):
        datasets.load(name).first(examples)
    assert datasets.load(name).first(classes).counts()["test"]["per_class_min"] == 1


class Files:
    names = tuple(b"class%d/%d.png" % (i % 2, i) for i in range(8))
    shape = (8, 3, 8, 8)


def test_files_are_drawn_by_name():
    split = Split(Files(), torch.arange(8) % 2)
    assert (split.drawn(4, 0) % 2).bincount().tolist() == [2, 2]
    assert split.drawn(4, 0).tolist() != split.drawn(4, 1).tolist()


def test_a_data_set_in_files_has_no_subset(digits):
    listed = dataclasses.replace(digits, train=Split(Files(), torch.zeros(8)))
    with pytest.raises(InputError, match=r"data\.examples is for data sets in memory, and digits is read from files"):
        listed.first(10)


def test_what_is_held_out_takes_the_place_of_the_test_split_and_is_not_trained_with(digits):
    held = digits.held_out(200)
    assert (len(held.train), len(held.test)) == (len(digits.train) - 200, 200)
    assert held.counts()["test"]["per_class_min"] == 20
    train, test, whole = (sorted(shown(split)) for split in (held.train, held.test, digits.train))
    assert sorted(train + test) == whole
    assert held.fingerprint != digits.fingerprint
    assert digits.held_out(200).fingerprint == held.fingerprint


def test_what_trains_beside_a_validation_split_lies_as_before(digits):
    left = shown(digits.held_out(100).train)
    positions = iter(shown(digits.train))
    assert all(example in positions for example in left)  # a subsequence


@pytest.mark.parametrize(("examples", "reason"), [(9, "classes: state as many or more"), (10**6, "state fewer")])
def test_too_few_or_too_many_to_hold_out_are_refused(digits, examples, reason):
    with pytest.raises(InputError, match=rf"data\.validation is {examples} and digits has .*{reason}"):
        digits.held_out(examples)
