"""Everybody the daemon knows: users, tokens, sessions; and logging in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqcd.errors import UnknownActorError
from petqcd.security.access import Actor, Proof
from petqcd.security.answers import Answers
from petqcd.security.sessions import LoginLimit, Sessions
from petqcd.security.tokens import Tokens
from petqcd.security.users import Users

if TYPE_CHECKING:
    from petqcd.security.audit import Audit
    from petqcd.security.users import User
    from petqcd.store import Store


class Accounts:
    """The accounts of a daemon.

    Args:
        store: where users and tokens are kept.
        audit: where logins are recorded.
    """

    def __init__(self, store: Store, audit: Audit) -> None:
        self._audit = audit
        self.users = Users(store)
        self.tokens = Tokens(store)
        self.sessions = Sessions(self.users)
        self.answers = Answers(store)
        self._limit = LoginLimit()
        self._seen: set[tuple[str, str]] = set()

    async def load(self) -> None:
        """Read them; called once, at start."""
        await self.users.load()
        await self.tokens.load()

    async def prove(self, by: Actor, password: str) -> None:
        """Check the password of somebody who is logged in.

        Raises:
            TooManyError: too many were wrong.
            UnknownActorError: this one is wrong.
        """
        keys = f"source {by.source}", f"user {by.name}"
        self._limit.require(*keys)
        if await self.users.check(by.name, password) is None:
            self._limit.failed(*keys)
            await self._audit.note(by, "password again", "console", outcome="refused")
            raise UnknownActorError("the password is wrong")
        self._limit.succeeded(*keys)
        await self._audit.note(by, "password again", "console", outcome="done")

    async def login(self, name: str, password: str, source: str) -> User:
        """Check a password.

        Raises:
            TooManyError: too many were wrong.
            UnknownActorError: this one is wrong, or there is no such user; which of the two is not said.
        """
        keys = f"source {source}", f"user {name}"
        self._limit.require(*keys)
        user = await self.users.check(name, password)
        if user is None:
            self._limit.failed(*keys)
            nobody = Actor(name, None, Proof.NONE, source)
            await self._audit.note(nobody, "login", "console", outcome="refused")
            raise UnknownActorError("user or password is wrong")
        self._limit.succeeded(*keys)
        await self._audit.note(Actor(name, user.role, Proof.PASSWORD, source), "login", "console", outcome="done")
        return user

    async def with_token(self, secret: str, source: str) -> Actor:
        """Who shows a token; its first use from an address is recorded.

        Raises:
            UnknownActorError: it is not known, or has ended.
        """
        actor = await self.tokens.actor(secret, source)
        if actor is None:
            raise UnknownActorError("this token is not known, or has ended")
        if (actor.name, source) not in self._seen:
            if len(self._seen) > 1000:
                self._seen.clear()
            self._seen.add((actor.name, source))
            await self._audit.note(actor, "token", "new address")
        return actor
