"""Descriptions of real scanners (one TOML file each): what kind of detector it is, and what is published about it.

Every number carries its source and its status: `read` in that source, `recalled` from general knowledge and to be
checked before it is quoted, or `computed`. A configuration names a scanner by the name of a file here, or by the path
of a file of the same form: `[petqc] scanner = ge-signa-petmr`.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from petqc.errors import BadInputError
from petqc.lutetium.crystals import MATERIALS

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parent
SENSORS: Final = ("sipm", "dsipm", "apd", "pmt")
STATUSES: Final = ("read", "recalled", "computed")
_SIDES: Final = ("fail_low", "warn_low", "warn_high", "fail_high")

PUBLISHED: Final = {
    "ctr_fit": ("tof_fwhm_ps", ("scanner", "pair")),
    "ctr_nema": ("tof_fwhm_ps", ("scanner",)),
    "energy_resolution": ("energy_resolution_percent", ("scanner", "module", "asic")),
}
"""The published value that a check is held against until there is a baseline, and at which levels; by check id."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """One published value. source: key of Scanner.sources; status: one of STATUSES."""

    value: Any
    unit: str
    source: str
    status: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scanner:
    """What is known about a kind of scanner.

    is_tof: it uses time of flight; photosensor: one of SENSORS. limits: sides of limits by check, as RunContext.limits.
    sha256: of the file.
    """

    id: str
    name: str
    vendor: str
    is_tof: bool
    photosensor: str
    values: Mapping[str, Quoted]
    sources: Mapping[str, str]
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sha256: str = ""

    def number(self, name: str) -> float | None:
        """A published value that is a single number, or None."""
        quoted = self.values.get(name)
        return float(quoted.value) if quoted is not None and isinstance(quoted.value, int | float) else None

    @property
    def crystal_material(self) -> str:
        """The material's name in petqc.lutetium.crystals, or empty."""
        quoted = self.values.get("crystal_material")
        first = str(quoted.value).split()[0].lower() if quoted is not None else ""
        return first if first in MATERIALS else ""

    @property
    def crystal_mm(self) -> tuple[float, float, float] | None:
        """Two sides of a crystal and its length, if they are published."""
        quoted = self.values.get("crystal_mm")
        if quoted is None or not isinstance(quoted.value, list) or len(quoted.value) != 3:
            return None
        width, height, length = (float(v) for v in quoted.value)
        return width, height, length

    def published(self, check_id: str, level: str) -> float | None:
        """What is published of a check's quantity at a level, or None."""
        name, levels = PUBLISHED.get(check_id, ("", ()))
        return self.number(name) if level in levels else None

    def cite(self, name: str) -> str:
        """A published value in words: `390 ps (Hsu2017)`, and `recalled` where it was not read again."""
        quoted = self.values[name]
        doubt = "" if quoted.status == "read" else f", {quoted.status}"
        return f"{quoted.value} {quoted.unit} ({quoted.source}{doubt})"


def scanner_names() -> list[str]:
    """Names of the scanners that come with petqc."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_scanner(name: str | Path) -> Scanner:
    """Read a description by name, or by path of a .toml file.

    Raises:
        BadInputError: there is none, or something in it is missing, unknown or of the wrong kind.
    """
    path = Path(name) if str(name).endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInputError(
            f"no scanner {str(name)!r}", do=f"one of {', '.join(scanner_names())}, or a path"
        ) from error
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(str(error), where=str(path)) from error
    needed = {"name": str, "vendor": str, "tof": bool, "photosensor": str, "values": dict}
    _expect(path, "", document, needed, {"sources": dict, "limits": dict})
    if document["photosensor"] not in SENSORS:
        raise BadInputError(f"photosensor = {document['photosensor']!r}", where=str(path), do=f"one of {SENSORS}")
    sources = document.get("sources", {})
    return Scanner(
        id=path.stem,
        name=document["name"],
        vendor=document["vendor"],
        is_tof=document["tof"],
        photosensor=document["photosensor"],
        values={key: _quoted(path, key, value, sources) for key, value in document["values"].items()},
        sources=sources,
        limits={key: _limits(path, key, value) for key, value in document.get("limits", {}).items()},
        sha256=hashlib.sha256(raw).hexdigest(),
    )


def _expect(path: Path, where: str, found: Any, needed: dict[str, Any], allowed: dict[str, Any]) -> None:
    if not isinstance(found, dict):
        raise BadInputError(f"{where} is not a table", where=str(path))
    for key, kind in needed.items():
        if not isinstance(found.get(key), kind):
            raise BadInputError(f"{where or 'the file'}: {key!r} is missing, or not what it must be", where=str(path))
    for key, value in found.items():
        kind = {**needed, **allowed}.get(key)
        if kind is None or not isinstance(value, kind):
            raise BadInputError(f"{where or 'the file'}: {key!r} is unknown, or not what it must be", where=str(path))


def _quoted(path: Path, key: str, found: Any, sources: Mapping[str, str]) -> Quoted:
    where = f"values.{key}"
    _expect(path, where, found, {"value": object, "source": str, "status": str}, {"unit": str, "note": str})
    if found["status"] not in STATUSES:
        raise BadInputError(f"{where}: status {found['status']!r}", where=str(path), do=f"one of {STATUSES}")
    if found["source"] not in sources:
        raise BadInputError(f"{where}: source {found['source']!r} is not in [sources]", where=str(path))
    return Quoted(found["value"], found.get("unit", ""), found["source"], found["status"], found.get("note", ""))


def _limits(path: Path, key: str, found: Any) -> dict[str, float]:
    _expect(path, f"limits.{key}", found, {}, dict.fromkeys(_SIDES, (int, float)))
    return {side: float(value) for side, value in found.items()}
