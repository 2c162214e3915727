"""The channels of a run as the report needs them: address, module, place in the map, marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.channel_map import asic_node, channel_node
from petqc.limits import Status
from petqc.report.text import level_of, node_sort_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.results import ChannelColumn, Run

NUMBER_KEYS = ("channel", "channels", "absolute", "absolute_channel")
"""Names under which the absolute channel numbers may stand in `Run.channels`."""
MARKED = {"dead_channels": "dead", "hot_channels": "hot"}
"""Checks that flag channels rather than measure them: they become marks on every map."""
ORDER = ("photopeak", "energy_resolution", "singles_rate", "module_time_offset", "window_acceptance", "ctr_fit")
"""Maps in the order in which they are read; columns of other checks follow."""
_ACROSS = 16


@dataclass(frozen=True, slots=True)
class Module:
    """One module's channels: indices into the run's channels and their places.

    index, column, row: (n,) int64. is_mapped False: no crystal map, channels stand in the order of their numbers.
    """

    node: str
    index: NDArray[np.int64]
    column: NDArray[np.int64]
    row: NDArray[np.int64]
    is_mapped: bool

    @property
    def columns(self) -> int:
        """Width of the map in crystals."""
        return int(self.column.max()) + 1

    @property
    def rows(self) -> int:
        """Height of the map in crystals."""
        return int(self.row.max()) + 1


@dataclass(frozen=True, slots=True)
class Channels:
    """All channels: absolute numbers, node names, modules, ASIC of each, and the marks that stand on every map."""

    absolute: tuple[int, ...]
    nodes: tuple[str, ...]
    asics: tuple[str, ...]
    modules: tuple[Module, ...]
    marks: dict[str, NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.nodes)


def read_channels(run: Run) -> Channels | None:
    """Channels of a run; None where the run has none (or none with an absolute number)."""
    numbers = next((run.channels[k] for k in NUMBER_KEYS if k in run.channels), None)
    if numbers is None or not len(numbers):
        return None
    absolute = [int(n) for n in numbers]
    n = len(absolute)
    column = np.asarray(run.channels.get("column", np.full(n, -1)), np.int64)
    row = np.asarray(run.channels.get("row", np.full(n, -1)), np.int64)
    module_of = _module_names(run, n)
    members: dict[str, list[int]] = {}
    for i, name in enumerate(module_of):
        members.setdefault(name, []).append(i)
    modules = []
    for name in sorted(members, key=node_sort_key):
        index = np.array(members[name], np.int64)
        is_mapped = bool((column[index] >= 0).all() and (row[index] >= 0).all())
        order = np.arange(index.size)
        modules.append(
            Module(
                node=name,
                index=index,
                column=column[index] if is_mapped else order % _ACROSS,
                row=row[index] if is_mapped else order // _ACROSS,
                is_mapped=is_mapped,
            )
        )
    return Channels(
        absolute=tuple(absolute),
        nodes=tuple(channel_node(a) for a in absolute),
        asics=tuple(asic_node(a) for a in absolute),
        modules=tuple(modules),
        marks={word: _flagged(run, check_id, n) for check_id, word in MARKED.items()} | {"suspect": _suspect(run, n)},
    )


def _module_names(run: Run, n: int) -> list[str]:
    given: Any = run.channels.get("module", np.zeros(n, np.int64))
    if not np.issubdtype(np.asarray(given).dtype, np.integer):
        return [str(m) for m in given]
    known = sorted({c.node for c in run.checks if level_of(c.node) == "module"}, key=node_sort_key)
    if len(known) == len(set(given.tolist())) and int(np.max(given)) == len(known) - 1:
        return [known[int(m)] for m in given]
    return [f"module {int(m)}" for m in given]


def _flagged(run: Run, check_id: str, n: int) -> NDArray[np.bool_]:
    flags = np.zeros(n, np.bool_)
    for column in run.columns:
        if column.id == check_id:
            status = np.array([str(s) in {Status.WARN, Status.FAIL} for s in column.status], np.bool_)
            flags |= status
    return flags


def _suspect(run: Run, n: int) -> NDArray[np.bool_]:
    """Channels of the places that the diagnosis names; the whole scanner is no place on a map."""
    places = {h.node for h in run.diagnosis}
    flags = np.zeros(n, np.bool_)
    for name in ("module", "asic", "bias"):
        given = run.channels.get(name)
        if given is not None and len(given) == n:
            flags |= np.array([str(node) in places for node in given], np.bool_)
    numbers = next((run.channels[k] for k in NUMBER_KEYS if k in run.channels), None)
    if numbers is not None:
        flags |= np.array([channel_node(int(c)) in places for c in numbers], np.bool_)
    return flags


def map_columns(run: Run) -> list[ChannelColumn]:
    """The columns worth a map: those with numbers, in reading order."""
    rank = {name: i for i, name in enumerate(ORDER)}
    numeric = [c for c in run.columns if c.id not in MARKED]
    return sorted(numeric, key=lambda c: (rank.get(c.id, len(rank)), c.id))


@dataclass(frozen=True, slots=True)
class Offender:
    """A channel with something to say: what is wrong, worst first."""

    index: int
    node: str
    status: Status
    issues: tuple[tuple[str, Status, str], ...]


_STATUS_OF = {str(status): status for status in Status}


def status_at(column: ChannelColumn, index: int) -> Status:
    """Status of one channel in a column; words that are not a status count as invalid."""
    return _STATUS_OF.get(str(column.status[index]), Status.INVALID)


def statuses(column: ChannelColumn) -> list[Status]:
    """The same of every channel."""
    return [_STATUS_OF.get(str(status), Status.INVALID) for status in column.status.tolist()]
