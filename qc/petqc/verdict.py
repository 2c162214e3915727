"""The verdict of a run, written for a physicist at seven in the morning: what, where, how much against which limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.channel_map import SCANNER
from petqc.diagnosis import diagnose
from petqc.limits import Limits, Status, worst
from petqc.results import CheckResult, Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from petqc.channel_map import Topology
    from petqc.checks import Check, CheckOutput
    from petqc.qc_input import RunContext

_NAMED = 3
"""A sentence names this many findings; the table has the others."""
_EXPLAINED = 0.8
"""The smallest node that holds this share of the flags is the one to name. Source: daily-qc.md §3, root-cause logic."""
_SPOILING = "source_position"
"""A source far from its place spoils the run: whatever else is out of limits is no finding about the scanner."""
_KINDS = {"asic": "ASIC", "bias": "bias output", "unit": "board"}
_GRAVITY = {Status.FAIL: 3, Status.INVALID: 2, Status.WARN: 1}


@dataclass(frozen=True, slots=True)
class Words:
    """How a verdict is said.

    opening: of the sentence, by verdict. passing: the same of a pass; headlines: the checks whose values it gives.
    essential: check without which nothing is judged, and the sentence for that; empty: none.
    """

    opening: Mapping[Status, str]
    passing: str
    headlines: tuple[str, ...]
    essential: str = ""
    without_essential: str = ""


SCAN: Final = Words(
    opening={
        Status.FAIL: "Do not scan: ",
        Status.WARN: "Scan, but look at ",
        Status.INVALID: "Not measured: ",
    },
    passing="Scan: ",
    headlines=("photopeak", "energy_resolution", "ctr_fit"),
    essential="photopeak",
    without_essential="no photopeak was held against limits in keV, so nothing here says whether to scan",
)
"""Of runs with a source. Counts do not see energy drift: without a photopeak nothing says whether to scan. Source:
daily-qc.md §0."""
SCAN_BY_LUTETIUM: Final = replace(
    SCAN,
    headlines=("lu_energy_scale", "lu_efficiency"),
    essential="lu_energy_scale",
    without_essential="no line of lutetium was held against limits in keV, so nothing here says whether to scan",
)


def say(value: float, uncertainty: float | None, unit: str) -> str:
    """A value with its uncertainty, both to the uncertainty's second digit (first from 3 on): `510.83 ± 0.12 keV`."""
    unit = unit if unit.startswith("%") or not unit else " " + unit
    if not uncertainty:
        return (f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}") + unit
    first = math.floor(math.log10(abs(uncertainty)))
    digits = max(0, -(first - (abs(uncertainty) / 10.0**first < 3)))
    return f"{value:.{digits}f} ± {uncertainty:.{digits}f}{unit}"


def place(node: str) -> str:
    """A node as people say it: `module 0.0.1`, `ASIC 0.0.5`, `the scanner`."""
    if node == SCANNER:
        return "the scanner"
    if " - " in node:
        a, b = node.split(" - ", 1)
        return f"modules {a.partition(':')[2]} and {b.partition(':')[2]}"
    kind, _, address = node.partition(":")
    return f"{_KINDS.get(kind, kind)} {address}"


def conclude(
    topology: Topology, context: RunContext, outputs: Sequence[tuple[Check, CheckOutput]], words: Words = SCAN
) -> Run:
    """Collect what the checks found into a run with a verdict and its sentence."""
    run = _empty_run(context)
    run.channels = channel_table(topology)
    titles: dict[str, str] = {}
    for check, output in outputs:
        titles[check.id] = check.title
        run.checks += output.results
        run.spectra += output.spectra
        run.notes += [note for note in output.notes if note not in run.notes]
        if output.column is not None:
            run.columns.append(output.column)
    run.verdict = worst([c.status for c in run.checks])
    run.diagnosis, remark = diagnose(topology, run)
    run.notes += [remark] if remark else []
    if any(c.id == _SPOILING and c.status is Status.INVALID and c.value is not None for c in run.checks):
        run.verdict = Status.INVALID
    if run.verdict in {Status.PASS, Status.WARN} and words.essential and not _is_judged(run, words.essential):
        inside = sum(1 for c in run.checks if c.status is Status.PASS)
        run.verdict = Status.INVALID
        run.sentence = (
            f"Not judged: {words.without_essential}; "
            f"{inside} other value{'s' if inside != 1 else ''} inside {'their' if inside != 1 else 'its'} limits."
        )
        return run
    run.sentence = sentence(run, topology, titles, words) + likely(run)
    return run


def likely(run: Run) -> str:
    """The first hypothesis that is about what the verdict is about; empty: nothing is flagged, or there is none.

    Hypotheses are ranked by how well they fit. One that fits a warning well is not what a scanner fails for, and a
    dead channel within the limits is no reason for a module's time offset.
    """
    if run.verdict is Status.PASS:
        return ""
    flagged = [c for c in run.checks if c.status in (Status.WARN, Status.FAIL)]
    is_channels = any(c.unit == "channels" for c in flagged)
    found = [h for h in run.diagnosis if is_channels or not h.node.startswith("channel:")]
    if not found:
        return ""
    at = [{c.status for c in flagged if c.node in h.node.split(" - ")} for h in found]
    first = next((h for h, there in zip(found, at, strict=True) if run.verdict in there), None)
    if first is None or not at[0] or run.verdict in at[0]:
        first = found[0]
    return f" Most likely: {first.cause}, at {place(first.node)}."


def _is_judged(run: Run, check_id: str) -> bool:
    judged = {Status.PASS, Status.WARN, Status.FAIL}
    return any(c.id == check_id and c.status in judged for c in run.checks)


def not_measured(context: RunContext, reason: str) -> Run:
    """A run without checks."""
    run = _empty_run(context)
    run.sentence = f"Not measured: {reason.rstrip('.')}."
    return run


def channel_table(topology: Topology) -> dict[str, NDArray[Any]]:
    """The columns that say which channel each row of the channel columns is."""
    return {
        "channel": topology.channels,
        "module": np.array([topology.module_nodes[i] for i in topology.module], dtype=object),
        "asic": np.array([topology.asic_nodes[i] for i in topology.asic], dtype=object),
        "column": topology.column,
        "row": topology.row,
        "bias": np.array([topology.bias_nodes[i] if i >= 0 else "" for i in topology.bias], dtype=object),
        **{f"{axis}_mm": topology.xyz_mm[:, k] for k, axis in enumerate("xyz")},
    }


def sentence(run: Run, topology: Topology, titles: dict[str, str], words: Words = SCAN) -> str:
    """What to do, and why.

    Args:
        run: with its checks and its verdict.
        topology: the channels.
        titles: of the checks, by id.
        words: how it is said.
    """
    by_check: dict[str, list[CheckResult]] = {}
    for result in run.checks:
        by_check.setdefault(result.id, []).append(result)
    found = [f for results in by_check.values() for f in _findings(results, topology)]
    # Many channels outside are the same finding as the module or ASIC they sit in.
    larger = {r.id: r.status for r in sorted(found, key=lambda r: _GRAVITY[r.status]) if "." not in r.id}
    found = [r for r in found if not _is_said(r, larger)]
    # A place first, then how many channels are outside: that many is what it comes to.
    found.sort(key=lambda r: (-_GRAVITY[r.status], r.unit == "channels", -_excess(r)))
    if run.verdict is Status.PASS:
        return _passing(run, titles, words)
    grave = [r for r in found if r.status is run.verdict]
    if not grave:
        return "Not measured: no check of this run has a number with limits."
    start = words.opening[run.verdict]
    phrases = _joined(grave, titles)
    named = "; ".join(phrases[:_NAMED])
    more = len(phrases) + (len(found) - len(grave)) - min(len(phrases), _NAMED)
    return f"{start}{named}{f'; and {more} more' if more else ''}."


def _is_said(result: CheckResult, larger: Mapping[str, Status]) -> bool:
    """Whether a larger node says the same, as gravely: its channels, or the bias outputs that feed it."""
    base, _, part = result.id.partition(".")
    by = larger.get("photopeak" if base == "bias_peak" else base if part == "channels_outside" else "")
    return by is not None and _GRAVITY[by] >= _GRAVITY[result.status]


def _empty_run(context: RunContext) -> Run:
    return Run(
        run_id=context.run_id,
        kind=context.kind,
        started_at=context.started_at,
        finished_at=context.finished_at,
        simulated=context.simulated,
        verdict=Status.INVALID,
        sentence="",
        software=dict(context.software),
        config_hash=context.config_hash,
        calibration_ids=dict(context.calibration_ids),
        raw_files=list(context.raw_files),
        environment=list(context.environment),
        account=dict(context.account),
        notes=list(context.notes),
        scanner=context.scanner,
    )


def _passing(run: Run, titles: dict[str, str], words: Words) -> str:
    told = [said for id_ in words.headlines if (said := _headline(run, id_, _title(titles.get(id_, id_))))]
    checked = sum(1 for c in run.checks if c.status is Status.PASS)
    told.append(f"{checked} values inside their limits")
    return f"{words.passing}{', '.join(told)}."


def _headline(run: Run, check_id: str, title: str) -> str:
    """What the scanner has, or from where to where its modules are; empty: nothing was measured."""
    result = run.find(check_id)
    if result is not None and result.value is not None:
        unit = "" if title.endswith(f" {result.unit}") else result.unit  # not "link errors 0 errors"
        return f"{title} {say(result.value, result.uncertainty, unit)}"
    known = [c for c in run.checks if c.id == check_id and c.node.startswith("module:") and c.value is not None]
    values = [c.value for c in known if c.value is not None]
    return f"{title} of modules {min(values):.4g} to {say(max(values), None, known[0].unit)}" if values else ""


def _findings(results: list[CheckResult], topology: Topology) -> list[CheckResult]:
    """The flags of one check, several at one hardware node counted once (the smallest node that explains them)."""
    flagged = [r for r in results if r.status in _GRAVITY]
    if len(flagged) < 2:
        return flagged
    by_node = {r.node: r for r in flagged}
    asics = [n for n in by_node if n.startswith("asic:")]
    parent = {
        topology.asic_nodes[a]: topology.module_nodes[m] for a, m in zip(topology.asic, topology.module, strict=True)
    }
    if asics:
        by_module: dict[str, list[str]] = {}
        for node in asics:
            by_module.setdefault(parent.get(node, SCANNER), []).append(node)
        for module, members in by_module.items():
            count = sum(1 for m in parent.values() if m == module)
            if module in by_node and len(members) < _EXPLAINED * count and len(members) * 2 <= count:
                del by_node[module]  # a few ASICs explain it: name them
            elif module in by_node:
                for node in members:
                    del by_node[node]
    modules = [n for n in by_node if n.startswith("module:")]
    if SCANNER in by_node and modules:
        if len(modules) >= _EXPLAINED * len(topology.module_nodes):
            for node in modules:
                del by_node[node]
        else:
            del by_node[SCANNER]
    elif SCANNER in by_node and any(n.startswith("asic:") for n in by_node):
        del by_node[SCANNER]
    if SCANNER in by_node:
        for node in [n for n in by_node if " - " in n]:
            del by_node[node]
    gravest = max(_GRAVITY[r.status] for r in flagged)
    # The sentence must not hide the gravest status because it stood at a node that was folded away.
    if all(_GRAVITY[r.status] < gravest for r in by_node.values()):
        return [r for r in flagged if _GRAVITY[r.status] == gravest]
    return list(by_node.values())


def _crossed(result: CheckResult) -> tuple[str, float] | None:
    if result.value is None:
        return None
    limits: Limits = result.limits
    kind = "fail" if result.status is Status.FAIL else "warn"
    low, high = getattr(limits, f"{kind}_low"), getattr(limits, f"{kind}_high")
    if low is not None and result.value < low:
        return f"below the {kind} limit of", low
    if high is not None and result.value > high:
        return f"above the {kind} limit of", high
    return None


def _excess(result: CheckResult) -> float:
    """How far over its limit, in units of the limit."""
    crossed = _crossed(result)
    if crossed is None or result.value is None:
        return 0.0
    return abs(result.value - crossed[1]) / max(abs(crossed[1]), 1e-9)


def _joined(found: list[CheckResult], titles: dict[str, str]) -> list[str]:
    """One phrase a finding; what several checks, or several places, have no number of for one reason is said once."""
    phrases: dict[str | int, list[CheckResult]] = {}
    for number, result in enumerate(found):
        phrases.setdefault((result.reason or "") if result.value is None else number, []).append(result)
    told = []
    for members in phrases.values():
        first = members[0]
        if len(members) == 1:
            told.append(_phrase(first, titles))
            continue
        names = list(dict.fromkeys(_title(titles.get(r.id.partition(".")[0], r.id)) for r in members))
        places = list(dict.fromkeys(place(r.node) for r in members))
        where = "" if any(r.node == SCANNER for r in members) else f" of {_listed(places)}"
        told.append(f"{_listed(names, len(names))}{where}: {first.reason}")
    return told


def _listed(names: Sequence[str], most: int = _NAMED) -> str:
    """`a`, `a and b`, `a, b and c`; of more than `most` the first ones and how many there are beside them."""
    shown = [*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])]
    return " and ".join([*([", ".join(shown[:-1])] if shown[:-1] else []), shown[-1]])


def _title(title: str) -> str:
    """A title inside a sentence: `photopeak position`, but `CTR`."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


_COUNTED = ("channels", "instruments")
_OF_ONE = {"channels": "channel", "instruments": "instrument", "do": "does", "they": "it", "their": "its"}
"""Words of a title in the plural, where one is meant."""


def _phrase(result: CheckResult, titles: dict[str, str]) -> str:
    base, _, part = result.id.partition(".")
    title = _title(titles.get(base, base)) + (f" ({part.replace('_', ' ')})" if part else "")
    where = "" if result.node == SCANNER else f" of {place(result.node)}"
    if result.value is None:
        return f"{title}{where}: {result.reason}"
    crossed = _crossed(result)
    told = f"{title}{where} is {say(result.value, result.uncertainty, result.unit)}"
    many = "s" if result.value != 1 else ""
    if part == "channels_outside":
        told = f"{result.value:.0f} channel{many} with {_title(titles.get(base, base))} outside"
    elif part == "channels_without":
        told = f"{result.value:.0f} channel{many} without {_title(titles.get(base, base))}"
    elif result.unit in _COUNTED:
        what = title if result.value != 1 else " ".join(_OF_ONE.get(word, word) for word in title.split(" "))
        told = f"{result.value:.0f} {what}{'' if result.node == SCANNER else f' in {place(result.node)}'}"
    if crossed is not None and result.unit in _COUNTED:
        told += f", where {math.floor(crossed[1]) or 'none'} may be"
    elif crossed is not None:
        limit = f"{crossed[1]:.4g}" if abs(crossed[1]) < 1e4 else f"{crossed[1]:.0f}"
        told += f", {crossed[0]} {limit}{'' if result.unit.startswith('%') else ' '}{result.unit}".rstrip()
    return told + (f" ({result.reason})" if result.reason else "")
