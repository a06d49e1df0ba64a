"""The two recording formats against SpikingJelly's decoders, and files that are damaged."""

import struct

import numpy as np
import pytest
import spikingjelly.datasets as sj
from recordings import AEDAT2_HEADER, AEDAT3_HEADER, aedat2, aedat3, entries, packet, random_events, same, write
from spikingjelly.datasets.cifar10_dvs import CIFAR10DVS

from jellyplus._errors import InputError
from jellyplus.datasets.aedat import read_aedat2, read_aedat3
from jellyplus.datasets.frames import Events


def spikingjelly_aedat2(path, monkeypatch):
    """Their decoder, given back the two names that numpy dropped."""
    with monkeypatch.context() as patch:
        patch.setattr(np, "fromstring", np.frombuffer)
        patch.setattr(np, "bool", np.bool_, raising=False)
        return CIFAR10DVS.load_origin_data(str(path))


def refusal(read, path):
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_aedat2_is_what_was_written_and_what_spikingjelly_reads(tmp_path, monkeypatch):
    written = random_events(3000, seed=0)
    path = write(tmp_path / "a.aedat", aedat2(written))
    ours = read_aedat2(path)
    assert [array.dtype for array in ours] == [np.int64, np.uint8, np.uint8, np.uint8]
    assert same(ours, written)
    theirs = spikingjelly_aedat2(path, monkeypatch)
    assert same(ours, Events(*(theirs[key] for key in "txyp")))


def test_aedat2_any_address_is_decoded_as_spikingjelly_does(tmp_path, monkeypatch):
    words = np.random.default_rng(1).integers(0, 2**32, (500, 2), dtype=np.uint32)
    words[:, 0] &= 0xFFFF  # bit 15 marks what is no event of a pixel, and is ignored
    words[:200, 0] |= 0x00FF0000  # as are bits that the sensor does not have, in less than a half
    words[:, 1] = np.arange(500)
    path = write(tmp_path / "a.aedat", AEDAT2_HEADER + words.astype(">u4").tobytes())
    theirs = spikingjelly_aedat2(path, monkeypatch)
    assert same(read_aedat2(path), Events(*(theirs[key] for key in "txyp")))


CHIPS = {
    "DAVIS240C": b"eu.seebetter.ini.chips.davis.DAVIS240C",
    "Davis346B": b"eu.seebetter.ini.chips.davis.Davis346B",
    "a name": b"DAVIS240C",
    "another DVS": b"ch.unizh.ini.jaer.chip.retina.DVS640",
    "a stereo pair": b"ch.unizh.ini.jaer.chip.stereopsis.Tmpdiff128StereoPair",
}


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_aedat2_of_another_chip_is_refused_whatever_its_addresses(tmp_path, chip):
    header = AEDAT2_HEADER + b"# AEChip: " + chip + b"\r\n#End Of ASCII Header\r\n"
    message = refusal(read_aedat2, write(tmp_path / "a.aedat", aedat2(random_events(50, seed=0), header)))
    assert f"is a recording of {chip.decode()}; give recordings of a DVS128" in message


@pytest.mark.parametrize("chip", [b"ch.unizh.ini.jaer.chip.retina.DVS128", b"DVS128", b"Dvs128", b"a.b.Tmpdiff128 "])
def test_aedat2_of_a_dvs128_by_its_header(tmp_path, chip):
    header = AEDAT2_HEADER + b"# AEChip: " + chip + b"\r\n"
    written = random_events(50, seed=0)
    assert same(read_aedat2(write(tmp_path / "a.aedat", aedat2(written, header))), written)


def test_aedat2_without_a_chip_but_with_addresses_of_another(tmp_path):
    # DAVIS240C: bits 22-30 are y, 12-21 x, 11 the polarity
    draw = np.random.default_rng(0)
    words = [word for t in range(100) for word in (int(draw.integers(180)) << 22 | int(draw.integers(240)) << 12, t)]
    path = write(tmp_path / "a.aedat", AEDAT2_HEADER + struct.pack(">200I", *words))
    assert "holds addresses of more than 16 bits; give recordings of a DVS128" in refusal(read_aedat2, path)


def test_aedat3_of_another_source_is_refused_though_its_events_would_fit(tmp_path):
    content = aedat3(random_events(50, seed=0)).replace(b"#Source 1: DVS128", b"#Source 1: DAVIS240C")
    assert "is a recording of DAVIS240C; give" in refusal(read_aedat3, write(tmp_path / "a.aedat", content))
    unnamed = content.replace(b"#Source 1: DAVIS240C\r\n", b"")
    assert same(read_aedat3(write(tmp_path / "b.aedat", unnamed)), random_events(50, seed=0))


@pytest.mark.parametrize("rest", [b"\x00\x01\x02", b"\x0a\x01\x02", b"abc"])
def test_aedat2_data_that_begins_as_a_comment_does_is_data(tmp_path, rest):
    path = write(tmp_path / "a.aedat", AEDAT2_HEADER + b"#" + rest + struct.pack(">3I", 9, 0, 10))
    if rest.startswith(b"\x0a"):
        refusal(read_aedat2, path)  # "#\n" is a line of text for every reader: the rest is no whole event
    else:
        assert read_aedat2(path).t.tolist() == [9, 10]


def test_aedat2_timestamps_that_go_back_or_wrap(tmp_path):
    times = [2**31 - 1, 2**31 + 5, 2**32 - 2, 2**32 + 3, 2**32 - 1, 2**32 + 4]
    written = random_events(len(times), seed=0)._replace(t=np.array(times))
    assert read_aedat2(write(tmp_path / "a.aedat", aedat2(written))).t.tolist() == times


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no header"),
        (b"\x00" * 800, "has no header"),
        (AEDAT3_HEADER, "has no header"),
        (b"#!AER-DAT2.0", "has no header"),
        (b"#!AER-DAT2.0\x00\x00\x00\x00", "has no header"),
        (AEDAT2_HEADER, "holds no event"),
        (AEDAT2_HEADER + bytes(8 * 5 + 3), "ends within an event"),
    ],
)
def test_aedat2_damaged(tmp_path, content, reason):
    assert reason in refusal(read_aedat2, write(tmp_path / "a.aedat", content))


def test_aedat3_is_what_was_written_and_what_spikingjelly_reads(tmp_path):
    written = random_events(3000, seed=2, begin=2**31 - 50_000)  # the 31 bits overflow half way
    begin = np.searchsorted(written.t, 2**31)
    parts = [Events(*(array[part] for array in written)) for part in (slice(begin), slice(begin, None))]
    path = write(tmp_path / "a.aedat", aedat3(parts[0]) + aedat3(parts[1]).removeprefix(AEDAT3_HEADER))
    ours, theirs = read_aedat3(path), sj.load_aedat_v3(str(path))
    assert [array.dtype for array in ours] == [np.int64, np.uint8, np.uint8, np.uint8]
    assert same(ours, written)
    assert same(ours, Events(*(theirs[key] for key in "txyp")))


def test_aedat3_room_beyond_the_number_and_invalid_events_are_no_events(tmp_path):
    first, second = random_events(6, seed=0), random_events(2, seed=1)
    content = AEDAT3_HEADER + packet(entries(first), number=4) + packet(entries(second, valid=0))
    read = read_aedat3(write(tmp_path / "a.aedat", content))
    assert same(read, Events(*(array[:4] for array in first)))


EVENTS = entries(random_events(5, seed=0))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no header"),
        (AEDAT2_HEADER + packet(EVENTS), "has no header"),
        (b"#!AER-DAT3.1\r\n" + packet(EVENTS), "has no header"),
        (AEDAT3_HEADER, "holds no event"),
        (AEDAT3_HEADER + packet([]) + packet(EVENTS, kind=0), "holds no event"),
        (AEDAT3_HEADER + packet(EVENTS)[:20], "ends within the head"),
        (AEDAT3_HEADER + packet(EVENTS)[:-3], "ends within a packet"),
        (AEDAT3_HEADER + packet(EVENTS, capacity=2**29), "ends within a packet"),
        (AEDAT3_HEADER + packet(EVENTS, size=2**32 - 1, capacity=2**32 - 1), "ends within a packet"),
        (AEDAT3_HEADER + packet(EVENTS, number=2**31), "2147483648 events of 8 bytes in room for 5"),
        (AEDAT3_HEADER + packet(EVENTS, size=4), "of 4 bytes"),
        (AEDAT3_HEADER + packet([(200 << 17 | 1, 0)]), "outside 128x128"),
        (AEDAT3_HEADER + packet([(128 << 2 | 1, 0)]), "outside 128x128"),
    ],
)
def test_aedat3_damaged(tmp_path, content, reason):
    assert reason in refusal(read_aedat3, write(tmp_path / "a.aedat", content))


@pytest.mark.parametrize("read", [read_aedat2, read_aedat3])
def test_no_file(tmp_path, read):
    assert "cannot read" in refusal(read, tmp_path / "a.aedat")
    assert "cannot read" in refusal(read, tmp_path)


@pytest.mark.parametrize("read", [read_aedat2, read_aedat3])
def test_random_damage_is_read_or_refused(tmp_path, read):
    draw = np.random.default_rng(0)
    whole = (aedat2 if read is read_aedat2 else aedat3)(random_events(50, seed=0))
    for _ in range(300):
        content = bytearray(whole[: draw.integers(1, len(whole) + 1)])
        for position in draw.integers(0, len(content), 3):
            content[position] = draw.integers(256)
        path = write(tmp_path / "a.aedat", bytes(content))
        try:
            events = read(path)
        except InputError:
            continue
        assert 0 < len(events.t) <= 60
