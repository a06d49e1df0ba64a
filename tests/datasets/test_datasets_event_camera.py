"""The simulated event camera against hand arithmetic and a loop over single pixels; and what it reads and refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from recordings import same

from jellyplus._errors import InputError
from jellyplus.datasets import event_camera, load
from jellyplus.datasets.frames import frames
from jellyplus.datasets.settings import EventSettings

SETTINGS = EventSettings("official", None, "number", None, None, 32, "events", "counts")
T = 3


def picture(seed, height=8, width=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def tuples(events):
    return list(zip(*(array.tolist() for array in events), strict=True))


def slow(log_light, duration, threshold):
    """One pixel, one step, one event at a time."""
    found = []
    steps = len(log_light) - 1
    for y, x in np.ndindex(log_light.shape[1:]):
        level = first = log_light[0, y, x]
        crossed = 0
        for step in range(steps):
            before, after = log_light[step : step + 2, y, x]
            for sign in (1, -1):
                while sign * (after - level) >= threshold:
                    crossed += sign
                    level = first + crossed * threshold
                    share = (level - before) / (after - before)
                    found.append((int((step + share) * duration / steps), int(x), int(y), int(sign > 0)))
    return found


def test_one_pixel_by_hand():
    # threshold 1, 100 us a step: 0 to 2.5 passes 1 at 40 us and 2 at 80 us; to 1.5, half a threshold off, nothing;
    # to -0.5, by 2 in 100 us, passes 1 at 25 us and 0 at 75 us; to -1 is one threshold from level 0, at the very end
    seen = np.array([0, 2.5, 1.5, -0.5, -1])[:, None, None] + 7
    events = event_camera.events_of(seen, 400, threshold=1)
    assert tuples(events) == [(40, 0, 0, 1), (80, 0, 0, 1), (225, 0, 0, 0), (275, 0, 0, 0), (400, 0, 0, 0)]
    assert [array.dtype for array in events] == [np.int64, np.uint8, np.uint8, np.uint8]


def test_events_of_all_pixels_are_in_the_order_of_time():
    seen = np.zeros((2, 1, 3))
    seen[1] = [2, -1, 4]
    events = event_camera.events_of(seen, 100, threshold=2)
    assert tuples(events) == [(50, 2, 0, 1), (100, 0, 0, 1), (100, 2, 0, 1)]


def test_events_against_the_slow_loop():
    # multiples of 1/8 and a threshold of 1/2: every difference is exact, and many equal the threshold
    log_light = np.random.default_rng(0).integers(-24, 25, (9, 5, 6)) / 8
    events = event_camera.events_of(log_light, 8 * 64, threshold=0.5)
    assert sorted(tuples(events)) == sorted(slow(log_light, 8 * 64, 0.5))
    assert len(events.t) > 300
    assert (np.diff(events.t) >= 0).all()


def test_the_path_is_a_closed_diamond_walked_pixel_by_pixel():
    path = event_camera._path()
    corners = path[:: event_camera.AMPLITUDE].tolist()
    assert corners == [[16, 0], [32, 16], [16, 32], [0, 16], [16, 0]]
    assert (np.abs(np.diff(path, axis=0)) == 1).all()


def test_light_against_a_slow_mean_over_the_monitor():
    image = picture(1, 544, 544)  # as large as on the monitor, so that nothing is enlarged
    log_light = event_camera._log_light(image)
    assert log_light.shape == (65, 128, 128)
    for step, row, column in ((0, 16, 0), (16, 32, 16), (40, 8, 24), (64, 16, 0)):
        for y, x in ((0, 0), (3, 127), (127, 127), (64, 5)):
            block = [
                0.02 + 0.98 * (float(image[row + 4 * y + i, column + 4 * x + j]) / 255) ** 2.2
                for i in range(4)
                for j in range(4)
            ]
            assert log_light[step, y, x] == pytest.approx(np.log(sum(block) / 16), abs=1e-12)


def test_a_moving_edge_by_hand():
    # Black left of column 272, white right of it, log 0.02 = -3.912 apart: 9 thresholds of 0.4 and a rest. Pixel x sees
    # columns c + 4 x to c + 4 x + 3, c from 0 (all black where 4 x + 3 < 272) to 32 (all white where 32 + 4 x >= 272)
    # and back to 0: pixels 60 to 67 are crossed whole, those left and right of them see nothing.
    image = np.zeros((544, 544), np.uint8)
    image[:, 272:] = 255
    events = event_camera.simulate(image)
    counts = np.zeros((2, 128, 128), int)
    np.add.at(counts, (events.p, events.y, events.x), 1)
    assert sorted(set(events.x.tolist())) == list(range(60, 68))
    assert (counts[:, :, 60:68] == 9 * event_camera.LOOPS).all()
    # While the window moves right, in the first half of a loop, each of these pixels brightens; then it darkens.
    assert np.array_equal(events.p == 1, (events.t - 1) % 200_000 < 100_000)
    # Pixel 60 is dark until c is 29 and sees its first white column, a quarter of its light: 0.02 + 0.98 / 4 = 0.265,
    # log -1.328, passes 6 thresholds in the step to c = 29, the first of them 0.4 / 2.584 = 0.1548 of the step on.
    brightening = events.t[(events.x == 60) & (events.y == 5) & (events.p == 1)]
    assert (brightening[:6] // 3125).tolist() == [28] * 6
    assert brightening[0] == int((28 + 0.15480) * 3125)


def test_loops_are_alike_and_leave_every_pixel_as_it_was():
    image = picture(2)
    events = event_camera.simulate(image)
    counts = np.zeros((2, 128, 128), int)
    np.add.at(counts, (events.p, events.y, events.x), 1)
    assert np.array_equal(counts[0], counts[1])
    # all loops simulated at once, as if nothing were known about their being alike
    log_light = event_camera._log_light(image)
    whole = np.concatenate([log_light[:-1]] * event_camera.LOOPS + [log_light[:1]])
    assert same(event_camera.events_of(whole, event_camera.LOOPS * event_camera.LOOP_US), events)
    assert events.t.min() >= 0
    assert 1_100_000 < events.t.max() <= 1_200_000


def test_a_stream_is_a_function_of_the_image():
    one, again, other = (event_camera.simulate(picture(seed)) for seed in (3, 3, 4))
    assert same(one, again)
    assert len(one.t) != len(other.t)


def test_the_square_in_the_middle_is_seen():
    wide = picture(5, 40, 60)
    one, other = event_camera._log_light(wide), event_camera._log_light(wide[:, 10:50])
    inner = slice(8, -8)  # enlarging takes what is near the square into its outermost two pixels
    assert np.allclose(one[:, :, inner], other[:, :, inner], atol=1e-12)


def test_brighter_or_darker_by_a_factor_is_the_same_contrast(monkeypatch):
    monkeypatch.setattr(event_camera, "DARK", 0.0)
    levels = np.where(picture(6, 544, 544) < 128, 20, 80).astype(np.uint8)
    one, twice = event_camera.simulate(levels), event_camera.simulate(levels * 2)
    assert same(one, twice)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two classes in train and val, images of two sizes, in grey, in colour, and of 16 bits."""
    monkeypatch.setattr(event_camera, "LOOPS", 1)
    write(tmp_path / "train/cat/b.png", picture(0))
    write(tmp_path / "train/cat/a.png", np.stack([picture(1, 10, 9)] * 3, axis=2))
    write(tmp_path / "train/ant/b.jpg", picture(2))
    write(tmp_path / "train/ant/deep/b.jpg", picture(3))
    write(tmp_path / "val/cat/c.png", picture(4))
    write(tmp_path / "val/ant/c.png", picture(5).astype(np.uint16) * 257)
    return tmp_path


def loaded(root, settings=SETTINGS):
    return load("event_camera", str(root), events=settings, time_steps=T)


def refusal(root, settings=SETTINGS):
    with pytest.raises(InputError) as caught:
        loaded(root, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def expected(pixels, settings=SETTINGS):
    return torch.from_numpy(frames(event_camera.simulate(pixels), settings, T))


def test_folders_of_images_become_frames(root):
    data = loaded(root)
    assert (data.name, data.kind, data.classes, data.stand_in) == ("event_camera", "events", 2, True)
    assert "simulated" in data.source
    assert str(root) not in str(data.counts())
    assert (data.mean, data.std) == ((0.0, 0.0), (1.0, 1.0))
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 1]
    assert data.train.inputs.shape == (4, T, 2, 32, 32)
    for number, seed in ((2, 1), (3, 0)):  # a.png, then b.png; JPEG changes the others
        pixels = picture(seed, 10, 9) if seed else picture(seed)
        assert torch.equal(data.train.inputs[number], expected(pixels))
    assert torch.equal(data.test.inputs[0], expected(picture(5)))
    assert torch.equal(data.test.inputs[1], expected(picture(4)))


def test_the_same_under_cifar10_and_test(root, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (root / "val").rename(root / "test")
    kept = [loaded(root).fingerprint]
    for name in ("train", "test"):
        (moved / "cifar10").mkdir(exist_ok=True)
        (root / name).rename(moved / "cifar10" / name)
    kept += [loaded(place).fingerprint for place in (moved, moved / "cifar10")]
    assert len(set(kept)) == 1


def test_prepared_frames_are_read_instead(root, monkeypatch):
    direct = loaded(root)
    cache, written = event_camera.prepare_frames(root, SETTINGS, T, workers=1)
    assert written == 6
    assert event_camera.prepare_frames(root, SETTINGS, T, workers=1) == (cache, 0)
    monkeypatch.setattr(event_camera, "simulate", None)
    assert loaded(root).fingerprint == direct.fingerprint
    with pytest.raises(TypeError):
        loaded(root, replace(SETTINGS, side=16))


def test_no_folders_no_data(tmp_path):
    with pytest.raises(InputError, match=r"^event_camera is read from disk"):
        load("event_camera", events=SETTINGS, time_steps=T)
    assert "{train,test}/<class>/" in refusal(tmp_path)
    write(tmp_path / "train/cat/a.png", picture(0))
    assert "{train,test}/<class>/" in refusal(tmp_path)


def test_a_class_without_a_counterpart_is_named(root):
    write(root / "val/dog/a.png", picture(0))
    assert "the class dog is in only one" in refusal(root)


def test_a_class_without_images_is_named(root):
    (root / "val/dog").mkdir()
    assert "dog" in refusal(root)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image_is_named(root, content):
    (root / "train/ant/a.png").write_bytes(content)
    message = refusal(root)
    assert "cannot read the image" in message
    assert "a.png" in message


def test_a_truncated_image_is_named(root):
    path = root / "train/ant/a.png"
    write(path, picture(0, 32, 32))
    path.write_bytes(path.read_bytes()[:600])
    assert "a.png" in refusal(root)


def test_a_uniform_image_is_named(root):
    write(root / "train/ant/a.png", np.full((32, 32), 90, np.uint8))
    assert "a.png is uniform" in refusal(root)


def test_the_split_is_that_of_the_folders(root):
    assert "official" in refusal(root, replace(SETTINGS, split="sj90"))
