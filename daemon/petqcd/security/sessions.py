"""Sessions of the console, and how often somebody may guess a password. In memory: a restart ends every session."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from petqcd import clock
from petqcd.errors import TooManyError
from petqcd.security.access import Actor, Proof, Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from petqcd.security.users import User, Users

IDLE_S = 15 * 60.0
"""Without a page opened or a command given; then the session may only look, until the password is given again."""
LONGEST_S = 12 * 3600.0
LONGEST_OBSERVER_S = 30 * 86_400.0
"""Of a display on a wall, which may only look."""
PROVED_S = 5 * 60.0
"""After the password was given; then what energises, raises limits or bypasses asks for it again."""
MOST_SESSIONS = 500

FREE_FAILURES = 5
FAILURES_WITHIN_S = 300.0
LONGEST_WAIT_S = 60.0
_MOST_SOURCES = 2000


@dataclass(slots=True)
class Session:
    """One login. Times of the monotonic clock. proved_s: when the password was given last."""

    user: str
    began_s: float
    used_s: float
    proved_s: float


class Sessions:
    """The sessions of a daemon.

    Args:
        users: who may have one; a session ends with its user, and has the role that the user has now.
        now_s: the monotonic clock.
    """

    def __init__(self, users: Users, now_s: Callable[[], float] = clock.monotonic_s) -> None:
        self._users = users
        self._now_s = now_s
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def begin(self, user: User, instead_of: str | None = None) -> str:
        """Begin a session; the secret of its cookie. instead_of: of the session that ends with it."""
        if instead_of is not None:
            self.end(instead_of)
        while len(self._sessions) >= MOST_SESSIONS:
            self._sessions.popitem(last=False)
        secret = secrets.token_urlsafe(32)
        now_s = self._now_s()
        self._sessions[_hash(secret)] = Session(user.name, now_s, now_s, now_s)
        return secret

    def prove(self, secret: str) -> None:
        """The password was given again."""
        session = self._sessions.get(_hash(secret))
        if session is not None:
            session.proved_s = session.used_s = self._now_s()

    def is_proved(self, secret: str) -> bool:
        """Whether the password was given a moment ago."""
        session = self._sessions.get(_hash(secret))
        return session is not None and self._now_s() - session.proved_s <= PROVED_S

    def end(self, secret: str) -> None:
        """End a session, if there is one."""
        self._sessions.pop(_hash(secret), None)

    def end_of(self, user: str) -> None:
        """End every session of a user."""
        for key in [key for key, session in self._sessions.items() if session.user == user]:
            del self._sessions[key]

    def actor(self, secret: str, source: str, *, is_used: bool) -> Actor | None:
        """Who has a cookie; None: the session has ended. is_used: a person did something, not a page by itself."""
        session = self._sessions.get(_hash(secret))
        user = None if session is None else self._users.find(session.user)
        now_s = self._now_s()
        if session is None or user is None:
            return None
        is_observer = user.role is Role.OBSERVER
        if now_s - session.began_s > (LONGEST_OBSERVER_S if is_observer else LONGEST_S):
            self.end(secret)
            return None
        if now_s - session.used_s > IDLE_S and not is_observer:
            return Actor(user.name, Role.OBSERVER, Proof.PASSWORD, source)
        if is_used:
            session.used_s = now_s
        return Actor(user.name, user.role, Proof.PASSWORD, source)


class LoginLimit:
    """After a few wrong passwords of one source or for one user, each next try has to wait longer; never for ever."""

    def __init__(self, now_s: Callable[[], float] = clock.monotonic_s) -> None:
        self._now_s = now_s
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def require(self, *keys: str) -> None:
        """Refuse a try that comes too early.

        Raises:
            TooManyError: saying how long to wait.
        """
        now_s = self._now_s()
        for key in keys:
            recent = [at for at in self._failures.get(key, ()) if now_s - at <= FAILURES_WITHIN_S]
            if len(recent) >= FREE_FAILURES:
                wait_s = min(2.0 ** (len(recent) - FREE_FAILURES + 1), LONGEST_WAIT_S) - (now_s - recent[-1])
                if wait_s > 0:
                    raise TooManyError(f"too many wrong passwords: try again in {wait_s:.0f} s", wait_s)

    def failed(self, *keys: str) -> None:
        """Note a wrong password."""
        for key in keys:
            self._failures.setdefault(key, deque(maxlen=FREE_FAILURES + 6)).append(self._now_s())
            self._failures.move_to_end(key)
        while len(self._failures) > _MOST_SOURCES:
            self._failures.popitem(last=False)

    def succeeded(self, *keys: str) -> None:
        """Forget the wrong ones."""
        for key in keys:
            self._failures.pop(key, None)


REFUSALS_PER_S, REFUSALS_BURST = 0.1, 20.0
"""Of one source that go into the audit log; the others are only counted."""


class RateLimit:
    """So many a second for each name, with a burst; a name that was quiet has its burst back.

    Args:
        per_s: in the long run.
        burst: at once.
        now_s: the monotonic clock.
    """

    def __init__(self, per_s: float, burst: float, now_s: Callable[[], float] = clock.monotonic_s) -> None:
        self._per_s, self._burst, self._now_s = per_s, burst, now_s
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def require(self, name: str) -> None:
        """Take one.

        Raises:
            TooManyError: none is left.
        """
        now_s = self._now_s()
        left, at_s = self._left.get(name, (self._burst, now_s))
        left = min(left + (now_s - at_s) * self._per_s, self._burst)
        is_left = left >= 1
        self._left[name] = left - is_left, now_s
        self._left.move_to_end(name)
        while len(self._left) > _MOST_SOURCES:
            self._left.popitem(last=False)
        if not is_left:
            raise TooManyError(f"more than {self._per_s:g} requests a second", 1.0)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
