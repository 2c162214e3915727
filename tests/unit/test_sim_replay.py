"""A recording played back: the same frames to the bit, silence after them, and faults that act on recorded hits."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from petqc.calibration.charge import charge_table, time_of_code
from petqc.calibration.tdc import interval_of_code
from petqc.formats.petsys_config import load_config
from petqc.formats.petsys_raw import RawHeader, RawReader, RawWriter, pack_frame
from petqc_simulators.effects import Effects
from petqc_simulators.faults import Fault
from petqc_simulators.hit_faults import REFUSED, HitFaults
from petqc_simulators.physics.blocks import BLOCK_FRAMES, Block
from petqc_simulators.profile import ProfileError, load_profile
from petqc_simulators.recorded_detector import RecordedDetector
from petqc_simulators.recorded_frames import RecordedFrames, account_of
from petqc_simulators.recording import write_recording
from petqc_simulators.replay import ReplaySettings, find_source, fitting_profile, replay
from petqc_simulators.serving import ServeSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.formats.petsys_config import PetsysConfig

BENCH = load_profile("bench")
CLOCK_PS = 5000.0


def played(path: Path) -> list[Block]:
    frames = RecordedFrames(path)
    blocks = []
    while not frames.is_over:
        blocks.append(frames.block(7000 + BLOCK_FRAMES * len(blocks)))
    frames.close()
    return blocks


def parts(words: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Ids, second header words and events of whole frames."""
    starts, at = [], 0
    while at < words.size:
        starts.append(at)
        at += int(words[at] >> np.uint64(36)) & 0x7FFF
    heads = np.array(starts)
    is_event = np.ones(words.size, np.bool_)
    is_event[heads] = is_event[heads + 1] = False
    return (words[heads] & np.uint64((1 << 36) - 1)).astype(np.int64), words[heads + 1], words[is_event]


def test_empty_and_lost_frames_are_put_back_as_what_they_were(tmp_path: Path) -> None:
    lost, event = 1 << 16, [5 << 42]
    given = [(0, [], 0), (1, [], 0), (2, [], 0), (3, event, 0), (4, [], lost), (5, [], lost), (6, [], lost)]
    given += [(7, event, 0), (1500, event, 0), (1501, event, lost)]
    with RawWriter(tmp_path / "r", RawHeader()) as writer:
        writer.start_step()
        frames = [pack_frame(10 + n, events, lost=bool(flag)) for n, events, flag in given if n != 5]
        writer.write(np.concatenate(frames))
        writer.end_step(last_frame=1511)
    blocks = played(tmp_path / "r.rawf")
    assert [block.first_frame for block in blocks] == [7000, 7000 + BLOCK_FRAMES]
    ids, second, events = parts(np.concatenate([block.words for block in blocks]))
    assert ids.tolist() == list(range(7000, 7000 + 1502))
    is_lost = np.flatnonzero((second & np.uint64(0x18000)) != 0).tolist()
    # What a recording misses between two frames with hits was lost; so the writer noted it, and so it is again.
    assert is_lost[:3] == [4, 5, 6]
    assert is_lost[3:] == [*range(8, 1500), 1501]
    assert events.tolist() == event * 4


@pytest.mark.parametrize("mode", ["qdc", "tot"])
def test_recordings_of_others_are_played_to_the_bit(shared_data: Path, mode: str) -> None:
    path = shared_data / "petsys-golden" / mode / "run.rawf"
    account = account_of(path)
    with RawReader(path) as reader:
        _, _, events = parts(np.concatenate(list(reader.blocks())))
    ids, _, again = parts(np.concatenate([block.words for block in played(path)]))
    np.testing.assert_array_equal(again, events)
    assert account.hits == events.size
    assert (np.diff(ids) == 1).all()
    source = find_source(path)
    profile = fitting_profile(account, load_config(source.config))
    assert set(account.channels) <= set(profile.absolute_channels().tolist())
    detector = RecordedDetector(profile, 1, path, load_config(source.config))
    detector.set(replace(detector.controls, is_read=np.ones(profile.geometry.channels, np.bool_)))
    hits = sum(block.words.size - 2 * (block.starts.size - 1) for block in (detector.advance() for _ in range(9)))
    assert (hits, detector.is_at_end) == (events.size, True)
    detector.close()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PetsysConfig]:
    made = write_recording(tmp_path_factory.mktemp("replay") / "r", BENCH, 3, 0.1, truth_seconds=0)
    return Path(made["recording"]), load_config(Path(made["config"]))


def detector_of(recorded: tuple[Path, PetsysConfig], *faults: str, **given: Any) -> RecordedDetector:
    return RecordedDetector(BENCH, 1, *recorded, [Fault.parse(f) for f in faults], **given)


def words_of(detector: RecordedDetector, blocks: int) -> NDArray[np.uint64]:
    return parts(np.concatenate([detector.advance().words for _ in range(blocks)]))[2]


def test_it_plays_while_the_bias_is_on_and_is_silent_after_its_end(recorded: tuple[Path, PetsysConfig]) -> None:
    detector = detector_of(recorded)
    n = detector.account.frames // BLOCK_FRAMES
    assert detector.advance().words.size == 2 * BLOCK_FRAMES  # no bias yet
    working = detector._wanted_v.copy()
    detector.set(replace(detector.controls, bias_v=working))
    detector.settle()
    assert words_of(detector, n).size == detector.account.hits
    assert detector.advance().words.size == 0
    assert detector.is_at_end
    detector.set(replace(detector.controls, bias_v=np.zeros_like(working)))
    detector.settle()
    assert detector.advance().words.size == 2 * BLOCK_FRAMES
    detector.set(replace(detector.controls, bias_v=working))
    detector.settle()
    assert words_of(detector, 1).size > 0
    assert detector.comparator_duty(detector.controls).sum() == 0
    detector.close()


class Beside:
    """Stands for a recorded supply."""

    is_as_with_frames = False
    begun = 0

    def frames_begin(self) -> None:
        self.begun += 1


def test_frames_wait_until_instruments_are_as_they_were_and_begin_anew_with_them(
    recorded: tuple[Path, PetsysConfig],
) -> None:
    supply = Beside()
    detector = detector_of(recorded, beside=[supply])
    detector.set(replace(detector.controls, bias_v=detector._wanted_v.copy()))
    detector.settle()
    n = detector.account.frames // BLOCK_FRAMES
    for turn in (1, 2):
        assert words_of(detector, 2).size == 0
        supply.is_as_with_frames = True
        assert words_of(detector, n).size == detector.account.hits
        assert supply.begun == turn
        supply.is_as_with_frames = False
    detector.close()


def test_a_loop_is_counted_and_only_then_it_begins_again(recorded: tuple[Path, PetsysConfig]) -> None:
    detector = detector_of(recorded, loops=True)
    detector.set(replace(detector.controls, bias_v=detector._wanted_v.copy()))
    detector.settle()
    n = detector.account.frames // BLOCK_FRAMES
    first = words_of(detector, n - 1)
    assert detector.turns == 0
    again = words_of(detector, n - 1)
    assert detector.replay_status()["turns"] == 1
    np.testing.assert_array_equal(first, again)
    detector.close()


def values(words: NDArray[np.uint64], config: PetsysConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times in ps within their frames and charges in clocks, by the recording's own tables."""
    gids = BENCH.absolute_channels()
    row = 4 * np.searchsorted(gids, (words >> np.uint64(42)).astype(np.int64)) + (
        (words >> np.uint64(40)).astype(np.int64) & 3
    )
    tdc = config.tables["tdc"]
    tdc = np.sort(tdc[tdc["branch"] == 0], order=["port", "slave", "chip", "channel", "tac"])[row]
    qdc = np.sort(config.tables["qdc"], order=["port", "slave", "chip", "channel", "tac"])
    p = np.stack([qdc[f"p{k}"] for k in range(10)], axis=1).astype(np.float32)
    t, e = ((((words >> np.uint64(bit)).astype(np.int64) + 27) & 1023).astype(np.float32) for bit in (10, 0))
    t_coarse, e_coarse = ((words >> np.uint64(bit)).astype(np.int64) & 1023 for bit in (30, 20))
    q = interval_of_code(t, *(tdc[name].astype(np.float32) for name in ("a0", "a1", "a2")))
    length = (e_coarse - t_coarse + 256) % 1024 - 256
    return (t_coarse - q) * CLOCK_PS, time_of_code(e, row, charge_table(p)) - (length + q + tdc["t0"])


def changed(
    recorded: tuple[Path, PetsysConfig], change: dict[str, float], channels: slice = slice(None)
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Events of some blocks before and after a change of the effects."""
    path, config = recorded
    blocks = played(path)[:8]
    faults, effects = HitFaults(BENCH, config, np.random.default_rng(1)), Effects.none(BENCH.geometry)
    for name, value in change.items():
        getattr(effects, name)[channels] = value
    is_read = np.ones(BENCH.geometry.channels, np.bool_)
    after = [faults.apply(block, effects, is_read).words for block in blocks]
    return parts(np.concatenate([b.words for b in blocks]))[2], parts(np.concatenate(after))[2]


def test_a_delay_is_a_delay_and_charges_stay(recorded: tuple[Path, PetsysConfig]) -> None:
    before, after = changed(recorded, {"delay_ps": 300.0}, slice(0, 256))
    assert before.size == after.size
    (t0, e0), (t1, e1) = values(before, recorded[1]), values(after, recorded[1])
    is_late = (before >> np.uint64(48)) < 4
    assert (before[~is_late] == after[~is_late]).all()
    assert np.mean((t1 - t0)[is_late]) == pytest.approx(300.0, abs=1.0)
    assert np.std((t1 - t0)[is_late]) < 20.0  # the step of the converter
    assert np.mean((e1 - e0)[is_late]) == pytest.approx(0.0, abs=0.03)


def test_less_light_is_less_charge_at_the_same_time(recorded: tuple[Path, PetsysConfig]) -> None:
    before, after = changed(recorded, {"light": 0.85})
    (t0, e0), (t1, e1) = values(before, recorded[1]), values(after, recorded[1])
    is_large = e0 > np.median(e0)
    assert np.mean(e1[is_large] / e0[is_large]) == pytest.approx(0.85, abs=0.003)
    np.testing.assert_allclose(t1, t0, atol=20.0)


def test_a_delay_of_frames_brings_every_hit_into_a_later_one(recorded: tuple[Path, PetsysConfig]) -> None:
    path, config = recorded
    block = played(path)[0]
    faults, effects = HitFaults(BENCH, config, np.random.default_rng(1)), Effects.none(BENCH.geometry)
    effects.module_delay_ps[:] = 2 * 1024 * CLOCK_PS
    is_read = np.ones(BENCH.geometry.channels, np.bool_)
    later = faults.apply(block, effects, is_read)
    counts = [(b.words[b.starts[:-1] + 1] & np.uint64(0x7FFF)).astype(int) for b in (block, later)]
    assert counts[1][:2].sum() == 0
    np.testing.assert_array_equal(counts[1][2:], counts[0][:-2])


def test_dead_channels_and_unread_ones_are_missing_and_the_rest_is_the_same(
    recorded: tuple[Path, PetsysConfig],
) -> None:
    before, after = changed(recorded, {"dead": True}, slice(0, 64))
    kept = (before >> np.uint64(48)) != 0
    np.testing.assert_array_equal(after, before[kept])


def test_swapped_asics_swap_names_only(recorded: tuple[Path, PetsysConfig]) -> None:
    found = []
    for faults in ((), ("F21",)):
        with closing(detector_of(recorded, *faults)) as detector:
            detector.set(replace(detector.controls, bias_v=detector._wanted_v.copy()))
            detector.settle()
            found.append(words_of(detector, 5))
            planted = detector.plan.describe()
    one, other = planted[0]["places"]
    was, now = ((words >> np.uint64(48)).astype(int) for words in found)
    assert (now == np.where(was == one, other, np.where(was == other, one, was))).all()
    assert ((found[0] ^ found[1]) & np.uint64((1 << 48) - 1)).max() == 0


def test_what_a_recording_cannot_have_is_refused_with_the_reason(recorded: tuple[Path, PetsysConfig]) -> None:
    with closing(detector_of(recorded)) as detector:
        for kind, why in REFUSED.items():
            assert detector.why_not(kind) == why
        assert not detector.why_not("F01")
    hardware = replace(BENCH.hardware, module_places=[1])
    other = replace(BENCH, hardware=hardware, geometry=replace(BENCH.geometry, modules=1))
    with pytest.raises(ProfileError, match="are not in"):
        RecordedDetector(other, 1, *recorded)


def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.ldat").touch()
    with pytest.raises(ProfileError, match="what boards send"):
        find_source(tmp_path / "x.ldat")
    with pytest.raises(ProfileError, match="no bundle"):
        find_source(tmp_path)
    (tmp_path / "x.rawf").touch()
    with pytest.raises(ProfileError, match="--config"):
        find_source(tmp_path / "x.rawf")


def test_a_scanner_that_is_not_served_is_refused_before_its_recording_is_read(
    recorded: tuple[Path, PetsysConfig], tmp_path: Path
) -> None:
    """Gigabytes are not read to say that."""
    (tmp_path / "run.rawf").write_bytes(b"not read")
    where = ReplaySettings(
        tmp_path / "run.rawf",
        ServeSettings("bench", 1),
        config=recorded[0].parent / "config" / "config.ini",
        profile="signa",
    )
    with pytest.raises(ProfileError, match="recorded, not served"):
        replay(where)
