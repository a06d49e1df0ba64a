"""A batch at once against its examples one by one, whose transforms are torchvision's."""

import itertools

import pytest
import torch
from test_datasets_transforms import EVENTS, IMAGES, build, data_set
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from jellyplus.datasets.base import Split
from jellyplus.datasets.batched import augmented
from jellyplus.datasets.order import AugmentedSplit, Batch, EpochOrder, EvaluationSplit, collate
from jellyplus.datasets.transforms import normalisation

LARGE = data_set("images", 3, 32, 32)
CASES = [
    (IMAGES, [], {}),
    (IMAGES, ["crop"], {}),
    (IMAGES, ["crop"], {"crop_padding": 0}),
    (IMAGES, ["crop"], {"crop_padding": 4}),
    (IMAGES, ["flip"], {}),
    (IMAGES, ["crop", "flip"], {}),
    (IMAGES, ["flip", "crop", "flip"], {}),
    (IMAGES, ["cutout", "crop"], {"cutout_size": 4}),
    (IMAGES, ["cutout"], {"cutout_size": 1}),
    (IMAGES, ["cutout"], {"cutout_size": 16}),  # all of it
    (IMAGES, ["cutout"], {"cutout_size": 0}),
    (IMAGES, ["crop", "cutout"], {"cutout_before_normalisation": True}),
    (EVENTS, ["crop", "flip", "roll", "cutout"], {}),
    (EVENTS, ["roll", "crop"], {"roll_pixels": 0}),
    (LARGE, ["crop", "flip", "autoaugment", "cutout"], {"crop_padding": 4, "cutout_size": 16}),
    (LARGE, ["autoaugment", "crop"], {"autoaugment_fill": 128, "autoaugment_interpolation": "bicubic"}),
]


def batch_of(data, names, how, keys, seed=3):
    """What one by one and at once give for these keys."""
    split = AugmentedSplit(data.train, build(names, data, **how), seed)
    return collate([split[key] for key in keys], skip_unreadable=False), split.__getitems__(keys)


@pytest.mark.parametrize(("data", "names", "how"), CASES)
def test_a_batch_has_the_bits_of_its_examples(data, names, how):
    keys = list(itertools.product(range(12), range(4)))
    one_by_one, at_once = batch_of(data, names, how, keys)
    assert isinstance(at_once, Batch)
    assert at_once.inputs.dtype == torch.float32
    assert torch.equal(at_once.inputs, one_by_one.inputs)
    assert torch.equal(at_once.labels, one_by_one.labels)
    assert torch.equal(at_once.indices, one_by_one.indices)


@pytest.mark.parametrize("how", [{"fill": 128}, {"padding_mode": "reflect"}, {"padding_mode": "edge"}])
def test_a_crop_pads_as_it_says(how):
    """Ours pad with zeros; a Compose of somebody's own may not."""
    compose = v2.Compose([v2.RandomCrop((6, 5), padding=(2, 1), **how), v2.ToDtype(torch.float32)])
    split, keys = AugmentedSplit(IMAGES.train, compose, 0), list(itertools.product(range(6), range(4)))
    assert torch.equal(split.__getitems__(keys).inputs, torch.stack([split[key][0] for key in keys]))


def test_frames_that_are_floats_stay_what_they_are():
    floats = Split(EVENTS.train.inputs / 3, EVENTS.train.labels)
    split = AugmentedSplit(floats, build(["flip", "roll"], EVENTS), 0)
    one_by_one = torch.stack([split[0, index][0] for index in range(4)])
    assert torch.equal(split.__getitems__([(0, index) for index in range(4)]).inputs, one_by_one)


def test_neither_the_examples_nor_the_generator_change():
    before, state = LARGE.train.inputs.clone(), torch.get_rng_state()
    batch_of(LARGE, ["crop", "flip", "autoaugment", "cutout"], {}, [(0, 0), (0, 1)])
    assert torch.equal(LARGE.train.inputs, before)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = augmented(build(["cutout"], IMAGES).transforms[-1:], ones := torch.ones(2, 3, 6, 5), [0, 1])
    assert (ones == 1).all()
    assert (drawn == 0).any()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_asks_for_the_batch(monkeypatch, workers):
    monkeypatch.setattr(AugmentedSplit, "__getitem__", None)
    split = AugmentedSplit(IMAGES.train, build(["crop"], IMAGES), 0)
    batches = list(DataLoader(split, 2, sampler=EpochOrder(4, 0), collate_fn=lambda made: made, num_workers=workers))
    assert [len(labels) for _, labels, _ in batches] == [2, 2]


def test_evaluation_at_once_has_the_bits_of_its_examples():
    split = EvaluationSplit(IMAGES.test, normalisation(IMAGES))
    expected = collate([split[index] for index in (2, 0)], skip_unreadable=False)
    for made, wanted in zip(split.__getitems__([2, 0]), expected, strict=True):
        assert torch.equal(made, wanted)
