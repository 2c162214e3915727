"""[[device]] of instruments: what is accepted, what is refused with its line, and that limits reach the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from petqc_drivers.registry import KINDS
from petqcd.config import ADDRESS_FORMS, BiasSourceConfig, load_config
from petqcd.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
[[device]]
name = "board"
address = "udp://192.168.1.25:2000"
configuration = "readout/config.ini"

[[device]]
name = "hv-0"
kind = "hamamatsu-c11204"
address = "/dev/serial/by-id/usb-FTDI_A1-if00"
model = "C11204-02"
serial = "12345678"
modules = ["0.0.0"]
[device.bias]
v_min = 50
v_max = 57
max_step_v = 4
slew_v_per_s = 5
most_current_ma = 1

[[device]]
name = "hv-1"
kind = "caen-a7585d"
address = "/dev/serial/by-id/usb-FTDI_A2-if00"
serial = 10234

[[device]]
name = "chiller"
kind = "julabo"
address = "socket://127.0.0.1:4001"
model = "FL601"
poll_s = 2

[[device]]
name = "timing"
kind = "caen-a5203"
address = "tcp://192.168.50.3"
serial = 12
inputs = [0, 1]
modules = ["0.0.0", "0.0.1"]

[[device]]
name = "smu"
kind = "keithley-smu"
address = "TCPIP::10.0.0.5::5025::SOCKET"
model = "2450"
serial = "0442"

[[device]]
name = "skew"
kind = "sr620"
address = "GPIB0::16::INSTR"
serial = "05203"
clocks = ["reference", "0.0.1"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "petqc.toml"
    path.write_text(text)
    return path


def test_every_kind_of_instrument_can_be_configured(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.board.name == "board"
    assert {one.kind for one in config.instruments} == set(KINDS) - set(ADDRESS_FORMS)
    assert [one.name for one in config.instruments if one.can_energise] == ["hv-0"]
    assert not config.is_simulated
    assert {one.name: one.poll_s for one in config.instruments} == {
        "hv-0": 1.0, "hv-1": 1.0, "chiller": 2.0, "timing": 1.0, "smu": 1.0, "skew": 5.0,
    }  # fmt: skip
    timing = next(one for one in config.instruments if one.name == "timing").settings()
    assert (timing.host, timing.modules) == ("192.168.50.3", ("module:0.0.0", "module:0.0.1"))
    skew = next(one for one in config.instruments if one.name == "skew").settings()
    assert skew.clocks == ("reference", "module:0.0.1")


def test_the_hard_limit_goes_to_the_driver_under_the_name_of_the_device(tmp_path: Path) -> None:
    hv, without = load_config(write(tmp_path, GOOD)).instruments[:2]
    settings = hv.settings()
    assert (settings.limit.channel, settings.limit.v_max.value, settings.most_current_ma) == ("hv-0", 57.0, 1.0)
    assert isinstance(without, BiasSourceConfig)
    assert without.settings().limit is None


def test_one_simulated_instrument_makes_everything_simulated(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD.replace("poll_s = 2", "simulated = true")))
    assert config.is_simulated
    assert not config.board.is_simulated


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("v_max = 57", "v_max = 95", 6, "up to 95.0000 V: a C11204-02 gives 40 to 90 V"),
        ("v_max = 57", "v_max = 50", 13, "v_min (50 V) must be below v_max (50 V)"),
        ("v_max = 57", "v_max = nan", 15, "device[1].bias.v_max: Input should be a finite number"),
        ("[device.bias]", "run_v = 58\n[device.bias]", 6, "run_v (58 V) must lie inside [device.bias]"),
        ("serial = 10234", "serial = 10234\nrun_v = 30", 20, "run_v (30 V) must lie inside"),
        ("max_step_v = 4", "max_step_v = 0", 16, "device[1].bias.max_step_v"),
        ("slew_v_per_s = 5", "slew_v_per_s = inf", 17, "device[1].bias.slew_v_per_s"),
        ("most_current_ma = 1\n", "", 13, "device[1].bias.most_current_ma: Field required"),
        ("v_max = 57", "v_max = 57\nvmax = 60", 16, "device[1].bias.vmax: unknown key"),
        ('serial = "12345678"\n', "", 6, "tells its serial number: say which one"),
        ('"C11204-02"', '"C11204-03"', 10, "device[1].model"),
        ('["0.0.0"]\n[device.bias]', '["0.0"]\n[device.bias]', 12, "device[1].modules[0]"),
        ('"julabo"', '"julab"', 28, "'julab' is none of petsys-udp"),
        ('"socket://127.0.0.1:4001"', '"127.0.0.1:4001"', 26, "'127.0.0.1:4001' is no serial port"),
        ("poll_s = 2", "poll_s = 9", 31, "device[3].poll_s"),
        ("poll_s = 2", "lowest_degc = 30\nhighest_degc = 20", 26, "30.0 to 20.0 °C is no range"),
        ('"chiller"', '"hv-0"', 1, "two devices are called 'hv-0'"),
        ("-FTDI_A2-", "-FTDI_A1-", 1, "two devices are at /dev/serial/by-id/usb-FTDI_A1-if00"),
        ("tcp://192.168.50.3", "192.168.50.3", 36, "device[4].address"),
        ("inputs = [0, 1]", "inputs = [0]", 33, "one for each of the inputs"),
        ('model = "2450"', 'model = "2450"\npoll_s = 2', 46, "device[5].poll_s"),
        ('serial = "05203"', "samples = 3", 48, "device[6].serial: Field required"),
        ('["reference", "0.0.1"]', '["reference", "module:0.0.1"]', 53, "two are needed, of what is at A and at B"),
        ('["reference", "0.0.1"]', '["reference"]', 53, "['reference']: two are needed"),
        ('serial = "05203"', 'serial = "05203"\nsamples = 100000', 48, "100000 samples of up to 0.002 s"),
        (GOOD[: GOOD.index('[[device]]\nname = "hv-0"')], "", 1, "0 readouts"),
        ('name = "chiller"\nkind = "julabo"', 'name = "chiller"', 29, "device[3].model: unknown key"),
    ],
)  # fmt: skip
def test_what_the_driver_would_refuse_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, said: str
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, GOOD.replace(old, new, 1)))
    assert said in str(caught.value)
    assert f"petqc.toml:{line}: " in str(caught.value)
