"""petqc.toml: what is accepted, what is refused, and that the refusal names the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from petqcd.config import PetqcConfig, find_config, load_config, state_directory
from petqcd.errors import ConfigError, RefusedError
from petqcd.kinds import find_kind

GOOD = """\
[scanner]
name = "pet-3"

[[device]]
name = "board"
address = "udp://192.168.1.25:2000"
configuration = "readout/config.ini"
[device.bias]
v_min = 20.0
v_max = 45.0
max_step_v = 1.0
slew_v_per_s = 5.0

[qc.source]
seconds = 60
source = "line"

[limits.photopeak]
warn_low = 500.0
[limits.photopeak.module]
fail_low = 490.0

[store]
directory = "state"

[api]
listen = "127.0.0.1:9000"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "petqc.toml"
    path.write_text(text)
    return path


def test_no_configuration_is_the_simulated_bench() -> None:
    config = load_config(None)
    assert config.board.is_simulated
    assert config.board.simulator is not None
    assert config.board.simulator.profile == "bench"
    assert config.board.bias is not None
    assert config.api.host == "127.0.0.1"


def test_a_whole_file_is_read_and_its_paths_are_absolute(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.scanner.name == "pet-3"
    assert config.board.configuration == tmp_path / "readout/config.ini"
    assert not config.board.is_simulated
    assert config.qc.source.seconds == 60
    assert config.limit_overrides() == {"photopeak": {"warn_low": 500.0}, "photopeak.module": {"fail_low": 490.0}}
    assert state_directory(config) == tmp_path / "state"
    assert config.api.port == 9000


def test_a_scanner_behind_a_daemon_is_a_device_of_its_own_kind(tmp_path: Path) -> None:
    address = 'kind = "petsys-daqd"\naddress = "unix:/tmp/d.sock"\nshared_memory = "/ring"'
    config = load_config(write(tmp_path, GOOD.replace('address = "udp://192.168.1.25:2000"', address)))
    assert (config.board.address, config.board.shared_memory) == ("unix:/tmp/d.sock", "/ring")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('name = "pet-3"', 'nme = "pet-3"', 2, "scanner.nme: unknown key"),
        ("seconds = 60", "second = 60", 15, "qc.source.second: unknown key"),
        ("seconds = 60", "seconds = -1", 15, "qc.source.seconds"),
        ("seconds = 60", "seconds = nan", 15, "qc.source.seconds"),
        ("[store]", "[stores]", 23, "stores: unknown key"),
        ("v_min = 20.0", "v_min = 50.0", 8, "v_min (50 V) must be below v_max (45 V)"),
        ("v_max = 45.0", "v_max = inf", 10, "device[0].bias.v_max"),
        ("v_max = 45.0", "v_max = 61.0", 10, "device[0].bias.v_max: 61 V is more than the 60 V that every mezzanine"),
        ("v_max = 45.0", 'v_max = 76.0\nmezzanine = "BIAS_16P"', 10, "75 V that BIAS_16P is made for"),
        ("v_max = 45.0", 'v_max = 45.0\nmezzanine = "BIAS_33P"', 11, "'BIAS_33P' is none of BIAS_64P"),
        ("v_max = 45.0", 'v_max = 45.0\nmezzanine = "BIAS_16P"', 8, "state it as starts_with_v"),
        ("v_max = 45.0", 'v_max = 45.0\nmezzanine = "BIAS_16P"\nstarts_with_v = 46', 8, "is above v_max"),
        ("v_max = 45.0", "v_max = 45.0\nstarts_with_v = 1.0", 8, "starts_with_v is for mezzanine = BIAS_16P"),
        (
            "slew_v_per_s = 5.0",
            "slew_v_per_s = 5.0\n"
            + 2 * "[[device.bias.slot]]\nslot = 1\nv_min = 0\nv_max = 9\nmax_step_v = 1\nslew_v_per_s = 1\n",
            8,
            "limits of port 0, slave 0, slot 1 are given twice",
        ),
        ("max_step_v = 1.0", "max_step_v = 0", 11, "device[0].bias.max_step_v"),
        ("slew_v_per_s = 5.0\n", "", 8, "device[0].bias.slew_v_per_s: Field required"),
        ("warn_low = 500.0", "warn_low = 500.0\nwarn_high = 400.0", 18, "limits must rise"),
        ("fail_low = 490.0", "fial_low = 490.0", 21, "limits.photopeak.module.fial_low: unknown key"),
        ('"127.0.0.1:9000"', '"0.0.0.0:9000"', 26, "it needs tls_certificate and tls_key"),
        ('"127.0.0.1:9000"', '"0.0.0.0:9000"\ntls_key = "k"', 26, "belong together"),
        ('"127.0.0.1:9000"', '"0.0.0.0:9000"\ntls_key = "k"\ntls_certificate = "c"', 26, "it needs hosts"),
        ('"127.0.0.1:9000"', '"127.0.0.1:90000"', 27, "api.listen"),
        ('configuration = "readout/config.ini"\n', "", 4, "needs configuration"),
        ("[device.bias]", "[device.simulator]\nseed = 1\n[device.bias]", 4, "not both"),
        ('"udp://192.168.1.25:2000"', '"unix:/tmp/d.sock"', 4, "of a petsys-udp is not udp://HOST:PORT"),
        ('"udp://192.168.1.25:2000"', '"udp://192.168.1.25:2000"\nkind = "petsys-daqd"', 4, "is not unix:/PATH"),
        ("[device.bias]", 'shared_memory = "/daqd_shm"\n[device.bias]', 4, "belongs to a petsys-daqd"),
    ],
)
def test_a_wrong_key_is_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, GOOD.replace(old, new)))
    message = str(caught.value)
    assert said in message
    assert f"petqc.toml:{line}: " in message


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("seconds = 60", "secs = 60").replace('name = "pet-3"', 'nme = "x"')
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 2


def test_the_second_device_of_two_is_the_one_whose_line_is_named(tmp_path: Path) -> None:
    text = '[[device]]\nname = "a"\n[device.simulator]\n[[device]]\nname = "b"\ncolour = 1\n[device.simulator]\n'
    with pytest.raises(ConfigError, match=r"petqc.toml:6: device\[1\].colour: unknown key"):
        load_config(write(tmp_path, text))


def test_a_file_that_is_no_toml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        load_config(write(tmp_path, "[scanner]\nname = = 1\n"))


def test_a_named_file_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PETQC_CONFIG", raising=False)
    assert find_config(None) is None or find_config(None) == Path("/etc/petqc/petqc.toml")
    with pytest.raises(ConfigError, match="no such file"):
        find_config(tmp_path / "nothing.toml")
    found = write(tmp_path, GOOD)
    assert find_config(None) == Path(found.name)


def test_the_hash_follows_what_is_configured_and_not_where_it_lies(tmp_path: Path) -> None:
    one = PetqcConfig()
    assert one.hash == PetqcConfig().hash
    other = one.model_copy(update={"scanner": one.scanner.model_copy(update={"name": "other"})})
    assert other.hash != one.hash
    assert one.model_copy(update={"source_file": tmp_path / "petqc.toml"}).hash == one.hash


def test_the_environment_names_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETQC_STATE_DIR", str(tmp_path / "here"))
    assert state_directory(load_config(write(tmp_path, GOOD))) == tmp_path / "here"
    monkeypatch.delenv("PETQC_STATE_DIR")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_directory() == tmp_path / "xdg" / "petqc"


def test_sizes_of_a_calibration_are_settings(tmp_path: Path) -> None:
    file = tmp_path / "petqc.toml"
    file.write_text('[qc.calibrate-tdc]\nplan = "vendor"\nchannels = [0, 7]\n')
    config = load_config(file)
    assert config.qc.calibrate_tdc.plan == "vendor"
    kind = find_kind("calibrate-tdc")
    settings = kind.settings_of(config, {"channels_at_once": 2, "resume": "last"})
    assert settings.model_dump()["channels"] == (0, 7)
    assert settings.model_dump()["channels_at_once"] == 2
    assert not kind.needs_bias
    with pytest.raises(RefusedError, match="calibrate-tdc: channel 3: Extra inputs"):
        kind.settings_of(config, {"channel": 3})
    for wrong in ("channels = [7, 0]", "resume = 'last'", "plan = 'huge'", "channels_at_once = 13"):
        file.write_text(f"[qc.calibrate-charge]\n{wrong}\n")
        with pytest.raises(ConfigError, match=r"petqc\.toml:2: qc\.calibrate-charge\."):
            load_config(file)


def test_a_simulated_source_does_not_decay() -> None:
    real = {"device": [{"address": "udp://192.168.1.25:2000", "configuration": "config.ini"}]}
    source = {"qc": {"source": {"nuclide": "na22"}}}
    assert PetqcConfig.model_validate({**real, **source}).nuclide == "na22"
    assert PetqcConfig.model_validate(source).nuclide == ""
