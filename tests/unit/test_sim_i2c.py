"""The simulated I2C bus, line by line: what is a start, who drives the data line, and what a bus error looks like."""

from __future__ import annotations

from petqc_simulators.boards.i2c_bus import BUS_ERROR, CHECK_SDA, SCL, SDA, BusSwitch, Ds44xx, I2cBus

IDLE, START, STOP = bytes([SCL | SDA]), bytes([SCL, 0]), bytes([0, SCL, SCL | SDA])


def bit(value: int) -> bytes:
    """Data changes while the clock is low."""
    return bytes([value * SDA, value * SDA | SCL, value * SDA])


def byte(value: int) -> bytes:
    return b"".join(bit(value >> k & 1) for k in range(7, -1, -1))


RELEASED = bit(1)


class Master:
    """Sends pieces and samples the data line in the middle of each clock."""

    def __init__(self, bus: I2cBus) -> None:
        self.bus = bus
        bus.run(IDLE)

    def is_acknowledged(self, value: int) -> bool:
        self.bus.run(byte(value))
        return not self.bus.run(RELEASED)[1] & SDA

    def read(self, *, acknowledge: bool) -> int:
        bits = [self.bus.run(RELEASED)[1] >> 1 & 1 for _ in range(8)]
        self.bus.run(bit(0 if acknowledge else 1))
        return int("".join(map(str, bits)), 2)


def trims() -> tuple[I2cBus, Ds44xx]:
    chip = Ds44xx(0x90, lambda _register, _code: None)
    return I2cBus([chip]), chip


def test_a_register_is_written_and_read_back() -> None:
    bus, chip = trims()
    master = Master(bus)
    bus.run(START)
    assert [master.is_acknowledged(value) for value in (0x90, 0xF9, 0x85)] == [True] * 3
    bus.run(STOP)
    assert (chip.code(0xF8), chip.code(0xF9)) == (0, -5)
    bus.run(START)
    assert master.is_acknowledged(0x90)
    assert master.is_acknowledged(0xF9)
    bus.run(bytes([SDA, SDA | SCL]) + START)
    assert master.is_acknowledged(0x91)
    assert master.read(acknowledge=False) == 0x85


def test_both_lines_falling_in_one_step_are_no_start() -> None:
    bus, _ = trims()
    master = Master(bus)
    bus.run(bytes([0]))
    assert not master.is_acknowledged(0x90)
    bus.run(bytes([SDA, SDA | SCL]) + START)
    assert master.is_acknowledged(0x90)


def test_both_lines_rising_in_one_step_are_no_stop() -> None:
    bus, chip = trims()
    master = Master(bus)
    bus.run(START)
    assert master.is_acknowledged(0x90)
    # A first bit of the register, clocked in with both lines rising together, as the master of this board may do.
    bus.run(bytes([0, SCL | SDA, SDA]))
    for k in range(6, -1, -1):
        bus.run(bit(0xF8 >> k & 1))
    assert not bus.run(RELEASED)[1] & SDA
    assert master.is_acknowledged(0x11)
    assert chip.code(0xF8) == 0x11


def test_a_chip_lets_go_of_the_line_when_the_master_wants_no_more() -> None:
    bus, chip = trims()
    chip.values[0xF8] = 0x00
    master = Master(bus)
    bus.run(START)
    assert master.is_acknowledged(0x90)
    assert master.is_acknowledged(0xF8)
    bus.run(bytes([SDA, SDA | SCL]) + START)
    assert master.is_acknowledged(0x91)
    assert master.read(acknowledge=True) == 0x00
    assert master.read(acknowledge=False) == 0x00
    assert bus.run(bytes([SDA, SDA | SCL])) == bytes([SDA, SDA | SCL]), "a chip that held on would keep it low"
    assert bus.run(bytes([SDA]) + STOP)[-1] == SCL | SDA


def test_a_stuck_line_is_an_error_and_ends_what_follows() -> None:
    bus, chip = trims()
    bus.is_stuck = True
    reply = bus.run(bytes([SCL | SDA | CHECK_SDA]) + START + byte(0x90))
    assert all(step & BUS_ERROR for step in reply)
    bus.is_stuck = False
    assert bus.run(IDLE) == IDLE
    assert chip.values == {0xF8: 0, 0xF9: 0}


def test_a_switch_connects_one_branch_at_a_time() -> None:
    near, far = (Ds44xx(0x90, lambda _register, _code: None) for _ in range(2))
    bus = I2cBus(switch=(BusSwitch(), {0: [near], 1: [far]}))
    master = Master(bus)

    def write(*values: int) -> list[bool]:
        bus.run(START)
        found = [master.is_acknowledged(value) for value in values]
        bus.run(STOP)
        return found

    assert write(0x90, 0xF8, 1) == [False] * 3
    for branch, code in ((0x04, 3), (0x05, 4)):
        assert write(0xE0, branch) == [True] * 2
        assert write(0x90, 0xF8, code) == [True] * 3
    assert (near.code(0xF8), far.code(0xF8)) == (3, 4)
