"""Register map of a front-end board: names for addresses, widths and what they mean.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 1.4 and 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from petqc_drivers.petsys.wire import MemoryRead, MemoryWrite, WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

Access = Literal["r", "w", "rw"]
Unit = Literal["all", "febd", "trigger"]


@dataclass(frozen=True, slots=True)
class Register:
    """One register; little-endian in `n_bytes` bytes from `address`.

    `access` says how host software is known to use it, `unit` which kind of unit has it.
    """

    name: str
    address: int
    bits: int
    access: Access
    unit: Unit
    meaning: str

    @property
    def n_bytes(self) -> int:
        """Bytes it occupies."""
        return (self.bits + 7) // 8

    def read(self) -> MemoryRead:
        """The memory access that reads it."""
        return MemoryRead(self.address, self.n_bytes)

    def write(self, value: int) -> MemoryWrite:
        """The memory access that writes it.

        Raises:
            WireError: If the value does not fit.
        """
        if not 0 <= value < 1 << self.bits:
            raise WireError(f"register {self}: {value:#x} does not fit {self.bits} bits")
        return MemoryWrite(self.address, self.n_bytes, value.to_bytes(self.n_bytes, "little"))

    def decode(self, data: bytes) -> int:
        """The value in the bytes read; bits above the width are dropped."""
        return int.from_bytes(data, "little") & ((1 << self.bits) - 1)

    def __str__(self) -> str:
        return f"0x{self.address:04X} {self.name}"


_TABLE: Final[tuple[tuple[str, int, int, Access, Unit, str], ...]] = (
    ("base_pcb", 0x0000, 16, "r", "all", "base board id"),
    ("fem_type", 0x0002, 16, "r", "febd", "front-end module type"),
    ("firmware_variant", 0x0008, 64, "r", "all", "kind of unit and of module"),
    ("bias_interface", 0x0030, 16, "r", "febd", "bias mezzanine, 4 bits per slot"),
    ("asic_links", 0x0100, 2, "r", "febd", "data links per ASIC minus 1"),
    ("asic_link_speed", 0x0101, 2, "r", "febd", "0 SDR, 1 DDR, 2 2xSDR, 3 2xDDR"),
    ("asic_type", 0x0102, 16, "r", "febd", "must be 2"),
    ("clock_locked", 0x0200, 1, "r", "all", "system clock PLL locked"),
    ("sync", 0x0201, 2, "w", "all", "bit 0 generate a synchronisation, bit 1 accept the master's"),
    ("gate_enable", 0x0202, 1, "w", "all", "external gate"),
    ("time_tag", 0x0203, 46, "r", "all", "clocks since synchronisation"),
    ("test_pulse", 0x020B, 64, "w", "all", "test pulse generator"),
    ("power", 0x0213, 2, "rw", "febd", "bit 0 front-end modules, bit 1 bias supply"),
    ("auxiliary_io", 0x0214, 64, "rw", "febd", "mode of the auxiliary connectors, one byte each"),
    ("power_good", 0x021C, 8, "r", "febd", "bits 2 and 3: lower and upper supply good"),
    ("gate_delay", 0x0294, 10, "w", "all", "external gate delay, clocks"),
    ("trigger_link_calibration", 0x0296, 3, "w", "all", "stage of the trigger link calibration"),
    ("reboot", 0x0299, 1, "rw", "all", "reboot the FPGA from boot_address"),
    ("boot_status", 0x02A0, 32, "r", "all", "boot status"),
    ("legacy_modules", 0x02B8, 8, "rw", "febd", "legacy mode, bit per module"),
    ("clock_filter", 0x02C0, 8, "w", "all", "clock filter select"),
    ("boot_address", 0x02C8, 32, "w", "all", "boot image address"),
    ("trigger_ports", 0x02D0, 64, "w", "trigger", "mask of trigger ports in use"),
    ("uptime", 0x02D8, 64, "r", "all", "since start, clocks of 5 ns"),
    ("pll_lock_time", 0x02E0, 64, "r", "all", "PLL locked for, clocks"),
    ("asic_reset", 0x0300, 1, "w", "febd", "1 holds the ASICs in reset"),
    ("receiver_calibration", 0x0301, 1, "w", "febd", "receiver calibration mode"),
    ("deserialiser_locked", 0x0302, 64, "r", "febd", "bit per chip"),
    ("decoder_good", 0x0310, 64, "r", "febd", "bit per chip"),
    ("receiver_enable", 0x0318, 64, "rw", "febd", "bit per chip"),
    ("code_error_select", 0x0320, 7, "w", "febd", "lane whose code errors are read: links x chip + lane"),
    ("code_errors", 0x0328, 32, "r", "febd", "code errors of the selected lane"),
    ("word_error_select", 0x0330, 7, "w", "febd", "chip whose word errors are read"),
    ("word_errors", 0x0338, 32, "r", "febd", "word errors of the selected chip"),
    ("counter_tag", 0x0348, 8, "w", "febd", "tag of the next channel counter readings"),
    ("next_slave", 0x0400, 1, "r", "all", "a further slave is connected"),
    ("upstream_tx", 0x0401, 64, "r", "all", "words sent upstream"),
    ("upstream_rx", 0x0409, 64, "r", "all", "words received from upstream"),
    ("upstream_rx_bad", 0x0411, 64, "r", "all", "bad words received from upstream"),
    ("downstream_tx", 0x0419, 64, "r", "all", "words sent downstream"),
    ("downstream_rx", 0x0421, 64, "r", "all", "words received from downstream"),
    ("downstream_rx_bad", 0x0429, 64, "r", "all", "bad words received from downstream"),
    ("link_select", 0x0450, 16, "w", "all", "clock and trigger link to look at"),
    ("link_locked", 0x0458, 1, "r", "all", "selected link locked"),
    ("link_value", 0x0460, 16, "r", "all", "selected link value"),
    ("link_errors", 0x0468, 32, "r", "all", "selected link errors"),
    ("upstream_uptime", 0x0470, 64, "r", "all", "upstream link, clocks of 5 ns"),
    ("downstream_uptime", 0x0478, 64, "r", "all", "downstream link, clocks of 5 ns"),
    ("upstream_errors", 0x0480, 64, "r", "all", "errors of the upstream link"),
    ("downstream_errors", 0x0488, 64, "r", "all", "errors of the downstream link"),
    ("trigger_regions", 0x0600, 16, "r", "trigger", "number of trigger regions"),
    ("hardware_trigger", 0x0602, 16, "w", "all", "hardware trigger enable word; 0 lets everything pass"),
    ("group_min_energy", 0x0604, 16, "w", "febd", "unsigned fixed point 7.5"),
    ("coincidence_window", 0x0606, 3, "w", "trigger", "clocks"),
    ("window_before", 0x0608, 2, "w", "trigger", "clocks"),
    ("window_after", 0x060A, 4, "w", "trigger", "clocks"),
    ("singles_acceptance", 0x060C, 32, "w", "trigger", "length << 16 | period"),
    ("group_max_energy", 0x0614, 16, "w", "febd", "unsigned fixed point 7.5"),
    ("group_max_multiplicity", 0x0618, 16, "w", "febd", "hits"),
    ("group_min_multiplicity", 0x061A, 16, "w", "febd", "hits"),
    ("group_window_before", 0x061C, 2, "w", "febd", "clocks"),
    ("group_window_after", 0x061E, 4, "w", "febd", "clocks"),
    ("reference_vectors", 0x0620, 32, "w", "febd", "energy sum, hit sum << 16"),
    ("firmware_revision", 0xFFF0, 64, "r", "all", "firmware revision"),
    ("protocol", 0xFFF8, 64, "r", "all", "protocol version, must equal 0x104"),
)

REGISTERS: Final[Mapping[str, Register]] = MappingProxyType({row[0]: Register(*row) for row in _TABLE})
"""Every known register by name."""

POWER_FEM: Final = 1
POWER_BIAS: Final = 2
"""Bits of the register `power`."""
POWER_GOOD_MASK: Final = 0x0C
"""Bits of the register `power_good` that must both be set."""


def register(name: str) -> Register:
    """The register of that name.

    Raises:
        WireError: If there is none.
    """
    found = REGISTERS.get(name)
    if found is None:
        raise WireError(f"no register is called {name!r}")
    return found


@dataclass(frozen=True, slots=True)
class BoardKind:
    """What base PCB and firmware variant say about a unit (1.4).

    Attributes:
        modules: Front-end modules that fit the board; 0 if the base PCB is not known.
        asics_per_module: 0 if the module is not known.
        bias_slots: Bias mezzanine positions.
        module: Module code, bits 32..47 of the firmware variant.
    """

    base_pcb: int
    firmware_variant: int
    is_febd: bool
    is_trigger: bool
    modules: int
    asics_per_module: int
    bias_slots: int
    module: int

    @property
    def has_trimmed_supplies(self) -> bool:
        """Whether the supplies of the modules are trimmed by software (FEB/D 8K)."""
        return self.base_pcb == FEBD_8K


FEBD_8K: Final = 0x0005
"""Base PCB whose modules have supplies that software trims."""
# base PCB: modules per board, bias slots
_BASES: Final = {0x0000: (8, 1), 0x0001: (8, 1), 0x0002: (8, 1), 0x0003: (1, 0), 0x0004: (2, 0), 0x0005: (16, 2)}
_ASICS_PER_MODULE: Final = {0x0000: 2, 0x0001: 2, 0x0011: 2, 0x0002: 5, 0x0012: 2, 0x0111: 4, 0x0211: 8}
_KINDS: Final = {0x0000: (True, False), 0x0001: (True, True), 0x0002: (False, True)}


def board_kind(base_pcb: int, firmware_variant: int) -> BoardKind:
    """Classify a unit from its two identification registers."""
    is_febd, is_trigger = _KINDS.get(firmware_variant >> 48 & 0xFFFF, (False, False))
    if base_pcb == 0xFFFF:
        is_febd = is_trigger = False
    modules, bias_slots = _BASES.get(base_pcb, (0, 0))
    module = firmware_variant >> 32 & 0xFFFF
    return BoardKind(
        base_pcb=base_pcb,
        firmware_variant=firmware_variant,
        is_febd=is_febd,
        is_trigger=is_trigger,
        modules=modules,
        asics_per_module=_ASICS_PER_MODULE.get(module, 0),
        bias_slots=bias_slots,
        module=module,
    )
