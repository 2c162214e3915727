"""From a calibration to a run with a verdict: the same for every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.calibrate.changes import changes
from petqc.channel_map import SCANNER, Topology
from petqc.formats.petsys_tables import absolute_of
from petqc.limits import Limits, Status, worst
from petqc.results import ChannelColumn, CheckResult, Spectrum
from petqc.verdict import Words, channel_table, not_measured, say, sentence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from petqc.calibrate import Calibration
    from petqc.calibrate.sets import CalibrationSetInfo
    from petqc.formats.petsys_config import PetsysConfig
    from petqc.qc_input import RunContext
    from petqc.results import Run

WORDS: Final = Words(
    opening={
        Status.FAIL: "Do not use this calibration: ",
        Status.WARN: "Usable, but look at ",
        Status.INVALID: "Not calibrated: ",
    },
    passing="Calibrated: ",
    headlines=(),
)
_LEFT_OUT = "channels_left_out"
_FAIL_LEFT_OUT = 0.1
_BINS = 40
_TOLD = 2


def conclude(calibration: Calibration, context: RunContext, config: PetsysConfig, channels: NDArray[np.int32]) -> Run:
    """The run of a calibration: results, columns over all channels, distributions, verdict and sentence.

    Args:
        calibration: what was found.
        context: what else is known about the run.
        config: the configuration that the run used.
        channels: (n,) absolute channels that the board has; those that were not calibrated count against it.
    """
    from petqc.report.text import title_of

    topology = topology_of(config, np.union1d(channels, calibration.channels).astype(np.int32))
    run = not_measured(context, "nothing was fitted")
    run.channels = channel_table(topology)
    run.checks = [*calibration.results, *_left_out(calibration, topology)]
    place = topology.index_of(calibration.channels)
    run.columns = [c.spread(place, len(topology), "not in the plan") for c in calibration.columns]
    run.spectra = [*calibration.spectra, *(s for c in calibration.columns if (s := _distribution(c)) is not None)]
    run.notes += [note for note in calibration.notes if note not in run.notes]
    run.verdict = worst([c.status for c in run.checks]) if calibration.tables else Status.INVALID
    titles = {c.id: title_of(c.id) for c in run.checks}
    run.sentence = _good(run, titles) if run.verdict is Status.PASS else sentence(run, topology, titles, WORDS)
    return run


def topology_of(config: PetsysConfig, channels: NDArray[np.int32]) -> Topology:
    """Where channels are, as far as the configuration's channel map tells."""
    column = np.full(channels.size, -1, np.int16)
    row = column.copy()
    table = config.tables.get("channel_map")
    if table is not None and table.size:
        absolute = absolute_of(table)
        at = np.searchsorted(channels, absolute)
        known = (at < channels.size) & (channels[np.minimum(at, channels.size - 1)] == absolute)
        column[at[known]], row[at[known]] = table["xi"][known], table["yi"][known]
    return Topology.from_channels(channels, asics_per_module=config.petqc.asics_per_module, column=column, row=row)


def set_document(info: CalibrationSetInfo, calibration: Calibration, config: PetsysConfig) -> dict[str, Any]:
    """What a run's document says about the set that it made."""
    compared = [c for kind, new in calibration.tables.items() for c in changes(kind, config.tables.get(kind), new)]
    return {
        "id": info.id,
        "kind": info.kind,
        "parent_set": info.parent_set,
        "parent_hash": info.parent_hash,
        "new_tables": list(info.new_tables),
        "files": dict(info.files),
        "changes": [c.document() for c in compared],
    }


def _left_out(calibration: Calibration, topology: Topology) -> list[CheckResult]:
    if not calibration.channels.size:
        return []  # it is of something else than channels
    missing = len(topology) - int(np.isin(topology.channels, calibration.channels).sum())
    if not missing:
        return []
    limits = Limits(warn_high=0.0, fail_high=_FAIL_LEFT_OUT * len(topology))
    why = "the plan does not have them, and this calibration has nothing for them"
    return [CheckResult.measured(_LEFT_OUT, SCANNER, missing, "channels", 0.0, len(topology), limits, reason=why)]


def _distribution(column: ChannelColumn) -> Spectrum | None:
    """How the channels are spread."""
    from petqc.report.text import title_of

    values = column.value[np.isfinite(column.value)]
    if values.size < 2 or np.ptp(values) == 0.0:
        return None
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    room = 0.25 * (high - low) or 1.0
    counts, edges = np.histogram(np.clip(values, low - room, high + room), _BINS, (low - room, high + room))
    told = "Channels; the end bins hold those that lie further out."
    return Spectrum(column.id, SCANNER, title_of(column.id), column.unit, edges, counts.astype(np.float64), text=told)


def _good(run: Run, titles: Mapping[str, str]) -> str:
    of_scanner = [c for c in run.checks if c.node == SCANNER and c.value is not None]
    told = [
        f"{titles[c.id][:1].lower() + titles[c.id][1:] if not titles[c.id][1:2].isupper() else titles[c.id]} "
        f"{say(c.value, c.uncertainty, c.unit)}"
        for c in of_scanner
        if c.unit != "channels" and c.value is not None
    ]
    refused = sum(int(c.value or 0) for c in of_scanner if c.unit == "channels")
    n = len(next(iter(run.channels.values())))
    return f"{WORDS.passing}{n - refused} of {n} channels" + "".join(f", {t}" for t in told[:_TOLD]) + "."
