import itertools
import pickle
from collections import Counter

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from jellyplus._errors import InputError
from jellyplus.datasets.base import DataSet, Split
from jellyplus.datasets.transforms import Cutout, Roll, augmentation, normalisation


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def data_set(kind, *shape):
    inputs = torch.randint(0, 256, (4, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(inputs, torch.zeros(4, dtype=torch.int64))
    channels = shape[-3]
    mean, std = tuple(0.1 + 0.1 * i for i in range(channels)), tuple(0.2 + 0.1 * i for i in range(channels))
    return DataSet("toy", 1, split, split, kind, True, mean, std, "")


def build(names, data, crop_padding=1, cutout_size=3, roll_pixels=2, **how):
    return augmentation(names, data, crop_padding, cutout_size, roll_pixels, **how)


IMAGES = data_set("images", 3, 6, 5)
EVENTS = data_set("events", 4, 2, 6, 5)


def test_normalisation_by_hand():
    data = DataSet("toy", 1, IMAGES.train, IMAGES.test, "images", True, (0.5, 0.25, 0.0), (0.5, 0.125, 2.0), "")
    pixels = torch.tensor([255, 0, 51], dtype=torch.uint8).reshape(3, 1, 1)
    # (1 - 0.5) / 0.5, (0 - 0.25) / 0.125, (0.2 - 0) / 2
    expected = torch.tensor([1.0, -2.0, 0.1])
    assert torch.allclose(normalisation(data)(pixels).flatten(), expected)
    batch = normalisation(data)(pixels.expand(7, 3, 1, 1))
    assert batch.shape == (7, 3, 1, 1)
    assert torch.allclose(batch[6].flatten(), expected)


def test_event_counts_stay_what_they_are():
    frames = EVENTS.train.inputs[0]
    made = normalisation(EVENTS)(frames)
    assert made.dtype == torch.float32
    assert made.tolist() == frames.tolist()


@pytest.mark.parametrize("data", [IMAGES, EVENTS])
def test_crop_draws_every_window(data):
    example = data.train.inputs[0]
    padded = torch.zeros(*example.shape[:-2], 8, 7, dtype=torch.uint8)
    padded[..., 1:7, 1:6] = example
    windows = {}
    for y, x in itertools.product(range(3), range(3)):
        windows[normalisation(data)(padded[..., y : y + 6, x : x + 5]).numpy().tobytes()] = (y, x)
    crop = build(["crop"], data)
    drawn = Counter(windows[crop(example).numpy().tobytes()] for _ in range(900))
    assert len(drawn) == 9
    assert all(50 < count < 150 for count in drawn.values())


def test_crop_without_padding_keeps_the_image():
    example = IMAGES.train.inputs[0]
    assert torch.equal(build(["crop"], IMAGES, crop_padding=0)(example), normalisation(IMAGES)(example))


@pytest.mark.parametrize("data", [IMAGES, EVENTS])
def test_flip_mirrors_half_of_the_time(data):
    example = data.train.inputs[0]
    plain = normalisation(data)(example)
    mirrored = torch.stack([plain[..., 4 - x] for x in range(5)], dim=-1)
    flip = build(["flip"], data)
    kinds = Counter()
    for _ in range(400):
        made = flip(example)
        kinds["plain" if torch.equal(made, plain) else "mirrored" if torch.equal(made, mirrored) else "other"] += 1
    assert kinds["other"] == 0
    assert 140 < kinds["mirrored"] < 260


def squares(height, width, size):
    """All masks that a square of that size leaves, by its centre."""
    masks = {}
    for cy, cx in itertools.product(range(height), range(width)):
        mask = torch.ones(height, width)
        for y, x in itertools.product(range(height), range(width)):
            if cy - size // 2 <= y < cy - size // 2 + size and cx - size // 2 <= x < cx - size // 2 + size:
                mask[y, x] = 0
        masks[cy, cx] = mask
    return masks


@pytest.mark.parametrize("size", [1, 2, 3, 4, 16])
def test_cutout_is_a_square_with_a_uniform_centre(size):
    masks = squares(6, 5, size)
    allowed = {mask.numpy().tobytes() for mask in masks.values()}
    cutout = Cutout(size)
    drawn = [cutout(torch.ones(2, 6, 5)) for _ in range(2000)]
    assert {mask[0].numpy().tobytes() for mask in drawn} == allowed
    assert all(torch.equal(mask[0], mask[1]) for mask in drawn)
    assert torch.allclose(torch.stack(drawn).mean((0, 1)), torch.stack(list(masks.values())).mean(0), atol=0.06)


def test_cutout_leaves_its_input():
    image = torch.ones(1, 6, 5)
    Cutout(3)(image)
    assert (image == 1).all()


@pytest.mark.parametrize("names", [["cutout"], ["cutout", "crop"], ["crop", "cutout"]])
def test_cutout_sets_the_mean_wherever_it_stands(names):
    example = torch.full((3, 6, 5), 200, dtype=torch.uint8)
    made = build(names, IMAGES, crop_padding=0)(example)
    plain = normalisation(IMAGES)(example)
    cut = made[0] == 0
    assert cut.any()
    assert not cut.all()
    assert torch.equal(made, torch.where(cut, 0.0, plain))


def test_cutout_before_normalisation_is_black():
    """(0 - mean) / std: -0.1 / 0.2, -0.2 / 0.3 and -0.3 / 0.4."""
    example = torch.full((3, 6, 5), 200, dtype=torch.uint8)
    made = build(["cutout", "crop"], IMAGES, crop_padding=0, cutout_before_normalisation=True)(example)
    black = torch.tensor([-0.5, -2 / 3, -0.75]).view(3, 1, 1)
    cut = (made - black).abs().amax(0) < 1e-6
    assert cut.any()
    assert not cut.all()
    assert torch.allclose(made, torch.where(cut, black, normalisation(IMAGES)(example)))


def test_roll_shifts_every_time_step_alike():
    frames = torch.arange(4 * 2 * 6 * 5).reshape(4, 2, 6, 5)
    rolled = {}
    for dy, dx in itertools.product(range(-2, 3), range(-2, 3)):
        expected = torch.empty_like(frames)
        for y, x in itertools.product(range(6), range(5)):
            expected[..., (y + dy) % 6, (x + dx) % 5] = frames[..., y, x]
        rolled[expected.numpy().tobytes()] = (dy, dx)
    roll = Roll(2)
    drawn = Counter(rolled[roll(frames).numpy().tobytes()] for _ in range(2500))
    assert len(drawn) == 25
    assert all(50 < count < 150 for count in drawn.values())


def test_autoaugment_draws_from_the_global_generator():
    names = ["crop", "flip", "autoaugment", "cutout"]
    data = data_set("images", 3, 32, 32)
    augment = pickle.loads(pickle.dumps(build(names, data, 4, 16)))
    example = data.train.inputs[0]

    def draw(seed):
        torch.manual_seed(seed)
        return augment(example)

    assert draw(0).dtype == torch.float32
    assert draw(0).shape == (3, 32, 32)
    assert torch.equal(draw(0), draw(0))
    assert len({draw(seed).numpy().tobytes() for seed in range(30)}) == 30


def test_autoaugment_changes_more_than_place():
    data = data_set("images", 3, 32, 32)
    augment, example = build(["autoaugment"], data), data.train.inputs[0]
    plain = normalisation(data)(example)
    assert sum(not torch.equal(augment(example), plain) for _ in range(40)) > 10
    assert augment(example).isfinite().all()


def shown_values(image, **how):
    """The sets of values that AutoAugment makes of an image, from 0 to 255, in 80 draws."""
    data = data_set("images", 3, 32, 32)
    augment = build(["autoaugment"], data, **how)
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (data.std, data.mean))
    found = []
    for seed in range(80):
        torch.manual_seed(seed)
        found.append(set(((augment(image) * std + mean) * 255).round().int().flatten().tolist()))
    return found


WHITE = torch.full((3, 32, 32), 255, dtype=torch.uint8)


def test_autoaugments_fill_is_what_is_seen_beyond_the_border():
    black, grey = shown_values(WHITE), shown_values(WHITE, autoaugment_fill=128)
    assert sum(values == {0, 255} for values in black) > 5  # moved, and nothing else
    assert sum(values == {128, 255} for values in grey) > 5
    assert not any(128 in values for values in black)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_autoaugment_interpolates_as_it_is_told(interpolation):
    """Black and white stripes, sheared, have greys between, unless the nearest pixel is picked."""
    stripes = WHITE * (torch.arange(32).view(32, 1) // 4 % 2).to(torch.uint8)
    nearest, told = (shown_values(stripes, autoaugment_interpolation=how) for how in ("nearest", interpolation))
    assert sum(len(values) > 8 for values in told) > sum(len(values) > 8 for values in nearest)


def test_bicubic_autoaugment_is_pils(monkeypatch):
    """And float tensors come out; with all else left out they are the image."""
    data, seen = data_set("images", 3, 32, 32), []
    monkeypatch.setattr(v2.AutoAugment, "forward", lambda self, image: seen.append((type(image), self.fill)) or image)
    augment = build(["autoaugment"], data, autoaugment_fill=128, autoaugment_interpolation="bicubic")
    example = data.train.inputs[0]
    assert torch.equal(augment(example), normalisation(data)(example))
    assert seen == [(Image.Image, 128)]


def test_the_given_order_is_kept():
    for names, kinds in (
        (["flip", "roll"], ["RandomHorizontalFlip", "Roll"]),
        (["roll", "crop"], ["Roll", "RandomCrop"]),
    ):
        assert [type(t).__name__ for t in build(names, EVENTS).transforms[:2]] == kinds


def test_no_augmentation_is_normalisation():
    example = IMAGES.train.inputs[0]
    assert torch.equal(build([], IMAGES)(example), normalisation(IMAGES)(example))


def test_unknown_name():
    with pytest.raises(InputError, match=r"'mixup'; choose from autoaugment, crop, cutout, flip, resized_crop, roll$"):
        build(["flip", "mixup"], IMAGES)


@pytest.mark.parametrize(("name", "data"), [("autoaugment", EVENTS), ("roll", IMAGES)])
def test_a_transform_that_does_not_fit(name, data):
    with pytest.raises(InputError, match=f"{name} does not fit the {data.kind} of toy"):
        build([name], data)


def test_a_resized_crop_is_for_images_of_many_sizes():
    with pytest.raises(InputError, match=r"toy, whose images have one size; leave resized_crop out$"):
        build(["resized_crop"], IMAGES)


@pytest.mark.parametrize("size", ["crop_padding", "cutout_size", "roll_pixels"])
def test_negative_sizes(size):
    with pytest.raises(InputError, match=f"{size} is -1"):
        build([], IMAGES, **{size: -1})
