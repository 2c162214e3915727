"""The whole chain in petqc mode: nothing lost at any edge, everything dropped counted, whatever the chunks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petqc.calibration import CalibrationSet
from petqc.errors import BadInputError
from petqc.formats.petsys_config import PetqcSection, load_config, write_config
from petqc.formats.petsys_tables import TABLES
from petqc.processing import Processed, ProcessingSettings, Processor, joined

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOCK_PS = 5000
FRAME_PS = 1024 * CLOCK_PS
RAW_FINE = 200  # decoded 227
Q_CLOCKS = 1.0  # every TDC below is a0 = 27, a1 = 200, a2 = 0: decoded code 227 means 1 clock
PLAIN = ProcessingSettings(group_window_ps=20_000, group_max_distance_mm=10, coincidence_window_ps=10_000)


def table(kind: Any, rows: list[tuple[Any, ...]]) -> NDArray[Any]:
    return np.array(rows, TABLES[kind].dtype)


def calibration(folder: Path, mode: Any = "tot", *, kev: bool = False, spread: bool = False) -> CalibrationSet:
    """Two chips of 64 channels 5 mm apart in rows of 8, one region each, 200 mm between them.

    Chip 1, channel 63 has no map; chip 1, channel 62, TAC 3 no TDC; spread gives channels time offsets up to 30 ns.
    """
    tdc, qdc, places, offsets, kevs = [], [], [], [], []
    for chip in (0, 1):
        for channel in range(64):
            at = (0, 0, chip, channel)
            for tac in range(4):
                if (chip, channel, tac) != (1, 62, 3):
                    tdc += [(*at, tac, branch, 0.0, 27.0, 200.0, 0.0) for branch in (0, 1)]
                qdc.append((*at, tac, 50.0, 2.0, *[0.0] * 8))
            if (chip, channel) != (1, 63):
                x, y = 5.0 * (channel % 8), 5.0 * (channel // 8)
                places.append((*at, chip, channel % 8, channel // 8, x, y, 200.0 * chip))
            offsets.append((*at, 470.0 * ((channel * 37 + chip * 11) % 64) if spread else 0.0))
            kevs.append((*at, 10.0, 300.0 if channel % 2 else np.inf))
    tables: dict[Any, Any] = {
        "tdc": table("tdc", tdc),
        "qdc": table("qdc", qdc),
        "channel_map": table("channel_map", places),
        "trigger_map": table("trigger_map", [(0, 0, 0), (1, 1, 0), (0, 1, 1)]),
        "time_offset": table("time_offset", offsets),
    }
    if kev:
        tables["energy_kev"] = table("energy_kev", kevs)
    write_config(folder, tables, petqc=PetqcSection(asics_per_module=1))
    return CalibrationSet.from_config(load_config(folder), acquisition=mode)


@pytest.fixture(scope="module")
def tot(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    return calibration(tmp_path_factory.mktemp("tot"))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    return calibration(tmp_path_factory.mktemp("uneven"), spread=True)


def event(channel: int, t_clock: int, tot_clocks: int = 40, *, tac: int = 0, t_fine: int = RAW_FINE) -> int:
    """An event word; channel is chip * 64 + channel of port 0, slave 0."""
    end = (t_clock + tot_clocks) % 1024
    return channel << 42 | tac << 40 | t_clock << 30 | end << 20 | t_fine << 10 | RAW_FINE


def frame(number: int, events: list[int] | None = None, *, lost: bool = False) -> NDArray[np.uint64]:
    """A whole frame."""
    events = events or []
    head = [(len(events) + 2) << 36 | number % (1 << 36), len(events) | (1 << 16 if lost else 0)]
    return np.array([*head, *events], np.uint64)


def run(
    cal: CalibrationSet,
    how: ProcessingSettings,
    frames: list[NDArray[np.uint64]],
    cuts: list[int] | None = None,
    **more: Any,
) -> tuple[Processed, dict[str, Any]]:
    """Process frames, fed in runs that end at the given frame numbers."""
    processor = Processor(cal, how, keep_hits=True, **more)
    parts, begin = [], 0
    for end in [*(cuts or []), len(frames)]:
        chunk = frames[begin:end]
        parts.append(processor.feed(np.concatenate(chunk) if chunk else np.empty(0, np.uint64)))
        begin = end
    parts.append(processor.finish())
    return joined(parts), asdict(processor.account)


def columns(result: Processed) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"alone": result.delayed_unambiguous.tolist()}
    for name in ("hits", "singles", "prompts", "delayed"):
        found |= {f"{name}.{k}": v.tolist() for k, v in asdict(getattr(result, name)).items() if k != "energy_unit"}
    return found


def random_frames(seed: int, n: int, rate: float, *, first: int = 5) -> list[NDArray[np.uint64]]:
    """Frames with random hits, some of them neighbours in time and space; gaps, empty and lost frames."""
    rng = np.random.default_rng(seed)
    frames, number = [], first
    for _ in range(n):
        number += int(rng.choice([1, 1, 1, 1, 2, 9]))
        events = []
        for _ in range(rng.poisson(rate)):
            clock, near = int(rng.choice([rng.integers(0, 1024), 3, 1020])), int(rng.integers(0, 62))
            fine, length = int(rng.integers(0, 400)), int(rng.integers(5, 200))
            for chip in {0: (0,), 1: (1,), 2: (0, 1)}[int(rng.integers(0, 3))]:
                events.append(event(chip * 64 + near, clock, length, t_fine=fine))
                if rng.random() < 0.4:
                    events.append(event(chip * 64 + (near + 1) % 64, min(clock + 1, 1023), length // 2, t_fine=fine))
        order = rng.permutation(len(events))
        frames.append(frame(number, [events[i] for i in order], lost=bool(rng.random() < 0.1)))
    return frames


def naive(cal: CalibrationSet, how: ProcessingSettings, hits: Any) -> dict[str, list[Any]]:
    """Singles and pairs from the definitions, all hits at once, in plain Python."""
    region, relation, xyz = cal.region, cal.relation, cal.xyz_mm
    dense = cal.dense_of(hits.channel)
    t, e = hits.time_ps.tolist(), hits.energy.tolist()
    free, singles = [True] * len(t), []
    for i in range(len(t)):
        if not free[i]:
            continue
        members = [i]
        for j in range(i + 1, len(t)):
            if t[j] > t[i] + how.group_window_ps:
                break
            same = relation[region[dense[i]], region[dense[j]]] & 1
            if free[j] and same and np.linalg.norm(xyz[dense[i]] - xyz[dense[j]]) <= how.group_max_distance_mm:
                members.append(j)
        for j in members:
            free[j] = False
        total = float(np.float32(sum(e[j] for j in members)))
        low, high = how.group_min_energy * 5, how.group_max_energy * 5  # clocks, and the energies here are ns
        if how.group_min_hits <= len(members) <= how.group_max_hits and low <= total <= high:
            top = max(members, key=lambda j: (e[j], -j))
            singles.append((t[top], total, int(dense[top]), len(members)))
    singles.sort(key=lambda s: s[0])
    low, high = how.coincidence_energy or (-np.inf, np.inf)
    usable = [s for s in singles if low <= s[1] <= high]
    half, delay = how.coincidence_window_ps // 2, how.delay_ps
    time_ = np.array([s[0] for s in usable], np.int64)
    regions = region[[s[2] for s in usable]]
    later = time_[None] - time_[:, None]
    allowed = relation[regions[:, None], regions[None]] & 2 > 0
    near = allowed & (abs(later) <= half) & ~np.eye(time_.size, dtype=bool)
    shifted = allowed & (abs(later - delay) <= half)
    partners, forward, back = near.sum(1), shifted.sum(1), shifted.sum(0)

    def record(i: int, j: int, shift: float) -> tuple[Any, ...]:
        one, two = (usable[i][0] + int(shift), *usable[i][1:]), usable[j]
        a, b = (one, two) if regions[i] > regions[j] else (two, one)
        return (a[0], b[0], a[1], b[1], int(cal.channel[a[2]]), int(cal.channel[b[2]]), a[3], b[3])

    everything = how.multiples == "all"
    prompts = [
        record(i, j, 0) for i, j in np.argwhere(np.triu(near)).tolist() if everything or partners[i] == partners[j] == 1
    ]
    pairs = np.argwhere(shifted).tolist()
    alone = [bool(everything or (partners[i] == partners[j] == 0 and forward[i] == back[j] == 1)) for i, j in pairs]
    return {
        "singles": [(s[0], s[1], int(cal.channel[s[2]]), s[3]) for s in singles],
        "prompts": prompts,
        "delayed": [record(i, j, delay) for i, j in pairs],
        "alone": alone,
    }


def rows(part: Any) -> list[tuple[Any, ...]]:
    return list(zip(*(v.tolist() for k, v in asdict(part).items() if k != "energy_unit"), strict=True))


VARIANTS = [
    PLAIN,
    replace(PLAIN, multiples="all", group_window_ps=300_000, coincidence_window_ps=60_000, delay_ps=70_001),
    replace(PLAIN, coincidence_energy=(200.0, 900.0), group_max_hits=2, group_min_energy=10, group_max_energy=300),
    replace(PLAIN, group_min_hits=2, group_window_ps=1_000_000, delay_ps=6_000_000.0, group_max_distance_mm=1000),
]


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_singles_and_pairs_are_those_of_the_definition(uneven: CalibrationSet, variant: int) -> None:
    how = VARIANTS[variant]
    result, account = run(uneven, how, random_frames(variant, 120, 6))
    hits = result.hits
    assert hits is not None
    wanted = naive(uneven, how, hits)
    assert rows(result.singles) == wanted["singles"]
    assert rows(result.prompts) == wanted["prompts"]
    assert rows(result.delayed) == wanted["delayed"]
    assert result.delayed_unambiguous.tolist() == wanted["alone"]
    assert len(wanted["prompts"]) > 10
    assert len(wanted["delayed"]) > 0
    assert account["singles"] == len(wanted["singles"])
    assert (account["prompts"], account["delayed"]) == (len(wanted["prompts"]), len(wanted["delayed"]))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1 << 32),
    cuts=st.lists(st.integers(0, 80), max_size=12).map(sorted),
    variant=st.integers(0, len(VARIANTS) - 1),
    block=st.sampled_from([1, 7, 1 << 15]),
    least=st.sampled_from([0, 50, 1 << 15]),
    vendor=st.booleans(),
    look_ahead=st.booleans(),
)
def test_chunks_and_threads_do_not_matter(
    uneven: CalibrationSet,
    seed: int,
    cuts: list[int],
    variant: int,
    block: int,
    least: int,
    *,
    vendor: bool,
    look_ahead: bool,
) -> None:
    frames = random_frames(seed, 80, 3)
    how = replace(VARIANTS[variant], vendor_compatible=vendor)
    whole, whole_account = run(uneven, how, frames)
    with mock.patch("petqc.processing.pipeline._BLOCK_HITS", block), mock.patch("petqc.processing._LEAST_WORDS", least):
        parts, parts_account = run(uneven, how, frames, cuts, look_ahead=look_ahead)
    assert columns(parts) == columns(whole)
    assert parts_account == whole_account


def test_hits_come_in_order_of_calibrated_time(uneven: CalibrationSet) -> None:
    hits = run(uneven, PLAIN, random_frames(9, 200, 8))[0].hits
    assert hits is not None
    assert len(hits) > 1000
    assert (np.diff(hits.time_ps) >= 0).all()


def test_a_pair_across_a_frame_edge_is_found(tot: CalibrationSet) -> None:
    frames = [frame(7, [event(3, 1023)]), frame(8, [event(64 + 3, 0)])]
    for cuts in ([], [1]):
        with mock.patch("petqc.processing._LEAST_WORDS", 0):
            result = run(tot, PLAIN, frames, cuts)[0]
        assert rows(result.prompts) == [(8 * FRAME_PS - 5000, 7 * FRAME_PS + 1022 * 5000, 200.0, 200.0, 67, 3, 1, 1)]


def test_time_over_threshold_wraps_with_the_coarse_counter(tot: CalibrationSet) -> None:
    """End coarse time below the start by more than 256: it wrapped. Below by less: the end came before the start."""
    events = [event(1, 1000, 100), event(2, 10, 767), event(3, 300, -256), event(44, 300, -257)]
    result = run(tot, PLAIN, [frame(1, events)])[0]
    found = dict(zip(result.singles.channel.tolist(), (result.singles.energy / 5).tolist(), strict=True))
    assert found == {1: 100.0, 2: 767.0, 3: -256.0, 44: 767.0}


def test_charge_and_kev(tmp_path: Path) -> None:
    """ADC(t) = 50 + 2 t; decoded code 227 is 88.5 clocks; integrated 40 + 1 clocks: charge 47.5."""
    plain = calibration(tmp_path / "clock", "qdc")
    frames = [frame(1, [event(2, 100), event(5, 500)])]
    result = run(plain, PLAIN, frames)[0]
    assert result.singles.energy_unit == "clock"
    np.testing.assert_allclose(result.singles.energy, 47.5, atol=0.01)
    kev = run(calibration(tmp_path / "kev", "qdc", kev=True), PLAIN, frames)[0]
    assert kev.singles.energy_unit == "kev"
    np.testing.assert_allclose(kev.singles.energy, [475.0, -10 * 300 * np.log1p(-47.5 / 300)], rtol=1e-3)


def test_every_dropped_hit_has_its_reason(tmp_path: Path) -> None:
    cal = calibration(tmp_path, "tot", kev=True)
    events = [
        event(1, 10),  # good
        event(64 + 63, 20),  # no map
        event(64 + 62, 30, tac=3),  # no TDC
        event(5 << 6, 40),  # a chip that no table names
        event(1 << 12, 50),  # unit 1: the trigger unit
        event(3, 60, 70),  # 350 ns on a channel that saturates at 300
    ]
    result, account = run(
        cal, PLAIN, [frame(1, events), frame(3, [event(1, 1)]), frame(2, [event(1, 5)])], trigger_id=1
    )
    dropped = {name: n for name, n in account["hits_dropped"].items() if n}
    assert dropped == {
        "not_mapped": 1, "no_tdc_calibration": 2, "trigger_record": 1, "saturated": 1, "frame_out_of_order": 1,
    }  # fmt: skip
    assert account["hits"] == 8 == account["hits_kept"] + sum(dropped.values())
    assert account["out_of_order"] == 1
    assert len(result.singles) == account["hits_kept"] == 2


def test_rejected_groups_are_counted(tot: CalibrationSet) -> None:
    how = replace(PLAIN, group_max_hits=2, group_min_energy=20, group_max_energy=100)
    events = [event(1, 10), event(2, 10), event(3, 10), event(1, 200, 10), event(1, 400, 200), event(1, 600)]
    result, account = run(tot, how, [frame(1, events)])
    assert account["groups_rejected"] == {
        "too_few_hits": 0, "too_many_hits": 1, "energy_too_low": 1, "energy_too_high": 1,
    }  # fmt: skip
    assert account["hits_in_rejected_groups"] == 5
    assert len(result.singles) == 1


def test_a_photon_has_time_and_channel_of_its_strongest_hit(tot: CalibrationSet) -> None:
    events = [event(1, 10, 30), event(2, 12, 50), event(30, 11, 60)]  # the last is 25 mm away
    assert rows(run(tot, PLAIN, [frame(1, events)])[0].singles) == [
        (FRAME_PS + 10 * 5000, 300.0, 30, 1),
        (FRAME_PS + 11 * 5000, 400.0, 2, 2),
    ]


def test_multiples_look_back_and_ahead(tot: CalibrationSet) -> None:
    """In a chain of three singles within 2τ every pair is ambiguous, the earliest and the latest, too."""
    chain = [event(1, 10), event(64 + 1, 11), event(30, 12)]
    clean = [event(1, 500), event(64 + 1, 501)]
    result, account = run(tot, PLAIN, [frame(1, chain + clean)])
    assert [row[0] for row in rows(result.prompts)] == [FRAME_PS + 500 * 5000]
    assert account["multiples"] == 2
    everything = run(tot, replace(PLAIN, multiples="all"), [frame(1, chain + clean)])
    assert len(everything[0].prompts) == 3
    assert everything[1]["multiples"] == 0


def test_delayed_window(tot: CalibrationSet) -> None:
    """One pair 200 clocks apart, and one like it whose first single has a prompt partner."""
    how = replace(PLAIN, delay_ps=1_000_000)
    events = [event(1, 10), event(64 + 1, 211), event(1, 500), event(64 + 2, 500), event(64 + 1, 700)]
    result = run(tot, how, [frame(1, events)])[0]
    assert [(row[0] - row[1], row[4], row[5]) for row in rows(result.delayed)] == [(5000, 65, 1), (0, 65, 1)]
    assert result.delayed_unambiguous.tolist() == [True, False]


@pytest.mark.parametrize("start", [(1 << 36) - 3, (2 << 36) - 3])
def test_frame_counter_wraps(tot: CalibrationSet, start: int) -> None:
    numbers = [start % (1 << 36) + i for i in range(6)]
    near_end = [frame(n, [event(1, 1023 if i % 2 else 500), event(65, 0)]) for i, n in enumerate(numbers)]
    early = [frame(100 + i, [event(1, 1023 if i % 2 else 500), event(65, 0)]) for i in range(6)]
    wrapped, wrapped_account = run(tot, PLAIN, near_end)
    plain, plain_account = run(tot, PLAIN, early)
    shift = (numbers[0] - 100) * FRAME_PS
    assert len(plain.prompts) > 0
    np.testing.assert_array_equal(wrapped.singles.time_ps, plain.singles.time_ps + shift)
    np.testing.assert_array_equal(wrapped.prompts.time_a_ps, plain.prompts.time_a_ps + shift)
    assert wrapped_account["frames"] == plain_account["frames"] == 6
    assert wrapped_account["frames_lost"] == wrapped_account["out_of_order"] == 0
    assert wrapped_account["last_frame"] == numbers[-1]


def test_times_stay_exact_after_days(uneven: CalibrationSet) -> None:
    early = run(uneven, PLAIN, random_frames(4, 50, 5))[0]
    late = run(uneven, PLAIN, random_frames(4, 50, 5, first=5 + (1 << 35)))[0]
    np.testing.assert_array_equal(late.singles.time_ps - early.singles.time_ps, (1 << 35) * FRAME_PS)
    np.testing.assert_array_equal(late.singles.energy, early.singles.energy)


def test_long_gaps_cost_nothing(tot: CalibrationSet) -> None:
    begin = time.process_time()
    numbers = [1, 2, 3 + (1 << 33), 4 + (1 << 33), 5 + (1 << 34)]
    result, account = run(tot, PLAIN, [frame(n, [event(i, 10 + 9 * i) for i in range(0, 60, 4)]) for n in numbers])
    assert time.process_time() - begin < 5.0
    assert len(result.singles) == 75
    assert account["frames"] == 5 + (1 << 34)


@pytest.mark.parametrize(
    ("frames", "compacted", "lost", "empty"),
    [
        ([(1, 1, 0), (2, 1, 0), (5, 1, 0)], True, 0, 2),  # by itself a gap is a run of empty frames
        ([(1, 1, 0), (2, 1, 0), (5, 1, 0)], False, 2, 0),  # but a live stream has no gaps
        ([(1, 1, 0), (2, 0, 1), (5, 1, 0)], True, 3, 0),  # after a lost frame a gap is lost
        ([(1, 1, 0), (2, 0, 0), (5, 1, 0)], True, 0, 3),
        ([(1, 1, 0), (2, 0, 0), (5, 1, 0)], False, 2, 1),
        ([(1, 0, 1), (4, 0, 0), (9, 1, 1)], True, 3, 5),
        ([(1, 1, 1)], True, 0, 0),
    ],
)
def test_lost_frames(
    tot: CalibrationSet,
    frames: list[tuple[int, int, int]],
    *,
    compacted: bool,
    lost: int,
    empty: int,
) -> None:
    words = [frame(number, [event(1, 1)] * n, lost=bool(flag)) for number, n, flag in frames]
    account = run(tot, replace(PLAIN, compacted=compacted), words)[1]
    assert (account["frames_lost"], account["frames_empty"]) == (lost, empty)
    assert account["frames"] == frames[-1][0]
    assert account["frames_partly_lost"] == sum(bool(n and flag) for _, n, flag in frames)
    assert account["live_time_s"] == pytest.approx((frames[-1][0] - lost) * 5.12e-6)


def test_steps_and_the_index(tot: CalibrationSet) -> None:
    """The closing run of empty frames is known from the index only; frames between steps are nobody's loss."""
    processor = Processor(tot, PLAIN)
    processor.feed(np.concatenate([frame(1, [event(1, 1)]), frame(2)]))
    first = processor.end_step(last_frame=10)
    processor.feed(np.concatenate([frame(100, [event(1, 1)]), frame(101, lost=True)]))
    second = processor.finish(last_frame=103)
    account = processor.account
    assert (len(first.singles), len(second.singles)) == (1, 1)
    assert (account.frames, account.frames_lost, account.frames_empty) == (14, 3, 9)
    assert (account.first_frame, account.last_frame) == (1, 103)


def test_nothing_in_nothing_out(tot: CalibrationSet) -> None:
    for how in (PLAIN, replace(PLAIN, vendor_compatible=True)):
        for frames in ([], [frame(3), frame(9, lost=True)]):
            result, account = run(tot, how, frames)
            assert not len(result.singles) + len(result.prompts) + len(result.delayed)
            assert account["hits"] == 0
            assert account["frames"] == (7 if frames else 0)


def test_no_map_no_pairs_but_all_singles(tmp_path: Path) -> None:
    tdc = table("tdc", [(0, 0, 0, c, t, b, 0.0, 27.0, 200.0, 0.0) for c in (1, 2) for t in range(4) for b in (0, 1)])
    write_config(tmp_path, {"tdc": tdc})
    cal = CalibrationSet.from_config(load_config(tmp_path))
    result, account = run(cal, PLAIN, [frame(1, [event(1, 10), event(2, 10), event(3, 10)])])
    assert len(result.singles) == 2
    assert len(result.prompts) == 0
    assert account["hits_dropped"]["no_tdc_calibration"] == 1


@pytest.mark.parametrize("vendor", [False, True])
def test_words_that_are_no_frames_are_refused(tot: CalibrationSet, *, vendor: bool) -> None:
    processor = Processor(tot, replace(PLAIN, vendor_compatible=vendor))
    processor.feed(np.concatenate([frame(1, [event(1, 1)]), np.array([9 << 36, 3], np.uint64)]))
    with pytest.raises(BadInputError, match="word 3 is not the start of a whole frame"):
        processor.finish()
    with pytest.raises(BadInputError, match="uint64"):
        processor.feed(np.zeros(4, np.int64))  # type: ignore[arg-type]


def test_words_decoded_ahead_that_are_no_frames_are_refused_behind_what_is_right(tot: CalibrationSet) -> None:
    good = [frame(k, [event(1, 1)]) for k in range(200)]
    with mock.patch("petqc.processing._LEAST_WORDS", 0), mock.patch("petqc.processing.pipeline._BLOCK_HITS", 7):
        processor = Processor(tot, PLAIN, look_ahead=True)
        assert not len(processor.feed(np.concatenate(good[:100])).singles)  # they come with the next call
        processor.feed(np.concatenate([*good[100:], np.array([9 << 36, 3], np.uint64)]))
        with pytest.raises(BadInputError, match="word 600 is not the start of a whole frame"):
            processor.finish()


def test_whoever_stops_in_mid_run_leaves_no_thread_that_decodes_ahead(tot: CalibrationSet) -> None:
    """The guard of all tests looks for it."""
    words = np.concatenate([frame(k, [event(1, 1)]) for k in range(500)])
    with mock.patch("petqc.processing._LEAST_WORDS", 0), mock.patch("petqc.processing.pipeline._BLOCK_HITS", 3):
        processor = Processor(tot, PLAIN, look_ahead=True)
        for part in np.split(words, 10):
            processor.feed(part)


def test_steps_decoded_ahead_are_those_decoded_in_turn(uneven: CalibrationSet) -> None:
    frames = random_frames(3, 300, 3)
    found = []
    for look_ahead in (False, True):
        with mock.patch("petqc.processing._LEAST_WORDS", 0), mock.patch("petqc.processing.pipeline._BLOCK_HITS", 50):
            processor = Processor(uneven, PLAIN, keep_hits=True, look_ahead=look_ahead)
            parts = []
            for begin in range(0, 300, 100):
                parts += [processor.feed(np.concatenate(frames[k : k + 20])) for k in range(begin, begin + 100, 20)]
                parts.append(processor.end_step(begin + 200))
        found.append((columns(joined(parts)), asdict(processor.account)))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "change",
    [
        {"group_window_ps": -1},
        {"group_window_ps": float("nan")},
        {"coincidence_window_ps": 0},
        {"delay_ps": 10_000},
        {"group_max_hits": 256},
        {"group_min_hits": 5, "group_max_hits": 4},
        {"coincidence_energy": (600.0, 400.0)},
        {"multiples": "some"},
        {"clock_hz": 0.0},
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        replace(PLAIN, **change)


def test_settings_of_a_configuration(tmp_path: Path) -> None:
    from petqc.formats.petsys_config import SwTrigger

    trigger = SwTrigger(group_time_window=15, coincidence_time_window=1.5, group_max_hits=3)
    write_config(tmp_path, {}, sw_trigger=trigger, petqc=PetqcSection(energy_window_kev=(425, 650)))
    found = ProcessingSettings.from_config(load_config(tmp_path))
    assert (found.group_window_ps, found.coincidence_window_ps, found.group_max_hits) == (75_000, 15_000, 3)
    assert found.coincidence_energy is None  # there is no calibration in keV
    write_config(
        tmp_path,
        {"energy_kev": table("energy_kev", [(0, 0, 0, 1, 3.0, np.inf)])},
        petqc=PetqcSection(energy_window_kev=(425, 650)),
    )
    assert ProcessingSettings.from_config(load_config(tmp_path)).coincidence_energy == (425, 650)


@pytest.mark.slow
def test_no_kernel_reads_or_writes_outside_its_arrays(tmp_path: Path) -> None:
    """The same work with numba's bounds checks, in a process of its own."""
    calibration(tmp_path / "config", spread=True)
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(tmp_path / "config")],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "checked"


def under_bounds_checks(folder: Path) -> None:
    """What the process of the test above does: every kernel, with blocks and buffers of odd sizes."""
    from petqc.processing.introsort import introsort

    with pytest.raises(IndexError):  # the checks are on
        introsort(np.zeros(2, np.int64), 3)
    n_pairs = 0
    some = {
        block: [*random_frames(block, 150, 6), *random_frames(8, 3, 3000, first=1 << 20)] for block in (1, 13, 1 << 15)
    }
    for mode in ("tot", "qdc"):
        cal = CalibrationSet.from_config(load_config(folder), acquisition=mode)  # type: ignore[arg-type]
        for how in VARIANTS:
            for vendor in (False, True):
                for block, frames in some.items():
                    with mock.patch("petqc.processing.pipeline._BLOCK_HITS", block):
                        result, account = run(cal, replace(how, vendor_compatible=vendor), frames, [3, 50, 151])
                    assert account["hits"] > 5000
                    n_pairs += len(result.prompts)
    assert n_pairs > 1000
    print("checked")  # noqa: T201


if __name__ == "__main__":
    under_bounds_checks(Path(sys.argv[1]))
