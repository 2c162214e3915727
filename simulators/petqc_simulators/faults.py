"""What can break: each fault as a change of physics or of the link, at a place the seed chooses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from petqc_simulators.profile import Geometry


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A fault of the catalogue (section 3 of the daily-QC physics notes; the ids are the same)."""

    id: str
    title: str
    size_means: str
    default_size: float
    largest_size: float


KINDS: dict[str, FaultKind] = {
    kind.id: kind
    for kind in (
        FaultKind("F01", "dead channels", "number of channels", 1.0, 256.0),
        FaultKind("F02", "hot channel", "pulses per second", 20000.0, 400000.0),
        FaultKind("F03", "bias drift of one output", "fall in mV", 100.0, 5000.0),
        FaultKind("F14", "clock phase step of one module", "later by ps", 300.0, 100000.0),
        FaultKind("F15", "clock jitter of one module", "sigma in ps", 80.0, 10000.0),
        FaultKind("F19", "frame loss on the link", "percent of time slices", 2.0, 100.0),
    )
}

_PATTERN = re.compile(r"(?P<id>F\d\d)(=(?P<size>[-+0-9.eE]+))?(@(?P<onset>[0-9.]+))?\Z")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: size in the unit of its kind, onset in seconds since the synchronisation of the readout."""

    kind: FaultKind
    size: float
    onset_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ID[=size][@seconds].

        Raises:
            ProfileError: unknown id, or a size or time that is no number in range.
        """
        found = _PATTERN.match(text.strip())
        if not found:
            raise ProfileError(f"fault {text!r}: write ID[=size][@seconds], for example F03=100@5")
        kind = KINDS.get(found["id"])
        if kind is None:
            raise ProfileError(f"fault {found['id']!r} is not known; known are {', '.join(KINDS)}")
        try:
            size = float(found["size"]) if found["size"] else kind.default_size
            onset_s = float(found["onset"]) if found["onset"] else 0.0
        except ValueError:
            raise ProfileError(f"fault {text!r}: size and seconds must be numbers") from None
        if not 0.0 < size <= kind.largest_size:
            raise ProfileError(f"fault {text!r}: {kind.size_means} must be above 0 and at most {kind.largest_size:g}")
        return cls(kind, size, onset_s)


@dataclass(slots=True)
class Effects:
    """What the faults that have set in do; arrays in the detector's own order."""

    dead: NDArray[np.bool_]
    extra_hz: NDArray[np.float64]
    bias_shift_v: NDArray[np.float64]
    module_delay_ps: NDArray[np.float64]
    module_jitter_ps: NDArray[np.float64]
    frame_loss: float = 0.0

    @classmethod
    def none(cls, geometry: Geometry) -> Effects:
        """A healthy detector."""
        return cls(
            dead=np.zeros(geometry.channels, np.bool_),
            extra_hz=np.zeros(geometry.channels),
            bias_shift_v=np.zeros(geometry.bias_channels),
            module_delay_ps=np.zeros(geometry.modules),
            module_jitter_ps=np.zeros(geometry.modules),
        )


@dataclass(slots=True)
class FaultPlan:
    """The faults of a session with the places that the seed gave them."""

    faults: Sequence[Fault]
    geometry: Geometry
    seed: int
    _places: list[NDArray[np.int64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 0xFA17])
        g = self.geometry
        ranges = {"F01": g.channels, "F02": g.channels, "F03": g.bias_channels, "F14": g.modules, "F15": g.modules}
        for fault in self.faults:
            n = ranges.get(fault.kind.id, 1)
            count = int(fault.size) if fault.kind.id == "F01" else 1
            self._places.append(rng.choice(n, size=max(count, 1), replace=False))

    def onsets_s(self) -> list[float]:
        """Times at which something changes."""
        return sorted({f.onset_s for f in self.faults})

    def effects(self, seconds: float) -> Effects:
        """What has set in at a time since synchronisation."""
        effects = Effects.none(self.geometry)
        for fault, place in zip(self.faults, self._places, strict=True):
            if seconds < fault.onset_s:
                continue
            match fault.kind.id:
                case "F01":
                    effects.dead[place] = True
                case "F02":
                    effects.extra_hz[place] += fault.size
                case "F03":
                    effects.bias_shift_v[place] -= fault.size / 1000.0
                case "F14":
                    effects.module_delay_ps[place] += fault.size
                case "F15":
                    effects.module_jitter_ps[place] = np.hypot(effects.module_jitter_ps[place], fault.size)
                case _:
                    effects.frame_loss = max(effects.frame_loss, fault.size / 100.0)
        return effects

    def describe(self) -> list[dict[str, Any]]:
        """What was planted, for truth.json: places are channel, bias output or module indices."""
        return [
            {
                "id": fault.kind.id,
                "title": fault.kind.title,
                "size": fault.size,
                "size_means": fault.kind.size_means,
                "onset_s": fault.onset_s,
                "places": [int(p) for p in place] if fault.kind.id != "F19" else [],
            }
            for fault, place in zip(self.faults, self._places, strict=True)
        ]
