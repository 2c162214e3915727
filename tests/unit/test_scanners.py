"""Real scanners: what is known about them, profiles that stand for them, and what the QC makes of both."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from petqc.analysis import analyse_file
from petqc.channel_map import Topology
from petqc.checks import CheckOutput, get_check
from petqc.checks.source_position import source_position
from petqc.errors import BadInputError
from petqc.events import Coincidences
from petqc.fits.source_place import axis_of
from petqc.formats.petsys_config import PetqcSection, load_config, write_config
from petqc.histograms import QcHistograms
from petqc.limits import Limits, Status
from petqc.qc_input import QcInput, RunContext
from petqc.results import CheckResult
from petqc.scanners import FOLDER, load_scanner, scanner_names
from petqc.verdict import conclude
from petqc_simulators.boards.scanner import Scanner as Boards
from petqc_simulators.physics.crystal import CHANNEL, CLOCK_PS, DEPOSIT_COLUMNS, deposit_at
from petqc_simulators.physics.emission import geometry_numbers
from petqc_simulators.physics.placement import crystal_middles_mm
from petqc_simulators.physics.source import source_model
from petqc_simulators.profile import PROFILES, ProfileError, load_profile, profile_names
from petqc_simulators.recording import write_recording

REAL = [name for name in profile_names() if load_profile(name).reference]
SIGNA = load_profile("signa")
MMR = load_profile("mmr")


# --- descriptions ----------------------------------------------------------------------------------------------------


def test_every_number_has_a_source_and_a_status():
    assert len(scanner_names()) == 8
    for name in scanner_names():
        scanner = load_scanner(name)
        assert scanner.values
        assert set(scanner.sources) == {q.source for q in scanner.values.values()}
    assert "recalled" in load_scanner("siemens-vision-600").cite("energy_resolution_percent")
    assert load_scanner("ge-signa-petmr").cite("tof_fwhm_ps") == "390 ps (Hsu2017)"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('photosensor = "sipm"', 'photosensor = "eye"', "photosensor"),
        ('status = "read"', 'status = "dreamt"', "dreamt"),
        ('source = "Hsu2017"', 'source = "Nobody1999"', "Nobody1999"),
        ("tof = true", "tof = 1", "tof"),
        ("tof = true", "tof = true\ncolour = 3", "colour"),
        ("[sources]", "[limits.ctr_fit]\nwarn_heigh = 3\n[sources]", "warn_heigh"),
        ("[values]", "[values", "line"),
    ],
)
def test_a_description_that_does_not_hold_is_refused(tmp_path, old, new, words):
    text = (FOLDER / "ge-signa-petmr.toml").read_text()
    path = tmp_path / "odd.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(BadInputError, match=words):
        load_scanner(path)
    with pytest.raises(BadInputError, match="one of ge-discovery-690"):
        load_scanner("no-such")


def test_a_configuration_names_its_scanner_and_source(tmp_path):
    about = PetqcSection(scanner=load_scanner("ge-signa-petmr"), source="point", source_mm=(0.0, 1.5, 0.0))
    path = write_config(tmp_path, {}, petqc=about)
    config = load_config(path)
    assert config.petqc == about
    assert config.file_hashes["scanner"] == load_scanner("ge-signa-petmr").sha256
    assert set(config.petqc.context()) == {"reference", "source", "source_mm", "crystal_material", "crystal_mm"}
    for old, new, words in (
        ("source = point", "source = moon", "moon"),
        ("source_mm = 0.0 1.5 0.0", "source_mm = 0 0", "not a place"),
        ("scanner = ge-signa-petmr", "scanner = %CDIR%/none.toml", "no scanner"),
    ):
        (tmp_path / "odd.ini").write_text(path.read_text().replace(old, new))
        with pytest.raises(BadInputError, match=words):
            load_config(tmp_path / "odd.ini")


def test_a_published_value_stands_in_for_a_baseline():
    h = QcHistograms(Topology.from_channels(np.arange(8, dtype=np.int32)), "kev")
    q = QcInput(h, RunContext("x", reference=load_scanner("ge-signa-petmr")))
    limits, baseline = q.limits("ctr_fit", "scanner", "scanner")
    assert (limits.warn_high, limits.fail_high, baseline) == (pytest.approx(401.7), pytest.approx(429.0), None)
    own = replace(q.context, baselines={"ctr_fit": {"scanner": 380.0}})
    assert QcInput(h, own).limits("ctr_fit", "scanner", "scanner")[0].warn_high == pytest.approx(391.4)


# --- profiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_a_profile_is_what_its_scanner_is_said_to_be(name):
    profile = load_profile(name)
    scanner, g, p = load_scanner(profile.reference), profile.geometry, profile.processing
    if crystals := scanner.number("crystals"):
        assert g.channels == crystals
    if "energy_window_kev" in scanner.values:
        assert [p.energy_window_low_kev, p.energy_window_high_kev] == scanner.values["energy_window_kev"].value
    if window := scanner.number("coincidence_window_ns"):
        assert 2 * p.coincidence_time_window_clk * CLOCK_PS / 1000 == pytest.approx(window, abs=1e-6)
    if diameter := scanner.number("ring_diameter_mm"):
        assert 2 * g.face_distance_mm == pytest.approx(diameter)
    if length := scanner.number("axial_fov_mm"):
        assert g.extent_mm[1] == pytest.approx(length, abs=2.5)
    if "crystal_mm" in scanner.values:
        across, along, deep = scanner.values["crystal_mm"].value
        assert g.crystal_length_mm == deep
        assert across * along / np.prod(g.pitches_mm) == pytest.approx(profile.crystal.fill_factor, abs=0.004)
    absolute = profile.absolute_channels()
    assert np.unique(absolute).size == g.channels
    # Neighbouring modules of a ring do not overlap.
    if g.arrangement == "ring":
        assert g.width_mm <= 2 * g.face_distance_mm * np.tan(np.pi / g.across)


def test_anchors_of_topology_window_and_lutetium():
    assert (SIGNA.geometry.channels, SIGNA.geometry.chips) == (20160, 560)
    assert 2 * SIGNA.processing.coincidence_time_window_clk * 5.0 == pytest.approx(351 * 13.02e-3, abs=0.01)
    for name in ("mmr", "vision-600"):
        assert load_profile(name).crystal.lu176_bq_per_cm3 == pytest.approx(295.0, abs=15.0)


def test_channels_run_block_by_block_and_light_lands_in_the_crystal_it_was_made_in():
    g = SIGNA.geometry
    column, row = g.places
    for block in (0, 3, 4, 19):
        mine = slice(block * 36, (block + 1) * 36)
        assert (np.ptp(column[mine]), np.ptp(row[mine])) == (3, 8)
    assert (column[36], row[36], column[4 * 36], row[4 * 36]) == (4, 0, 0, 9)
    middle = crystal_middles_mm(g)
    numbers = geometry_numbers(SIGNA)
    deposits = np.zeros((1, DEPOSIT_COLUMNS))
    for channel in (0, 35, 36, 719, 720 * 3 + 500):
        u = (column[channel] - 7.5) * g.pitches_mm[0]
        v = (row[channel] - 22.0) * g.pitches_mm[1]
        deposit_at(deposits, 0, 0, u, v, g.face_distance_mm + 1.0, 0.0, 100.0, 0.0, channel // 720, numbers)
        assert deposits[0, CHANNEL] == channel
        assert v == pytest.approx(middle[channel, 1])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("asic_columns = 4", "asic_columns = 5", "asic_columns"),
        ("asics_per_module = 20", "asics_per_module = 10", "64 crystals for each ASIC"),
        ("[numbering]", "[hardware]\nbase_pcb = 2\n[numbering]", "only without hardware"),
    ],
)
def test_a_geometry_that_cannot_be_built_is_refused(tmp_path, old, new, words):
    (tmp_path / "odd.toml").write_text((PROFILES / "signa.toml").read_text().replace(old, new))
    with pytest.raises(ProfileError, match=words):
        load_profile(str(tmp_path / "odd.toml"))


def test_scanners_with_another_readout_are_recorded_not_served():
    with pytest.raises(ProfileError, match="recorded, not served"):
        Boards(MMR, 1)


def test_a_source_decays_and_must_fit_into_the_scanner():
    source = replace(SIGNA.source, kind="ge68", age_days=270.9)
    model = source_model(source, SIGNA.geometry)
    assert model.activity_bq == pytest.approx(0.5 * SIGNA.source.ge68_activity_bq)
    assert (model.radius_mm, model.inner_radius_mm) == (62.5, 49.5)
    assert (source.shape, SIGNA.source.shape) == ("extended", "point")
    with pytest.raises(ProfileError, match="is not in the scanner"):
        source_model(replace(source, ge68_radius_mm=312.0), SIGNA.geometry)


# --- where the source is ---------------------------------------------------------------------------------------------


def lines_through(at_mm: np.ndarray, n: int = 4000) -> QcHistograms:
    """Coincidences of a ring whose lines run through a point."""
    angle, high = (v.ravel() for v in np.meshgrid(2 * np.pi * np.arange(360) / 360, np.arange(-50.0, 51.0, 4.0)))
    xyz = np.stack([300.0 * np.sin(angle), high, 300.0 * np.cos(angle)], axis=1)
    channels = (np.arange(angle.size) // 60 << 12 | np.arange(angle.size) % 60).astype(np.int32)
    rng = np.random.default_rng(1)
    azimuth, slope = rng.uniform(0, 2 * np.pi, n), rng.uniform(-0.05, 0.05, n)
    along = np.stack([np.sin(azimuth), slope, np.cos(azimuth)], axis=1)
    ends = []
    for sign in (-1.0, 1.0):
        direction, flat = sign * along, at_mm * [1, 0, 1]
        b = (direction * flat).sum(axis=1)
        end = at_mm + direction * (-b + np.sqrt(b**2 + 300.0**2 - (flat**2).sum()))[:, None]
        column = np.rint(np.arctan2(end[:, 0], end[:, 2]) / (2 * np.pi) * 360).astype(int) % 360
        ends.append(channels[np.rint((end[:, 1] + 50.0) / 4.0).astype(int).clip(0, 25) * 360 + column])
    topology = Topology.from_channels(channels, asics_per_module=1, xyz_mm=xyz.astype(np.float32))
    h = QcHistograms(topology, "kev")
    time, energy, one = np.zeros(n, np.int64), np.full(n, 511.0, np.float32), np.ones(n, np.uint8)
    h.add_prompts(Coincidences(time, time, energy, energy, ends[0], ends[1], one, one, "kev"))
    return h


@pytest.mark.parametrize(
    ("shift", "shape", "distance", "status"),
    [
        ((0.0, 0.0, 0.0), "point", 0.0, Status.PASS),
        ((4.0, -6.0, 0.0), "point", 7.2, Status.WARN),
        ((4.0, -6.0, 0.0), "extended", 4.0, Status.PASS),
        ((20.0, 0.0, 15.0), "line", 25.0, Status.INVALID),
    ],
)
def test_the_source_is_found_and_held_against_its_place(shift, shape, distance, status):
    h = lines_through(np.array(shift))
    context = RunContext("x", source=shape, source_mm=(0.0, 0.0, 0.0), reference=load_scanner("ge-signa-petmr"))
    output = source_position(QcInput(h, context))
    result = output.results[0]
    assert result.value == pytest.approx(distance, abs=0.4)
    assert result.status is status
    parts = [r.value for r in output.results[1:]]
    known = [0, 1, 2] if shape == "point" else [0, 2]
    assert [parts[k] for k in known] == pytest.approx([shift[k] for k in known], abs=0.4)
    if shape != "point":
        assert parts[1] is None, "along its axis such a source may reach further than the crystals see"
    # A misplaced source is no fault of the scanner: whatever else is found, the run is invalid.
    bad = CheckResult.measured("dead_channels", "scanner", 900.0, "channels", 0.0, 9, Limits(fail_high=10.0))
    run = conclude(
        h.topology, context, [(get_check("source_position"), output), (get_check("dead_channels"), CheckOutput([bad]))]
    )
    assert run.verdict is (Status.INVALID if status is Status.INVALID else Status.FAIL)
    if status is Status.INVALID:
        assert "move the source" in run.sentence


def test_without_a_place_that_was_said_the_position_has_no_limits():
    output = source_position(QcInput(lines_through(np.array([3.0, 0.0, 0.0])), RunContext("x")))
    assert [r.id for r in output.results] == ["source_position.x", "source_position.y", "source_position.z"]
    assert {r.status for r in output.results} == {Status.NO_LIMITS}


@pytest.mark.parametrize("length_mm", [0.0, 300.0, 1030.0, 2000.0])
def test_the_axis_of_a_ring_of_any_length_and_of_nothing_like_it(length_mm):
    """At 1030 mm a body scanner of 840 mm across is spread alike in all directions."""
    places = crystal_middles_mm(SIGNA.geometry)
    places[:, 1] *= length_mm / np.ptp(places[:, 1])
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    axis = axis_of(places @ turn.T + 50.0)
    assert axis is not None
    assert np.abs(axis @ turn) == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    assert axis_of(crystal_middles_mm(load_profile("bench").geometry)) is None


# --- recordings ------------------------------------------------------------------------------------------------------


def test_a_slice_of_a_signa_has_the_published_resolutions(tmp_path):
    """One ring of blocks of it: anchors A01 and A02, with their tolerances."""
    slim = replace(SIGNA, geometry=replace(SIGNA.geometry, rows=9, asics_per_module=4))
    written = write_recording(tmp_path / "run", slim, seed=5, seconds=0.25, truth_seconds=0)
    run = analyse_file(written["recording"], config=written["config"])
    width, resolution = run.find("ctr_fit"), run.find("energy_resolution")
    assert width.value == pytest.approx(390.0, abs=10.0)
    assert resolution.value == pytest.approx(10.5, abs=0.3)
    assert width.limits.warn_high == pytest.approx(401.7)
    assert run.find("source_position").value < 0.5
    assert run.scanner == "SIGNA PET/MR"
    compared = run.find("published.time_resolution")
    assert compared.value == width.value
    assert re.match(r"published 390 ps \(Hsu2017\); .* σ: (consistent with|differs from) published", compared.reason)
    assert any("published 10.5 % FWHM at 511 keV (Hsu2017)" in note for note in run.notes)


def test_a_scanner_without_time_of_flight_says_so_where_times_are_asked_for(tmp_path):
    slim = replace(MMR, geometry=replace(MMR.geometry, rows=8, asics_per_module=1))
    written = write_recording(tmp_path / "run", slim, seed=5, seconds=0.15, truth_seconds=0)
    run = analyse_file(written["recording"], config=written["config"])
    assert run.find("energy_resolution").value == pytest.approx(14.5, abs=0.5)
    for check in ("ctr_fit", "ctr_nema", "module_time_offset"):
        result = run.find(check)
        assert (result.value, result.status) == (None, Status.NO_LIMITS)
        assert re.match("not applicable: Biograph mMR does not use time of flight", result.reason)
    assert not [c for c in run.checks if c.status is Status.INVALID and c.node == "scanner"]
