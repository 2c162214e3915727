"""The table of metrics: every name with its unit, meaning and labels, and which check fills which.

The page of metrics is made from it, and so are the rules, alerts and dashboards that need to know what there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One name: what it means, in which unit, with which labels."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ("scanner",)


DEVICE = ("scanner", "device")
_MODULE = ("scanner", "module")
_KIND = ("scanner", "device", "kind")
_RUN_KIND = ("scanner", "kind")
_CHECK = ("scanner", "module", "check")
_PERMIT = ("scanner", "device", "permit")
_ALARM = ("scanner", "device", "alarm")
_READING = ("scanner", "device", "module", "quantity")

METRICS: tuple[Metric, ...] = (
    Metric("petqc_start_time_seconds", "gauge", "Unix time when the daemon started."),
    Metric("petqc_simulated", "gauge", "1 if anything the daemon measures is simulated or replayed, else 0."),
    Metric("petqc_memory_bytes", "gauge", "Resident memory of the daemon, without its simulator."),
    Metric("petqc_open_files", "gauge", "File descriptors that the daemon has open."),
    Metric("petqc_threads", "gauge", "Threads of the daemon."),
    Metric("petqc_tasks", "gauge", "Tasks of the daemon's event loop."),
    Metric("petqc_loop_lag_max_seconds", "gauge", "Latest that the event loop was within the last five seconds."),
    Metric("petqc_run_active", "gauge", "1 while a run is going on, else 0."),
    Metric("petqc_run_progress_ratio", "gauge", "Progress of the run going on, 0 to 1; 0 without one."),
    Metric("petqc_runs_passed_total", "counter", "Runs that ended with the verdict pass."),
    Metric("petqc_runs_warned_total", "counter", "Runs that ended with the verdict warn."),
    Metric("petqc_runs_failed_total", "counter", "Runs that ended with the verdict fail."),
    Metric("petqc_runs_invalid_total", "counter", "Runs that could not measure."),
    Metric("petqc_runs_missed_total", "counter", "Scheduled runs that never happened."),
    Metric(
        "petqc_run_verdict",
        "gauge",
        "Verdict of the last daily run: 0 pass, 1 warn, 2 fail, 3 invalid, 4 missed; -1 before the first one. No other "
        "kind of run changes it.",
    ),
    Metric(
        "petqc_run_last_finished_timestamp_seconds",
        "gauge",
        "Unix time when the last daily run ended, whatever its verdict.",
    ),
    Metric(
        "petqc_run_last_success_timestamp_seconds",
        "gauge",
        "Unix time of the last daily run that measured (pass, warn or fail); 0 before the first one.",
    ),
    Metric("petqc_run_duration_seconds", "gauge", "How long the last daily run took, from its command to its verdict."),
    Metric(
        "petqc_qc_run_verdict",
        "gauge",
        "Verdict of the last QC run of a kind: 0 pass, 1 warn, 2 fail, 3 invalid, 4 missed; -1 before the first one.",
        _RUN_KIND,
    ),
    Metric(
        "petqc_qc_run_last_finished_timestamp_seconds",
        "gauge",
        "Unix time when the last QC run of a kind ended, whatever its verdict; 0 before the first one.",
        _RUN_KIND,
    ),
    Metric(
        "petqc_qc_run_last_success_timestamp_seconds",
        "gauge",
        "Unix time of the last QC run of a kind that measured (pass, warn or fail); 0 before the first one.",
        _RUN_KIND,
    ),
    Metric(
        "petqc_schedule_next_due_timestamp_seconds",
        "gauge",
        "Unix time when the schedule starts a run of a kind next; 0: it is not in the schedule.",
        _RUN_KIND,
    ),
    Metric(
        "petqc_schedule_overdue",
        "gauge",
        "1 while a scheduled run of a kind is due and something stands in its way, else 0.",
        _RUN_KIND,
    ),
    Metric(
        "petqc_qc_run_last_missed_timestamp_seconds",
        "gauge",
        "Unix time when a scheduled run of a kind was last given up; 0: never.",
        _RUN_KIND,
    ),
    Metric(
        "petqc_check_status",
        "gauge",
        "Status of a check in the last run that had it: 0 pass, 1 warn, 2 fail, 3 invalid. module is `scanner` for "
        "the whole.",
        _CHECK,
    ),
    Metric(
        "petqc_check_last_success_timestamp_seconds",
        "gauge",
        "Unix time when a check last gave a number.",
        _CHECK,
    ),
    Metric("petqc_photopeak_electronvolts", "gauge", "Position of the 511 keV photopeak.", _MODULE),
    Metric("petqc_energy_resolution_ratio", "gauge", "Energy resolution at 511 keV, FWHM over position.", _MODULE),
    Metric("petqc_window_acceptance_ratio", "gauge", "Share of the photopeak inside the energy window.", _MODULE),
    Metric("petqc_ctr_fit_seconds", "gauge", "Coincidence time resolution, FWHM of the likelihood fit.", _MODULE),
    Metric(
        "petqc_ctr_nema_seconds", "gauge", "Coincidence time resolution, FWHM interpolated as in NEMA NU 2.", _MODULE
    ),
    Metric("petqc_module_time_offset_seconds", "gauge", "Time offset of a module.", _MODULE),
    Metric("petqc_singles_rate_hertz", "gauge", "Rate of singles.", _MODULE),
    Metric("petqc_dead_channels", "gauge", "Channels without counts.", _MODULE),
    Metric("petqc_hot_channels", "gauge", "Channels that count far too much.", _MODULE),
    Metric("petqc_prompts_rate_hertz", "gauge", "Rate of prompt coincidences.", _MODULE),
    Metric(
        "petqc_randoms_ratio",
        "gauge",
        "Randoms of the delayed window over those expected from singles, 1 if healthy.",
        _MODULE,
    ),
    Metric("petqc_lost_frames_ratio", "gauge", "Share of the last run's frames that were lost.", _MODULE),
    Metric("petqc_live_time_ratio", "gauge", "Share of the last run's time that was live.", _MODULE),
    Metric("petqc_energy_nonlinearity_ratio", "gauge", "How far the energy scale bends between two lines.", _MODULE),
    Metric("petqc_time_tails_ratio", "gauge", "Tails of the time peak, FWTM over FWHM; 1.82 is Gaussian.", _MODULE),
    Metric("petqc_coincidence_window_seconds", "gauge", "Coincidence window in use, full width.", _MODULE),
    Metric("petqc_energy_window_low_electronvolts", "gauge", "Energy window in use, its lower edge.", _MODULE),
    Metric("petqc_energy_window_high_electronvolts", "gauge", "Energy window in use, its upper edge.", _MODULE),
    Metric(
        "petqc_compared_energy_resolution_ratio",
        "gauge",
        "Energy resolution of the scanner that stands beside the published one in the run, FWHM over position.",
        _MODULE,
    ),
    Metric(
        "petqc_compared_time_resolution_seconds",
        "gauge",
        "Coincidence time resolution of the scanner that stands beside the published one in the run, FWHM.",
        _MODULE,
    ),
    Metric("petqc_source_distance_meters", "gauge", "How far the source lies from its place.", _MODULE),
    Metric("petqc_module_efficiency_ratio", "gauge", "Efficiency of a module over the mean of all.", _MODULE),
    Metric("petqc_scatter_ratio", "gauge", "Photons in the energy window that were scattered.", _MODULE),
    Metric("petqc_dead_time_ratio", "gauge", "Share of photons that find their channel dead.", _MODULE),
    Metric("petqc_lutetium_energy_scale_ratio", "gauge", "Energy scale by Lu-176, 1 if right.", _MODULE),
    Metric("petqc_lutetium_time_offset_seconds", "gauge", "Time offset of a module, by Lu-176.", _MODULE),
    Metric("petqc_lutetium_tdc_scale_ratio", "gauge", "Scale of the TDCs by flight times, 1 if right.", _MODULE),
    Metric("petqc_lutetium_efficiency_ratio", "gauge", "Efficiency of a module over the mean, by Lu-176.", _MODULE),
    Metric("petqc_dark_count_rate_hertz", "gauge", "Dark count rate of a channel, median, at 20 degC.", _MODULE),
    Metric("petqc_dark_crosstalk_ratio", "gauge", "Share of dark counts that fire a second cell, median.", _MODULE),
    Metric("petqc_dark_hot_channels", "gauge", "Channels that count far too much in the dark.", _MODULE),
    Metric("petqc_dark_silent_channels", "gauge", "Channels without dark counts.", _MODULE),
    Metric("petqc_mr_rate_change_ratio", "gauge", "Change of the singles rate under MR stress.", _MODULE),
    Metric("petqc_mr_photopeak_change_ratio", "gauge", "Change of the photopeak under MR stress.", _MODULE),
    Metric("petqc_mr_temperature_change_kelvins", "gauge", "Change of the temperature under MR stress.", _MODULE),
    Metric("petqc_pulses_seen_ratio", "gauge", "Share of test pulses that came back from live channels.", _MODULE),
    Metric("petqc_pulse_dead_channels", "gauge", "Channels that do not answer test pulses.", _MODULE),
    Metric("petqc_pulse_tdc_scale_error_ratio", "gauge", "Scale error of the TDCs, with test pulses.", _MODULE),
    Metric("petqc_pulse_charge_gain_error_ratio", "gauge", "Gain error of the integrators, with test pulses.", _MODULE),
    Metric("petqc_pulse_tdc_nonlinearity_seconds", "gauge", "Non-linearity of the TDCs, with test pulses.", _MODULE),
    Metric(
        "petqc_pulse_buffer_offset_seconds", "gauge", "Largest time of one buffer against its three others.", _MODULE
    ),
    Metric(
        "petqc_threshold_baseline_shift_codes",
        "gauge",
        "Shift of the first threshold's baseline against its calibration, median of channels.",
        _MODULE,
    ),
    Metric("petqc_threshold_noise_codes", "gauge", "Noise at the first threshold, median of channels.", _MODULE),
    Metric("petqc_sipm_temperature_celsius", "gauge", "Temperature at the SiPMs, median of the sensors.", _MODULE),
    Metric("petqc_asic_temperature_celsius", "gauge", "Temperature at the ASICs, median of the sensors.", _MODULE),
    Metric("petqc_silent_temperature_sensors", "gauge", "Fitted temperature sensors that give nothing.", _MODULE),
    Metric("petqc_unlocked_links", "gauge", "Clocks and links out of lock in the last housekeeping.", _MODULE),
    Metric("petqc_bad_supplies", "gauge", "Supplies of modules that did not call themselves good.", _MODULE),
    Metric("petqc_supply_vdd1_volts", "gauge", "Supply VDD1 at a module, where its board measures it.", _MODULE),
    Metric("petqc_supply_vdd2_volts", "gauge", "Supply VDD2 at a module, where its board measures it.", _MODULE),
    Metric("petqc_supply_vdd3_volts", "gauge", "Supply VDD3 at a module, where its board measures it.", _MODULE),
    Metric(
        "petqc_idle_bias_on",
        "gauge",
        "1 if the last housekeeping found the bias supply on, 0 if it read it as off.",
        _MODULE,
    ),
    Metric("petqc_faulty_instruments", "gauge", "Instruments that did not answer as they must.", _MODULE),
    Metric("petqc_unreferenced_instruments", "gauge", "Instruments that do not follow the reference clock.", _MODULE),
    Metric("petqc_link_errors", "gauge", "Errors that the links counted during the last housekeeping.", _MODULE),
    Metric("petqc_calibration_age_seconds", "gauge", "Age of the oldest table of the calibration in use.", _MODULE),
    Metric("petqc_device_up", "gauge", "1 if the device's last exchange worked, else 0.", DEVICE),
    Metric(
        "petqc_device_last_success_timestamp_seconds",
        "gauge",
        "Unix time of the device's last good answer; 0: none yet.",
        DEVICE,
    ),
    Metric(
        "petqc_bias_state",
        "gauge",
        "Bias outputs: 0 off and read back, 1 off commanded without read-back, 2 on, 3 unknown.",
        DEVICE,
    ),
    Metric(
        "petqc_instrument_state",
        "gauge",
        "Instrument: 0 connecting, 1 answers, 2 off, 3 ramping, 4 on, 5 adopted (found on), 6 tripped, 7 fault, "
        "8 unknown (it does not answer, its output may be on), 9 maintenance (nothing energises it).",
        DEVICE,
    ),
    Metric("petqc_instrument_polls_total", "counter", "Polls of the instrument.", DEVICE),
    Metric("petqc_instrument_polls_failed_total", "counter", "Polls that it did not answer as it must.", DEVICE),
    Metric("petqc_instrument_losses_total", "counter", "Times the instrument was lost.", DEVICE),
    Metric(
        "petqc_instrument_link_faults_total",
        "counter",
        "Time-outs, unasked bytes, babble and lost sessions on the instrument's link.",
        DEVICE,
    ),
    Metric("petqc_instrument_waiting", "gauge", "Requests that wait for the instrument, at most 32.", DEVICE),
    Metric(
        "petqc_reading_volts",
        "gauge",
        "Reading of an instrument, a voltage; `bias_commanded` is no measurement.",
        _READING,
    ),
    Metric("petqc_reading_amperes", "gauge", "Reading of an instrument, a current.", _READING),
    Metric("petqc_reading_celsius", "gauge", "Reading of an instrument, a temperature.", _READING),
    Metric("petqc_reading_seconds", "gauge", "Reading of an instrument, a time.", _READING),
    Metric("petqc_reading_hertz", "gauge", "Reading of an instrument, a rate.", _READING),
    Metric("petqc_reading_ratio", "gauge", "Reading of an instrument, a share.", _READING),
    Metric("petqc_reading_value", "gauge", "Reading of an instrument, a count or a state: 1 is yes.", _READING),
    Metric(
        "petqc_reading_quality",
        "gauge",
        "Reading of an instrument: 0 good, 1 uncertain, 2 bad or stale, 3 there is nothing to read.",
        _READING,
    ),
    Metric(
        "petqc_reading_last_success_timestamp_seconds",
        "gauge",
        "Unix time of the last reading that had a value.",
        _READING,
    ),
    Metric(
        "petqc_maintenance",
        "gauge",
        "1 while somebody works at a device, or at the whole scanner, and nothing energises it, else 0.",
        DEVICE,
    ),
    Metric("petqc_permit_given", "gauge", "Permit of a bias source: 1 if true, good and fresh, else 0.", _PERMIT),
    Metric("petqc_permit_bypassed", "gauge", "Permit of a bias source: 1 while somebody bypasses it.", _PERMIT),
    Metric(
        "petqc_bias_following",
        "gauge",
        "Bias source that follows the temperature: 1 while it does, 0 while it stands still.",
        DEVICE,
    ),
    Metric("petqc_bias_following_correction_volts", "gauge", "What a bias source adds for the temperature.", DEVICE),
    Metric(
        "petqc_alarm_state",
        "gauge",
        "Alarm: 0 normal, 1 active and not acknowledged, 2 active and acknowledged, 3 over and not acknowledged.",
        _ALARM,
    ),
    Metric("petqc_alarm_severity", "gauge", "Alarm: 0 info, 1 minor, 2 major; the highest until acknowledged.", _ALARM),
    Metric(
        "petqc_alarm_silenced", "gauge", "Alarm: 1 while it is shelved, out of service, or held by maintenance.", _ALARM
    ),
    Metric("petqc_temperature_min_celsius", "gauge", "Lowest temperature of the last reading.", DEVICE),
    Metric("petqc_temperature_max_celsius", "gauge", "Highest temperature of the last reading.", DEVICE),
    Metric(
        "petqc_temperature_last_success_timestamp_seconds",
        "gauge",
        "Unix time of the last good temperature reading; 0: none yet.",
        DEVICE,
    ),
    Metric("petqc_frames_received_total", "counter", "Frames received from the device.", DEVICE),
    Metric("petqc_frames_recorded_total", "counter", "Frames that went to the recording.", DEVICE),
    Metric("petqc_frames_dropped_total", "counter", "Frames received and dropped because the recorder lagged.", DEVICE),
    Metric(
        "petqc_frames_not_analysed_live_total",
        "counter",
        "Frames recorded that the analysis left out while they came, because it lagged; the verdict was made from the "
        "recording.",
        DEVICE,
    ),
    Metric("petqc_frames_lost_total", "counter", "Frames that never arrived, by their numbers.", DEVICE),
    Metric("petqc_datagrams_rejected_total", "counter", "Datagrams that were not whole, valid frames.", DEVICE),
    Metric("petqc_simulator_restarts_total", "counter", "Times a simulator that ended was started again.", DEVICE),
    Metric(
        "petqc_calibration_run_verdict",
        "gauge",
        "Verdict of the last calibration run of a kind: 0 pass, 1 warn, 2 fail, 3 invalid; -1 before the first one.",
        _KIND,
    ),
    Metric(
        "petqc_calibration_run_last_finished_timestamp_seconds",
        "gauge",
        "Unix time when the last calibration run of a kind ended, whatever its verdict; 0 before the first one.",
        _KIND,
    ),
    Metric(
        "petqc_calibration_made_timestamp_seconds",
        "gauge",
        "Unix time when the calibration of a kind that the device uses was made, in the calibration set that was "
        "accepted for it; 0: it is that of the device's own configuration.",
        _KIND,
    ),
    Metric(
        "petqc_reference_accepted_timestamp_seconds",
        "gauge",
        "Unix time when the reference baseline in use of a kind of run was accepted; 0: there is none.",
        _KIND,
    ),
    Metric(
        "petqc_acceptance_accepted_timestamp_seconds",
        "gauge",
        "Unix time when the acceptance baseline of a kind of run was accepted; 0: there is none.",
        _KIND,
    ),
    Metric(
        "petqc_chart_limit_ratio",
        "gauge",
        "What a control chart found (photopeak.ewma, photopeak.step …), over its limit; it warns beyond -1 and 1.",
        ("scanner", "module", "check"),
    ),
    Metric(
        "petqc_store_last_commit_timestamp_seconds",
        "gauge",
        "Unix time of the last durable commit; 0: none since start.",
    ),
    Metric("petqc_store_wal_bytes", "gauge", "Size of the history's write-ahead log."),
    Metric("petqc_state_free_bytes", "gauge", "Free space of the file system that holds the state directory."),
    Metric("petqc_state_free_ratio", "gauge", "Free share of the file system that holds the state directory."),
    Metric(
        "petqc_state_disk_level",
        "gauge",
        "Disk of the state directory: 0 fine, 1 low (below 20 % or 10 GiB), 2 no new runs (5 %), 3 runs are stopped "
        "(2 %), 4 only records (1 %).",
    ),
    Metric(
        "petqc_backup_last_verified_timestamp_seconds",
        "gauge",
        "Unix time of the last backup that was opened, checked and counted; 0: there is none.",
    ),
    Metric("petqc_backup_bytes", "gauge", "Size of the last verified backup."),
    Metric("petqc_backup_duration_seconds", "gauge", "How long the last backup of this daemon took, with its checks."),
    Metric("petqc_backups_failed_total", "counter", "Backups that could not be made or did not pass their checks."),
    Metric("petqc_mqtt_configured", "gauge", "1 if [mqtt] names a broker, else 0."),
    Metric("petqc_mqtt_connected", "gauge", "1 while the broker answers, else 0."),
    Metric("petqc_mqtt_outbox_messages", "gauge", "Results and alarms that the broker does not have yet."),
    Metric(
        "petqc_mqtt_outbox_oldest_timestamp_seconds",
        "gauge",
        "Unix time when the oldest of them was stored; 0: none waits.",
    ),
    Metric("petqc_mqtt_told_total", "counter", "Results and alarms that the broker confirmed."),
    Metric(
        "petqc_mqtt_refused_total", "counter", "What the broker refused to deliver, or us to hear, by its access list."
    ),
    Metric("petqc_mqtt_commands_refused_total", "counter", "Commands through the broker that were refused."),
    Metric(
        "petqc_mqtt_certificate_expiry_timestamp_seconds",
        "gauge",
        "Unix time when the broker's certificate ends, as it was when last connected; 0: it has none.",
    ),
    Metric(
        "petqc_tls_certificate_expiry_timestamp_seconds",
        "gauge",
        "Unix time when the certificate of the HTTP listener ends; 0: it has none.",
    ),
    Metric("petqc_http_refused_total", "counter", "Commands over HTTP that were not let through; see the audit log."),
    Metric("petqc_http_connections_refused_total", "counter", "Connections closed because their source had too many."),
    Metric("petqc_audit_rows", "gauge", "Number of the newest row of the audit log when it was last published."),
    Metric(
        "petqc_audit_published_timestamp_seconds",
        "gauge",
        "Unix time when number and hash of that row were last written into the daemon's log and told to the broker.",
    ),
    Metric("petqc_audit_syslog_configured", "gauge", "1 if [audit] names a syslog server, else 0."),
    Metric("petqc_audit_syslog_waiting_rows", "gauge", "Rows of the audit log that wait for the syslog server."),
    Metric("petqc_audit_syslog_failures_total", "counter", "Times the syslog server did not take a row."),
    Metric("petqc_retention_deleted_bytes_total", "counter", "Files of old runs that were deleted to make room."),
    Metric("petqc_listeners_dropped_total", "counter", "Listeners for live events dropped because they did not read."),
)
"""Every name the daemon exports; docs/reference/metrics.md is made from this table."""

CHECK_METRICS: Mapping[str, str] = {
    "photopeak": "petqc_photopeak_electronvolts",
    "energy_resolution": "petqc_energy_resolution_ratio",
    "window_acceptance": "petqc_window_acceptance_ratio",
    "ctr_fit": "petqc_ctr_fit_seconds",
    "ctr_nema": "petqc_ctr_nema_seconds",
    "module_time_offset": "petqc_module_time_offset_seconds",
    "singles_rate": "petqc_singles_rate_hertz",
    "dead_channels": "petqc_dead_channels",
    "hot_channels": "petqc_hot_channels",
    "prompts": "petqc_prompts_rate_hertz",
    "randoms_delayed": "petqc_randoms_ratio",
    "lost_frames": "petqc_lost_frames_ratio",
    "live_time": "petqc_live_time_ratio",
    "linearity": "petqc_energy_nonlinearity_ratio",
    "time_tails": "petqc_time_tails_ratio",
    "source_position": "petqc_source_distance_meters",
    "block_efficiency": "petqc_module_efficiency_ratio",
    "scatter_ratio": "petqc_scatter_ratio",
    "dead_time": "petqc_dead_time_ratio",
    "lu_energy_scale": "petqc_lutetium_energy_scale_ratio",
    "lu_time_offset": "petqc_lutetium_time_offset_seconds",
    "lu_tdc_scale": "petqc_lutetium_tdc_scale_ratio",
    "lu_efficiency": "petqc_lutetium_efficiency_ratio",
    "dark_count_rate": "petqc_dark_count_rate_hertz",
    "dark_crosstalk": "petqc_dark_crosstalk_ratio",
    "dark_hot_channels": "petqc_dark_hot_channels",
    "dark_silent_channels": "petqc_dark_silent_channels",
    "mr_rate": "petqc_mr_rate_change_ratio",
    "mr_peak": "petqc_mr_photopeak_change_ratio",
    "mr_temperature": "petqc_mr_temperature_change_kelvins",
    "pulses_seen": "petqc_pulses_seen_ratio",
    "pulse_dead_channels": "petqc_pulse_dead_channels",
    "pulse_tdc_scale": "petqc_pulse_tdc_scale_error_ratio",
    "pulse_charge_gain": "petqc_pulse_charge_gain_error_ratio",
    "pulse_tdc_inl": "petqc_pulse_tdc_nonlinearity_seconds",
    "pulse_tac_offset": "petqc_pulse_buffer_offset_seconds",
    "t1_baseline": "petqc_threshold_baseline_shift_codes",
    "t1_noise": "petqc_threshold_noise_codes",
    "temperature": "petqc_sipm_temperature_celsius",
    "temperature_asic": "petqc_asic_temperature_celsius",
    "temperature_sensors": "petqc_silent_temperature_sensors",
    "clock_lock": "petqc_unlocked_links",
    "clock_reference": "petqc_unreferenced_instruments",
    "supply": "petqc_bad_supplies",
    "bias_off": "petqc_idle_bias_on",
    "instruments": "petqc_faulty_instruments",
    "link_errors": "petqc_link_errors",
    "calibration_age": "petqc_calibration_age_seconds",
    "supply_voltage.vdd1": "petqc_supply_vdd1_volts",
    "supply_voltage.vdd2": "petqc_supply_vdd2_volts",
    "supply_voltage.vdd3": "petqc_supply_vdd3_volts",
    "windows.coincidence": "petqc_coincidence_window_seconds",
    "windows.energy_low": "petqc_energy_window_low_electronvolts",
    "windows.energy_high": "petqc_energy_window_high_electronvolts",
    "published.energy_resolution": "petqc_compared_energy_resolution_ratio",
    "published.time_resolution": "petqc_compared_time_resolution_seconds",
}
"""The metric that carries the value of a check, or of a part of one, CHECK.PART."""

TO_BASE: Mapping[str, float] = {
    "keV": 1e3,
    "V": 1.0,
    "ps": 1e-12,
    "ns": 1e-9,
    "%": 1e-2,
    "mm": 1e-3,
    "K": 1.0,
    "1": 1.0,
    "": 1.0,
    "channels": 1.0,
    "1/s": 1.0,
    "cps": 1.0,
    "Hz": 1.0,
    "kHz": 1e3,
    "s": 1.0,
    "d": 86_400.0,
    "degC": 1.0,
    "sensors": 1.0,
    "links": 1.0,
    "supplies": 1.0,
    "instruments": 1.0,
    "errors": 1.0,
    "codes": 1.0,
}
"""From a check's unit to the base unit that metrics use."""


def with_metric(check_id: str) -> list[str]:
    """A check, and parts of it, whose values have a metric of their own."""
    return [one for one in CHECK_METRICS if one == check_id or one.startswith(f"{check_id}.")]


CALIBRATIONS = ("threshold", "tdc", "charge", "energy", "time-offsets", "bias")
"""Values of the label kind."""
DAILY, SOURCE = "daily", "source"
QC_RUNS = (DAILY, "dark", "housekeeping", "lutetium", "mr-delta", "source", "test-pulse")
"""Values of the label kind of QC runs."""
STATUS_CODE: Mapping[str, int] = {"pass": 0, "warn": 1, "fail": 2, "invalid": 3, "missed": 4}


def reference_page() -> str:
    """docs/reference/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Made from the table in `daemon/petqcd/metric_table.py` by `python -m petqcd.metric_table`: change the table,",
        "not this page.",
        "",
        "Scraped at `/metrics`. Base units. Ages are timestamps of the last success: an age is `time() - metric`. A",
        "check that gives no number keeps its last value together with that value's old timestamp, so alert on both.",
        "The label `module` is `PORT.SLAVE.INDEX`, or `scanner` for the whole scanner. Values per channel are in the",
        "files of a run, never in metrics.",
        "",
        "A reading of an instrument (`petqc_reading_…`) is there while it has a value: once there is none to believe,",
        "or it is older than ten seconds, the series is gone, and its quality and the time of its last value are left.",
        "`module` is then the one module that the instrument is configured for, and empty otherwise; `quantity` is the",
        "name of the reading.",
        "",
        "| name | type | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.help} |" for m in METRICS]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference_page(), end="")  # noqa: T201 - this is what the module does when it is run
