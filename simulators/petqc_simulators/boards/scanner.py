"""All boards of a scanner on one detector and one clock: what one of them measures can coincide with any other's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from petqc_drivers.petsys.registers import POWER_BIAS
from petqc_simulators.boards.frame_clock import FrameClock
from petqc_simulators.boards.hardware_trigger import HardwareTrigger
from petqc_simulators.boards.petsys_clktgr import ClockTrigger
from petqc_simulators.boards.petsys_febd import PetsysFebd
from petqc_simulators.boards.scanner_instruments import ScannerInstruments
from petqc_simulators.physics.detector import Detector
from petqc_simulators.profile import ProfileError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from petqc_simulators.boards.petsys_daqd import Unit
    from petqc_simulators.faults import Fault
    from petqc_simulators.physics.blocks import Block
    from petqc_simulators.profile import Profile


def require_boards(profile: Profile) -> None:
    """Refuse a scanner that is not served.

    Raises:
        ProfileError: it has another readout.
    """
    if not profile.hardware.is_tofpet2:
        raise ProfileError(f"{profile.name} has another readout than TOFPET2 boards: it is recorded, not served")


class Scanner:
    """Units with their addresses, and the frames of all of them.

    A board that was not synchronised together with the others counts time from elsewhere; the daemon would find no
    frames to join its own with, so it sends nothing until it is.

    Args:
        profile: which scanner.
        seed: the individual one.
        faults: what is planted in its detector.
        witness_folder: where the records of what bias outputs were told and did go.
        detector: another one than the simulated one of profile, seed and faults.

    Attributes:
        detector: the one behind all boards.
        boards: the FEB/Ds, in the order of their modules.
        trigger: the clock and trigger unit, if it is one of its own.
        units: all of them by port and slave.
        instruments: what stands beside the boards: bias supplies, chiller.
    """

    def __init__(
        self,
        profile: Profile,
        seed: int,
        faults: Sequence[Fault] = (),
        *,
        witness_folder: Path | None = None,
        detector: Detector | None = None,
    ) -> None:
        require_boards(profile)
        hardware = profile.hardware
        self.profile = profile
        self.boards: list[PetsysFebd] = []
        self.trigger: ClockTrigger | None = None
        self._frames: FrameClock | None = None
        self._hardware_trigger: HardwareTrigger | None = None
        if not hardware.clock_trigger:
            path = None if witness_folder is None else witness_folder / "bias.jsonl"
            self.detector = detector or Detector(profile, seed, faults)
            board = PetsysFebd(profile, seed, witness_path=path, detector=self.detector, is_alone=True)
            self.boards.append(board)
        else:
            self.detector = detector or Detector(profile, seed, faults)
            self._frames = FrameClock(self.detector)
            for number, (port, slave) in enumerate(hardware.addresses):
                path = None if witness_folder is None else witness_folder / f"bias-{port}-{slave}.jsonl"
                board = PetsysFebd(profile, seed, witness_path=path, number=number, detector=self.detector)
                if slave:
                    self.boards[-1].chain(board)
                self.boards.append(board)
            self.trigger = ClockTrigger(self.boards, self._frames.synchronise)
            self._hardware_trigger = HardwareTrigger(
                self.trigger.registers,
                self.trigger.regions,
                [(address, board.trigger) for address, board in zip(hardware.addresses, self.boards, strict=True)],
            )
        self.units: dict[tuple[int, int], Unit] = dict(zip(hardware.addresses, self.boards, strict=True))
        if self.trigger is not None:
            self.units[hardware.trigger_address] = self.trigger
        self.instruments = ScannerInstruments(profile, self.detector, witness_folder)

    @property
    def board_nodes(self) -> list[str]:
        """Names of the boards, in their order."""
        return [f"unit:{port}.{slave}" for port, slave in self.profile.hardware.addresses]

    @property
    def elapsed_s(self) -> float:
        """Simulated time since the start."""
        return (self.trigger or self.boards[0]).elapsed_s

    @property
    def rejected(self) -> Counter[str]:
        """Datagrams that no command could be made of, by reason."""
        units = self.boards if self.trigger is None else [*self.boards, self.trigger]
        return sum((unit.rejected for unit in units), Counter())

    @property
    def is_streaming(self) -> bool:
        """Frames are made."""
        return self.boards[0].is_streaming if self._frames is None else self._frames.is_running

    def advance_blocks(self) -> list[Block]:
        """The frames that ended since the last call."""
        self.instruments.act_on(self.boards)
        if self._frames is None or self._hardware_trigger is None:
            return self.boards[0].advance_blocks()
        if self._frames.is_free:
            for board in self.boards:
                board.hand_over()
        before_v = self._frames.bias_v
        blocks, passed_s = self._frames.advance(self.elapsed_s)
        for board in self.boards:
            board.watch_bias(before_v, self._frames.bias_v, passed_s)
        return [self._hardware_trigger.pass_on(block) for block in blocks]

    def state(self) -> dict[str, Any]:
        """For a state file."""
        summaries = [board.witness.summary() for board in self.boards]
        return {
            "elapsed_s": round(self.elapsed_s, 4),
            "is_streaming": self.is_streaming,
            "frame": self.detector.frame,
            "blocks_repeated": self.blocks_repeated,
            "commands": sum(board.commands for board in self.boards),
            "malformed": self.rejected.total(),
            "rejected": dict(self.rejected),
            "bias_supply_on": any(board.registers.value("power") & POWER_BIAS for board in self.boards),
            "bias_v": [round(float(v), 5) for v in self.detector.bias_v],
            "boards_in_step": sum(board.is_in_step for board in self.boards),
            **self.instruments.state(),
            **{key: [v for summary in summaries for v in summary[key]] for key in summaries[0]},
        }

    def run_ahead(self) -> None:
        """Make frames before they are asked for, in a thread of its own, until `close`; see `FrameClock`."""
        self._clock.run_ahead()

    @property
    def blocks_repeated(self) -> int:
        """Blocks of frames that were no new ones; see `Repetition`."""
        return self._clock.repetition.blocks_repeated

    def lag(self) -> int:
        """How many blocks are due and not ready; see `FrameClock`."""
        return self._clock.lag(self.elapsed_s)

    @property
    def _clock(self) -> FrameClock:
        clock = self._frames or self.boards[0].frames
        assert clock is not None  # noqa: S101 - a single board has its own; for the type checker
        return clock

    def close(self) -> None:
        """End its thread and close the files."""
        self._clock.close()
        self.instruments.close()
        for board in self.boards:
            board.witness.close()
