"""SCPI as instruments understand it: long and short words, chains with `;`, queries, an error queue, status bits.

A command table names each header in its long form, `:SOURce:VOLTage[:LEVel]`: capitals are the short form, brackets
may be left out. Nothing here knows what an instrument does.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Handler = Callable[[str], str | None]

UNDEFINED_HEADER, MISSING_PARAMETER, OUT_OF_RANGE, NOT_ALLOWED = -113, -109, -222, -200
INVALID_NUMBER, QUERY_INTERRUPTED = -120, -410
ERROR_WORDS: Final[Mapping[int, str]] = {
    UNDEFINED_HEADER: "Undefined header",
    MISSING_PARAMETER: "Missing parameter",
    OUT_OF_RANGE: "Parameter data out of range",
    NOT_ALLOWED: "Execution error",
    INVALID_NUMBER: "Numeric data error",
    QUERY_INTERRUPTED: "Query INTERRUPTED",
}
MOST_ERRORS: Final = 10
MOST_LINE_BYTES: Final = 4096
_NODE = re.compile(r"(\[)?:?([A-Za-z0-9]+)\]?")
_COMMAND_ERROR, _EXECUTION_ERROR, _QUERY_ERROR, _POWER_ON = 5, 4, 2, 7


class ScpiError(Exception):
    """A command cannot be done; goes to the error queue."""

    def __init__(self, code: int) -> None:
        super().__init__(ERROR_WORDS[code])
        self.code = code


def pattern(header: str) -> re.Pattern[str]:
    """What matches a header in every form that an instrument takes."""
    if header.startswith("*"):
        return re.compile(re.escape(header), re.IGNORECASE)
    parts = []
    for optional, word in _NODE.findall(header):
        short = "".join(c for c in word if not c.islower())
        forms = f"(?:{short}|{word})" if short != word else short
        parts.append(f"(?::?{forms})?" if optional else f":?{forms}")
    return re.compile("".join(parts), re.IGNORECASE)


@dataclass(slots=True)
class _Command:
    header: re.Pattern[str]
    do: Handler


@dataclass(slots=True)
class ScpiParser:
    """Takes what arrives, line by line, and gives what the instrument sends.

    Attributes:
        lines: how many were taken.
        errors: those not yet read, oldest first, as numbers.
        events: the standard event status register.
    """

    no_error: str = '0,"No error"'
    error_tail: str = ""
    lines: int = 0
    events: int = 1 << _POWER_ON
    errors: deque[int] = field(default_factory=deque)
    _held: bytes = b""
    _commands: list[_Command] = field(default_factory=list)
    _queries: list[_Command] = field(default_factory=list)

    def command(self, header: str, do: Callable[[str], None]) -> None:
        """What a header does; it is given its parameters, unparsed."""
        self._commands.append(_Command(pattern(header), do))

    def query(self, header: str, answer: Callable[[str], str]) -> None:
        """What `header?` answers; it is given its parameters."""
        self._queries.append(_Command(pattern(header), answer))

    def setting(self, header: str, write: Callable[[str], None], read: Callable[[], str]) -> None:
        """Both."""
        self.command(header, write)
        self.query(header, lambda _: read())

    def receive(self, data: bytes) -> bytes:
        """Answers to the lines that are whole with these bytes."""
        self._held += data
        answers = b""
        while (end := self._held.find(b"\n")) >= 0:
            line, self._held = self._held[:end], self._held[end + 1 :]
            answers += self._line(line.decode("ascii", "replace").strip())
        if len(self._held) > MOST_LINE_BYTES:
            self._held = b""
            self._fail(UNDEFINED_HEADER)
        return answers

    def forget(self) -> None:
        """The client has gone in the middle of a line."""
        self._held = b""

    def clear(self) -> None:
        """*CLS."""
        self.errors.clear()
        self.events = 0

    def next_error(self) -> str:
        """The oldest error, which is then gone."""
        if not self.errors:
            return self.no_error
        code = self.errors.popleft()
        return f'{code},"{ERROR_WORDS[code]}{self.error_tail}"'

    def read_events(self) -> str:
        """*ESR?."""
        found, self.events = self.events, 0
        return str(found)

    def _line(self, line: str) -> bytes:
        self.lines += 1
        answers, root = [], ""
        for part in line.split(";"):
            text = part.strip()
            if not text:
                continue
            head, _, parameters = text.partition(" ")
            answer, known = self._one(head, root, parameters.strip())
            if answer is not None:
                answers.append(answer)
            if known and not head.startswith("*"):
                # What follows without a colon is looked for beside the last header.
                full = head if head.startswith(":") or not root else root + head
                root = full.rstrip("?").rpartition(":")[0] + ":" if ":" in full else ""
        return (";".join(answers) + "\n").encode("ascii") if answers else b""

    def _one(self, head: str, root: str, parameters: str) -> tuple[str | None, bool]:
        is_query = head.endswith("?")
        name = head.rstrip("?")
        table = self._queries if is_query else self._commands
        for form in (name, root + name) if root and not name.startswith((":", "*")) else (name,):
            for known in table:
                if known.header.fullmatch(form):
                    return self._do(known, parameters), True
        self._fail(UNDEFINED_HEADER)
        return None, False

    def _do(self, known: _Command, parameters: str) -> str | None:
        try:
            return known.do(parameters)
        except ScpiError as error:
            self._fail(error.code)
        return None

    def _fail(self, code: int) -> None:
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(code)
        bit = {-1: _COMMAND_ERROR, -2: _EXECUTION_ERROR, -4: _QUERY_ERROR}.get(-(-code // 100), _EXECUTION_ERROR)
        self.events |= 1 << bit


def number(text: str, low: float, high: float) -> float:
    """A parameter within what an instrument takes.

    Raises:
        ScpiError: None, no number, or outside.
    """
    if not text:
        raise ScpiError(MISSING_PARAMETER)
    try:
        value = float(text)
    except ValueError:
        raise ScpiError(INVALID_NUMBER) from None
    if not low <= value <= high:  # a NaN is not inside
        raise ScpiError(OUT_OF_RANGE)
    return value


def boolean(text: str) -> bool:
    """ON, OFF, 1 or 0.

    Raises:
        ScpiError: Something else.
    """
    words = {"ON": True, "1": True, "OFF": False, "0": False}
    if text.upper() not in words:
        raise ScpiError(MISSING_PARAMETER if not text else OUT_OF_RANGE)
    return words[text.upper()]
