"""A detector that is a recording: what it sees was seen before, by another one.

Boards take it for any other detector. Frames come while the bias outputs that the recording's configuration names are
where it says, as on the day; before that they are empty. What was not recorded is not made up: pulses of the
generator, counts at other thresholds and everything after the end are silence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc_simulators.hit_faults import HitFaults
from petqc_simulators.physics.blocks import BLOCK_FRAMES, BLOCK_S, Block
from petqc_simulators.physics.controls import MODE_NORMAL, Controls
from petqc_simulators.physics.detector import Detector
from petqc_simulators.physics.draw import stream
from petqc_simulators.physics.electronics import ACCEPTED
from petqc_simulators.profile import ProfileError
from petqc_simulators.recorded_frames import RecordedFrames, RecordingAccount, account_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from petqc.formats.petsys_config import PetsysConfig
    from petqc_simulators.faults import Fault
    from petqc_simulators.physics.draw import Draw
    from petqc_simulators.profile import Profile
    from petqc_simulators.recorded_instrument import RecordedInstrument

NEAR_V = 0.5
"""So close to what the configuration says, an output is on; read-backs are no better."""


class RecordedDetector(Detector):
    """The detector.

    Args:
        profile: boards and ASICs that the recording came from.
        seed: what stands in for the parts of the boards that no recording knows, such as serial numbers.
        path: of the .rawf.
        config: its configuration.
        faults: on top of what was recorded.
        loops: begin again at the end, instead of falling silent.
        beside: recorded instruments; frames come while each was told what it had been told when they were recorded.

    Attributes:
        account: what is in the recording.
        turns: how often it began again.
        is_playing: recorded frames are being given.
    """

    def __init__(
        self,
        profile: Profile,
        seed: int,
        path: Path,
        config: PetsysConfig,
        faults: Sequence[Fault] = (),
        *,
        loops: bool = False,
        beside: Collection[RecordedInstrument] = (),
    ) -> None:
        self.account: RecordingAccount = account_of(path)
        self.is_playing = False
        self.turns = 0
        self._loops = loops
        self._beside = tuple(beside)
        self._hit_faults = HitFaults(profile, config, stream(seed, "faults of hits"))
        _, is_known = self._hit_faults.index_of(self.account.channels)
        of_trigger = self.account.trigger_id
        units = self.account.channels >> 12
        strange = self.account.channels[~is_known & (units != (-1 if of_trigger is None else of_trigger))]
        if strange.size:
            first = int(strange[0])
            where = ".".join(map(str, (first >> 17, first >> 12 & 31, first >> 6 & 63, first & 63)))
            raise ProfileError(
                f"{path}: channel {where} and {strange.size - 1} others are not in {profile.name}: "
                "name the profile of its scanner with --profile"
            )
        self._frames = RecordedFrames(path)
        super().__init__(profile, seed, faults)
        self.draw = _with_outputs_of(self.draw, profile, config)
        self._wanted_v = _working_v(profile, config)

    def why_not(self, fault: str) -> str:
        """Why a fault cannot act on it; empty: it can."""
        return self._hit_faults.why_not(fault)

    @property
    def is_at_end(self) -> bool:
        """The recording is over, and there is only silence."""
        return self._frames.is_over and not self._loops

    @property
    def played_s(self) -> float:
        """How much of this turn was given."""
        return min(self._frames.frames_given, self.account.frames) * BLOCK_S / BLOCK_FRAMES

    def replay_status(self) -> dict[str, Any]:
        """For whoever tells how it goes."""
        return {
            "played_s": round(self.played_s, 3),
            "is_playing": self.is_playing,
            "is_at_end": self.is_at_end,
            "turns": self.turns,
        }

    @property
    def sees_light(self) -> bool:
        """Its frames may be made ahead."""
        return not self._pulses

    @property
    def is_steady(self) -> bool:
        """No block is like another one."""
        return False

    def comparator_duty(
        self,
        controls: Controls,  # noqa: ARG002 - nobody recorded what other settings would give
        channels: slice | NDArray[np.int64] = slice(None),
    ) -> NDArray[np.float64]:
        """Nobody recorded the comparators; (n, 3) zeros."""
        return np.zeros((self._gids[channels].size, 3))

    def comparator_dark_hz(
        self,
        controls: Controls,  # noqa: ARG002 - nobody recorded what other settings would give
        channels: slice | NDArray[np.int64] = slice(None),
    ) -> NDArray[np.float64]:
        """Nobody recorded dark counts; (n, 3) zeros."""
        return np.zeros((self._gids[channels].size, 3))

    def restart(self) -> None:
        """Synchronisation: the recording begins again when the bias is on."""
        super().restart()
        self._rewind()

    def _rewind(self) -> None:
        if self._frames.frames_given:
            self._frames.rewind()
            self._hit_faults.forget()
        self.is_playing, self.turns = False, 0

    def _may_play(self, is_on: NDArray[np.bool_]) -> bool:
        there = ~np.isnan(self._wanted_v)
        is_biased = (np.abs(self.bias_v - np.nan_to_num(self._wanted_v)) < NEAR_V)[there].all()
        is_as_then = all(one.is_as_with_frames for one in self._beside)
        return bool(is_on.any() and is_biased and is_as_then and not self._pulses)

    def _advance(self) -> Block:
        self._look_at_faults()
        self.advance_bias(BLOCK_S)
        is_on = self.controls.is_read & (self.controls.trigger_mode == MODE_NORMAL)
        first = self.frame
        self.frame += BLOCK_FRAMES
        if not self._may_play(is_on):
            if self.is_playing:
                self._rewind()
            return _empty(first)
        if not self.is_playing:
            for one in self._beside:
                one.frames_begin()
        self.is_playing = True
        block = self._frames.block(first)
        if self._loops and self._frames.is_over:
            # Not the last, incomplete block: its missing frames would look lost.
            self._frames.rewind()
            self._hit_faults.forget()
            self.turns += 1
            block = self._frames.block(first)
        block = self._hit_faults.apply(block, self.effects, is_on)
        self.counters[ACCEPTED] += block.words.size - 2 * (block.starts.size - 1)
        return self._through_link(block) if block.starts.size == BLOCK_FRAMES + 1 else block

    def close(self) -> None:
        """Close the file."""
        self._frames.close()


def _empty(first: int) -> Block:
    words = np.zeros(2 * BLOCK_FRAMES, np.uint64)
    ids = (first + np.arange(BLOCK_FRAMES)) % (1 << 36)
    words[::2] = np.uint64(2 << 36) | ids.astype(np.uint64)
    return Block(first, words, np.arange(0, 2 * BLOCK_FRAMES + 1, 2))


def _outputs(profile: Profile) -> dict[tuple[int, int, int, int], int]:
    """Index of each bias output by port, slave, slot and channel."""
    places = profile.hardware.bias_places(profile.outputs_per_board)
    addresses = profile.hardware.addresses if places else []
    every = [(*address, *place) for address in addresses for place in places]
    return {place: index for index, place in enumerate(every)}


def _working_v(profile: Profile, config: PetsysConfig) -> NDArray[np.float64]:
    """(outputs,) what the configuration says that each has while one measures; NaN: nothing."""
    found = np.full(profile.geometry.bias_channels, np.nan)
    index = _outputs(profile)
    table = config.tables.get("bias_settings")
    for row in () if table is None else table:
        at = index.get((int(row["port"]), int(row["slave"]), int(row["slot"]), int(row["channel"])))
        if at is not None:
            found[at] = float(row["offset"]) + float(row["breakdown"]) + float(row["overvoltage"])
    return found


def _with_outputs_of(draw: Draw, profile: Profile, config: PetsysConfig) -> Draw:
    """Bias outputs that give the voltages of the configuration's own calibration."""
    table = config.tables.get("bias_calibration")
    index = _outputs(profile)
    points: dict[int, list[tuple[float, float]]] = {}
    for row in () if table is None else table:
        at = index.get((int(row["port"]), int(row["slave"]), int(row["slot"]), int(row["channel"])))
        if at is not None:
            points.setdefault(at, []).append((float(row["dac_code"]), float(row["volts"])))
    gain, offset_v = draw.dac_gain.copy(), draw.dac_offset_v.copy()
    for at, of_output in points.items():
        codes, volts = np.array(of_output).T
        if codes.size >= 2 and np.ptp(codes) > 0:
            volts_per_code, offset_v[at] = np.polyfit(codes, volts, 1)
            gain[at] = volts_per_code / draw.volts_per_code[at]
    return replace(draw, dac_gain=gain, dac_offset_v=offset_v)
