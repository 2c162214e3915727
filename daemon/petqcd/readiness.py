"""What stands in the way of a run or of maintenance, of all parts of the daemon together, in words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqcd.interlocks.maintenance import SCANNER
from petqcd.readout.supervisor import BiasState

if TYPE_CHECKING:
    from petqcd.app import Daemon

NO_HARD_LIMITS = "hard limits are not configured (add [device.bias] with v_min, v_max, max_step_v and slew_v_per_s)"
_OFF = frozenset({BiasState.OFF_CONFIRMED, BiasState.OFF_COMMANDED})


class Readiness:
    """Asked from the event loop; touches no device and no disk.

    Args:
        daemon: whose parts are asked.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def missing(self) -> list[str]:
        """What stands in the way of a run, for /readyz, status and console."""
        daemon, board = self._daemon, self._daemon.device.state
        found = []
        if not daemon.device.ready:
            found.append(f"{board.name}: {board.detail or 'is being started'}")
        if daemon.config.board.bias is None and not daemon.instruments.run_volts:
            found.append(f"{board.name}: {NO_HARD_LIMITS}")
        if daemon.own_configuration.problem:
            found.append(f"{board.name}: {daemon.own_configuration.problem}")
        return found + self._in_maintenance()

    def why_no_run(self) -> str | None:
        """Why a run is refused before it is claimed; None: nothing is in its way."""
        unread = self._daemon.own_configuration.problem
        refused = [*([f"{self._daemon.device.state.name}: {unread}"] if unread else []), *self._in_maintenance()]
        return self._daemon.disk.why_no_run() or ("; ".join(refused) or None)

    def _in_maintenance(self) -> list[str]:
        daemon = self._daemon
        needed = [daemon.device.state.name, *daemon.instruments.run_volts]
        works = [daemon.watch.maintenance.of(name) for name in needed]
        return list(dict.fromkeys(work.told for work in works if work is not None))

    # -- before somebody works at a device ----------------------------------------------------------------------------

    def is_on(self, device: str) -> bool:
        """Whether an output of it is known to be on, or of any device; or a run uses it."""
        return any(bias is BiasState.ON for bias in self._outputs(device).values()) or bool(self._run_at(device))

    def why_not_off(self, device: str) -> str:
        """Why an output of it, or of any device, may be on; empty: it has none, or it is off.

        Raises:
            NotFoundError: there is no such device.
        """
        doubtful = [f"{name}: its output is {bias}" for name, bias in self._outputs(device).items() if bias not in _OFF]
        return "; ".join([*self._run_at(device), *doubtful])

    def _run_at(self, device: str) -> list[str]:
        run, name = self._daemon.runs.progress, self._daemon.device.state.name
        return [f"{name}: run {run.run_id} is going on"] if run is not None and device in (name, SCANNER) else []

    def _outputs(self, device: str) -> dict[str, BiasState]:
        board, instruments = self._daemon.device.state, self._daemon.instruments
        if device not in (board.name, SCANNER):
            bias = instruments[device].bias
            return {} if bias is None else {device: bias}
        every = {one.name: one.bias for one in instruments.bias_sources if one.bias is not None}
        return {board.name: board.bias, **(every if device == SCANNER else {})}
