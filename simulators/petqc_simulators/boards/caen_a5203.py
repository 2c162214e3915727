"""The wire side of a CAEN A5203: registers, commands, the TDCs behind I2C, the flash card, and the stream of events.

What it measures are edges at its inputs, given to it as times; what they come from is not its business. Nothing here
knows sockets or clocks: `handle` answers requests, `advance` lets time pass and returns what the board sends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc_drivers.caen_a5203 import picotdc
from petqc_drivers.caen_a5203.events import SERVICE, RawEvent, ServiceEvent, service_payload
from petqc_drivers.caen_a5203.registers import (
    CARD_BYTES,
    CARD_PAGE,
    FERS_CODE,
    FLASH_DUMMY_BYTES,
    FLASH_KEEP,
    FLASH_PAGE_SHIFT,
    FLASH_READ,
    LSB_PS,
    NEW_DATA_QUALIFIER,
    ONE_WORD_TRAILER,
    SERVICE_EVENTS,
    SUPPRESS_EMPTY,
    AcquisitionMode,
    BoardCard,
    Command,
    Register,
    StatusBit,
    board_raw,
    fpga_raw,
)
from petqc_drivers.caen_a5203.wire import MemoryRead, MemoryWrite, parse_request, word
from petqc_drivers.errors import RemoteProtocolError
from petqc_simulators.boards.caen_a5203_windows import Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

TDC_SIGMA_PS: Final = 4.0
"""Noise of one edge."""
UNLOCKED_SIGMA_PS: Final = 2000.0
"""Noise of one edge while the reference clock is not locked."""
SERVICE_EVERY_S: Final = 1.0
TOO_HOT_DEGC: Final = 80.0
_FPGA_K, _BOARD_K, _TDC_K = 28.0, 12.0, (17.0, 18.0)
"""How much warmer than the room they are."""
_TOO_HOT: Final = (
    (StatusBit.FPGA_TOO_HOT, _FPGA_K),
    (StatusBit.BOARD_TOO_HOT, _BOARD_K),
    (StatusBit.TDC0_TOO_HOT, _TDC_K[0]),
    (StatusBit.TDC1_TOO_HOT, _TDC_K[1]),
)
_HEADER_MODE = 3 << 12
_UNKNOWN: Final = 1
"""Answer to a write that is refused."""
_PS_PER_CLK = 12_800


@dataclass(slots=True)
class _Tdc:
    """One picoTDC: what was written, and whether PLL and DLL were started."""

    registers: dict[int, int] = field(default_factory=dict)
    pll_started: bool = False
    dll_fixed: bool = False

    def write(self, address: int, value: int) -> None:
        self.registers[address] = value
        start, _ = picotdc.PLL2.fields["start"]
        fix, _ = picotdc.DLL.fields["fix_control"]
        self.pll_started |= address == picotdc.PLL2.address and bool(value >> start & 1)
        self.dll_fixed |= address == picotdc.DLL.address and bool(value >> fix & 1)

    @property
    def is_locked(self) -> bool:
        """Locked and switched on."""
        control = self.registers.get(picotdc.CONTROL.address, 0)
        return self.pll_started and self.dll_fixed and control & 0xFF == picotdc.MAGIC and not control >> 8 & 1

    def is_enabled(self, channel: int) -> bool:
        """Whether a channel's receiver and measurement are on."""
        half = picotdc.RECEIVERS_LOW if channel < 32 else picotdc.RECEIVERS_HIGH
        receiver = self.registers.get(half.address, 0) >> channel % 32 & 1
        return bool(receiver and self.registers.get(picotdc.CHANNEL.address + 4 * channel, 0) >> 31)


@dataclass(slots=True)
class Environment:
    """What the world does to the board; changed from outside at any time.

    reference_lost: the external clock is gone. reference_ppm: how much faster it runs than nominal.
    """

    ambient_degc: float = 25.0
    reference_lost: bool = False
    reference_ppm: float = 0.0


class CaenA5203Board:
    """One board.

    Args:
        serial: number on its card (PID).
        channels: 64 or 128.
        seed: of its noise.
    """

    def __init__(self, serial: int = 52_030_001, channels: int = 64, *, seed: int = 1) -> None:
        model = "WA5203XAAAAA" if channels == picotdc.CHANNELS else "WA5203BXAAAA"
        self.card = BoardCard(serial, FERS_CODE, 2, model, "A5203", 0, channels)
        self.environment = Environment()
        self.rejected = 0
        self.events_sent = 0
        self._rng = np.random.default_rng([5203, seed])
        self._held = b""
        self._flash: list[int] = []
        self._flash_answer = 0
        self._now_ps = 0
        self._service_ps = 0
        self._window = 0
        self._pending: tuple[NDArray[np.int64], NDArray[np.int64]] = (np.empty(0, np.int64), np.empty(0, np.int64))
        self._reset()

    def _reset(self) -> None:
        self.registers: dict[int, int] = {int(r): 0 for r in Register}
        self.registers[Register.FIRMWARE_REVISION] = 0x0000_0106
        self.registers[Register.MICROCONTROLLER_REVISION] = 0x0000_0102
        self._tdcs = [_Tdc() for _ in range(self.card.channels // picotdc.CHANNELS)]
        self._is_running = False
        self._i2c_failed = False
        self._clear()

    def _clear(self) -> None:
        self._window, self._sent_windows, self._suppressed = 0, 0, 0
        self._zero_ps = self._now_ps
        self._pending = (np.empty(0, np.int64), np.empty(0, np.int64))

    # -- requests ---------------------------------------------------------------------------------------------------

    def handle(self, data: bytes) -> bytes:
        """Answers to the requests that are whole with these bytes.

        Raises:
            RemoteProtocolError: What came is no request; a board drops such a client.
        """
        self._held += data
        answers = bytearray()
        while True:
            try:
                request, length = parse_request(self._held)
            except RemoteProtocolError:
                self._held = b""
                self.rejected += 1
                raise
            if request is None:
                return bytes(answers)
            self._held = self._held[length:]
            answers += self._read(request) if isinstance(request, MemoryRead) else self._write(request)

    def forget(self) -> None:
        """The client has gone, in the middle of a request perhaps."""
        self._held = b""

    def _read(self, request: MemoryRead) -> bytes:
        values = (self._value(request.address + k) for k in range(0, request.n_bytes, 4))
        return b"".join(word(value) for value in values)[: request.n_bytes]

    def _write(self, request: MemoryWrite) -> bytes:
        if len(request.data) % 4 or (request.address % 4 and request.address not in self.registers):
            return word(_UNKNOWN)
        for k in range(0, len(request.data), 4):
            self._set(request.address + k, int.from_bytes(request.data[k : k + 4], "little"))
        return word(0)

    def _value(self, address: int) -> int:
        ambient = self.environment.ambient_degc
        degc = {
            Register.BOARD_TEMPERATURE: board_raw(ambient + _BOARD_K),
            Register.TDC0_TEMPERATURE: board_raw(ambient + _TDC_K[0]),
            Register.TDC1_TEMPERATURE: board_raw(ambient + _TDC_K[1]),
            Register.FPGA_TEMPERATURE: fpga_raw(ambient + _FPGA_K),
        }
        if address in degc:
            return degc[Register(address)]
        if address == Register.STATUS:
            return self.status
        if address == Register.SPI_DATA:
            return self._flash_answer
        if address == Register.TRIGGERS:
            return (self._sent_windows + self._suppressed) & 0xFFFF_FFFF
        return self.registers.get(address, 0)

    def _set(self, address: int, value: int) -> None:
        if address == Register.COMMAND:
            self._command(value)
        elif address == Register.SPI_DATA:
            self._spi(value)
        else:
            self.registers[address] = value
            if address == Register.I2C_ADDRESS:
                self._i2c(value)

    def _command(self, value: int) -> None:
        if value == Command.RESET:
            self._reset()
        elif value == Command.START:
            self._is_running, self._service_ps = True, self._now_ps
        elif value == Command.STOP:
            self._is_running = False
        elif value in {Command.CLEAR, Command.TIME_RESET}:
            self._clear()

    def _i2c(self, value: int) -> None:
        device, register, is_read = picotdc.parse_i2c_address(value)
        number = picotdc.tdc_of(device)
        self._i2c_failed = number is None or number >= len(self._tdcs)
        if number is None or self._i2c_failed:
            return
        if is_read:
            self.registers[Register.I2C_DATA] = self._tdcs[number].registers.get(register, 0)
        else:
            self._tdcs[number].write(register, self.registers[Register.I2C_DATA])

    def _spi(self, value: int) -> None:
        self._flash.append(value & 0xFF)
        self._flash_answer = 0
        first = 4 + FLASH_DUMMY_BYTES
        if self._flash[0] == FLASH_READ and len(self._flash) > first:
            page = int.from_bytes(bytes(self._flash[1:4]), "big") >> FLASH_PAGE_SHIFT
            at = len(self._flash) - first - 1
            card = self.card.to_bytes() if page == CARD_PAGE else b""
            self._flash_answer = card[at] if at < min(len(card), CARD_BYTES) else 0xFF
        if not value & FLASH_KEEP:
            self._flash.clear()

    @property
    def status(self) -> int:
        """The status register."""
        found = StatusBit.READY
        if self._is_running:
            found |= StatusBit.RUNNING
        if self._i2c_failed:
            found |= StatusBit.I2C_FAILED
        if self._is_external and self.environment.reference_lost:
            found |= StatusBit.CLOCK_UNLOCKED
        for bit, tdc in zip((StatusBit.TDC0_UNLOCKED, StatusBit.TDC1_UNLOCKED), self._tdcs, strict=False):
            if not tdc.is_locked:
                found |= bit
        for bit, warmer_k in _TOO_HOT[: 2 + len(self._tdcs)]:
            if self.environment.ambient_degc + warmer_k > TOO_HOT_DEGC:
                found |= bit
        return int(found)

    @property
    def _is_external(self) -> bool:
        return bool(self.registers[Register.IO_CONTROL] & 0x4)

    # -- events -----------------------------------------------------------------------------------------------------

    def advance(self, seconds: float, inputs: NDArray[np.int64], times_ps: NDArray[np.int64]) -> bytes:
        """Let time pass; what the board sends in it.

        Args:
            seconds: how long.
            inputs: (n,) input of each edge of this time.
            times_ps: (n,) when, since its beginning, in order; an edge may come a little after its end.
        """
        begin_ps, self._now_ps = self._now_ps, self._now_ps + round(seconds * 1e12)
        sent = bytearray()
        if self._is_running:
            sent += self._stream(inputs, begin_ps + times_ps)
            while self._now_ps - self._service_ps >= SERVICE_EVERY_S * 1e12:
                self._service_ps += round(SERVICE_EVERY_S * 1e12)
                sent += self.service()
        return bytes(sent)

    def _stream(self, inputs: NDArray[np.int64], at_ps: NDArray[np.int64]) -> bytes:
        control = self.registers[Register.ACQUISITION_CONTROL]
        period_ps = self.registers[Register.STREAMING_PERIOD] * _PS_PER_CLK
        if control & 0xFF != AcquisitionMode.STREAMING or not control & NEW_DATA_QUALIFIER or not period_ps:
            return b""
        keep = np.isin(inputs, [c for c in np.unique(inputs) if self._is_timed(int(c))])
        fresh = (at_ps - self._zero_ps)[keep]
        fresh = np.rint(fresh * (1.0 + 1e-6 * self._ppm) + self._noise(fresh.size)).astype(np.int64)
        channel, time_ps = (np.concatenate(pair) for pair in zip(self._pending, (inputs[keep], fresh), strict=True))
        done = (self._now_ps - self._zero_ps) // period_ps
        window = time_ps // period_ps
        waits = window >= done
        self._pending = channel[waits], time_ps[waits]
        ready = ~waits & (window >= self._window)
        channel, time_ps, window = channel[ready], time_ps[ready], window[ready]
        shown = np.unique(window) if control & SUPPRESS_EMPTY else np.arange(self._window, done)
        self._suppressed += int(done - self._window - shown.size)
        self._sent_windows += shown.size
        self._window = int(done)
        toa = np.floor((time_ps - window * period_ps) / LSB_PS).astype(np.int64)
        tdc = channel // picotdc.CHANNELS
        order = np.lexsort((time_ps, tdc, window))
        self.events_sent += shown.size
        windows = Windows(
            shown,
            self.registers[Register.STREAMING_PERIOD],
            len(self._tdcs),
            place=np.searchsorted(shown, window[order]),
            tdc=tdc[order],
            channel=channel[order] % picotdc.CHANNELS,
            toa=toa[order],
        )
        mode = control & _HEADER_MODE
        return windows.plain(has_trailer=mode == ONE_WORD_TRAILER) if mode else windows.of_ports()

    def service(self) -> bytes:
        """What a running board says of itself, once a second."""
        if not self._is_running or not self.registers[Register.ACQUISITION_CONTROL] & SERVICE_EVENTS:
            return b""
        ambient = self.environment.ambient_degc
        clk = (self._now_ps - self._zero_ps) // _PS_PER_CLK
        event = ServiceEvent(
            timestamp_clk=int(clk),
            status=self.status & 0xFFFF,
            fpga_degc=ambient + _FPGA_K,
            board_degc=ambient + _BOARD_K,
            tdc_degc=(ambient + _TDC_K[0], ambient + _TDC_K[1]),
            almost_full=0,
            readout_flags=0,
            triggers_rejected=0,
            triggers=self._sent_windows + self._suppressed,
            triggers_suppressed=self._suppressed,
            tdc_status=0,
        )
        return RawEvent(SERVICE, 0, int(clk), service_payload(event)).to_bytes()

    def _is_timed(self, input_: int) -> bool:
        tdc, channel = divmod(input_, picotdc.CHANNELS)
        return tdc < len(self._tdcs) and self._tdcs[tdc].is_locked and self._tdcs[tdc].is_enabled(channel)

    @property
    def _ppm(self) -> float:
        return self.environment.reference_ppm if self._is_external else 0.0

    def _noise(self, n: int) -> NDArray[np.float64]:
        is_free = self._is_external and self.environment.reference_lost
        return self._rng.normal(0.0, UNLOCKED_SIGMA_PS if is_free else TDC_SIGMA_PS, n)

    def state(self) -> dict[str, Any]:
        """For a state file."""
        return {
            "serial": self.card.serial,
            "is_running": self._is_running,
            "status": self.status,
            "events_sent": self.events_sent,
            "requests_rejected": self.rejected,
            "environment": {
                "ambient_degc": self.environment.ambient_degc,
                "reference_lost": self.environment.reference_lost,
                "reference_ppm": self.environment.reference_ppm,
            },
        }
