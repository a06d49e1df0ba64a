import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from jellyplus._errors import InputError
from jellyplus.datasets import EventSettings, embedded, load
from jellyplus.datasets.base import DataSet, Split

BUILDERS = [embedded.digits, embedded.digit_pairs, embedded.moving_digits]


def enlarge(image, axis):
    """Twice the size along one axis: each new pixel lies a quarter from its nearest old one, borders repeat."""
    image = np.moveaxis(image, axis, 0)
    rows = []
    for y in range(2 * len(image)):
        near = y // 2
        far = min(max(near + (1 if y % 2 else -1), 0), len(image) - 1)
        rows.append(0.75 * image[near] + 0.25 * image[far])
    return np.moveaxis(np.stack(rows), 0, axis)


def as_bytes(image):
    return np.round(image / 16 * 255).astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def scans():
    """All scans with their digits, and for each split the ids of the scans in it, found by content."""
    images, labels = load_digits(return_X_y=True)
    ids = {image.tobytes(): i for i, image in enumerate(images)}
    split = {}
    for name, (scan, label) in embedded._scans(0).items():
        split[name] = [ids[s.double().mul(16).numpy().tobytes()] for s in scan.flatten(1)]
        assert label.tolist() == labels[split[name]].tolist()
    return images.reshape(-1, 8, 8), labels, split


def test_scans_are_split_once_and_in_proportion(scans):
    _, labels, split = scans
    assert sorted(split["train"] + split["test"]) == list(range(1797))
    assert len(split["test"]) == 360
    share = np.bincount(labels[split["test"]]) - np.bincount(labels) * 360 / 1797
    assert abs(share).max() <= 1


def test_digits_are_the_enlarged_scans(scans):
    images, _, split = scans
    data = embedded.digits()
    for name in ("train", "test"):
        made = getattr(data, name).inputs
        assert made.shape == (len(split[name]), 3, 16, 16)
        expected = [as_bytes(enlarge(enlarge(images[i], 0), 1)) for i in split[name]]
        for channel in range(3):
            assert [image.tobytes() for image in made[:, channel].contiguous().numpy()] == expected


def test_pairs_join_two_scans_of_their_own_split(scans):
    images, labels, split = scans
    half = {name: {as_bytes(enlarge(images[i], 0)): labels[i] for i in split[name]} for name in split}
    assert not half["train"].keys() & half["test"].keys()
    data = embedded.digit_pairs()
    for name, per_class in (("train", 60), ("test", 10)):
        inputs, numbers = getattr(data, name).inputs, getattr(data, name).labels
        assert numbers.bincount().tolist() == [per_class] * 100
        pictures = inputs[:, 0].contiguous().numpy()
        digits = [[half[name][side.tobytes()] for side in (p[:, :8], p[:, 8:])] for p in pictures]
        assert [10 * left + right for left, right in digits] == numbers.tolist()
        assert len({p.tobytes() for p in pictures}) == len(pictures)
        assert torch.equal(inputs, inputs[:, :1].expand(-1, 3, -1, -1))


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize(("kept", "blanked"), [("train", "test"), ("test", "train")])
def test_no_scan_of_one_split_reaches_the_other(build, kept, blanked, monkeypatch):
    original = build()
    split = embedded._scans(0)
    split[blanked] = (torch.zeros_like(split[blanked][0]), split[blanked][1])
    monkeypatch.setattr(embedded, "_scans", lambda _: split)
    changed = build()
    assert torch.equal(getattr(changed, kept).inputs, getattr(original, kept).inputs)
    assert not torch.equal(getattr(changed, blanked).inputs, getattr(original, blanked).inputs)


@pytest.mark.parametrize("build", BUILDERS)
def test_the_seed_alone_decides(build):
    state = torch.get_rng_state()
    first = build(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again, other = build(seed=1), build(seed=2)
    for name in ("train", "test"):
        inputs = getattr(first, name).inputs
        assert inputs.dtype == torch.uint8
        assert torch.equal(inputs, getattr(again, name).inputs)
        assert not torch.equal(inputs, getattr(other, name).inputs)


@pytest.mark.parametrize("build", BUILDERS[:2])
def test_statistics_normalise_the_training_images(build):
    data = build()
    values = data.train.inputs.numpy().astype(np.float64) / 255
    for channel in range(3):
        assert data.mean[channel] == pytest.approx(values[:, channel].mean(), abs=1e-4)
        assert data.std[channel] == pytest.approx(values[:, channel].std(), abs=1e-4)


@pytest.mark.parametrize(("build", "accuracy"), list(zip(BUILDERS, [0.94, 0.85, 0.6], strict=True)))
def test_a_linear_classifier_learns_it(build, accuracy):
    data = build()
    x, x_test = (s.inputs.flatten(1).float().numpy() / s.inputs.max().item() for s in (data.train, data.test))
    classifier = LogisticRegression(max_iter=60)
    with pytest.warns(ConvergenceWarning):  # it need not be the best line
        classifier.fit(x, data.train.labels.numpy())
    assert classifier.score(x_test, data.test.labels.numpy()) > accuracy


def camera(log_intensity):
    """One pixel at a time, one event at a time."""
    n, steps, height, width = log_intensity.shape
    per_frame = embedded.STEPS_PER_FRAME
    counts = np.zeros((n, (steps - 1) // per_frame, 2, height, width), int)
    for i, y, x in np.ndindex(n, height, width):
        level = log_intensity[i, 0, y, x]
        for step in range(1, steps):
            seen = log_intensity[i, step, y, x]
            while seen - level >= embedded.CONTRAST_THRESHOLD:
                level += embedded.CONTRAST_THRESHOLD
                counts[i, (step - 1) // per_frame, 0, y, x] += 1
            while level - seen >= embedded.CONTRAST_THRESHOLD:
                level -= embedded.CONTRAST_THRESHOLD
                counts[i, (step - 1) // per_frame, 1, y, x] += 1
    return counts


def test_event_camera_against_the_slow_loop():
    # multiples of 1/8: every difference is exact, and many equal the threshold
    shape = (3, 1 + 5 * embedded.STEPS_PER_FRAME, 4, 5)
    log_intensity = torch.randint(-24, 25, shape, generator=torch.Generator().manual_seed(0)) / 8
    counts = embedded._events(log_intensity)
    assert counts.dtype == torch.uint8
    assert counts.tolist() == camera(log_intensity.double().numpy()).tolist()


def test_event_camera_by_hand(monkeypatch):
    monkeypatch.setattr(embedded, "STEPS_PER_FRAME", 2)
    # level 0; 0.5 is one ON (level 0.5), 0.25 nothing | 0 one OFF (level 0), -1.25 two OFF (level -1)
    seen = torch.tensor([0, 0.5, 0.25, 0, -1.25]).reshape(1, 5, 1, 1)
    assert embedded._events(seen).flatten().tolist() == [1, 0, 0, 3]


def test_digits_move_once_round_a_circle():
    scans = embedded._scans(0)["test"][0][:40]
    ink = (embedded._move(scans, torch.Generator().manual_seed(0)) - embedded.BACKGROUND) / (1 - embedded.BACKGROUND)
    assert torch.allclose(ink.sum((2, 3)), scans.sum((1, 2))[:, None].expand(ink.shape[:2]), rtol=1e-4)
    pixel = torch.arange(16.0)
    place = torch.stack([(ink.sum(2) * pixel).sum(2), (ink.sum(3) * pixel).sum(2)], dim=2) / ink.sum((2, 3))[..., None]
    centre = place[:, :-1].mean(1, keepdim=True)
    at_rest = torch.stack([(scans.sum(1) * pixel[4:12]).sum(1), (scans.sum(2) * pixel[4:12]).sum(1)], dim=1)
    assert torch.allclose(centre[:, 0], at_rest / scans.sum((1, 2))[:, None], atol=1e-3)
    assert torch.allclose((place - centre).norm(dim=2), torch.tensor(embedded.RADIUS), atol=1e-3)
    turned = torch.atan2(*(place - centre).flip(2).unbind(2)).diff(dim=1).remainder(2 * torch.pi)
    step = 2 * torch.pi / (embedded.TIME_STEPS * embedded.STEPS_PER_FRAME)
    right = (turned - step).abs().amax(1) < 1e-2
    left = (turned - (2 * torch.pi - step)).abs().amax(1) < 1e-2
    assert (right ^ left).all()
    assert 5 < right.sum() < 35


def test_streams_have_both_polarities_and_close():
    data = embedded.moving_digits()
    assert data.train.inputs.shape == (1437, 10, 2, 16, 16)
    assert (data.test.inputs.sum((3, 4)) > 0).all()
    on, off = data.test.inputs.long().sum(1).unbind(1)
    assert torch.equal(on, off)  # a pixel that sees again what it saw at first has come back event by event


def test_counts_by_hand():
    train = Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 2, 2, 0, 0]))
    test = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    data = DataSet("toy", 3, train, test, "images", True, (0.5,), (0.5,), "by hand")
    assert data.counts() == {
        "name": "toy",
        "kind": "images",
        "source": "by hand",
        "stand_in": True,
        "classes": 3,
        "train": {"examples": 5, "per_class_min": 0, "per_class_max": 3},
        "test": {"examples": 3, "per_class_min": 1, "per_class_max": 1},
    }


@pytest.mark.parametrize("build", BUILDERS)
def test_load_by_name(build):
    data = load(build.__name__)
    assert data.name == build.__name__
    assert data.stand_in
    assert torch.equal(data.train.inputs, build().train.inputs)
    for split in (data.train, data.test):
        assert split.labels.dtype == torch.int64
        assert split.labels.unique().tolist() == list(range(data.classes))


@pytest.mark.parametrize("name", ["cifar10_dvs", "dvs128_gesture"])
def test_load_needs_event_settings_for_recordings_and_refuses_them_for_others(name):
    with pytest.raises(InputError, match=rf"data\.events is missing for {name}$"):
        load(name)
    events = EventSettings("official", None, "number", None, None, 48, "events", "counts")
    with pytest.raises(InputError, match=r"data\.events must be left out for digits$"):
        load("digits", events=events)


def test_load_lists_the_names():
    with pytest.raises(InputError, match=r"'cifar11'; choose from cifar10, .*digit_pairs, digits.* \(from jellyplus\)"):
        load("cifar11")
