"""Requests of every shape that the interface describes, by every role: no error of ours, and no role does too much."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from tests.unit.test_daemon_web import board_config, daemon

from petqcd.client import SOCKET_NAME
from petqcd.security.access import Actor, Proof, Role
from petqcd.web import gate
from petqcd.web.actions import ACTIONS, ANYBODY, may

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

__all__ = ["board_config"]

EXAMPLES = 5
"""Of each route, on the UNIX socket, where everything is allowed; the same ones every time. Of other roles one each."""
ENDLESS = {"/api/v1/events"}
WITHOUT = {"POST /api/v1/off"}
"""Tested elsewhere: each waits until the board at an address where nobody answers is given up."""


@dataclass
class Asker:
    """One role on one listener, and what was wrong with the answers it was given."""

    who: Actor
    headers: dict[str, str]
    client: httpx.Client
    examples: int = 1
    wrong: list[str] = field(default_factory=list)

    def everything(self) -> list[str]:
        document = self.client.get("/api/v1/openapi.json", headers=self.headers).json()
        for result in schemathesis.openapi.from_dict(document).get_all_operations():
            operation = result.ok()
            name = f"{operation.method.upper()} {operation.path}"
            if operation.path not in ENDLESS and name not in WITHOUT:
                self.one(operation, name, ACTIONS[operation.method.upper(), operation.path])
        return self.wrong

    def one(self, operation: Any, name: str, action: str) -> None:
        @settings(
            max_examples=self.examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            sent = case.as_transport_kwargs(base_url=str(self.client.base_url).rstrip("/"))
            sent = {key: sent[key] for key in ("method", "url", "params", "json", "data", "content") if sent.get(key)}
            answer = self.client.request(headers={**self.headers, "Content-Type": "application/json"}, **sent)
            self.judge(f"{name}: {sent}", action, answer)

        ask()

    def judge(self, what: str, action: str, answer: httpx.Response) -> None:
        is_allowed = may(self.who, action)
        if answer.status_code == 500:
            self.wrong.append(f"{what}: {answer.text}")
        if not is_allowed and answer.is_success:
            self.wrong.append(f"{what}: {self.who.role} may not {action}, and did")
        told = answer.text if answer.status_code in (401, 403) else ""
        if is_allowed and action != ANYBODY and told and "cannot sign as" not in told:
            self.wrong.append(f"{what}: {self.who.role} may {action}, and was told {told}")


def test_no_request_breaks_it_and_no_role_does_too_much(
    tmp_path: Path, board_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "COMMANDS_PER_S", 1e6)
    monkeypatch.setattr(gate, "READS_PER_S", 1e6)

    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            await d.accounts.users.add("physicist-1", Role.ENGINEER, "correct horse battery", by="test")
            wrong = []
            for role in (None, *Role):
                proof = Proof.NONE if role is None else Proof.TOKEN
                scope = frozenset({"view"}) if role is None else None
                who = Actor("t", role or Role.OBSERVER, proof, "127.0.0.1", scope)
                headers = {}
                if role is not None:
                    _, secret = await d.accounts.tokens.create(f"t-{role}", role, scope=None, days=1, by="test")
                    headers = {"Authorization": f"Bearer {secret}"}
                with httpx.Client(base_url=d.http, timeout=30) as client:
                    wrong += await asyncio.to_thread(Asker(who, headers, client).everything)
            root = Actor("root", Role.ENGINEER, Proof.SOCKET, "")
            transport = httpx.HTTPTransport(uds=str(tmp_path / SOCKET_NAME))
            with httpx.Client(base_url="http://petqcd", transport=transport, timeout=30) as client:
                wrong += await asyncio.to_thread(Asker(root, {}, client, EXAMPLES).everything)
            assert wrong == []

    asyncio.run(work())
