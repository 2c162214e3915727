"""A PETsys configuration directory: config.ini and the tables that it names.

Our own additions stand in a `[petqc]` section that the vendor's tools ignore: `asics_per_module`,
`energy_kev_table`, `bias_map_table`, `energy_window_kev = LOW HIGH`, `scanner` (name or path of its description,
`petqc.scanners`), `source` (point, line, extended or none), `source_mm = X Y Z` (where it is meant to be), and of the
crystals `crystal_material` (lyso, lso or lbs) and `crystal_mm = WIDTH HEIGHT LENGTH` (without reflectors).
Source: PETsys sw_daq_tofpet2 revision 194662e; defaults are those compiled into its processing code.
"""

from __future__ import annotations

import configparser
import hashlib
import math
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.petsys_tables import TABLES, TableKind, format_table, parse_table, write_table
from petqc.lutetium.crystals import MATERIALS
from petqc.scanners import load_scanner

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from petqc.scanners import Scanner

__all__ = [
    "TABLES",
    "AsicParameters",
    "HwTrigger",
    "PetqcSection",
    "PetsysConfig",
    "SwTrigger",
    "TableKind",
    "format_table",
    "load_config",
    "parse_table",
    "rewrite_tables",
    "write_config",
    "write_table",
]


@dataclass(frozen=True, slots=True)
class SwTrigger:
    """Grouping and coincidence search. Windows are in clocks, energies in the unit of the data, distance in mm."""

    group_max_hits: int = 64
    group_min_hits: int = 1
    group_min_energy: float = -1e6
    group_max_energy: float = 1e6
    group_max_distance: float = 100.0
    group_time_window: float = 20.0
    coincidence_time_window: float = 2.0


@dataclass(frozen=True, slots=True)
class HwTrigger:
    """The board's own trigger. Windows in clocks."""

    group_min_energy: int = 0
    group_max_energy: int = 128
    group_min_multiplicity: int = 1
    group_max_multiplicity: int = 1024
    pre_window: int = 2
    post_window: int = 3
    coincidence_window: int = 2
    single_acceptance_period: int = 1000
    single_acceptance_length: int = 0


@dataclass(frozen=True, slots=True)
class AsicParameters:
    """ASIC configuration fields that differ from the default, by field name as written."""

    global_fields: Mapping[str, int] = field(default_factory=dict)
    channel_fields: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PetqcSection:
    """What petqc adds to the vendor's configuration.

    scanner: what kind of scanner it is, if that has a description. source: shape of the source that runs use, and
    source_mm where its middle is meant to be; None: not said. crystal_material, crystal_mm: of one crystal; where they
    are not said, what is published of the scanner.
    """

    asics_per_module: int = 4
    energy_window_kev: tuple[float, float] | None = None
    scanner: Scanner | None = None
    source: str | None = None
    source_mm: tuple[float, float, float] | None = None
    crystal_material: str = ""
    crystal_mm: tuple[float, float, float] | None = None

    def context(self) -> dict[str, Any]:
        """What a run's context (`petqc.qc_input.RunContext`) takes over from here."""
        material, size = self.crystal_material, self.crystal_mm
        if self.scanner is not None:
            material, size = material or self.scanner.crystal_material, size or self.scanner.crystal_mm
        said = {"reference": self.scanner, "source": self.source, "source_mm": self.source_mm, "crystal_mm": size}
        found = {name: value for name, value in said.items() if value is not None}
        return {**found, "crystal_material": material} if material else found


@dataclass(frozen=True, slots=True)
class PetsysConfig:
    """A configuration as read.

    tables: structured arrays by kind (columns: `petsys_tables.TABLES`); a table that is not named or whose file is
    missing has no entry. paths: the file of each table named. file_hashes: SHA-256 of `config` and of each table
    read, by kind. config_hash: SHA-256 over all of them. warnings: lines and entries that were not used, and why.
    """

    path: Path
    tables: Mapping[TableKind, NDArray[Any]]
    paths: Mapping[TableKind, Path]
    sw_trigger: SwTrigger
    hw_trigger: HwTrigger
    asic_parameters: AsicParameters
    petqc: PetqcSection
    file_hashes: Mapping[str, str]
    config_hash: str
    warnings: tuple[str, ...]

    def require(self, kind: TableKind) -> NDArray[Any]:
        """A table that the caller cannot do without.

        Raises:
            BadInputError: the configuration does not name it, or its file is missing.
        """
        table = self.tables.get(kind)
        if table is None:
            form = TABLES[kind]
            named = self.paths.get(kind)
            raise BadInputError(
                f"{named} does not exist" if named else f"[{form.ini_section}] {form.ini_key} is not set",
                where=str(self.path),
                do=f"give the {kind} table",
            )
        return table


def load_config(path: Path) -> PetsysConfig:
    """Read config.ini and every table that it names.

    Args:
        path: the config.ini file, or the directory that has one.

    Raises:
        BadInputError: the file cannot be read as a configuration, or a number in it is not one. Tables that are
            missing or have lines that do not read are in `warnings`; `PetsysConfig.require` raises for the former.
    """
    path = Path(path)
    if path.is_dir():
        path /= "config.ini"
    warnings: list[str] = []
    raw = _read(path)
    if raw is None:
        raise BadInputError("does not exist", where=str(path), do="give a PETsys config.ini")
    sections = _sections(path, raw, warnings)
    tables: dict[TableKind, NDArray[Any]] = {}
    paths: dict[TableKind, Path] = {}
    hashes = {"config": hashlib.sha256(raw).hexdigest()}
    for kind, form in TABLES.items():
        entry = sections.get(form.ini_section, {}).pop(form.ini_key, None)
        if entry is None:
            continue
        paths[kind] = _expand(entry[1], path)
        content = _read(paths[kind])
        if content is None:
            warnings.append(f"{path.name}: {form.ini_key}: {paths[kind]} does not exist")
            continue
        hashes[kind] = hashlib.sha256(content).hexdigest()
        tables[kind], lines = parse_table(kind, content.decode("utf-8", "replace"), name=paths[kind].name)
        warnings.extend(lines)
    section = _petqc_section(path, sections)
    if section.scanner is not None:
        hashes["scanner"] = section.scanner.sha256
    config = PetsysConfig(
        path=path,
        tables=tables,
        paths=paths,
        sw_trigger=SwTrigger(**_numbers(path, "sw_trigger", SwTrigger, sections, warnings)),
        hw_trigger=HwTrigger(**_numbers(path, "hw_trigger", HwTrigger, sections, warnings)),
        asic_parameters=_asic_parameters(path, sections, warnings),
        petqc=section,
        file_hashes=hashes,
        config_hash=hashlib.sha256("".join(f"{k} {v}\n" for k, v in sorted(hashes.items())).encode()).hexdigest(),
        warnings=(),
    )
    for header, entries in sections.items():
        warnings.extend(f"{path.name}: [{header}] {name} is not a setting petqc knows" for name, _ in entries.values())
    return replace(config, warnings=tuple(warnings))


SOURCE_SHAPES = ("point", "line", "extended", "none")

_Sections = dict[str, dict[str, tuple[str, str]]]
"""Section (lower case) to key (lower case) to (key as written, value)."""


def _read(path: Path) -> bytes | None:
    if "\0" in str(path):
        raise BadInputError("is no name of a file: it has a NUL in it", where=repr(str(path)))
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise BadInputError("is a device or a pipe, not a file", where=str(path))
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _sections(path: Path, raw: bytes, warnings: list[str]) -> _Sections:
    parser = configparser.RawConfigParser(
        inline_comment_prefixes=(";", "#"), default_section="", empty_lines_in_values=False, delimiters=("=",)
    )
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    try:
        parser.read_string(raw.decode("utf-8", "replace"), source=path.name)
    except configparser.Error as error:
        raise BadInputError(
            " ".join(str(error).split()), where=str(path), do="a configuration has [section] and key = value lines"
        ) from error
    sections: _Sections = {}
    for name in parser.sections():
        entries = sections.setdefault(name.lower(), {})
        for key, value in parser.items(name):
            if key.lower() in entries:
                warnings.append(f"{path.name}: [{name}] {key} appears again, in other letters: the last one counts")
            entries[key.lower()] = (key, value.strip())
    return sections


def _expand(value: str, config: Path) -> Path:
    folder = config.resolve().parent
    for word, meaning in (("cdir", str(folder)), ("pwd", str(Path.cwd())), ("home", os.environ.get("HOME", "~"))):
        value = re.sub(f"%{word}%", lambda _, m=meaning: m, value, flags=re.IGNORECASE)  # type: ignore[misc]
    return Path(value)


def _number(path: Path, section: str, key: str, text: str, kind: type) -> Any:
    try:
        value = int(text, 0) if kind is int else float(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise BadInputError(f"[{section}] {key} = {text!r} is not {what}", where=str(path)) from error
    if not math.isfinite(value):
        raise BadInputError(f"[{section}] {key} = {text!r} is not a finite number", where=str(path))
    return value


def _numbers(path: Path, section: str, target: type, sections: _Sections, warnings: list[str]) -> dict[str, Any]:
    """The settings of a dataclass of numbers, taken out of its section."""
    entries = sections.get(section, {})
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(target).items():
        if name in entries:
            found[name] = _number(path, section, *entries.pop(name), kind)
    if section == "sw_trigger":
        for name in ("group_min_multiplicity", "group_max_multiplicity"):
            if name in entries:
                key, value = entries.pop(name)
                meant = name.replace("multiplicity", "hits")
                warnings.append(
                    f"{path.name}: [{section}] {key} = {value} has no effect, there as here: the setting is {meant}"
                )
    return found


def _asic_parameters(path: Path, sections: _Sections, warnings: list[str]) -> AsicParameters:
    parts: dict[str, dict[str, int]] = {"global": {}, "channel": {}}
    for key, value in sections.pop("asic_parameters", {}).values():
        group, _, name = key.partition(".")
        if group.lower() not in parts or not name:
            warnings.append(f"{path.name}: [asic_parameters] {key} is neither global.FIELD nor channel.FIELD: not used")
            continue
        parts[group.lower()][name] = _number(path, "asic_parameters", key, value, int)
    return AsicParameters(parts["global"], parts["channel"])


def _petqc_section(path: Path, sections: _Sections) -> PetqcSection:
    entries = sections.get("petqc", {})
    section = PetqcSection()
    if "asics_per_module" in entries:
        asics = _number(path, "petqc", *entries.pop("asics_per_module"), int)
        if not 1 <= asics <= 64:
            raise BadInputError(f"[petqc] asics_per_module = {asics} is outside 1..64", where=str(path))
        section = replace(section, asics_per_module=asics)
    if "energy_window_kev" in entries:
        key, value = entries.pop("energy_window_kev")
        edges = [_number(path, "petqc", key, part, float) for part in value.split()]
        if len(edges) != 2 or not 0 <= edges[0] < edges[1]:
            raise BadInputError(
                f"[petqc] {key} = {value!r} is not a window", where=str(path), do="give LOW HIGH in keV, as 425 650"
            )
        section = replace(section, energy_window_kev=(edges[0], edges[1]))
    if "scanner" in entries:
        _, value = entries.pop("scanner")
        section = replace(section, scanner=load_scanner(_expand(value, path) if value.endswith(".toml") else value))
    if "source" in entries:
        key, value = entries.pop("source")
        if value not in SOURCE_SHAPES:
            raise BadInputError(f"[petqc] {key} = {value!r}", where=str(path), do=f"one of {', '.join(SOURCE_SHAPES)}")
        section = replace(section, source=value)
    if "source_mm" in entries:
        key, value = entries.pop("source_mm")
        place = [_number(path, "petqc", key, part, float) for part in value.split()]
        if len(place) != 3:
            raise BadInputError(f"[petqc] {key} = {value!r} is not a place", where=str(path), do="give X Y Z in mm")
        section = replace(section, source_mm=(place[0], place[1], place[2]))
    if "crystal_material" in entries:
        key, value = entries.pop("crystal_material")
        if value not in MATERIALS:
            raise BadInputError(f"[petqc] {key} = {value!r}", where=str(path), do=f"one of {', '.join(MATERIALS)}")
        section = replace(section, crystal_material=value)
    if "crystal_mm" in entries:
        key, value = entries.pop("crystal_mm")
        size = [_number(path, "petqc", key, part, float) for part in value.split()]
        if len(size) != 3 or min(size) <= 0.0:
            raise BadInputError(
                f"[petqc] {key} = {value!r} is no crystal", where=str(path), do="give WIDTH HEIGHT LENGTH in mm"
            )
        section = replace(section, crystal_mm=(size[0], size[1], size[2]))
    return section


def rewrite_tables(text: str, kinds: Collection[TableKind], *, folder: Path) -> str:
    """The text of a config.ini that names `KIND.tsv` beside it for these kinds of table, and no other table.

    All other lines stay as they are; only `%CDIR%` in them becomes `folder`, where they were written.
    """
    of_key = {(form.ini_section, form.ini_key): kind for kind, form in TABLES.items()}
    waiting: dict[str, dict[str, TableKind]] = {}
    for (section, key), kind in of_key.items():
        if kind in kinds:
            waiting.setdefault(section, {})[key] = kind
    out: list[str] = []

    def end_of(section: str) -> None:
        for key, kind in waiting.pop(section, {}).items():
            out.append(f"{key} = %CDIR%/{kind}.tsv")

    section = ""
    for line in text.splitlines():
        header = re.match(r"^\s*\[([^\]]+)\]", line)
        if header:
            end_of(section)
            section = header[1].strip().lower()
            out.append(line)
            continue
        key = line.partition("=")[0].strip().lower()
        table = of_key.get((section, key)) if "=" in line and not line.lstrip().startswith((";", "#")) else None
        if table is None:
            out.append(re.sub("%CDIR%", lambda _: str(folder), line, flags=re.IGNORECASE))
        elif waiting.get(section, {}).pop(key, None) is not None:
            out.append(f"{key} = %CDIR%/{table}.tsv")
    end_of(section)
    for name in list(waiting):
        if waiting[name]:
            out.append(f"[{name}]")
        end_of(name)
    return "\n".join(out) + "\n"


def write_config(
    folder: Path,
    tables: Mapping[TableKind, NDArray[Any]],
    *,
    sw_trigger: SwTrigger | None = None,
    hw_trigger: HwTrigger | None = None,
    asic_parameters: AsicParameters | None = None,
    petqc: PetqcSection | None = None,
) -> Path:
    """Write config.ini and the tables into a folder (made if need be); the path of config.ini.

    Tables that the vendor's tools ask for and that are not given are written empty, so that those tools can read
    the result.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sw_trigger = sw_trigger or SwTrigger()
    hw_trigger = hw_trigger or HwTrigger()
    asic_parameters = asic_parameters or AsicParameters()
    petqc = petqc or PetqcSection()
    lines: dict[str, list[str]] = {"main": [], "hw_trigger": [], "sw_trigger": [], "asic_parameters": [], "petqc": []}
    for kind, form in TABLES.items():
        table = tables.get(kind)
        if table is None and form.optional:
            continue
        write_table(folder / f"{kind}.tsv", kind, np.empty(0, form.dtype) if table is None else table)
        lines[form.ini_section].append(f"{form.ini_key} = %CDIR%/{kind}.tsv")
    lines["hw_trigger"] += [f"{name} = {value!r}" for name, value in asdict(hw_trigger).items()]
    lines["sw_trigger"] += [f"{name} = {value!r}" for name, value in asdict(sw_trigger).items()]
    lines["asic_parameters"] += [f"global.{name} = {value}" for name, value in asic_parameters.global_fields.items()]
    lines["asic_parameters"] += [f"channel.{name} = {value}" for name, value in asic_parameters.channel_fields.items()]
    lines["petqc"].append(f"asics_per_module = {petqc.asics_per_module}")
    if petqc.energy_window_kev is not None:
        lines["petqc"].append(f"energy_window_kev = {petqc.energy_window_kev[0]!r} {petqc.energy_window_kev[1]!r}")
    if petqc.scanner is not None:
        lines["petqc"].append(f"scanner = {petqc.scanner.id}")
    if petqc.source is not None:
        lines["petqc"].append(f"source = {petqc.source}")
    if petqc.source_mm is not None:
        lines["petqc"].append("source_mm = " + " ".join(repr(v) for v in petqc.source_mm))
    if petqc.crystal_material:
        lines["petqc"].append(f"crystal_material = {petqc.crystal_material}")
    if petqc.crystal_mm is not None:
        lines["petqc"].append("crystal_mm = " + " ".join(repr(v) for v in petqc.crystal_mm))
    path = folder / "config.ini"
    path.write_text("\n".join(f"[{name}]\n" + "".join(f"{e}\n" for e in entries) for name, entries in lines.items()))
    return path
