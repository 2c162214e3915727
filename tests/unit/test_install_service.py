"""petqc install-service, and what systemd says of the units that it writes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from petqcd.cli.commands import app
from petqcd.cli.install import PLACES, SHIPPED_BIN
from petqcd.config import PetqcConfig
from petqcd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
UNITS = [name for name in PLACES if name.endswith((".service", ".timer"))]
EXPOSURE = 20
"""Highest that is accepted, in tenths of systemd's own scale."""


def install(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["install-service", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system with the service, whose programs are there and do nothing."""
    folder = tmp_path_factory.mktemp("root")
    for name in ("petqc", "petqc-safe"):
        shutil.copy("/bin/true", folder / name)
    install("--write", "--root", str(folder), "--bin", str(folder))
    return folder


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    found = shutil.which("systemd-analyze")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is not on PATH, and without it nobody knows whether systemd takes our units")
        pytest.skip("systemd-analyze is not on PATH: ./petqc test installs it when run as root on Debian")
    return subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_a_dry_run_writes_nothing_and_says_what_it_would(tmp_path: Path) -> None:
    said = install("--root", str(tmp_path), "--bin", "/opt/petqc/bin")
    assert list(tmp_path.iterdir()) == []
    assert all(str(tmp_path / place) in said for place in PLACES.values())
    assert "petqc install-service --write" in said


def test_what_is_the_sites_stays_and_the_rest_is_renewed(tmp_path: Path) -> None:
    def again(*more: str) -> dict[str, str]:
        said = json.loads(install("--json", "--root", str(tmp_path), "--bin", "/opt/petqc/bin", *more))
        return {str(Path(path).relative_to(tmp_path)): state for path, state in said["files"].items()}

    assert set(again("--write").values()) == {"new"}
    config, unit = tmp_path / PLACES["petqc.toml"], tmp_path / PLACES["petqcd.service"]
    config.write_text("[scanner]\nname = 'ours'\n")
    unit.write_text("of an older version")
    states = again("--write")
    assert states.pop(PLACES["petqc.toml"]) == "kept"
    assert states.pop(PLACES["petqcd.service"]) == "changed"
    assert set(states.values()) == {"unchanged"}
    assert "ours" in config.read_text()
    assert "Type=notify" in unit.read_text()


def test_the_files_of_monitoring_come_as_they_are_and_over_nothing(tmp_path: Path) -> None:
    target = tmp_path / "watch"
    done = CliRunner().invoke(app, ["install-monitoring", str(target), "--json"], catch_exceptions=False)
    shipped = {path.relative_to(ROOT / "monitoring") for path in (ROOT / "monitoring").rglob("*") if path.is_file()}
    assert {Path(path).relative_to(target) for path in json.loads(done.output)["files"]} == shipped
    with pytest.raises(ConfigError, match="is there already"):
        CliRunner().invoke(app, ["install-monitoring", str(target)], catch_exceptions=False)


def test_every_file_of_the_folder_has_a_place_and_every_unit_the_programs_path(root: Path) -> None:
    shipped = {path.name for path in (ROOT / "systemd").iterdir()} - {"README.md"}
    assert shipped == set(PLACES)
    for place in PLACES.values():
        assert SHIPPED_BIN not in (root / place).read_text()
    PetqcConfig.model_validate(tomllib.loads((root / PLACES["petqc.toml"]).read_text()))


def test_a_petqc_that_the_service_could_not_see_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(ConfigError, match="no petqc, petqc-safe there"):
        install()
    (tmp_path / "bin").mkdir()
    for name in ("petqc", "petqc-safe"):
        (tmp_path / "bin" / name).write_text("")
    with pytest.raises(ConfigError, match="the service sees nothing below"):
        install()
    monkeypatch.setattr(sys, "prefix", "/opt/petqc")  # everything is there, and its interpreter is a user's own
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    monkeypatch.setattr(Path, "resolve", lambda _: Path("/home/somebody/.pyenv/bin/python3.11"))
    with pytest.raises(ConfigError, match=r"/home/somebody/.pyenv/bin/python3.11: the service sees nothing"):
        install()


def test_an_installed_petqc_brings_the_files(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name.partition(".data/data/")[2] for name in zipfile.ZipFile(wheel).namelist()}
    assert {f"share/petqc/systemd/{name}" for name in [*PLACES, "README.md"]} <= inside
    assert "share/petqc/monitoring/prometheus/petqc.rules.yml" in inside


def test_systemd_takes_the_units(root: Path) -> None:
    done = systemd_analyze("verify", *(root / PLACES[name] for name in UNITS))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_a_unit_exposes_little(root: Path, name: str) -> None:
    done = systemd_analyze("security", "--offline=yes", f"--threshold={EXPOSURE}", root / PLACES[name])
    assert done.returncode == 0, done.stdout


def test_the_daemon_is_restarted_fed_and_followed_by_its_safe_state() -> None:
    unit = (ROOT / "systemd" / "petqcd.service").read_text()
    for line in (
        "Type=notify", "NotifyAccess=main", "WatchdogSec=30", "Restart=on-failure", "OnFailure=petqc-safe.service",
        "StateDirectory=petqc", "LimitCORE=0", "LoadCredential=petqc:/etc/petqc/credentials",
    ):  # fmt: skip
        assert re.search(f"^{re.escape(line)}$", unit, re.MULTILINE), line
    # The two must agree on where the outputs are kept.
    state = re.findall(r"^(?:Environment=PETQC_STATE_DIR|StateDirectory|User)=.*$", unit, re.MULTILINE)
    safe = (ROOT / "systemd" / "petqc-safe.service").read_text()
    assert state
    assert all(line in safe for line in state)


def test_the_rule_of_serial_ports_names_them_by_their_number() -> None:
    (rule,) = [r for r in (ROOT / "systemd" / "60-petqc.rules").read_text().splitlines() if r and r[0] != "#"]
    for part in rule.split(", "):
        assert re.fullmatch(r'[A-Z]+(\{\w+\})?(==|=|\+=)"[^"]*"', part), part
    assert 'SYMLINK+="petqc/$env{ID_SERIAL_SHORT}"' in rule
    assert 'ENV{ID_MM_DEVICE_IGNORE}="1"' in rule
