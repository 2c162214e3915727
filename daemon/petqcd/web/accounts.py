"""The routes of logging in, of users and tokens, and of the audit log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from petqcd.errors import RefusedError
from petqcd.security.access import Proof as How
from petqcd.security.access import Role
from petqcd.security.audit import entries
from petqcd.security.sessions import LONGEST_OBSERVER_S, LONGEST_S
from petqcd.security.tokens import MOST_DAYS, Restriction
from petqcd.security.users import LONGEST, document
from petqcd.web.actions import ROLES, may
from petqcd.web.gate import Gate, Who  # noqa: TC001 - the routes' signatures are read at run time

if TYPE_CHECKING:
    from petqcd.app import Daemon

Name = Annotated[str, Field(min_length=1, max_length=63)]
Password = Annotated[str, Field(min_length=1, max_length=LONGEST)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Login(_Body):
    """Body of a login."""

    name: Name
    password: Password


class Proof(_Body):
    """Body of giving the password again."""

    password: Password


class NewUser(Login):
    """Body of the command that adds a user."""

    role: Role


class Named(_Body):
    """Body of a command about one user or token."""

    name: Name


class NewToken(_Body):
    """Body of the command that makes a token. scope: actions; none: all of the role, but what needs to be named.

    networks: from which it may be used; devices: bias sources that it may command; kinds: of runs that it may start;
    none: any.
    """

    name: Name
    role: Role
    scope: Annotated[list[Name], Field(max_length=50)] | None = None
    days: Annotated[float, Field(gt=0, le=MOST_DAYS)] = 90.0
    networks: Annotated[list[Name], Field(max_length=20)] | None = None
    devices: Annotated[list[Name], Field(max_length=100)] | None = None
    kinds: Annotated[list[Name], Field(max_length=50)] | None = None


class Nothing(_Body):
    """Body of a command that needs none."""


def add_accounts(app: FastAPI, daemon: Daemon, gate: Gate) -> None:
    """Add the routes that every listener has."""

    @app.post("/api/v1/login")
    async def login(body: Login, request: Request) -> JSONResponse:
        """Log in to the console: answers with the cookie of a new session."""
        source = request.client.host if request.client else ""
        user = await daemon.accounts.login(body.name, body.password, source)
        secret = daemon.accounts.sessions.begin(user, instead_of=request.cookies.get(gate.cookie))
        response = JSONResponse({"name": user.name, "role": str(user.role)})
        response.set_cookie(
            gate.cookie,
            secret,
            max_age=int(LONGEST_OBSERVER_S if user.role is Role.OBSERVER else LONGEST_S),
            secure=gate.is_tls,
            httponly=True,
            samesite="strict",
        )
        return response

    @app.post("/api/v1/logout")
    async def logout(_body: Nothing, request: Request) -> JSONResponse:
        """End the session of the cookie."""
        secret = request.cookies.get(gate.cookie)
        if secret:
            daemon.accounts.sessions.end(secret)
        response = JSONResponse({"ended": bool(secret)})
        response.delete_cookie(gate.cookie, secure=gate.is_tls, httponly=True, samesite="strict")
        return response

    @app.post("/api/v1/me/password")
    async def again(body: Proof, request: Request, who: Who) -> dict[str, Any]:
        """Give the password again: what energises, changes limits or bypasses asks for it after five minutes."""
        secret = request.cookies.get(gate.cookie)
        if secret is None or who.proof is not How.PASSWORD:
            raise RefusedError("only a session of the console has a password")
        await daemon.accounts.prove(who, body.password)
        daemon.accounts.sessions.prove(secret)
        return {"name": who.name}

    @app.get("/api/v1/me")
    async def me(who: Who) -> dict[str, Any]:
        """Who asks, and what they may do."""
        return {**who.document(), "actions": [action for action in ROLES if may(who, action)]}

    @app.get("/api/v1/audit")
    async def audit(
        who: Who,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    ) -> dict[str, Any]:
        """The audit log, newest first: engineers see all of it, others what they did themselves."""
        return {"entries": await read_audit(daemon, who, limit=limit, before=before)}


async def read_audit(daemon: Daemon, who: Who, *, limit: int, before: int | None) -> list[dict[str, Any]]:
    """The rows of the audit log that somebody may read."""
    actor = None if who.role is Role.ENGINEER else who.name
    return await asyncio.to_thread(entries, daemon.store, limit=limit, before=before, actor=actor)


def add_management(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes of users and tokens, which only the UNIX socket has."""
    users, tokens, sessions = daemon.accounts.users, daemon.accounts.tokens, daemon.accounts.sessions

    @app.get("/api/v1/users")
    async def list_users() -> dict[str, Any]:
        """Every user."""
        return {"users": [document(user) for user in users.listing()]}

    @app.post("/api/v1/users", status_code=201)
    async def add_user(body: NewUser, who: Who) -> dict[str, Any]:
        """Add a user."""
        return document(await users.add(body.name, body.role, body.password, by=who.name))

    @app.post("/api/v1/users/password")
    async def set_password(body: Login) -> dict[str, Any]:
        """Give a user another password; sessions with the old one end."""
        await users.set_password(body.name, body.password)
        sessions.end_of(body.name)
        return {"name": body.name}

    @app.post("/api/v1/users/remove")
    async def remove_user(body: Named) -> dict[str, Any]:
        """Remove a user; sessions end at once."""
        await users.remove(body.name)
        sessions.end_of(body.name)
        return {"name": body.name}

    @app.get("/api/v1/tokens")
    async def list_tokens() -> dict[str, Any]:
        """Every token, without its secret."""
        return {"tokens": [token.document() for token in tokens.listing()]}

    @app.post("/api/v1/tokens", status_code=201)
    async def create_token(body: NewToken, who: Who) -> dict[str, Any]:
        """Make a token; its secret is in this answer and nowhere else."""
        scope = None if body.scope is None else frozenset(body.scope)
        unknown = sorted((scope or frozenset()) - set(ROLES))
        if unknown:
            raise RefusedError(f"there is no action {', '.join(unknown)}; there are: {', '.join(ROLES)}")
        restriction = Restriction.of(body.networks, body.devices, body.kinds)
        token, secret = await tokens.create(
            body.name, body.role, scope=scope, days=body.days, by=who.name, restriction=restriction
        )
        return {**token.document(), "token": secret}

    @app.post("/api/v1/tokens/revoke")
    async def revoke_token(body: Named) -> dict[str, Any]:
        """End a token now."""
        return (await tokens.revoke(body.name)).document()
