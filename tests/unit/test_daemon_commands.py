"""Commands over HTTP: one id is one effect, what energises asks for the password again, tokens have limits.

What is not let through is in the audit log.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.test_daemon_access import PAGE, WORDS, certificate, login, post, with_users
from tests.unit.test_daemon_web import board_config

from petqcd.errors import ConfigError, InvalidRequestError, RefusedError
from petqcd.security.access import Role
from petqcd.security.answers import KEPT_S, LONGEST_BYTES, Answer, Answers
from petqcd.security.audit import Head, entries, verify
from petqcd.security.sessions import PROVED_S
from petqcd.security.tokens import Restriction, Tokens
from petqcd.store import Store
from petqcd.store.annotations import read_annotations
from petqcd.web import server
from petqcd.web.bias import require_version, versioned
from petqcd.web.certificate import expires_unix_s

if TYPE_CHECKING:
    from pathlib import Path

    from petqcd.app import Daemon

__all__ = ["board_config"]

ID = {"Request-Id": "0123456789abcdef"}


def bearer(secret: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}


def remarks(d: Daemon) -> list[str]:
    return [one.text for one in read_annotations(d.store)]


def test_the_same_id_has_one_effect_and_one_answer_over_a_restart(tmp_path: Path, board_config: Path) -> None:
    body = {"text": "a new source"}

    async def first() -> tuple[str, Any]:
        async with with_users(tmp_path, board_config) as d:
            _, secret = await d.accounts.tokens.create("script", Role.PHYSICIST, scope=None, days=1, by="test")
            headers = bearer(secret) | ID
            status, _, said = await post(d, "/api/v1/annotations", headers, body)
            assert status == 201
            again = await post(d, "/api/v1/annotations", headers, body)
            assert (again[0], again[2]) == (status, said)
            other = await post(d, "/api/v1/annotations", headers, {"text": "something else"})
            assert (other[0], "another command" in other[2]["error"]) == (409, True)
            assert (await post(d, "/api/v1/annotations", headers | {"Request-Id": "short"}, body))[0] == 422
            assert (await post(d, "/api/v1/confirm", headers | {"Request-Id": "refused-too"}))[0] == 409
            assert (await post(d, "/api/v1/confirm", headers | {"Request-Id": "refused-too"}))[0] == 409
            # Somebody else's id is another one.
            session = await login(d, "one-physicist")
            assert (await post(d, "/api/v1/annotations", session | ID, body))[0] == 201
            assert remarks(d) == ["a new source"] * 2
            acts = [row for row in entries(d.store, limit=500) if row["action"] == "annotate"]
            assert len(acts) == 4  # intent and result of each of the two
            return secret, said

    async def later(secret: str, said: Any) -> None:
        from tests.unit.test_daemon_web import daemon

        async with daemon(tmp_path, board_config) as d:
            assert (await post(d, "/api/v1/annotations", bearer(secret) | ID, body))[2] == said
            assert len(remarks(d)) == 2

    secret, said = asyncio.run(first())
    asyncio.run(later(secret, said))


def test_ids_end_with_their_day_and_what_was_begun_is_not_begun_again(tmp_path: Path) -> None:
    now = [1_000_000.0]

    async def work() -> None:
        store = Store(tmp_path)
        answers = Answers(store, lambda: now[0])
        assert await answers.claim("a", "12345678", "/x", b"{}") is None
        with pytest.raises(RefusedError, match="not begun again"):
            await answers.claim("a", "12345678", "/x", b"{}")
        await answers.keep("a", "12345678", Answer(201, b'{"done":1}'))
        assert await answers.claim("a", "12345678", "/x", b"{}") == Answer(201, b'{"done":1}')
        with pytest.raises(RefusedError, match="another command"):
            await answers.claim("a", "12345678", "/y", b"{}")
        with pytest.raises(InvalidRequestError):
            await answers.claim("a", "with a space", "/x", b"{}")
        assert await answers.claim("a", "long-answer", "/x", b"{}") is None
        await answers.keep("a", "long-answer", Answer(200, b"x" * (LONGEST_BYTES + 1)))
        with pytest.raises(RefusedError, match="too long"):
            await answers.claim("a", "long-answer", "/x", b"{}")
        now[0] += KEPT_S + 1
        assert await answers.claim("a", "12345678", "/y", b"{}") is None
        store.close()

    asyncio.run(work())


async def check_runs(d: Daemon, headers: dict[str, str]) -> None:
    """A run that energises asks again, also as a part of another; one that does not, does not."""

    async def start(kind: str, **parameters: Any) -> tuple[int, str]:
        status, _, said = await post(d, "/api/v1/runs", headers, {"kind": kind, "parameters": parameters})
        return status, said.get("code", "")

    def forget() -> None:
        for session in d.accounts.sessions._sessions.values():
            session.proved_s -= PROVED_S + 1

    forget()
    d.runs.refuses = lambda: "of the test"
    for kind in ("source", "dark", "daily", "calibrate-time-offsets"):
        assert await start(kind) == (401, "password-again")
    assert await start("daily", no_such_setting=1) == (401, "password-again")
    for kind in ("housekeeping", "test-pulse"):
        assert await start(kind) == (409, "refused")  # let through, as far as the gate goes
    assert await start("no such kind") == (409, "refused")
    assert (await post(d, "/api/v1/confirm", headers, {"note": ""}))[0] == 409
    assert (await post(d, "/api/v1/me/password", headers, {"password": WORDS}))[0] == 200
    assert await start("source") == (409, "refused")


def test_what_energises_asks_for_the_password_again(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            headers = await login(d, "one-engineer")
            limits = {"v_min": 0, "v_max": 1, "reason": "because"}

            async def ask_limits() -> tuple[int, str]:
                status, _, said = await post(d, "/api/v1/bias/hv/limits", headers, limits)
                return status, said["code"]

            assert await ask_limits() == (404, "not-found")  # let through: there is only no such source
            sessions = d.accounts.sessions
            for session in sessions._sessions.values():
                session.proved_s -= PROVED_S + 1
            assert await ask_limits() == (401, "password-again")
            assert (await post(d, "/api/v1/abort", headers))[0] == 409  # towards safe never asks
            assert (await post(d, "/api/v1/annotations", headers, {"text": "x"}))[0] == 201
            wrong = await post(d, "/api/v1/me/password", headers, {"password": "not this one"})
            assert (wrong[0], await ask_limits()) == (401, (401, "password-again"))
            assert (await post(d, "/api/v1/me/password", headers, {"password": WORDS}))[0] == 200
            assert await ask_limits() == (404, "not-found")
            assert (await post(d, "/api/v1/me/password", PAGE, {"password": WORDS}))[0] == 401
            await check_runs(d, headers)
            told = [(row["action"], row.get("outcome"), row.get("code")) for row in entries(d.store, limit=500)]
            assert ("change-limits", "refused", "password-again") in told
            assert ("password again", "refused", None) in told
            assert ("password again", "done", None) in told

    asyncio.run(work())


def test_a_token_names_what_it_may_energise_and_is_held_to_its_limits(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            tokens = d.accounts.tokens
            volts = {"volts": 1}

            async def on(device: str, **limits: Any) -> tuple[int, str]:
                scope = limits.pop("scope", None)
                restriction = Restriction.of(*(limits.get(n) for n in ("networks", "devices", "kinds")))
                name = f"t{len(tokens.listing())}"
                _, secret = await tokens.create(
                    name, Role.ENGINEER, scope=scope, days=1, by="test", restriction=restriction
                )
                status, _, said = await post(d, f"/api/v1/bias/{device}/on", bearer(secret), volts)
                return status, said["error"]

            named = frozenset({"energise", "start-run"})
            status, error = await on("hv")
            assert (status, "scope of the token must name it" in error) == (403, True)
            assert (await on("hv", scope=named))[0] == 404
            assert (await on("hv", scope=named, devices=["hv"]))[0] == 404
            status, error = await on("hv", scope=named, devices=["other"])
            assert (status, "the token is not for hv" in error) == (403, True)
            assert (await on("hv", scope=named, networks=["127.0.0.0/8"]))[0] == 404
            assert (await on("hv", scope=named, networks=["10.1.0.0/16"]))[0] == 401
            restriction = Restriction.of(None, None, ["dark"])
            _, secret = await tokens.create("d", Role.ENGINEER, scope=named, days=1, by="test", restriction=restriction)
            status, _, said = await post(d, "/api/v1/runs", bearer(secret), {"kind": "source"})
            assert (status, said["code"], d.runs.progress) == (403, "not-allowed", None)
            _, plain = await tokens.create("e", Role.ENGINEER, scope=None, days=1, by="test")
            d.runs.refuses = lambda: "of the test"
            for kind, secret_of, answered in (
                ("source", plain, (403, True)),
                ("housekeeping", plain, (409, False)),
                ("dark", secret, (409, False)),
            ):
                status, _, said = await post(d, "/api/v1/runs", bearer(secret_of), {"kind": kind})
                assert (status, "scope of the token must name it" in said["error"]) == answered
            again = Tokens(d.store)
            await again.load()
            assert {t.name: t.restriction for t in again.listing()}["d"].kinds == ("dark",)

    asyncio.run(work())
    with pytest.raises(RefusedError, match=r"10\.1\.0\.0/16"):
        Restriction.of(["everywhere"], None, None)


def test_what_is_not_let_through_is_in_the_audit_log_up_to_a_bound(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            _, secret = await d.accounts.tokens.create("wall", Role.OBSERVER, scope=None, days=1, by="test")
            for _ in range(24):
                assert (await post(d, "/api/v1/off", bearer(secret)))[0] == 403
            rows = [row for row in entries(d.store, limit=500) if row.get("outcome") == "refused"]
            assert 20 <= len(rows) < 24
            assert {(row["action"], row["by"]["name"], row["code"]) for row in rows} == {("off", "wall", "not-allowed")}
            assert "petqc_http_refused_total" in d.metrics.text().decode()
            assert b'petqc_http_refused_total{scanner="bench"} 24.0' in d.metrics.text()
            # How far the log goes is told at once and then hourly; whoever noted it can hold the log against it.
            published = d.metrics.text().decode()
            number = int(float(published.partition("petqc_audit_rows{")[2].partition("} ")[2].partition("\n")[0]))
            assert number >= 1
            assert verify(d.store, known=Head(number, entries(d.store, limit=1, before=number + 1)[0]["hash"]))

    asyncio.run(work())


def test_a_command_on_an_old_state_is_refused() -> None:
    source = {"name": "hv", "bias": "on", "commanded_v": 30.0, "operating_limits": None, "trip": None, "bypasses": []}
    (before,) = versioned([source])
    require_version([source], "hv", before["version"])
    require_version([source], "hv", None)
    changed = source | {"commanded_v": 31.0}
    with pytest.raises(RefusedError, match="changed meanwhile"):
        require_version([changed], "hv", before["version"])


def test_one_source_has_so_many_connections_and_this_host_is_not_counted() -> None:
    refused = []
    counted = server.Connections(2, lambda: refused.append(1))
    assert [counted.opened("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert counted.opened("10.0.0.2")
    counted.closed("10.0.0.1")
    assert counted.opened("10.0.0.1")
    assert all(counted.opened(source) for source in ("127.0.0.1", "::1", "127.0.0.1", "127.0.0.1"))
    assert len(refused) == 1


def test_until_when_a_certificate_holds(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path, "name")
    assert expires_unix_s(pem) == pytest.approx(time.time() + 2 * 86_400, abs=600)
    for damaged in (key.read_text(), pem.read_text().replace("M", "!", 5), "", pem.read_text()[:200]):
        wrong = tmp_path / "wrong.pem"
        wrong.write_text(damaged)
        with pytest.raises(ConfigError, match=r"wrong\.pem"):
            expires_unix_s(wrong)


def test_the_socket_is_for_its_owner_or_for_a_group(tmp_path: Path) -> None:
    import grp

    with server.unix_socket(tmp_path):
        assert (tmp_path / server.SOCKET_NAME).stat().st_mode & 0o777 == 0o600
    mine = grp.getgrgid(os.getgid()).gr_name
    tmp_path.chmod(0o710)
    with server.unix_socket(tmp_path, mine):
        found = (tmp_path / server.SOCKET_NAME).stat()
        assert (found.st_mode & 0o777, found.st_gid) == (0o660, os.getgid())
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match=r"chmod g\+x"):
        server.unix_socket(tmp_path, mine)
    with pytest.raises(ConfigError, match="no such group"):
        server.unix_socket(tmp_path, "petqc-not-there")
