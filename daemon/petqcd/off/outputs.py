"""The bias outputs of a scanner: how each is reached with nothing but its driver, and what was last known of it.

The daemon keeps this in one small file, so that what must act without the daemon (`petqc-safe`, `petqc off`) needs
neither the configuration nor a database. An output is written down as on *before* it may be on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from petqc_drivers.device import OutputState
from petqc_drivers.errors import DriverError, LocalProtocolError
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.registry import KINDS, device_kind
from petqcd import clock, small_file
from petqcd.places import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Protocol

    class Source(Protocol):
        """What can be brought to off: any `BiasSource`, or a readout through `_Readout`."""

        async def connect(self) -> object: ...  # noqa: D102
        async def off(self) -> OutputState: ...  # noqa: D102
        async def ramp_off(self) -> OutputState: ...  # noqa: D102
        async def aclose(self) -> None: ...  # noqa: D102


SCHEMA = "petqc-outputs/1"
Policy = Literal["hold", "ramp_off", "off"]
READOUTS = ("petsys-udp", "petsys-daqd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One device with a bias output.

    Attributes:
        name: of the device.
        kind: of `petqc_drivers.registry`.
        settings: of its driver, as plain values.
        on_daemon_loss: what becomes of it when the daemon is gone for good.
        state: the last that is known, one of `OutputState`; everything but `off` counts as on.
        volts: last confirmed set-point, if there is one.
        at: when that was, UTC.
        trip: why it is tripped; empty: it is not.
    """

    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    on_daemon_loss: Policy = "ramp_off"
    state: str = OutputState.UNKNOWN.value
    volts: float | None = None
    at: str = ""
    trip: str = ""

    def __post_init__(self) -> None:
        if self.on_daemon_loss not in get_args(Policy):
            raise LocalProtocolError(f"on_daemon_loss {self.on_daemon_loss!r} is none of {', '.join(get_args(Policy))}")

    @property
    def may_be_on(self) -> bool:
        """Whether nobody read back that it is off."""
        return self.state != OutputState.OFF.value

    def source(self) -> Source:
        """Its driver, unconnected.

        Raises:
            DriverError: there is no such kind, or the settings are not those of its driver.
        """
        settings_class, device_class = device_kind(self.kind).load()
        values = dict(self.settings)
        if values.get("limit") is not None:
            values["limit"] = _limit(values["limit"])
        try:
            device: Any = device_class(settings_class(**values))
        except TypeError as error:
            raise LocalProtocolError(f"settings of a {self.kind}: {error}", device=self.name) from error
        return _Readout(device) if self.kind in READOUTS else device


class _Readout:
    """A readout board, which is switched off as a whole; where its outputs are cannot be read, so there is no ramp."""

    def __init__(self, readout: Any) -> None:
        self._readout = readout

    async def connect(self) -> object:
        return None  # switching off connects by itself, and needs no identity

    async def off(self) -> OutputState:
        report = await self._readout.bias_off()
        state: OutputState = report.state
        return state

    async def ramp_off(self) -> OutputState:
        return await self.off()

    async def aclose(self) -> None:
        await self._readout.aclose()


def has_output(kind: str) -> bool:
    """Whether devices of a kind can put a voltage on a detector."""
    return KINDS[kind].readback != "none"


def plain(settings: Any) -> dict[str, Any]:
    """Settings of an instrument's driver as plain values, which `Output.source` understands."""
    return asdict(settings)


def _limit(values: Mapping[str, Any]) -> HardLimit:
    return HardLimit(
        channel=values["channel"],
        v_min=Volts(values["v_min"]["value"]),
        v_max=Volts(values["v_max"]["value"]),
        max_step_v=values["max_step_v"],
        slew_v_per_s=values["slew_v_per_s"],
    )


@dataclass(frozen=True, slots=True)
class LastKnown:
    """What the file says. why: a warning, where it is not the file itself that speaks."""

    outputs: tuple[Output, ...] = ()
    why: str = ""


def write(state_dir: Path, outputs: Iterable[Output]) -> None:
    """Keep what is known; when this returns it is on the disk.

    Raises:
        OSError: it could not be written.
    """
    document = {"schema": SCHEMA, "outputs": [asdict(output) for output in outputs]}
    small_file.write(state_dir / OUTPUTS, document)


def write_after_off(state_dir: Path, before: Iterable[Output], now: Mapping[str, OutputState]) -> None:
    """Keep what became of outputs that were switched off, by name; the others stay as they were.

    Raises:
        OSError: it could not be written.
    """
    if not now:
        return
    at = clock.utc_text()
    write(
        state_dir,
        [replace(one, state=now[one.name].value, volts=None, at=at) if one.name in now else one for one in before],
    )


def read(state_dir: Path) -> LastKnown:
    """What was last known; nothing with a reason if that cannot be read."""
    path = state_dir / OUTPUTS
    found = small_file.read(path)
    if found is None:
        is_there = path.exists() or small_file.previous(path).exists()
        return LastKnown(why=f"{path} is damaged, and so is the generation before" if is_there else "")
    try:
        if found.document["schema"] != SCHEMA:
            return LastKnown(why=f"{path} has the schema {found.document['schema']!r}, known is {SCHEMA}")
        return LastKnown(tuple(Output(**one) for one in found.document["outputs"]), found.why)
    except (TypeError, KeyError, DriverError) as error:
        return LastKnown(why=f"{path} cannot be understood: {error}")
