"""Users, roles, sessions, tokens: who may do what over TCP, and what keeps guessers and pages of elsewhere out."""

from __future__ import annotations

import asyncio
import http.client
import json
import sqlite3
import ssl
import subprocess
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.test_daemon_web import ask, board_config, daemon

from petqcd.client import Client
from petqcd.config import ApiConfig
from petqcd.errors import ConfigError, NotAllowedError, RefusedError, TooManyError
from petqcd.security.access import Actor, Proof, Role
from petqcd.security.sessions import FREE_FAILURES, IDLE_S, LONGEST_S, LoginLimit, RateLimit, Sessions
from petqcd.security.tokens import DAY_S, Tokens
from petqcd.security.users import Users, refuse_weak
from petqcd.store import Store
from petqcd.web import gate
from petqcd.web.actions import ACTIONS, ROLES, may, reference_page
from petqcd.web.gate import signed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from petqcd.app import Daemon

__all__ = ["board_config"]

WORDS = "correct horse battery"
PAGE = {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin", "X-Petqc-Console": "1"}


@asynccontextmanager
async def with_users(state_dir: Path, board_config: Path) -> AsyncIterator[Daemon]:
    async with daemon(state_dir, board_config) as d:
        for role in Role:
            await d.accounts.users.add(f"one-{role}", role, WORDS, by="test")
        yield d


async def post(d: Daemon, path: str, headers: dict[str, str], body: Any = None) -> tuple[int, dict[str, str], Any]:
    status, got, data = await asyncio.to_thread(ask, d.http, "POST", path, headers, json.dumps(body or {}).encode())
    return status, got, json.loads(data)


async def login(d: Daemon, name: str) -> dict[str, str]:
    """Headers of a page of ours with a session."""
    status, headers, _ = await post(d, "/api/v1/login", PAGE, {"name": name, "password": WORDS})
    assert status == 200
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    return {**PAGE, "Cookie": cookie.partition(";")[0]}


def test_roles_of_sessions_and_tokens(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            for role, status in ((Role.OBSERVER, 403), (Role.PHYSICIST, 409), (Role.ENGINEER, 409)):
                _, secret = await d.accounts.tokens.create(f"t-{role}", role, scope=None, days=1, by="test")
                bearer = {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}
                for headers in (await login(d, f"one-{role}"), bearer):
                    got, _, said = await post(d, "/api/v1/abort", headers)  # 409: allowed, and no run is going on
                    assert (got, said["code"]) == (status, "refused" if status == 409 else "not-allowed")
            got, _, said = await post(d, "/api/v1/abort", PAGE)
            assert (got, said["code"]) == (401, "not-logged-in")
            for path in ("/api/v1/users", "/api/v1/tokens"):
                assert (await post(d, path, bearer, {"name": "x", "role": "observer"}))[0] in (404, 405)

    asyncio.run(work())


def test_a_page_of_elsewhere_cannot_use_a_session(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            own = await login(d, "one-engineer")
            host = d.http.removeprefix("http://")
            without = {k: v for k, v in own.items() if k != "Sec-Fetch-Site"}
            for headers, expected in (
                (own, 409),
                ({**own, "Sec-Fetch-Site": "same-site"}, 403),  # another port of this host: cookies know no ports
                ({**own, "Sec-Fetch-Site": "cross-site"}, 403),
                ({**own, "Sec-Fetch-Site": "none"}, 403),
                ({k: v for k, v in own.items() if k != "X-Petqc-Console"}, 403),
                (without, 403),
                ({**without, "Origin": f"http://{host}"}, 409),  # a browser that does not say Sec-Fetch-Site
                ({**without, "Origin": "http://localhost:1"}, 403),
            ):
                assert (await post(d, "/api/v1/abort", headers))[0] == expected, headers
            stolen = {**PAGE, "Sec-Fetch-Site": "cross-site"}
            assert (await post(d, "/api/v1/login", stolen, {"name": "one-engineer", "password": WORDS}))[0] == 403

    asyncio.run(work())


def test_a_session_ends_with_logout_password_and_user(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            client = Client(tmp_path)

            async def status(headers: dict[str, str]) -> int:
                return (await asyncio.to_thread(ask, d.http, "GET", "/api/v1/audit", headers))[0]

            first = await login(d, "one-physicist")
            assert await status(first) == 200
            assert (await post(d, "/api/v1/logout", first))[0] == 200
            assert await status(first) == 401
            second = await login(d, "one-physicist")
            new = {"name": "one-physicist", "password": "another long phrase"}
            await asyncio.to_thread(client.post, "/api/v1/users/password", new)
            assert await status(second) == 401
            third = await login(d, "one-engineer")
            await asyncio.to_thread(client.post, "/api/v1/users/remove", {"name": "one-engineer"})
            assert await status(third) == 401
            text = json.dumps(await asyncio.to_thread(client.get, "/api/v1/audit?limit=500"))
            for secret in (WORDS, "another long phrase", first["Cookie"].partition("=")[2]):
                assert secret not in text
            file = b"".join(path.read_bytes() for path in tmp_path.glob("history.sqlite*"))
            assert WORDS.encode() not in file

    asyncio.run(work())


def test_everybody_reads_their_own_audit_rows_and_engineers_all(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            seen = {}
            for name in ("one-physicist", "one-engineer"):
                headers = await login(d, name)
                await post(d, "/api/v1/abort", headers)
                _, _, data = await asyncio.to_thread(ask, d.http, "GET", "/api/v1/audit", headers)
                seen[name] = {row["by"]["name"] for row in json.loads(data)["entries"]}
            assert seen["one-physicist"] == {"one-physicist"}
            assert seen["one-engineer"] >= {"one-physicist", "one-engineer", "daemon"}

    asyncio.run(work())


def test_guessing_is_slowed_down_and_never_told_which_half_is_wrong(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with with_users(tmp_path, board_config) as d:
            said = set()
            for n in range(FREE_FAILURES):
                name = "one-engineer" if n % 2 else "nobody"
                status, _, answer = await post(d, "/api/v1/login", PAGE, {"name": name, "password": "x" * 12})
                assert status == 401
                said.add(answer["error"])
            assert len(said) == 1
            status, headers, _ = await post(d, "/api/v1/login", PAGE, {"name": "one-engineer", "password": WORDS})
            assert status == 429
            assert int(headers["retry-after"]) >= 1
            # Neither off nor the UNIX socket is ever slowed down.
            assert (await asyncio.to_thread(Client(tmp_path).get, "/api/v1/me"))["role"] == "engineer"

    asyncio.run(work())


def test_the_first_user_makes_the_listener_take_commands(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            client = Client(tmp_path)
            assert (await post(d, "/api/v1/login", PAGE, {"name": "physicist-1", "password": WORDS}))[0] == 405
            body = {"name": "physicist-1", "role": "physicist", "password": WORDS}
            await asyncio.to_thread(client.post, "/api/v1/users", body)
            with pytest.raises(RefusedError, match="already"):
                await asyncio.to_thread(client.post, "/api/v1/users", body)
            assert (await post(d, "/api/v1/login", PAGE, {"name": "physicist-1", "password": WORDS}))[0] == 200
        async with daemon(tmp_path, board_config) as d:  # they are kept
            assert [user.name for user in d.accounts.users.listing()] == ["physicist-1"]
            assert d.accounts.users.listing()[0].created_by

    asyncio.run(work())


def test_who_is_on_the_socket_is_what_the_kernel_says(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config):
            me = await asyncio.to_thread(Client(tmp_path).get, "/api/v1/me")
            assert me["proof"] == "UNIX socket"
            assert "manage-users" in me["actions"]
            assert me["source"].startswith("process ")

    asyncio.run(work())


def test_too_many_commands_of_one_token_are_refused_but_never_off(
    tmp_path: Path, board_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "COMMANDS_PER_S", 1e-3)
    monkeypatch.setattr(gate, "COMMANDS_BURST", 2.0)

    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:
            await d.accounts.users.add("physicist-1", Role.ENGINEER, WORDS, by="test")
            _, secret = await d.accounts.tokens.create("script", Role.ENGINEER, scope=None, days=1, by="test")
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}

            def hammer(path: str, count: int) -> list[int]:
                found = []
                with closing(http.client.HTTPConnection(d.http.removeprefix("http://"), timeout=30)) as connection:
                    for _ in range(count):
                        connection.request("POST", path, b"{}", headers)
                        response = connection.getresponse()
                        response.read()
                        found.append(response.status)
                return found

            assert await asyncio.to_thread(hammer, "/api/v1/confirm", 4) == [409, 409, 429, 429]
            assert await asyncio.to_thread(hammer, "/api/v1/abort", 4) == [409] * 4

    asyncio.run(work())


def test_whoever_reads_too_much_does_not_silence_a_scrape(
    tmp_path: Path, board_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "READS_PER_S", 1e-3)
    monkeypatch.setattr(gate, "READS_BURST", 3.0)

    async def work() -> None:
        async with daemon(tmp_path, board_config) as d:

            def statuses(path: str, count: int) -> list[int]:
                return [ask(d.http, "GET", path)[0] for _ in range(count)]

            assert await asyncio.to_thread(statuses, "/api/v1/devices", 5) == [200, 200, 200, 429, 429]
            assert await asyncio.to_thread(statuses, "/metrics", 4) == [200, 200, 200, 429]

    asyncio.run(work())


def test_tokens_end_are_revoked_and_are_kept_as_hashes(tmp_path: Path) -> None:
    now = [1_000_000.0]

    async def work() -> None:
        store = Store(tmp_path)
        tokens = Tokens(store, lambda: now[0])
        scope = frozenset({"view", "off"})
        _, secret = await tokens.create("nightly", Role.PHYSICIST, scope=scope, days=2, by="physicist-1")
        with pytest.raises(RefusedError, match="not used twice"):
            await tokens.create("nightly", Role.OBSERVER, scope=None, days=1, by="physicist-1")
        with pytest.raises(RefusedError, match="at most"):
            await tokens.create("long", Role.OBSERVER, scope=None, days=400, by="physicist-1")
        again = Tokens(store, lambda: now[0])
        await again.load()
        actor = await again.actor(secret, "10.0.0.1")
        assert actor is not None
        assert (may(actor, "off"), may(actor, "start-run")) == (True, False)
        assert await again.actor(secret[:-1] + "x", "10.0.0.1") is None
        now[0] += 2 * DAY_S
        assert await again.actor(secret, "10.0.0.1") is None
        now[0] -= 1.0
        assert await again.actor(secret, "10.0.0.1") is not None
        await again.revoke("nightly")
        assert await again.actor(secret, "10.0.0.1") is None
        store.close()
        with closing(sqlite3.connect(tmp_path / "history.sqlite")) as file:
            assert secret not in "".join(file.iterdump())

    asyncio.run(work())


def with_sessions(tmp_path: Path, work: Callable[[Users, Sessions, list[float]], None]) -> None:
    async def run() -> None:
        store = Store(tmp_path)
        users, now = Users(store), [0.0]
        try:
            await users.add("physicist-1", Role.ENGINEER, WORDS, by="test")
            await users.add("wall", Role.OBSERVER, WORDS, by="test")
            work(users, Sessions(users, lambda: now[0]), now)
        finally:
            store.close()

    asyncio.run(run())


def test_an_idle_session_only_looks_and_a_long_one_ends(tmp_path: Path) -> None:
    def work(users: Users, sessions: Sessions, now: list[float]) -> None:
        def role(secret: str, *, is_used: bool = False) -> Role | None:
            actor = sessions.actor(secret, "127.0.0.1", is_used=is_used)
            return actor and actor.role

        person, wall = users.find("physicist-1"), users.find("wall")
        assert person is not None
        assert wall is not None
        hers, display = sessions.begin(person), sessions.begin(wall)
        now[0] = IDLE_S - 1
        assert role(hers) is Role.ENGINEER  # a page that refreshes itself is nobody's doing
        now[0] = IDLE_S + 1
        assert role(hers, is_used=True) is Role.OBSERVER  # using it does not wake it: the password does
        assert role(hers, is_used=True) is Role.OBSERVER
        again = sessions.begin(person, instead_of=hers)
        assert role(hers) is None
        for _ in range(int(LONGEST_S / 600)):
            now[0] += 600
            assert role(again, is_used=True) is Role.ENGINEER
        now[0] += 600
        assert role(again) is None
        assert role(display) is Role.OBSERVER

    with_sessions(tmp_path, work)


def test_waiting_for_the_next_guess_grows_and_ends() -> None:
    now = [0.0]
    limit = LoginLimit(lambda: now[0])
    for _ in range(FREE_FAILURES):
        limit.require("a")
        limit.failed("a")
    waits = []
    for _ in range(8):
        with pytest.raises(TooManyError) as refused:
            limit.require("b", "a")
        waits.append(refused.value.wait_s)
        now[0] += refused.value.wait_s
        limit.require("a")
        limit.failed("a")
    assert waits == sorted(waits)
    assert waits[-1] <= 60
    limit.require("b")
    now[0] += 301
    limit.require("a")


def test_a_rate_has_a_burst_and_comes_back() -> None:
    now = [0.0]
    rate = RateLimit(2, 3, lambda: now[0])
    for _ in range(3):
        rate.require("a")
    with pytest.raises(TooManyError):
        rate.require("a")
    rate.require("b")
    now[0] = 0.5
    rate.require("a")
    with pytest.raises(TooManyError):
        rate.require("a")


@pytest.mark.parametrize(
    "password", ["short", "password1234", "aaaaaaaaaaaaaaaa", "annaannaanna1", "1234567890123", "x" * 300]
)
def test_weak_passwords_are_refused(password: str) -> None:
    with pytest.raises(RefusedError):
        refuse_weak("physicist-1", password)


def test_deny_is_the_default() -> None:
    for role in (*Role, None):
        actor = Actor("x", role, Proof.PASSWORD, "127.0.0.1")
        assert not may(actor, "something-new")
        assert not may(actor, "manage-users")  # not over TCP
    nobody = Actor("x", None, Proof.SOCKET, "process 1")
    assert not any(may(nobody, action) for action in ROLES if action != "anybody")
    observer = Actor("x", Role.OBSERVER, Proof.TOKEN, "127.0.0.1")
    changing = {action for (method, _), action in ACTIONS.items() if method != "GET"} - {"anybody", "session"}
    assert not any(may(observer, action) for action in changing)


def test_nobody_signs_as_somebody_else() -> None:
    person = Actor("physicist-1", Role.ENGINEER, Proof.PASSWORD, "127.0.0.1")
    assert signed(person, None) == signed(person, "physicist-1") == "physicist-1"
    with pytest.raises(NotAllowedError, match="physicist-2"):
        signed(person, "physicist-2")
    assert signed(Actor("root", Role.ENGINEER, Proof.SOCKET, ""), "physicist-2") == "physicist-2"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    files = folder / f"{name}.pem", folder / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    done = subprocess.run([*command, "-out", files[0], "-keyout", files[1]], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return files


def test_elsewhere_it_listens_with_tls_and_users_only(tmp_path: Path, board_config: Path) -> None:
    pem, key = certificate(tmp_path, "first")
    api = ApiConfig(listen="0.0.0.0:0", hosts=("localhost",), tls_certificate=pem, tls_key=key)
    state_dir = tmp_path / "state"

    async def nobody() -> None:
        with pytest.raises(ConfigError, match="user add"):
            async with daemon(state_dir, board_config, api):
                pass
        async with daemon(state_dir, board_config) as d:
            await d.accounts.users.add("physicist-1", Role.ENGINEER, WORDS, by="test")

    async def work() -> None:
        async with daemon(state_dir, board_config, api) as d:
            port = int(d.http.rpartition(":")[2])
            assert d.http.startswith("https://")

            def get(ca: Path, path: str) -> tuple[int, dict[str, str]]:
                context = ssl.create_default_context(cafile=ca)
                with closing(http.client.HTTPSConnection("localhost", port, context=context, timeout=10)) as connection:
                    connection.request("GET", path)
                    response = connection.getresponse()
                    response.read()
                    return response.status, {k.lower(): v for k, v in response.getheaders()}

            for path, status in (("/healthz", 200), ("/metrics", 401), ("/api/v1/status", 401), ("/", 303)):
                assert (await asyncio.to_thread(get, pem, path))[0] == status, path
            new_pem, new_key = certificate(tmp_path, "second")
            pem.write_bytes(new_pem.read_bytes())
            key.write_bytes(new_key.read_bytes())
            assert d._tls is not None
            d._tls.refresh()
            assert (await asyncio.to_thread(get, new_pem, "/healthz"))[0] == 200
            pem.write_text("broken")
            d._tls.refresh()  # the certificate that works stays
            assert (await asyncio.to_thread(get, new_pem, "/healthz"))[0] == 200

    asyncio.run(nobody())
    asyncio.run(work())


def test_the_reference_page_is_the_table(pytestconfig: pytest.Config) -> None:
    written = (pytestconfig.rootpath / "docs" / "reference" / "api-access.md").read_text()
    assert written == reference_page(), "run: python -m petqcd.web.actions > docs/reference/api-access.md"
