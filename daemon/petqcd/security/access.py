"""Who acts: roles, and what an actor is known by. Which role may do what is in `petqcd.web.actions`."""

from __future__ import annotations

import enum
import grp
import os
import pwd
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


class Role(enum.StrEnum):
    """What somebody is to the scanner."""

    OBSERVER = "observer"
    PHYSICIST = "physicist"
    ENGINEER = "engineer"


class Proof(enum.StrEnum):
    """How it is known who acts."""

    SOCKET = "UNIX socket"
    PASSWORD = "password"  # noqa: S105 - the word, not one
    TOKEN = "token"  # noqa: S105
    DAEMON = "the daemon itself"
    NONE = "nobody logged in"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts. role: None may do nothing but what anybody may. source: address, or process on this host.

    scope: actions that a token is limited to; None: all of its role. devices, kinds: bias sources and kinds of runs
    that a token may command; None: any.
    """

    name: str
    role: Role | None
    proof: Proof
    source: str
    scope: frozenset[str] | None = None
    devices: frozenset[str] | None = None
    kinds: frozenset[str] | None = None

    def document(self) -> dict[str, Any]:
        """Plain types for the audit log and for JSON."""
        found = asdict(self)
        found["role"], found["proof"] = self.role and str(self.role), str(self.proof)
        found["scope"] = None if self.scope is None else sorted(self.scope)
        for name in ("devices", "kinds"):
            allowed = found.pop(name)
            if allowed is not None:
                found[name] = sorted(allowed)
        return found

    @property
    def signature(self) -> str:
        """Who it is and how that is known, for the record of a run."""
        return f"{self.name} ({self.proof})"


def daemon_itself(part: str) -> Actor:
    """A part of the daemon that acts by itself, such as the schedule."""
    return Actor(part, Role.ENGINEER, Proof.DAEMON, f"process {os.getpid()}")


GROUPS = {
    "petqc-engineer": Role.ENGINEER,
    "petqc-physicist": Role.PHYSICIST,
    "petqc-observer": Role.OBSERVER,
}
"""System groups whose members have a role on the UNIX socket; the first that fits."""
_NO_LOGIN = 2**32 - 1
"""What the kernel says of a process that nobody logged in for. Source: proc(5), loginuid."""


def actor_on_socket(pid: int, uid: int) -> Actor:
    """Who is at the other end of the UNIX socket, as the kernel vouches.

    Root and the daemon's own user are engineers; others have the role of their system group, or none. Of root it is
    recorded who logged in.
    """
    source = f"process {pid} of user {uid}"
    name = _user_name(uid)
    if uid in (0, os.getuid()):
        return Actor(_login_of(pid) or name if uid == 0 else name, Role.ENGINEER, Proof.SOCKET, source)
    return Actor(name, _role_by_group(uid), Proof.SOCKET, source)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _login_of(pid: int) -> str | None:
    try:
        uid = int(Path(f"/proc/{pid}/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if uid in (0, _NO_LOGIN) else f"{_user_name(uid)} as root"


def _role_by_group(uid: int) -> Role | None:
    try:
        user = pwd.getpwuid(uid)
        groups = set(os.getgrouplist(user.pw_name, user.pw_gid))
    except (KeyError, OSError):
        return None
    for name, role in GROUPS.items():
        try:
            if grp.getgrnam(name).gr_gid in groups:
                return role
        except KeyError:
            continue
    return None
