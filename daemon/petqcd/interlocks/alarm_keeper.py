"""The alarms of a running daemon: defined as devices appear, kept over restarts, told to metrics and listeners."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from petqcd import clock, small_file
from petqcd.interlocks.alarms import Alarms, Change, Definition, Severity, State, flood
from petqcd.interlocks.maintenance import HELD, Maintenance
from petqcd.progress import Event

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from petqcd.metrics import Metrics
    from petqcd.progress import Bus

log = logging.getLogger(__name__)

FILE, HISTORY = "alarms.json", "alarms.jsonl"
MOST_HISTORY_BYTES = 4 << 20
"""Of the history; one such file before it is kept as well."""
STATE_CODE = {State.NORMAL: 0, State.ACTIVE_UNACK: 1, State.ACTIVE_ACK: 2, State.CLEARED_UNACK: 3}
_CALL = {Severity.INFO: logging.INFO, Severity.MINOR: logging.WARNING, Severity.MAJOR: logging.ERROR}

GUIDANCE = {
    "link": (
        Severity.MINOR,
        "Silent, or another device. Look at power, cable, serial number, who else has its port. Maybe on? Go there.",
    ),
    "trip": (
        Severity.MAJOR,
        "It was switched off by itself. Find out why (`petqc bias status`), then acknowledge, reset, energise.",
    ),
    "unsafe": (
        Severity.MAJOR,
        "Nobody knows whether its output is on. Treat it as live: use its hardware switch or pull its plug.",
    ),
    "adopted": (
        Severity.MAJOR,
        "Its output was found on. Confirm it (`petqc bias confirm`) or switch it off (`petqc bias off`).",
    ),
    "permit": (
        Severity.MAJOR,
        "A condition for staying on is in doubt; it is switched off soon. `petqc bias status` names the condition.",
    ),
    "maintenance": (
        Severity.MINOR,
        "Somebody works at it; nothing energises it. When the work is over: `petqc maintenance end`.",
    ),
    "reading": (
        Severity.MINOR,
        "It says that something is wrong with it, or measures what cannot be believed: `petqc status` says what.",
    ),
    "following": (
        Severity.MINOR,
        "It stands still instead of following the temperature: `petqc bias status` says why. Look at the sensor.",
    ),
    "bypass": (
        Severity.MINOR,
        "A condition is bypassed for a time. Know why, and end the bypass as soon as it is not needed.",
    ),
}
"""Severity and what to do, for every kind of alarm of a device."""
OF_EVERY_DEVICE = ("link", "maintenance", "reading")
DELAY_S = {"reading": 5.0, "following": 60.0}
"""How long a condition must hold, where it need not be told at once: one doubtful reading is looked at again, and
the first readings of a temperature are waited for."""
OF_OUTPUTS = tuple(GUIDANCE)
FILE_DAMAGED = "outputs-file"
DISK, STORE = "disk", "store"
OF_THE_SERVICE = (
    Definition(
        id=FILE_DAMAGED,
        device="",
        severity=Severity.MINOR,
        guidance="What was last known of the outputs is damaged or cannot be written: look at disk and supplies.",
    ),
    Definition(
        id=DISK,
        device="",
        severity=Severity.MINOR,
        guidance="Make room on the disk of the state directory: old recordings, [store] keep_…_days. Results stay.",
    ),
    Definition(
        id=STORE,
        device="",
        severity=Severity.MAJOR,
        guidance="Nothing is stored, so no run begins. Look at the disk; once it is well, it goes on by itself.",
    ),
)
"""Alarms of no device."""
RETIRED = "retired-output"
OF_RETIRED = Definition(
    id=RETIRED,
    device="",
    severity=Severity.MAJOR,
    guidance="A device that is not configured any more was last known on. Switch it off (`petqc off`, or its own "
    "switch), then `petqc devices forget`.",
)


class AlarmKeeper:
    """Everything is called from the event loop; `flush` writes what changed.

    Args:
        state_dir: where they are kept.
        bus: where changes are told.
        metrics: where states are published.
    """

    def __init__(self, state_dir: Path, bus: Bus, metrics: Metrics) -> None:
        self.alarms = Alarms(changed=self._changed)
        self._state_dir, self._bus, self._metrics = state_dir, bus, metrics
        self._known: set[str] = set()
        self._unwritten: list[Change] = []
        found = small_file.read(state_dir / FILE)
        self._before: dict[str, dict[str, Any]] = {}
        if found is not None:
            self._before = {str(one["id"]): one for one in found.document}
        for definition in OF_THE_SERVICE:
            self._define(definition)
        self._define(OF_RETIRED)
        self._turn = asyncio.Lock()

    def watch(self, device: str, kinds: Iterable[str]) -> None:
        """Make the alarms of a device known; those of the process before are taken up."""
        for kind in kinds:
            severity, guidance = GUIDANCE[kind]
            self._define(
                Definition(
                    id=f"{kind}.{device}",
                    device=device,
                    severity=severity,
                    guidance=guidance,
                    delay_s=DELAY_S.get(kind, 0.0),
                )
            )
        self._define(flood(device))

    def hold(self, device: str, why: str) -> None:
        """Let what work at a device brings about call nobody; empty: it calls again."""
        for id_ in (f"{kind}.{device}" for kind in HELD):
            if id_ in self._known:
                self.alarms.hold(id_, why, clock.unix_s())

    def condition(
        self, kind: str, device: str, *, is_wrong: bool, detail: str = "", severity: Severity | None = None
    ) -> None:
        """What is so now."""
        self.scanner_condition(f"{kind}.{device}", is_wrong=is_wrong, detail=detail, severity=severity)

    def scanner_condition(
        self, id_: str, *, is_wrong: bool, detail: str = "", severity: Severity | None = None
    ) -> None:
        """The same, of an alarm by its id."""
        now_s, unix_s = clock.monotonic_s(), clock.unix_s()
        self.alarms.condition(id_, is_wrong=is_wrong, now_s=now_s, unix_s=unix_s, detail=detail, severity=severity)

    def maintenance(self, device: str, work: Maintenance | None) -> None:
        """Who works at a device: told as an alarm of its own, and its others call nobody meanwhile."""
        is_late = work is not None and work.is_overdue
        told = "" if work is None else work.told
        self.condition(
            "maintenance",
            device,
            is_wrong=work is not None,
            detail=told,
            severity=Severity.MAJOR if is_late else Severity.MINOR,
        )
        self.hold(device, told)

    def documents(self, *, every: bool = False) -> list[dict[str, Any]]:
        """Those that are not normal, or all of them."""
        return [one.document() for one in self.alarms.all()] if every else self.alarms.documents()

    async def flush(self) -> None:
        """Write what changed since the last time; a disk that does not take it is told in the log, once a change."""
        async with self._turn:
            changes, self._unwritten = self._unwritten, []
            if not changes:
                return
            now = self.alarms.documents()
            try:
                await asyncio.to_thread(self._write, now, changes)
            except OSError as error:
                log.error("alarms are not written: %s", error)  # noqa: TRY400 - the error says it all

    def _write(self, now: list[dict[str, Any]], changes: list[Change]) -> None:
        small_file.write(self._state_dir / FILE, now)
        history = self._state_dir / HISTORY
        if history.is_file() and history.stat().st_size > MOST_HISTORY_BYTES:
            history.replace(history.with_name(f"{HISTORY}.1"))
        with history.open("a", encoding="utf-8") as file:
            for change in changes:
                line = {"at": clock.utc_text(change.at_unix_s), "what": change.what, "alarm": change.alarm}
                file.write(json.dumps(line, allow_nan=False) + "\n")

    def _define(self, definition: Definition) -> None:
        if definition.id in self._known:
            return
        self._known.add(definition.id)
        self.alarms.define([definition])
        before = self._before.pop(definition.id, None)
        if before is not None:
            self.alarms.restore([before])
        self._publish(next(one for one in self.alarms.all() if one.definition.id == definition.id).document())

    def _changed(self, change: Change) -> None:
        self._unwritten.append(change)
        self._publish(change.alarm)
        self._bus.publish(Event("alarm", {**change.alarm, "what": change.what}))
        if change.what.startswith(("active", "worse")):
            alarm = change.alarm
            loud = logging.INFO if alarm["is_silent"] else _CALL[Severity[alarm["severity"]]]
            log.log(loud, "alarm %s: %s", alarm["id"], alarm["detail"])

    def _publish(self, alarm: dict[str, Any]) -> None:
        labels = {"device": alarm["device"], "alarm": alarm["id"].partition(".")[0]}
        self._metrics.set("petqc_alarm_state", STATE_CODE[State(alarm["state"])], **labels)
        self._metrics.set("petqc_alarm_severity", Severity[alarm["severity"]], **labels)
        self._metrics.set("petqc_alarm_silenced", float(alarm["is_silent"]), **labels)
