"""Tokens of programs: 256 random bits, shown once and kept as their SHA-256, with a role, a scope and an end."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from petqcd import clock
from petqcd.errors import NotFoundError, RefusedError
from petqcd.security.access import Actor, Proof, Role
from petqcd.store import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

    from petqcd.store import Store

PREFIX = "petqc_"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MOST_DAYS = 366
DAY_S = 86_400.0
_USED_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Restriction:
    """What a token is limited to besides its scope; None: nothing.

    networks: from which it may be used, such as 10.1.0.0/16. devices: bias sources. kinds: of runs.
    """

    networks: tuple[str, ...] | None = None
    devices: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls, networks: Sequence[str] | None, devices: Sequence[str] | None, kinds: Sequence[str] | None
    ) -> Restriction:
        """From lists.

        Raises:
            RefusedError: what should be a network is none, or a name has a space.
        """
        try:
            nets = None if networks is None else tuple(str(ip_network(one)) for one in networks)
        except ValueError as error:
            raise RefusedError(f"{error}: a network is written 10.1.0.0/16, one address 10.1.2.3") from error
        if any(" " in name for name in (*(devices or ()), *(kinds or ()))):
            raise RefusedError("a name of a device or of a kind of run has no space in it")
        return cls(nets, None if devices is None else tuple(devices), None if kinds is None else tuple(kinds))

    def fits(self, source: str) -> bool:
        """Whether it may be used from an address."""
        if self.networks is None:
            return True
        try:
            address = ip_address(source)
        except ValueError:
            return False
        return any(address in ip_network(network) for network in self.networks)

    def texts(self) -> dict[str, str | None]:
        """For the table: names with spaces between."""
        return {name: None if value is None else " ".join(value) for name, value in asdict(self).items()}

    @classmethod
    def from_texts(cls, row: Mapping[str, Any]) -> Restriction:
        """As `texts` wrote it."""
        names = ("networks", "devices", "kinds")
        return cls(*(None if row[name] is None else tuple(row[name].split()) for name in names))


@dataclass(frozen=True, slots=True)
class Token:
    """One token, without its secret. scope: actions it is limited to; None: all of its role. Times: ISO 8601."""

    name: str
    role: Role
    scope: frozenset[str] | None
    created_at: str
    created_by: str
    expires_at: str
    revoked_at: str | None = None
    used_at: str | None = None
    restriction: Restriction = Restriction()

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        found = asdict(self)
        limits = {name: value and list(value) for name, value in found.pop("restriction").items()}
        return {
            **found,
            **limits,
            "role": str(self.role),
            "scope": None if self.scope is None else sorted(self.scope),
        }

    def holds(self, unix_s: float) -> bool:
        """Whether it may be used now."""
        return self.revoked_at is None and unix_s < datetime.fromisoformat(self.expires_at).timestamp()


class Tokens:
    """The tokens of a daemon; few, so all of them are in memory.

    Args:
        store: where they are kept.
        unix_s: the clock that ends them.
    """

    def __init__(self, store: Store, unix_s: Callable[[], float] = clock.unix_s) -> None:
        self._store = store
        self._unix_s = unix_s
        self._tokens: dict[str, Token] = {}
        """By the hash of the secret."""

    async def load(self) -> None:
        """Read them; called once, at start."""
        for row in await asyncio.to_thread(self._store.rows, select(schema.tokens)):
            values = {key: row[key] for key in ("name", "created_at", "created_by", "expires_at")}
            scope = None if row["scope"] is None else frozenset(row["scope"].split())
            self._tokens[row["hash"]] = Token(
                role=Role(row["role"]),
                scope=scope,
                revoked_at=row["revoked_at"],
                used_at=row["used_at"],
                restriction=Restriction.from_texts(row),
                **values,
            )

    def listing(self) -> list[Token]:
        """Every token by name, those that ended too."""
        return sorted(self._tokens.values(), key=lambda token: token.name)

    async def create(
        self,
        name: str,
        role: Role,
        *,
        scope: frozenset[str] | None,
        days: float,
        by: str,
        restriction: Restriction = Restriction(),
    ) -> tuple[Token, str]:
        """Make a token; it and its secret, which is not kept.

        Raises:
            RefusedError: the name is taken or none, or it would hold too long.
        """
        if not NAME.fullmatch(name):
            raise RefusedError(f"{name!r} is no name of a token: letters, digits and . _ -, at most 63")
        if any(token.name == name for token in self._tokens.values()):
            raise RefusedError(f"there is or was a token {name} already: names are not used twice")
        if not 0 < days <= MOST_DAYS:
            raise RefusedError(f"a token holds for at most {MOST_DAYS} days, not {days:g}")
        secret = PREFIX + secrets.token_urlsafe(32)
        end = clock.utc_text(self._unix_s() + days * DAY_S)
        token = Token(name, role, scope, clock.utc_text(self._unix_s()), by, end, restriction=restriction)

        def write(connection: Connection) -> None:
            values = token.document() | restriction.texts()
            values |= {"hash": _hash(secret), "scope": None if scope is None else " ".join(scope)}
            connection.execute(insert(schema.tokens).values(**values))

        await self._store.write(write)
        self._tokens[_hash(secret)] = token
        return token, secret

    async def revoke(self, name: str) -> Token:
        """End a token now.

        Raises:
            NotFoundError: there is none that holds.
        """
        for key, token in self._tokens.items():
            if token.name == name and token.revoked_at is None:
                await self._set(key, revoked_at=clock.utc_text(self._unix_s()))
                return self._tokens[key]
        raise NotFoundError(f"there is no token {name!r} that holds")

    async def actor(self, secret: str, source: str) -> Actor | None:
        """Who shows a token; None: it is not known, has ended, or may not be used from this address."""
        key = _hash(secret)
        token = self._tokens.get(key)
        now_s = self._unix_s()
        if token is None or not token.holds(now_s) or not token.restriction.fits(source):
            return None
        if token.used_at is None or now_s - datetime.fromisoformat(token.used_at).timestamp() > _USED_EVERY_S:
            await self._set(key, used_at=clock.utc_text(now_s))
        devices, kinds = token.restriction.devices, token.restriction.kinds
        return Actor(
            token.name,
            token.role,
            Proof.TOKEN,
            source,
            token.scope,
            None if devices is None else frozenset(devices),
            None if kinds is None else frozenset(kinds),
        )

    async def _set(self, key: str, **values: str) -> None:
        self._tokens[key] = replace(self._tokens[key], **values)  # type: ignore[arg-type]  # only texts

        def write(connection: Connection) -> None:
            connection.execute(update(schema.tokens).where(schema.tokens.c.hash == key).values(**values))

        await self._store.write(write)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
