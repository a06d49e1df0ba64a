"""The first examples of a data set are a data set of their own."""

import dataclasses

import pytest
import torch

from jellyplus import datasets
from jellyplus._errors import InputError


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def test_the_first_examples_of_each_split(digits):
    few = dataclasses.replace(digits, manifest={"split": "random"}).first(5)
    for name in ("train", "test"):
        split, whole = getattr(few, name), getattr(digits, name)
        assert len(split) == 5
        assert torch.equal(split.inputs, whole.inputs[:5])
        assert torch.equal(split.labels, whole.labels[:5])
    assert (few.name, few.mean, few.manifest) == (digits.name, digits.mean, None)
    assert few.counts()["train"]["examples"] == 5
    assert few.fingerprint != digits.fingerprint


def test_more_examples_than_there_are_is_all_of_them(digits):
    assert digits.first(10**6).fingerprint == digits.fingerprint


def test_files_have_no_first_ones(digits):
    class Files:
        shape = (2, 3, 8, 8)

    listed = dataclasses.replace(digits, train=datasets.Split(Files(), torch.zeros(2)))
    with pytest.raises(InputError, match=r"data\.examples is for data sets in memory, and digits is read from files"):
        listed.first(1)
