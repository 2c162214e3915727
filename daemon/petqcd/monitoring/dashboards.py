"""The dashboards: which panels, asking what.

A check that has a metric is on one of them by its own title; a new one appears with the next
`python -m petqcd.monitoring`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from petqc.checks import all_checks
from petqc.report.text import title_of
from petqcd.metric_table import CHECK_METRICS, with_metric
from petqcd.monitoring.grafana import NODE, SCANNER, Dashboard, Panel
from petqcd.monitoring.rules import unit_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_STATUS = {0: ("pass", "green"), 1: ("warn", "yellow"), 2: ("fail", "red"), 3: ("invalid", "purple")}
_VERDICT = {-1: ("none yet", "text"), **_STATUS, 4: ("missed", "blue")}
_BIAS = {0: ("off", "green"), 1: ("off, not read back", "yellow"), 2: ("on", "blue"), 3: ("unknown", "red")}
_UP = {0: ("does not answer", "red"), 1: ("answers", "green")}
_UNITS = {
    "eV": "si:eV", "s": "si:s", "Hz": "hertz", "°C": "celsius", "V": "volt", "A": "amp", "K": "kelvin", "m": "lengthm",
}  # fmt: skip
"""What Grafana calls the units."""


TIMING = (
    "ctr_fit", "ctr_nema", "time_tails", "module_time_offset", "lu_time_offset", "lu_tdc_scale", "pulse_tdc_scale",
    "pulse_tdc_inl", "pulse_tac_offset", "published.time_resolution", "windows.coincidence",
)  # fmt: skip
ENERGY = (
    "photopeak", "energy_resolution", "window_acceptance", "linearity", "lu_energy_scale", "singles_rate",
    "block_efficiency", "lu_efficiency", "prompts", "randoms_delayed", "scatter_ratio", "pulse_charge_gain", "mr_rate",
    "mr_peak", "published.energy_resolution", "windows.energy_low", "windows.energy_high",
)  # fmt: skip
"""Which checks are shown together; every other one is the electronics'."""


def _of_checks(ids: Iterable[str]) -> tuple[Panel, ...]:
    panels = []
    for check in ids:
        metric = CHECK_METRICS[check]
        unit = _UNITS.get(unit_of(metric), "percentunit" if metric.endswith("_ratio") else "short")
        panels.append(Panel(title_of(check), ((f"{metric}{NODE}", "{{scanner}} {{module}}"),), unit=unit))
    return tuple(panels)


def _status_of(ids: Iterable[str]) -> Panel:
    names = "|".join(dict.fromkeys(check.partition(".")[0] for check in ids))
    expr = f'petqc_check_status{{scanner=~"$scanner",module=~"$module",check=~"({names})([.].*)?"}}'
    legend = "{{scanner}} {{module}} {{check}}"
    return Panel(
        "Status of these checks", ((expr, legend),), "state-timeline", names=_STATUS, width=24, height=10,
        said="By the daemon's own limits. A name with a dot is a part of a check, or a control chart.",
    )  # fmt: skip


def _age_of(ids: Iterable[str]) -> Panel:
    of_these = f'{{scanner=~"$scanner",module=~"$module",check=~"{"|".join(ids)}"}}'
    expr = f"time() - petqc_check_last_success_timestamp_seconds{of_these}"
    return Panel(
        "Age of these values", ((f"max by (scanner, check) ({expr})", "{{scanner}} {{check}}"),), "bargauge", unit="s",
        width=24, height=8, said="A line that is level may be a value that nobody has measured since.",
    )  # fmt: skip


_QUIET = Panel(
    "Daemon",
    (('up{job="petqc"}', "{{instance}}"),),
    "stat",
    names=_UP,
    width=4,
    height=4,
    said="Without an answer every other panel shows the past.",
)
_OVERVIEW = (
    Panel("Verdict of the daily QC", ((f"petqc_run_verdict{SCANNER}", "{{scanner}}"),), "stat", names=_VERDICT,
          width=6, height=4),
    Panel("Since it measured", ((f"petqc:run_age_seconds{SCANNER}", "{{scanner}}"),), "stat", unit="s", limit=108_000,
          width=5, height=4, said="Age of the last daily QC that measured, whatever its verdict."),
    _QUIET,
    Panel("Bias", ((f"petqc_bias_state{SCANNER}", "{{device}}"),), "stat", names=_BIAS, width=5, height=4),
    Panel("Simulated", ((f"petqc_simulated{SCANNER}", "{{scanner}}"),), "stat", width=4, height=4,
          names={0: ("no", "green"), 1: ("SIMULATED", "orange")}),
    Panel("Alerts", (('ALERTS{alertname=~"Petqc.*",alertstate="firing"}', ""),), "table", height=8,
          said="What to do about each: docs/reference/alerts.md."),
    Panel("Checks that are not a pass", ((f"petqc_check_status{NODE} > 0", ""),), "table", names=_STATUS, height=8),
    Panel("Verdict of every kind of run", ((f"petqc_qc_run_verdict{SCANNER}", "{{scanner}} {{kind}}"),),
          "state-timeline", names=_VERDICT, width=24, height=8),
    Panel("CTR", (('petqc_ctr_fit_seconds{scanner=~"$scanner",module="scanner"}', "{{scanner}}"),), unit="si:s",
          width=8),
    Panel("Photopeak", (('petqc_photopeak_electronvolts{scanner=~"$scanner",module="scanner"}', "{{scanner}}"),),
          unit="si:eV", width=8),
    Panel("Singles", (('petqc_singles_rate_hertz{scanner=~"$scanner",module="scanner"}', "{{scanner}}"),),
          unit="hertz", width=8),
    Panel("Run going on", ((f"petqc_run_progress_ratio{SCANNER}", "{{scanner}}"),), unit="percentunit", width=8),
    Panel("Free for recordings and history", ((f"petqc_state_free_bytes{SCANNER}", "{{scanner}}"),), unit="bytes",
          width=8),
    Panel("Since a backup passed its checks", ((f"time() - (petqc_backup_last_verified_timestamp_seconds{SCANNER} > 0)",
          "{{scanner}}"),), "stat", unit="s", limit=129_600, width=8, height=4),
    Panel("Waits for the broker", ((f"petqc_mqtt_outbox_messages{SCANNER}", "{{scanner}}"),), "stat", limit=1, width=8,
          height=4),
    Panel("Next in the schedule", ((f"(petqc_schedule_next_due_timestamp_seconds{SCANNER} > 0) * 1000",
          "{{scanner}} {{kind}}"),), "stat", unit="dateTimeFromNow", width=8),
)  # fmt: skip
_DRIFTS = (
    Panel("Drift of module time offsets, per day", ((f"petqc:module_time_offset_drift_seconds_per_day{NODE}",
          "{{scanner}} {{module}}"),), unit="si:s", said="Slope over seven days; 3 ps alert."),
    Panel("Drift of the CTR, per day", ((f"petqc:ctr_drift_seconds_per_day{NODE}", "{{scanner}} {{module}}"),),
          unit="si:s"),
    Panel("Control charts of timing, over their limits", (
        ('petqc_chart_limit_ratio{scanner=~"$scanner",module=~"$module",check=~"ctr_.*|module_time_offset.*|time_.*"}',
         "{{module}} {{check}}"),), width=24, said="Beyond -1 and 1 a chart warns."),
)  # fmt: skip
_LINK = "rate(%s" + SCANNER + "[5m])"
_HARDWARE = (
    Panel("Devices", ((f"petqc_device_up{SCANNER}", "{{device}}"),), "state-timeline", names=_UP, width=24,
          said="A readout is connected during runs only; an instrument always."),
    Panel("Frames received", ((_LINK % "petqc_frames_received_total", "{{device}}"),), unit="short", width=8),
    Panel("Frames lost and dropped", (
        (_LINK % "petqc_frames_lost_total", "{{device}} lost"),
        (_LINK % "petqc_frames_dropped_total", "{{device}} dropped"),
        (_LINK % "petqc_datagrams_rejected_total", "{{device}} rejected"),
        (_LINK % "petqc_frames_not_analysed_live_total", "{{device}} not analysed live")), width=8,
          said="Not analysed live: recorded, and analysed from the recording afterwards."),
    Panel("Temperatures of the last run", (
        (f"petqc_temperature_min_celsius{SCANNER}", "{{device}} lowest"),
        (f"petqc_temperature_max_celsius{SCANNER}", "{{device}} highest")), unit="celsius", width=8),
    Panel("Instruments: temperatures", ((f"petqc_reading_celsius{SCANNER}", "{{device}} {{quantity}}"),),
          unit="celsius", width=8),
    Panel("Instruments: voltages", ((f"petqc_reading_volts{SCANNER}", "{{device}} {{quantity}}"),),
          unit="volt", width=8, said="bias_commanded is what was asked for, not what was measured."),
    Panel("Instruments: currents", ((f"petqc_reading_amperes{SCANNER}", "{{device}} {{quantity}}"),),
          unit="amp", width=8),
    Panel("Instruments: age of readings", ((f"time() - petqc_reading_last_success_timestamp_seconds{SCANNER}",
          "{{device}} {{quantity}}"),), unit="s"),
    Panel("Instruments: time-outs and other faults of the link",
          ((_LINK % "petqc_instrument_link_faults_total", "{{device}}"),)),
)  # fmt: skip
_FLEET = (
    Panel("Scanners", (("count(petqc_start_time_seconds)", "scanners"),), "stat", width=4, height=4),
    Panel("By verdict of the daily QC", (('count_values("verdict", petqc_run_verdict)', "{{verdict}}"),), "stat",
          width=12, height=4, said="-1 none yet, 0 pass, 1 warn, 2 fail, 3 invalid, 4 missed."),
    replace(_QUIET, title="Daemons", width=8),
    Panel("Verdicts", ((f"petqc_run_verdict{SCANNER}", "{{scanner}}"),), "state-timeline", names=_VERDICT, width=24,
          height=10),
    Panel("Hours since a daily QC measured", ((f"petqc:run_age_seconds{SCANNER}", "{{scanner}}"),), "bargauge",
          unit="s", limit=108_000, height=9),
    Panel("Checks that fail", ((f"count by (scanner) (petqc_check_status{SCANNER} == 2)", "{{scanner}}"),), "bargauge",
          limit=1, height=9),
    Panel("CTR", (('petqc_ctr_fit_seconds{scanner=~"$scanner",module="scanner"}', "{{scanner}}"),), unit="si:s"),
    Panel("Photopeak", (('petqc_photopeak_electronvolts{scanner=~"$scanner",module="scanner"}', "{{scanner}}"),),
          unit="si:eV"),
    Panel("Alerts of all scanners", (('ALERTS{alertname=~"Petqc.*",alertstate="firing"}', ""),), "table", width=24),
)  # fmt: skip


def dashboards() -> tuple[Dashboard, ...]:
    """All of them."""
    electronics = [one for check in all_checks() for one in with_metric(check.id) if one not in TIMING + ENERGY]
    drift = Panel(
        "Drift of the photopeak, per day",
        ((f"petqc:photopeak_drift_electronvolts_per_day{NODE}", "{{scanner}} {{module}}"),),
        unit="si:eV",
    )
    return (
        Dashboard("petqc-overview", "petqc overview", "May we scan, and what stands in the way.", _OVERVIEW),
        Dashboard("petqc-timing", "petqc timing drift", "Time offsets, resolution, TDCs; how fast they move.",
                  (_status_of(TIMING), *_DRIFTS, *_of_checks(TIMING), _age_of(TIMING))),
        Dashboard("petqc-energy", "petqc energy", "Energy scale and resolution, rates, what the MR does to them.",
                  (_status_of(ENERGY), drift, *_of_checks(ENERGY), _age_of(ENERGY))),
        Dashboard("petqc-electronics", "petqc electronics", "Links, clocks, supplies, channels, instruments.",
                  (_status_of(electronics), *_HARDWARE, *_of_checks(electronics), _age_of(electronics)), span="now-7d"),
        Dashboard("petqc-fleet", "petqc fleet of scanners", "Every scanner that this Prometheus knows.", _FLEET,
                  by_module=False),
    )  # fmt: skip
