"""One FEB/D with its modules and bias mezzanines: bytes in, bytes out.

No socket and no clock: `handle` answers a datagram, `advance` lets time pass and gives the data datagrams of that time.
A board that shares its detector with others hands over its settings and leaves the frames to whoever joins them.
Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 3 to 6.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc_drivers.petsys.registers import POWER_BIAS, POWER_FEM, POWER_GOOD_MASK
from petqc_drivers.petsys.spi import CLOCK_FILTER, FPGA_FLASH, SpiRequest, spi_reply
from petqc_drivers.petsys.wire import (
    DATA_MARK,
    HANDSHAKE,
    MEMORY_WRITE_OK,
    PROTOCOL_VERSION,
    AsicCommand,
    Command,
    Function,
    MemoryRead,
    WireError,
    memory_read_reply,
    parse_memory_access,
)
from petqc_simulators.boards.asic_links import AsicLinks
from petqc_simulators.boards.asics import CHANNELS, Asics
from petqc_simulators.boards.bias_slots import BiasSlots
from petqc_simulators.boards.channel_counters import ChannelCounters
from petqc_simulators.boards.command_account import CommandAccount
from petqc_simulators.boards.flash import UPDATE_IMAGE_AT, ConfigurationFlash, Si534x, image
from petqc_simulators.boards.frame_clock import FrameClock
from petqc_simulators.boards.hardware_trigger import REGIONS_OF_BOARD, BoardTrigger, HardwareTrigger
from petqc_simulators.boards.i2c_bus import I2cBus
from petqc_simulators.boards.link_errors import LinkErrors
from petqc_simulators.boards.module_places import ModulePlaces
from petqc_simulators.boards.registers import RegisterFile, WordMemory
from petqc_simulators.boards.spi_devices import SpiDevice, transfer
from petqc_simulators.boards.supplies_8k import Supplies8k
from petqc_simulators.boards.tmp104_chain import Tmp104Chain
from petqc_simulators.boards.witness import BiasWitness
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.controls import Controls, PulseTrain
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.electronics import FRAME_CLK
from petqc_simulators.physics.emission import CLOCK_S
from petqc_simulators.profile import MODULE_PLACES, ProfileError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc_simulators.boards.bias_mezzanine import Mezzanine
    from petqc_simulators.boards.front_end_module import FrontEndModule
    from petqc_simulators.faults import Fault
    from petqc_simulators.physics.blocks import Block
    from petqc_simulators.profile import Profile

WITH_TRIGGER, WITHOUT_TRIGGER = 0x0001, 0x0000
"""Kinds of FEB/D in the firmware variant. Source: section 1.4."""
FIRMWARE_REVISION = 0x0000_0000_2022_0104
ASIC_TYPE = 0x0002
DATAGRAM_WORDS = 950
"""About 8 kB: larger and smaller datagrams both lose more on a loopback (section 3.5). With headers it stays below
8 KiB, so that Linux charges it as 8 and not as 16 KiB: a socket with the default buffer, such as the vendor's, then
holds 25 of these and of 1023 words only 12."""
REBOOT_S = 2.0
"""How long a board does not answer after it was told to start again."""
_STARTED, _STARTED_IMAGE, _FELL_BACK = 0x0001, 0x0105, 0x0503
"""Boot status: switched on; started again from an image; told to, but there was none."""
_FEBD_8K = 0x0005
_PULSE_PHASES = 336.0


class PetsysFebd(CommandAccount):
    """The board.

    Args:
        profile: the scanner.
        seed: its detector's seed.
        faults: what is planted.
        witness_path: file for what the bias outputs were told and did.
        number: which of the scanner's boards it is.
        detector: what it shares with the other boards; None: one of its own, of which it sends the frames.
        is_alone: the detector that is given is all its own.

    Attributes:
        detector: the physics behind it.
        frames: when it sees on; None if it shares its detector.
        share: which part of it is this board's.
        asics, modules, mezzanines, supplies, flash: its parts; what can break on them is settable there. `supplies` is
            None but on a FEB/D 8K.
        link_errors: errors of the ASICs' data links.
        trigger: its part of the hardware trigger.
        downstream: the board behind it in the chain, if any.
        witness: what the bias outputs were told and did.
        elapsed_s: simulated time since the board was switched on.
        is_in_step: it has been synchronised, and together with the boards that it shares its detector with.
    """

    def __init__(
        self,
        profile: Profile,
        seed: int,
        faults: Sequence[Fault] = (),
        *,
        witness_path: Path | None = None,
        number: int = 0,
        detector: Detector | None = None,
        is_alone: bool = False,
    ) -> None:
        is_alone |= detector is None
        if is_alone and profile.hardware.boards > 1:
            raise ProfileError(f"{profile.name}: {profile.hardware.boards} boards share one detector")
        super().__init__()
        self.profile = profile
        self.share = profile.share(number)
        self.detector = detector or Detector(profile, seed, faults)
        self.frames = FrameClock(self.detector) if is_alone else None
        self.asics = Asics(profile)
        self.registers = RegisterFile()
        self.witness = BiasWitness(profile.outputs_per_board, witness_path)
        self.elapsed_s = 0.0
        self.is_in_step = False
        self._fed_v: NDArray[np.float64] | None = None
        self.downstream: PetsysFebd | None = None
        self._synchronised_s = 0.0
        self._frames_before = 0
        self._started_s = self._answers_from_s = 0.0
        self._stale = True
        self._rng = np.random.default_rng([seed, 0xB0A2D, *([number] if number else [])])
        self._counters = ChannelCounters(self, self._rng)
        self._links = AsicLinks(self.asics, self.registers, profile.hardware.asic_links, self.asics_are_alive)
        self.link_errors = LinkErrors(self._now_s, self._links.is_deaf, lambda: self.detector.slices_lost)
        self.tmp104 = Tmp104Chain(profile.hardware.tmp104_sensors, lambda _: profile.environment.calibration_degc)
        self._memories: dict[int, WordMemory] = {
            Function.TRIGGER_REGIONS: WordMemory(1),
            Function.TRIGGER_CALIBRATION: WordMemory(5),
        }
        places, _ = MODULE_PLACES[profile.hardware.base_pcb]
        self.trigger = BoardTrigger(
            self.registers, self._memories[Function.TRIGGER_CALIBRATION], places * self.asics.per_module
        )
        self._own_trigger = HardwareTrigger(
            self.registers, self._memories[Function.TRIGGER_REGIONS], [((0, 0), self.trigger)]
        )
        self._module_places = ModulePlaces(self, self._rng)
        self.modules = self._module_places.modules
        self._bias = BiasSlots(
            profile,
            self.detector.draw,
            self.share.outputs,
            self.witness,
            now_s=self._now_s,
            is_supplied=self._bias_is_on,
            on_change=self._changed,
        )
        self.mezzanines = self._bias.mezzanines
        self.flash = ConfigurationFlash(
            {0: image(seed), UPDATE_IMAGE_AT: image(seed + 1)}, lambda command: self._note("flash", command=command)
        )
        self.supplies: Supplies8k | None = None
        if profile.hardware.base_pcb == _FEBD_8K:
            self.supplies = Supplies8k(profile.hardware.supplies, self._module_places.load, self.fem_is_on, self._note)
        parts: list[FrontEndModule | Mezzanine | Supplies8k] = [*self.modules, *self.mezzanines]
        if self.supplies is not None:
            parts.append(self.supplies)
        self._spi: dict[int, SpiDevice] = {FPGA_FLASH: self.flash, CLOCK_FILTER: Si534x()}
        for part in parts:
            self._spi |= part.spi
        self._nobody, self._free_bus = SpiDevice(), I2cBus()
        self._set_up_registers()

    def _now_s(self) -> float:
        return self.elapsed_s

    def _note(self, event: str, **values: Any) -> None:
        self.witness.note(self.elapsed_s, event, **values)

    @property
    def is_streaming(self) -> bool:
        """It sends frames of its own."""
        return self.frames is not None and self.frames.is_running

    def _set_up_registers(self) -> None:
        self._preset_registers(_STARTED)
        r = self.registers
        r.live("time_tag", lambda: int((self.elapsed_s - self._synchronised_s) / CLOCK_S))
        for name in ("uptime", "pll_lock_time", "upstream_uptime"):
            r.live(name, lambda: int((self.elapsed_s - self._started_s) / CLOCK_S))
        r.live("upstream_tx", lambda: self.traffic()[1])
        r.live("upstream_rx", lambda: self.traffic()[0])
        for name, theirs in (("tx", "upstream_rx"), ("rx", "upstream_tx"), ("uptime", "upstream_uptime")):
            r.live(f"downstream_{name}", partial(self._of_downstream, theirs))
        has_power_good = self.supplies is None
        r.live("power_good", lambda: POWER_GOOD_MASK if has_power_good and self.fem_is_on() else 0)
        r.live("deserialiser_locked", self._links.locked_mask)
        r.live("decoder_good", self._links.decoded_mask)
        r.live("word_errors", lambda: self.link_errors.words(r.value("word_error_select")))
        r.live("code_errors", lambda: self.link_errors.codes(*self._links.selected_lane()))
        r.listen("sync", self._on_sync)
        r.listen("power", self._on_power)
        r.listen("asic_reset", self._on_asic_reset)
        r.listen("counter_tag", self._counters.tag)
        r.listen("reboot", self._on_reboot)
        for name in ("receiver_enable", "test_pulse"):
            r.listen(name, lambda _value: self._changed())

    def _preset_registers(self, boot_status: int) -> None:
        hardware = self.profile.hardware
        kind = WITHOUT_TRIGGER if hardware.clock_trigger else WITH_TRIGGER
        for name, value in (
            ("base_pcb", hardware.base_pcb),
            ("fem_type", hardware.module_kind),
            ("firmware_variant", kind << 48 | hardware.module_kind << 32),
            ("firmware_revision", FIRMWARE_REVISION),
            ("protocol", PROTOCOL_VERSION),
            ("bias_interface", self._bias.interface),
            ("asic_type", ASIC_TYPE),
            ("asic_links", hardware.asic_links - 1),
            ("asic_link_speed", hardware.link_speed),
            ("clock_locked", 1),
            ("boot_status", boot_status),
            ("next_slave", self.downstream is not None),
            ("trigger_regions", REGIONS_OF_BOARD),
        ):
            self.registers.preset(name, value)

    def chain(self, downstream: PetsysFebd) -> None:
        """Connect another board behind this one."""
        self.downstream = downstream
        self.registers.preset("next_slave", 1)

    # -- registers with consequences --------------------------------------------------------------------------------

    def _changed(self) -> None:
        self._stale = True

    def _on_sync(self, value: int) -> None:
        if value & 1:
            # On its own: those that share the detector with it are elsewhere in time.
            self.synchronise(is_in_step=self.frames is not None)

    def synchronise(self, *, is_in_step: bool) -> None:
        """Time tag and frame ids begin at 0; is_in_step says whether those of all others did."""
        self._frames_before += self._frames_since()
        if self.frames is not None:
            self.frames.synchronise(self.elapsed_s)
        self._synchronised_s = self.elapsed_s
        self.is_in_step = is_in_step
        self._stale = True
        self.witness.note(self.elapsed_s, "sync")

    def fall_out_of_step(self) -> None:
        """The others were synchronised without it."""
        self._frames_before += self._frames_since()
        self.is_in_step = False
        self._stale = True

    def _on_power(self, value: int) -> None:
        is_fem, is_bias = bool(value & POWER_FEM), bool(value & POWER_BIAS)
        if self._module_places.switched(is_on=is_fem):
            self.asics.reset()
        for mezzanine in self.mezzanines:
            mezzanine.supply_switched(is_on=is_bias)
        self._note("supply", on=is_bias, fem=is_fem)
        self._load_changed()

    def _on_asic_reset(self, value: int) -> None:
        if value & 1:
            self.asics.reset()
        self._load_changed()

    def _load_changed(self) -> None:
        self._stale = True
        if self.supplies is not None:
            self.supplies.look()

    def _on_reboot(self, value: int) -> None:
        """Start again: everything is as after switching on, and for a while nobody answers."""
        if not value & 1:
            return
        has_image = self.flash.has_image(self.registers.value("boot_address"))
        self.registers.clear()
        self._preset_registers(_STARTED_IMAGE if has_image else _FELL_BACK)
        self._note("reboot")
        self._on_power(0)
        self.fall_out_of_step()
        self._started_s = self._synchronised_s = self._answers_from_s = self.elapsed_s + REBOOT_S
        self.link_errors.restart()
        self._counters.restart()
        if self.frames is not None:
            self.frames.stop()

    # -- what is alive ----------------------------------------------------------------------------------------------

    def _of_downstream(self, name: str) -> int:
        return 0 if self.downstream is None else self.downstream.registers.number(name)

    def traffic(self) -> tuple[int, int]:
        """Commands that came so far, and replies and frames that went; those of boards behind it pass through it."""
        received, sent = (0, 0) if self.downstream is None else self.downstream.traffic()
        frames = self._frames_before + self._frames_since()
        return received + self.commands + self.unanswered, sent + self.commands + frames

    def _frames_since(self) -> int:
        """Frames since the last synchronisation; none before the first one."""
        is_sending = self.is_in_step if self.frames is None else self.frames.is_running
        return int((self.elapsed_s - self._synchronised_s) / (FRAME_CLK * CLOCK_S)) if is_sending else 0

    def fem_is_on(self) -> bool:
        """Whether the modules have power."""
        return bool(self.registers.value("power") & POWER_FEM)

    def _bias_is_on(self) -> bool:
        return bool(self.registers.value("power") & POWER_BIAS)

    def asics_are_alive(self) -> bool:
        """Whether they have power and are out of reset."""
        return self.fem_is_on() and not self.registers.value("asic_reset") & 1

    # -- commands ---------------------------------------------------------------------------------------------------

    def handle(self, datagram: bytes) -> bytes | None:
        """The answer to one datagram from the host; None if there is none, which is counted."""
        if self.elapsed_s < self._answers_from_s:
            self.unanswered += 1
            return None
        if datagram == HANDSHAKE:
            return datagram
        return self.reply_to(datagram, self._answer)

    def _answer(self, command: Command) -> bytes | None:
        match command.function:
            case Function.REGISTERS:
                access = parse_memory_access(command.payload)
                if isinstance(access, MemoryRead):
                    return memory_read_reply(self.registers.read(access.address, access.count))
                self.registers.write(access.address, access.data)
                return MEMORY_WRITE_OK
            case Function.ASIC:
                reply = self.asics.answer(AsicCommand.from_bytes(command.payload), is_alive=self.asics_are_alive())
                self._stale |= self.asics.changed
                return reply
            case Function.SPI:
                request = SpiRequest.from_bytes(command.payload)
                sampled = transfer(request, self._spi.get(request.spi_id, self._nobody))
                return spi_reply(sampled, request.n_sampled)
            case Function.I2C:
                return self._i2c(command.payload)
            case Function.TMP104:
                return self.tmp104.answer(command.payload)
            case Function.CHANNEL_COUNTERS:
                return self._counters.answer(command.payload)
            case Function.TRIGGER_REGIONS | Function.TRIGGER_CALIBRATION:
                return self._memories[command.function].answer(command.payload)
            case _:
                raise WireError(f"no function {command.function:#04x}")

    def _i2c(self, payload: bytes) -> bytes:
        if len(payload) <= 2:
            raise WireError("I2C command without steps")
        bus, found = int.from_bytes(payload[:2], "big"), self._free_bus
        if self.supplies is not None and bus in self.supplies.buses:
            found = self.supplies.buses[bus].i2c
        return found.run(payload[2:])

    # -- time -------------------------------------------------------------------------------------------------------

    def _controls(self) -> Controls:
        is_followed = self.is_in_step or self.frames is not None
        word = self.registers.value("test_pulse")
        pulse = None
        if word >> 63 & 1:
            length = word & 0x3FF
            pulse = PulseTrain(
                length_clk=length,
                interval_clk=(word >> 10 & 0x1FFFFF) + length + 1,
                phase_clk=(word >> 31 & 0xFFFFFF) / _PULSE_PHASES,
            )
        return Controls(
            bias_v=self._bias.volts() if self._fed_v is None else self._fed_v,
            is_read=np.repeat(self._links.sending() & is_followed, CHANNELS),
            trigger_mode=self.asics.mode.copy(),
            vth=self.asics.vth.copy(),
            baseline=self.asics.baseline.copy(),
            is_charge=self.asics.is_charge.copy(),
            integration=self.asics.integration.copy(),
            test_pulse=pulse,
        )

    def let_pass(self, seconds: float) -> None:
        """Let simulated time pass for the clocks; what the detector saw in it comes with the next `advance`."""
        self.elapsed_s += seconds

    def advance(self, seconds: float = 0.0) -> list[bytes]:
        """Let simulated time pass; the data datagrams of all frames that ended since the last call."""
        return [datagram for block in self.advance_blocks(seconds) for datagram in data_datagrams(block)]

    def feed_bias(self, volts: NDArray[np.float64]) -> None:
        """Take the bias from supplies beside the board; (outputs of this board,)."""
        self._fed_v = volts
        self._changed()

    def hand_over(self) -> None:
        """Give the detector the settings, if they changed."""
        if self._stale:
            self.detector.set(self._controls(), self.share)
            self.asics.changed = False
            self._stale = False

    def watch_bias(self, before_v: NDArray[np.float64], now_v: NDArray[np.float64], seconds: float) -> None:
        """Note how the bias outputs of the detector moved in the last seconds."""
        mine = self.share.outputs
        if before_v is not now_v:
            self.witness.outputs(self.elapsed_s, before_v[mine], now_v[mine], max(seconds, BLOCK_S))

    def advance_blocks(self, seconds: float = 0.0) -> list[Block]:
        """Let simulated time pass; all frames of its own that ended since the last call."""
        self.elapsed_s += seconds
        if self.frames is None:
            return []
        if self.frames.is_free:
            self.hand_over()
        before_v = self.frames.bias_v
        blocks, passed_s = self.frames.advance(self.elapsed_s)
        self.watch_bias(before_v, self.frames.bias_v, passed_s)
        return [self._own_trigger.pass_on(block) for block in blocks]


def data_datagrams(block: Block) -> list[bytes]:
    """The block's frames, whole, in datagrams of about 8 kB."""
    datagrams = []
    starts, place = block.starts, 0
    last = starts.size - 1
    mark = bytes((DATA_MARK,))
    while place < last:
        end = int(np.searchsorted(starts, starts[place] + DATAGRAM_WORDS, side="right")) - 1
        end = max(end, place + 1)
        datagrams.append(mark + block.words[starts[place] : starts[end]].astype("<u8", copy=False).tobytes())
        place = end
    return datagrams
