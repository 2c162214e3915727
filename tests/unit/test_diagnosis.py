"""Diagnosis from columns that are made up: the right place, the right cause, words with numbers, and silence if not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.run_documents import usual_run

from petqc.channel_map import SCANNER, Topology
from petqc.diagnosis import diagnose, diagnose_again
from petqc.diagnosis.catalogue import CATALOGUE
from petqc.diagnosis.masking import masking
from petqc.diagnosis.places import address, channel, patches, topology_of, tree
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn, CheckResult, Hypothesis, Run
from petqc.verdict import channel_table, likely

MODULES = 4
N = MODULES * 256
INDEX = np.arange(N)
TOPOLOGY = Topology.from_channels(
    INDEX.astype(np.int32),
    column=(INDEX % 16).astype(np.int16),
    row=(INDEX // 16 % 16).astype(np.int16),
    bias_output={int(i): (0, int(i) // 16 % 64) for i in INDEX},
)
ERRORS = {
    "photopeak": 0.5,
    "energy_resolution": 0.2,
    "module_time_offset": 3.7,
    "timing_width": 4.0,
    "energy_onset": 2.0,
}
HEALTHY = {"photopeak": 511.0, "energy_resolution": 10.5, "module_time_offset": 0.0, "timing_width": 223.0,
           "energy_onset": 39.0}  # fmt: skip
OUT = {"photopeak": 0.03 * 511, "energy_resolution": np.inf, "module_time_offset": 40.0, "timing_width": 45.0,
       "energy_onset": 25.0}  # fmt: skip
UNITS = {"photopeak": "keV", "energy_resolution": "%", "module_time_offset": "ps", "timing_width": "ps",
         "energy_onset": "keV"}  # fmt: skip


def a_run(checks=(), extra=(), **moved):
    """A run whose columns are healthy but for what is added to them."""
    rng = np.random.default_rng(11)
    columns = []
    for name, value in HEALTHY.items():
        values = value + rng.normal(0.0, ERRORS[name], N) + moved.get(name, 0.0)
        off = values - value
        # As `QcInput.channel_status` has it: outside a limit, and further than noise goes.
        is_out = np.abs(off) > max(OUT[name], 5.0 * ERRORS[name])
        status = np.where(is_out, str(Status.WARN), str(Status.PASS)).astype(object)
        errors = np.full(N, ERRORS[name])
        columns.append(
            ChannelColumn(name, UNITS[name], values, errors, np.full(N, 900), status, np.full(N, "", object))
        )
    return Run("r", "daily", "", "", True, Status.PASS, "", {}, "", {}, checks=list(checks), columns=[*columns, *extra])


def at(members, size):
    shift = np.zeros(N)
    shift[members] = size
    return shift


def asic(number):
    return np.arange(64 * number, 64 * number + 64)


def flagged(id_, node, value, unit, limits):
    return CheckResult.measured(id_, node, value, unit, 0.1, 1000, limits)


def first(run):
    found, _ = diagnose(TOPOLOGY, run)
    assert found
    return found[0]


def test_a_healthy_run_has_no_cause_and_no_remark():
    assert diagnose(TOPOLOGY, a_run()) == ([], "")


def test_a_drift_of_one_bias_output_is_named_with_numbers_and_the_output_to_swap_with():
    found = first(a_run(photopeak=at(INDEX // 16 == 37, -21.0)))
    assert found.cause.startswith("F03 ")
    assert found.node == "bias:0.0.0.37"
    assert found.score > 0.6
    assert any("photopeak -4.09 ± 0.08 %" in told and "%" in told for told in found.evidence)
    assert (
        "16 of the 16 flagged channels are at bias channel 37 in slot 0, port 0, slave 0, which has 16 in all"
        in found.evidence
    )
    assert "swap it with channel 38 of the same slot" in found.next_step


def test_a_patch_of_crystals_across_outputs_is_coupling_and_a_single_one_a_crystal():
    patch = [row * 16 + column + 256 for row in range(4, 8) for column in range(4)]
    found = first(a_run(photopeak=at(patch, -77.0)))
    assert found.cause.startswith("F09 ")
    assert found.node == "asic:0.0.5"
    assert "crystals in columns 0 to 3, rows 4 to 7 of chip 5" in found.next_step
    found = first(a_run(photopeak=at([700], -120.0), energy_resolution=at([700], 4.0)))
    assert found.cause.startswith("F10 ")
    assert found.node == "channel:0.0.10.60"


def test_temperature_tells_cooling_from_a_supply():
    module = INDEX // 256 == 2
    warm = flagged("temperature", "module:0.0.2", 27.0, "degC", Limits(17.0, 20.0, 24.0, 27.0))
    cooling = a_run([warm], photopeak=at(module, -40.0), timing_width=at(module, 14.0))
    assert first(cooling).cause.startswith("F06 ")
    assert first(cooling).node == "module:0.0.2"
    alone = first(a_run([replace(warm, status=Status.WARN, node="asic:0.0.9")]))
    assert alone.cause.startswith("F05 ")
    assert alone.node == "asic:0.0.9"


def test_timing_faults_are_told_apart_by_what_else_moves():
    cases = {
        "F12": {"timing_width": at(asic(6), 60.0), "module_time_offset": at(asic(6), -80.0)},
        "F15": {"timing_width": at(INDEX // 256 == 1, 70.0)},
        "F16": {"timing_width": at(asic(6), 40.0), "energy_onset": at(asic(6), 58.0)},
    }
    for cause, moved in cases.items():
        wide = flagged("timing_width", "asic:0.0.6", 290.0, "ps", Limits(warn_high=234.0, fail_high=256.0))
        found = first(a_run([wide], **moved))
        assert found.cause.startswith(cause), (cause, found)
        assert found.node == ("module:0.0.1" if cause == "F15" else "asic:0.0.6")


@pytest.mark.parametrize("late", [300.0, -300.0])
def test_a_late_module_is_named_and_not_those_that_look_early_beside_it(late):
    values = {f"module:0.0.{i}": (late if i == 3 else 0.0) - late / MODULES for i in range(MODULES)}
    limits = Limits(-75.0, -20.0, 20.0, 75.0)
    checks = [flagged("module_time_offset", node, value, "ps", limits) for node, value in values.items()]
    found, _ = diagnose(TOPOLOGY, a_run(checks))
    assert [h.node for h in found if h.cause.startswith("F14")] == ["module:0.0.3"]


def test_modules_that_see_only_each_other_are_a_pair_that_widths_do_not_part():
    wide = flagged("timing_width", "asic:0.0.6", 290.0, "ps", Limits(warn_high=234.0, fail_high=256.0))
    run = a_run([wide], timing_width=at(INDEX // 512 == 0, 40.0))
    pairs = {(a, b): 1000.0 if a == b + 1 and b in {0, 2} else 9.0 for a in range(MODULES) for b in range(a)}
    run.checks += [rate("prompts", f"module:0.0.{a} - module:0.0.{b}", v, v) for (a, b), v in pairs.items()]
    found = first(run)
    assert (found.cause[:3], found.node) == ("F15", "module:0.0.1 - module:0.0.0")
    run.checks[1:] = [replace(c, value=500.0) for c in run.checks[1:]]
    assert " - " not in first(run).node, "with more partners each is told by itself"


def test_a_channel_that_is_late_and_wide_has_one_bad_time_buffer():
    found = first(a_run(module_time_offset=at([600], 110.0), timing_width=at([600], 80.0)))
    assert (found.cause[:3], found.node) == ("F13", "channel:0.0.9.24")


def test_a_scanner_that_is_wider_than_its_baseline_is_seen_where_single_parts_have_none():
    wider = rate("ctr_fit", SCANNER, 223.0, 205.0, "ps")
    found = first(a_run([wider]))
    assert (found.cause[:3], found.node) == ("F08", SCANNER)
    assert found.evidence[0].startswith("timing width +8.7")


def test_a_ctr_that_an_asic_out_of_time_has_widened_is_no_jitter_of_everything():
    """Where single parts have no baseline of their own: the scanner's CTR holds the offsets, widths of parts do not."""
    wide = replace(flagged("ctr_nema", SCANNER, 267.6, "ps", Limits(warn_high=225.0, fail_high=240.0)), baseline=218.5)
    late = a_run([wide], module_time_offset=at(np.concatenate([asic(k) for k in (2, 6, 9)]), -141.0))
    found, _ = diagnose(TOPOLOGY, late)
    assert {h.node for h in found} == {"asic:0.0.2", "asic:0.0.6", "asic:0.0.9"}
    assert not any(h.cause.startswith("F15 ") for h in found)


def test_two_facing_modules_that_are_wide_are_not_one_asic_that_counts_by_chance():
    pairs = {(0, 2): 1000.0, (1, 3): 1000.0, (0, 1): 9.0, (2, 3): 9.0}
    known = [rate("prompts", f"module:0.0.{a} - module:0.0.{b}", v, v) for (a, b), v in pairs.items()]
    known += [rate("timing_width", f"module:0.0.{k}", 223.0, 223.0, "ps") for k in range(MODULES)]
    wide = flagged("timing_width", "asic:0.0.2", 237.0, "ps", Limits(warn_high=234.0, fail_high=256.0))
    # All of both modules 4.5 %, less than what counts, and one ASIC 5.8 %.
    width = at(INDEX // 256 % 2 == 0, 10.0) + at(asic(2), 3.0)
    run = a_run([*known, wide], timing_width=width, photopeak=at(INDEX // 256 == 0, -50.0))
    found, _ = diagnose(TOPOLOGY, run)
    assert {h.node for h in found} == {"module:0.0.0"}
    assert any("timing width" in told for told in found[0].evidence)


def test_two_modules_are_a_pair_that_times_do_not_part():
    two = Topology.from_channels(np.arange(512, dtype=np.int32))
    limits = Limits(-75.0, -20.0, 20.0, 75.0)
    run = Run("r", "daily", "", "", True, Status.FAIL, "", {}, "", {})
    run.checks = [
        flagged("module_time_offset", f"module:0.0.{i}", v, "ps", limits) for i, v in enumerate((-150.0, 150.0))
    ]
    found, _ = diagnose(two, run)
    assert found[0].node == "module:0.0.0 - module:0.0.1"
    assert any("which of them moved, two cannot tell" in told for told in found[0].evidence)


def test_scatter_of_two_asics_is_a_swap_and_of_all_a_stale_calibration():
    rng = np.random.default_rng(2)
    swapped = at(np.concatenate([asic(4), asic(7)]), rng.normal(0.0, 160.0, 128))
    found, _ = diagnose(TOPOLOGY, a_run(module_time_offset=swapped))
    assert {h.node for h in found} == {"asic:0.0.4", "asic:0.0.7"}
    assert all(h.cause.startswith("F21") for h in found)
    assert "so does asic:0.0.7" in " ".join(h.evidence[0] for h in found if h.node == "asic:0.0.4")
    stale = first(a_run(module_time_offset=rng.normal(0.0, 60.0, N)))
    assert stale.cause.startswith("F27")
    assert stale.node == SCANNER


def test_dead_channels_of_one_node_count_once():
    dead = np.zeros(N, bool)
    dead[asic(9)] = True
    dead[5] = True
    status = np.where(dead, str(Status.FAIL), str(Status.PASS)).astype(object)
    counts = np.where(dead, 0, 900)
    column = ChannelColumn(
        "dead_channels", "of median", 1.0 * ~dead, np.zeros(N), counts, status, np.full(N, "", dtype=object)
    )
    found, _ = diagnose(TOPOLOGY, a_run(extra=[column]))
    assert [h.node for h in found] == ["asic:0.0.9", "channel:0.0.0.5"]
    assert all(h.cause.startswith("F01") for h in found)
    assert "64 of its 64 channels are silent" in found[0].evidence
    assert [h.score for h in found] == [1.0, 1.0]


def test_a_source_out_of_place_speaks_for_the_whole_run():
    off = flagged("source_position", SCANNER, 11.0, "mm", Limits(warn_high=5.0))
    late = flagged("module_time_offset", "module:0.0.1", 66.0, "ps", Limits(-75.0, -20.0, 20.0, 75.0))
    found, _ = diagnose(TOPOLOGY, a_run([off, late], photopeak=at(INDEX // 16 == 3, -21.0)))
    assert [h.cause[:3] for h in found] == ["F26"]
    assert found[0].node == SCANNER


def test_a_source_that_swapped_asics_put_out_of_place_is_no_cause():
    rng = np.random.default_rng(2)
    off = flagged("source_position", SCANNER, 5.6, "mm", Limits(warn_high=5.0))
    both = np.concatenate([asic(4), asic(7)])
    swapped = {"photopeak": at(both, rng.normal(0.0, 40.0, 128)), "module_time_offset": at(both, 250.0)}
    found, _ = diagnose(TOPOLOGY, a_run([off], **swapped))
    assert {(h.cause[:3], h.node) for h in found} == {("F21", "asic:0.0.4"), ("F21", "asic:0.0.7")}


def test_a_chart_that_warns_inside_the_limits_makes_a_hypothesis_with_its_sigmas():
    run = a_run()
    run.channels = channel_table(TOPOLOGY)
    limits = Limits(warn_low=-4.0, warn_high=4.0)
    run.checks = [
        CheckResult(
            "photopeak.step", "module:0.0.2", -5.2, "σ", None, 30, limits, Status.WARN, "this run, against 510.9 keV"
        )
    ]
    diagnose_again(run)
    assert {h.node for h in run.diagnosis} == {"module:0.0.2"}
    assert run.diagnosis[0].cause.startswith("F06")
    assert "photopeak has moved by -5.2 σ" in run.diagnosis[0].evidence[0]
    assert topology_of(run.channels).bias_nodes == TOPOLOGY.bias_nodes
    assert topology_of(run.channels).module_nodes == TOPOLOGY.module_nodes


def test_what_fits_nothing_is_said_to_fit_nothing():
    odd = flagged("randoms_delayed", SCANNER, 1.4, "", Limits(0.9, 0.97, 1.03, 1.1))
    found, remark = diagnose(TOPOLOGY, a_run([odd]))
    assert found == []
    assert remark == "Diagnosis: no hypothesis of the catalogue fits what was flagged (randoms_delayed at scanner)."


def test_two_faults_are_two_hypotheses_and_the_same_run_gives_the_same():
    run = a_run(photopeak=at(INDEX // 16 == 37, -21.0), timing_width=at(asic(2), 60.0),
                module_time_offset=at(asic(2), 70.0))  # fmt: skip
    found, _ = diagnose(TOPOLOGY, run)
    assert {h.node for h in found[:2]} == {"bias:0.0.0.37", "asic:0.0.2"}
    assert {h.cause[:3] for h in found[:2]} == {"F03", "F12"}
    assert diagnose(TOPOLOGY, run) == diagnose(TOPOLOGY, run)


def test_every_cause_has_a_next_step_with_an_address_or_for_all():
    for cause in CATALOGUE:
        told = cause.next_step.format(here="HERE", next="NEXT")
        assert told.endswith(".")
        assert "HERE" in told or set(cause.levels) <= {"scanner", "pair", "unit", "module"} or cause.id == "F12"


def test_addresses_are_what_an_engineer_looks_for():
    assert address(TOPOLOGY, channel(TOPOLOGY, 300)) == (
        "channel 44 of chip 4, port 0, slave 0 (crystal in column 12, row 2)"
    )
    module = next(place for place in tree(TOPOLOGY) if place.node == "module:0.0.1")
    assert address(TOPOLOGY, module) == "module 1, port 0, slave 0 (chips 4 to 7)"
    one_output = patches(TOPOLOGY, INDEX // 16 == 3, tree(TOPOLOGY))
    assert one_output == []  # it is the output, not a patch


def rate(id_, node, value, baseline, unit="1/s"):
    limits = Limits(0.9 * baseline, 0.98 * baseline, 1.02 * baseline, 1.1 * baseline)
    return replace(flagged(id_, node, value, unit, limits), baseline=baseline)


def test_false_triggers_of_one_module_and_of_all_are_two_causes():
    normal = [rate("singles_rate", f"module:0.0.{m}", 9000.0, 9000.0) for m in range(MODULES)]
    one = [*normal[:2], rate("singles_rate", "module:0.0.2", 24_000.0, 9000.0), normal[3]]
    found = first(a_run(one))
    assert (found.cause[:3], found.node) == ("F23", "module:0.0.2")
    assert "instead of 9000" in found.evidence[0]
    everywhere = [rate("singles_rate", f"module:0.0.{m}", 24_000.0, 9000.0) for m in range(MODULES)]
    found = first(a_run(everywhere))
    assert (found.cause[:3], found.node) == ("F25", SCANNER)
    hot = ChannelColumn(
        "hot_channels", "1/s", np.full(N, 35.0), np.ones(N), np.full(N, 900),
        np.where(INDEX == 600, "fail", "pass").astype(object), np.full(N, "", object),
    )  # fmt: skip
    found = first(a_run(one, [hot]))
    assert (found.cause[:3], found.node) == ("F02", "channel:0.0.9.24"), "a hot channel explains its module's rate"


def test_a_module_that_counts_and_has_no_coincidences_is_out_of_step_by_frames():
    rates = [rate("singles_rate", f"module:0.0.{m}", 9000.0, 9000.0) for m in range(MODULES)]
    offsets = [flagged("module_time_offset", f"module:0.0.{m}", 0.0, "ps", Limits(-75, -20, 20, 75)) for m in range(3)]
    alone = CheckResult.missing("module_time_offset", "module:0.0.3", "ps", 0, Limits(), "no channel has coincidences")
    found = first(a_run([*rates, *offsets, alone, rate("prompts", SCANNER, 500.0, 1000.0)]))
    assert (found.cause[:3], found.node) == ("F20", "module:0.0.3")
    two = [replace(alone, node=f"module:0.0.{m}") for m in (2, 3)]
    fewer = rate("prompts", SCANNER, 500.0, 1000.0)
    run = a_run([*rates, *offsets[:2], *two, fewer, rate("prompts", "module:0.0.3 - module:0.0.2", 9.0, 9.0)])
    told, _ = diagnose(TOPOLOGY, run)
    assert [(h.cause[:3], h.node) for h in told] == [("F20", "module:0.0.3 - module:0.0.2")], "one of the two"
    run.checks.pop()  # not looked for between these two: each lacks its own partners
    assert {h.node for h in diagnose(TOPOLOGY, run)[0]} == {"module:0.0.2", "module:0.0.3"}


def test_the_room_the_rate_and_the_dark_counts_are_told_apart_by_what_else_moved():
    def degrees(change):
        limits = Limits(17, 20, 24, 27)
        found = [flagged("temperature", f"module:0.0.{m}", 22.0 + change, "degC", limits) for m in range(MODULES)]
        return [replace(c, baseline=22.0) for c in found]

    warn = flagged("photopeak", SCANNER, 503.0, "keV", Limits(495.0, 505.0, 516.0, 526.0))
    everything = np.full(N, -8.0)
    assert first(a_run([*degrees(0.8), warn], photopeak=everything)).cause.startswith("F07 ")
    assert first(a_run([*degrees(0.0), warn], photopeak=everything)).cause.startswith("F17 ")
    dark = [rate("dark_count_rate", f"module:0.0.{m}", 9e5, 4e5) for m in range(MODULES)]
    assert first(a_run([*degrees(0.0), *dark])).cause.startswith("F08 ")


def test_noise_is_resolution_and_width_of_a_module_whose_photopeak_stays():
    module = INDEX // 256 == 1
    warn = flagged("energy_resolution", "module:0.0.1", 11.4, "%", Limits(warn_high=11.0))
    found = first(a_run([warn], energy_resolution=at(module, 0.9), timing_width=at(module, 60.0)))
    assert (found.cause[:3], found.node) == ("F11", "module:0.0.1")


def test_fewer_coincidences_alone_are_blind_channels_or_another_window():
    causes = [h.cause[:3] for h in diagnose(TOPOLOGY, a_run([rate("prompts", SCANNER, 940.0, 1000.0)]))[0]]
    assert causes[:2] == ["F18", "F22"]
    seen = flagged("dead_time", "module:0.0.1", 3.0, "%", Limits(warn_high=1.0, fail_high=5.0))
    found = first(a_run([seen]))
    assert (found.cause[:3], found.node) == ("F18", "module:0.0.1")


def test_what_the_mr_does_is_false_triggers_or_heat():
    limits = Limits(-5.0, -1.0, 1.0, 5.0)
    rates = [flagged("mr_rate", f"module:0.0.{m}", 120.0 if m == 2 else 0.1, "%", limits) for m in range(MODULES)]
    found = first(a_run(rates))
    assert (found.cause[:3], found.node) == ("F23", "module:0.0.2")
    assert "120.00 ± 0.10% at module:0.0.2 under stress of the MR" in found.evidence[0]
    every = [flagged("mr_rate", f"module:0.0.{m}", 120.0, "%", limits) for m in range(MODULES)]
    assert first(a_run(every)).cause.startswith("F25 ")
    peaks = [flagged("mr_peak", f"module:0.0.{m}", -3.0, "%", Limits(-2.0, -0.5, 0.5, 2.0)) for m in range(MODULES)]
    found = first(a_run(peaks))
    assert (found.cause[:3], found.node) == ("F24", SCANNER)


def test_another_window_explains_rate_and_width_of_the_whole_scanner():
    width = flagged("windows.coincidence", SCANNER, 20.0, "ns", Limits(8.0, 9.9, 10.1, 12.0))
    edge = flagged("windows.energy_low", SCANNER, 423.0, "keV", Limits(405.0, 424.0, 426.0, 445.0))
    run = a_run([width, edge, rate("prompts", SCANNER, 1200.0, 1000.0)], timing_width=np.full(N, 12.0))
    found, _ = diagnose(TOPOLOGY, run)
    assert [(h.cause[:3], h.node) for h in found] == [("F22", SCANNER)]
    assert found[0].evidence[0] == (
        "coincidence window 20 ns instead of 10 ns; lower edge of the energy window 423 keV instead of 425 keV"
    )


def test_several_wide_channels_of_an_asic_are_one_sign_and_go_with_their_side_peak():
    places = asic(6)[[3, 17, 30, 44]]
    wide = flagged("timing_width", "asic:0.0.6", 240.0, "ps", Limits(warn_high=234.0, fail_high=256.0))
    status = np.full(N, str(Status.PASS), object)
    status[places[1]] = str(Status.WARN)
    reason = np.where(status == str(Status.WARN), "side peak of 12 % of the pairs, -825 ps from the main one", "")
    tails = ChannelColumn("time_tails", "%", np.full(N, 1.0), np.full(N, 0.2), np.full(N, 900), status, reason)
    found, _ = diagnose(TOPOLOGY, a_run([wide], [tails], timing_width=at(places, 130.0)))
    assert {h.node for h in found} == {"asic:0.0.6"}
    assert found[0].cause.startswith("F28 ")
    assert "4 of its channels are too wide in time" in found[0].evidence[0]
    assert "one has a side peak of 12 %" in found[0].evidence[0]
    # Cracked crystals are wide in time, too, but that is not all.
    cracked = {"photopeak": at(places, -120.0), "energy_resolution": at(places, 4.0)}
    found, _ = diagnose(TOPOLOGY, a_run([wide], timing_width=at(places, 130.0), **cracked))
    assert [(h.cause[:3], h.node) for h in found[:4]] == [("F10", f"channel:0.0.6.{i}") for i in (3, 17, 30, 44)]


def test_a_crystal_without_a_photopeak_is_named():
    run = a_run()
    peaks = run.columns[0]
    peaks.value[700], peaks.status[700] = np.nan, str(Status.WARN)
    peaks.reason[700] = "the model does not describe the spectrum"
    assert (first(run).cause[:3], first(run).node) == ("F10", "channel:0.0.10.60")
    for near in (701, 702):
        peaks.value[near], peaks.status[near] = np.nan, str(Status.WARN)
    assert (first(run).cause[:3], first(run).node) == ("F28", "asic:0.0.10")


def test_channels_without_a_photopeak_that_one_bias_output_feeds_are_its_own() -> None:
    run = a_run()
    peaks = next(c for c in run.columns if c.id == "photopeak")
    output = np.arange(704, 720)
    peaks.value[output[:6]], peaks.status[output] = np.nan, str(Status.WARN)
    peaks.value[output[6:]] *= 0.73
    peaks.status[output[6:]] = str(Status.FAIL)
    found = first(run)
    assert (found.cause[:3], found.node) == ("F04", "bias:0.0.0.44")
    assert "Write the set-point" in found.next_step
    run = a_run()
    peaks = next(c for c in run.columns if c.id == "photopeak")
    others = [705, 709, 714, 722, 730, 742, 750, 760]
    peaks.value[others], peaks.status[others] = np.nan, str(Status.WARN)
    assert (first(run).cause[:3], first(run).node) == ("F28", "asic:0.0.11")  # whatever feeds them


def test_a_photopeak_that_moved_everywhere_is_not_that_of_a_few_outputs() -> None:
    everywhere = np.full(N, -0.0092 * 511.0)
    noisy = everywhere + at(np.arange(32, 48), -0.0015 * 511.0) + at(np.arange(500, 512), -0.0015 * 511.0)
    output = flagged("bias_peak", "bias:0.0.0.2", 505.5, "keV", Limits(501.0, 506.0, 516.0, 521.0))
    found, _ = diagnose(TOPOLOGY, a_run([output], photopeak=noisy))
    assert {h.node for h in found} == {SCANNER}
    assert found[0].cause[:3] == "F17"
    one = flagged("bias_peak", "bias:0.0.0.2", 485.0, "keV", Limits(501.0, 506.0, 516.0, 521.0))
    alone, _ = diagnose(TOPOLOGY, a_run([one], photopeak=everywhere + at(np.arange(32, 48), -0.05 * 511.0)))
    assert (alone[0].cause[:3], alone[0].node) == ("F03", "bias:0.0.0.2")


def test_two_kelvin_and_more_are_cooling_and_less_is_the_room() -> None:
    for kelvin, named in ((1.6, "F07"), (5.0, "F06")):
        limits = Limits(15.0, 18.0, 22.0, 25.0)
        read = [flagged("temperature", f"module:0.0.{k}", 20.0 + kelvin, "degC", limits) for k in range(MODULES)]
        warn = flagged("photopeak", SCANNER, 490.0, "keV", Limits(495.0, 505.0, 516.0, 526.0))
        warm = [warn, *(replace(c, baseline=20.0) for c in read)]
        found = first(a_run(warm, photopeak=np.full(N, -0.02 * kelvin * 511.0)))
        assert (found.cause[:3], found.node) == (named, SCANNER)


def test_an_asic_that_is_late_and_hardly_wider_is_its_tdc_and_no_clock():
    late = flagged("module_time_offset", "asic:0.0.6", -74.0, "ps", Limits(-75.0, -20.0, 20.0, 75.0))
    found, _ = diagnose(TOPOLOGY, a_run([late], module_time_offset=at(asic(6), -90.0), timing_width=at(asic(6), 9.0)))
    assert [h.cause[:3] for h in found] == ["F12", "F14"]


EIGHT = Topology.from_channels(np.arange(8 * 256, dtype=np.int32))


def a_dead_asic(*more, diagnosis=None):
    """A scanner of eight modules, one ASIC of which is silent."""
    is_dead = EIGHT.asic == 9
    status = np.where(is_dead, str(Status.FAIL), str(Status.PASS)).astype(object)
    column = ChannelColumn(
        "dead_channels", "of median", 1.0 * ~is_dead, np.zeros(2048), np.where(is_dead, 0, 900), status,
        np.full(2048, "", object),
    )  # fmt: skip
    run = Run("r", "daily", "", "", True, Status.FAIL, "", {}, "", {}, columns=[column])
    run.channels = channel_table(EIGHT)
    counts = Limits(warn_high=4.0, fail_high=20.0)
    run.checks = [
        flagged("dead_channels", SCANNER, 64.0, "channels", counts),
        flagged("dead_channels", "module:0.0.2", 64.0, "channels", counts),
        CheckResult.missing(
            "photopeak", "asic:0.0.9", "keV", 0, Limits(500.0, 505.0, 517.0, 522.0), "no counts at all"
        ),
        rate("prompts", SCANNER, 940.0, 1000.0),
        flagged("photopeak", "module:0.0.2", 511.0, "keV", Limits(500.0, 505.0, 517.0, 522.0)),
        *more,
    ]
    run.diagnosis = diagnose(EIGHT, run)[0] if diagnosis is None else diagnosis
    return run


def test_a_scan_without_one_dead_asic_is_suggested_with_its_grounds():
    found = masking(a_dead_asic())
    assert found is not None
    assert (found.node, found.text) == (
        "asic:0.0.9", "scan with chip 9, port 0, slave 0 masked, if the physicist agrees",
    )  # fmt: skip
    assert "64 of 2048 channels (3.1 %)" in found.grounds
    assert "1 other values are inside their limits" in found.grounds


def test_no_scan_without_a_part_is_suggested_where_anything_else_is_wrong_or_the_cause_is_shared():
    elsewhere = flagged("photopeak", "module:0.0.5", 490.0, "keV", Limits(500.0, 505.0, 517.0, 522.0))
    whole = CheckResult.missing("ctr_fit", SCANNER, "ps", 0, Limits(), "the model does not describe the spectrum")
    assert masking(a_dead_asic(elsewhere)) is None
    assert masking(a_dead_asic(whole)) is None
    for cause in ("F03 bias of one output has drifted", "F14 clock phase has stepped", "F06 cooling lost"):
        assert masking(a_dead_asic(diagnosis=[Hypothesis(cause, "asic:0.0.9", 1.0, ("",), "")])) is None
    assert masking(a_dead_asic(diagnosis=[])) is None
    assert masking(replace(a_dead_asic(), verdict=Status.WARN)) is None


def test_two_modules_without_coincidences_are_out_of_step_even_where_no_times_were_compared():
    two = Topology.from_channels(np.arange(512, dtype=np.int32))
    run = Run("r", "daily", "", "", True, Status.FAIL, "", {}, "", {})
    why = "too few coincidences to compare channels"
    run.checks = [
        rate("prompts", SCANNER, 26.0, 25000.0),
        *(rate("singles_rate", f"module:0.0.{m}", 9000.0, 9000.0) for m in range(2)),
        CheckResult.missing("module_time_offset", SCANNER, "ps", 15, Limits(), why),
        CheckResult.missing("ctr_fit", SCANNER, "ps", 15, Limits(), "15 counts in the peak"),
    ]
    found, _ = diagnose(two, run)
    assert (found[0].cause[:3], found[0].node) == ("F20", "module:0.0.0 - module:0.0.1")


def test_a_module_whose_flight_times_are_too_long_needs_a_calibration_of_its_tdcs():
    around = Limits(99.0, 99.7, 100.3, 101.0)
    scales = [
        flagged("lu_tdc_scale", f"module:0.0.{m}", 100.9 if m == 2 else 100.4, "%", around) for m in range(MODULES)
    ]
    found, _ = diagnose(TOPOLOGY, a_run(scales))
    assert [(h.cause[:3], h.node) for h in found] == [("F12", "module:0.0.2")]
    assert found[0].evidence[0] == "flight times are measured +0.90 ± 0.10 % from what light needs"


def without_channels(run, **sums):
    """A run of few counts: no channel has numbers of its own, and every ASIC has some."""
    for column in run.columns:
        if column.id in sums:
            column.value[:] = np.nan
            for i, name in enumerate(TOPOLOGY.asic_nodes):
                value, error = sums[column.id][i], ERRORS[column.id]
                run.checks.append(
                    CheckResult.measured(column.id, name, value, column.unit, error, 900, WIDE[column.id])
                )
    return run


WIDE = {"photopeak": Limits(496.0, 506.0, 516.0, 526.0), "energy_resolution": Limits(warn_high=11.5, fail_high=12.0)}


def test_where_channels_have_too_few_counts_their_asics_speak():
    peak, width = np.full(MODULES * 4, 511.0), np.full(MODULES * 4, 10.5)
    peak[6], width[6], width[9] = 440.0, 13.0, 13.0
    found, _ = diagnose(TOPOLOGY, without_channels(a_run(), photopeak=peak, energy_resolution=width))
    named = {h.node: h for h in found}
    assert {node: h.cause[:3] for node, h in named.items()} == {"asic:0.0.6": "F09", "asic:0.0.9": "F28"}
    assert any(told.startswith("photopeak -13.9 ± ") and "mean of" not in told for told in named["asic:0.0.6"].evidence)
    assert diagnose(TOPOLOGY, without_channels(a_run(), photopeak=np.full(MODULES * 4, 511.0))) == ([], "")


def test_an_output_that_feeds_one_asic_is_named_as_what_the_cause_sits_in():
    index = np.arange(4 * 256)
    one = Topology.from_channels(
        index.astype(np.int32), column=(index % 16).astype(np.int16), row=(index // 16 % 16).astype(np.int16),
        bias_output={int(i): (0, int(i) // 64 % 64) for i in index},
    )  # fmt: skip
    wide = flagged("timing_width", "asic:0.0.6", 290.0, "ps", Limits(warn_high=234.0, fail_high=256.0))
    drift, _ = diagnose(one, a_run(photopeak=at(asic(6), -21.0)))
    scale, _ = diagnose(one, a_run([wide], timing_width=at(asic(6), 60.0), module_time_offset=at(asic(6), -80.0)))
    assert [(h.cause[:3], h.node) for h in (drift[0], scale[0])] == [("F03", "bias:0.0.0.6"), ("F12", "asic:0.0.6")]


def test_the_sentence_names_the_cause_of_what_the_verdict_is_about() -> None:
    offset = CheckResult.measured("module_time_offset", "module:0.0.1", 27.0, "ps", 0.1, 9, Limits(warn_high=20.0))
    peak = CheckResult.measured("bias_peak", "bias:0.0.0.2", 325.0, "keV", 0.3, 9, Limits(fail_low=495.0))
    dead = CheckResult.measured("dead_channels", "scanner", 6.0, "channels", 0.0, 9, Limits(fail_high=5.0))
    clock = Hypothesis("F14 clock", "module:0.0.0 - module:0.0.1", 1.0, (), "")
    bias = Hypothesis("F04 bias", "bias:0.0.0.2", 0.7, (), "")
    one = Hypothesis("F01 no signal", "channel:0.0.5.30", 1.0, (), "")

    def said(verdict: Status, checks: list[CheckResult], *causes: Hypothesis) -> str:
        return likely(usual_run(verdict=verdict, checks=checks, diagnosis=list(causes)))

    assert said(Status.WARN, [offset], one, clock).startswith(" Most likely: F14 clock")
    assert said(Status.WARN, [offset], one) == ""
    assert said(Status.FAIL, [dead], one).startswith(" Most likely: F01")
    assert said(Status.FAIL, [offset, peak], clock, bias).startswith(" Most likely: F04 bias")
    assert said(Status.FAIL, [offset, dead], clock).startswith(" Most likely: F14 clock")
    assert said(Status.PASS, [], one) == ""
