"""Every instrument, on every transport, with every fault: what it ends in; and the table of it for people.

  python -m tests.contract.fault_matrix docs/reference/fault-matrix.md

A fault is on for every reply from some moment on. The device is asked, and ends in a named state; then the fault goes,
and a new session must read the truth, with nothing told to the device by anybody. All faults of one device on one
transport are tried at the same time, each with a served simulator of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.contract import fault_line as faults
from tests.contract.every_instrument import CASES, Case
from tests.contract.fault_line import FaultyLine
from tests.contract.fault_relay import DatagramRelay, FaultRelay, StreamRelay
from tests.contract.fault_rows import rows_table

from petqc_drivers.errors import DriverError
from petqc_drivers.petsys.daqd_link import DaqdReadoutLink
from petqc_drivers.petsys.udp_link import UdpReadoutLink
from petqc_drivers.petsys.units import FoundUnit, look
from petqc_drivers.petsys.wire import REPLY_MARK
from petqc_simulators.boards.petsys_daqd import DaqdServer
from petqc_simulators.boards.scanner import Scanner
from petqc_simulators.profile import load_profile
from petqc_simulators.server import BoardServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.contract.fault_line import Fault

    from petqc_drivers.instrument import Instrument

WITHIN_S: Final = 10.0
"""From the fault to the named state. Source: reliability design, section 12."""
QUICK_S, PATIENT_S = 0.08, 2.0
"""For one reply: of faults that end in a time-out, and of those that must not."""
LAST_REPLY_S: Final = QUICK_S + 0.1
"""After which the latest of late replies has come: the quiet that a new session waits for is short in these tests."""
RIGHT: Final = "right"


LOST: Final = frozenset({"reply-timeout", "remote-protocol"})


@dataclass(frozen=True)
class Row:
    """A fault of the matrix.

    ids: rows of the reliability design's matrix that it is. fault: of replies; None: `how` says what else is done.
    codes: errors that it may end in; none: the device must bear it. may_be_right: it may bear it, where replies say
    what they answer, or what is asked again brings both.
    """

    id: str
    title: str
    ids: str
    fault: Fault | None = None
    how: str = ""
    codes: frozenset[str] = LOST
    may_be_right: bool = False

    def __str__(self) -> str:
        return self.id


ROWS = (
    Row("delay", "each reply 30 ms late", "SER-07, TCP-07", faults.late(0.03), codes=frozenset()),
    Row("split", "byte by byte", "SER-07, TCP-06, SHM-06", faults.split(0.0005), codes=frozenset()),
    Row("repeat", "each reply once more, before the next one", "SER-12, TCP-08, UDP-02", how="repeat",
        may_be_right=True),
    Row("merge", "each reply comes with the next one", "TCP-06, TCP-08", how="merge",
        may_be_right=True),
    Row("drop", "no reply", "SER-05, TCP-03, UDP-01", faults.dropped()),
    Row("late", "each reply after the time-out", "SER-06, TCP-08", faults.late(QUICK_S + 0.05)),
    Row("flip", "one bit of each reply", "SER-09", faults.flipped(2, 0)),
    Row("truncate", "only two bytes of each reply", "SER-08, UDP-04", faults.truncated(2)),
    Row("babble", "200 bytes nobody asked for, instead of each reply", "SER-11, UDP-04", faults.babbled(200)),
    Row("freeze", "requests are not taken any more", "SER-05, TCP-02, UDP-07", how="freeze"),
    Row("nobody", "the connection ends, and nobody is there", "SER-01, TCP-01, TCP-04, SHM-01", how="nobody",
        codes=frozenset({"link-lost"})),
    Row("another", "another device at its address", "SER-04, TCP-10", how="another",
        codes=frozenset({"wrong-identity"})),
)  # fmt: skip
OTHER_CODES: Final = {
    ("petsys-udp", "nobody"): frozenset({"reply-timeout"}),
    ("petsys-daqd", "babble"): frozenset({"link-lost"}),
    ("petsys-daqd", "repeat"): frozenset({"link-lost", "reply-timeout"}),
}


def codes(subject: Subject, row: Row) -> frozenset[str]:
    """The errors that a fault may end in there."""
    return OTHER_CODES.get((subject.name, row.id), row.codes)


def is_patient(subject: Subject, row: Row) -> bool:
    """Replies are waited for, however busy the machine is: it does not end in a time-out, or need not."""
    return "reply-timeout" not in codes(subject, row) or row.how == "repeat"


def allowed(subject: Subject, row: Row) -> frozenset[str]:
    """The ends that a fault may have."""
    state = "failed" if isinstance(subject, ReadoutSubject) else "faulted"
    ends = frozenset(f"{state}: {code}" for code in codes(subject, row))
    return ends | {IDENTIFIED_RIGHT} if row.may_be_right or not row.codes else ends


IDENTIFIED_RIGHT = f"identified: {RIGHT}"


@contextlib.contextmanager
def faulty(row: Row, line: FaultyLine | FaultRelay) -> Iterator[None]:
    """The fault is on."""
    line.fault = {"merge": faults.merged, "repeat": faults.repeated}.get(row.how, lambda: row.fault)()
    line.is_frozen = row.how == "freeze"
    try:
        yield
    finally:
        line.fault, line.is_frozen = None, False


class InstrumentSubject:
    """An instrument behind a serial line, a socket, or VISA's own."""

    def __init__(self, case: Case, transport: str) -> None:
        self.case, self.transport = case, transport
        self.name = case.name

    def rows(self) -> list[Row]:
        """Those that the transport can have: TCP loses and changes nothing, and a line without check shows no flip."""
        return [row for row in ROWS if row.id != "flip" or self.case.has_parity]

    def _right(self, board: Any, device: Instrument) -> bool:
        found = {reading.name: reading.value for reading in device.readings()}
        truth = self.case.truth(board)
        return all(abs((found[name] or 0.0) - value) <= off for name, (value, off) in truth.items())

    async def _end(self, board: Any, device: Instrument, act: Callable[[], Any]) -> str:
        try:
            await act()
        except DriverError as error:
            return f"{device.state.value}: {error.code}"
        return f"{device.state.value}: {RIGHT if self._right(board, device) else 'WRONG'}"

    async def ends_in(self, row: Row, folder: Path) -> str:
        """The state that the fault ends in."""
        case, board = self.case, self.case.board()
        told = len(case.told(board))
        line = FaultyLine(board, has_sessions=case.data is not None)
        listen = f"pty:{folder}/{row.id}" if self.transport == "serial" else "tcp://127.0.0.1:0"
        with contextlib.ExitStack() as stack:
            address = stack.enter_context(case.served(board, line, listen))
            device = case.device(address, PATIENT_S)
            try:
                await device.connect()
                device = await self._quick(device, address, row)
                if row.how == "nobody":
                    await asyncio.to_thread(stack.close)
                elif row.how == "another":
                    line.inner = case.another()
                    await device.aclose()
                with faulty(row, line):
                    started = time.monotonic()
                    ends = await self._end(board, device, device.connect if row.how == "another" else device.poll)
                    assert time.monotonic() - started < WITHIN_S
                if row.how == "nobody":
                    again = "tcp" + address.removeprefix("socket") if self.transport != "serial" else listen
                    stack.enter_context(case.served(board, line, again))
                line.inner = board
            finally:
                await device.aclose()
            await asyncio.sleep(LAST_REPLY_S)
            after = case.device(address, PATIENT_S)
            try:
                await after.connect()
                await after.poll()
                assert self._right(board, after), "after the fault"
            finally:
                await after.aclose()
            assert len(case.told(board)) == told
        return ends

    async def _quick(self, device: Instrument, address: str, row: Row) -> Instrument:
        """One that waits as short as the fault allows, connected."""
        if is_patient(self, row):
            return device
        await device.aclose()
        quick = self.case.device(address, QUICK_S)
        for _ in range(20):  # a machine that is busy may make a healthy device look late
            with contextlib.suppress(DriverError):
                await quick.connect()
                return quick
        raise AssertionError("it does not answer in time, even without a fault")


class ReadoutSubject:
    """A readout by datagrams, or behind its maker's daemon: what a board says of itself is asked."""

    def __init__(self, name: str, transport: str) -> None:
        self.name, self.transport = name, transport

    def rows(self) -> list[Row]:
        """A datagram's checksum and a UNIX socket leave no flipped bit, a datagram is whole; who it is: other tests."""
        others = {"flip", "another", *(["split"] if self.transport == "UDP" else [])}
        return [row for row in ROWS if row.id not in others]

    @contextlib.contextmanager
    def _served(
        self, folder: Path, row: Row, scanner: Scanner
    ) -> Iterator[tuple[FaultRelay, Callable[[float], Any], Callable[[], None]]]:
        server: BoardServer | DaqdServer
        relay: FaultRelay
        if self.transport == "UDP":
            server = BoardServer(scanner.boards[0], "127.0.0.1", 0)
            relay = DatagramRelay(server.address, lambda data: data[:1] == bytes((REPLY_MARK,)))
            address = relay.address
            make = lambda s: UdpReadoutLink(address, reply_timeout_s=s, tries=2)  # noqa: E731
        else:
            paths = folder / f"{row.id}.sock", folder / f"{row.id}-relay.sock"
            server = DaqdServer(
                scanner.units, paths[0], f"/{row.id}", folder=folder, frames=scanner.advance_blocks, lag=scanner.lag
            )
            relay = StreamRelay(*paths)
            make = lambda s: DaqdReadoutLink(  # noqa: E731
                paths[1], reply_timeout_s=s, tries=2, shared_memory=f"/{row.id}", folder=folder
            )
        thread = threading.Thread(target=server.run, name=f"simulated {self.name}")
        thread.start()

        def stop() -> None:
            server.stop()
            thread.join(WITHIN_S)
            server.close()

        with contextlib.ExitStack() as stack:
            stack.callback(scanner.close)
            stopped = stack.push(contextlib.ExitStack())
            stopped.callback(stop)
            stack.enter_context(relay.running())
            yield relay, make, stopped.close

    async def ends_in(self, row: Row, folder: Path) -> str:
        """The state that the fault ends in."""
        scanner = await asyncio.to_thread(Scanner, load_profile("bench"), seed=3)  # others are connecting meanwhile
        with self._served(folder, row, scanner) as (relay, make, stop):
            link = make(PATIENT_S if is_patient(self, row) else QUICK_S)
            try:
                await link.open()
                before = await look(link, 0, 0)
                if row.how == "nobody":
                    await asyncio.to_thread(stop)
                with faulty(row, relay):
                    started = time.monotonic()
                    ends = await self._end(link, before)
                    assert time.monotonic() - started < WITHIN_S
                if row.how != "nobody":
                    await asyncio.sleep(LAST_REPLY_S)
                    after = make(PATIENT_S)
                    await after.open()
                    assert await look(after, 0, 0) == before
                    await after.aclose()
            finally:
                await link.aclose()
        return ends

    @staticmethod
    async def _end(link: Any, before: FoundUnit) -> str:
        try:
            found = await look(link, 0, 0)
        except DriverError as error:
            return f"failed: {error.code}"
        return IDENTIFIED_RIGHT if found == before else "identified: WRONG"


Subject = InstrumentSubject | ReadoutSubject
SUBJECTS: tuple[Subject, ...] = (
    *(InstrumentSubject(case, "serial") for case in CASES if case.is_serial),
    *(InstrumentSubject(case, "serial on TCP") for case in CASES if case.is_serial),
    *(InstrumentSubject(case, "VISA") for case in CASES if case.name == "keithley-smu"),
    *(InstrumentSubject(case, "TCP") for case in CASES if case.data is not None),
    ReadoutSubject("petsys-udp", "UDP"),
    ReadoutSubject("petsys-daqd", "UNIX"),
)


async def ends_of(subject: Subject, folder: Path) -> dict[str, str]:
    """What every fault ends in, all of them at once."""
    rows = subject.rows()
    found = await asyncio.gather(*(subject.ends_in(row, folder) for row in rows), return_exceptions=True)
    told = (end if isinstance(end, str) else f"{type(end).__name__}: {end}" for end in found)
    return {row.id: end for row, end in zip(rows, told, strict=True)}


def table() -> str:
    """The page for people."""
    lines = [_HEAD]
    lines += [f"| {row.id} | {row.title} | {row.ids} |" for row in ROWS]
    lines += [_ENDS, "| | " + " | ".join(row.id for row in ROWS) + " |", "| --- |" + " --- |" * len(ROWS)]
    for subject in SUBJECTS:
        rows = subject.rows()
        cells = (_cell(subject, row) if row in rows else "–" for row in ROWS)
        lines.append(f"| `{subject.name}`, {subject.transport} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, _ROWS, *rows_table(), _FOOT])


def _cell(subject: Subject, row: Row) -> str:
    ends = allowed(subject, row)
    return " or ".join(sorted(RIGHT if end == IDENTIFIED_RIGHT else end.partition(": ")[2] for end in ends))


_HEAD = """\
# What every fault of a link ends in

Made from the suite that tries it, `tests/contract/fault_matrix.py`, by
`python -m tests.contract.fault_matrix docs/reference/fault-matrix.md`. A fault is on for every reply from some moment
on. Within ten seconds the device is in the state below, and no reading was ever another value than the truth. Then the
fault goes: a new session reads the truth, and nothing was told to the device meanwhile.

| fault | what | rows of the fault matrix |
| --- | --- | --- |"""
_ENDS = """
## Device, transport and end

`right`: readings are true, the device stays identified. Else the error's code; an instrument is then `faulted` and its
session closed, and its supervisor connects again with growing pauses; of a readout the command fails with it, and with
it the run. –: the transport does not have it (TCP, UDP and UNIX sockets change no bit, a datagram is whole), or nothing
could notice it: a bit flipped on a serial line without parity.
"""
_ROWS = """
## Row by row

Every row of the matrix for serial lines, VISA and TCP, UDP, UNIX sockets and shared memory, the state it ends in within
ten seconds, and the tests that try it. States in code font are those of `petqc devices` and the console; what an
instrument with an output ends in is `unknown` wherever it may be on, and `fault` where it was off when last heard of.
Where a supply takes part its simulator's own record is judged: no set-point and no output above the limit, no step
longer than allowed, nothing set while off but the lowest.
"""
_FOOT = """
Bias outputs have off beside all of this: whatever the link does, off ends `off` and confirmed, or `unknown` with the
advice to use the switch (`tests/contract/test_every_instrument.py`). Kills, clocks, disks and the rest of the matrix
have tests of their own.
"""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(), "utf-8")
