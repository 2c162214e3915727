"""Commands that come through the broker: signed, fresh, once, never retained; anything else is refused and recorded.

A command is JSON, `{"command": TEXT, "mac": HEX}`: mac is HMAC-SHA256 of TEXT with the key of `command_key_file`.
TEXT is JSON again: `request_id`, `at` (ISO 8601), `topic` (the last word of it: run or off), for a run `kind` and, if
need be, `parameters`. So neither the broker nor whoever can publish there commands anything.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petqcd import clock
from petqcd.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from petqcd.config.mqtt import MqttConfig

FRESH_S = 5.0
"""How much a command's time may differ from ours."""
MOST_BYTES = 16_384
MOST_KNOWN = 1000
KEY_BYTES = 32


class Command(BaseModel):
    """What TEXT says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: Annotated[str, Field(min_length=1, max_length=100)]
    at: str
    topic: Literal["run", "off"]
    kind: Annotated[str, Field(max_length=100)] = ""
    parameters: dict[str, Any] = {}


@dataclass(slots=True)
class Commands:
    """Judges what comes in.

    Attributes:
        config: [mqtt].
        key: of the signatures.
        since_unix_s: when this daemon began; what is older may have been obeyed by the one before.
    """

    config: MqttConfig
    key: bytes
    since_unix_s: float
    _known: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def judge(self, topic: str, payload: bytes, *, is_retained: bool) -> Command:
        """A command that may be obeyed.

        Raises:
            RefusedError: it may not; the message says why, and repeats nothing that was sent.
        """
        if is_retained:
            raise RefusedError("a retained message is no command: remove it from the broker")
        if topic not in self.config.commands:
            raise RefusedError(f"[mqtt] commands does not have {topic}")
        command = self._signed(payload)
        if command.topic != topic:
            raise RefusedError("the command is for another topic")
        try:
            at_s = datetime.fromisoformat(command.at).timestamp()
        except (ValueError, OverflowError) as error:
            raise RefusedError("its time is not ISO 8601") from error
        off_s = at_s - clock.unix_s()
        if not abs(off_s) <= FRESH_S:
            raise RefusedError(f"its time is {off_s:+.1f} s off, {FRESH_S:g} s are allowed")
        if at_s < self.since_unix_s:
            raise RefusedError("it is older than this daemon")
        if command.request_id in self._known:
            raise RefusedError("a command with this request_id came already")
        self._known[command.request_id] = None
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return command

    def _signed(self, payload: bytes) -> Command:
        if len(payload) > MOST_BYTES:
            raise RefusedError(f"a command has at most {MOST_BYTES} bytes")
        try:
            outer = json.loads(payload)
            text, mac = outer["command"], outer["mac"]
            is_good = hmac.compare_digest(signature(self.key, text), mac)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RefusedError("it is not a signed command") from error
        if not is_good:
            raise RefusedError("its signature is wrong")
        try:
            return Command.model_validate(json.loads(text, parse_constant=_no_constant))
        except (ValidationError, ValueError, RecursionError) as error:
            raise RefusedError("it is signed, and not a command") from error


def signature(key: bytes, text: str) -> str:
    """HMAC-SHA256 as hexadecimal text."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def signed(key: bytes, content: Mapping[str, Any]) -> str:
    """A command as it is sent."""
    text = json.dumps(dict(content), allow_nan=False)
    return json.dumps({"command": text, "mac": signature(key, text)})


def load_key(path: Path) -> bytes:
    """The key in a file.

    Raises:
        ConfigError: it is not there, too short, or others can read it.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others can read it; chmod 600")
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no key: {error}") from error
    if len(key) < KEY_BYTES:
        raise ConfigError(f"{path}: a key has {KEY_BYTES} bytes or more (openssl rand -hex {KEY_BYTES})")
    return key


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
