"""Every line of the documentation that begins with `$` is run, in the order of its page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.siemens_report import report

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    p.relative_to(ROOT).as_posix()
    for p in (ROOT / "docs").rglob("*.md")
    if re.search(r"^```console$", p.read_text(), re.MULTILINE)
)


SHORT = "[qc.source]\nseconds = 4\n"


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def files(page: Path) -> dict[str, str]:
    """Configuration shown on the page, under the name that the commands use; else the usual one, with shorter runs."""
    text = page.read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    if not blocks and "$ petqc serve" in text:
        blocks = [SHORT]
    return {"petqc.toml": "\n".join(blocks)} if blocks else {}


def test_there_is_something_to_run() -> None:
    assert len(PAGES) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_commands_of_a_page(name: str, tmp_path: Path) -> None:
    page = ROOT / name
    for file, text in files(page).items():
        (tmp_path / file).write_text(text)
    if name.endswith("connect-a-bench.md"):  # the reader brings the readout's own directory; here the simulator does
        subprocess.run(
            [sys.executable, "-m", "petqc_simulators", "record", "--seconds", "0.2", "bench"], cwd=tmp_path, check=True
        )
    if name.endswith("exchange-results.md"):  # the reader brings reports of the scanner's own software
        (tmp_path / "PETQCReport_05032024.xml").write_text(report())
    script = tmp_path / "page.sh"
    script.write_text("set -emx\n" + "\n".join(commands(page)) + "\n")
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PETQC_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PETQC_STATE_DIR": str(tmp_path / "state"),
    }
    with (tmp_path / "said").open("w+") as said:
        shell = subprocess.Popen(
            ["bash", str(script)], cwd=tmp_path, env=env, stdout=said, stderr=said, start_new_session=True
        )
        try:
            code = shell.wait(timeout=220)
        finally:
            _end_session(shell.pid)
            shell.wait(timeout=30)
        said.seek(0)
        assert code == 0, said.read()


def _end_session(session: int) -> None:
    """End whatever a page left running: each job has a process group of its own within the session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGTERM)
            except (ProcessLookupError, PermissionError):
                continue
