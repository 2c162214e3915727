"""Users and their passwords, kept in the history as Argon2id hashes. No user and no password exists by default."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from petqcd import clock
from petqcd.errors import NotFoundError, RefusedError
from petqcd.security.access import Role
from petqcd.store import schema

if TYPE_CHECKING:
    from argon2 import PasswordHasher
    from sqlalchemy import Connection, Executable

    from petqcd.store import Store

NAME = re.compile(r"[a-z][a-z0-9._-]{0,31}")
SHORTEST, LONGEST = 12, 256
_KNOWN = ("password", "passwort", "123456", "qwert", "letmein", "petqc", "scanner", "hospital", "admin")
"""What stands at the head of every list of guesses: a password may not be mostly one of these."""


@dataclass(frozen=True, slots=True)
class User:
    """One user, without the password."""

    name: str
    role: Role
    created_at: str
    created_by: str


class Users:
    """The users of a daemon; few, so all of them are in memory.

    Args:
        store: where they are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._users: dict[str, tuple[User, str]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def load(self) -> None:
        """Read them; called once, at start."""
        rows = await asyncio.to_thread(self._store.rows, select(schema.users))
        self._users = {
            row["name"]: (User(row["name"], Role(row["role"]), row["created_at"], row["created_by"]), row["password"])
            for row in rows
        }

    def __bool__(self) -> bool:
        """Whether there is any user: without one, TCP only reads."""
        return bool(self._users)

    def find(self, name: str) -> User | None:
        """A user by name."""
        found = self._users.get(name)
        return found and found[0]

    def listing(self) -> list[User]:
        """Every user by name."""
        return [user for _, (user, _) in sorted(self._users.items())]

    async def add(self, name: str, role: Role, password: str, *, by: str) -> User:
        """Add a user.

        Raises:
            RefusedError: the name is taken or none, or the password is too weak.
            StoreError: not stored.
        """
        if not NAME.fullmatch(name):
            raise RefusedError(f"{name!r} is no user name: small letters, digits and . _ -, at most 32, a letter first")
        if name in self._users:
            raise RefusedError(f"there is a user {name} already")
        refuse_weak(name, password)
        user = User(name, role, clock.utc_text(), by)
        hashed = await self._hash(password)

        def write(connection: Connection) -> None:
            values = {"name": name, "role": str(role), "created_at": user.created_at, "created_by": by}
            connection.execute(insert(schema.users).values(password=hashed, **values))

        await self._store.write(write)
        self._users[name] = user, hashed
        return user

    async def set_password(self, name: str, password: str) -> None:
        """Give a user another password.

        Raises:
            NotFoundError: there is no such user.
            RefusedError: it is too weak.
        """
        user = self._must_find(name)
        refuse_weak(name, password)
        hashed = await self._hash(password)
        of_user = update(schema.users).where(schema.users.c.name == name)
        await self._store.write(lambda connection: _execute(connection, of_user.values(password=hashed)))
        self._users[name] = user, hashed

    async def remove(self, name: str) -> None:
        """Remove a user: sessions end at once; what the user did stays in the audit log.

        Raises:
            NotFoundError: there is no such user.
        """
        self._must_find(name)
        of_user = delete(schema.users).where(schema.users.c.name == name)
        await self._store.write(lambda connection: _execute(connection, of_user))
        del self._users[name]

    async def check(self, name: str, password: str) -> User | None:
        """The user, if the password is right. Takes as long for a user that does not exist."""
        user, hashed = self._users.get(name, (None, None))
        is_right = await self._verify(hashed, password[: LONGEST + 1])
        return user if is_right else None

    def _must_find(self, name: str) -> User:
        found = self.find(name)
        if found is None:
            raise NotFoundError(f"there is no user {name!r}")
        return found

    async def _hash(self, password: str) -> str:
        async with self._one_at_a_time:
            return await asyncio.to_thread(_hasher().hash, password)

    async def _verify(self, hashed: str | None, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        def work() -> bool:
            hasher = _hasher()
            if hashed is None:
                hasher.hash(password)
                return False
            try:
                return hasher.verify(hashed, password)
            except (VerificationError, InvalidHashError):
                return False

        async with self._one_at_a_time:
            return await asyncio.to_thread(work)


def _execute(connection: Connection, statement: Executable) -> None:
    connection.execute(statement)


def _hasher() -> PasswordHasher:
    """Argon2id with 19 MiB, two passes, one lane. Source: OWASP Password Storage Cheat Sheet, minimum for Argon2id."""
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def refuse_weak(name: str, password: str) -> None:
    """Refuse a password that is short or easily guessed; nothing is said about which characters it has.

    Raises:
        RefusedError: saying what is wrong with it.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise RefusedError(f"a password has {SHORTEST} to {LONGEST} characters")
    rest = password.lower()
    for word in (name, *_KNOWN):
        rest = rest.replace(word, "")
    if len(set(password)) < 5 or len(rest) < SHORTEST // 2 or password.isdecimal():
        raise RefusedError("this password is easily guessed: take a few words that do not belong together")


def document(user: User) -> dict[str, Any]:
    """Plain types for JSON."""
    return {"name": user.name, "role": str(user.role), "created_at": user.created_at, "created_by": user.created_by}
