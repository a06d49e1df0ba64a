"""Frames against SpikingJelly's own integration, slow loops and hand arithmetic."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import spikingjelly.datasets as sj
import torch

from jellyplus.datasets.frames import Events, frames, frames_of_counts
from jellyplus.datasets.settings import EventSettings
from jellyplus.training.recipe_files import load_run

NUMBER = EventSettings("official", None, "number", None, None, 128, "events", "counts")
TIME = replace(NUMBER, integration="time")
DURATION = replace(NUMBER, integration="duration", frame_us=1000, start_us=0)


def events(n, seed=0, longest=100_000, sensor=128):
    draw = np.random.default_rng(seed)
    t = np.sort(draw.integers(0, longest, n)) + 2**31
    x, y = draw.integers(0, sensor, (2, n), dtype=np.uint8)
    return Events(t, x, y, draw.integers(0, 2, n, dtype=np.uint8))


def few(*tuples):
    t, x, y, p = zip(*tuples, strict=True)
    return Events(np.array(t), *(np.array(values, np.uint8) for values in (x, y, p)))


def slow_duration(events, settings, time_steps):
    out = np.zeros((time_steps, 2, 128, 128), np.float32)
    begin = min(events.t.tolist()) + settings.start_us
    for t, x, y, p in zip(*(array.tolist() for array in events), strict=True):
        for step in range(time_steps):
            if begin + step * settings.frame_us <= t < begin + (step + 1) * settings.frame_us:
                out[step, p, y, x] += 1
    return out


@pytest.mark.parametrize("settings", [NUMBER, TIME], ids=lambda settings: settings.integration)
@pytest.mark.parametrize(("n", "time_steps"), [(5000, 10), (5003, 7), (999, 1), (400, 4)])
def test_number_and_time_are_spikingjellys(settings, n, time_steps):
    given = events(n, seed=n)
    theirs = sj.integrate_events_by_fixed_frames_number(given._asdict(), settings.integration, time_steps, 128, 128)
    ours = frames(given, settings, time_steps)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, theirs)


def test_fewer_events_than_frames_are_in_the_last_one_as_spikingjelly_has_it():
    given = events(3)
    theirs = sj.integrate_events_by_fixed_frames_number(given._asdict(), "number", 5, 128, 128)
    assert np.array_equal(frames(given, NUMBER, 5), theirs)


def test_a_gap_is_an_empty_frame_where_spikingjelly_fails():
    given = few((0, 1, 2, 0), (100, 3, 4, 1), (1000, 5, 6, 1))
    with pytest.raises(IndexError):
        sj.integrate_events_by_fixed_frames_number(given._asdict(), "time", 4, 128, 128)
    out = frames(given, TIME, 4)  # 250 us each; the last microsecond is in the fourth
    assert out.sum((1, 2, 3)).tolist() == [2, 0, 0, 1]
    assert frames(few((7, 1, 2, 0), (8, 1, 2, 0)), TIME, 4).sum((1, 2, 3)).tolist() == [0, 0, 0, 2]


@pytest.mark.parametrize("start_us", [0, 1500])
def test_duration_against_a_loop(start_us):
    given = events(2000, longest=12_000)
    settings = replace(DURATION, start_us=start_us)
    assert np.array_equal(frames(given, settings, 5), slow_duration(given, settings, 5))


def test_duration_by_hand_at_the_boundaries():
    given = few((10, 0, 0, 0), (1009, 0, 0, 0), (1010, 0, 0, 1), (3010, 127, 5, 1), (4010, 0, 0, 0))
    out = frames(given, DURATION, 4)
    assert out.sum((1, 2, 3)).tolist() == [2, 1, 0, 1]
    assert out[3, 1, 5, 127] == 1
    assert frames(given, DURATION, 6).sum((1, 2, 3)).tolist() == [2, 1, 0, 1, 1, 0]


def test_duration_is_spikingjellys_where_every_frame_begins_with_an_event():
    draw = np.random.default_rng(1)
    t = np.concatenate([k * 1000 + np.array([0, *np.sort(draw.integers(0, 900, 50))]) for k in range(6)])
    given = events(len(t))._replace(t=t)
    theirs = sj.integrate_events_by_fixed_duration(given._asdict(), 999, 128, 128)  # its end is inclusive
    assert np.array_equal(frames(given, DURATION, 6), theirs)


def test_timestamps_that_go_back():
    given = few((500, 0, 0, 0), (0, 1, 0, 0), (1999, 2, 0, 0), (1000, 3, 0, 0))
    assert frames(given, NUMBER, 2)[:, 0, 0, :4].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    for settings in (TIME, DURATION):
        assert frames(given, settings, 2)[:, 0, 0, :4].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_counts_above_255_and_65535_do_not_wrap():
    n = 70_000
    ones = np.ones(n, np.uint8)
    out = frames(Events(np.arange(n), ones, ones * 127, ones), NUMBER, 1)
    assert (out[0, 1, 127, 1], out.sum()) == (n, n)


@pytest.mark.parametrize("side", [48, 42, 32, 1])
def test_scaling_events_floors_their_coordinates(side):
    given = events(3000)
    expected = np.zeros((3, 2, side, side), np.float32)
    for k in range(3000):
        expected[k // 1000, given.p[k], int(given.y[k]) * side // 128, int(given.x[k]) * side // 128] += 1
    assert np.array_equal(frames(given, replace(NUMBER, side=side), 3), expected)


def test_another_sensor():
    given = few((0, 223, 0, 0), (1, 0, 223, 1))
    out = frames(given, replace(NUMBER, side=32), 1, sensor=224)
    assert (out[0, 0, 0, 31], out[0, 1, 31, 0], out.sum()) == (1, 1, 2)


def triangle(side):
    """Antialiased bilinear weights [side, 128]: a triangle about each output pixel's centre, as wide as the ratio."""
    ratio = 128 / side
    weights = np.zeros((side, 128))
    for i in range(side):
        for j in range(128):
            weights[i, j] = max(0, 1 - abs((j + 0.5) - (i + 0.5) * ratio) / ratio)
    return weights / weights.sum(1, keepdims=True)


def test_bilinear_is_the_antialiased_triangle_of_the_full_size():
    given, weights = events(4000), triangle(48)
    expected = weights @ frames(given, NUMBER, 2) @ weights.T
    out = frames(given, replace(NUMBER, side=48, resize="bilinear"), 2)
    torch.testing.assert_close(torch.from_numpy(out), torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("values", ["counts", "binary"])
@pytest.mark.parametrize("side", [48, 32, 5])
def test_nearest_picks_the_pixel_on_the_left_or_above(side, values):
    given = events(20_000)
    full = frames(given, replace(NUMBER, values=values), 2)
    out = frames(given, replace(NUMBER, side=side, resize="nearest", values=values), 2)
    for i in range(side):
        for j in range(side):
            assert np.array_equal(out[..., i, j], full[..., 128 * i // side, 128 * j // side])


def test_binary_is_one_wherever_the_sensor_saw_something():
    counts, binary = (frames(events(900), replace(NUMBER, values=values), 2) for values in ("counts", "binary"))
    assert counts.max() > 1
    assert np.array_equal(binary, np.where(counts > 0, 1, 0))


def test_binary_frames_are_resized_by_hand():
    # two events on one pixel and one beside it; 128 to 64 adds up, interpolates or picks one of 2x2 pixels
    given = few((0, 0, 0, 1), (1, 0, 0, 1), (2, 1, 0, 1))
    settings = replace(NUMBER, side=64, values="binary")
    corner = {how: frames(given, replace(settings, resize=how), 1)[0, 1, 0, 0] for how in ("events", "nearest")}
    assert corner == {"events": 2, "nearest": 1}
    assert frames(given, replace(settings, resize="bilinear"), 1).max() < 0.5


RECIPES = Path(__file__).parents[2] / "recipes"
BINARY = [
    run.recipe.data.events
    for path in sorted(RECIPES.glob("*/*.yaml"))
    if path.stem != "profiles" and (run := load_run(f"{path.parent.name}/{path.stem}", "paper", RECIPES))
    if run.recipe.data.events and run.recipe.data.events.values == "binary"
]


@pytest.mark.parametrize(("n", "covered"), [(20_000, 0.06), (50_000, 0.14), (100_000, 0.26)])
@pytest.mark.parametrize("settings", BINARY, ids=str)
def test_the_recipes_binary_frames_keep_the_density_of_the_sensors(settings, n, covered):
    given = events(n)
    full, out = (frames(given, replace(settings, side=side), 10) for side in (128, settings.side))
    assert full.mean() == pytest.approx(covered, abs=0.005)
    # 46,080 pixels are picked; the share of ones among them deviates by sqrt((1 - p) / 46,080 p), 1.9 % for p = 0.06
    assert out.mean() == pytest.approx(full.mean(), rel=4 * np.sqrt((1 - covered) / (46_080 * covered)))
    assert set(np.unique(out)) == {0, 1}


def test_the_papers_that_say_so_have_binary_frames():
    assert len(BINARY) == 4  # InfLoR's two networks on CIFAR10-DVS, Dspike's, and the latter on simulated events


@pytest.mark.parametrize("side", [48, 42])
def test_interpolated_binary_frames_are_shares_with_the_density_as_mean(side):
    given, settings = events(20_000), replace(NUMBER, values="binary", resize="bilinear")
    full, out = (frames(given, replace(settings, side=pixels), 10) for pixels in (128, side))
    assert out.mean() == pytest.approx(full.mean(), rel=0.01)  # at the border weights are cut off
    assert 0 <= out.min() < out.max() <= 1


@pytest.mark.parametrize("resize", ["events", "bilinear", "nearest"])
@pytest.mark.parametrize("values", ["counts", "binary"])
@pytest.mark.parametrize("side", [128, 48])
def test_from_counts_at_full_size(resize, values, side):
    given, settings = events(5000), replace(NUMBER, side=side, resize=resize, values=values)
    theirs = sj.integrate_events_by_fixed_frames_number(given._asdict(), "number", 4, 128, 128)
    assert np.array_equal(frames_of_counts(theirs, settings), frames(given, settings, 4))
