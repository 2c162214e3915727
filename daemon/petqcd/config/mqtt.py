"""[mqtt]: the broker that results, alarms and progress are told to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from petqcd.config.model import Model, Name

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class MqttConfig(Model):
    """[mqtt]: without this table nothing is told to any broker."""

    host: Annotated[str, Field(pattern=r"^\S+$")]
    """Name or address of the broker."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 8883
    """8883 with TLS, 1883 without."""
    tls: bool = True
    """Only a broker on this host may go without."""
    ca_file: Path | None = None
    """Certificates that the broker's is checked against, where it is not one of the system's."""
    certificate: Path | None = None
    """PEM file with this client's certificate, where the broker wants one."""
    key: Path | None = None
    """PEM file with its private key."""
    username: str | None = None
    password_file: Path | None = None
    """File with the password of that user, readable by the daemon only."""
    client_id: Name | None = None
    """Default: petqcd- and the scanner's name. No other client may have it."""
    prefix: Annotated[str, Field(pattern=r"^[^\s+#/]+(/[^\s+#/]+)*$")] = "petqc"
    """First part of every topic; the scanner's name follows."""
    commands: tuple[Literal["run", "off"], ...] = ()
    """Which commands are taken from the broker. Default: none."""
    command_key_file: Path | None = None
    """File with the key that commands are signed with: 32 bytes or more, as hexadecimal digits."""
    energise: bool = False
    """Whether a command may start a run that needs bias."""

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if not self.tls and self.host not in LOOPBACK:
            raise ValueError(f"host = {self.host}: a broker on another host needs tls")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together: give both")
        if self.commands and self.command_key_file is None:
            raise ValueError("commands need command_key_file: whoever reaches the broker could send one")
        return self

    @property
    def files(self) -> dict[str, Path]:
        """Every file it names."""
        names = ("ca_file", "certificate", "key", "password_file", "command_key_file")
        return {name: path for name in names if (path := getattr(self, name)) is not None}
