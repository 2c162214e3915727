"""Which kinds of device there are, and where their driver is; a driver's module is imported when it is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from petqc_drivers.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """One kind of device.

    Attributes:
        kind: Its name in configurations.
        title: What it is, for people.
        module: Module of the driver.
        settings: Name of the settings class in it.
        device: Name of the device class in it.
        readback: Whether output voltages can be measured, or only the command is known.
    """

    kind: str
    title: str
    module: str
    settings: str
    device: str
    readback: Literal["measured", "commanded", "none"]

    def load(self) -> tuple[type[Any], type[Any]]:
        """The settings class and the device class."""
        module = import_module(self.module)
        return getattr(module, self.settings), getattr(module, self.device)


_KINDS: Final = (
    DeviceKind(
        kind="petsys-udp",
        title="PETsys TOFPET2 front-end board on gigabit UDP",
        module="petqc_drivers.petsys.udp_readout",
        settings="PetsysUdpSettings",
        device="PetsysUdpReadout",
        readback="commanded",
    ),
    DeviceKind(
        kind="petsys-daqd",
        title="PETsys TOFPET2 front-end board behind the vendor's daemon",
        module="petqc_drivers.petsys.daqd_readout",
        settings="PetsysDaqdSettings",
        device="PetsysDaqdReadout",
        readback="commanded",
    ),
    DeviceKind(
        kind="caen-a5203",
        title="CAEN A5203 picoTDC timing board on Ethernet",
        module="petqc_drivers.caen_a5203.board",
        settings="CaenA5203Settings",
        device="CaenA5203",
        readback="none",
    ),
    DeviceKind(
        kind="hamamatsu-c11204",
        title="Hamamatsu C11204-01 or -02 SiPM bias supply on a serial line",
        module="petqc_drivers.hamamatsu_c11204.supply",
        settings="HamamatsuC11204Settings",
        device="HamamatsuC11204",
        readback="measured",
    ),
    DeviceKind(
        kind="caen-a7585d",
        title="CAEN A7585D SiPM bias supply on a serial line",
        module="petqc_drivers.caen_a7585d",
        settings="CaenA7585dSettings",
        device="CaenA7585d",
        readback="measured",
    ),
    DeviceKind(
        kind="keithley-smu",
        title="Keithley 2450 or 2400 source meter over VISA",
        module="petqc_drivers.keithley_smu.meter",
        settings="KeithleySmuSettings",
        device="KeithleySmu",
        readback="measured",
    ),
    DeviceKind(
        kind="sr620",
        title="SRS SR620 time-interval counter on GPIB or RS-232",
        module="petqc_drivers.sr620.counter",
        settings="Sr620Settings",
        device="Sr620",
        readback="none",
    ),
    DeviceKind(
        kind="julabo",
        title="Julabo circulator on a serial line",
        module="petqc_drivers.julabo.circulator",
        settings="JulaboSettings",
        device="JulaboCirculator",
        readback="none",
    ),
)
KINDS: Final[Mapping[str, DeviceKind]] = MappingProxyType({kind.kind: kind for kind in _KINDS})


def device_kind(name: str) -> DeviceKind:
    """The kind of that name.

    Raises:
        LocalProtocolError: If there is none.
    """
    found = KINDS.get(name)
    if found is None:
        raise LocalProtocolError(f"no device is of kind {name!r}", do="known kinds: " + ", ".join(sorted(KINDS)))
    return found
