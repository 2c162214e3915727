"""The tables of the service itself: what it keeps where, and who may reach it."""

from __future__ import annotations

import re
from datetime import time
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from petqcd.config.model import Model, Name
from petqcd.interlocks.bias_limits import Finite

SYSLOG_SERVER = r"(?P<way>udp|tcp)://(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(:(?P<port>\d{1,5}))?"
SyslogAddress = Annotated[str, Field(pattern=rf"^(/\S+|{SYSLOG_SERVER})$")]


class ScannerConfig(Model):
    """[scanner]: what the results and metrics call it."""

    name: Name = "bench"
    """Name in results, metrics and topics."""


class StoreConfig(Model):
    """[store]: where runs, recordings and the history are kept."""

    directory: Path | None = None
    """State directory. Default: $STATE_DIRECTORY, else $XDG_STATE_HOME/petqc, else ~/.local/state/petqc."""
    url: Annotated[str, Field(pattern=r"^postgresql\+psycopg://\S+$")] | None = None
    """History on a PostgreSQL server, postgresql+psycopg://USER@HOST/DATABASE; default: a file of SQLite."""
    database_schema: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$", alias="schema")] = "petqc"
    """Schema of this daemon in that database; each daemon has its own."""
    backups: Path | None = None
    """Folder of backups, best on another disk. Default: `backups` in the state directory."""
    nightly: bool = True
    """Whether a backup is made every night; what is no longer kept goes after it."""
    nightly_at: time = time(2, 30)
    """Local time of that, in the zone of [schedule]."""
    keep_recordings_days: Annotated[Finite, Field(ge=1)] | None = None
    """After how many days the recorded frames of a run are deleted. Default: never. Results always stay."""
    keep_channels_days: Annotated[Finite, Field(ge=1)] | None = None
    """The same for the values and spectra of each channel (Parquet). Default: never."""

    @field_validator("url")
    @classmethod
    def _without_password(cls, url: str | None) -> str | None:
        if url is not None and (re.match(r"^[^/]+//[^/@]*:[^/@]*@", url) or "password=" in url):
            raise ValueError("a password does not belong here: add ?passfile=/etc/petqc/pgpass, or use the socket")
        return url


class ApiConfig(Model):
    """[api]: the HTTP listener, for people and programs.

    On loopback it needs nothing. Elsewhere it needs TLS, the names under which it is asked, and a user.
    """

    listen: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}$")] = "127.0.0.1:8642"
    """HOST:PORT; port 0 takes a free one."""
    hosts: tuple[str, ...] = ()
    """Further names that the Host header may carry: those under which other machines or a reverse proxy ask."""
    tls_certificate: Path | None = None
    """PEM file with the certificate and those between it and a known authority; read again when it changes."""
    tls_key: Path | None = None
    """PEM file with its private key, readable by the daemon only."""
    connections: Annotated[int, Field(ge=10, le=1000)] = 100
    """Most at once, half of which may hear live events; beyond it whoever asks nothing is let go, else 503."""
    connections_per_source: Annotated[int, Field(ge=1, le=1000)] = 20
    """Most at once of one address; more are closed. This host is not counted: all its programs have one address."""
    socket_group: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None
    """System group that may use the UNIX socket (mode 0660), each member with the role of their group petqc-observer,
    petqc-physicist or petqc-engineer; none: only the daemon's own user and root."""
    anonymous: bool = True
    """Whether whoever reaches a loopback listener may look without logging in. Elsewhere nobody ever may."""

    @property
    def host(self) -> str:
        """Address to bind."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port to bind, 0 for any."""
        return int(self.listen.rpartition(":")[2])

    @property
    def is_loopback(self) -> bool:
        """Whether only this host reaches it."""
        return self.host in ("127.0.0.1", "localhost", "::1")

    @field_validator("listen")
    @classmethod
    def _port(cls, listen: str) -> str:
        if int(listen.rpartition(":")[2]) > 65_535:
            raise ValueError("the port must be 0 to 65535")
        return listen

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both")
        if not self.is_loopback and self.tls_certificate is None:
            raise ValueError(f"listen = {self.listen}: elsewhere than on loopback it needs tls_certificate and tls_key")
        if not self.is_loopback and not self.hosts:
            raise ValueError(f"listen = {self.listen}: elsewhere than on loopback it needs hosts, as it is asked for")
        return self


class AuditConfig(Model):
    """[audit]: where the audit log is copied to."""

    syslog: SyslogAddress | None = None
    """Server that is given every row as a message of RFC 5424: a local socket such as /dev/log, udp://HOST:PORT (514)
    or tcp://HOST:PORT (601). Default: none."""


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
