"""Daily QC report of a Siemens PET scanner (XML) as a run document.

The report has twelve items, each with a value, two bounds and the scanner's own decision, and for four of them a value
of every block. Items that count blocks or planes outside have bounds for one block or plane, not for the count.
Source: structure of the reports of a Biograph mCT (software VG40C) published with the Dutch WAD-QC modules; newer
software leaves the residual and fit of the time alignment out.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from petqc.errors import BadInputError
from petqc.limits import Limits, Status, worst
from petqc.results import CheckResult, RawFile, Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KIND: Final = "siemens-daily-qc"
METHOD: Final = "siemens-daily-qc"
MAX_BYTES: Final = 8 << 20
"""A report of 192 blocks has 40 kB."""
_ROOT = "SystemQualityReport"
_PASSED = "passed"
_NAMED = 3
"""A sentence names this many blocks; the table has the others."""
_BQ_PER = {"Bq": 1.0, "kBq": 1e3, "MBq": 1e6, "GBq": 1e9, "uCi": 3.7e4, "mCi": 3.7e7, "Ci": 3.7e10}
_HALF_LIFE_D = {"Ge-68": 270.93}
"""Source: Laboratoire National Henri Becquerel, table of radionuclides, Ge-68."""


@dataclass(frozen=True, slots=True)
class _Item:
    """One item: its tag in the report, the check it becomes, its title; `blocks` is the tag of its blocks' values.

    is_count: the value counts what is outside the bounds. is_relative: the bounds are in percent of the blocks' mean.
    """

    tag: str
    check: str
    title: str
    blocks: str | None = None
    is_count: bool = False
    is_relative: bool = False


ITEMS: Final = (
    _Item("aBlockNoise", "siemens_block_noise", "block noise", "BlockNoise", is_count=True),
    _Item(
        "bBlockEfficiency",
        "siemens_block_efficiency",
        "block efficiency",
        "BlockEfficiency",
        is_count=True,
        is_relative=True,
    ),
    _Item("cMeasureRandoms", "siemens_randoms", "measured randoms"),
    _Item("dScannerEfficiency", "siemens_scanner_efficiency", "scanner efficiency"),
    _Item("eScatterRatio", "siemens_scatter_ratio", "scatter ratio"),
    _Item("fECF", "siemens_ecf", "calibration factor ECF"),
    _Item("gPlaneEff", "siemens_plane_efficiency", "image plane efficiency", is_count=True),
    _Item("hTimeAlignment", "siemens_time_offset", "block timing offset", "TimeOffset", is_count=True),
    _Item("iTAFWHM", "siemens_time_width", "block timing width", "TimeWidth", is_count=True),
    _Item("jTAFitX", "siemens_time_fit_x", "time alignment fit x"),
    _Item("kTAFitY", "siemens_time_fit_y", "time alignment fit y"),
    _Item("lTAResidual", "siemens_time_residual", "time alignment residual"),
)
TITLES: Final = {item.check: item.title for item in ITEMS}


def read_siemens_daily_qc(path: Path) -> Run:
    """A report as a run.

    Blocks are nodes `block:DEA.BLOCK`. Efficiencies of blocks are given in percent of their mean, which is what their
    bounds mean. The report states no uncertainties, so there are none. The verdict is the worst of the report's own
    and of every value against its bounds; the time of the last full set-up is the identity of the calibration.

    Raises:
        BadInputError: the file is not such a report, or a value in it cannot be read.
    """
    data = _read(path)
    root = _parse(data, path)
    where = str(path)
    at = _time(root, "bScandate", where)
    results: list[CheckResult] = []
    absent: list[str] = []
    for item in ITEMS:
        found = root.find(f"fDetailedSystemQualityReport/aItem/{item.tag}")
        if found is None:
            absent.append(item.title)
        else:
            results += _item_results(item, found, root, where)
    if not results:
        raise BadInputError("has none of the items of a daily QC", where=where, do="is it a report of another test?")
    said = _text(root, "eResults/aSystemQualityResults")
    verdict = worst([*(r.status for r in results), Status.PASS if said.lower() == _PASSED else Status.FAIL])
    scanner = _text(root, "dInputforComputation/dICSName")
    name = re.sub(r"[^A-Za-z0-9_-]", "_", scanner) or "scanner"
    at_utc = at.astimezone(UTC)
    return Run(
        run_id=f"siemens-{name}-{at_utc:%Y%m%dT%H%M%SZ}",
        kind=KIND,
        started_at=at_utc.isoformat(),
        finished_at=at_utc.isoformat(),
        simulated=False,
        verdict=verdict,
        sentence=_sentence(verdict, said, results),
        software={"scanner": _text(root, "dInputforComputation/eICSSWVersion") or "unknown"},
        config_hash="",
        calibration_ids=_calibration(root),
        raw_files=[RawFile(path.name, hashlib.sha256(data).hexdigest())],
        checks=results,
        account=_source(root, at, where),
        notes=_notes(root, absent),
        scanner=scanner,
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadInputError(f"is longer than the {MAX_BYTES >> 20} MiB a report can have", where=str(path))
    return data


def _parse(data: bytes, path: Path) -> ET.Element:
    # Entities could make a small file huge; reports have none, and without a document type there can be none.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise BadInputError("declares a document type, which reports do not", where=str(path))
    try:
        root = ET.fromstring(data)  # noqa: S314 - bounded in size, without entities
    except ET.ParseError as error:
        raise BadInputError(f"is not well-formed XML: {error}", where=str(path)) from error
    if root.tag != _ROOT:
        raise BadInputError(
            f"is XML of another kind: <{root.tag}> instead of <{_ROOT}>",
            where=str(path),
            do="give PETQCReport_….xml of the scanner's daily QC",
        )
    return root


def _text(root: ET.Element, path: str) -> str:
    return (root.findtext(path) or "").strip()


def _time(root: ET.Element, path: str, where: str) -> datetime:
    text = _text(root, path)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInputError(f"<{path}>: {text!r} is not a time", where=where) from error
    if at.tzinfo is None:
        raise BadInputError(f"<{path}>: {text!r} has no time zone", where=where)
    return at


def _number(text: str | None, what: str, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInputError(f"{what}: {(text or '').strip()!r} is not a number", where=where)
    return value


def _item_results(item: _Item, found: ET.Element, root: ET.Element, where: str) -> Iterator[CheckResult]:
    value = _number(found.findtext("cBlkValue/aValue"), f"<{item.tag}>", where)
    limits = Limits(
        fail_low=_number(found.findtext("bLowerBound/aValue"), f"<{item.tag}> lower bound", where),
        fail_high=_number(found.findtext("aUpperBound/aValue"), f"<{item.tag}> upper bound", where),
    )
    is_passed = _text(found, "dDecision").lower() == _PASSED
    unit = _text(found, "cBlkValue/bMeasure")
    bounds = {_text(found, f"{bound}/bMeasure") for bound in ("bLowerBound", "aUpperBound")} - {""}
    if len(bounds | ({unit} - {""} if not item.is_count else set())) > 1:
        given = f"its value is in {unit!r}, its bounds in {' and '.join(repr(bound) for bound in sorted(bounds))}"
        raise BadInputError(f"<{item.tag}>: {given}: they cannot be compared", where=where)
    reason = None
    if item.is_count:
        what = "planes" if "plane" in unit.lower() else "blocks"
        unit, own = what, Limits(fail_high=0.0)
    else:
        own = limits
    status = worst([own.judge(value), Status.PASS if is_passed else Status.FAIL])
    if not is_passed and own.judge(value) is Status.PASS:
        reason = "the scanner's own decision is not 'passed'"
    yield CheckResult(item.check, "scanner", value, unit, None, 0, own, status, reason, None, METHOD)
    if item.blocks is not None:
        block_unit = _text(found, "aUpperBound/bMeasure")
        yield from _block_results(item, block_unit, limits, root, where)


def _block_results(item: _Item, unit: str, limits: Limits, root: ET.Element, where: str) -> Iterator[CheckResult]:
    """Values of the blocks of an item."""
    section = root.find(f"{item.blocks}/bValues")
    if section is None:
        return
    columns = [[child.text for child in section.findall(tag)] for tag in ("bValue", "cDEA", "dBlock")]
    texts, units_dea, units_block = columns
    if not len(texts) == len(units_dea) == len(units_block):
        raise BadInputError(f"<{item.blocks}>: {len(texts)} values for {len(units_block)} blocks", where=where)
    values = [_number(text, f"<{item.blocks}>", where) for text in texts]
    scale = 1.0
    if item.is_relative:
        mean = math.fsum(values) / len(values) if values else 0.0
        if mean <= 0.0:
            raise BadInputError(f"<{item.blocks}>: the mean of all blocks is {mean:g}", where=where)
        scale = 100.0 / mean
    seen = set()
    for given, dea, block in zip(values, units_dea, units_block, strict=True):
        node = f"block:{(dea or '').strip()}.{(block or '').strip()}"
        if node in seen:
            raise BadInputError(f"<{item.blocks}>: {node} stands there twice", where=where)
        seen.add(node)
        value = given * scale
        if item.check == "siemens_time_offset":
            bounded = Limits(fail_low=-limits.fail_high if limits.fail_high else None, fail_high=limits.fail_high)
        else:
            bounded = limits
        yield CheckResult(item.check, node, value, unit, None, 0, bounded, bounded.judge(value), None, None, METHOD)


def _calibration(root: ET.Element) -> dict[str, str]:
    found = {
        "full_setup": _text(root, "dInputforComputation/hLastSuccessfulSetup/LastSetupDateTime"),
        "calibration_factor": _text(root, "cPhantomParameters/eCalibrationFactor"),
    }
    return {name: value for name, value in found.items() if value}


def _source(root: ET.Element, at: datetime, where: str) -> dict[str, int | float]:
    """Activity of the phantom as assayed and, for a known nuclide, at the time of the scan."""
    given = _text(root, "cPhantomParameters/bAssayActivity/aValue")
    unit = _text(root, "cPhantomParameters/bAssayActivity/bMeasure")
    if not given or unit not in _BQ_PER:
        return {}
    assayed_bq = _number(given, "<bAssayActivity>", where) * _BQ_PER[unit]
    half_life_d = _HALF_LIFE_D.get(_text(root, "cPhantomParameters/aIsotope"))
    if half_life_d is None:
        return {"source_assayed_bq": assayed_bq}
    days = (at - _time(root, "cPhantomParameters/cAssayDateTime", where)).total_seconds() / 86400.0
    return {"source_assayed_bq": assayed_bq, "source_bq": assayed_bq * 2.0 ** (-days / half_life_d)}


def _notes(root: ET.Element, absent: list[str]) -> list[str]:
    notes = ["imported from the scanner's own daily QC report; it states no uncertainties"]
    if isotope := _text(root, "cPhantomParameters/aIsotope"):
        age = _text(root, "eResults/aPhantomAgeResult")
        notes.append(f"phantom {isotope}; its age: {age.lower() or 'not said'}")
    partial = _text(root, "dInputforComputation/cLastSuccessfulSetup/LastSetupDateTime")
    if partial:
        notes.append(f"last partial set-up {partial}")
    if absent:
        notes.append(f"not in this report: {', '.join(absent)}")
    return notes


def _sentence(verdict: Status, said: str, results: list[CheckResult]) -> str:
    judged = f"The scanner's own daily QC says {said or 'nothing'!r}"
    outside: dict[str, list[CheckResult]] = {}
    for result in results:
        if result.status is Status.FAIL:
            outside.setdefault(TITLES[result.id], []).append(result)
    if verdict is Status.PASS:
        return f"{judged}; {len(results)} values inside its bounds."
    named = []
    for title, members in outside.items():
        blocks = [r.node.partition(":")[2] for r in members if r.node != "scanner"]
        more = " and more" if len(blocks) > _NAMED else ""
        named.append(f"{title} of block {', '.join(blocks[:_NAMED])}{more}" if blocks else title)
    return f"{judged}; outside: {'; '.join(named) or 'no single value'}."
