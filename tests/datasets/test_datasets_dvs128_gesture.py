"""DVS128 Gesture from generated trials in every layout, and what is refused."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest
import spikingjelly.datasets as sj
import torch
from recordings import TRIALS, aedat3, random_events, same, write, write_dvs_gesture, write_npz
from spikingjelly import configure
from spikingjelly.datasets.dvs128_gesture import DVS128Gesture

from jellyplus._errors import InputError
from jellyplus.datasets import dvs128_gesture, load
from jellyplus.datasets.frames import frames
from jellyplus.datasets.settings import EventSettings
from jellyplus.datasets.survey import inspect

SETTINGS = EventSettings("official", None, "number", None, None, 32, "events", "counts")
T = 4
GESTURES = [0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10]  # of a generated trial


def loaded(root, settings=SETTINGS, time_steps=T):
    return load("dvs128_gesture", str(root), events=settings, time_steps=time_steps)


def refusal(root, settings=SETTINGS):
    with pytest.raises(InputError) as caught:
        loaded(root, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_events_np(root, written):
    for name, (t, x, y, p) in written.items():
        write_npz(root / "events_np" / f"{name}.npz", t=t, x=x.astype(int), y=y.astype(int), p=p.astype(int))


def test_trials_are_cut_by_their_tables_and_split_by_subject(tmp_path):
    written = write_dvs_gesture(tmp_path / "DvsGesture")
    data = loaded(tmp_path)
    assert (data.name, data.kind, data.classes, data.stand_in) == ("dvs128_gesture", "events", 11, False)
    assert (data.mean, data.std, data.manifest) == ((0.0, 0.0), (1.0, 1.0), None)
    for split, trials in TRIALS.items():
        part = getattr(data, split)
        names = [name for name in written if name.startswith(split)]
        names.sort(key=lambda name: (int(name.split("/")[1]), name))
        assert part.labels.tolist() == sorted(GESTURES * len(trials))
        assert part.inputs.shape == (12 * len(trials), T, 2, 32, 32)
        assert part.inputs.dtype == torch.float32
        for example, name in zip(part.inputs, names, strict=True):
            assert np.array_equal(example, frames(written[name], SETTINGS, T))


def test_the_slices_are_spikingjellys(tmp_path):
    written = write_dvs_gesture(tmp_path)
    for trial in ("user01_led", "user24_led"):
        out = tmp_path / "theirs" / trial
        for label in range(11):
            (out / str(label)).mkdir(parents=True)
        DVS128Gesture.split_aedat_files_to_np(
            trial, str(tmp_path / f"{trial}.aedat"), str(tmp_path / f"{trial}_labels.csv"), str(out)
        )
    ours = {}
    layout = dvs128_gesture.find(tmp_path)
    assert layout.name == "AEDAT 3.1 trials"
    for source in (*layout.sources["train"], *layout.sources["test"]):
        for recording, events in zip(source.recordings, dvs128_gesture.read(source), strict=True):
            ours[recording.name] = events
    assert ours.keys() == written.keys()
    for name, events in ours.items():
        _, label, stem = name.split("/")
        path = tmp_path / "theirs" / stem.rsplit("_", 1)[0] / label / f"{stem}.npz"
        if path.parent.parent.is_dir():
            theirs = np.load(path)
            assert same(events, [theirs[key] for key in "txyp"])
    assert len(list((tmp_path / "theirs").glob("*/*/*.npz"))) == 24


def test_examples_and_split_are_those_of_spikingjellys_whole_pipeline(tmp_path, monkeypatch):
    """From the authors' files through its own conversion and integration."""
    monkeypatch.setattr(configure, "max_threads_number_for_datasets_preprocess", 1)  # np.load fails in several
    write_dvs_gesture(tmp_path / "extract/DvsGesture")
    (tmp_path / "events_np").mkdir()
    DVS128Gesture.create_events_np_files(str(tmp_path / "extract"), str(tmp_path / "events_np"))
    ours = loaded(tmp_path, replace(SETTINGS, side=128))
    for part, train in ((ours.train, True), (ours.test, False)):
        theirs = DVS128Gesture(str(tmp_path), train=train, data_type="frame", frames_number=T, split_by="number")
        gesture = [int(name) for name in theirs.classes]  # 0, 1, 10, 2, ...: folders in the order of strings
        expected = sorted(((gesture[label], example) for example, label in theirs), key=lambda pair: pair[0])
        assert part.labels.tolist() == [label for label, _ in expected]
        assert all(np.array_equal(a, b) for a, (_, b) in zip(part.inputs, expected, strict=True))


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, integration="time", side=128, resize="bilinear")])
def test_every_layout_gives_the_same(tmp_path, settings):
    written = write_dvs_gesture(tmp_path / "a/extract/DvsGesture")
    for root in ("b/DVS128Gesture/DvsGesture", "c/dvs128_gesture/extract/DvsGesture", "d"):
        write_dvs_gesture(tmp_path / root)
    write_events_np(tmp_path / "e", written)
    for name, events in written.items():
        counts = sj.integrate_events_by_fixed_frames_number(events._asdict(), settings.integration, T, 128, 128)
        write_npz(tmp_path / "f" / f"frames_number_{T}_split_by_{settings.integration}/{name}.npz", frames=counts)
    data = [loaded(tmp_path / root, settings) for root in "abcdef"]
    assert len({one.fingerprint for one in data}) == 1
    assert data[4].source == "SpikingJelly's events_np"
    with pytest.raises(InputError, match=r"SpikingJelly's frames_number_4_split_by_.* only and not frames_number_9_"):
        loaded(tmp_path / "f", settings, 9)


def test_prepared_frames_are_what_is_loaded(tmp_path):
    write_dvs_gesture(tmp_path)
    settings = replace(SETTINGS, integration="duration", frame_us=200, start_us=100)
    direct = loaded(tmp_path, settings)
    cache, written = dvs128_gesture.prepare_frames(tmp_path, settings, T, workers=2)
    assert written == 36
    assert (cache / "train/7/user01_led_1.npy").is_file()
    assert dvs128_gesture.prepare_frames(tmp_path, settings, T, None) == (cache, 0)
    for trial in tmp_path.glob("*.aedat"):
        trial.write_bytes(b"not read")
    assert loaded(tmp_path, settings).fingerprint == direct.fingerprint


@pytest.mark.parametrize("place", [".", "download", "DVS128Gesture/download"])
def test_the_authors_archive(tmp_path, place):
    root, source = tmp_path / "root", tmp_path / "DvsGesture"
    write_dvs_gesture(source)
    (root / place).mkdir(parents=True)
    with tarfile.open(root / place / "DvsGesture.tar.gz", "w:gz") as archive:
        archive.add(source, "DvsGesture")
    assert "holds the archive only; unpack it with `jellyplus data prepare`" in refusal(root)
    assert "still to be unpacked" in dvs128_gesture.survey(root).layout
    (made,) = dvs128_gesture.unpack(root)
    assert made.parts[-2:] == ("extract", "DvsGesture")
    assert dvs128_gesture.unpack(root) == []
    assert loaded(root).fingerprint == loaded(tmp_path).fingerprint


def test_survey_counts_gestures_and_names_what_is_damaged(tmp_path):
    write_dvs_gesture(tmp_path)
    (tmp_path / "user02_lab.aedat").write_bytes(b"")
    finding = inspect(dvs128_gesture.survey(tmp_path))
    once = {str(label): 2 if label == 7 else 1 for label in range(11)}
    assert finding.counts == {"train": once, "test": once}
    assert ["user02_lab.aedat has no header" in sentence for sentence in finding.unreadable] == [True]
    assert finding.survey.published == {"train": 1176, "test": 288}
    assert sum(finding.survey.published.values()) == 1464
    assert "1,342" in finding.survey.source
    (tmp_path / "empty").mkdir()
    assert dvs128_gesture.survey(tmp_path / "empty") is None


def rewrite(name, change):
    def damage(root):
        path = root / name
        path.write_text(change(path.read_text()))

    return damage


def without(name):
    return lambda root: (root / name).unlink()


def no_event_in_a_gesture(root):
    write(root / "user24_led.aedat", aedat3(random_events(50, seed=0, begin=10_000, longest=3000)))


def an_event_outside(root):
    content = bytearray((root / "user24_led.aedat").read_bytes())
    content[-5] = 255  # the highest byte of the last event's x; then its timestamp
    (root / "user24_led.aedat").write_bytes(content)


TABLE = "user24_led_labels.csv"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without(TABLE), f"cannot read .*{TABLE}"),
        (without("user24_led.aedat"), "trials_to_test.txt names 'user24_led.aedat', which is no recording there"),
        (without("trials_to_test.txt"), "cannot read .*trials_to_test.txt"),
        (rewrite("trials_to_test.txt", lambda _: "\n"), "trials_to_test.txt is empty"),
        (rewrite("trials_to_test.txt", lambda text: text + "../x.aedat"), "names '../x.aedat'"),
        (rewrite("trials_to_test.txt", lambda text: text + TABLE), "names 'user24_led_labels.csv'"),
        (rewrite("trials_to_test.txt", lambda text: text + "user01_led.aedat"), "listed for training and for testing"),
        (rewrite(TABLE, lambda text: text.replace("class", "klass")), "is no table"),
        (rewrite(TABLE, lambda text: text.splitlines()[0]), "is no table"),
        (rewrite(TABLE, lambda text: text + "\n12,5,6"), "is no table"),
        (rewrite(TABLE, lambda text: text + "\n0,5,6"), "is no table"),
        (rewrite(TABLE, lambda text: text + "\n1,6,6"), "is no table"),
        (rewrite(TABLE, lambda text: text + "\n1,6"), "is no table"),
        (rewrite(TABLE, lambda text: text + "\n1,a,6"), "is no table"),
        (rewrite(TABLE, lambda text: "\n".join(text.splitlines()[:-1])), "has no test example of class 11"),
        (rewrite(TABLE, lambda text: text + "\n1,é,6"), f"cannot read .*{TABLE}"),
        (no_event_in_a_gesture, "has no event of class 4 from 13000 to 13900 us"),
        (an_event_outside, "user24_led.aedat holds events outside 128x128"),
    ],
)
def test_damage_is_named(tmp_path, damage, reason):
    write_dvs_gesture(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=reason):
        loaded(tmp_path)


def test_wrong_roots(tmp_path):
    assert "say where it lies" in refusal("")
    assert "is empty" in refusal(tmp_path)
    assert "state official" in refusal(tmp_path, replace(SETTINGS, split="sj90"))
    (tmp_path / "something").mkdir()
    assert "holds neither" in refusal(tmp_path)
