"""CIFAR10-DVS from generated files in every layout, and what is refused."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import spikingjelly.datasets as sj
import torch
from recordings import CLASSES, aedat2, random_events, same, write, write_cifar10_dvs, write_npz
from spikingjelly import configure
from spikingjelly.datasets.cifar10_dvs import CIFAR10DVS

from jellyplus._errors import InputError
from jellyplus.datasets import cifar10_dvs, load, recordings
from jellyplus.datasets.frames import frames
from jellyplus.datasets.settings import EventSettings
from jellyplus.datasets.survey import inspect

SETTINGS = EventSettings("sj90", None, "number", None, None, 48, "bilinear", "counts")
T = 3


def loaded(root, settings=SETTINGS, time_steps=T):
    return load("cifar10_dvs", str(root), events=settings, time_steps=time_steps)


def refusal(root, settings=SETTINGS):
    with pytest.raises(InputError) as caught:
        loaded(root, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def write_events_np(folder, written):
    """As SpikingJelly has them: whatever types numpy made of the big-endian file."""
    for name, (t, x, y, p) in written.items():
        write_npz(
            folder / "events_np" / f"{name}.npz", t=t.astype(">u4"), x=x.astype(">u4"), y=y.astype(">u4"), p=p * 1
        )


def write_frames(folder, written, time_steps=T, by="number"):
    for name, events in written.items():
        counts = sj.integrate_events_by_fixed_frames_number(events._asdict(), by, time_steps, 128, 128)
        write_npz(folder / f"frames_number_{time_steps}_split_by_{by}" / f"{name}.npz", frames=counts)


@pytest.mark.parametrize(
    ("split", "seed", "numbers", "test_side"),
    [
        ("sj90", None, range(12), ["8", "9"]),  # as strings 0 1 10 11 2 ... 9; ceil(10.8) train
        ("first900", None, [3, 899, 900], ["900"]),
        ("random", 5, range(10), None),
    ],
)
def test_every_split(tmp_path, split, seed, numbers, test_side):
    written = {}
    for name in CLASSES:
        for number in numbers:
            recording = f"{name}/cifar10_{name}_{number}"
            written[recording] = random_events(30, seed=len(written))
            write(tmp_path / "CIFAR10DVS/extract" / f"{recording}.aedat", aedat2(written[recording]))
    settings = replace(SETTINGS, split=split, split_seed=seed)
    data = loaded(tmp_path, settings)
    assert (data.name, data.kind, data.classes, data.stand_in) == ("cifar10_dvs", "events", 10, False)
    assert (data.mean, data.std) == ((0.0, 0.0), (1.0, 1.0))
    record = json.loads(json.dumps(data.manifest))
    assert (record["split"], record["split_seed"]) == (split, seed)
    assert sorted(record["train"] + record["test"]) == sorted(written)
    for part, names in ((data.train, record["train"]), (data.test, record["test"])):
        assert part.inputs.shape == (len(names), T, 2, 48, 48)
        assert (part.inputs.dtype, part.labels.dtype) == (torch.float32, torch.int64)
        assert part.labels.tolist() == [CLASSES.index(name.split("/")[0]) for name in names]
        for example, name in zip(part.inputs, names, strict=True):
            assert np.array_equal(example, frames(written[name], settings, T))
    of_cats = [name.rsplit("_", 1)[1] for name in record["test"] if name.startswith("cat/")]
    assert len(of_cats) == 1
    if test_side:
        assert of_cats == test_side[-1:]
    else:
        assert data.manifest == loaded(tmp_path, settings).manifest
        assert data.manifest["test"] != loaded(tmp_path, replace(settings, split_seed=6)).manifest["test"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same recordings in every layout; roots by name of the layout."""
    roots = {
        name: tmp_path_factory.mktemp("sets") / name for name in ("plain", "extract", "events", "frames", "inside")
    }
    written = write_cifar10_dvs(roots["plain"], per_class=10)
    write_cifar10_dvs(roots["extract"] / "extract", per_class=10)
    write_events_np(roots["events"], written)
    write_frames(roots["frames"], written)
    write_cifar10_dvs(roots["inside"] / "cifar10-dvs", per_class=10)
    return roots


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, replace(SETTINGS, side=32, resize="events"), replace(SETTINGS, side=128, values="binary")],
    ids=["bilinear", "events", "binary"],
)
def test_every_layout_gives_the_same(sets, settings):
    before = {name: contents(root) for name, root in sets.items()}
    data = {name: loaded(root, settings) for name, root in sets.items()}
    assert len({one.fingerprint for one in data.values()}) == 1
    assert [len(data["plain"].train), len(data["plain"].test)] == [90, 10]
    assert data["events"].source == "SpikingJelly's events_np"
    assert before == {name: contents(root) for name, root in sets.items()}  # loading writes nothing


def test_examples_and_split_are_those_of_spikingjellys_whole_pipeline(tmp_path, monkeypatch):
    """From the authors' files through its own conversion, integration and split, with the two names numpy dropped."""
    monkeypatch.setattr(np, "fromstring", np.frombuffer)
    monkeypatch.setattr(np, "bool", np.bool_, raising=False)
    monkeypatch.setattr(configure, "max_threads_number_for_datasets_preprocess", 1)  # np.load fails in several
    write_cifar10_dvs(tmp_path / "extract", per_class=12)
    (tmp_path / "events_np").mkdir()
    CIFAR10DVS.create_events_np_files(str(tmp_path / "extract"), str(tmp_path / "events_np"))
    theirs = CIFAR10DVS(str(tmp_path), data_type="frame", frames_number=T, split_by="number")
    ours = loaded(tmp_path, replace(SETTINGS, side=128))
    assert ours.source == "AEDAT 2 recordings in extract/<class>"
    for part, side in zip((ours.train, ours.test), sj.split_to_train_test_set(0.9, theirs, 10), strict=True):
        assert len(part) == len(side) > 0
        for example, label, (their_example, their_label) in zip(part.inputs, part.labels, side, strict=True):
            assert np.array_equal(example, their_example)
            assert label == their_label
    shutil.rmtree(tmp_path / "extract")
    assert loaded(tmp_path, replace(SETTINGS, side=128)).source == "SpikingJelly's events_np"
    shutil.rmtree(tmp_path / "events_np")
    again = loaded(tmp_path, replace(SETTINGS, side=128))
    assert (again.source, again.fingerprint) == ("SpikingJelly's frames_number_3_split_by_number", ours.fingerprint)


def test_spikingjellys_frames_of_other_settings_are_not_taken(sets):
    for settings, time_steps in ((replace(SETTINGS, integration="time"), T), (SETTINGS, T + 1)):
        with pytest.raises(
            InputError, match=r"SpikingJelly's frames_number_3_split_by_number only and not frames_number_"
        ):
            loaded(sets["frames"], settings, time_steps)


def test_the_list_of_recordings_and_one_of_them(sets):
    layout = cifar10_dvs.find(sets["inside"])
    assert layout.name == "AEDAT 2 recordings in <class>"
    source = layout.sources["all"][11]
    assert source.recordings == (("automobile/cifar10_automobile_1", 1),)
    assert same(cifar10_dvs.read(source), random_events(60, seed=11))
    counts = cifar10_dvs.read(cifar10_dvs.find(sets["frames"]).sources["all"][0])
    assert (counts.shape, counts.sum()) == ((T, 2, 128, 128), 60)


def test_prepared_frames_are_what_is_loaded(tmp_path):
    write_cifar10_dvs(tmp_path, per_class=10, n=20)
    direct = loaded(tmp_path)
    cache, written = cifar10_dvs.prepare_frames(tmp_path, SETTINGS, T, workers=2)
    assert written == 100
    assert cache.parent == tmp_path / "jellyplus_frames"
    assert len(list(cache.glob("*/*.npy"))) == 100

    (cache / "cat/cifar10_cat_3.npy").unlink()
    before = contents(cache)
    assert cifar10_dvs.prepare_frames(tmp_path, replace(SETTINGS, split="random", split_seed=1), T, None) == (cache, 1)
    assert contents(cache).items() >= {path: time for path, time in before.items() if path.is_file()}.items()
    assert cifar10_dvs.prepare_frames(tmp_path, SETTINGS, T, None) == (cache, 0)
    for recording in tmp_path.glob("*/*.aedat"):
        recording.write_bytes(b"not read")
    assert loaded(tmp_path).fingerprint == direct.fingerprint
    for damage in (b"", b"\x93NUMPY", (cache / "cat/cifar10_cat_1.npy").read_bytes()[:-4]):
        (cache / "cat/cifar10_cat_0.npy").write_bytes(damage)
        assert "cat/cifar10_cat_0.npy is damaged" in refusal(tmp_path)
    np.save(cache / "cat/cifar10_cat_0.npy", np.zeros((T, 2, 48, 48)))
    assert "cat/cifar10_cat_0.npy holds float64" in refusal(tmp_path)


def test_whatever_changes_frames_has_its_own_cache(sets):
    layout = cifar10_dvs.find(sets["plain"])
    duration = replace(SETTINGS, integration="duration", frame_us=5000, start_us=0)
    variants = [
        SETTINGS,
        replace(SETTINGS, side=42),
        replace(SETTINGS, resize="events"),
        replace(SETTINGS, resize="nearest"),
        replace(SETTINGS, values="binary"),
        replace(SETTINGS, integration="time"),
        duration,
        replace(duration, frame_us=5001),
        replace(duration, start_us=1),
    ]
    caches = {recordings._cache(layout, settings, time_steps) for settings in variants for time_steps in (T, T + 1)}
    assert len(caches) == 2 * len(variants)
    other_split = replace(SETTINGS, split="random", split_seed=1)
    assert recordings._cache(layout, other_split, T) == recordings._cache(layout, SETTINGS, T)


def test_frames_prepared_before_are_found_where_they_are_still_right(sets):
    layout = cifar10_dvs.find(sets["plain"])
    names = [recordings._cache(layout, replace(SETTINGS, values=values), 10).name for values in ("counts", "binary")]
    assert names[0] == "c553a46f19362856"
    assert names[1] != "54dc08fc4d7af003"  # binarised after the resize


def write_zips(folder, classes=CLASSES, source=None):
    folder.mkdir(parents=True)
    for name in classes:
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for path in sorted((source / name).iterdir()):
                archive.write(path, f"{name}/{path.name}")


def test_the_authors_archives(tmp_path):
    write_cifar10_dvs(tmp_path / "plain", per_class=10, n=20)
    for root in (tmp_path / "a", tmp_path / "b"):
        place = root / "CIFAR10DVS/download" if root.name == "a" else root
        write_zips(place, source=tmp_path / "plain")
        assert "holds the archives only; unpack them with `jellyplus data prepare`" in refusal(root)
        survey = cifar10_dvs.survey(root)
        assert (survey.files, "still to be unpacked" in survey.layout) == ((), True)
        made = cifar10_dvs.unpack(root)
        assert [path.name for path in made] == CLASSES
        assert cifar10_dvs.unpack(root) == []
        assert loaded(root).fingerprint == loaded(tmp_path / "plain").fingerprint


def test_some_archives_are_not_enough(tmp_path):
    write_cifar10_dvs(tmp_path / "plain", per_class=2)
    write_zips(tmp_path / "root", ["cat", "dog"], tmp_path / "plain")
    cifar10_dvs.unpack(tmp_path / "root")
    assert "are missing: airplane, automobile" in refusal(tmp_path / "root")


def test_survey_counts_and_names_what_is_damaged(tmp_path):
    write_cifar10_dvs(tmp_path, per_class=10)
    (tmp_path / "cat/cifar10_cat_3.aedat").write_bytes(b"#!AER-DAT2.0\r\n123")
    finding = inspect(cifar10_dvs.survey(tmp_path))
    assert finding.counts["all"] == {name: 9 if name == "cat" else 10 for name in CLASSES}
    (sentence,) = finding.unreadable
    assert "cat/cifar10_cat_3.aedat ends within an event" in sentence
    assert not finding.complete
    assert finding.survey.published == {"all": 10_000}
    assert list(finding.survey.digests) == ["sj90"]  # of numbers below 900 none tests
    assert cifar10_dvs.survey(tmp_path / "cat") is None


def test_a_damaged_recording_stops_loading_with_its_name(tmp_path):
    write_cifar10_dvs(tmp_path, per_class=10)
    (tmp_path / "dog/cifar10_dog_7.aedat").write_bytes(b"\x00" * 100)
    assert "dog/cifar10_dog_7.aedat has no header" in refusal(tmp_path)


def test_wrong_roots(tmp_path):
    assert "say where it lies" in refusal("")
    assert "is not a readable folder" in refusal(tmp_path / "nowhere")
    assert "is empty" in refusal(tmp_path)
    (tmp_path / "cifar10").mkdir()
    assert "holds CIFAR-10 images" in refusal(tmp_path)
    assert "has no official split" in refusal(tmp_path, replace(SETTINGS, split="official"))


def test_classes_that_are_missing_or_unknown(tmp_path):
    write_cifar10_dvs(tmp_path / "few", per_class=2, classes=CLASSES[:8])
    assert "are missing: ship, truck, unknown: none; complete it" in refusal(tmp_path / "few")
    write_cifar10_dvs(tmp_path / "many", per_class=2, classes=[*CLASSES, "zebra"])
    assert "are missing: none, unknown: zebra" in refusal(tmp_path / "many")
    write_cifar10_dvs(tmp_path / "one", per_class=1)
    assert "sj90 leaves no test recording of class 0, which has 1" in refusal(tmp_path / "one")


def test_a_damaged_file_of_spikingjelly_stops_loading_with_its_name(tmp_path):
    written = {f"{name}/a_{k}": random_events(9, seed=k) for name in CLASSES for k in range(10)}
    write_events_np(tmp_path / "events", written)
    write_npz(tmp_path / "events/events_np/cat/a_0.npz", t=[1], x=[1], y=[1], p=[2])
    assert "cat/a_0.npz holds events outside" in refusal(tmp_path / "events")
    write_frames(tmp_path / "frames", written)
    path = tmp_path / f"frames/frames_number_{T}_split_by_number/dog/a_9.npz"
    write_npz(path, frames=np.zeros((T + 1, 2, 128, 128)))
    assert f"dog/a_9.npz holds {T + 1} frames where {T} are asked for" in refusal(tmp_path / "frames")
