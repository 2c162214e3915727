"""What one can ask of a board, in its own terms: registers, ASIC configurations, SPI transfers.

Bytes come from the codec and go through the link; an answer of the wrong shape is an error of the link, never a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from petqc_drivers.errors import DeviceFaultError, LocalProtocolError, RemoteProtocolError, VerifyError
from petqc_drivers.petsys.asic import AsicConfiguration
from petqc_drivers.petsys.bias import Shown, check_echo
from petqc_drivers.petsys.link import ago
from petqc_drivers.petsys.registers import POWER_BIAS, POWER_FEM, register
from petqc_drivers.petsys.spi import parse_spi_reply
from petqc_drivers.petsys.wire import (
    AsicCommand,
    AsicStatus,
    Function,
    WireError,
    asic_address,
    check_memory_write_reply,
    parse_asic_reply,
    parse_memory_read_reply,
)

if TYPE_CHECKING:
    from petqc_drivers.limits import SetOutput
    from petqc_drivers.petsys.link import ReadoutLink
    from petqc_drivers.petsys.spi import SpiRequest
    from petqc_drivers.petsys.wire import MemoryWrite

ASIC_TRIES: Final = 5
"""The vendor repeats a failing ASIC operation as often."""
BIAS_TRIES: Final = 2
REPEATED_TRIES: Final = 5
"""How often a bias output is told the same once more because its read-back was carried out twice."""
ABSENT_TRIES: Final = 3
"""How often a position that does not acknowledge is asked before it counts as empty."""


class Board:
    """Typed access to one board over a link.

    Args:
        link: The way to it.
        since: Epoch of the link in which the caller's task began; by default every access begins its own.
        tries: How often to send a command before the board counts as silent; by default as the link was made.
    """

    def __init__(self, link: ReadoutLink, *, since: int | None = None, tries: int | None = None) -> None:
        self.link = link
        self.since = since
        self._tries = tries

    @property
    def name(self) -> str:
        """The board's name in messages."""
        return self.link.name

    def _malformed(self, what: str, error: WireError) -> NoReturn:
        raise RemoteProtocolError(
            f"{what}: {error}", device=self.name, last_good=ago(self.link.last_good_s), do="check the board's firmware"
        ) from error

    async def exchange(self, function: Function, payload: bytes, what: str) -> bytes:
        """Send a command until it is answered; the payload of the reply."""
        return await self.link.exchange(function, payload, what=what, since=self.since, tries=self._tries)

    async def read(self, name: str) -> int:
        """Value of a register.

        Raises:
            RemoteProtocolError: If the answer has the wrong length.
        """
        found = register(name)
        what = f"read {found}"
        reply = await self.exchange(Function.REGISTERS, found.read().to_bytes(), what)
        try:
            return found.decode(parse_memory_read_reply(reply, found.n_bytes))
        except WireError as error:
            self._malformed(what, error)

    async def write(self, name: str, value: int) -> None:
        """Write a register.

        Raises:
            LocalProtocolError: If the value does not fit or must not be written this way.
            RemoteProtocolError: If the board does not acknowledge as it must.
        """
        found = register(name)
        what = f"write {found}"
        try:
            payload = found.write(value).to_bytes()
        except WireError as error:
            raise LocalProtocolError(f"{what}: {error}", device=self.name) from error
        reply = await self.exchange(Function.REGISTERS, payload, what)
        try:
            check_memory_write_reply(reply)
        except WireError as error:
            self._malformed(what, error)

    async def write_verified(self, name: str, value: int) -> None:
        """Write a register that can be read back, and compare.

        Raises:
            VerifyError: If another value is read back.
        """
        await self.write(name, value)
        found = await self.read(name)
        if found != value:
            raise VerifyError(
                f"register {register(name)} reads {found:#x} after writing {value:#x}",
                device=self.name,
                do="check the firmware version and the power of the board",
            )

    async def write_memory(self, function: Function, access: MemoryWrite, what: str) -> None:
        """Write to a memory of the board that is not its registers.

        Raises:
            RemoteProtocolError: If the board does not acknowledge as it must.
        """
        reply = await self.exchange(function, access.to_bytes(), what)
        try:
            check_memory_write_reply(reply)
        except WireError as error:
            self._malformed(what, error)

    async def spi(self, request: SpiRequest, what: str) -> int:
        """The bits a transfer sampled.

        Raises:
            RemoteProtocolError: If the answer has the wrong length.
        """
        reply = await self.exchange(Function.SPI, request.to_bytes(), what)
        try:
            return parse_spi_reply(reply, request.n_sampled)
        except WireError as error:
            self._malformed(what, error)

    async def send_sealed(self, output: SetOutput) -> tuple[bytes, ...]:
        """Send sealed messages; their replies."""
        return await self.link.set_output(output, since=self.since, tries=self._tries)

    async def set_bias(self, output: SetOutput) -> bool:
        """Set a bias output and see that its DAC has taken the code, where a DAC shows it.

        Two attempts are allowed, because the first cannot show it when the low byte of the code changes. One in which
        the transfer that reads back was carried out twice, for its first answer was late or lost, shows nothing and is
        made again. Every attempt is the same sealed message, so it sets what was wanted and nothing else.

        Returns:
            Whether the DAC showed the code; False where that cannot be seen.

        Raises:
            VerifyError: If the DAC shows another code.
        """
        attempts = repeated = 0
        while True:
            replies = await self.send_sealed(output)
            try:
                shown = check_echo(output, replies)
            except WireError as error:
                self._malformed(f"set {output.channel}", error)
            if shown in {Shown.NOTHING, Shown.TAKEN}:
                return shown is Shown.TAKEN
            if shown is Shown.REPEATED and repeated < REPEATED_TRIES:
                repeated += 1
                continue
            attempts += 1
            if attempts >= BIAS_TRIES:
                raise VerifyError(
                    f"{output.channel}: the DAC shows 0x{replies[-1][1:-1].hex()}, not what it was told",
                    device=self.name,
                    last_good=ago(self.link.last_good_s),
                    do="switch off; check the seat of the bias mezzanine",
                )

    async def supply_on(self, output: SetOutput) -> None:
        """Switch the bias supply on and read back that it is.

        Raises:
            VerifyError: If the board does not say so.
        """
        reply, *_ = await self.send_sealed(output)
        try:
            check_memory_write_reply(reply)
        except WireError as error:
            self._malformed("switch the bias supply on", error)
        found = await self.read("power")
        if found != POWER_FEM | POWER_BIAS:
            raise VerifyError(f"register {register('power')} reads {found:#x} after switching on", device=self.name)

    async def asic_probe(self, chip: int, asics_per_module: int) -> int | None:
        """Global configuration of a chip, None if nothing acknowledges at its position.

        Raises:
            DeviceFaultError: If something is there and does not answer well in as many tries as are allowed.
        """
        return await self._asic_read(chip, asics_per_module, None, ABSENT_TRIES)

    async def asic_read(self, chip: int, asics_per_module: int, channel: int | None) -> int:
        """Configuration of a chip (or of one of its channels) as an integer.

        Raises:
            DeviceFaultError: If the ASIC does not answer well in as many tries as are allowed.
        """
        value = await self._asic_read(chip, asics_per_module, channel, ASIC_TRIES)
        if value is None:
            raise self._asic_failure(_asic_name("read", chip, channel), AsicStatus.BAD_ACKNOWLEDGE_0)
        return value

    async def _asic_read(self, chip: int, asics_per_module: int, channel: int | None, absent_after: int) -> int | None:
        command = AsicCommand(asic_address(chip, asics_per_module), channel, None)
        payload, what = command.to_bytes(), _asic_name("read", chip, channel)
        refused = status = 0
        for _ in range(ASIC_TRIES):
            reply = await self.exchange(Function.ASIC, payload, what)
            try:
                status, value = parse_asic_reply(reply, command.n_configuration_bits)
            except WireError as error:
                self._malformed(what, error)
            if value is not None:
                return value
            refused += status == AsicStatus.BAD_ACKNOWLEDGE_0
            if refused >= absent_after:
                return None
        raise self._asic_failure(what, status)

    async def asic_write(
        self, chip: int, asics_per_module: int, channel: int | None, wanted: AsicConfiguration
    ) -> None:
        """Write a configuration, read it back and compare every bit.

        Raises:
            DeviceFaultError: If the ASIC does not accept it in as many tries as are allowed.
            VerifyError: If another configuration is read back.
        """
        command = AsicCommand(asic_address(chip, asics_per_module), channel, wanted.value)
        payload, what = command.to_bytes(), _asic_name("write", chip, channel)
        status = 0
        for _ in range(ASIC_TRIES):
            reply = await self.exchange(Function.ASIC, payload, what)
            try:
                status, _ = parse_asic_reply(reply, 0)
            except WireError as error:
                self._malformed(what, error)
            if status == AsicStatus.OK:
                break
        else:
            raise self._asic_failure(what, status)
        value = await self.asic_read(chip, asics_per_module, channel)
        if value != wanted.value:
            found = AsicConfiguration(wanted.block, wanted.version, value)
            raise VerifyError(
                f"{_asic_name('read back', chip, channel)}: {wanted.differences(found)}",
                device=self.name,
                do="reset and configure again; if it stays, the ASIC or its supply is bad",
            )

    def _asic_failure(self, what: str, status: int) -> DeviceFaultError:
        names = {s.value: s.name.lower().replace("_", " ") for s in AsicStatus}
        return DeviceFaultError(
            f"{what} failed {ASIC_TRIES} times: status {status:#04x} ({names.get(status, 'generic error')})",
            device=self.name,
            last_good=ago(self.link.last_good_s),
            do="check the power and seat of this module",
        )


def _asic_name(verb: str, chip: int, channel: int | None) -> str:
    return f"{verb} ASIC {chip} " + ("global configuration" if channel is None else f"channel {channel}")
