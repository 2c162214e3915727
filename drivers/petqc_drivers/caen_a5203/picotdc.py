"""The picoTDC behind the FPGA: its registers over I2C, and what powers it up and makes it time leading edges.

Source: register list and power-up sequence of CAEN's public FERSlib (A5203), which follow CERN's picoTDC manual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHANNELS: Final = 64
I2C_READ: Final = 1 << 16
"""Of the I2C address register."""
_I2C_FIRST: Final = 0x63
_I2C_SHIFT: Final = 17
LOCK_S: Final = 0.01
"""How long PLL and DLL take to lock."""


@dataclass(frozen=True, slots=True)
class TdcRegister:
    """One register: address, and fields as (lowest bit, width)."""

    address: int
    fields: Mapping[str, tuple[int, int]]

    def value(self, **given: int) -> int:
        """The register with these fields and all others 0.

        Raises:
            LocalProtocolError: A value does not fit its field.
        """
        found = 0
        for name, number in given.items():
            first, width = self.fields[name]
            if not 0 <= number < 1 << width:
                raise LocalProtocolError(f"picoTDC {name} = {number} does not fit {width} bits")
            found |= number << first
        return found


CONTROL = TdcRegister(0x0004, {"magic": (0, 8), "digital_reset": (8, 1)})
ENABLE = TdcRegister(
    0x0008, {"falling": (1, 1), "high_resolution": (5, 1), "crossing": (17, 1), "receive_trigger": (21, 1)}
)
HEADER = TdcRegister(0x000C, {"untriggered": (0, 1), "relative": (2, 1), "fields0": (8, 3), "fields1": (12, 3)})
TRIGGER_WINDOW = TdcRegister(0x0010, {"latency": (0, 13), "width": (16, 13)})
TRIGGER0_TOT = TdcRegister(0x0014, {"tot": (16, 1)})
BUNCH_COUNT = TdcRegister(0x0018, {"overflow": (0, 13)})
EVENT_ID = TdcRegister(0x001C, {"overflow": (0, 13)})
CHANNEL = TdcRegister(0x0020, {"offset": (0, 26), "falling": (26, 1), "high_resolution": (27, 1), "enable": (31, 1)})
"""Of channel 0; four bytes further for each one."""
BUFFERS = TdcRegister(
    0x0120,
    {
        "channel_size": (0, 4),
        "readout_size": (4, 4),
        "trigger_size": (8, 4),
        "keep_when_full": (12, 1),
        "counters_saturate": (13, 1),
    },
)
HIT_RECEIVERS = TdcRegister(
    0x0124,
    {
        "top_bias": (4, 4),
        "top_enable_right": (10, 1),
        "top_enable": (11, 1),
        "bottom_bias": (16, 4),
        "bottom_enable_right": (22, 1),
        "bottom_enable": (23, 1),
        "strength": (24, 2),
    },
)
DLL = TdcRegister(0x0128, {"bias": (0, 7), "fix_control": (19, 1)})
PLL1 = TdcRegister(0x0130, {"charge_pump": (1, 7), "resistor": (18, 5)})
PLL2 = TdcRegister(0x0134, {"calibration": (9, 4), "start": (13, 1), "reset": (14, 1)})
CLOCKS = TdcRegister(0x0138, {"hit_phase": (0, 2), "readout_speed": (16, 2), "readout_phase": (20, 3), "sync": (23, 1)})
CLOCK_SHIFT = TdcRegister(0x013C, {"shift_1g28": (4, 4)})
RECEIVERS_LOW = TdcRegister(0x0140, {"enable": (0, 32)})
RECEIVERS_HIGH = TdcRegister(0x0144, {"enable": (0, 32)})
MAGIC: Final = 0x5C
"""In the control register: everything on."""


@dataclass(frozen=True, slots=True)
class Step:
    """One write of a sequence, and how long to wait after it."""

    address: int
    value: int
    wait_s: float = 0.0


def i2c_address(tdc: int, register: int, *, read: bool = False) -> int:
    """What goes into the FPGA's I2C address register.

    Raises:
        LocalProtocolError: There is no such TDC or register.
    """
    if tdc not in {0, 1} or not 0 <= register <= 0xFFFF:
        raise LocalProtocolError(f"no register {register:#x} of TDC {tdc}")
    return (_I2C_FIRST - tdc) << _I2C_SHIFT | (I2C_READ if read else 0) | register


def parse_i2c_address(value: int) -> tuple[int, int, bool]:
    """The I2C device's address, its register, and whether it is read."""
    return value >> _I2C_SHIFT & 0x7F, value & 0xFFFF, bool(value & I2C_READ)


def tdc_of(device: int) -> int | None:
    """Which TDC an I2C address is; None: none."""
    tdc = _I2C_FIRST - device
    return tdc if tdc in {0, 1} else None


def power_up(channels: Sequence[int], *, period_clk: int) -> list[Step]:
    """Everything that makes a TDC time the leading edges of these of its 64 channels, in order.

    Args:
        channels: 0 to 63, of this TDC.
        period_clk: FPGA clocks of a window of the stream; the TDC's clock is half as fast.

    Raises:
        LocalProtocolError: A channel is none.
    """
    if any(not 0 <= c < CHANNELS for c in channels):
        raise LocalProtocolError(f"TDC channels are 0 to {CHANNELS - 1}, not {sorted(channels)}")
    enabled = set(channels)
    pll2, dll = {"calibration": 6}, {"bias": 2}
    fixed = [
        Step(ENABLE.address, ENABLE.value(high_resolution=1, crossing=1, receive_trigger=1)),
        Step(BUNCH_COUNT.address, BUNCH_COUNT.value(overflow=0x1FFF)),
        Step(EVENT_ID.address, EVENT_ID.value(overflow=0x1FFF)),
        Step(
            BUFFERS.address,
            BUFFERS.value(channel_size=7, readout_size=7, trigger_size=7, keep_when_full=1, counters_saturate=1),
        ),
        Step(
            HIT_RECEIVERS.address,
            HIT_RECEIVERS.value(
                top_bias=0xF, top_enable=1, top_enable_right=1, bottom_bias=0xF, bottom_enable=1,
                bottom_enable_right=1, strength=3,
            ),
        ),
        Step(PLL1.address, PLL1.value(charge_pump=0x53, resistor=0x1E)),
        Step(CLOCKS.address, CLOCKS.value(hit_phase=1, readout_speed=2, readout_phase=4, sync=1)),
        Step(CLOCK_SHIFT.address, CLOCK_SHIFT.value(shift_1g28=2)),
        Step(TRIGGER0_TOT.address, 0),
    ]  # fmt: skip
    locking = [
        Step(PLL2.address, PLL2.value(**pll2, reset=1)),
        Step(PLL2.address, PLL2.value(**pll2, start=1), LOCK_S),
        Step(PLL2.address, PLL2.value(**pll2)),
        Step(DLL.address, DLL.value(**dll, fix_control=1), LOCK_S),
        Step(DLL.address, DLL.value(**dll)),
        Step(CONTROL.address, CONTROL.value(magic=MAGIC, digital_reset=1)),
        Step(CONTROL.address, CONTROL.value(magic=MAGIC)),
    ]
    half = period_clk // 2
    masks = [sum(1 << (c - first) for c in enabled if first <= c < first + 32) for first in (0, 32)]
    return [
        *fixed,
        *locking,
        Step(HEADER.address, HEADER.value(relative=1, fields0=4, fields1=5)),
        Step(TRIGGER_WINDOW.address, TRIGGER_WINDOW.value(width=half - 1, latency=half + 1)),
        Step(RECEIVERS_LOW.address, masks[0]),
        Step(RECEIVERS_HIGH.address, masks[1]),
        *(
            Step(CHANNEL.address + 4 * c, CHANNEL.value(high_resolution=1, enable=int(c in enabled)))
            for c in range(CHANNELS)
        ),
    ]
