"""What can break: the vocabulary of faults, how each is written on a command line, and what of a daily QC notices it.

The ids are those of the fault catalogue (section 3 of the daily-QC physics notes). What a fault does to the physics,
and where, is in `fault_plan.py`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from petqc_simulators.profile import ProfileError

Place: TypeAlias = Literal["channel", "patch", "bias", "asic", "module", "scanner", "link", "device"]
"""What of the hardware a fault sits in; a patch is 4 x 4 neighbouring crystals of one module."""
Family: TypeAlias = Literal["detector", "link", "device"]
"""What a fault acts on: the detector's physics, bytes on their way, or a board or instrument as a whole."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A fault of the catalogue.

    size_means: the unit of its size. default_size: typical. largest_size: more is refused. place: where it sits, chosen
    by the seed. noticed_by: which numbers of the QC should move.
    """

    id: str
    title: str
    size_means: str
    default_size: float
    largest_size: float
    place: Place
    noticed_by: str
    family: Family = "detector"


KINDS: dict[str, FaultKind] = {
    kind.id: kind
    for kind in (
        FaultKind("F01", "dead channels", "number of channels", 1.0, 256.0, "channel", "dead channels"),
        FaultKind("F02", "hot channel", "pulses per second", 20000.0, 400000.0, "channel", "hot channels"),
        FaultKind(
            "F03", "bias drift of one output", "fall in mV", 100.0, 5000.0, "bias",
            "photopeak of all channels of one bias output",
        ),
        FaultKind(
            "F04", "bias output at a wrong step: DAC bit stuck or register upset", "step in mV, up or down", 300.0,
            5000.0, "bias", "photopeak of all channels of one bias output, by a step",
        ),
        FaultKind(
            "F05", "temperature sensor of one ASIC off", "K too high", 5.0, 50.0, "asic",
            "one sensor's reading against its neighbours; no photopeak follows",
        ),
        FaultKind(
            "F06", "cooling loss of one module", "warmer by K", 5.0, 40.0, "module",
            "temperature, photopeak and CTR of one module together",
        ),
        FaultKind(
            "F07", "slow cycle of the room's temperature", "amplitude in K, a day long, from its warmest on", 0.8, 15.0,
            "scanner", "temperature and photopeak of all modules together, after the room",
        ),
        FaultKind(
            "F08", "SiPMs aged, radiation damage", "percent more dark counts", 100.0, 2000.0, "scanner",
            "dark count rate, CTR over months; photopeak unmoved",
        ),
        FaultKind(
            "F09", "optical coupling loss of a patch of crystals", "percent of the light", 15.0, 90.0, "patch",
            "photopeak and energy resolution of neighbouring crystals, whatever their bias output",
        ),
        FaultKind(
            "F10", "crystal cracked or detached", "percent of the light", 25.0, 90.0, "channel",
            "photopeak and energy resolution of one crystal",
        ),
        FaultKind(
            "F11", "moisture or frost on a board", "times the noise of one module's ASICs", 4.0, 50.0, "module",
            "energy resolution and timing width of one module, dark counts unmoved",
        ),
        FaultKind(
            "F12", "TDC calibration of one ASIC stale", "percent of scale", 2.0, 20.0, "asic",
            "timing width and time offset of one ASIC, photopeak unmoved",
        ),
        FaultKind(
            "F13", "one time buffer of a channel bad", "later by ps", 400.0, 5000.0, "channel",
            "side peak of a quarter of one channel's pairs",
        ),
        FaultKind(
            "F14", "clock phase step of one module", "later by ps", 300.0, 100000.0, "module",
            "time offset of one module",
        ),
        FaultKind(
            "F15", "clock jitter of one module", "sigma in ps", 80.0, 10000.0, "module",
            "timing width of one module",
        ),
        FaultKind(
            "F16", "thresholds of one ASIC too high", "steps", 30.0, 60.0, "asic",
            "lowest energy seen and timing width of one ASIC, photopeak unmoved",
        ),
        FaultKind(
            "F17", "baseline shift at high rate", "percent of the signal with every 1000 hits per second of a channel",
            4.0, 50.0, "scanner", "photopeak of all channels, more with more activity",
        ),
        FaultKind(
            "F18", "channels dead for longer after a hit", "us longer", 50.0, 5000.0, "scanner",
            "dead time from the gaps between hits, singles rate",
        ),
        FaultKind(
            "F19", "frame loss on the link", "percent of time slices", 2.0, 100.0, "scanner", "lost frames, live time"
        ),
        FaultKind(
            "F20", "time stamps of one module a frame off", "frames of 5.12 us", 1.0, 100.0, "module",
            "coincidences with one module vanish while its singles stay",
        ),
        FaultKind(
            "F21", "two ASICs of a module swapped", "pairs of ASICs", 1.0, 1.0, "asic",
            "photopeaks and time offsets of two ASICs scatter to both sides, rates unmoved",
        ),
        FaultKind(
            "F22", "a window of the configuration is another one",
            "times as wide: the coincidence window, or the energy window downwards (the seed says which)", 2.0, 2.5,
            "scanner", "the windows in use against those of the baseline; prompts and randoms",
        ),
        FaultKind(
            "F23", "RF pick-up of one module", "1000 false triggers per second of a channel during RF pulses", 5.0,
            100.0, "module", "singles rate and lowest energies of one module while a sequence runs",
        ),
        FaultKind(
            "F24", "heating by gradients", "K at the axial centre after a long sequence", 4.0, 30.0, "scanner",
            "temperature and photopeak drift with minutes while a sequence runs, and back",
        ),
        FaultKind(
            "F25", "RF shield missing after MR service", "1000 false triggers per second of a channel during RF pulses",
            20.0, 100.0, "scanner", "singles rate of all modules while a sequence runs",
        ),
        FaultKind(
            "F26", "source misplaced", "mm off the middle", 10.0, 25.0, "scanner",
            "place of the source; rates and offsets of modules on two sides",
        ),
        FaultKind(
            "F27", "calibration of another day loaded", "ps rms of offsets, 1 % rms of gain with every 20 ps",
            60.0, 1000.0, "scanner", "photopeaks and time offsets of all channels scatter",
        ),
        FaultKind(
            "F28", "decoding of light sharing has drifted", "percent of the hits that go by the next crystal's name",
            25.0, 100.0, "asic", "energy resolution of the crystals of one ASIC, photopeaks towards their neighbours'",
        ),
    )
}  # fmt: skip

LINK_KINDS: dict[str, FaultKind] = {
    kind.id: kind
    for kind in (
        FaultKind("L01", "loss on a link", "percent of frames' datagrams or replies that never come", 2.0, 100.0,
                  "link", "lost frames, live time; commands that are sent again, link-lost", "link"),
        FaultKind("L02", "order of a link changed", "percent that come after the next one", 5.0, 100.0, "link",
                  "frames out of order; replies that are overdue", "link"),
        FaultKind("L03", "duplicates on a link", "percent that come twice", 5.0, 100.0, "link",
                  "frames that came before; replies that are overdue", "link"),
        FaultKind("L04", "corruption on a link", "percent with one bit changed", 1.0, 100.0, "link",
                  "rejected datagrams and frames; remote-protocol", "link"),
        FaultKind("L05", "truncation on a link", "percent that end early", 1.0, 100.0, "link",
                  "rejected datagrams and frames; remote-protocol, reply-timeout", "link"),
        FaultKind("L06", "delay on a link", "ms later", 50.0, 60_000.0, "link", "reply-timeout if long enough", "link"),
        FaultKind("L07", "link frozen", "seconds in which nothing comes through", 5.0, 86_400.0, "link",
                  "no data; reply-timeout; run invalid", "link"),
    )
}  # fmt: skip
"""Faults of bytes on their way. place: `frames` or `commands` of the readout, `device:NAME`; left out: all of the
readout, or the only instrument."""
DEVICE_KINDS: dict[str, FaultKind] = {
    kind.id: kind
    for kind in (
        FaultKind("D01", "trip", "times", 1.0, 1.0, "device", "alarm; output off, trip until somebody resets it",
                  "device"),
        FaultKind("D02", "readings stuck", "devices", 1.0, 1.0, "device",
                  "readings that do not follow what is set; flat history", "device"),
        FaultKind("D03", "lying read-back", "V, or K of a circulator, that it reads too high", 0.5, 50.0, "device",
                  "read-back against set-point; temperature against its neighbours", "device"),
        FaultKind("D04", "swapped identity", "devices", 1.0, 1.0, "device", "wrong-identity at the next connection",
                  "device"),
        FaultKind("D05", "clock unlocked", "devices", 1.0, 1.0, "device",
                  "clock lock of the board, reference of the counter; run refused or invalid", "device"),
        FaultKind("D06", "firmware mismatch", "versions too new", 1.0, 100.0, "device",
                  "identification refuses the board", "device"),
    )
}  # fmt: skip
"""Faults of a whole device. place: `unit:PORT.SLAVE` or `device:NAME`; left out: the first that can have it."""
EVERY_KIND: dict[str, FaultKind] = {**KINDS, **LINK_KINDS, **DEVICE_KINDS}
"""All that can be planted."""

OF_CONFIGURATION = frozenset({"F22"})
"""Faults of what the QC is configured with, not of the detector: there from the beginning, whole."""
STEPWISE = OF_CONFIGURATION | {"F01", "F20", "F21", "D01", "D02", "D04", "D05", "D06", "L07"}
"""Faults that are there or not, and cannot grow."""
FORM = "ID[=size][:place][@begin[-end]][~ramp]"
_PATTERN = re.compile(
    r"(?P<id>[A-Z]\d\d)(=(?P<size>[-+0-9.eE]+))?(:(?P<where>[A-Za-z][A-Za-z0-9_.:-]*))?"
    r"(@(?P<onset>[0-9.]+)(-(?P<end>[0-9.]+))?)?(~(?P<ramp>[0-9.]+))?\Z"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: size in the unit of its kind, begin and end in seconds since the synchronisation of the readout.

    where: the node that it sits in, as the QC names it; empty: the seed chooses. ramp_s: how long it grows from
    nothing.
    """

    kind: FaultKind
    size: float
    onset_s: float = 0.0
    end_s: float = math.inf
    where: str = ""
    ramp_s: float = 0.0

    def at(self, seconds: float) -> Fault:
        """The fault as large as it is at a time."""
        if not self.ramp_s or seconds >= self.onset_s + self.ramp_s:
            return self
        return replace(self, size=self.size * max(seconds - self.onset_s, 0.0) / self.ramp_s)

    def has_begun(self, seconds: float) -> bool:
        """Whether it has begun, and perhaps ended."""
        return seconds >= self.onset_s

    def acts(self, seconds: float) -> bool:
        """Whether it is there."""
        return self.onset_s <= seconds < self.end_s

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ID[=size][:place][@begin[-end]][~ramp].

        Raises:
            ProfileError: unknown id, or a size or time that is no number in range.
        """
        found = _PATTERN.match(text.strip())
        if not found:
            raise ProfileError(
                f"fault {text!r}: write {FORM}, for example F03=100@5, F24=4@60-240 or F06=5:module:0.0.1"
            )
        kind = EVERY_KIND.get(found["id"])
        if kind is None:
            raise ProfileError(f"fault {found['id']!r} is not known; known are {', '.join(EVERY_KIND)}")
        try:
            size = float(found["size"]) if found["size"] else kind.default_size
            onset_s = float(found["onset"]) if found["onset"] else 0.0
            end_s = float(found["end"]) if found["end"] else math.inf
            ramp_s = float(found["ramp"]) if found["ramp"] else 0.0
        except ValueError:
            raise ProfileError(f"fault {text!r}: size and seconds must be numbers") from None
        if not 0.0 < size <= kind.largest_size:
            raise ProfileError(f"fault {text!r}: {kind.size_means} must be above 0 and at most {kind.largest_size:g}")
        if not onset_s < end_s:
            raise ProfileError(f"fault {text!r}: it must end after it begins")
        if kind.id in OF_CONFIGURATION and (onset_s > 0.0 or math.isfinite(end_s)):
            raise ProfileError(f"fault {text!r}: it is in the configuration, which is read once; give no begin or end")
        if ramp_s and kind.id in STEPWISE:
            raise ProfileError(f"fault {text!r}: it is there or not: it has no ramp")
        return cls(kind, size, onset_s, end_s, found["where"] or "", ramp_s)

    def __str__(self) -> str:
        """As it is written on a command line."""
        end = f"-{self.end_s:g}" if math.isfinite(self.end_s) else ""
        when = f"@{self.onset_s:g}{end}" if self.onset_s > 0.0 or end else ""
        ramp = f"~{self.ramp_s:g}" if self.ramp_s else ""
        return f"{self.kind.id}={self.size:g}" + (f":{self.where}" if self.where else "") + when + ramp
