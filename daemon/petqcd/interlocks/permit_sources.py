"""Where the permits of bias sources come from: supervised instruments, the disk, the clock. Unknown stays unknown."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from petqc_drivers.device import DeviceState
from petqc_drivers.device import Quality as ReadingQuality
from petqcd.interlocks import permits
from petqcd.interlocks.permits import Permit, Quality

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from petqc_drivers.bias_source import BiasSource
    from petqc_drivers.device import Reading
    from petqc_drivers.trip import Trip
    from petqcd.config.interlocks import PermitConfig
    from petqcd.interlocks.maintenance import Maintenance

LINK_AGE_S = 3.0
"""A device answers at least so often: polls are a second apart, steps of a ramp less."""
TEMPERATURES_AGE_S = 15.0
"""Those of a readout's modules are read every five seconds while its bias is on."""
LIMITS_AGE_S = 150.0
"""The device's own limits are asked for every minute."""
LEAST_FREE_BYTES = 64 * 2**20
EARLIEST_UNIX_S = 1_767_225_600.0
"""2026-01-01: a clock before it was never set. Source: no version of petqc is older."""
BACK_S = 3600.0
"""A clock so much earlier than the newest record is suspect."""
_OF_READING = {
    ReadingQuality.GOOD: Quality.GOOD,
    ReadingQuality.UNCERTAIN: Quality.UNCERTAIN,
    ReadingQuality.BAD: Quality.BAD,
    ReadingQuality.ABSENT: Quality.BAD,
}


@dataclass(frozen=True, slots=True)
class HostHealth:
    """What is known of the host: free bytes for the audit log, and how far its clock can be believed.

    newest_unix_s: the latest time that a record or this process has seen. is_synchronised: something keeps the clock
    right now, so that it speaks for itself.
    """

    free_bytes: int | None
    newest_unix_s: float
    can_write: bool
    is_synchronised: bool = False


def of_device(driver: BiasSource, *, can_energise: bool, poll_s: float, now_s: float) -> list[Permit]:
    """What a bias source itself says: link, identity, limits, trip."""
    found = []
    last_s = driver.last_good_s
    max_age_s = max(LINK_AGE_S, 3.0 * poll_s)
    is_identified = driver.state is DeviceState.IDENTIFIED
    if last_s is not None:
        quality = Quality.GOOD if is_identified else Quality.BAD
        reason = "" if is_identified else f"its driver is {driver.state.value}"
        found.append(Permit(permits.LINK, True, quality, last_s, "last answer", reason, max_age_s))
    if driver.identity is not None and is_identified:
        told = " ".join(word for word in (driver.identity.model, driver.identity.serial) if word)
        found.append(Permit(permits.IDENTITY, True, Quality.GOOD, now_s, told))
    found.append(Permit(permits.LIMITS, can_energise, Quality.GOOD, now_s, "[device.bias]"))
    if driver.limits_checked_s is not None:
        wrong = driver.limits_wrong
        found.append(
            Permit(
                permits.DEVICE_LIMITS,
                wrong is None,
                Quality.GOOD,
                driver.limits_checked_s,
                "read back",
                wrong or "",
                LIMITS_AGE_S,
            )
        )
    found.append(of_trip(driver.trip, now_s))
    return found


def of_trip(trip: Trip, now_s: float) -> Permit:
    """Whether nothing is tripped."""
    reason = trip.causes[0].cause if trip.causes else ""
    return Permit(permits.NO_TRIP, not trip.causes, Quality.GOOD, now_s, "latch", reason)


def of_reading(config: PermitConfig, readings: Sequence[Reading], poll_s: float) -> Permit | None:
    """What an instrument's reading says; None: there is no such reading, so nothing is known.

    Where there are several of the name, all of them must be within; the worst one speaks.
    """
    found = [reading for reading in readings if reading.name == config.reading]
    return _worst(config, found, max(LINK_AGE_S, 3.0 * poll_s))


def of_temperatures(config: PermitConfig, readings: Sequence[Reading]) -> Permit | None:
    """What the temperatures of a readout's modules say; sensors that are not fitted have nothing to say."""
    found = [one for one in readings if one.unit == "degC" and one.quality is not ReadingQuality.ABSENT]
    return _worst(config, found, TEMPERATURES_AGE_S)


def _worst(config: PermitConfig, found: Sequence[Reading], max_age_s: float) -> Permit | None:
    """The one that speaks for all; None: there is none."""
    if not found:
        return None
    given = []
    for reading in found:
        is_within = reading.value is not None and config.is_within(reading.value)
        shown = "no value" if reading.value is None else f"{reading.value:g} {reading.unit}".rstrip()
        outside = f"{reading.name} of {reading.node} is {shown}, must be {config.said}"
        reason = reading.reason or ("" if is_within else outside)
        quality = Quality.BAD if reading.value is None else _OF_READING[reading.quality]
        source = f"{config.device} {reading.name}"
        given.append(Permit(config.name, is_within, quality, reading.at_monotonic_s, source, reason, max_age_s))
    rank = {Quality.BAD: 2, Quality.UNCERTAIN: 1, Quality.GOOD: 0}
    return max(given, key=lambda one: (not one.value and one.quality is Quality.GOOD, rank[one.quality]))


def of_maintenance(work: Maintenance | None, now_s: float) -> Permit:
    """Whether nobody works at a device."""
    reason = "" if work is None else work.told
    return Permit(permits.MAINTENANCE, work is None, Quality.GOOD, now_s, "petqc maintenance", reason)


def of_host(health: HostHealth, *, now_s: float, unix_s: float) -> list[Permit]:
    """Whether what is done can be written down, and whether the clock can be believed."""
    free = health.free_bytes
    has_room = free is not None and free >= LEAST_FREE_BYTES and health.can_write
    why = "" if has_room else "the last write failed" if not health.can_write else f"{free} bytes are free"
    quality = Quality.BAD if free is None else Quality.GOOD
    # A clock that something keeps right is right, also where an earlier one that was wrong made the newest record.
    earliest_s = 0.0 if health.is_synchronised else health.newest_unix_s - BACK_S
    is_sane = unix_s >= max(EARLIEST_UNIX_S, earliest_s)
    suspect = "" if is_sane else "it is earlier than what is stored or was seen already, or was never set"
    return [
        Permit(permits.AUDIT_DISK, has_room, quality, now_s, "state directory", why),
        Permit(
            permits.CLOCK,
            is_sane,
            Quality.GOOD,
            now_s,
            "kernel, synchronised" if health.is_synchronised else "newest record",
            suspect,
        ),
    ]


def free_bytes(state_dir: Path) -> int | None:
    """Of the file system of the state directory; None: it cannot be asked."""
    try:
        return shutil.disk_usage(state_dir).free
    except OSError:
        return None
