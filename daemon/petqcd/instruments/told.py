"""What people let an instrument do, and what of it becomes an error of the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from petqc_drivers.errors import (
    ConnectError,
    DriverError,
    LimitError,
    LinkLostError,
    ReplyTimeoutError,
    StateError,
)
from petqcd.errors import DeviceError, NotFoundError, RefusedError, UnreachableError
from petqcd.instruments.command_queue import Command, Priority

if TYPE_CHECKING:
    from petqcd.instruments.collection import Instruments
    from petqcd.instruments.supervisor import InstrumentSupervisor

COOL_DEADLINE_S = 10.0


async def submit(supervisor: InstrumentSupervisor, command: Command, priority: Priority = Priority.COMMAND) -> Any:
    """Let a device do something; whatever it says becomes an error of the daemon.

    Raises:
        DaemonError: refused, not reachable, or what the device said.
    """
    try:
        return await supervisor.submit(command, priority)
    except (LimitError, StateError) as error:
        raise RefusedError(str(error)) from error
    except (ConnectError, LinkLostError, ReplyTimeoutError) as error:
        raise UnreachableError(str(error)) from error
    except DriverError as error:
        raise DeviceError(str(error)) from error


async def cool(
    instruments: Instruments, name: str, *, set_degc: float | None, is_running: bool | None
) -> dict[str, Any]:
    """Set a circulator, start or stop it; None: that stays. What it cools trips by its permits, if it must.

    Raises:
        NotFoundError: it is no circulator.
        DaemonError: outside its configured range, not in remote mode, or what it said.
    """
    from petqcd.config import JulaboConfig

    supervisor = instruments[name]
    if not isinstance(supervisor.config, JulaboConfig):
        raise NotFoundError(f"{name} is a {supervisor.config.kind}, and cools nothing")

    async def work(driver: Any) -> None:
        if set_degc is not None:
            await driver.set_temperature(set_degc)
        if is_running is not None:
            await (driver.start() if is_running else driver.stop())
        await driver.poll()

    await submit(supervisor, Command("cooling", work, COOL_DEADLINE_S))
    return supervisor.document()
