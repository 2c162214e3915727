"""Alarms: what is wrong, how badly, since when, what to do, and whether somebody saw it.

NORMAL → ACTIVE_UNACK → ACTIVE_ACK → NORMAL, and ACTIVE_UNACK → CLEARED_UNACK → NORMAL. The severity is the highest seen
until somebody acknowledges. Shelved and out of service are states that can be seen, not absence. Here is no clock and
no task: time is given.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from petqcd.errors import ConfigError, NotFoundError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

LONGEST_SHELF_S = 24 * 3600.0
FLOOD, FLOOD_S = 10, 10.0
"""More new alarms than this of one device in this time are one alarm."""
MOST_ALARMS = 1000
"""Alarms that are known at once; definitions come from devices and permits, so there are fewer."""


class Severity(enum.IntEnum):
    """How badly."""

    INFO = 0
    MINOR = 1
    """Look today."""
    MAJOR = 2
    """Act now."""


class State(enum.StrEnum):
    """Where an alarm is."""

    NORMAL = "NORMAL"
    ACTIVE_UNACK = "ACTIVE_UNACK"
    ACTIVE_ACK = "ACTIVE_ACK"
    CLEARED_UNACK = "CLEARED_UNACK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One alarm as it is defined.

    Attributes:
        id: its name, `KIND.DEVICE`; stable.
        device: what it is of; empty for the whole scanner.
        severity: when it begins; a condition may raise it.
        guidance: what to do; there is none without.
        owner: who looks after it.
        delay_s: how long the condition must hold.
        count: how often it must be seen in a row.
        clear_after_s: how long the condition must be gone.
    """

    id: str
    device: str
    severity: Severity
    guidance: str
    owner: str = "operator"
    delay_s: float = 0.0
    count: int = 1
    clear_after_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.guidance.strip():
            raise ConfigError(f"alarm {self.id} has no guidance: say what to do")
        if self.delay_s < 0 or self.clear_after_s < 0 or self.count < 1:
            raise ConfigError(f"alarm {self.id}: delays are 0 or more, count is 1 or more")


@dataclass(slots=True)
class Alarm:
    """One alarm as it is. times are Unix seconds for people; those that count are on the clock that is given."""

    definition: Definition
    state: State = State.NORMAL
    severity: Severity = Severity.INFO
    detail: str = ""
    since_unix_s: float = 0.0
    acknowledged_by: str = ""
    shelved_until_unix_s: float = 0.0
    shelved_because: str = ""
    out_of_service: str = ""
    held_because: str = ""
    """Somebody works at its device; not kept, the one who works there is."""
    collapsed: int = 0
    """Alarms of a flood that this one speaks for."""
    seen: int = 0
    wrong_since_s: float | None = None
    right_since_s: float | None = None

    @property
    def is_silent(self) -> bool:
        """Whether it calls nobody although it may be active."""
        return self.is_put_aside or bool(self.held_because)

    @property
    def is_put_aside(self) -> bool:
        """Whether somebody shelved it or took it out of service."""
        return bool(self.out_of_service or self.shelved_until_unix_s)

    @property
    def is_active(self) -> bool:
        """Whether its condition holds."""
        return self.state in (State.ACTIVE_UNACK, State.ACTIVE_ACK)

    def document(self) -> dict[str, Any]:
        """Plain types for JSON and for the file."""
        return {
            "id": self.definition.id,
            "device": self.definition.device,
            "state": str(self.state),
            "severity": self.severity.name,
            "detail": self.detail,
            "guidance": self.definition.guidance,
            "owner": self.definition.owner,
            "since_unix_s": self.since_unix_s,
            "acknowledged_by": self.acknowledged_by,
            "shelved_until_unix_s": self.shelved_until_unix_s,
            "shelved_because": self.shelved_because,
            "out_of_service": self.out_of_service,
            "held_because": self.held_because,
            "is_silent": self.is_silent,
            "collapsed": self.collapsed,
        }


_RESTORED = (
    "detail",
    "since_unix_s",
    "acknowledged_by",
    "shelved_until_unix_s",
    "shelved_because",
    "out_of_service",
)


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to an alarm, for the history and for whoever listens."""

    alarm: dict[str, Any]
    what: str
    at_unix_s: float


def _worst_first(alarms: Iterable[Alarm]) -> list[Alarm]:
    return sorted(alarms, key=lambda a: (a.state is State.NORMAL, a.is_silent, -a.severity, a.since_unix_s))


@dataclass(slots=True)
class Alarms:
    """All alarms of a scanner.

    Attributes:
        changed: called with every change, after it.
    """

    changed: Callable[[Change], None] = lambda _change: None
    _alarms: dict[str, Alarm] = field(default_factory=dict)
    _new_s: dict[str, deque[float]] = field(default_factory=dict)

    def define(self, definitions: Iterable[Definition]) -> None:
        """Make alarms known.

        Raises:
            ConfigError: two have the same id, or there are too many.
        """
        for one in definitions:
            if one.id in self._alarms:
                raise ConfigError(f"two alarms are called {one.id}")
            if len(self._alarms) >= MOST_ALARMS:
                raise ConfigError(f"more than {MOST_ALARMS} alarms are defined")
            self._alarms[one.id] = Alarm(one)

    def restore(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Take up what the last process knew: what was not acknowledged, shelved or out of service still is."""
        for said in documents:
            alarm = self._alarms.get(str(said["id"]))
            if alarm is None:
                continue
            alarm.state, alarm.severity = State(said["state"]), Severity[said["severity"]]
            for name in _RESTORED:
                setattr(alarm, name, said[name])

    def all(self) -> list[Alarm]:
        """Every alarm, the worst first, normal ones last."""
        return _worst_first(self._alarms.values())

    def documents(self) -> list[dict[str, Any]]:
        """All that are not normal and quiet, as plain types; every page asks, and there are ten of each device."""
        told = (a for a in self._alarms.values() if a.state is not State.NORMAL or a.is_put_aside)
        return [a.document() for a in _worst_first(told)]

    # -- what conditions say -----------------------------------------------------------------------------------------

    def condition(
        self,
        id_: str,
        *,
        is_wrong: bool,
        now_s: float,
        unix_s: float,
        detail: str = "",
        severity: Severity | None = None,
    ) -> None:
        """What the condition of an alarm is now. severity: higher than defined, where it is worse than usual."""
        alarm = self._alarms[id_]
        self._end_shelf(alarm, unix_s)
        if is_wrong:
            self._wrong(alarm, now_s, unix_s, detail, severity)
        else:
            self._right(alarm, now_s, unix_s)

    def _wrong(self, alarm: Alarm, now_s: float, unix_s: float, detail: str, severity: Severity | None) -> None:
        alarm.right_since_s = None
        alarm.seen += 1
        if alarm.wrong_since_s is None:
            alarm.wrong_since_s = now_s
        defined = alarm.definition
        worse = max(defined.severity, severity if severity is not None else defined.severity)
        if alarm.is_active:
            if worse > alarm.severity:
                alarm.severity, alarm.detail, alarm.state = worse, detail, State.ACTIVE_UNACK
                self._tell(alarm, "worse", unix_s)
            return
        if now_s - alarm.wrong_since_s < defined.delay_s or alarm.seen < defined.count:
            return
        was = alarm.severity if alarm.state is State.CLEARED_UNACK else Severity.INFO
        alarm.state, alarm.severity, alarm.detail = State.ACTIVE_UNACK, max(was, worse), detail
        alarm.since_unix_s, alarm.acknowledged_by = unix_s, ""
        if not self._collapsed(alarm, now_s, unix_s):
            self._tell(alarm, "active", unix_s)

    def _right(self, alarm: Alarm, now_s: float, unix_s: float) -> None:
        alarm.wrong_since_s, alarm.seen = None, 0
        if not alarm.is_active:
            return
        if alarm.right_since_s is None:
            alarm.right_since_s = now_s
        if now_s - alarm.right_since_s < alarm.definition.clear_after_s:
            return
        alarm.state = State.NORMAL if alarm.state is State.ACTIVE_ACK else State.CLEARED_UNACK
        self._tell(alarm, "cleared", unix_s)
        if alarm.state is State.NORMAL:
            alarm.severity = Severity.INFO

    def _collapsed(self, alarm: Alarm, now_s: float, unix_s: float) -> bool:
        """Whether it is one of a flood, which one alarm of its device speaks for; it stays in the list and history."""
        device = alarm.definition.device
        parent = self._alarms.get(flood_id(device))
        if parent is None or alarm is parent:
            return False
        new = self._new_s.setdefault(device, deque(maxlen=FLOOD + 1))
        new.append(now_s)
        if len(new) <= FLOOD or now_s - new[0] > FLOOD_S:
            return False
        parent.collapsed += 1
        self.condition(
            flood_id(device),
            is_wrong=True,
            now_s=now_s,
            unix_s=unix_s,
            detail=f"more than {FLOOD} alarms in {FLOOD_S:g} s, the last: {alarm.definition.id}: {alarm.detail}",
            severity=alarm.severity,
        )
        self._tell(alarm, "active, one of a flood", unix_s)
        return True

    def calm(self, device: str, now_s: float, unix_s: float) -> None:
        """Clear the alarm of a flood once its device had none for as long as a flood takes."""
        parent = self._alarms.get(flood_id(device))
        new = self._new_s.get(device)
        if parent is not None and parent.is_active and (not new or now_s - new[-1] > FLOOD_S):
            self.condition(flood_id(device), is_wrong=False, now_s=now_s, unix_s=unix_s)

    # -- what people do ----------------------------------------------------------------------------------------------

    def acknowledge(self, id_: str, by: str, unix_s: float) -> Alarm:
        """Somebody saw it; its condition stays what it is.

        Raises:
            NotFoundError: there is no such alarm.
            RefusedError: there is nothing to acknowledge.
        """
        alarm = self._named(id_)
        if alarm.state not in (State.ACTIVE_UNACK, State.CLEARED_UNACK):
            raise RefusedError(f"alarm {id_} is {alarm.state}: there is nothing to acknowledge")
        alarm.state = State.ACTIVE_ACK if alarm.state is State.ACTIVE_UNACK else State.NORMAL
        alarm.acknowledged_by = by
        if alarm.state is State.NORMAL:
            alarm.severity = Severity.INFO
        alarm.collapsed = 0
        self._tell(alarm, f"acknowledged by {by}", unix_s)
        return alarm

    def shelve(self, id_: str, *, seconds: float, reason: str, by: str, unix_s: float) -> Alarm:
        """Let it be silent until a time; it goes on being judged and is shown as shelved.

        Raises:
            NotFoundError: there is no such alarm.
            RefusedError: the time is too long, or nobody says why.
        """
        alarm = self._named(id_)
        if not 0 < seconds <= LONGEST_SHELF_S:
            raise RefusedError(f"an alarm is shelved up to {LONGEST_SHELF_S / 3600:g} h, not {seconds!r} s")
        alarm.shelved_because = _given(reason, "shelving an alarm")
        alarm.shelved_until_unix_s = unix_s + seconds
        self._tell(alarm, f"shelved by {by}: {alarm.shelved_because}", unix_s)
        return alarm

    def put_out_of_service(self, id_: str, *, reason: str, by: str, unix_s: float) -> Alarm:
        """Let it be silent until somebody puts it back; empty reason: back into service.

        Raises:
            NotFoundError: there is no such alarm.
        """
        alarm = self._named(id_)
        alarm.out_of_service = reason.strip()
        what = f"out of service by {by}: {alarm.out_of_service}" if alarm.out_of_service else f"in service by {by}"
        self._tell(alarm, what, unix_s)
        return alarm

    def hold(self, id_: str, why: str, unix_s: float) -> None:
        """Let it call nobody while somebody works at its device; empty: it calls again."""
        alarm = self._alarms[id_]
        if alarm.held_because != why:
            alarm.held_because = why
            self._tell(alarm, f"held: {why}" if why else "held no longer", unix_s)

    def _end_shelf(self, alarm: Alarm, unix_s: float) -> None:
        if alarm.shelved_until_unix_s and unix_s >= alarm.shelved_until_unix_s:
            alarm.shelved_until_unix_s, alarm.shelved_because = 0.0, ""
            self._tell(alarm, "the time of its shelf is over", unix_s)

    def _named(self, id_: str) -> Alarm:
        alarm = self._alarms.get(id_)
        if alarm is None:
            raise NotFoundError(f"there is no alarm {id_!r} (see: petqc alarms --all)")
        return alarm

    def _tell(self, alarm: Alarm, what: str, unix_s: float) -> None:
        self.changed(Change(alarm.document(), what, unix_s))


def flood_id(device: str) -> str:
    """The alarm that speaks for a flood of alarms of a device."""
    return f"flood.{device}"


def flood(device: str) -> Definition:
    """Its definition."""
    return Definition(
        id=flood_id(device),
        device=device,
        severity=Severity.MINOR,
        guidance="Many things of this device went wrong at once: look for the first of them, and for power and cables.",
    )


def _given(reason: str, what: str) -> str:
    if not reason.strip():
        raise RefusedError(f"{what} needs a reason")
    return reason.strip()
