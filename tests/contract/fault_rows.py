"""Every row of the fault matrix of the links: what it ends in, and which test tries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class MatrixRow:
    """A row: its fault, what it ends in within ten seconds, and the tests that try it.

    proof: `FILE::TEST` under tests/; a story of `test_fault_stories` is named by the row itself, a fault of
    `test_fault_matrix`, tried with every device, by its column. note: what differs from the row's text, and why.
    """

    id: str
    fault: str
    ends: str
    proof: tuple[str, ...]
    note: str = ""


STORY: Final = "contract/test_fault_stories.py"
EACH: Final = "contract/test_fault_matrix.py"
EVERY: Final = "contract/test_every_instrument.py"
RING: Final = "unit/test_driver_daqd_ring.py"
DAQD: Final = "unit/test_driver_daqd_link.py"
UDP: Final = "contract/test_udp_faults.py"

ROWS: Final = (
    MatrixRow("SER-01", "unplugged while idle", "`fault` (it was off), tries twice as far apart each time",
              (f"{STORY}::SER-01", f"{EACH}::nobody")),
    MatrixRow("SER-02", "unplugged in mid-ramp, after each step", "the command fails, its last confirmed step named; "
              "`unknown`, MAJOR; `adopted` when it is back, and no ramp goes on",
              (f"{STORY}::SER-02", ("contract/test_bias_control.py::"
               "test_what_is_lost_while_on_is_said_and_off_as_soon_as_it_is_back"))),
    MatrixRow("SER-03", "plugged in again", "`adopted`, same serial number, nothing was set", (f"{STORY}::SER-03",)),
    MatrixRow("SER-04", "another one plugged in", "`unknown`, its serial number named; told nothing",
              (f"{STORY}::SER-04", f"{EACH}::another")),
    MatrixRow("SER-05", "silent, then a flood of late replies", "`fault`; the flood is thrown away",
              (f"{EACH}::freeze", f"{EVERY}::test_a_hung_device_is_noticed_and_its_flood_discarded")),
    MatrixRow("SER-06", "reply after the time-out", "`fault`; it answers no later question", (f"{EACH}::late",
              "contract/test_links.py::test_silence_and_the_late_reply")),
    MatrixRow("SER-07", "slow bytes", "right, or `fault`", (f"{EACH}::split", f"{EACH}::delay")),
    MatrixRow("SER-08", "reply cut", "`fault`", (f"{EACH}::truncate",
              f"{EVERY}::test_a_reply_that_is_not_as_it_should_be")),
    MatrixRow("SER-09", "flipped bits", "`fault`, or the value is read again", (f"{EACH}::flip",
              f"{EVERY}::test_a_reply_that_is_not_as_it_should_be"),
              "only where frames have a checksum or the line has parity; else see SER-10"),
    MatrixRow("SER-10", "bytes that changed places under a right checksum", "read again: `uncertain`, then right",
              (f"{STORY}::SER-10", ("unit/test_driver_plausible.py::"
               "test_two_that_disagree_are_uncertain_and_say_why")),
              "what is less than 0.2 V, 0.1 mA or 2 °C from the value before is not noticed"),
    MatrixRow("SER-11", "a flood without an end", "`fault`, at most 64 KiB kept", (f"{EACH}::babble",
              f"{EVERY}::test_babble_without_an_end_is_bounded")),
    MatrixRow("SER-12", "said twice, other line ends, lines unasked for", "right, or `fault`", (f"{EACH}::repeat",
              f"{EVERY}::test_a_reply_that_comes_again_in_place_of_the_next",
              "contract/test_bias_replies_again.py::test_what_is_claimed_is_so",
              "contract/test_links.py::test_twice_and_more_than_asked")),
    MatrixRow("SER-13", "no number where one should be", "`remote-protocol`, no value",
              ("golden/test_julabo_bytes.py::nonsense", "golden/test_keithley_smu_bytes.py::nonsense",
               "golden/test_sr620_bytes.py::nonsense", "golden/test_caen_a7585d_bytes.py::nonsense")),
    MatrixRow("SER-14", "restarted in operation", "`tripped`; its own limits are written by switching on only",
              (f"{STORY}::SER-14", "contract/test_bias_control.py::test_the_device_s_own_limits_must_stay")),
    MatrixRow("SER-15", "set acknowledged and not done", "`off`", (f"{STORY}::SER-15",
              "contract/test_hamamatsu_c11204.py::test_what_goes_wrong_on_the_way_up_ends_in_off")),
    MatrixRow("SER-16", "set refused", "`on` at the last confirmed step; the command fails in the device's words",
              (f"{STORY}::SER-16",)),
    MatrixRow("SER-17", "output above its limit by itself", "`tripped`, off, with the readings of that moment",
              (f"{STORY}::SER-17", ("contract/test_supervised_instruments.py::"
               "test_what_is_measured_above_the_limit_is_off_and_tripped"))),
    MatrixRow("SER-18", "off ignored", "three tries, `unknown`, the advice to use the switch",
              (f"{STORY}::SER-18",)),
    MatrixRow("SER-19", "a second opener", "kept out; `fault` if one gets in (root) and takes bytes away",
              (f"{STORY}::SER-19",)),
    MatrixRow("SER-20", "nobody takes what is sent", "`unknown`; off opens the line anew each time",
              (f"{STORY}::SER-20",), "tried where the tests run as root: others cannot fill the port of an exclusive "
              "opener"),
    MatrixRow("TCP-01", "refused, no way there, no such name", "`unknown` or `fault`, tries further and further apart",
              (f"{STORY}::TCP-01", f"{EVERY}::test_back_off")),
    MatrixRow("TCP-02", "accepts and never answers", "`fault`", (f"{EACH}::freeze",
              f"{DAQD}::test_a_daemon_that_takes_connections_and_does_nothing")),
    MatrixRow("TCP-03", "black hole", "`fault`", (f"{EACH}::drop",)),
    MatrixRow("TCP-04", "reset: idle, asked, in mid-reply", "`unknown`, then `adopted`", (f"{STORY}::TCP-04",
              f"{EACH}::nobody")),
    MatrixRow("TCP-05", "half-closed", "a loss: `unknown`, then `adopted`", (f"{STORY}::TCP-05",)),
    MatrixRow("TCP-06", "single bytes, replies together", "right, or `fault`", (f"{EACH}::split", f"{EACH}::merge")),
    MatrixRow("TCP-07", "200 ms ± 100 ms, 1 kB/s", "slower polls, no loss", (f"{STORY}::TCP-07", f"{EACH}::delay")),
    MatrixRow("TCP-08", "late, swapped replies", "`fault`", (f"{EACH}::late", f"{EACH}::merge", f"{EACH}::repeat")),
    MatrixRow("TCP-09", "a library that never comes back", "its thread left behind, two at most; `unknown` or `fault`; "
              "others go on and the daemon stops", (f"{STORY}::TCP-09",
              "contract/test_links.py::test_a_library_that_never_comes_back")),
    MatrixRow("TCP-10", "another instrument at the address", "`wrong-identity`", (f"{EACH}::another",)),
    MatrixRow("TCP-11", "its only place is taken", "`unknown` or `fault`, and it says so", (f"{STORY}::TCP-11",)),
    MatrixRow("UDP-01", "loss of single datagrams and in bursts", "counted as the relay logged it",
              (f"{UDP}::test_udp_01_what_is_lost_is_counted_exactly_as_the_relay_logged_it",)),
    MatrixRow("UDP-02", "doubled, shuffled by up to 64", "once and in order, the rest counted",
              (f"{UDP}::test_udp_02_doubled_and_shuffled_frames_come_once_and_in_order_or_are_counted",)),
    MatrixRow("UDP-03", "counter wraps, restarts, jumps", "goes on over a wrap; else the acquisition ends, no huge gap",
              (f"{UDP}::test_udp_03_the_frame_counter_wraps_and_nothing_is_missing",
               f"{UDP}::test_udp_03_a_counter_that_begins_elsewhere_ends_the_acquisition_without_a_huge_gap")),
    MatrixRow("UDP-04", "wrong length, content or sender", "counted, dropped", (f"{EACH}::truncate", f"{EACH}::babble",
              "unit/test_driver_link.py::test_strangers_are_counted_and_not_heard",
              "unit/test_driver_intake.py::test_whatever_comes_the_account_adds_up_and_order_holds")),
    MatrixRow("UDP-05", "more than can be taken", "drops counted, the event loop turns on",
              (f"{UDP}::test_udp_05_more_than_can_be_taken_is_counted_and_keeps_nobody_waiting",),
              "for as long as 2000 datagrams take; `benchmarks/overload.py` does it for a minute"),
    MatrixRow("UDP-06", "receiver killed", "the run is closed as interrupted by the next start, its recording is read",
              (("system/test_kill_simulator.py::"
               "test_the_daemon_itself_killed_leaves_a_record_and_a_readable_recording"),),
              "the receiver is a thread of the daemon: what can be killed is the daemon"),
    MatrixRow("UDP-07", "device stops in mid-run", "run `invalid` with the reason",
              ("system/test_kill_simulator.py::test_sigkill_in_mid_run", f"{EACH}::freeze",
               "contract/test_petsys_board.py::test_a_board_that_dies_ends_the_acquisition")),
    MatrixRow("SHM-01", "daemon killed, socket and memory stay", "named `stale`, left alone",
              ("contract/test_petsys_daqd.py::test_a_daemon_that_is_killed_is_told_by_name_and_nothing_is_removed",
               f"{DAQD}::test_a_stale_socket_and_its_memory_are_told_by_name_and_left_alone")),
    MatrixRow("SHM-02", "another size, layout or object", "refused with both sizes; in mid-run the acquisition ends",
              (f"{RING}::test_another_size_is_refused", f"{RING}::test_another_layout_is_refused",
               f"{RING}::test_another_object_under_the_same_name_is_noticed",
               f"{DAQD}::test_what_ends_an_acquisition_is_told_and_the_account_stays_exact")),
    MatrixRow("SHM-03", "memory cut short while mapped", "`link-lost`; the process goes on",
              (f"{RING}::test_memory_that_is_cut_short_is_an_error_and_no_bus_error",
               f"{DAQD}::test_what_ends_an_acquisition_is_told_and_the_account_stays_exact"),
              "no reader process is needed: the kernel makes the copy"),
    MatrixRow("SHM-04", "pointers and headers that lie", "nothing read beyond the ring, counted",
              (f"{RING}::test_no_content_and_no_pointer_reads_beyond_the_ring",
               f"{RING}::test_headers_that_lie_are_rejected_and_counted",
               f"{DAQD}::test_pointers_that_cannot_be_are_counted_and_nothing_is_read",
               f"{DAQD}::test_pointers_that_never_make_sense_end_the_acquisition")),
    MatrixRow("SHM-05", "torn frame", "rejected as `slot-torn`",
              (f"{RING}::test_a_slot_that_changes_while_it_is_read_is_rejected",)),
    MatrixRow("SHM-06", "messages in pieces", "right", (f"{DAQD}::test_replies_may_come_in_pieces", f"{EACH}::split")),
    MatrixRow("SHM-07", "a daemon of somebody else", "refused, the user named",
              (f"{DAQD}::test_what_is_wrong_with_a_daemon_is_told_when_connecting",)),
    MatrixRow("SHM-08", "shared memory full", "–", (),
              "cannot happen to petqc, which makes no shared memory and only reads the daemon's; a daemon that dies "
              "because there is no room for its ring is SHM-01"),
)  # fmt: skip


def rows_table(rows: Iterable[MatrixRow] = ROWS) -> list[str]:
    """For the page of people."""
    lines = ["| row | fault | ends in | tried by |", "| --- | --- | --- | --- |"]
    for row in rows:
        proofs = ", ".join(f"`{_short(proof)}`" for proof in row.proof) or "–"
        note = f" ({row.note})" if row.note else ""
        lines.append(f"| {row.id} | {row.fault} | {row.ends}{note} | {proofs} |")
    return lines


def _short(proof: str) -> str:
    file, _, name = proof.partition("::")
    return f"{file.rpartition('/')[2].removesuffix('.py')}: {name.removeprefix('test_').replace('_', ' ')}"
