"""The one table of access: what each route does, and which roles may do that. What is not in it is refused.

Run as `python -m petqcd.web.actions`, it writes its page of the reference.
"""

from __future__ import annotations

import sys

from petqcd.security.access import Actor, Proof, Role

ANYBODY = "anybody"
VIEW = "view"
MANAGE = "manage-users"

_ALL = frozenset(Role)
_COMMANDING = frozenset({Role.PHYSICIST, Role.ENGINEER})
_ENGINEER = frozenset({Role.ENGINEER})

ROLES: dict[str, tuple[frozenset[Role], str]] = {
    ANYBODY: (_ALL, "Nothing but how to log in, and that the process answers; needs no login."),
    VIEW: (_ALL, "See values, runs, reports, calibrations, baselines."),
    "session": (_ALL, "See and end one's own session."),
    "audit": (_ALL, "Read the audit log: engineers all of it, others their own rows."),
    "off": (_COMMANDING, "Bias off, now. Never limited in rate, never refused because it cannot be recorded."),
    "hold": (_COMMANDING, "End a ramp where it is. Acted on first, as off is."),
    "energise": (
        _COMMANDING,
        "Switch bias sources on, set them inside operating limits, measure curves, confirm what was found on.",
    ),
    "acknowledge": (_COMMANDING, "Acknowledge alarms and trips; shelve an alarm for a time."),
    "reset-trip": (_COMMANDING, "Reset an acknowledged trip whose cause is gone."),
    "change-limits": (
        _ENGINEER,
        "Change operating limits, inside the hard limits; say what a supply keeps by itself.",
    ),
    "maintenance": (
        _ENGINEER,
        "Say that somebody works at a device, so that nothing energises it; and that it is over.",
    ),
    "cool": (_COMMANDING, "Set, start and stop a circulator, within its configured range."),
    "forget-device": (_ENGINEER, "Forget an output that is configured no more, once it is known to be off."),
    "bypass": (_ENGINEER, "Bypass a permit for a time; take an alarm out of service."),
    "abort": (_COMMANDING, "Stop the run that is going on; its bias goes off first."),
    "start-run": (_COMMANDING, "Start a run, and tell it that what it waits for is done. Runs energise."),
    "accept-baseline": (_COMMANDING, "Accept or end a baseline."),
    "annotate": (_COMMANDING, "Write a remark into the trends."),
    "import": (_COMMANDING, "Store what another system measured."),
    "accept-calibration": (_ENGINEER, "Choose the calibration set that runs use."),
    "fault": (_ENGINEER, "Plant faults in a simulated readout, and take them away; of a real one it is refused."),
    "backup": (_ENGINEER, "Make a backup now, and see which there are."),
    MANAGE: (_ENGINEER, "Add and remove users and tokens. On the UNIX socket only."),
}
"""Which roles may do what, and what it is."""

SOCKET_ONLY = frozenset({MANAGE})
"""Not over TCP, whoever asks."""
TOWARDS_SAFE = frozenset({"off", "abort", "hold"})
"""Acted on first and recorded after, and never limited in rate."""
CONFIRMED = frozenset({"energise", "change-limits", "bypass", "maintenance"})
"""In a session of the console the password must have been given in the last five minutes; a token must name the action
in its scope."""
CONFIRMED_WITH_BIAS = frozenset({"start-run"})
"""The same where the run energises."""
READING = frozenset({ANYBODY, VIEW, "session", "audit"})
"""Changes nothing, so the audit log has no row of it."""

ACTIONS: dict[tuple[str, str], str] = {
    ("GET", "/"): VIEW,
    ("GET", "/login"): ANYBODY,
    ("GET", "/runs"): VIEW,
    ("GET", "/runs/{run_id}"): VIEW,
    ("GET", "/compare"): VIEW,
    ("GET", "/trends"): VIEW,
    ("GET", "/devices"): VIEW,
    ("GET", "/alarms"): VIEW,
    ("GET", "/calibrations"): VIEW,
    ("GET", "/faults"): VIEW,
    ("GET", "/audit"): "audit",
    ("GET", "/static/{name}"): ANYBODY,
    ("GET", "/metrics"): VIEW,
    ("GET", "/healthz"): ANYBODY,
    ("GET", "/readyz"): VIEW,
    ("GET", "/api/v1/openapi.json"): VIEW,
    ("GET", "/api/v1/status"): VIEW,
    ("GET", "/api/v1/devices"): VIEW,
    ("GET", "/api/v1/devices/{name}"): VIEW,
    ("GET", "/api/v1/runs"): VIEW,
    ("GET", "/api/v1/runs/{run_id}"): VIEW,
    ("GET", "/api/v1/runs/{run_id}/report"): VIEW,
    ("GET", "/api/v1/runs/{run_id}/report.html"): VIEW,
    ("GET", "/api/v1/runs/{run_id}/spectra"): VIEW,
    ("GET", "/api/v1/runs/{run_id}/spectrum"): VIEW,
    ("GET", "/api/v1/runs/{run_id}/channels"): VIEW,
    ("GET", "/api/v1/runs/{run_id}/ring"): VIEW,
    ("GET", "/api/v1/runs/{run_id}/channel"): VIEW,
    ("GET", "/api/v1/compare"): VIEW,
    ("GET", "/api/v1/quantities"): VIEW,
    ("GET", "/api/v1/trends"): VIEW,
    ("GET", "/api/v1/annotations"): VIEW,
    ("POST", "/api/v1/annotations"): "annotate",
    ("GET", "/api/v1/calibrations"): VIEW,
    ("GET", "/api/v1/events"): VIEW,
    ("GET", "/api/v1/so-far"): VIEW,
    ("GET", "/api/v1/baselines"): VIEW,
    ("GET", "/api/v1/audit"): "audit",
    ("GET", "/api/v1/me"): "session",
    ("POST", "/api/v1/login"): ANYBODY,
    ("POST", "/api/v1/logout"): "session",
    ("POST", "/api/v1/me/password"): "session",
    ("POST", "/api/v1/runs"): "start-run",
    ("POST", "/api/v1/abort"): "abort",
    ("POST", "/api/v1/confirm"): "start-run",
    ("POST", "/api/v1/calibrations/accept"): "accept-calibration",
    ("POST", "/api/v1/baselines/accept"): "accept-baseline",
    ("POST", "/api/v1/baselines/end"): "accept-baseline",
    ("POST", "/api/v1/imports"): "import",
    ("GET", "/api/v1/backups"): "backup",
    ("POST", "/api/v1/backups"): "backup",
    ("POST", "/api/v1/off"): "off",
    ("GET", "/api/v1/bias"): VIEW,
    ("POST", "/api/v1/bias/{device}/on"): "energise",
    ("POST", "/api/v1/bias/{device}/set"): "energise",
    ("POST", "/api/v1/bias/{device}/curve"): "energise",
    ("POST", "/api/v1/bias/{device}/stop"): "hold",
    ("POST", "/api/v1/bias/{device}/confirm"): "energise",
    ("POST", "/api/v1/bias/{device}/off"): "off",
    ("POST", "/api/v1/bias/{device}/acknowledge"): "acknowledge",
    ("POST", "/api/v1/bias/{device}/reset"): "reset-trip",
    ("POST", "/api/v1/bias/{device}/limits"): "change-limits",
    ("POST", "/api/v1/bias/{device}/stored"): "change-limits",
    ("POST", "/api/v1/bias/{device}/bypass"): "bypass",
    ("POST", "/api/v1/bias/{device}/bypass/end"): "bypass",
    ("GET", "/api/v1/retired"): VIEW,
    ("POST", "/api/v1/devices/{device}/forget"): "forget-device",
    ("POST", "/api/v1/devices/{device}/cool"): "cool",
    ("GET", "/api/v1/maintenance"): VIEW,
    ("POST", "/api/v1/devices/{device}/maintenance"): "maintenance",
    ("POST", "/api/v1/devices/{device}/maintenance/end"): "maintenance",
    ("GET", "/api/v1/alarms"): VIEW,
    ("POST", "/api/v1/alarms/{alarm}/acknowledge"): "acknowledge",
    ("POST", "/api/v1/alarms/{alarm}/shelve"): "acknowledge",
    ("POST", "/api/v1/alarms/{alarm}/service"): "bypass",
    ("GET", "/api/v1/faults"): VIEW,
    ("GET", "/api/v1/faults/kinds"): VIEW,
    ("POST", "/api/v1/faults"): "fault",
    ("POST", "/api/v1/faults/{number}/remove"): "fault",
    ("GET", "/api/v1/users"): MANAGE,
    ("POST", "/api/v1/users"): MANAGE,
    ("POST", "/api/v1/users/password"): MANAGE,
    ("POST", "/api/v1/users/remove"): MANAGE,
    ("GET", "/api/v1/tokens"): MANAGE,
    ("POST", "/api/v1/tokens"): MANAGE,
    ("POST", "/api/v1/tokens/revoke"): MANAGE,
}
"""What each route does."""


def may(actor: Actor, action: str) -> bool:
    """Whether somebody may do something. An action that is not in the table may nobody."""
    if action == ANYBODY:
        return True
    if action not in ROLES or actor.role not in ROLES[action][0]:
        return False
    if action in SOCKET_ONLY and actor.proof is not Proof.SOCKET:
        return False
    if actor.scope is None:
        return not (action in CONFIRMED and actor.proof is Proof.TOKEN)
    return action in actor.scope


def reference_page() -> str:
    """The page of the reference, made of the table."""
    lines = [
        "# Who may do what over HTTP",
        "",
        "Made from the table in `daemon/petqcd/web/actions.py` by",
        "`python -m petqcd.web.actions > docs/reference/api-access.md`. What is not in the table is refused.",
        "How to make users and tokens: [users and tokens](../how-to/users-and-tokens.md).",
        "",
        "## Actions and roles",
        "",
        "| action | " + " | ".join(Role) + " | what it is |",
        "| --- |" + " --- |" * len(Role) + " --- |",
    ]
    for action, (roles, what) in ROLES.items():
        marks = " | ".join("yes" if role in roles else "–" for role in Role)
        lines.append(f"| `{action}` | {marks} | {what}{_again(action)} |")
    lines += ["", "## Routes", "", "| route | action |", "| --- | --- |"]
    lines += [f"| `{method} {path}` | `{action}` |" for (method, path), action in ACTIONS.items()]
    return "\n".join(lines) + "\n"


def _again(action: str) -> str:
    if action not in CONFIRMED | CONFIRMED_WITH_BIAS:
        return ""
    where = "Where the run energises, it asks" if action in CONFIRMED_WITH_BIAS else "Asks"
    return f" **{where} for the password again; a token must name it in its scope.**"


if __name__ == "__main__":
    sys.stdout.write(reference_page())
