"""The tables of the service itself: what it keeps where, and who may reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from petqcd.config.model import Model, Name


class ScannerConfig(Model):
    """[scanner]: what the results and metrics call it."""

    name: Name = "bench"
    """Name in results, metrics and topics."""


class StoreConfig(Model):
    """[store]: where runs, recordings and the history are kept."""

    directory: Path | None = None
    """State directory. Default: $STATE_DIRECTORY, else $XDG_STATE_HOME/petqc, else ~/.local/state/petqc."""


class ApiConfig(Model):
    """[api]: the read-only HTTP listener."""

    listen: Annotated[str, Field(pattern=r"^(127\.0\.0\.1|localhost|\[::1\]):\d{1,5}$")] = "127.0.0.1:8642"
    """Loopback HOST:PORT; port 0 takes a free one. Elsewhere it would need users and TLS, so it is refused."""
    hosts: tuple[str, ...] = ()
    """Further names that the Host header may carry, for a reverse proxy."""

    @property
    def host(self) -> str:
        """Address to bind."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port to bind, 0 for any."""
        return int(self.listen.rpartition(":")[2])

    @field_validator("listen")
    @classmethod
    def _port(cls, listen: str) -> str:
        if int(listen.rpartition(":")[2]) > 65_535:
            raise ValueError("the port must be 0 to 65535")
        return listen


class QatrackConfig(Model):
    """[qatrack]: the QATrack+ server that `petqc upload` performs a test list on."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")]
    """Address of its API, such as https://qatrack.example/api."""
    token_file: Path
    """File with the API token, readable by its owner only."""
    unit_test_collection: str
    """Address of the unit's test list in the API."""
    tests: Annotated[dict[str, str], Field(min_length=1)]
    """Macro name of each test -> check of the scanner, CHECK@NODE, `verdict` or `sentence`."""
    ca_file: Path | None = None
    """Certificates that the server's is checked against, where it is not one of the system's."""
