"""Who asks, and whether they may: every route passes here before its body is read. Commands are recorded here."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from petqc.errors import QcError
from petqcd.errors import (
    DaemonError,
    InvalidRequestError,
    NotAllowedError,
    PasswordAgainError,
    TooManyError,
    UnknownActorError,
    message_of,
)
from petqcd.kinds import all_kinds, find_kind
from petqcd.security.access import Actor, Proof, Role, actor_on_socket
from petqcd.security.answers import HEADER, Answer
from petqcd.security.audit import REQUEST
from petqcd.security.sessions import REFUSALS_BURST, REFUSALS_PER_S, RateLimit
from petqcd.web.actions import ACTIONS, ANYBODY, CONFIRMED, CONFIRMED_WITH_BIAS, READING, TOWARDS_SAFE, VIEW, may
from petqcd.web.failures import failure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from petqcd.app import Daemon

CONSOLE_HEADER = "x-petqc-console"
"""Sent by our own pages only: a page of elsewhere cannot without asking first, and is not allowed to."""
_SECRETS = frozenset({"password", "token", "secret"})
_BEARER = "bearer "
MOST_KEYS = 100
"""Of a body, whose every wrong key is looked at and told."""
READS_PER_S, READS_BURST = 50.0, 300.0
COMMANDS_PER_S, COMMANDS_BURST = 20.0, 40.0
_MONITORING = frozenset({"/metrics", "/healthz", "/readyz"})
"""With a limit of their own: a script on the same machine that reads too much must not silence its scrapes."""


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
        self._refusals = RateLimit(REFUSALS_PER_S, REFUSALS_BURST)

    @property
    def cookie(self) -> str:
        """Name of the session's cookie; the prefix makes the browser insist on TLS and on this very host."""
        return "__Host-petqc" if self.is_tls else "petqc"

    async def admit(self, request: Request, action: str | None) -> Actor:
        """Who asks for an action, if they may do it.

        Raises:
            UnknownActorError: nobody is logged in, and somebody must be; or the password has to be given again.
            NotAllowedError: whoever it is may not, or a page of elsewhere asks.
            TooManyError: too often.
        """
        if action is None:
            raise NotAllowedError(f"{request.method} {request.url.path} is in no table of actions")
        request.state.actor = actor = await self._actor(request)
        if not self._on_socket and action not in TOWARDS_SAFE:
            limit = self._reads if action in READING else self._commands
            what = "monitoring" if request.url.path in _MONITORING else "all else"
            limit.require(f"{what} {actor.proof} {actor.name} {actor.source}")
        by_browser = actor.proof is Proof.PASSWORD or (action == ANYBODY and not self._on_socket)
        if request.method != "GET" and by_browser:
            _require_own_page(request)
        if not may(actor, action):
            if actor.proof is Proof.NONE:
                raise UnknownActorError(f"log in first: this needs leave to {action}")
            raise NotAllowedError(f"{actor.name} may not {action}: {_why_not(actor, action, self.daemon)}")
        if actor.devices is not None and (device := request.path_params.get("device", "")) not in actor.devices | {""}:
            raise NotAllowedError(f"{actor.name} may not {action}: the token is not for {device}")
        if action in CONFIRMED:
            self._require_confirmed(request, actor, action)
        elif action in CONFIRMED_WITH_BIAS and await self._energises(request):
            self._require_confirmed(request, actor, f"{action} that energises")
        return actor

    def _require_confirmed(self, request: Request, actor: Actor, what: str) -> None:
        """Of whoever energises: a password that was given a moment ago, or a token that was made for it."""
        if actor.proof is Proof.TOKEN and actor.scope is None:
            raise NotAllowedError(f"{actor.name} may not {what}: the scope of the token must name it")
        if actor.proof is Proof.PASSWORD:
            secret = request.cookies.get(self.cookie, "")
            if not self.daemon.accounts.sessions.is_proved(secret):
                raise PasswordAgainError(f"to {what}, give the password again")

    async def _energises(self, request: Request) -> bool:
        """Whether a run is asked for that has bias set; what asks for no run that there is, is refused later."""
        said = await _said(request)
        if not isinstance(said, dict):
            return False
        kind, parameters = said.get("kind"), said.get("parameters", {})
        if not isinstance(kind, str) or kind not in all_kinds():
            return False
        given = parameters if isinstance(parameters, dict) else {}
        return find_kind(kind).energises(self.daemon.config, given)

    async def note_refused(self, request: Request, action: str | None, error: DaemonError) -> None:
        """Record a command that was not let through; of many from one source, some."""
        self.daemon.metrics.add("petqc_http_refused_total")
        host = request.client[0] if request.client else ""
        try:
            self._refusals.require(host)
        except TooManyError:
            return
        nobody = Actor("nobody", None, Proof.NONE, host)
        by = getattr(request.state, "actor", nobody)
        told = {"outcome": "refused", "code": error.code, "error": str(error)}
        await self.daemon.audit.note(by, action or "unknown", request.url.path, **told)

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
            is_command = request.method != "GET" and action not in READING
            try:
                actor = await gate.admit(request, action)
            except DaemonError as error:
                if is_command:
                    await gate.note_refused(request, action, error)
                if isinstance(error, UnknownActorError) and self.response_class is PAGE:
                    return RedirectResponse("/login", 303)
                raise
            REQUEST.set(secrets.token_hex(8))
            if not is_command or action is None:
                return await _answer(answer, request)

            async def work() -> Response:
                return await _audited(gate, answer, request, actor, action)

            request_id = request.headers.get(HEADER)
            # Off has the same effect however often it comes, and waits for no store.
            if request_id is None or action in TOWARDS_SAFE:
                return await work()
            return await _once(gate, work, request, actor, request_id)

        return handler


async def _audited(
    gate: Gate,
    answer: Callable[[Request], Coroutine[Any, Any, Response]],
    request: Request,
    actor: Actor,
    action: str,
) -> Response:
    """Do a command, with its rows in the audit log around it."""
    said = await _said(request)
    reason = str(said.get("reason", "")) if isinstance(said, dict) else ""
    first = action in TOWARDS_SAFE
    async with gate.daemon.audit.act(actor, action, request.url.path, new=said, reason=reason, first=first) as act:
        if actor.kinds is not None and action == "start-run":
            kind = said.get("kind") if isinstance(said, dict) else None
            if kind not in actor.kinds:
                raise NotAllowedError(f"{actor.name} may not start a run of kind {kind}: the token is for others")
        if isinstance(said, dict) and len(said) > MOST_KEYS:
            raise InvalidRequestError(f"a command has at most {MOST_KEYS} keys")
        response = await _answer(answer, request)
        act.result = {"status": response.status_code}
        return response


async def _once(
    gate: Gate, work: Callable[[], Coroutine[Any, Any, Response]], request: Request, actor: Actor, request_id: str
) -> Response:
    """Do a command that has an id, or say again what was said to it; a refusal is an answer, too."""
    answers, who = gate.daemon.accounts.answers, f"{actor.proof} {actor.name}"
    known = await answers.claim(who, request_id, request.url.path, await request.body())
    if known is not None:
        return Response(known.body, known.status, {"Request-Id": request_id}, media_type="application/json")
    try:
        response = await work()
    except (DaemonError, QcError) as error:
        response = failure(error)
    await answers.keep(who, request_id, Answer(response.status_code, bytes(response.body)))
    return response


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
    except HTTPException as error:  # a body that the parser gives up
        raise InvalidRequestError(str(error.detail)) from None


def explained(error: RequestValidationError) -> str:
    """What is wrong with a request, without what was sent: that may be a secret."""
    return "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {message_of(e)}" for e in error.errors())


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


def _why_not(actor: Actor, action: str, daemon: Daemon) -> str:
    if actor.scope is not None:
        return "it is not in the scope of the token"
    if actor.proof is Proof.TOKEN and action in CONFIRMED:
        return "the scope of the token must name it"
    user = daemon.accounts.users.find(actor.name) if actor.proof is Proof.PASSWORD else None
    if user is not None and user.role is not actor.role:
        return "nothing was done for a while; give the password again"
    return f"the role is {actor.role}" if actor.role else "no role"
