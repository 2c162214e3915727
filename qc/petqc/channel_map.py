"""Where a channel sits in the hardware tree, and the names of the nodes of that tree.

Node names (everywhere: results, metrics, reports, messages):
`scanner` · `unit:PORT.SLAVE` (a board) · `module:PORT.SLAVE.INDEX` · `asic:PORT.SLAVE.CHIP` ·
`channel:PORT.SLAVE.CHIP.CHANNEL` · `bias:PORT.SLAVE.SLOT.CHANNEL` (an output) · `device:NAME` (an instrument) ·
a pair of modules is `module:… - module:…`; of clocks one of them may be `reference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from petqc.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SCANNER = "scanner"
REFERENCE_CLOCK = "reference"
"""The clock that all boards share, as one end of a measured skew."""


def absolute_channel(port: int, slave: int, chip: int, channel: int) -> int:
    """Absolute channel number. Source: PETsys raw event word, bits 42..63."""
    return port << 17 | slave << 12 | chip << 6 | channel


def asic_node(absolute: int) -> str:
    """Name of the ASIC that an absolute channel belongs to."""
    return f"asic:{absolute >> 17}.{absolute >> 12 & 31}.{absolute >> 6 & 63}"


def channel_node(absolute: int) -> str:
    """Name of a channel."""
    return f"channel:{absolute >> 17}.{absolute >> 12 & 31}.{absolute >> 6 & 63}.{absolute & 63}"


def module_node(absolute: int, asics_per_module: int) -> str:
    """Name of the module that an absolute channel belongs to."""
    return f"module:{absolute >> 17}.{absolute >> 12 & 31}.{(absolute >> 6 & 63) // asics_per_module}"


def device_node(name: str) -> str:
    """Name of an instrument around the detector."""
    return f"device:{name}"


def is_device_node(node: str) -> bool:
    """Whether a place is an instrument around the detector."""
    return node.startswith("device:")


def bias_node(port: int, slave: int, slot: int, channel: int) -> str:
    """Name of an output of a bias mezzanine, and of the channels it feeds."""
    return f"bias:{port}.{slave}.{slot}.{channel}"


def unit_node(absolute: int) -> str:
    """Name of the board that an absolute channel is read out by."""
    return f"unit:{absolute >> 17}.{absolute >> 12 & 31}"


def pair_node(a: str, b: str) -> str:
    """Name of a pair of modules; dt is the first one's time minus the second one's."""
    return f"{a} - {b}"


def square_to(xyz_mm: NDArray[np.float64], away: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vector square to the plane that a module's crystals lie in, to the side of a direction.

    Args:
        xyz_mm: (n, 3) middles of the crystals; where they are too few for a plane, or lie in none, it is `away`.
        away: (3,) direction, in any length.
    """
    _, spread, axes = np.linalg.svd(xyz_mm - xyz_mm.mean(axis=0), full_matrices=False)
    is_plane = spread.size == 3 and spread[1] > 1.0 and spread[2] < 1e-2 * spread[1]
    normal = axes[2] if is_plane else away / max(float(np.linalg.norm(away)), 1e-9)
    return np.asarray(normal if float(normal @ away) >= 0.0 else -normal)


@dataclass(frozen=True, slots=True)
class Topology:
    """The channels a detector has and the modules and ASICs they belong to.

    channels: (n,) int32, sorted absolute channel numbers. module, asic: (n,) int32 indices into module_nodes and
    asic_nodes. column, row: (n,) int16 position of the channel's crystal in its module's map (-1: no map).
    xyz_mm: (n, 3) float32 positions of crystals (NaN: no map). region: (n,) int32 trigger region (-1: none).
    bias: (n,) int32 index into bias_nodes, the outputs that feed the channels (-1: not known).
    """

    channels: NDArray[np.int32]
    module: NDArray[np.int32]
    asic: NDArray[np.int32]
    column: NDArray[np.int16]
    row: NDArray[np.int16]
    xyz_mm: NDArray[np.float32]
    region: NDArray[np.int32]
    module_nodes: tuple[str, ...]
    asic_nodes: tuple[str, ...]
    bias: NDArray[np.int32]
    bias_nodes: tuple[str, ...]

    @classmethod
    def from_channels(
        cls,
        channels: NDArray[np.int32],
        *,
        asics_per_module: int = 4,
        column: NDArray[np.int16] | None = None,
        row: NDArray[np.int16] | None = None,
        xyz_mm: NDArray[np.float32] | None = None,
        region: NDArray[np.int32] | None = None,
        bias_output: Mapping[int, tuple[int, int]] | None = None,
    ) -> Topology:
        """Build from absolute channel numbers (any order; the other columns follow that order).

        bias_output: slot and channel of the bias output that feeds an absolute channel, on the board it is on.
        """
        if asics_per_module < 1:
            raise BadInputError(f"asics_per_module is {asics_per_module}", do="give the number of ASICs on one module")
        channels = np.asarray(channels, np.int32)
        order = np.argsort(channels, kind="stable")
        ordered = channels[order]
        if ordered.size and (np.diff(ordered) == 0).any():
            twice = int(ordered[1:][np.diff(ordered) == 0][0])
            raise BadInputError(f"{channel_node(twice)} appears twice", do="remove one of the lines of the channel map")
        modules = [module_node(int(c), asics_per_module) for c in ordered]
        asics = [asic_node(int(c)) for c in ordered]
        module_nodes = tuple(dict.fromkeys(modules))
        asic_nodes = tuple(dict.fromkeys(asics))
        module_index = {name: i for i, name in enumerate(module_nodes)}
        asic_index = {name: i for i, name in enumerate(asic_nodes)}
        n = ordered.size
        fed = [(int(c), (bias_output or {}).get(int(c))) for c in ordered]
        outputs = [None if place is None else bias_node(c >> 17, c >> 12 & 31, *place) for c, place in fed]
        bias_nodes = tuple(dict.fromkeys(name for name in outputs if name is not None))
        bias_index = {name: i for i, name in enumerate(bias_nodes)}
        return cls(
            channels=ordered,
            module=np.array([module_index[m] for m in modules], np.int32),
            asic=np.array([asic_index[a] for a in asics], np.int32),
            column=np.full(n, -1, np.int16) if column is None else np.asarray(column, np.int16)[order],
            row=np.full(n, -1, np.int16) if row is None else np.asarray(row, np.int16)[order],
            xyz_mm=np.full((n, 3), np.nan, np.float32) if xyz_mm is None else np.asarray(xyz_mm, np.float32)[order],
            region=np.full(n, -1, np.int32) if region is None else np.asarray(region, np.int32)[order],
            module_nodes=module_nodes,
            asic_nodes=asic_nodes,
            bias=np.array([-1 if name is None else bias_index[name] for name in outputs], np.int32),
            bias_nodes=bias_nodes,
        )

    def __len__(self) -> int:
        return int(self.channels.size)

    def index_of(self, channels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Positions of absolute channels in this topology; -1 where a channel is unknown. Shape as given."""
        if not self.channels.size:
            return np.full(np.shape(channels), -1, np.int32)
        at = np.minimum(np.searchsorted(self.channels, channels), self.channels.size - 1)
        return np.where(self.channels[at] == channels, at, -1).astype(np.int32)
