"""Until when a certificate holds. Source: RFC 5280 §4.1; DER, ITU-T X.690."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from petqcd.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
_END = "-----END CERTIFICATE-----"


def expires_unix_s(file: Path) -> float:
    """When the first certificate of a PEM file, the server's own, ends.

    Raises:
        ConfigError: there is none in it.
    """
    try:
        text = file.read_text(encoding="ascii")
        first = text[text.index("-----BEGIN CERTIFICATE-----") : text.index(_END) + len(_END)]
        _, certificate, _ = _element(ssl.PEM_cert_to_DER_cert(first))
        _, signed, _ = _element(certificate)
        kind, _, rest = _element(signed)
        if kind == _VERSION:  # absent in version 1; then that was the serial number
            _, _, rest = _element(rest)
        for _ in range(2):  # algorithm, issuer
            _, _, rest = _element(rest)
        _, validity, _ = _element(rest)
        _, _, rest = _element(validity)
        kind, until, _ = _element(rest)
        return _moment(kind, until.decode("ascii"))
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"{file}: no certificate whose end can be read: {error}") from error


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Kind and content of the first element, and what comes after it."""
    kind, size, at = data[0], data[1], 2
    if size & 0x80:
        n = size & 0x7F
        size, at = int.from_bytes(data[2 : 2 + n], "big"), 2 + n
    if at + size > len(data):
        raise ValueError("it is cut off")
    return kind, data[at : at + size], data[at + size :]


def _moment(kind: int, text: str) -> float:
    """Unix time. Two digits of a year are of 1950 to 2049. Source: RFC 5280 §4.1.2.5."""
    if kind == _UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("its end is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
