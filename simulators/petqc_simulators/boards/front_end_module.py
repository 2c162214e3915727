"""A front-end module as its board sees it on the SPI bus: an ADC for its temperature sensors, and perhaps an EEPROM.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.2, 4.6, 4.8 and 4.9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from petqc_drivers.petsys.spi import module_adc, module_eeprom
from petqc_simulators.boards.module_eeprom import EEPROM_BYTES, MODULE_TYPES, eeprom_content
from petqc_simulators.boards.spi_devices import Eeprom, Max111xx, SpiDevice
from petqc_simulators.boards.temperature_sensors import SENSORS, Sensor, adc_code

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE_BYTES = 32
_BROKEN_CODE = {"open": 0xFFF, "shorted": 0x000}


class FrontEndModule:
    """One module.

    Args:
        kind: what the firmware variant calls it.
        place: where on the board it is plugged in.
        has_eeprom: it carries a programmed EEPROM.
        serial: its number, which the EEPROM tells.
        degc: the temperature at a sensor.
        is_powered: whether it has power.
        is_legacy_mode: whether the board talks to this place as to a legacy module.
        now_s: the time.

    Attributes:
        is_legacy: a legacy module; its ADC answers in legacy mode only, and any other's only without it. Settable.
        eeprom: None if it has none; `unprogram` empties it.
        broken: sensors that are open or shorted, by ADC channel. Settable.
        sensors: those that are fitted.
        spi: its chips by SPI id.
    """

    def __init__(
        self,
        kind: int,
        place: int,
        *,
        has_eeprom: bool,
        serial: int,
        degc: Callable[[Sensor], float],
        is_powered: Callable[[], bool],
        is_legacy_mode: Callable[[], bool],
        now_s: Callable[[], float],
    ) -> None:
        self.is_legacy = False
        self.broken: dict[int, Literal["open", "shorted"]] = {}
        self.eeprom: Eeprom | None = None
        self.sensors = SENSORS[kind]
        self.spi: dict[int, SpiDevice] = {}
        self._degc = degc
        module_type = MODULE_TYPES.get(kind) if has_eeprom else None
        if module_type is not None:
            self.sensors = module_type.sensors
            self.eeprom = Eeprom(
                EEPROM_BYTES,
                eeprom_content(module_type, serial),
                page_bytes=_PAGE_BYTES,
                is_emulated=True,
                now_s=now_s,
                is_powered=is_powered,
            )
            self.spi[module_eeprom(place)] = self.eeprom
        self._at = {sensor.channel: sensor for sensor in self.sensors}
        if self._at:
            self.spi[module_adc(place)] = Max111xx(
                self._code, lambda: is_powered() and is_legacy_mode() == self.is_legacy
            )

    def unprogram(self) -> None:
        """As a new module comes: an EEPROM that nobody wrote."""
        if self.eeprom is not None:
            self.eeprom.memory[:] = b"\xff" * EEPROM_BYTES

    def _code(self, channel: int) -> int:
        if channel in self.broken:
            return _BROKEN_CODE[self.broken[channel]]
        sensor = self._at.get(channel)
        return 0 if sensor is None else adc_code(sensor.type, self._degc(sensor))
