"""Who asks, and whether they may: every route passes here before its body is read. Commands are recorded here."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute

from petqcd.errors import InvalidRequestError, NotAllowedError, UnknownActorError
from petqcd.security.access import Actor, Proof, Role, actor_on_socket
from petqcd.security.audit import REQUEST
from petqcd.security.sessions import RateLimit
from petqcd.web.actions import ACTIONS, ANYBODY, READING, TOWARDS_SAFE, VIEW, may

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from petqcd.app import Daemon

CONSOLE_HEADER = "x-petqc-console"
"""Sent by our own pages only: a page of elsewhere cannot without asking first, and is not allowed to."""
_SECRETS = frozenset({"password", "token", "secret"})
_BEARER = "bearer "
READS_PER_S, READS_BURST = 50.0, 300.0
COMMANDS_PER_S, COMMANDS_BURST = 20.0, 40.0


class Gate:
    """Decides for one listener.

    Args:
        daemon: whose accounts and audit log are used.
        on_socket: whether it is the UNIX socket, where the kernel says who asks.
        is_tls: whether it is encrypted.
        anonymous: whether anybody may look without logging in.
    """

    def __init__(self, daemon: Daemon, *, on_socket: bool, is_tls: bool, anonymous: bool) -> None:
        self.daemon = daemon
        self._on_socket = on_socket
        self.is_tls = is_tls
        self._anonymous = anonymous
        self._reads = RateLimit(READS_PER_S, READS_BURST)
        self._commands = RateLimit(COMMANDS_PER_S, COMMANDS_BURST)

    @property
    def cookie(self) -> str:
        """Name of the session's cookie; the prefix makes the browser insist on TLS and on this very host."""
        return "__Host-petqc" if self.is_tls else "petqc"

    async def admit(self, request: Request, action: str | None) -> Actor:
        """Who asks for an action, if they may do it.

        Raises:
            UnknownActorError: nobody is logged in, and somebody must be.
            NotAllowedError: whoever it is may not, or a page of elsewhere asks.
            TooManyError: too often.
        """
        if action is None:
            raise NotAllowedError(f"{request.method} {request.url.path} is in no table of actions")
        actor = await self._actor(request)
        if not self._on_socket and action not in TOWARDS_SAFE:
            limit = self._reads if action in READING else self._commands
            limit.require(f"{actor.proof} {actor.name} {actor.source}")
        by_browser = actor.proof is Proof.PASSWORD or (action == ANYBODY and not self._on_socket)
        if request.method != "GET" and by_browser:
            _require_own_page(request)
        if not may(actor, action):
            if actor.proof is Proof.NONE:
                raise UnknownActorError(f"log in first: this needs leave to {action}")
            raise NotAllowedError(f"{actor.name} may not {action}: {_why_not(actor, self.daemon)}")
        return actor

    async def _actor(self, request: Request) -> Actor:
        host, port = request.client or ("", 0)
        if self._on_socket:
            return actor_on_socket(pid=int(host or 0), uid=port)
        accounts = self.daemon.accounts
        said = request.headers.get("authorization", "")
        if said:
            if said[: len(_BEARER)].lower() != _BEARER:
                raise UnknownActorError("the Authorization header is `Bearer TOKEN`")
            return await accounts.with_token(said[len(_BEARER) :].strip(), host)
        secret = request.cookies.get(self.cookie)
        if secret:
            is_used = request.method != "GET" or request.headers.get("sec-fetch-mode") == "navigate"
            actor = accounts.sessions.actor(secret, host, is_used=is_used)
            if actor is not None:
                return actor
        may_look = self._anonymous
        return Actor("anonymous", Role.OBSERVER if may_look else None, Proof.NONE, host, frozenset({VIEW}))


class GatedRoute(APIRoute):
    """A route that only answers whom its entry in the table of actions admits; commands go into the audit log."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind the gate."""
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            gate: Gate = request.app.state.gate
            action = ACTIONS.get((request.method, self.path))
            try:
                request.state.actor = actor = await gate.admit(request, action)
            except UnknownActorError:
                if self.response_class is PAGE:
                    return RedirectResponse("/login", 303)
                raise
            REQUEST.set(secrets.token_hex(8))
            if action in READING or action is None or request.method == "GET":
                return await _answer(answer, request)
            said = await _said(request)
            reason = str(said.get("reason", "")) if isinstance(said, dict) else ""
            first = action in TOWARDS_SAFE
            async with gate.daemon.audit.act(
                actor, action, request.url.path, new=said, reason=reason, first=first
            ) as act:
                response = await _answer(answer, request)
                act.result = {"status": response.status_code}
                return response

        return handler


class PAGE(Response):
    """A page for people: whoever is not logged in is led to the page where they can."""

    media_type = "text/html"


def actor_of(request: Request) -> Actor:
    """Who asks, as the gate found."""
    actor: Actor = request.state.actor
    return actor


async def _who(request: Request) -> Actor:  # a plain function would be called in another thread
    return actor_of(request)


Who = Annotated[Actor, Depends(_who)]


def signed(actor: Actor, said: str | None) -> str:
    """The name under which something is signed: one's own. On the UNIX socket the command may name who stands there.

    Raises:
        NotAllowedError: somebody signs with another name.
    """
    if actor.proof is Proof.SOCKET:
        return said or actor.name
    if said is not None and said != actor.name:
        raise NotAllowedError(f"{actor.name} cannot sign as {said}")
    return actor.name


async def _answer(answer: Callable[[Request], Coroutine[Any, Any, Response]], request: Request) -> Response:
    try:
        return await answer(request)
    except RequestValidationError as error:
        raise InvalidRequestError(explained(error)) from None


def explained(error: RequestValidationError) -> str:
    """What is wrong with a request, without what was sent: that may be a secret."""
    return "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())


async def _said(request: Request) -> Any:
    """The body for the audit log, without secrets; what is no JSON is refused later and not recorded."""
    try:
        said = await request.json()
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    return {key: "…" if str(key).lower() in _SECRETS else value for key, value in said.items()}


def _require_own_page(request: Request) -> None:
    """Cookies are sent by the browser whoever asks it to: only our own pages may."""
    site = request.headers.get("sec-fetch-site")
    if site is None:
        origin = request.headers.get("origin", "")
        is_own = origin.partition("//")[2].lower() == request.headers.get("host", "").lower() != ""
    else:
        is_own = site == "same-origin"
    if not is_own or CONSOLE_HEADER not in request.headers:
        raise NotAllowedError("commands with a session come from the console's own pages; programs use a token")


def _why_not(actor: Actor, daemon: Daemon) -> str:
    if actor.scope is not None:
        return "it is not in the scope of the token"
    user = daemon.accounts.users.find(actor.name) if actor.proof is Proof.PASSWORD else None
    if user is not None and user.role is not actor.role:
        return "nothing was done for a while; give the password again"
    return f"the role is {actor.role}" if actor.role else "no role"
