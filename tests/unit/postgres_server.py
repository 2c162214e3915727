"""A real PostgreSQL server for tests: own data, own UNIX socket, nothing on the network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

START_DEADLINE_S = 30.0


class PostgresServer:
    """A server that runs; `url` is a database of it."""

    def __init__(self, folder: Path, bin_folder: Path, who: dict[str, Any]) -> None:
        self.folder, self._bin, self._who = folder, bin_folder, who
        self.url = f"postgresql+psycopg://petqc@/postgres?host={folder}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [
            self._bin / "postgres",
            "-D",
            self.folder / "data",
            "-k",
            self.folder,
            "-h",
            "",
            "-c",
            "max_connections=60",
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **self._who)
        end_s = time.monotonic() + START_DEADLINE_S
        ready = [self._bin / "pg_isready", "-q", "-h", self.folder, "-U", "petqc"]
        while subprocess.run(ready, check=False).returncode:
            assert time.monotonic() < end_s, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT ends sessions and writes everything; SIGQUIT is like a crash."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(START_DEADLINE_S)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Make a cluster, start it, end it. PostgreSQL refuses to run as root; then it runs as the user `postgres`."""
    (bin_folder,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    who: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="petqc-pg-"))
    if os.geteuid() == 0:
        who = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres", "postgres")
    try:
        init = [bin_folder / "initdb", "-D", folder / "data", "-U", "petqc", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run([*init, "--locale=C"], check=True, stdout=subprocess.DEVNULL, cwd=folder, **who)
        server = PostgresServer(folder, bin_folder, who)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
