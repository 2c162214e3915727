"""Spectra in the `.spe` text form of Ortec and IAEA: `$SECTION:` lines, counts under `$DATA:`.

Source: IAEA/Ortec ASCII spectrum form: $SPEC_ID, $DATE_MEA (month/day/year), $MEAS_TIM (live and real seconds), $DATA,
$ENER_FIT (offset and slope), $MCA_CAL (number of coefficients, then coefficients and unit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.damage import Damage, DamageLog

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

MAX_CHANNELS: Final = 1 << 22
MAX_BYTES: Final = 256 << 20
"""A spectrum is one text file of at most four million numbers; a longer file is something else."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A recorded spectrum.

    counts: (n,) int64, channel first_channel + i. live_s, real_s: None if not given. measured_at: without time zone,
    as the file has none. energy: coefficients of energy against channel number, lowest power first, empty if none.
    sections: the other sections' lines by name without `$` and `:`.
    """

    counts: NDArray[np.int64]
    first_channel: int
    live_s: float | None
    real_s: float | None
    measured_at: datetime | None
    spec_id: str
    energy: tuple[float, ...]
    energy_unit: str
    sections: Mapping[str, tuple[str, ...]]
    damages: DamageLog

    @property
    def damage(self) -> Damage | None:
        """The first place that could not be used."""
        return self.damages.first


def read_spe(path: str | os.PathLike[str]) -> Spectrum:
    """Read a spectrum.

    Raises:
        BadInputError: no such file, no $DATA section, or a channel range that is none. Counts that are missing or do
            not read are in `damages`, and counts ends before the first of them.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInputError(f"{path.stat().st_size} bytes are no spectrum", where=str(path))
        raw = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    damages = DamageLog()
    sections, places = _sections(raw)
    if "DATA" not in sections:
        raise BadInputError("no $DATA section", where=str(path), do="check that this is a .spe spectrum")
    first, counts = _counts(path, sections.pop("DATA"), places["DATA"], len(raw), damages)
    live, real = _times(sections.pop("MEAS_TIM", ()), places.get("MEAS_TIM", 0), damages)
    energy, unit = _calibration(sections)
    return Spectrum(
        counts=counts,
        first_channel=first,
        live_s=live,
        real_s=real,
        measured_at=_date(sections.get("DATE_MEA", ())),
        spec_id=" ".join(sections.pop("SPEC_ID", ())),
        energy=energy,
        energy_unit=unit,
        sections=sections,
        damages=damages,
    )


def _sections(raw: bytes) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """Lines of each section and the byte where they begin."""
    sections: dict[str, list[str]] = {}
    places: dict[str, int] = {}
    current: list[str] | None = None
    at = 0
    for line in raw.splitlines(keepends=True):
        at += len(line)
        text = line.decode("utf-8", "replace").strip()
        if text.startswith("$"):
            name = text[1:].rstrip(":").upper()
            current = sections.setdefault(name, [])
            places.setdefault(name, at)
        elif current is not None and text:
            current.append(text)
    return {name: tuple(lines) for name, lines in sections.items()}, places


def _counts(
    path: Path, lines: tuple[str, ...], begin: int, end: int, damages: DamageLog
) -> tuple[int, NDArray[np.int64]]:
    try:
        first, last = (int(field) for field in (lines[0] if lines else "").split())
    except ValueError as error:
        raise BadInputError(
            f"$DATA begins with {lines[:1]!r}, not with the first and last channel", where=f"{path} byte {begin}"
        ) from error
    if not 0 <= first <= last or last - first >= MAX_CHANNELS:
        raise BadInputError(f"channels {first} to {last} are no spectrum", where=f"{path} byte {begin}")
    wanted = last - first + 1
    fields = " ".join(lines[1:]).split()
    good: list[int] = []
    for field in fields[:wanted]:
        if not field.isascii() or not field.isdigit() or len(field) > 18:
            damages.note(begin, f"the count of channel {first + len(good)} is {field[:40]!r}", len(good), end - begin)
            break
        good.append(int(field))
    else:
        if len(good) < wanted:
            damages.note(end, f"{len(good)} counts, channels {first} to {last} need {wanted}", len(good), 0)
        elif len(fields) > wanted:
            damages.note(begin, f"{len(fields)} counts for {wanted} channels: the last ones are left out", wanted, 0)
    return first, np.array(good, np.int64)


def _times(lines: tuple[str, ...], begin: int, damages: DamageLog) -> tuple[float | None, float | None]:
    if not lines:
        return None, None
    try:
        live, real = (float(field) for field in lines[0].split()[:2])
    except ValueError:
        damages.note(begin, f"$MEAS_TIM is {lines[0][:40]!r}, not live and real seconds", 0, 0)
        return None, None
    if not (math.isfinite(live) and math.isfinite(real) and live >= 0 and real >= 0):
        damages.note(begin, f"$MEAS_TIM is {lines[0][:40]!r}", 0, 0)
        return None, None
    return live, real


def _date(lines: tuple[str, ...]) -> datetime | None:
    for form in ("%m/%d/%Y %H:%M:%S", "%m-%d-%Y %H:%M:%S"):
        try:
            return datetime.strptime(lines[0] if lines else "", form)  # noqa: DTZ007 - the file has no zone
        except ValueError:
            continue
    return None


def _calibration(sections: Mapping[str, tuple[str, ...]]) -> tuple[tuple[float, ...], str]:
    cal, fit = sections.get("MCA_CAL", ()), sections.get("ENER_FIT", ())
    try:
        if len(cal) >= 2:
            fields = cal[1].split()
            n = int(cal[0])
            coefficients = tuple(float(field) for field in fields[:n])
            if len(coefficients) == n and any(coefficients):
                return coefficients, fields[n] if len(fields) > n else ""
        if fit:
            coefficients = tuple(float(field) for field in fit[0].split())
            if any(coefficients[1:]):
                return coefficients, ""
    except ValueError:
        return (), ""
    return (), ""
