"""What came of the datagrams that a unit was sent: every one is answered or counted with a reason."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from petqc_drivers.petsys.wire import MAX_COMMAND_BYTES, SERIAL_BYTES, Command, Function, Reply, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

NO_COMMAND, UNKNOWN_FUNCTION, REPLY_TOO_LONG = "no-command", "unknown-function", "reply-too-long"
_NAMES = {function.value: function.name.lower().replace("_", "-") for function in Function}


class CommandAccount:
    """Part of every unit that answers commands.

    Attributes:
        commands: commands that were answered.
        unanswered: commands for a part that said nothing, or that came while nobody listened.
        rejected: datagrams that no command of this unit could be made of, by the function that they were meant for, or
            `no-command`, `unknown-function`, `reply-too-long`. They get no answer.
    """

    def __init__(self) -> None:
        self.commands = self.unanswered = 0
        self.rejected: Counter[str] = Counter()

    @property
    def malformed(self) -> int:
        """All that was rejected."""
        return self.rejected.total()

    def reply_to(self, datagram: bytes, answer: Callable[[Command], bytes | None]) -> bytes | None:
        """The reply to a command; None if there is none.

        Args:
            datagram: from the host.
            answer: gives what the reply carries, None for nothing, or raises WireError.
        """
        try:
            command = Command.from_bytes(datagram)
        except WireError:
            self.rejected[NO_COMMAND] += 1
            return None
        try:
            payload = answer(command)
        except WireError:
            self.rejected[_NAMES.get(command.function, UNKNOWN_FUNCTION)] += 1
            return None
        if payload is None:
            self.unanswered += 1
            return None
        if SERIAL_BYTES + 1 + len(payload) > MAX_COMMAND_BYTES:
            self.rejected[REPLY_TOO_LONG] += 1
            return None
        self.commands += 1
        return Reply(command.serial, command.function, payload).to_bytes()
