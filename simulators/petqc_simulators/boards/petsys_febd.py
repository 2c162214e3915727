"""One FEB/D with its modules and bias mezzanines: bytes in, bytes out.

No socket and no clock: `handle` answers a datagram, `advance` lets time pass and gives the data datagrams of that time.
A board that shares its detector with others hands over its settings and leaves the frames to whoever joins them.
Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 3 to 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from petqc_drivers.petsys.mezzanines import BIAS_32P, IDENTIFY_BY_PROM
from petqc_drivers.petsys.registers import POWER_BIAS, POWER_FEM, POWER_GOOD_MASK
from petqc_drivers.petsys.spi import SpiRequest, bias_dac, bias_prom, module_adc, spi_reply
from petqc_drivers.petsys.wire import (
    DATA_MARK,
    HANDSHAKE,
    MEMORY_WRITE_OK,
    PROTOCOL_VERSION,
    AsicCommand,
    Command,
    Function,
    MemoryRead,
    Reply,
    WireError,
    memory_read_reply,
    parse_memory_access,
)
from petqc_simulators.boards.asics import CHANNELS, TX_DATA, Asics
from petqc_simulators.boards.bias_prom import prom_content
from petqc_simulators.boards.frame_clock import FrameClock
from petqc_simulators.boards.registers import RegisterFile, WordMemory
from petqc_simulators.boards.spi_devices import (
    Absent,
    Eeprom,
    Ltc2668,
    Max111xx,
    SpiDevice,
    lmt70_code,
    lmt86_code,
    transfer,
)
from petqc_simulators.boards.witness import BiasWitness
from petqc_simulators.physics.detector import BLOCK_S, Controls, Detector, PulseTrain
from petqc_simulators.physics.draw import bias_points
from petqc_simulators.physics.emission import CLOCK_S
from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc_simulators.faults import Fault
    from petqc_simulators.physics.detector import Block
    from petqc_simulators.profile import Profile

WITH_TRIGGER, WITHOUT_TRIGGER = 0x0001, 0x0000
"""Kinds of FEB/D in the firmware variant. Source: section 1.4."""
FIRMWARE_REVISION = 0x0000_0000_2022_0104
ASIC_TYPE = 0x0002
_TX_LINKS = {1: 0, 2: 1, 4: 2}
"""What an ASIC is told that has so many data links."""
REGIONS_OF_BOARD = 4
"""Trigger regions of a FEB/D, each a quarter of its chips; region = 4 x trigger port + quarter in the maps that the
vendor's software makes for a system."""
DATAGRAM_WORDS = 950
"""About 8 kB: larger and smaller datagrams both lose more on a loopback (section 3.5). With headers it stays below
8 KiB, so that Linux charges it as 8 and not as 16 KiB: a socket with the default buffer, such as the vendor's, then
holds 25 of these and of 1023 words only 12."""
COUNTER_WINDOW_S = (1 << 22) * CLOCK_S
_PULSE_PHASES = 336.0
_ROOM_K = (0.0, 0.15, 0.3, 0.45)
"""SiPM sensors of one module differ a little with their place."""


@dataclass(slots=True)
class _Counters:
    """Channel counters of the last finished window, and the tag that they carry."""

    tag: int = 0
    next_tag: int = 0
    ready_s: float = math.inf


class PetsysFebd:
    """The board.

    Args:
        profile: the scanner.
        seed: its detector's seed.
        faults: what is planted.
        witness_path: file for what the bias outputs were told and did.
        number: which of the scanner's boards it is.
        detector: what it shares with the other boards; None: one of its own, of which it sends the frames.

    Attributes:
        detector: the physics behind it.
        share: which part of it is this board's.
        witness: what the bias outputs were told and did.
        elapsed_s: simulated time since the board was started.
        is_in_step: it has been synchronised, and together with the boards that it shares its detector with.
        malformed: datagrams that no command could be made of; they get no answer.
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
    ) -> None:
        if detector is None and profile.hardware.boards > 1:
            raise ProfileError(f"{profile.name}: {profile.hardware.boards} boards share one detector")
        self.profile = profile
        self.share = profile.share(number)
        self.detector = detector or Detector(profile, seed, faults)
        self._frames = FrameClock(self.detector) if detector is None else None
        self.asics = Asics(profile)
        self.registers = RegisterFile()
        self.witness = BiasWitness(profile.outputs_per_board, witness_path)
        self.elapsed_s = 0.0
        self.is_in_step = False
        self.malformed = 0
        self.commands = 0
        self._synchronised_s = 0.0
        self._fem_on_s = math.inf
        self._stale = True
        self._counters = _Counters()
        self._memories: dict[int, WordMemory] = {
            Function.TRIGGER_REGIONS: WordMemory(1),
            Function.TRIGGER_CALIBRATION: WordMemory(5),
        }
        self._rng = np.random.default_rng([seed, 0xB0A2D, *([number] if number else [])])
        self._bias_places = profile.hardware.bias_places(profile.outputs_per_board)
        self._spi: dict[int, SpiDevice] = {
            module_adc(place): Max111xx(lambda channel, m=m: self._temperature_code(m, channel), self._fem_is_on)  # type: ignore[misc]
            for m, place in enumerate(profile.hardware.module_places)
        }
        self._plug_in_mezzanines()
        self._absent = Absent()
        self._place_of_chip = np.full(65, -1)  # the last one stands for all numbers that no chip can have
        self._place_of_chip[self.asics.chips] = np.arange(self.asics.n_chips)
        self._set_up_registers()

    def _plug_in_mezzanines(self) -> None:
        draw = self.detector.draw
        self.dacs: dict[tuple[int, int], Ltc2668] = {}
        for slot, kind in enumerate(self.profile.hardware.mezzanines):
            if kind is not BIAS_32P:
                raise ProfileError(f"{self.profile.name}: mezzanines of kind {kind.name} are not simulated")
            mine = np.array([n for n, (at, _) in enumerate(self._bias_places) if at == slot], np.int64)
            outputs = self.share.outputs.start + mine
            points = bias_points(draw.dac_gain[outputs], draw.dac_offset_v[outputs], kind)
            self._spi[bias_prom(slot)] = Eeprom(1 << 15, prom_content(*points))
            for dac in range(kind.n_channels // kind.channels_per_dac):
                chip = Ltc2668(partial(self._bias_set, slot, dac))
                self._spi[bias_dac(slot, dac)] = self.dacs[slot, dac] = chip

    @property
    def is_streaming(self) -> bool:
        """It sends frames of its own."""
        return self._frames is not None and self._frames.is_running

    def _set_up_registers(self) -> None:
        r, hardware = self.registers, self.profile.hardware
        kind = WITHOUT_TRIGGER if hardware.clock_trigger else WITH_TRIGGER
        bias_interface = 0xFFFF
        for slot in range(len(hardware.bias_slots)):
            bias_interface ^= (0xF ^ IDENTIFY_BY_PROM) << 4 * slot
        for name, value in (
            ("base_pcb", hardware.base_pcb),
            ("firmware_variant", kind << 48 | hardware.module_kind << 32),
            ("firmware_revision", FIRMWARE_REVISION),
            ("protocol", PROTOCOL_VERSION),
            ("bias_interface", bias_interface),
            ("asic_type", ASIC_TYPE),
            ("asic_links", hardware.asic_links - 1),
            ("asic_link_speed", hardware.link_speed),
            ("clock_locked", 1),
            ("trigger_regions", REGIONS_OF_BOARD),
        ):
            r.preset(name, value)
        r.live("time_tag", lambda: int((self.elapsed_s - self._synchronised_s) / CLOCK_S))
        r.live("uptime", lambda: int(self.elapsed_s / CLOCK_S))
        r.live("pll_lock_time", lambda: int(self.elapsed_s / CLOCK_S))
        r.live("power_good", lambda: POWER_GOOD_MASK if self._fem_is_on() else 0)
        r.live("deserialiser_locked", lambda: self._mask(self._is_locked))
        r.live("decoder_good", lambda: self._mask(self._is_sending))
        r.live("word_errors", lambda: self.detector.slices_lost)
        r.listen("sync", self._on_sync)
        r.listen("power", self._on_power)
        r.listen("asic_reset", self._on_asic_reset)
        r.listen("counter_tag", self._on_counter_tag)
        for name in ("receiver_enable", "test_pulse"):
            r.listen(name, self._on_change)

    # -- registers with consequences --------------------------------------------------------------------------------

    def _on_change(self, _value: int) -> None:
        self._stale = True

    def _on_sync(self, value: int) -> None:
        if value & 1:
            # On its own: those that share the detector with it are elsewhere in time.
            self.synchronise(is_in_step=self._frames is not None)

    def synchronise(self, *, is_in_step: bool) -> None:
        """Time tag and frame ids begin at 0; is_in_step says whether those of all others did."""
        if self._frames is not None:
            self._frames.synchronise(self.elapsed_s)
        self._synchronised_s = self.elapsed_s
        self.is_in_step = is_in_step
        self._stale = True
        self.witness.note(self.elapsed_s, "sync")

    def fall_out_of_step(self) -> None:
        """The others were synchronised without it."""
        self.is_in_step = False
        self._stale = True

    def _on_power(self, value: int) -> None:
        is_fem = bool(value & POWER_FEM)
        if is_fem and math.isinf(self._fem_on_s):
            self._fem_on_s = self.elapsed_s
            self.asics.reset()
        elif not is_fem:
            self._fem_on_s = math.inf
        self.witness.note(self.elapsed_s, "supply", on=bool(value & POWER_BIAS), fem=is_fem)
        self._stale = True

    def _on_asic_reset(self, value: int) -> None:
        if value & 1:
            self.asics.reset()
        self._stale = True

    def _on_counter_tag(self, value: int) -> None:
        self._counters.next_tag = value
        self._counters.ready_s = self.elapsed_s + COUNTER_WINDOW_S

    def _bias_set(self, slot: int, dac: int, output: int, code: int) -> None:
        place = slot, self.profile.hardware.mezzanines[slot].channels_per_dac * dac + output
        if place in self._bias_places:
            channel = self._bias_places.index(place)
            volts = float(self._volts_of_codes()[channel])
            self.witness.set_point(self.elapsed_s, channel, code, volts, slot=slot, dac=dac, output=output)
        self._stale = True

    def _volts_of_codes(self) -> NDArray[np.float64]:
        codes = []
        for slot, channel in self._bias_places:
            dac, output = divmod(channel, self.profile.hardware.mezzanines[slot].channels_per_dac)
            codes.append(self.dacs[slot, dac].codes[output])
        return self.detector.draw.output_v(np.array(codes, np.int64), self.share.outputs)

    # -- what is alive ----------------------------------------------------------------------------------------------

    def _fem_is_on(self) -> bool:
        return bool(self.registers.value("power") & POWER_FEM)

    def _asics_are_alive(self) -> bool:
        return self._fem_is_on() and not self.registers.value("asic_reset") & 1

    def _mask(self, holds: Callable[[int], bool]) -> int:
        return sum(1 << chip for place, chip in enumerate(self.asics.chips) if holds(place))

    def _is_locked(self, chip: int) -> bool:
        """A receiver locks to a chip that sends on as many links, and at the rate, that the board expects."""
        return (
            self._asics_are_alive()
            and bool(self.registers.value("receiver_enable") >> self.asics.chips[chip] & 1)
            and self.asics.global_field(chip, "tx_nlinks") == _TX_LINKS[self.profile.hardware.asic_links]
            and self.asics.global_field(chip, "tx_ddr") == self.registers.value("asic_link_speed") & 1
        )

    def _is_sending(self, chip: int) -> bool:
        return self._is_locked(chip) and self.asics.global_field(chip, "tx_mode") == TX_DATA

    def _temperature_code(self, module: int, channel: int) -> int:
        environment = self.profile.environment
        sipm_degc = environment.calibration_degc + float(self.detector.draw.warmer_k[self.share.modules][module])
        # The seed gives the SiPMs' temperature; the sensors of a module sit around it.
        if channel < 4:
            return lmt70_code(sipm_degc + _ROOM_K[channel] - sum(_ROOM_K) / 4 + float(self._rng.normal(0.0, 0.02)))
        if channel < 8:
            powered_s = max(self.elapsed_s - self._fem_on_s, 0.0) if self._fem_is_on() else 0.0
            rise = environment.asic_rise_k * -math.expm1(-powered_s / environment.asic_settle_s)
            return lmt86_code(sipm_degc + 2.0 + rise + float(self._rng.normal(0.0, 0.05)))
        return 0

    # -- commands ---------------------------------------------------------------------------------------------------

    def handle(self, datagram: bytes) -> bytes | None:
        """The answer to one datagram from the host; None if there is none."""
        if datagram == HANDSHAKE:
            return datagram
        try:
            command = Command.from_bytes(datagram)
            payload = self._answer(command)
            if payload is None:
                return None
            self.commands += 1
            return Reply(command.serial, command.function, payload).to_bytes()
        except WireError:
            self.malformed += 1
            return None

    def _answer(self, command: Command) -> bytes | None:
        match command.function:
            case Function.REGISTERS:
                access = parse_memory_access(command.payload)
                if isinstance(access, MemoryRead):
                    return memory_read_reply(self.registers.read(access.address, access.count))
                self.registers.write(access.address, access.data)
                return MEMORY_WRITE_OK
            case Function.ASIC:
                reply = self.asics.answer(AsicCommand.from_bytes(command.payload), is_alive=self._asics_are_alive())
                self._stale |= self.asics.changed
                return reply
            case Function.SPI:
                request = SpiRequest.from_bytes(command.payload)
                sampled = transfer(request, self._spi.get(request.spi_id, self._absent))
                return spi_reply(sampled, request.n_sampled)
            case Function.I2C:
                # Nobody drives the two lines but the master: what it releases reads high.
                return bytes(step & 3 for step in command.payload[2:]) or None
            case Function.CHANNEL_COUNTERS:
                return self._read_counters(command.payload)
            case Function.TRIGGER_REGIONS | Function.TRIGGER_CALIBRATION:
                return self._memories[command.function].answer(command.payload)
            case _:
                return None

    def _read_counters(self, payload: bytes) -> bytes:
        access = parse_memory_access(payload, word_bytes=4)
        if not isinstance(access, MemoryRead):
            raise WireError("channel counters cannot be written")
        if self.elapsed_s >= self._counters.ready_s:
            self._counters.tag, self._counters.ready_s = self._counters.next_tag, math.inf
        tag = self._counters.tag << 24
        counts = np.zeros(access.count, np.int64)
        asked = np.arange(access.address, access.address + access.count)
        place = self._place_of_chip[np.minimum(asked // CHANNELS, self._place_of_chip.size - 1)]
        is_there = place >= 0
        if is_there.any() and self._asics_are_alive():
            counts[is_there] = self._counted(CHANNELS * place[is_there] + asked[is_there] % CHANNELS)
        return memory_read_reply((counts | tag).astype("<u4").tobytes())

    def _counted(self, channels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Clocks in a window during which the selected comparators are over their thresholds, or their transitions."""
        mode, which = self.asics.counter[channels].T
        is_counting = np.array([self.asics.global_field(chip, "counter_en") for chip in range(self.asics.n_chips)])
        is_on = (which <= 2) & (is_counting[channels // CHANNELS] != 0)
        counts = np.zeros(channels.size, np.int64)
        self.hand_over()
        controls = self.detector.controls
        of_detector = self.share.channels.start + channels
        clocks, events = is_on & (mode == 0xF), is_on & (mode == 0xC)
        if clocks.any():
            duty = self.detector.comparator_duty(controls, of_detector[clocks])
            counts[clocks] = self._rng.binomial(1 << 22, duty[np.arange(len(duty)), which[clocks]])
        if events.any():
            rate_hz = self.detector.comparator_dark_hz(controls, of_detector[events])
            counts[events] = self._rng.poisson(rate_hz[np.arange(len(rate_hz)), which[events]] * COUNTER_WINDOW_S)
        return np.minimum(counts, 0xFFFFFF)

    # -- time -------------------------------------------------------------------------------------------------------

    def _controls(self) -> Controls:
        is_bias = self.registers.value("power") & POWER_BIAS
        is_followed = self.is_in_step or self._frames is not None
        sending = np.array([is_followed and self._is_sending(chip) for chip in range(self.asics.n_chips)])
        word = self.registers.value("test_pulse")
        pulse = None
        if word >> 63 & 1:
            length = word & 0x3FF
            pulse = PulseTrain(
                length_clk=length,
                interval_clk=(word >> 10 & 0x1FFFFF) + length + 1,
                phase_clk=(word >> 31 & 0xFFFFFF) / _PULSE_PHASES,
            )
        volts = self._volts_of_codes()
        return Controls(
            bias_v=volts if is_bias else np.zeros_like(volts),
            is_read=np.repeat(sending, CHANNELS),
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

    def hand_over(self) -> None:
        """Give the detector the settings, if they changed."""
        if self._stale:
            self.detector.set(self._controls(), self.share)
            self.asics.changed = False
            self._stale = False

    def watch_bias(self, before_v: NDArray[np.float64], seconds: float) -> None:
        """Note how the bias outputs of the detector moved in the last seconds."""
        mine, now_v = self.share.outputs, self.detector.bias_v
        if before_v is not now_v:
            self.witness.outputs(self.elapsed_s, before_v[mine], now_v[mine], max(seconds, BLOCK_S))

    def advance_blocks(self, seconds: float = 0.0) -> list[Block]:
        """Let simulated time pass; all frames of its own that ended since the last call."""
        self.elapsed_s += seconds
        if self._frames is None:
            return []
        self.hand_over()
        before_v = self.detector.bias_v
        blocks, passed_s = self._frames.advance(self.elapsed_s)
        self.watch_bias(before_v, passed_s)
        return blocks


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
