"""How old each table of the calibration in use is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from petqc.calibrate.sets import chain_of

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.formats.petsys_config import PetsysConfig
    from petqc.formats.petsys_tables import TableKind

CALIBRATED: Final[tuple[TableKind, ...]] = (
    "disc_calibration",
    "tdc",
    "qdc",
    "energy_kev",
    "time_offset",
    "bias_settings",
)
"""Tables that are measured and grow old; maps do not."""
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class TableAge:
    """How old a table of the calibration in use is. how: where the date comes from."""

    table: str
    days: float
    how: str


def table_ages(config: PetsysConfig, sets: Path, set_id: str | None, at_unix_s: float) -> list[TableAge]:
    """The age of every calibrated table that a configuration has.

    A table that a calibration set brought has the date of that set. One of the device's own configuration has the date
    of its file, which is all that is known about it.

    Args:
        config: in use.
        sets: the folder of all calibration sets.
        set_id: the set in use; None: the device's own configuration.
        at_unix_s: when.

    Raises:
        BadInputError: a set is damaged or missing.
    """
    made: dict[str, tuple[float, str]] = {}
    for info in chain_of(sets, set_id):
        for table in info.new_tables:
            made.setdefault(table, (datetime.fromisoformat(info.created_at).timestamp(), f"calibration set {info.id}"))
    found = []
    for kind in CALIBRATED:
        if kind not in config.tables:
            continue
        if kind in made:
            at_s, how = made[kind]
        elif kind in config.paths and config.paths[kind].is_file():
            at_s, how = config.paths[kind].stat().st_mtime, f"date of the file {config.paths[kind].name}"
        else:
            continue
        found.append(TableAge(kind, round((at_unix_s - at_s) / _DAY_S, 3), how))
    return found
