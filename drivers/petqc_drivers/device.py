"""Words that all devices share: states and readings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class DeviceState(Enum):
    """Life cycle of a device as its driver sees it."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    IDENTIFIED = "identified"
    """Answers, and is the device that was configured."""
    STAGED = "staged"
    """Configured, every setting read back."""
    RUNNING = "running"
    """Data flow to a consumer."""
    FAULTED = "faulted"
    """Something failed; only off, stop and closing make sense until it is connected again."""


class OutputState(Enum):
    """What is known about the outputs of a device."""

    UNKNOWN = "unknown"
    """Could be anything, also on."""
    OFF = "off"
    """Off, and read back after the command."""
    OFF_COMMANDED = "off-commanded"
    """Off was sent and acknowledged, but not read back."""
    RAMPING = "ramping"
    ON = "on"
    ADOPTED = "adopted"
    """Found on when connecting, at set-points that this process did not choose."""


class Quality(StrEnum):
    """How far a reading can be believed."""

    GOOD = "good"
    UNCERTAIN = "uncertain"
    BAD = "bad"
    ABSENT = "absent"
    """There is nothing that could be read, and nothing is wrong with that."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one place.

    Attributes:
        name: What it is, for example `temperature_sipm`.
        node: Place in the hardware tree, for example `asic:0.0.6` (port, slave, chip).
        value: The number, None if there is none that could be believed.
        unit: Of the value.
        measured: False for a value that was commanded and not read back from the output itself.
        quality: How far it can be believed.
        at_monotonic_s: When it was taken, on the monotonic clock.
        reason: Why the quality is not good.
    """

    name: str
    node: str
    value: float | None
    unit: str
    measured: bool
    quality: Quality
    at_monotonic_s: float
    reason: str | None = None
