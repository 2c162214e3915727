"""Every row of the fault matrix of the service itself: what it ends in, and which test tries it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tests.contract.fault_rows import MatrixRow, rows_table

MQTT: Final = "system/test_mqtt.py"
STORE: Final = "unit/test_daemon_store.py"
DISK: Final = "unit/test_bad_disk.py"
GONE: Final = "unit/test_history_files_gone.py"
HOSTILE: Final = "unit/test_hostile_requests.py"
WEB: Final = "unit/test_daemon_web.py"
ACCESS: Final = "unit/test_daemon_access.py"
COMMANDS: Final = "unit/test_daemon_commands.py"
CONSOLE: Final = "browser/test_console.py"
BIAS: Final = "contract/test_bias_control.py"
SCHEDULE: Final = "unit/test_schedule.py"
YEARS: Final = "unit/test_schedule_years.py"
SUPERVISED: Final = "contract/test_supervised_instruments.py"
KILLED: Final = "system/test_kill_daemon.py"
UNITS: Final = "unit/test_install_service.py"
MANAGER: Final = "unit/test_service_manager.py"

ROWS: Final = (
    MatrixRow("MQ-01", "no broker", "runs go on; what waits is kept, bounded and counted, and told once it is there",
              (f"{MQTT}::test_without_a_broker_facts_wait_and_survive_a_restart_of_the_daemon",
               f"{MQTT}::test_the_outbox_is_bounded")),
    MatrixRow("MQ-02", "broker killed, started again without what it had", "every fact at least once, in order",
              (f"{MQTT}::test_a_broker_that_comes_and_goes_gets_everything_once_by_id",),
              "`python -m tests.system.flapping` for a minute; what a broker confirms and then loses is its affair"),
    MatrixRow("MQ-03", "connection open, nothing confirmed", "given up after 10 s; the store takes runs meanwhile",
              (f"{MQTT}::test_a_broker_that_hangs_is_not_noticed_by_runs",)),
    MatrixRow("MQ-04", "killed between commit and publish, between publish and knowing it", "told by the next daemon, "
              "with the same id", (f"{MQTT}::test_without_a_broker_facts_wait_and_survive_a_restart_of_the_daemon",
              f"{MQTT}::test_a_daemon_killed_after_it_told_and_before_it_knew_tells_it_again_with_the_same_id",
              f"{KILLED}::test_twenty_kills_in_every_phase")),
    MatrixRow("MQ-05", "retained command", "refused, recorded, counted, alert",
              (f"{MQTT}::test_commands_are_signed_fresh_once_and_never_retained",)),
    MatrixRow("MQ-06", "replayed, old, unsigned, above what it may", "refused, recorded, counted; also by the next "
              "daemon", (f"{MQTT}::test_commands_are_signed_fresh_once_and_never_retained",
              f"{MQTT}::test_without_being_told_to_no_command_is_taken"),
              "no command through the broker has a voltage that could be above a limit"),
    MatrixRow("MQ-07", "1 MiB, invalid UTF-8, deep JSON, a flood", "refused, counted; twenty at once are recorded, "
              "then one in ten seconds", (f"{MQTT}::test_commands_are_signed_fresh_once_and_never_retained",),
              "what is longer than 2 MiB the broker drops"),
    MatrixRow("MQ-08", "two daemons of one name", "the older one stands back, says so, and is shown as not connected",
              (f"{MQTT}::test_two_daemons_of_one_name_do_not_throw_each_other_out_for_ever",)),
    MatrixRow("MQ-09", "the access list forbids a topic of ours", "counted, alert; what it is about waits, "
              "nothing else does",
              (f"{MQTT}::test_the_example_broker_wants_tls_a_password_and_keeps_to_its_list",
               f"{MQTT}::test_a_broker_that_lets_nobody_listen_is_told_of"),
              "a topic that it may not hear mosquitto refuses only by its plugin"),
    MatrixRow("MQ-10", "certificate expired, or of nobody known", "not connected, never without TLS; alert 30 days "
              "before", (f"{MQTT}::test_the_example_broker_wants_tls_a_password_and_keeps_to_its_list",
              "unit/test_monitoring.py::test_the_rules_do_what_their_tests_say")),
    MatrixRow("WEB-01", "every device hangs", "metrics, health and pages are answered",
              (f"{WEB}::test_while_every_device_hangs_everything_is_answered",
               "contract/test_nobody_is_delayed.py::test_on_every_carrier_at_once",
               "unit/test_process_health.py::test_a_loop_that_stood_still_and_a_task_more_are_seen"),
              "tests assert no times of the wall: `benchmarks/under_load.py` measures them, with 64 devices"),
    MatrixRow("WEB-02", "a request byte by byte, an answer that is not read", "let go; whoever reads gets all",
              ("unit/test_slow_clients.py::test_a_request_that_does_not_end_is_let_go",
               "unit/test_slow_clients.py::test_an_answer_that_takes_longer_than_a_request_may_is_read_to_its_end",
               "unit/test_slow_clients.py::test_who_does_not_read_is_let_go_and_who_reads_gets_all")),
    MatrixRow("WEB-03", "many event streams, half of them never read; many idle connections", "those are dropped, "
              "the others hear everything; whoever comes is answered",
              (f"{HOSTILE}::test_many_who_listen_and_do_not_read_are_dropped_and_the_others_hear_everything",
               f"{HOSTILE}::test_however_many_hold_connections_and_listen_there_is_room_for_whoever_asks",
               f"{WEB}::test_a_listener_that_does_not_read_is_dropped_and_holds_up_nobody"),
              "forty; where half of the listener's places hear, more are refused; whoever is being answered "
              "may take all the others"),
    MatrixRow("WEB-04", "bodies that are long, deep, endless or no numbers", "4xx with a code; none is taken beyond "
              "its bound", (f"{HOSTILE}::test_no_body_breaks_a_command",
              f"{HOSTILE}::test_a_body_is_as_long_as_it_says_or_not_taken",
              f"{WEB}::test_what_a_command_must_look_like")),
    MatrixRow("WEB-05", "whatever fits or does not fit the interface, as every role", "no 5xx, nothing undocumented, "
              "no role does too much",
              ("unit/test_daemon_schema.py::test_no_request_breaks_it_and_no_role_does_too_much",)),
    MatrixRow("WEB-06", "two operators set one output at once", "one is done, the other refused (409)",
              (f"{BIAS}::test_of_two_who_set_one_output_at_once_one_is_refused",
               f"{COMMANDS}::test_a_command_on_an_old_state_is_refused",
               f"{CONSOLE}::test_what_energises_asks_for_the_password_again")),
    MatrixRow("WEB-07", "client gone in mid-command", "the command is done, its end is recorded",
              (f"{BIAS}::test_a_command_whose_client_is_gone_is_done_and_its_end_is_recorded",)),
    MatrixRow("WEB-08", "the same request twice", "one effect, one answer, over a restart too",
              (f"{COMMANDS}::test_the_same_id_has_one_effect_and_one_answer_over_a_restart",
               f"{COMMANDS}::test_ids_end_with_their_day_and_what_was_begun_is_not_begun_again")),
    MatrixRow("WEB-09", "many scrapers, slow ones", "one text for all; slow ones are let go",
              (f"{WEB}::test_scrapes_at_once_take_one_thread_and_get_nothing_older_than_their_question",
               "unit/test_slow_clients.py::test_who_does_not_read_is_let_go_and_who_reads_gets_all")),
    MatrixRow("WEB-10", "pages of elsewhere: POST, Host, Origin, frame", "refused",
              (f"{ACCESS}::test_a_page_of_elsewhere_cannot_use_a_session",
               f"{WEB}::test_a_wrong_host_is_refused_on_loopback_too",
               f"{WEB}::test_good_hosts_and_foreign_origins")),
    MatrixRow("WEB-11", "many wrong passwords", "slowed down, hardly any is looked at, none on the event loop; the "
              "UNIX socket works",
              (f"{HOSTILE}::test_many_wrong_passwords_are_refused_without_a_look_and_never_hashed_on_the_event_loop",
               f"{ACCESS}::test_guessing_is_slowed_down_and_never_told_which_half_is_wrong")),
    MatrixRow("WEB-12", "console open for a day; the daemon hangs, is killed, is another one", "everything is marked "
              "as old, and new again by itself; a verdict of yesterday says so",
              (f"{CONSOLE}::test_what_a_daemon_showed_that_hangs_or_is_gone_is_marked_as_old",
               f"{CONSOLE}::test_a_page_that_stays_open_does_not_say_pass_for_ever")),
    MatrixRow("DSK-01", "full: run, record, audit row, backup, migration", "waits and is stored once there is room; no "
              "half backup; the old schema stays",
              ("unit/test_full_disk.py::test_a_run_that_fills_the_disk_is_stored_once_there_is_room",
               f"{DISK}::test_a_full_disk_keeps_audit_rows_waiting_and_makes_no_half_backup",
               f"{DISK}::test_a_disk_that_fills_up_in_a_migration_leaves_the_history_as_it_was",
               "unit/test_disk_and_retention.py::test_levels"), "the log goes to the journal, which has its own bound"),
    MatrixRow("DSK-02", "each write of the history fails once", "not acknowledged, not corrupt, well again by itself",
              (f"{DISK}::test_a_write_or_a_sync_that_fails_once_is_never_acknowledged_and_never_fatal",
               f"{STORE}::test_after_an_io_error_it_is_well_again_by_itself_with_what_it_acknowledged",
               "unit/test_formats_raw_damage.py::test_a_disk_that_fails_leaves_the_partial_recording",
               "unit/test_recording.py::test_a_disk_that_fails_ends_one_log_and_no_other"),
              "of reads only what a damaged page makes of them (DSK-09)"),
    MatrixRow("DSK-03", "each sync of the history fails once", "the history is closed, written anew and checked before "
              "anything is acknowledged",
              (f"{DISK}::test_a_write_or_a_sync_that_fails_once_is_never_acknowledged_and_never_fatal",)),
    MatrixRow("DSK-04", "read-only", "off works, and says that it could not be written down",
              (f"{DISK}::test_off_needs_no_disk_that_can_be_written",
               f"{BIAS}::test_without_a_store_nothing_goes_on_and_everything_goes_off"),
              "`petqc-safe` on a read-only mount; the daemon with a store that refuses, as the system mounts nothing "
              "anew that is open for writing"),
    MatrixRow("DSK-05", "loss of power at a sync", "what was acknowledged is there; a recording is readable up to its "
              "last second", ("unit/test_power_loss.py::test_what_was_acknowledged_survives_loss_of_power",
              "unit/test_power_loss.py::test_the_image_shows_what_a_careless_store_would_lose",
              "unit/test_formats_raw_damage.py::test_data_are_synced_before_the_manifest_names_them"),
              "files as they were at their own last sync; torn sectors and a disk that lies are not tried"),
    MatrixRow("DSK-06", "syncs take seconds", "acknowledged late; pages, metrics and off are answered meanwhile",
              (f"{DISK}::test_a_slow_disk_makes_acknowledgements_late_and_nothing_else",
               "unit/test_recording.py::test_a_disk_that_hangs_is_not_waited_for")),
    MatrixRow("DSK-07", "file, log or index of the history removed or replaced", "seen before anything more is "
              "acknowledged, at the latest after a minute; what is open is brought back",
              (f"{GONE}::test_what_is_removed_while_it_is_open_is_there_again",
               f"{GONE}::test_it_is_noticed_without_a_write_and_at_the_end",
               f"{GONE}::test_another_file_under_its_name_is_not_overwritten_and_not_believed")),
    MatrixRow("DSK-08", "no descriptor left", "nothing new begins, off is told, the daemon stays",
              (f"{DISK}::test_without_descriptors_nothing_new_begins_and_the_daemon_stays",),
              "an output whose link has to be opened for its off is `UNKNOWN` then; no inode left is a full disk"),
    MatrixRow("DSK-09", "corrupted page", "found by the next backup, or at the start; the file stays as it is",
              (f"{DISK}::test_a_page_that_is_damaged_is_found_by_the_next_backup_and_the_file_stays",
               f"{STORE}::test_a_file_that_is_no_database_is_refused_and_kept",
               f"{STORE}::test_a_history_that_lost_what_it_acknowledged_is_not_trusted_again")),
    MatrixRow("DSK-10", "network file system", "refused at the start",
              (f"{DISK}::test_a_network_file_system_is_refused",)),
    MatrixRow("DSK-11", "a reader without end", "ours is ended after 2 s; a log that another one keeps from shrinking "
              "has a metric and an alert, and delays no write",
              (f"{DISK}::test_whoever_reads_without_end_is_ended_or_seen",),
              "a reader of another process cannot be dropped"),
    MatrixRow("CLK-01", "summer time, jobs in the hour left out and doubled, five zones", "one end for each day",
              (f"{SCHEDULE}::test_local_times_that_do_not_exist_or_come_twice",
               f"{SCHEDULE}::test_every_day_has_exactly_one_end",
               f"{SCHEDULE}::test_hours_that_a_change_of_clocks_leaves_out_or_doubles_are_told")),
    MatrixRow("CLK-02", "the calendar leaps by 1 s to 10 years", "no ramp, deadline or reading changes; a leap is not "
              "believed at once",
              (f"{BIAS}::test_a_calendar_that_leaps_by_years_changes_no_ramp_no_deadline_and_no_reading",
               f"{SCHEDULE}::test_a_clock_that_leaps_is_not_believed_at_once",
               "unit/test_permits.py::test_a_clock_that_leapt_back_is_not_believed_unless_something_keeps_it_right",
               "system/test_monitoring.py::test_a_clock_that_stepped_reaches_a_person")),
    MatrixRow("CLK-03", "boot with the clock of 1970", "nothing is due before it is set; then one run, none missed",
              (f"{SCHEDULE}::test_a_clock_that_begins_in_1970_waits_and_then_runs_once",)),
    MatrixRow("CLK-04", "another zone in the configuration", "no second run on a local day",
              (f"{SCHEDULE}::test_another_time_zone_gives_no_day_a_second_run",)),
    MatrixRow("CLK-05", "ten years with restarts", "each day ends in one run or one record that it was missed",
              (f"{YEARS}::test_in_ten_years_every_day_is_one_run_or_one_record_that_it_was_missed",)),
    MatrixRow("CLK-06", "suspended for hours", "missed or run by the rule of the window",
              (f"{SCHEDULE}::test_a_clock_that_leaps_is_not_believed_at_once",
               f"{BIAS}::test_a_daemon_that_stood_still_first_knows_nothing_and_then_commands_nothing"),
              "ages do not count the time suspended: until the next poll, a second later, a reading may look fresh. A "
              "host that suspends is not for a scanner; systemd's sleep targets can be masked"),
    MatrixRow("CLK-07", "drift of 500 ppm", "–", (), "ages are differences within seconds: 500 ppm of ten seconds are "
              "5 ms. Against the wall the schedule calls a leap what is more in one look than any drift"),
    MatrixRow("PRC-01", "SIGKILL in every phase", "nothing acknowledged is lost, nothing half; outputs as they were",
              (f"{KILLED}::test_twenty_kills_in_every_phase",
               f"{STORE}::test_kill_9_loses_nothing_that_was_acknowledged",
               "system/test_daemon_dies.py::test_killed_started_again_hung_and_gone"),
              "`python -m tests.system.killed` for a thousand"),
    MatrixRow("PRC-02", "stopped, and going on", "not fed, so killed by the service manager; without one everything is "
              "old first, nothing is commanded after it, `adopted` where a question was under way",
              (f"{BIAS}::test_a_daemon_that_stood_still_first_knows_nothing_and_then_commands_nothing",
               f"{MANAGER}::test_a_loop_that_is_late_is_not_fed",
               f"{CONSOLE}::test_what_a_daemon_showed_that_hangs_or_is_gone_is_marked_as_old")),
    MatrixRow("PRC-03", "event loop blocked", "its lateness is a metric; not fed",
              ("unit/test_process_health.py::test_a_loop_that_stood_still_and_a_task_more_are_seen",
               f"{MANAGER}::test_a_loop_that_is_late_is_not_fed",
               f"{MANAGER}::test_it_is_fed_while_all_is_well_and_starves_when_something_is_not")),
    MatrixRow("PRC-04", "a supervisor fails", "that device is tried again, and given up after three times in a minute",
              (f"{SUPERVISED}::test_petqc_failing_three_times_gives_up_that_device_alone",)),
    MatrixRow("PRC-05", "crash after crash", "given up after five, then `petqc-safe` acts",
              (f"{UNITS}::test_the_daemon_is_restarted_fed_and_followed_by_its_safe_state",
               "unit/test_safe.py::test_each_policy_is_what_happens"), "the manager's own counting is read, not tried"),
    MatrixRow("PRC-06", "told to stop: in a ramp, in a run", "bias as configured, the run is a record, files are whole",
              (f"{BIAS}::test_an_orderly_stop_does_what_it_was_told_to",
               "system/test_demo.py::test_without_once_it_serves_until_ctrl_c",
               "unit/test_daemon_runs.py::test_the_end_of_the_daemon_stops_the_run_which_becomes_a_record",
               "unit/test_backup.py::test_a_store_that_is_closed_meanwhile_leaves_no_backup"),
              "in a migration it ends as if killed: PRC-10"),
    MatrixRow("PRC-07", "two instances", "the second one is refused with the first one named",
              ("system/test_serve_cli.py::test_serve_and_everything_one_asks_of_it",
               f"{STORE}::test_a_second_daemon_is_refused_with_the_process_named",
               f"{STORE}::test_a_second_writer_of_a_schema_is_refused")),
    MatrixRow("PRC-08", "a process of its own killed", "the simulator is started again; a campaign's worker loses "
              "nothing",
              ("unit/test_daemon_simulator.py::test_one_that_dies_is_started_again_with_a_growing_pause",
               "system/test_kill_simulator.py::test_sigkill_in_mid_run",
               "system/test_reprocess.py::test_a_worker_killed_in_the_middle_loses_nothing_and_doubles_nothing"),
              "the daemon has no other processes"),
    MatrixRow("PRC-09", "SIGHUP with a broken configuration", "nothing changes, and that is said",
              ("system/test_serve_cli.py::test_serve_and_everything_one_asks_of_it",), "there is no reload"),
    MatrixRow("PRC-10", "killed in a migration", "the old schema",
              ("unit/test_store_migrations.py::test_kill_9_in_a_migration_leaves_the_history_as_it_was",
               "unit/test_store_migrations.py::test_a_step_that_fails_leaves_the_history_as_it_was")),
    MatrixRow("MEM-01", "no memory for one thing", "that write or analysis fails, whole; the next one works",
              (f"{DISK}::test_a_write_without_memory_fails_alone_and_whole",
               "unit/test_live.py::test_a_failure_of_the_live_analysis_costs_the_recording_nothing"),
              "not swept over every allocation; parsers have bounds of their own (`tests/fuzz`)"),
    MatrixRow("MEM-02", "the unit's memory limit", "–", (), "the kernel ends it with SIGKILL: PRC-01, and the manager "
              "starts it again"),
    MatrixRow("MEM-03", "a tenth of a core", "–", (), "not tried: tests assert no times of the wall, and a quota of "
              "their own is for few machines. The unit has CPUWeight=1000; `benchmarks/under_load.py` was run beside "
              "a load of 15 to 25"),
    MatrixRow("MEM-04", "everybody who takes is slow", "every queue has a bound, and is counted",
              (f"{HOSTILE}::test_many_who_listen_and_do_not_read_are_dropped_and_the_others_hear_everything",
               "unit/test_recording.py::test_a_recorder_that_cannot_keep_up_drops_and_says_so",
               "unit/test_daemon_runs.py::test_a_recorder_that_lags_drops_whole_chunks_and_counts_every_frame",
               f"{MQTT}::test_the_outbox_is_bounded",
               f"{SUPERVISED}::test_the_queue_serves_by_rank_and_has_a_bound")),
    MatrixRow("MEM-05", "no thread can be begun", "–", (), "not tried: root has no such limit, and a cgroup of its own "
              "is for few machines. The daemon's threads are few, and begun early; `petqc_threads` shows them"),
)  # fmt: skip

HEAD: Final = """\
# What every fault of the service ends in

Made by `python -m tests.contract.service_fault_rows docs/reference/service-faults.md` from the table that the tests
check: change the table, not this page. Faults of the broker, of web clients, of the disk, of clocks, of the process and
of memory; those of links to devices are in [their own page](fault-matrix.md). A row without a test says why.
"""


def table() -> str:
    """The page for people."""
    return "\n".join([HEAD, *rows_table(ROWS), ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(), "utf-8")
