"""Evidence in sentences with numbers and units, and the next test with an address."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from petqc.diagnosis.places import Place, address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from petqc.channel_map import Topology
    from petqc.diagnosis.catalogue import Cause
    from petqc.diagnosis.signs import Deviations, Quantity, Sign
    from petqc.diagnosis.witnesses import Witnesses

NAMES: dict[str, str] = {
    "energy": "photopeak",
    "resolution": "energy resolution",
    "offset": "time offset",
    "width": "timing width",
    "onset": "lowest energies seen",
    "temperature": "temperature",
    "dead": "signal",
    "hot": "count rate",
    "side_peak": "time peak",
    "scatter": "channels",
    "frames": "frames",
    "unused": "hits",
    "source": "source",
    "singles": "singles rate",
    "prompts": "prompt rate",
    "pairs": "coincidences",
    "dead_time": "dead time",
    "dark": "dark count rate",
    "shape": "shape of the spectrum",
    "window": "window",
    "tdc_scale": "time scale",
    "mixed": "times of its channels",
    "mr_peak": "photopeak under stress of the MR",
    "interval": "time interval on the timing board",
    "clock": "clock skew",
    "reference": "reference clock",
}


def evidence(
    topology: Topology,
    place: Place,
    signs: Sequence[Sign],
    cause: Cause,
    found: Mapping[Quantity, Deviations],
    is_out: NDArray[np.bool_],
    witnesses: Witnesses,
) -> list[str]:
    """What moved, what did not although the cause says something about it, and how much of the flags is there."""
    told = [_moved(sign) for sign in signs]
    offset = next((s.value for s in signs if s.quantity == "offset" and s.unit == "ps"), None)
    if offset is not None:
        told += filter(None, (witnesses.told(quantity, place, offset) for quantity in cause.witnesses))
    for quantity in cause.signs:
        one = found.get(quantity)
        if one is None or any(s.quantity == quantity for s in signs):
            continue
        mean, error, n = one.mean(place.members)
        if n:
            told.append(f"{NAMES[quantity]} {mean:+.2g} ± {error:.1g} {one.measure.unit} there: no change to speak of")
            if abs(mean) >= max(0.5 * one.least(place), 3.0 * error):
                told[-1] = f"{NAMES[quantity]} {mean:+.2g} ± {error:.1g} {one.measure.unit} there, inside its limits"
    total, mine = int(is_out.sum()), int(is_out[place.members].sum())
    if mine:
        where = address(topology, place)
        of = "channel is" if total == 1 else "channels are"
        told.append(f"{mine} of the {total} flagged {of} at {where}, which has {place.members.size} in all")
    return told


def _moved(sign: Sign) -> str:
    if sign.told:
        return sign.told
    digits = 1 if sign.error <= 0 else max(0, -math.floor(math.log10(sign.error)))
    many = "" if sign.channels <= 1 else f", mean of {sign.channels} channels"
    return f"{NAMES[sign.quantity]} {sign.value:+.{digits}f} ± {sign.error:.{digits}f} {sign.unit}{many}"


def next_step(topology: Topology, cause: Cause, place: Place) -> str:
    """The test that decides, with the place's address."""
    return cause.next_step.format(here=address(topology, place), next=_next(topology, place))


def _next(topology: Topology, place: Place) -> str:
    """The neighbour to swap a bias output with."""
    if place.level != "bias":
        return "a neighbour"
    names = topology.bias_nodes
    board = place.node.rpartition(".")[0]
    same = [name for name in names if name.rpartition(".")[0] == board]
    at = same.index(place.node)
    if len(same) < 2:
        return "a spare output"
    other = same[at + 1] if at + 1 < len(same) else same[at - 1]
    return f"channel {other.rpartition('.')[2]} of the same slot"
