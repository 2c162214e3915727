"""Verdicts in words, runs that could not measure, and what analyse_file refuses."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.analysis import RunContext, analyse_file, invalid_run
from petqc.channel_map import Topology
from petqc.errors import BadInputError
from petqc.formats.petsys_events import COINCIDENCE, GROUP, SINGLE
from petqc.limits import Limits, Status
from petqc.recorded.channel_roles import read_channel_roles
from petqc.results import CheckResult, Run
from petqc.verdict import place, say, sentence

TOPOLOGY = Topology.from_channels(np.arange(512, dtype=np.int32))
TITLES = {"photopeak": "Photopeak position", "ctr_fit": "CTR (likelihood fit)", "dead_channels": "Dead channels"}
LIMITS = Limits(495.0, 505.0, 517.0, 527.0)


def result(node, value, id_="photopeak", unit="keV", limits=LIMITS, reason=None):
    if value is None:
        return CheckResult.missing(id_, node, unit, 0, limits, reason or "no counts")
    return CheckResult.measured(id_, node, value, unit, 0.12, 1000, limits, reason=reason)


def told(*checks):
    run = Run("r", "daily", "", "", True, Status.PASS, "", {}, "", {}, checks=list(checks))
    order = (Status.FAIL, Status.INVALID, Status.WARN)
    run.verdict = next((s for s in order if any(c.status is s for c in checks)), Status.PASS)
    return sentence(run, TOPOLOGY, TITLES)


@pytest.mark.parametrize(
    ("value", "uncertainty", "text"),
    [
        (510.834, 0.123, "510.83 ± 0.12 keV"),
        (510.834, 0.4, "510.8 ± 0.4 keV"),
        (511.2, 3.2, "511 ± 3 keV"),
        (12345.6, 210.0, "12346 ± 210 keV"),
        (3.0, 0.0, "3 keV"),
        (3.0, None, "3 keV"),
    ],
)
def test_values_are_said_to_their_uncertainty(value, uncertainty, text):
    assert say(value, uncertainty, "keV") == text


def test_per_cent_stands_at_the_number():
    assert say(10.46, 0.03, "%") == "10.46 ± 0.03%"


def test_places():
    assert place("scanner") == "the scanner"
    assert place("module:0.0.1") == "module 0.0.1"
    assert place("asic:0.0.5") == "ASIC 0.0.5"
    assert place("module:0.0.1 - module:0.0.0") == "modules 0.0.1 and 0.0.0"


def test_pass_tells_the_main_values():
    text = told(result("scanner", 511.02), result("scanner", 218.3, "ctr_fit", "ps", Limits(warn_high=230.0)))
    assert text.startswith("Scan: photopeak position 511.02 ± 0.12 keV, CTR (likelihood fit) 218.30 ± 0.12 ps")
    assert text.endswith(", 2 values inside their limits.")


def test_warn_and_fail_name_what_where_and_how_much():
    text = told(result("scanner", 511.0), result("module:0.0.1", 503.2))
    assert text.startswith("Scan, but look at photopeak position of module 0.0.1")
    assert text.endswith("503.20 ± 0.12 keV, below the warn limit of 505 keV.")
    text = told(result("scanner", 511.0), result("module:0.0.1", 490.0))
    assert text.startswith("Do not scan: photopeak position of module 0.0.1 is 490.00 ± 0.12 keV")
    assert text.endswith("below the fail limit of 495 keV.")


def test_many_flags_at_one_node_are_one_finding():
    asics = [result(f"asic:0.0.{i}", 490.0) for i in range(4, 8)]
    text = told(result("scanner", 500.0), result("module:0.0.0", 511.0), result("module:0.0.1", 490.0), *asics)
    assert "module 0.0.1" in text
    assert "ASIC" not in text
    assert "more" not in text


def test_one_asic_is_named_rather_than_its_module():
    text = told(result("module:0.0.0", 511.0), result("module:0.0.1", 490.0), result("asic:0.0.5", 470.0))
    assert "ASIC 0.0.5" in text
    assert "module" not in text


def test_all_modules_are_the_scanner():
    text = told(result("scanner", 490.0), result("module:0.0.0", 490.0), result("module:0.0.1", 490.0))
    assert text == "Do not scan: photopeak position is 490.00 ± 0.12 keV, below the fail limit of 495 keV."


def test_the_gravest_is_never_folded_away():
    text = told(
        result("module:0.0.1", 503.0), *[result(f"asic:0.0.{i}", 490.0 if i == 5 else 503.0) for i in range(4, 8)]
    )
    assert text.startswith("Do not scan: ")


def test_what_could_not_be_measured_is_said_once():
    reason = "two humps near 30 and 60"
    checks = [result("module:0.0.1", None, id_, reason=reason) for id_ in ("photopeak", "ctr_fit")]
    assert told(*checks) == f"Not measured: photopeak position and CTR (likelihood fit) of module 0.0.1: {reason}."


def test_a_long_list_is_cut():
    checks = [
        result(f"module:0.0.{i}", 10.0 + i, "dead_channels", "channels", Limits(warn_high=1.0, fail_high=5.0))
        for i in range(2)
    ] + [
        result("module:0.0.0", 480.0),
        result("module:0.0.0", 900.0, "ctr_fit", "ps", Limits(warn_high=300.0, fail_high=400.0)),
    ]
    text = told(*checks)
    assert text.count(";") == 3
    assert text.endswith("and 1 more.")
    assert "dead channels in module 0.0.1, where 5 may be" in text


def test_invalid_run():
    context = RunContext("r9", simulated=True, started_at="2026-01-01T00:00:00Z", scanner="bench", notes=("a note",))
    run = invalid_run(context, "the board fell silent after 3.2 s")
    assert run.verdict is Status.INVALID
    assert run.sentence == "Not measured: the board fell silent after 3.2 s."
    assert (run.run_id, run.simulated, run.scanner, run.notes) == ("r9", True, "bench", ["a note"])
    assert Run.from_document(run.document()).sentence == run.sentence


# --- channel roles ---------------------------------------------------------------------------------------------------


def test_channel_roles(tmp_path):
    path = tmp_path / "roles.yaml"
    path.write_text("# a comment\ntime_channels: [0, 2,\n   4]\n\nenergy_channels: [1, 3, 100, ] # the others\n")
    roles = read_channel_roles(path)
    assert roles.n == 128
    assert np.flatnonzero(roles.is_time).tolist() == [0, 2, 4]
    assert np.flatnonzero(roles.is_energy).tolist() == [1, 3, 100]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_channels: [1]\n", "energy_channels is missing"),
        ("time_channels: [1]\nenergy_channels: [1]\n", "channel 1 is named twice"),
        ("time_channels: [1]\nenergy_channels: [2]\ntime_channels: [3]\n", "there twice"),
        ("time_channels: [1]\nenergy_channels: 2\n", "line 2"),
        ("time_channels: [1, , 3]\nenergy_channels: [2]\n", "no number"),
        ("time_channels: [5000]\nenergy_channels: [2]\n", "below 4096"),
        ("time_channels: [a]\n", "not a list of numbers"),
    ],
)
def test_channel_roles_refuse(tmp_path, text, message):
    path = tmp_path / "roles.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match=message):
        read_channel_roles(path)
    with pytest.raises(BadInputError, match="cannot be read"):
        read_channel_roles(tmp_path / "none.yaml")


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_analysed(tmp_path):
    with pytest.raises(BadInputError, match="no file"):
        analyse_file([])
    with pytest.raises(BadInputError, match="no such file"):
        analyse_file(tmp_path / "none.rawf")
    raw = tmp_path / "run.rawf"
    raw.write_bytes(bytes(64))
    with pytest.raises(BadInputError, match=r"config\.ini"):
        analyse_file(raw)
    odd = tmp_path / "picture.png"
    odd.write_bytes(b"\x89PNG")
    with pytest.raises(BadInputError, match="no known kind"):
        analyse_file(odd)
    with pytest.raises(BadInputError, match="a run has no 'colour'"):
        analyse_file(odd, colour="red")


def test_groups_of_two_modules(tmp_path):
    rng = np.random.default_rng(1)
    n = 4000
    records = np.zeros(6 * n, GROUP)
    event = np.repeat(np.arange(n), 6)
    side = np.tile([0, 0, 0, 1, 1, 1], n)
    records["n"], records["index"] = 3, np.tile([0, 1, 2], 2 * n)
    start = np.arange(n) * 10_000_000
    records["time_ps"] = start[event] + rng.normal(0.0, 90.0, 6 * n).astype(np.int64) + 40 * side
    # The strongest hit comes first: 40 of 60 units.
    share = np.tile([40.0, 12.0, 8.0], 2 * n)
    records["energy"] = share * np.repeat(rng.normal(1.0, 0.05, 2 * n), 3)
    records["channel"] = side * 256 + rng.integers(0, 128, 6 * n) + 128 * np.tile([0, 1, 1], 2 * n)
    path = tmp_path / "groups.ldat"
    path.write_bytes(records.tobytes())
    seen = []
    run = analyse_file(path, progress=lambda done, whole: seen.append((done, whole)))
    assert (run.account["photons"], run.account["hits"]) == (2 * n, 6 * n)
    assert run.find("photopeak", "module:0.0.0").value == pytest.approx(60.0, abs=0.3)
    assert run.find("prompts").n == n
    # Times are of the strongest hit: 90 ps on either side.
    assert run.find("ctr_fit").value == pytest.approx(2.3548 * 90.0 * np.sqrt(2), rel=0.05)
    late = run.find("module_time_offset", "module:0.0.1")
    assert late.value == pytest.approx(20.0, abs=6 * late.uncertainty)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    assert run.raw_files[0].name == "groups.ldat"
    assert len(run.raw_files[0].sha256) == 64
    # The same file again gives the same document, apart from nothing.
    assert analyse_file(path).to_json() == run.to_json()
    roles = tmp_path / "roles.yaml"
    roles.write_text(f"time_channels: {list(range(128))}\nenergy_channels: {list(range(128, 256))}\n")
    by_role = analyse_file(path, channel_roles=roles)
    assert by_role.find("photopeak", "module:0.0.0").value == pytest.approx(20.0, abs=0.2)
    assert len(by_role.channels["channel"]) == 512
    nothing = analyse_file(path, min_hits=4)
    assert nothing.find("photopeak", "module:0.0.0").value is None


def test_singles_and_coincidences(tmp_path):
    rng = np.random.default_rng(2)
    n = 3000
    singles = np.zeros(n, SINGLE)
    singles["time_ps"] = np.sort(rng.integers(0, 10**12, n))
    singles["energy"] = rng.normal(30.0, 2.0, n)
    singles["channel"] = rng.integers(0, 64, n)
    path = tmp_path / "s.ldat"
    path.write_bytes(singles.tobytes())
    run = analyse_file(path)
    assert run.account["photons"] == n
    assert run.find("photopeak", "module:0.0.0").value == pytest.approx(30.0, abs=0.2)
    assert run.find("singles_rate").value == pytest.approx(n / run.account["span_s"])
    pairs = np.zeros(n, COINCIDENCE)
    pairs["n_a"] = pairs["n_b"] = 1
    pairs["time_a_ps"] = singles["time_ps"] + rng.normal(0.0, 100.0, n).astype(np.int64)
    pairs["time_b_ps"] = singles["time_ps"]
    pairs["energy_a"] = pairs["energy_b"] = 30.0
    pairs["channel_a"], pairs["channel_b"] = 256 + singles["channel"], singles["channel"]
    path = tmp_path / "c.ldat"
    path.write_bytes(pairs.tobytes())
    run = analyse_file(path)
    assert run.find("prompts").n == n
    assert run.find("ctr_fit").value == pytest.approx(235.5, rel=0.06)
    assert run.find("photopeak", "module:0.0.0") is None
    assert any("No singles were recorded" in note for note in run.notes)


def test_list_text_in_kev_is_judged(tmp_path):
    rng = np.random.default_rng(3)
    n = 6000
    energy = rng.normal(511.0, 25.0, (n, 2))
    low = rng.random((n, 2)) < 0.3
    energy[low] = rng.uniform(35.0, 1000.0, int(low.sum()))
    dt = rng.normal(0.4, 0.2, n)
    path = tmp_path / "list.csv"
    path.write_text("".join(f"{a:.3f},{b:.3f},{t:.4f}\n" for (a, b), t in zip(energy, dt, strict=True)))
    descriptor = tmp_path / "list.toml"
    descriptor.write_text(
        'separator = ","\n'
        '[[column]]\nname = "a"\nindex = 0\nquantity = "energy"\ndetector = "A"\nunit = "keV"\n'
        '[[column]]\nname = "b"\nindex = 1\nquantity = "energy"\ndetector = "B"\nunit = "keV"\n'
        '[[column]]\nname = "t"\nindex = 2\nquantity = "time_difference"\ndetector = "A - B"\nunit = "ns"\n'
    )
    run = analyse_file(path, descriptor=descriptor)
    for module in ("module:0.0.0", "module:0.0.1"):
        found = run.find("photopeak", module)
        assert found.value == pytest.approx(511.0, abs=4.0)
        assert found.status is Status.PASS
    assert run.find("ctr_fit").value == pytest.approx(2.3548 * 200.0, rel=0.06)
    # A is the earlier module; the time difference is of the later one minus the earlier one.
    late = run.find("module_time_offset", "module:0.0.0").value - run.find("module_time_offset", "module:0.0.1").value
    assert late == pytest.approx(400.0, abs=20.0)
    with pytest.raises(BadInputError, match="no descriptor"):
        analyse_file(path, descriptor="something_else")
