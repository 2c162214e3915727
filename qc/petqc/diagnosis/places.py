"""Places of the hardware tree that could be at fault: which channels each has, and how an engineer finds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from petqc.channel_map import SCANNER, Topology, channel_node, pair_node, unit_node

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from petqc.results import Run

PlaceLevel: TypeAlias = Literal["channel", "patch", "bias", "asic", "module", "pair", "unit", "scanner"]

SAME = 0.8
"""Two sets of channels that overlap by this share of both together are one place. Source: daily-qc.md §3, root-cause
logic: the smallest node that explains at least 80 % of the flags."""
_LIKE_A_NODE = 0.6
"""A cluster of crystals that is this much like a node of the tree is that node, seen incompletely."""
MIN_PATCH = 4
_ONLY = 0.9
"""Share of a module's coincidences from which on it has them with one other only; the rest are randoms."""


@dataclass(frozen=True, slots=True)
class Place:
    """One place. members: (k,) positions of its channels in the topology, sorted."""

    level: PlaceLevel
    node: str
    members: NDArray[np.int64]

    def overlap(self, other: Place) -> float:
        """Common channels over all channels of both; 0 to 1."""
        common = np.intersect1d(self.members, other.members, assume_unique=True).size
        return common / max(self.members.size + other.members.size - common, 1)


def tree(topology: Topology) -> list[Place]:
    """Every place above a channel, the smaller ones first."""
    found: list[Place] = []
    groups: tuple[tuple[PlaceLevel, NDArray[np.int32], tuple[str, ...]], ...] = (
        ("bias", topology.bias, topology.bias_nodes),
        ("asic", topology.asic, topology.asic_nodes),
        ("module", topology.module, topology.module_nodes),
    )
    for level, index, names in groups:
        found += [Place(level, name, np.flatnonzero(index == i)) for i, name in enumerate(names)]
    units = np.array([unit_node(int(c)) for c in topology.channels], dtype=object)
    names = tuple(dict.fromkeys(units))
    if 1 < len(names) < len(topology.module_nodes):
        found += [Place("unit", str(name), np.flatnonzero(units == name)) for name in names]
    found.append(scanner(topology))
    return [place for place in found if place.members.size]


def scanner(topology: Topology) -> Place:
    """Everything."""
    return Place("scanner", SCANNER, np.arange(len(topology)))


def compared(topology: Topology) -> Place:
    """What a time that all channels share says something of: the scanner, or of two modules the pair.

    Times are differences. With two modules, what one of them does and what the other does look the same.
    """
    everything = scanner(topology)
    if len(topology.module_nodes) == 2:
        return Place("pair", pair_node(*topology.module_nodes), everything.members)
    return everything


def facing(topology: Topology, run: Run) -> list[Place]:
    """Pairs of modules that have nearly all of their coincidences with each other.

    A point source in the middle of a ring makes such pairs: which of the two is wide in time, they cannot tell.
    """
    rates = {c.node: c.value or 0.0 for c in run.checks if c.id == "prompts" and " - " in c.node}
    of_module: dict[str, float] = {}
    for node, rate in rates.items():
        for module in node.split(" - "):
            of_module[module] = of_module.get(module, 0.0) + rate
    found = []
    for node, rate in rates.items():
        both = node.split(" - ")
        if rate > 0.0 and all(rate >= _ONLY * of_module[module] for module in both):
            found.append(pair(topology, node))
    return found


def pair(topology: Topology, node: str) -> Place:
    """Two modules together, by the node of their pair."""
    both = node.split(" - ")
    numbers = [k for k, name in enumerate(topology.module_nodes) if name in both]
    return Place("pair", node, np.flatnonzero(np.isin(topology.module, numbers)))


def channel(topology: Topology, position: int) -> Place:
    """One channel."""
    return Place("channel", channel_node(int(topology.channels[position])), np.array([position]))


def patches(topology: Topology, flagged: NDArray[np.bool_], nodes: Iterable[Place]) -> list[Place]:
    """Clusters of neighbouring flagged crystals that are no node of the tree; each is named by the node it is in."""
    known = [place for place in nodes if place.level in {"bias", "asic", "module", "unit"}]
    found = []
    for members in _clusters(topology, flagged):
        patch = Place("patch", SCANNER, members)
        if members.size < MIN_PATCH or any(patch.overlap(place) >= _LIKE_A_NODE for place in known):
            continue
        around = [place for place in known if place.level != "bias" and np.isin(members, place.members).all()]
        inside = min(around, key=lambda place: place.members.size, default=None)
        found.append(Place("patch", SCANNER if inside is None else inside.node, members))
    return found


def topology_of(channels: Mapping[str, NDArray[Any]]) -> Topology:
    """The tree of a run that was read from its files, from its table of channels (`Run.channels`)."""
    numbers = np.asarray(channels["channel"], np.int32)
    modules = [str(m) for m in channels["module"]]
    outputs = [str(b) for b in channels.get("bias", [""] * numbers.size)]
    chips: dict[str, set[int]] = {}
    for number, module in zip(numbers, modules, strict=True):
        chips.setdefault(module, set()).add(int(number) >> 6)
    return Topology.from_channels(
        numbers,
        asics_per_module=max((len(of_module) for of_module in chips.values()), default=1),
        column=np.asarray(channels["column"], np.int16),
        row=np.asarray(channels["row"], np.int16),
        bias_output={
            int(c): (int(name.split(".")[2]), int(name.split(".")[3]))
            for c, name in zip(numbers, outputs, strict=True)
            if name
        },
    )


def _clusters(topology: Topology, flagged: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Flagged crystals that touch along an edge, module by module."""
    at = {
        (int(topology.module[i]), int(topology.column[i]), int(topology.row[i])): int(i)
        for i in np.flatnonzero(flagged & (topology.column >= 0))
    }
    found = []
    while at:
        key, first = next(iter(at.items()))
        del at[key]
        members, edge = [first], [key]
        while edge:
            module, column, row = edge.pop()
            for near in ((module, column + a, row + b) for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))):
                if near in at:
                    members.append(at.pop(near))
                    edge.append(near)
        found.append(np.array(sorted(members)))
    return found


def address(topology: Topology, place: Place) -> str:
    """Where an engineer puts his hand: board, port, slave, chip, channel, crystal."""
    if place.level in {"scanner", "pair"}:
        return "the scanner" if place.level == "scanner" else f"the two modules {place.node.replace('module:', '')}"
    if place.level == "patch":
        columns, rows = topology.column[place.members], topology.row[place.members]
        inside = "" if place.node == SCANNER else f" of {_said(place.node)}"
        return f"crystals in columns {_span(columns)}, rows {_span(rows)}{inside}"
    said = _said(place.node)
    if place.level == "channel":
        position = int(place.members[0])
        if topology.column[position] >= 0:
            said += f" (crystal in column {topology.column[position]}, row {topology.row[position]})"
    if place.level == "module":
        chips = sorted({int(c) >> 6 & 63 for c in topology.channels[place.members]})
        said += f" (chips {chips[0]} to {chips[-1]})" if len(chips) > 1 else f" (chip {chips[0]})"
    return said


def _said(node: str) -> str:
    kind, _, numbers = node.partition(":")
    part = numbers.split(".")
    board = f"port {part[0]}, slave {part[1]}"
    match kind:
        case "channel":
            return f"channel {part[3]} of chip {part[2]}, {board}"
        case "bias":
            return f"bias channel {part[3]} in slot {part[2]}, {board}"
        case "asic":
            return f"chip {part[2]}, {board}"
        case "module":
            return f"module {part[2]}, {board}"
        case _:
            return f"board {board}"


def _span(values: NDArray[np.int16]) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"
