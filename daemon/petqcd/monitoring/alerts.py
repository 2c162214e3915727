"""The alerts: ONE table, from which the rules for Prometheus, those for Grafana and docs/reference/alerts.md are made.

Limits are not repeated here: whether a value is good is the daemon's own status, with the limits of petqc.toml. To
every quantity belong three rules: the value is bad, the value is old, and nobody answers any more. A scrape that fails
makes all series end, so an alert on a value alone would resolve when the daemon dies: those on values look back a day.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal

from petqc.results import CHART_KINDS

Severity = Literal["critical", "warning", "info"]
"""critical: before anybody is scanned. warning: today. info: good to know."""

PAGE = "docs/reference/alerts.md"

TITLE = (
    '{{ with printf "petqc:check_info{check=%q}" (reReplaceAll "[.].*" "" $labels.check) | query }}'
    '{{ . | first | label "title" }}{{ else }}{{ $labels.check }}{{ end }}'
)
VALUE = (
    '{{ with printf "petqc:check_value{scanner=%q,module=%q,check=%q}" $labels.scanner $labels.module $labels.check '
    '| query }}, {{ . | first | value | humanize }}{{ . | first | label "unit" }}{{ end }}'
)
_WHERE = '{{ if eq $labels.module "scanner" }}the whole scanner{{ else }}module {{ $labels.module }}{{ end }}'
_LOOK = "Open the report of the last run (`petqc report last`, or the console)"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    expr: PromQL, true where it must fire. hold: how long it must be true first. summary: one sentence for a person at
    seven in the morning, a Prometheus template. action: what to do, for the page.
    """

    name: str
    group: str
    severity: Severity
    hold: str
    expr: str
    summary: str
    action: str

    @property
    def runbook(self) -> str:
        """Where the documentation says what to do."""
        return f"{PAGE}#{self.name.lower()}"


ALERTS: tuple[Alert, ...] = (
    Alert(
        "PetqcGone", "silence", "critical", "2m",
        'up{job="petqc"} == 0',
        "petqc at {{ $labels.instance }} does not answer: nobody watches that scanner, and silence is not health",
        "Look on its host: `systemctl status petqcd`, `journalctl -u petqcd -e`. Until it answers, take every value of "
        "this scanner as unknown, and its bias as possibly on: `petqc off` works with the daemon down.",
    ),
    Alert(
        "PetqcNeverSeen", "silence", "critical", "5m",
        "absent(petqc_start_time_seconds)",
        "Prometheus sees no petqc at all: the scrape configuration names none, or none has ever answered",
        "Open the page of targets of Prometheus. The job must be called `petqc`; an example is in "
        "`monitoring/prometheus/prometheus.yml`.",
    ),
    Alert(
        "PetqcScannerVanished", "silence", "critical", "5m",
        "max by (scanner) (last_over_time(petqc_start_time_seconds[1d])) unless on (scanner) petqc_start_time_seconds",
        "{{ $labels.scanner }} was there within the last day, and nothing reports it now",
        "Either its daemon is down (then PetqcGone fires, too), or its target was taken out of the configuration, or "
        "the scanner has another name now. It ends by itself after a day.",
    ),
    Alert(
        "PetqcRestarting", "silence", "warning", "0m",
        "changes(petqc_start_time_seconds[1h]) > 2",
        "petqc of {{ $labels.scanner }} has restarted {{ $value }} times within an hour",
        "`journalctl -u petqcd -p err -b` says what ends it. A run that was going on is a record, with the reason.",
    ),
    Alert(
        "PetqcQcFailed", "qc", "critical", "0m",
        "last_over_time(petqc_qc_run_verdict[1d]) == 2",
        "The last {{ $labels.kind }} QC of {{ $labels.scanner }} FAILED: decide before anybody is scanned",
        f"{_LOOK}: its first sentence says what is outside its limits, the diagnosis names a likely cause and what to "
        "do next. PetqcCheckFailed names each check.",
    ),
    Alert(
        "PetqcQcInvalid", "qc", "critical", "0m",
        "last_over_time(petqc_qc_run_verdict[1d]) == 3",
        "The last {{ $labels.kind }} QC of {{ $labels.scanner }} could not measure: there is no verdict for today",
        "`petqc show last` says why. Remove the reason and run it again; what was not measured has not passed.",
    ),
    Alert(
        "PetqcQcMissed", "qc", "critical", "0m",
        "time() - last_over_time(petqc_qc_run_last_missed_timestamp_seconds[1d]) < 24 * 3600 and "
        "last_over_time(petqc_qc_run_last_missed_timestamp_seconds[1d]) > "
        "last_over_time(petqc_qc_run_last_success_timestamp_seconds[1d])",
        "The scheduled {{ $labels.kind }} QC of {{ $labels.scanner }} never happened, and none has made up for it",
        "`petqc history` has the missed run with its reason. Start one by hand: `petqc run daily --wait`.",
    ),
    Alert(
        "PetqcQcOverdue", "qc", "critical", "10m",
        "petqc:run_age_seconds > 80 * 3600 or "
        "(petqc:run_age_seconds > 30 * 3600 unless on (scanner) "
        'petqc_schedule_next_due_timestamp_seconds{kind="daily"} > 0)',
        "{{ $labels.scanner }} has had no daily QC that measured for {{ $value | humanizeDuration }}",
        "Run it: `petqc run daily --wait`. With a daily run in the schedule this waits for 80 h, a weekend, because "
        "PetqcQcMissed and PetqcScheduleBlocked come sooner; without one for 30 h.",
    ),
    Alert(
        "PetqcScheduleBlocked", "qc", "warning", "15m",
        "petqc_schedule_overdue == 1",
        "The {{ $labels.kind }} QC of {{ $labels.scanner }} is due, and something stands in its way",
        "`petqc status` says what: another run, a device that does not answer, missing hard limits.",
    ),
    Alert(
        "PetqcCheckFailed", "checks", "critical", "0m",
        "last_over_time(petqc_check_status[1d]) == 2",
        f"{{{{ $labels.scanner }}}}: {TITLE} of {_WHERE} is outside its limits{VALUE}",
        f"{_LOOK} and find the check in the table: the value, its uncertainty and the limits it was held against. The "
        "section on diagnosis says which other checks point to the same part.",
    ),
    Alert(
        "PetqcCheckWarned", "checks", "warning", "0m",
        "last_over_time(petqc_check_status[1d]) == 1",
        f"{{{{ $labels.scanner }}}}: {TITLE} of {_WHERE} is worth a look{VALUE}",
        "Scanning may go on. A name with a dot, such as `photopeak.ewma`, is a control chart: the value is inside its "
        "limits and has moved against its own history.",
    ),
    Alert(
        "PetqcCheckInvalid", "checks", "warning", "0m",
        "last_over_time(petqc_check_status[1d]) == 3",
        f"{{{{ $labels.scanner }}}}: {TITLE} of {_WHERE} gave no number",
        f"{_LOOK}: the check has a reason in place of its number. Its last number is kept with its old time.",
    ),
    Alert(
        "PetqcCheckOld", "checks", "warning", "0m",
        'label_replace(time() - petqc_check_last_success_timestamp_seconds{check!~".*[.]('
        + "|".join(CHART_KINDS)
        + """)"}, "of", "$1", "check", "([^.]*).*") > on (of) group_left petqc:check_max_age_seconds""",
        f"{{{{ $labels.scanner }}}}: {TITLE} of {_WHERE} was last measured {{{{ $value | humanizeDuration }}}} ago",
        "What is shown is that old value. Run the kind of run that measures it. How old is too old is "
        "`petqc:check_max_age_seconds`: 80 h for what belongs to every day, 35 days for dark counts and test pulses, "
        "100 days for the influence of the MR.",
    ),
    Alert(
        "PetqcTimingDrift", "drift", "warning", "1h",
        "abs(petqc:module_time_offset_drift_seconds_per_day) > 3e-12",
        "{{ $labels.scanner }}: the time of module {{ $labels.module }} drifts by {{ $value | humanize }}s per day",
        "At 3 ps per day the limit of 20 ps is reached within a week. Look at temperature and clock of the module, "
        "then `petqc calibrate time-offsets`. Needs four measurements within seven days, and is silent for seven days "
        "after a calibration of time offsets, which is a step.",
    ),
    Alert(
        "PetqcCtrDrift", "drift", "warning", "1h",
        "petqc:ctr_drift_seconds_per_day > 1e-12",
        "{{ $labels.scanner }}: the CTR of {{ $labels.module }} gets worse by {{ $value | humanize }}s per day",
        "Look for what makes it: temperature, dark counts, thresholds. The diagnosis of the last run compares them.",
    ),
    Alert(
        "PetqcPhotopeakDrift", "drift", "warning", "1h",
        "abs(petqc:photopeak_drift_electronvolts_per_day) > 700",
        "{{ $labels.scanner }}: the photopeak of {{ $labels.module }} drifts by {{ $value | humanize }}eV per day",
        "Look at temperature and bias of the module. At 700 eV per day the warning limit of 5 keV is a week away.",
    ),
    Alert(
        "PetqcFramesLost", "links", "warning", "0m",
        "increase(petqc_frames_lost_total[30m]) > "
        "0.001 * (increase(petqc_frames_received_total[30m]) + increase(petqc_frames_lost_total[30m]))",
        "{{ $labels.scanner }}: more than a frame in 1000 of {{ $labels.device }} is lost on its link",
        "Cable, switch, network card: `ethtool -S` of the interface counts its own losses. Rates of that run are low.",
    ),
    Alert(
        "PetqcFramesDropped", "links", "warning", "0m",
        "increase(petqc_frames_dropped_total[30m]) > 0",
        "{{ $labels.scanner }}: the recorder could not follow {{ $labels.device }}, frames were dropped",
        "The disk is too slow or the machine is busy. The run says how many; raise `queue_mib` of the run only if "
        "short bursts are the reason.",
    ),
    Alert(
        "PetqcDatagramsRejected", "links", "warning", "0m",
        "increase(petqc_datagrams_rejected_total[30m]) > 10",
        "{{ $labels.scanner }}: {{ $labels.device }} sends datagrams that are no whole, valid frames",
        "Another sender on that port, or a readout whose firmware speaks another version.",
    ),
    Alert(
        "PetqcDeviceDown", "devices", "warning", "2m",
        "petqc_device_up == 0 and petqc_device_last_success_timestamp_seconds > 0",
        "{{ $labels.scanner }}: {{ $labels.device }} has answered before and does not answer now",
        "`petqc status` has the last error. Power, cable, address; petqc keeps trying by itself.",
    ),
    Alert(
        "PetqcAlarmMajor", "devices", "critical", "0m",
        "(petqc_alarm_state == 1 or petqc_alarm_state == 3) and petqc_alarm_severity == 2 "
        "unless petqc_alarm_silenced == 1",
        "{{ $labels.scanner }}: alarm {{ $labels.alarm }} of {{ $labels.device }}, and nobody has acknowledged it",
        "`petqc status` has the alarm with its reason and the first fault that was captured. It stays until somebody "
        "acknowledges it, also when it is over.",
    ),
    Alert(
        "PetqcAlarmMinor", "devices", "warning", "1m",
        "petqc_alarm_state == 1 and petqc_alarm_severity == 1 unless petqc_alarm_silenced == 1",
        "{{ $labels.scanner }}: alarm {{ $labels.alarm }} of {{ $labels.device }}",
        "`petqc status` has the alarm with its reason.",
    ),
    Alert(
        "PetqcPermitBypassed", "devices", "warning", "0m",
        "petqc_permit_bypassed == 1",
        "{{ $labels.scanner }}: the permit {{ $labels.permit }} of {{ $labels.device }} is bypassed",
        "Somebody did that for a time, with a reason that is in the audit log. It ends by itself.",
    ),
    Alert(
        "PetqcInstrumentTripped", "devices", "critical", "0m",
        "petqc_instrument_state == 6",
        "{{ $labels.scanner }}: {{ $labels.device }} has tripped and switched its output off",
        "`petqc status` has the reason that the instrument gives. Find the cause before anybody resets it.",
    ),
    Alert(
        "PetqcInstrumentUnknown", "devices", "critical", "30s",
        "petqc_instrument_state == 8",
        "{{ $labels.scanner }}: {{ $labels.device }} does not answer, and its output may be on",
        "Take it as on. `petqc off` asks it once more; if it stays silent, use the hardware switch.",
    ),
    Alert(
        "PetqcInstrumentFault", "devices", "warning", "1m",
        "petqc_instrument_state == 7",
        "{{ $labels.scanner }}: {{ $labels.device }} reports a fault",
        "`petqc status` has what it reports.",
    ),
    Alert(
        "PetqcInstrumentLost", "devices", "warning", "0m",
        "increase(petqc_instrument_losses_total[1h]) > 3",
        "{{ $labels.scanner }}: the line to {{ $labels.device }} breaks again and again",
        "Cable, adapter, address; each loss is in the daemon's log with its reason.",
    ),
    Alert(
        "PetqcReadingOld", "devices", "warning", "1m",
        "time() - petqc_reading_last_success_timestamp_seconds > 120 unless petqc_reading_quality == 3",
        "{{ $labels.scanner }}: {{ $labels.quantity }} of {{ $labels.device }} was last read "
        "{{ $value | humanizeDuration }} ago",
        "The daemon has no newer number that it believes, and shows none. `petqc status` has the last error.",
    ),
    Alert(
        "PetqcSimulatorRestarting", "devices", "warning", "0m",
        "increase(petqc_simulator_restarts_total[1h]) > 3",
        "{{ $labels.scanner }}: the simulator of {{ $labels.device }} ends again and again",
        "Its log is in the state directory, in `simulator/`.",
    ),
    Alert(
        "PetqcBiasUnknown", "bias", "critical", "5m",
        "petqc_bias_state == 3 and petqc_device_last_success_timestamp_seconds > 0",
        "{{ $labels.scanner }}: nobody knows whether the bias of {{ $labels.device }} is on",
        "Take it as on. `petqc off`; if that does not say that it read back 0 V, use the hardware switch.",
    ),
    Alert(
        "PetqcSimulated", "service", "info", "0m",
        "petqc_simulated == 1",
        "What {{ $labels.scanner }} reports is simulated or replayed, and says nothing about a real detector",
        "Nothing, where that is what you want.",
    ),
    Alert(
        "PetqcDiskFull", "service", "critical", "1m",
        "petqc_state_disk_level >= 2",
        "{{ $labels.scanner }}: the disk of recordings and history is full, and no run is started any more",
        "Move old recordings away, or set `keep_recordings_days`; the history itself is small. Below 2 % runs that go "
        "on are stopped, below 1 % only records are kept.",
    ),
    Alert(
        "PetqcDiskFilling", "service", "warning", "1h",
        "petqc_state_free_bytes and (petqc_state_disk_level == 1 or "
        "predict_linear(petqc_state_free_bytes[1d], 4 * 86400) < 0 and petqc_state_free_bytes < 200e9)",
        "{{ $labels.scanner }}: the disk of recordings and history will be full soon, {{ $value | humanize1024 }}B are "
        "left",
        "It is low already (below 20 % or 10 GiB), or will be full within four days at the pace of the last one.",
    ),
    Alert(
        "PetqcBackupOld", "service", "warning", "1h",
        "time() - (petqc_backup_last_verified_timestamp_seconds > 0 or petqc_start_time_seconds) > 36 * 3600",
        "{{ $labels.scanner }}: no backup of the history has passed its checks for {{ $value | humanizeDuration }}",
        "`petqc backup` makes one now and says what is in its way.",
    ),
    Alert(
        "PetqcBackupFailed", "service", "warning", "0m",
        "increase(petqc_backups_failed_total[1d]) > 0",
        "{{ $labels.scanner }}: a backup of the history could not be made, or did not pass its checks",
        "The daemon's log has the reason. `petqc backup` tries again.",
    ),
    Alert(
        "PetqcBrokerGone", "service", "warning", "5m",
        "petqc_mqtt_configured == 1 and petqc_mqtt_connected == 0",
        "{{ $labels.scanner }}: the MQTT broker does not answer; results wait and are not lost",
        "Look at the broker and at the way to it. The daemon tries for ever, and sends what waits once it answers.",
    ),
    Alert(
        "PetqcOutboxWaits", "service", "warning", "5m",
        "time() - (petqc_mqtt_outbox_oldest_timestamp_seconds > 0) > 3600",
        "{{ $labels.scanner }}: a result or an alarm has waited for the broker for {{ $value | humanizeDuration }}",
        "If the broker answers (PetqcBrokerGone is quiet), it refuses this (PetqcBrokerRefuses) or confirms nothing.",
    ),
    Alert(
        "PetqcBrokerRefuses", "service", "warning", "0m",
        "increase(petqc_mqtt_refused_total[1h]) > 0 or increase(petqc_mqtt_commands_refused_total[1h]) > 0",
        "{{ $labels.scanner }}: messages to the broker, or commands that came through it, are refused",
        "The broker's access list does not fit (the log names it), or somebody commands who may not (`petqc audit`).",
    ),
    Alert(
        "PetqcCertificateEnds", "service", "warning", "1h",
        "(petqc_tls_certificate_expiry_timestamp_seconds > 0) - time() < 30 * 86400",
        "{{ $labels.scanner }}: the certificate of the console and the API ends in {{ $value | humanizeDuration }}",
        "Put a new certificate and its key in place of the files that [api] names; petqcd takes them within seconds.",
    ),
    Alert(
        "PetqcBrokerCertificateEnds", "service", "warning", "1h",
        "(petqc_mqtt_certificate_expiry_timestamp_seconds > 0) - time() < 30 * 86400",
        "{{ $labels.scanner }}: the certificate of the MQTT broker ends in {{ $value | humanizeDuration }}",
        "Whoever runs the broker puts a new one in. After its end petqcd speaks to it no more, and never without TLS.",
    ),
    Alert(
        "PetqcCommandsRefused", "service", "warning", "0m",
        "increase(petqc_http_refused_total[1h]) > 20",
        "{{ $labels.scanner }}: more than twenty commands in an hour were not let through",
        "`petqc audit` names who asked for what from where: a script with the wrong token, or somebody who tries.",
    ),
    Alert(
        "PetqcAuditNotPublished", "service", "warning", "0m",
        "time() - (petqc_audit_published_timestamp_seconds > 0 or petqc_start_time_seconds) > 3 * 3600",
        "{{ $labels.scanner }}: how far the audit log goes was not published for {{ $value | humanizeDuration }}",
        "The history cannot be read: the daemon's log has the reason. `petqc audit verify` checks the whole log.",
    ),
    Alert(
        "PetqcAuditNotCopied", "service", "warning", "15m",
        "petqc_audit_syslog_waiting_rows > 0",
        "{{ $labels.scanner }}: {{ $value }} rows of the audit log wait for the syslog server",
        "The daemon's log has the reason once. Nothing is lost and nothing is held up: the rows are in the history, "
        "and go out in order once the server of `[audit] syslog` takes them.",
    ),
    Alert(
        "PetqcHistoryNotSaved", "service", "warning", "15m",
        "petqc_store_wal_bytes > 64 * 1024 * 1024",
        "{{ $labels.scanner }}: the history's log has {{ $value | humanize1024 }}B that are not in its file yet",
        "Something reads the history without end: a copy of the database that hangs, a console left open by a script.",
    ),
)  # fmt: skip
"""In the order in which a person should read them."""


def reference_page() -> str:
    """docs/reference/alerts.md."""
    lines = [
        "# Alerts",
        "",
        "Made from the table in `daemon/petqcd/monitoring/alerts.py` by `python -m petqcd.monitoring`: change the",
        "table, not this page. The rules are in `monitoring/prometheus/petqc.rules.yml`.",
        "",
        "`critical`: before anybody is scanned. `warning`: today. `info`: good to know. Whether a value is good is",
        "decided by the daemon, with the limits of `petqc.toml`; no limit is repeated in a rule.",
    ]
    for alert in ALERTS:
        after = "" if alert.hold == "0m" else f", after {alert.hold}"
        lines += ["", f"## {alert.name}", "", f"`{alert.severity}`{after}", "", f"```promql\n{alert.expr}\n```", ""]
        lines += textwrap.wrap(alert.action, 118, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"
