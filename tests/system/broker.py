"""A real mosquitto for tests, on loopback, that is killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = Path(__file__).parents[2] / "monitoring" / "mosquitto"
PLAIN = "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
LASTING = PLAIN.replace("persistence false", "persistence true") + "autosave_on_changes true\nautosave_interval 1\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Broker:
    """One broker in a folder; config: of mosquitto, with {port}."""

    folder: Path
    config: str = PLAIN
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it listens."""
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "mosquitto is not installed"
        user = "user root\n" if os.geteuid() == 0 else ""
        path = self.folder / "mosquitto.conf"
        path.write_text(user + f"persistence_location {self.folder}/\n" + self.config.format(port=self.port))
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", path], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        end_s = time.monotonic() + 10
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < end_s, (self.folder / "mosquitto.log").read_text()
            assert self.process.poll() is None, (self.folder / "mosquitto.log").read_text()
            time.sleep(0.02)

    def send(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it: SIGKILL loses what it has not written."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(10)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def secured(folder: Path, users: Sequence[str]) -> Broker:
    """A broker as in the example files, with a certificate of an authority made for it; passwords are the names."""
    certificates(folder)
    passwords = folder / "petqc.passwd"
    for user in users:
        made = [] if passwords.exists() else ["-c"]
        subprocess.run(["mosquitto_passwd", *made, "-b", passwords, user, user], check=True, capture_output=True)
    shutil.copyfile(EXAMPLES / "petqc.acl", folder / "petqc.acl")
    config = (EXAMPLES / "petqc.conf").read_text()
    config = config.replace("listener 8883", "listener {port} 127.0.0.1")
    config = config.replace("persistence_location /var/lib/mosquitto/\n", "")
    for there in ("/etc/mosquitto/certs/", "/etc/mosquitto/"):
        config = config.replace(there, f"{folder}/")
    return Broker(folder, config)


def certificates(folder: Path, days: int = 2) -> None:
    """ca.pem, broker.pem, broker.key; days: for which that of the broker holds."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority")
    openssl("req", *key, "-keyout", "broker.key", "-out", "broker.csr", "-subj", "/CN=127.0.0.1")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        "x509", "-req", "-in", "broker.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "broker.pem",
        "-days", str(days), "-extfile", "names",
    )  # fmt: skip
