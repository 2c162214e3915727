"""Settings of a TOFPET2 readout as plain values; whoever reads configuration files fills them in."""

from __future__ import annotations

import ipaddress
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from petqc_drivers.errors import LocalProtocolError
from petqc_drivers.petsys import daqd_link
from petqc_drivers.petsys.asic import AsicConfiguration, AsicVersion
from petqc_drivers.petsys.bias_prom import TOLERANCE_V
from petqc_drivers.petsys.daqd_ring import SHARED_MEMORY_FOLDER
from petqc_drivers.petsys.daqd_wire import check_shared_memory_name
from petqc_drivers.petsys.udp_link import REPLY_TIMEOUT_S, TRIES, UdpReadoutLink
from petqc_drivers.petsys.wire import WireError
from petqc_drivers.transport.udp import RECEIVE_BUFFER_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc_drivers.limits import HardLimit, Volts
    from petqc_drivers.petsys.bias import BiasChannel, BiasCurve
    from petqc_drivers.petsys.link import Address, ReadoutLink

Mode = Literal["qdc", "tot"]


@dataclass(frozen=True, slots=True)
class BiasSettings:
    """What belongs to one bias output: how far it may go, and which code gives which voltage."""

    limit: HardLimit
    curve: BiasCurve


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedBoard:
    """Identity that a board must have; None means that any will do.

    Attributes:
        base_pcb: Base board id.
        firmware_variant: Kind of unit and of module.
        firmware_revisions: Lowest and highest firmware revision that is accepted.
    """

    base_pcb: int | None = None
    firmware_variant: int | None = None
    firmware_revisions: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadoutSettings(ABC):
    """A readout of one or several units, whichever way leads to them.

    Attributes:
        reply_timeout_s: How long to wait for one reply.
        tries: How often a command is sent before the unit counts as silent.
        no_data_timeout_s: An acquisition in which no frame comes for this long has failed.
        settle_s: Wait after the last step of a bias ramp.
        on_close: Whether closing switches off bias supplies that this driver switched on.
        bias: The bias outputs that may be used, by address.
        bias_starts_with: By port, slave and slot, for mezzanines that can be told nothing before they are switched on
            (BIAS_16P): the highest voltage that any output has then, measured with the detectors unplugged.
        bias_mezzanines: By port, slave and slot, the mezzanine that the bias settings are for; another one is refused.
        prom_tolerance_v: How far a bias calibration may be from that in the mezzanine's own PROM.
        expected: Identity that every FEB/D must have.
        expected_febds: Port and slave of the FEB/Ds that must be there, no more and no less; None accepts any.
        expected_trigger: Port and slave of the trigger unit; None accepts it wherever it is.
    """

    reply_timeout_s: float = REPLY_TIMEOUT_S
    tries: int = TRIES
    no_data_timeout_s: float = 4.0
    settle_s: float = 0.1
    on_close: Literal["off", "hold"] = "off"
    bias: Mapping[BiasChannel, BiasSettings] = field(default_factory=dict)
    bias_starts_with: Mapping[tuple[int, int, int], Volts] = field(default_factory=dict)
    bias_mezzanines: Mapping[tuple[int, int, int], str] = field(default_factory=dict)
    prom_tolerance_v: float = TOLERANCE_V
    expected: ExpectedBoard = field(default_factory=ExpectedBoard)
    expected_febds: frozenset[Address] | None = None
    expected_trigger: Address | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What the readout is called in messages."""

    @abstractmethod
    def new_link(self, unit: Address = (0, 0)) -> ReadoutLink:
        """Another, unopened way to a unit, by its port and slave."""

    def __post_init__(self) -> None:
        named = {
            *(self.expected_febds or ()),
            *([self.expected_trigger] if self.expected_trigger else []),
            *((channel.port, channel.slave) for channel in self.bias),
            *((port, slave) for port, slave, _ in (*self.bias_starts_with, *self.bias_mezzanines)),
        }
        for port, slave in sorted(named):
            if not (0 <= port < 32 and 0 <= slave < 32):
                raise LocalProtocolError(f"port {port} or slave {slave} is not 0..31")
        for name in ("reply_timeout_s", "no_data_timeout_s", "prom_tolerance_v"):
            number = getattr(self, name)
            if not 0 < number < math.inf:
                raise LocalProtocolError(f"{name} must be finite and above 0, not {number!r}")
        if not 0 <= self.settle_s < math.inf or self.tries < 1:
            raise LocalProtocolError("settle_s must be finite, tries at least 1")
        for channel, settings in self.bias.items():
            if settings.limit.channel != str(channel):
                raise LocalProtocolError(f"the hard limit of {channel} is made out for {settings.limit.channel}")
            if self.expected_febds is not None and (channel.port, channel.slave) not in self.expected_febds:
                raise LocalProtocolError(f"{channel} belongs to no expected FEB/D")


@dataclass(frozen=True, slots=True, kw_only=True)
class PetsysUdpSettings(ReadoutSettings):
    """One front-end board on UDP, which is always port 0, slave 0.

    Attributes:
        host: IPv4 address of the board, in digits.
        udp_port: Its UDP port.
        receive_buffer_bytes: Asked of the kernel, which may give less.
    """

    host: str = "192.168.1.25"
    udp_port: int = 2000
    receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES

    def __post_init__(self) -> None:
        ReadoutSettings.__post_init__(self)
        try:
            ipaddress.IPv4Address(self.host)
        except ValueError as error:
            raise LocalProtocolError(f"board address {self.host!r} is not an IPv4 address in digits") from error
        if not 0 < self.udp_port <= 0xFFFF:
            raise LocalProtocolError(f"UDP port {self.udp_port} is not 1..65535")
        if self.receive_buffer_bytes < 1:
            raise LocalProtocolError("receive_buffer_bytes must be at least 1")
        others = {*(self.expected_febds or ()), *((channel.port, channel.slave) for channel in self.bias)} - {(0, 0)}
        if others:
            raise LocalProtocolError("UDP reaches the unit 0/0 only, not {}/{}".format(*min(others)))

    @property
    def name(self) -> str:
        """What the readout is called in messages."""
        return f"board {self.host}:{self.udp_port}"

    def new_link(self, unit: Address = (0, 0)) -> UdpReadoutLink:
        """Another, unopened way to the board, whose address it never sees."""
        del unit
        return UdpReadoutLink(
            (self.host, self.udp_port),
            reply_timeout_s=self.reply_timeout_s,
            tries=self.tries,
            receive_buffer_bytes=self.receive_buffer_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PetsysDaqdSettings(ReadoutSettings):
    """All units behind the vendor's daemon.

    Attributes:
        socket: Path of the daemon's UNIX socket.
        shared_memory: Name of its ring, for messages when it is not there to tell the name itself.
        daemon_uid: User that the daemon must belong to; None for any.
        shared_memory_folder: Where the system keeps shared memory.
    """

    reply_timeout_s: float = daqd_link.REPLY_TIMEOUT_S
    socket: str = str(daqd_link.SOCKET)
    shared_memory: str = daqd_link.SHARED_MEMORY
    daemon_uid: int | None = None
    shared_memory_folder: str = str(SHARED_MEMORY_FOLDER)

    def __post_init__(self) -> None:
        ReadoutSettings.__post_init__(self)
        try:
            check_shared_memory_name(self.shared_memory)
        except WireError as error:
            raise LocalProtocolError(str(error)) from error
        if not Path(self.socket).is_absolute():
            raise LocalProtocolError(f"socket {self.socket!r} is not an absolute path")

    @property
    def name(self) -> str:
        """What the readout is called in messages."""
        return f"daemon {self.socket}"

    def new_link(self, unit: Address = (0, 0)) -> daqd_link.DaqdReadoutLink:
        """Another, unopened way to a unit, by its port and slave."""
        return daqd_link.DaqdReadoutLink(
            Path(self.socket),
            unit=unit,
            reply_timeout_s=self.reply_timeout_s,
            tries=self.tries,
            shared_memory=self.shared_memory,
            uid=self.daemon_uid,
            folder=Path(self.shared_memory_folder),
        )


RESERVED_GLOBAL: Final = ("tx_mode", "tx_nlinks", "tx_ddr", "tdc_clk_div")
"""Set by the driver from what the board says about its links, and by the stages of the bring-up."""
_MODE_FIELDS: Final = ("qdc_mode", "intg_en", "intg_signal_en")


@dataclass(frozen=True, slots=True, kw_only=True)
class AsicSettings:
    """What the ASICs of a FEB/D shall be set to, on top of the values every chip gets at initialisation.

    Attributes:
        mode: Charge (qdc) or time over threshold (tot), of all channels.
        global_fields: Global configuration fields, all chips.
        channel_fields: Channel configuration fields, all channels.
        per_channel: Channel fields by (chip, channel), for example thresholds; `trigger_mode_1` 3 switches one off.
        mode_of: Mode by (chip, channel) where it differs.
        expected_chips: Chips that must be found, no more and no less; None accepts what is there.
    """

    mode: Mode = "qdc"
    global_fields: Mapping[str, int] = field(default_factory=dict)
    channel_fields: Mapping[str, int] = field(default_factory=dict)
    per_channel: Mapping[tuple[int, int], Mapping[str, int]] = field(default_factory=dict)
    mode_of: Mapping[tuple[int, int], Mode] = field(default_factory=dict)
    expected_chips: frozenset[int] | None = None

    def __post_init__(self) -> None:
        for name in RESERVED_GLOBAL:
            if name in self.global_fields:
                raise LocalProtocolError(f"ASIC field {name} follows the board's links and cannot be set")
        for fields in (self.channel_fields, *self.per_channel.values()):
            for name in _MODE_FIELDS:
                if name in fields:
                    raise LocalProtocolError(f"ASIC field {name} follows the mode; set mode or mode_of instead")
        for chip, channel in (*self.per_channel, *self.mode_of):
            if not (0 <= chip < 64 and 0 <= channel < 64):
                raise LocalProtocolError(f"ASIC {chip} channel {channel}: both are 0..63")

    def global_configuration(self, version: AsicVersion) -> AsicConfiguration:
        """The global configuration of a chip of this version, links aside.

        Raises:
            LocalProtocolError: If a field does not exist or a value does not fit.
        """
        try:
            return AsicConfiguration.default("global", version).replace(self.global_fields)
        except WireError as error:
            raise LocalProtocolError(str(error)) from error

    def channel_configuration(self, version: AsicVersion, chip: int, channel: int) -> AsicConfiguration:
        """The configuration of one channel of a chip of this version.

        Raises:
            LocalProtocolError: If a field does not exist or a value does not fit.
        """
        is_charge = self.mode_of.get((chip, channel), self.mode) == "qdc"
        try:
            return AsicConfiguration.default("channel", version).replace(
                {
                    **self.channel_fields,
                    **self.per_channel.get((chip, channel), {}),
                    **dict.fromkeys(_MODE_FIELDS, int(is_charge)),
                }
            )
        except WireError as error:
            raise LocalProtocolError(f"ASIC {chip} channel {channel}: {error}") from error
