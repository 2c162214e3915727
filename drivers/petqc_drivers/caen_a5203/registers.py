"""Registers of the board's FPGA: addresses, status bits, conversions, and the board's identity card.

Source: CAEN FERS-5200 direct Ethernet reference, sections "Registers" and "Flash board ID card"; addresses of the
A5203 alone from the register list of CAEN's public FERSlib.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from petqc_drivers.errors import RemoteProtocolError

CLOCK_PS: Final = 12_800.0
"""FPGA clock: of time stamps, dwell time and hold-off."""
LSB_PS: Final = 3.125
"""Of the TDC's times of arrival."""


class Register(IntEnum):
    """Addresses of 32-bit registers."""

    ACQUISITION_CONTROL = 0x0100_0000
    RUN_MASK = 0x0100_0004
    TRIGGER_MASK = 0x0100_0008
    TREF_MASK = 0x0100_000C
    T0_OUT_MASK = 0x0100_0014
    T1_OUT_MASK = 0x0100_0018
    VETO_MASK = 0x0100_001C
    IO_CONTROL = 0x0100_0020
    DWELL_TIME = 0x0100_0050
    TRIGGER_DELAY = 0x0100_0060
    EVENT_FIFO_BUSY = 0x0100_0068
    EVENT_FIFO_SKIP = 0x0100_006C
    TRIGGER_FIFO_FULL = 0x0100_0070
    TRIGGER_HOLD_OFF = 0x0100_007A
    STREAMING_PERIOD = 0x0100_007C
    I2C_ADDRESS = 0x0100_0200
    I2C_DATA = 0x0100_0204
    SPI_DATA = 0x0100_0224
    FIRMWARE_REVISION = 0x0100_0300
    STATUS = 0x0100_0304
    TRIGGERS = 0x0100_0318
    TRIGGERS_REJECTED = 0x0100_031C
    BOARD_TEMPERATURE = 0x0100_0340
    FPGA_TEMPERATURE = 0x0100_0348
    TDC0_TEMPERATURE = 0x0100_0354
    TDC1_TEMPERATURE = 0x0100_0358
    COMMAND = 0x0100_8000
    MICROCONTROLLER_REVISION = 0xF000_0000


class Command(IntEnum):
    """Values of the command register."""

    TIME_RESET = 0x11
    START = 0x12
    STOP = 0x13
    SOFTWARE_TRIGGER = 0x14
    RESET = 0x15
    CLEAR = 0x18


class StatusBit(IntFlag):
    """The status register; also, in 16 bits, part of each service event."""

    READY = 1 << 0
    FAIL = 1 << 1
    RUNNING = 1 << 2
    LINK_SYNCHRONISED = 1 << 3
    FPGA_TOO_HOT = 1 << 4
    TDC_READOUT_ERROR = 1 << 5
    LINK_LOST = 1 << 6
    TDC0_UNLOCKED = 1 << 7
    TDC1_UNLOCKED = 1 << 8
    CLOCK_UNLOCKED = 1 << 9
    LINK_DISABLED = 1 << 10
    TDC0_TOO_HOT = 1 << 11
    TDC1_TOO_HOT = 1 << 12
    BOARD_TOO_HOT = 1 << 13
    CRC_ERROR = 1 << 14
    SPI_BUSY = 1 << 16
    I2C_BUSY = 1 << 17
    I2C_FAILED = 1 << 18


FAULTS: Final = (
    StatusBit.FAIL
    | StatusBit.FPGA_TOO_HOT
    | StatusBit.TDC_READOUT_ERROR
    | StatusBit.TDC0_UNLOCKED
    | StatusBit.TDC1_UNLOCKED
    | StatusBit.CLOCK_UNLOCKED
    | StatusBit.TDC0_TOO_HOT
    | StatusBit.TDC1_TOO_HOT
    | StatusBit.BOARD_TOO_HOT
    | StatusBit.CRC_ERROR
)
"""Bits with which the board's times are not to be believed."""
FAULT_WORDS: Final = {
    StatusBit.FAIL: "the board reports a failure",
    StatusBit.FPGA_TOO_HOT: "the FPGA is too hot",
    StatusBit.TDC_READOUT_ERROR: "the readout of the TDC failed",
    StatusBit.TDC0_UNLOCKED: "TDC 0 has lost its clock",
    StatusBit.TDC1_UNLOCKED: "TDC 1 has lost its clock",
    StatusBit.CLOCK_UNLOCKED: "the reference clock is not locked",
    StatusBit.TDC0_TOO_HOT: "TDC 0 is too hot",
    StatusBit.TDC1_TOO_HOT: "TDC 1 is too hot",
    StatusBit.BOARD_TOO_HOT: "the board is too hot",
    StatusBit.CRC_ERROR: "an error of the configuration memory (CRC)",
}


def faults_of(status: int, *, tdcs: int) -> list[str]:
    """What a status says is wrong, in words; of a board with one TDC nothing is said of the second."""
    unused = StatusBit(0) if tdcs > 1 else StatusBit.TDC1_UNLOCKED | StatusBit.TDC1_TOO_HOT
    return [text for bit, text in FAULT_WORDS.items() if status & bit & ~unused]


class AcquisitionMode(IntEnum):
    """Bits 0 to 7 of the acquisition control."""

    COMMON_START = 0x02
    COMMON_STOP = 0x12
    STREAMING = 0x22
    TRIGGER_MATCHING = 0x32


# Other bits of the acquisition control.
NEW_DATA_QUALIFIER = 1 << 11
ONE_WORD_TRAILER = 1 << 12
"""Of two bits: 0 headers and trailers, 1 one trailer word, 2 none."""
SUPPRESS_EMPTY = 1 << 14
LINK_OFF = 1 << 20
SERVICE_EVENTS = 1 << 21
CHANNELS_128 = 1 << 22

STREAMING_PERIOD_CLK: Final = 1562
"""Clocks of the periodic trigger that cuts a stream into windows: 20 us, which the 24 bits of a time hold."""


def board_degc(raw: int) -> float:
    """Temperature of the board or of a TDC, from a quarter of a degree a step."""
    return (raw & 0x3FF) / 4.0


def board_raw(degc: float) -> int:
    """The inverse of `board_degc`."""
    return min(max(round(degc * 4.0), 0), 0x3FF)


def fpga_degc(raw: int) -> float:
    """Temperature of the FPGA's die."""
    return (raw & 0xFFF) * 503.975 / 4096.0 - 273.15


def fpga_raw(degc: float) -> int:
    """The inverse of `fpga_degc`."""
    return min(max(round((degc + 273.15) * 4096.0 / 503.975), 0), 0xFFF)


CARD_BYTES: Final = 46
"""Of the card that is read."""
CARD_PAGE: Final = 0
FLASH_READ: Final = 0xD2
FLASH_KEEP: Final = 1 << 8
"""Of the SPI register: the chip stays selected."""
FLASH_DUMMY_BYTES: Final = 4
FLASH_PAGE_SHIFT: Final = 10
FERS_CODE: Final = 5203
_CARD: Final = struct.Struct("<2sIHB16s16sBH2x")


@dataclass(frozen=True, slots=True)
class BoardCard:
    """The identity card in the board's flash.

    serial: the product's number (PID). code: 5203. pcb: revision. model, name: as printed. form: form factor.
    channels: 64 or 128.
    """

    serial: int
    code: int
    pcb: int
    model: str
    name: str
    form: int
    channels: int

    def to_bytes(self) -> bytes:
        """As in the flash."""
        texts = (self.model.encode("ascii"), self.name.encode("ascii"))
        return _CARD.pack(b"B\0", self.serial, self.code, self.pcb, *texts, self.form, self.channels)

    @classmethod
    def from_bytes(cls, data: bytes) -> BoardCard:
        """From the flash.

        Raises:
            RemoteProtocolError: There is no card, or it is damaged.
        """
        if len(data) != CARD_BYTES:
            raise RemoteProtocolError(f"a board card has {CARD_BYTES} bytes, not {len(data)}")
        mark, serial, code, pcb, model, name, form, channels = _CARD.unpack(data)
        if mark != b"B\0":
            raise RemoteProtocolError(f"no board card in the flash: it begins with {mark.hex()}")
        try:
            model, name = (text.partition(b"\0")[0].decode("ascii") for text in (model, name))
            return cls(serial, code, pcb, model, name, form, channels)
        except UnicodeDecodeError as error:
            raise RemoteProtocolError(f"the board card is damaged: {error}") from error
