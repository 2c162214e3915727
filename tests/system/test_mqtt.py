"""A real broker, killed, stopped, restarted, and with an access list: nothing is lost, and runs do not notice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiomqtt
import pytest
from tests.system.broker import PLAIN, Broker, certificates, secured
from tests.unit.histories import claimed_and_stored

from petqc_simulators.recording import write_recording
from petqcd import clock
from petqcd.app import Daemon
from petqcd.config import ApiConfig, DeviceConfig, PetqcConfig, load_config
from petqcd.config.mqtt import MqttConfig
from petqcd.errors import ConfigError
from petqcd.mqtt import publisher as mqtt
from petqcd.mqtt.commands import signed
from petqcd.security.audit import entries
from petqcd.store import outbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from petqcd.store.store import Store

KEY = bytes(range(32))
ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def board_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    return folder / write_recording(folder / "r", "bench", 1, 0.05, truth_seconds=0)["config"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "BACK_OFF_S", (0.05, 0.2))
    monkeypatch.setattr(mqtt, "OUTBOX_POLL_S", 0.05)
    monkeypatch.setattr(mqtt, "DEADLINE_S", 2.0)
    monkeypatch.setattr(mqtt, "HEARTBEAT_S", 0.3)


@asynccontextmanager
async def daemon(folder: Path, board_config: Path, broker: Broker, **settings: Any) -> AsyncIterator[Daemon]:
    """A daemon whose board is at an address where nobody answers."""
    device = DeviceConfig(address="udp://127.0.0.1:9", configuration=board_config, simulated=True)
    speaking = MqttConfig(host="127.0.0.1", port=broker.port, **{"tls": False, **settings})
    config = PetqcConfig(device=(device,), api=ApiConfig(listen="127.0.0.1:0"), mqtt=speaking)
    async with Daemon(config, folder / "state") as running:
        yield running


class Subscriber:
    """Somebody with a lasting session who writes down what comes, and comes again after every break."""

    def __init__(self, broker: Broker, **settings: Any) -> None:
        self.broker, self.settings = broker, settings
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.ready = asyncio.Event()

    async def run(self) -> None:
        while True:
            with suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1", self.broker.port, identifier="logger", clean_session=False, **self.settings
                ) as client:
                    await client.subscribe("petqc/#", qos=1)
                    self.ready.set()
                    async for message in client.messages:
                        with suppress(ValueError, RecursionError):  # what tests send as commands may be anything
                            self.got.append((str(message.topic), json.loads(message.payload)))
            await asyncio.sleep(0.05)

    def of(self, topic: str) -> list[dict[str, Any]]:
        return [content for name, content in self.got if name == f"petqc/bench/{topic}"]


@asynccontextmanager
async def subscriber(broker: Broker, **settings: Any) -> AsyncIterator[Subscriber]:
    found = Subscriber(broker, **settings)
    task = asyncio.create_task(found.run())
    async with asyncio.timeout(DEADLINE_S):
        await found.ready.wait()
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - anything may be waited for
            await asyncio.sleep(0.02)


def value(d: Daemon, name: str) -> float:
    (line,) = [one for one in d.metrics.text().decode().splitlines() if one.startswith(f"{name}{{")]
    return float(line.rsplit(" ", 1)[1])


def test_what_is_told(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        with Broker(tmp_path) as broker:
            async with subscriber(broker) as logger:
                async with daemon(tmp_path, board_config, broker) as d:
                    await until(lambda: len(logger.of("status")) > 2)
                    sequence = await claimed_and_stored(d.store, "a")
                    d.alarms.scanner_condition("outputs-file", is_wrong=True, detail="damaged")
                    await until(lambda: bool(logger.of("run/daily/result") and logger.of("alarm/outputs-file")))
                    await until(lambda: value(d, "petqc_mqtt_outbox_messages") == 0)
                    assert value(d, "petqc_mqtt_connected") == 1
                await until(lambda: logger.of("status")[-1]["state"] == "offline")
            online = [one for one in logger.of("status") if one["state"] == "online"]
            assert [one["sequence"] for one in online] == sorted({one["sequence"] for one in online})
            (result,) = logger.of("run/daily/result")
            assert (result["run_id"], result["sequence"], result["verdict"]) == ("a", sequence, "pass")
            assert len(result["id"]) == 32
            assert logger.of("alarm/outputs-file")[0]["detail"] == "damaged"

    asyncio.run(work())


@pytest.mark.slow
def test_a_broker_that_comes_and_goes_gets_everything_once_by_id(tmp_path: Path, board_config: Path) -> None:
    from tests.system.flapping import flap

    found = asyncio.run(flap(tmp_path, board_config, seconds=1.0, up_s=0.25, down_s=0.15, seed=1, least=3))
    assert (found["lost"], found["left_in_outbox"], found["out_of_order"]) == ([], 0, 0)
    assert found["ids"] == found["stored"]  # one id for each run, however often it came


def results_waiting(store: Store) -> list[tuple[str, str]]:
    """Message and run of each result in the outbox; alarms, such as that of this machine's disk, wait there, too."""
    found = [(m.message_id, json.loads(m.payload)) for m in outbox.oldest(store, 9)]
    return [(message_id, payload["run_id"]) for message_id, payload in found if "run_id" in payload]


def test_without_a_broker_facts_wait_and_survive_a_restart_of_the_daemon(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        broker = Broker(tmp_path)
        async with daemon(tmp_path, board_config, broker) as d:
            await claimed_and_stored(d.store, "a")
            await claimed_and_stored(d.store, "b")
            waiting = results_waiting(d.store)
            assert [run_id for _, run_id in waiting] == ["a", "b"]
            ids = [message_id for message_id, _ in waiting]
            assert value(d, "petqc_mqtt_connected") == 0
            # Nobody takes what waits, and that is seen.
            await until(lambda: value(d, "petqc_mqtt_outbox_messages") >= 2)
            assert 0 < value(d, "petqc_mqtt_outbox_oldest_timestamp_seconds") <= clock.unix_s()
        with broker:
            async with subscriber(broker) as logger, daemon(tmp_path, board_config, broker):
                await until(lambda: len(logger.of("run/daily/result")) == 2)
                assert [one["id"] for one in logger.of("run/daily/result")] == ids

    asyncio.run(work())


def test_a_broker_that_hangs_is_not_noticed_by_runs(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        with Broker(tmp_path) as broker:
            async with subscriber(broker) as logger, daemon(tmp_path, board_config, broker) as d:
                await until(lambda: value(d, "petqc_mqtt_connected") == 1)
                broker.send(signal.SIGSTOP)
                for number in range(5):
                    async with asyncio.timeout(5):
                        await claimed_and_stored(d.store, f"run-{number}")
                await until(lambda: value(d, "petqc_mqtt_connected") == 0)
                broker.send(signal.SIGCONT)
                await until(lambda: len({one["id"] for one in logger.of("run/daily/result")}) == 5)

    asyncio.run(work())


DIES = """
import asyncio, os, signal, sys
from pathlib import Path
from petqcd.mqtt import publisher as mqtt
from petqcd.app import Daemon
from petqcd.config import load_config

async def work():
    async with Daemon(load_config(Path(sys.argv[1])), Path(sys.argv[2])) as d:
        while b'petqc_mqtt_connected{scanner="bench"} 1.0' not in d.metrics.text():
            await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(work())
"""


async def dies_by(program: str, folder: Path, board_config: Path, broker: Broker) -> None:
    """Run a daemon in a process of its own, by a program in which it is killed."""
    config = folder / "petqc.toml"
    config.write_text(
        f'[[device]]\naddress = "udp://127.0.0.1:9"\nconfiguration = "{board_config}"\nsimulated = true\n'
        f'[api]\nlisten = "127.0.0.1:0"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\ntls = false\n'
    )
    command = [sys.executable, "-c", program, config, folder / "state"]
    done = await asyncio.to_thread(subprocess.run, command, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


def test_a_daemon_that_is_killed_is_offline_by_its_last_will(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        with Broker(tmp_path) as broker:
            async with subscriber(broker) as logger:
                await dies_by(DIES, tmp_path, board_config, broker)
                await until(lambda: logger.of("status")[-1]["state"] == "offline")
                assert logger.of("status")[0]["state"] == "online"

    asyncio.run(work())


DIES_BETWEEN = """
import asyncio, os, signal, sys
from pathlib import Path
from petqcd.app import Daemon
from petqcd.config import load_config
from petqcd.store import outbox
from tests.unit.histories import claimed_and_stored

def dies(connection, number):
    os.kill(os.getpid(), signal.SIGKILL)

outbox.told = dies

async def work():
    async with Daemon(load_config(Path(sys.argv[1])), Path(sys.argv[2])) as d:
        await claimed_and_stored(d.store, "a")
        await asyncio.Future()

asyncio.run(work())
"""


def test_a_daemon_killed_after_it_told_and_before_it_knew_tells_it_again_with_the_same_id(
    tmp_path: Path, board_config: Path
) -> None:
    async def work() -> None:
        with Broker(tmp_path) as broker:
            async with subscriber(broker) as logger:
                results = lambda: logger.of("run/daily/result")  # noqa: E731 - one expression
                await dies_by(DIES_BETWEEN, tmp_path, board_config, broker)
                await until(lambda: len(results()) == 1)
                async with daemon(tmp_path, board_config, broker) as d:
                    await until(lambda: len(results()) == 2)
                    await until(lambda: value(d, "petqc_mqtt_outbox_messages") == 0)
            assert results()[0] == results()[1]

    asyncio.run(work())


def test_two_daemons_of_one_name_do_not_throw_each_other_out_for_ever(
    tmp_path: Path, board_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        with Broker(tmp_path) as broker:
            (tmp_path / "second").mkdir()
            async with daemon(tmp_path, board_config, broker) as first:
                await until(lambda: value(first, "petqc_mqtt_connected") == 1)
                async with daemon(tmp_path / "second", board_config, broker) as second:
                    connected = lambda: [value(d, "petqc_mqtt_connected") for d in (first, second)]  # noqa: E731
                    await until(
                        lambda: "another daemon speaks for petqc/bench" in caplog.text and connected() == [0, 1]
                    )
                    await asyncio.sleep(1)  # five times as long as a broker that is away is waited for
                    assert connected() == [0, 1]
                assert "give each a [scanner] name" in caplog.text
        assert (tmp_path / "mosquitto.log").read_text().count("as petqcd-bench") <= 4

    asyncio.run(work())


def a_key(folder: Path, mode: int = 0o600) -> Path:
    path = folder / "commands.key"
    path.write_text(KEY.hex() + "\n")
    path.chmod(mode)
    return path


def command(request_id: str, *, topic: str = "run", at: str = "", **content: Any) -> str:
    return signed(KEY, {"request_id": request_id, "at": at or clock.utc_text(), "topic": topic, **content})


def test_commands_are_signed_fresh_once_and_never_retained(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        with Broker(tmp_path) as broker:
            settings = {"commands": ("run", "off"), "command_key_file": a_key(tmp_path)}
            async with aiomqtt.Client("127.0.0.1", broker.port) as early:
                await early.publish("petqc/bench/command/run", command("r0", kind="housekeeping"), qos=1, retain=True)
            async with (
                subscriber(broker) as logger,
                daemon(tmp_path, board_config, broker, **settings) as d,
                aiomqtt.Client("127.0.0.1", broker.port) as client,
            ):
                answers = lambda: logger.of("command/answer")  # noqa: E731 - one expression

                async def ask(payload: str | bytes, topic: str = "run") -> dict[str, Any]:
                    count = len(answers())
                    await client.publish(f"petqc/bench/command/{topic}", payload, qos=1)
                    await until(lambda: len(answers()) > count)
                    return answers()[-1]

                await until(lambda: len(answers()) == 1)
                assert "retained" in answers()[0]["error"]
                good = command("r1", kind="housekeeping")
                told = await ask(good)
                assert told["done"], told
                assert told["request_id"] == "r1"
                await until(lambda: bool(logger.of("run/housekeeping/result")))
                assert logger.of("run/housekeeping/result")[0]["run_id"] == told["run_id"]
                for payload, topic, why in (
                    (good, "run", "came already"),
                    (command("r2", kind="source"), "run", "energise is not set"),
                    (command("r3", kind="daily"), "run", "energise is not set"),
                    (command("r4", kind="housekeeping", at="2020-01-01T00:00:00+00:00"), "run", "s off"),
                    (command("r5", kind="housekeeping", at="soon"), "run", "not ISO 8601"),
                    (command("r6", topic="off"), "run", "another topic"),
                    (good.replace("housekeeping", "test-pulse"), "run", "signature"),
                    (json.dumps({"command": "{}", "mac": "0" * 64}), "run", "signature"),
                    (signed(KEY, {"request_id": "r7", "more": 1}), "run", "signed, and not a command"),
                    (b"\xff\xfe", "run", "not a signed command"),
                    ("[" * 10_000, "run", "not a signed command"),
                    ("x" * 20_000, "run", "at most"),
                    (command("r8", kind="housekeeping"), "bias", "does not have"),
                ):
                    told = await ask(payload, topic)
                    assert not told["done"]
                    assert why in told["error"], (why, told)
                told = await ask("x" * 1_000_000)
                assert "at most" in told["error"]
                # What is longer than any command can be does not even come here.
                await client.publish("petqc/bench/command/run", "x" * (mqtt.MOST_PACKET_BYTES + 1), qos=1)
                told = await ask(command("r9", topic="off"), "off")
                assert told["done"]
                assert told["devices"][0]["device"] == "board"
                rows = await asyncio.to_thread(lambda: entries(d.store, limit=100))
                refused = [row for row in rows if row["action"] == "mqtt-command"]
                assert len(refused) == value(d, "petqc_mqtt_commands_refused_total") == 15
                assert {row["action"] for row in rows} >= {"start-run", "off"}
                last = command("r10", kind="housekeeping")
                # Of many some are recorded, or whoever may publish there could fill the disk.
                for _ in range(20):
                    await ask("{}")
                rows = await asyncio.to_thread(lambda: entries(d.store, limit=100))
                assert len([row for row in rows if row["action"] == "mqtt-command"]) < 30
                assert value(d, "petqc_mqtt_commands_refused_total") == 35
            # What one daemon obeyed, the next one does not.
            async with (
                subscriber(broker) as logger,
                daemon(tmp_path, board_config, broker, **settings) as d,
                aiomqtt.Client("127.0.0.1", broker.port) as client,
            ):
                await until(lambda: len(logger.of("command/answer")) == 1)  # the retained one
                await client.publish("petqc/bench/command/run", last, qos=1)
                await until(lambda: len(logger.of("command/answer")) == 2)
                assert "older than this daemon" in logger.of("command/answer")[1]["error"]

    asyncio.run(work())


def test_without_being_told_to_no_command_is_taken(tmp_path: Path, board_config: Path) -> None:
    async def work() -> None:
        with Broker(tmp_path) as broker:
            async with (
                subscriber(broker) as logger,
                daemon(tmp_path, board_config, broker) as d,
                aiomqtt.Client("127.0.0.1", broker.port) as client,
            ):
                await until(lambda: value(d, "petqc_mqtt_connected") == 1)
                await client.publish("petqc/bench/command/run", command("r1", kind="housekeeping"), qos=1)
                await until(lambda: len(logger.of("status")) > 4)
                assert logger.of("command/answer") == []
                assert d.runs.progress is None

    asyncio.run(work())
    with pytest.raises(ConfigError, match="others can read it"):
        asyncio.run(_open_key(tmp_path, board_config))


async def _open_key(folder: Path, board_config: Path) -> None:
    key = a_key(folder, 0o644)
    async with daemon(folder, board_config, Broker(folder), commands=("off",), command_key_file=key):
        pass


def reloads(folder: Path) -> int:
    return (folder / "mosquitto.log").read_text().count("Reloading config")


def test_the_example_broker_wants_tls_a_password_and_keeps_to_its_list(
    tmp_path: Path, board_config: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = ("petqcd-bench", "viewer", "commander")
    password = tmp_path / "password"
    password.write_text("petqcd-bench\n")
    trust = ssl.create_default_context(cafile=None)

    async def work() -> None:
        broker = secured(tmp_path, users)
        trust.load_verify_locations(tmp_path / "ca.pem")
        settings = {
            "tls": True,
            "ca_file": tmp_path / "ca.pem",
            "username": "petqcd-bench",
            "password_file": password,
        }
        with broker:
            viewing = {"username": "viewer", "password": "viewer", "tls_context": trust}
            async with subscriber(broker, **viewing) as logger, daemon(tmp_path, board_config, broker, **settings) as d:
                await claimed_and_stored(d.store, "a")
                await until(lambda: len(logger.of("run/daily/result")) == 1)
                async with aiomqtt.Client("127.0.0.1", broker.port, identifier="v2", **viewing) as client:
                    await client.publish("petqc/bench/command/run", "{}", qos=1)  # dropped by the list
                for bad in ({"tls_context": trust}, {"username": "viewer", "password": "x", "tls_context": trust}):
                    with pytest.raises(aiomqtt.MqttError):
                        async with aiomqtt.Client("127.0.0.1", broker.port, **bad):
                            pass
                await until(lambda: len(logger.of("status")) > 4)
                assert logger.of("command/run") == []
                await until(lambda: len(logger.of("audit")) > 0)
                assert 0 < value(d, "petqc_mqtt_certificate_expiry_timestamp_seconds") - clock.unix_s() <= 2 * 86_400
                # A list that forgets a topic is told, what it refused waits, and nothing else does.
                acl, whole = tmp_path / "petqc.acl", (tmp_path / "petqc.acl").read_text()

                async def reload(text: str) -> None:
                    acl.write_text(text)
                    before = reloads(tmp_path)
                    broker.send(signal.SIGHUP)
                    await until(lambda: reloads(tmp_path) > before)

                await reload(whole.replace("topic write petqc/bench/run/#\n", ""))
                await claimed_and_stored(d.store, "b")
                await until(lambda: value(d, "petqc_mqtt_refused_total") > 0)
                await claimed_and_stored(d.store, "c")
                d.alarms.scanner_condition("outputs-file", is_wrong=True, detail="damaged")
                await until(lambda: bool(logger.of("alarm/outputs-file")))
                assert [run_id for _, run_id in results_waiting(d.store)] == ["b", "c"]
                assert value(d, "petqc_mqtt_connected") == 1
                assert caplog.text.count("run/daily/result: the broker answered Not authorized") == 1
                await reload(whole)
                await until(lambda: [one["run_id"] for one in logger.of("run/daily/result")] == ["a", "b", "c"])
                await until(lambda: value(d, "petqc_mqtt_outbox_messages") == 0)
                assert "run/daily/result: the broker takes it again" in caplog.text
            # A client that is stopped in the middle of a handshake is there until its keep-alive ends: one try each.
            monkeypatch.setattr(mqtt, "BACK_OFF_S", (60.0, 60.0))
            # A certificate that nobody vouches for: no connection, and none without TLS instead.
            async with daemon(tmp_path, board_config, broker, **{**settings, "ca_file": None}) as d:
                await until(lambda: "self-signed certificate" in caplog.text)
                await asyncio.sleep(0.2)
                assert value(d, "petqc_mqtt_connected") == 0
            certificates(tmp_path, days=-1)  # whoever runs the broker forgot to renew it
            await reload(whole)
            async with daemon(tmp_path, board_config, broker, **settings) as d:
                await until(lambda: "certificate has expired" in caplog.text)
                assert value(d, "petqc_mqtt_connected") == 0
            # After a refused handshake the client library looks once more, a second later, before its task ends.
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    asyncio.run(work())


def test_a_broker_that_lets_nobody_listen_is_told_of(tmp_path: Path, board_config: Path) -> None:
    """An off that never comes would be silence; the access list in a file does not refuse a subscription, this does."""
    plugin = next(iter(Path("/usr/lib").glob("**/mosquitto_dynamic_security.so")), None)
    if plugin is None:
        pytest.skip("mosquitto is here without its dynamic-security plugin")
    rules = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    (tmp_path / "rules.json").write_text(
        json.dumps(
            {"defaultACLAccess": rules, "clients": [], "roles": [], "anonymousGroup": "all"}
            | {"groups": [{"groupname": "all", "roles": []}]}
        )
    )
    config = PLAIN + f"plugin {plugin}\nplugin_opt_config_file {tmp_path / 'rules.json'}\n"

    async def work() -> None:
        with Broker(tmp_path, config) as broker:
            async with daemon(tmp_path, board_config, broker) as d:
                await until(lambda: value(d, "petqc_mqtt_refused_total") > 0)
                assert value(d, "petqc_mqtt_connected") == 0

    asyncio.run(work())


def test_a_broker_elsewhere_needs_tls(tmp_path: Path) -> None:
    config = tmp_path / "petqc.toml"
    config.write_text('[mqtt]\nhost = "broker.example"\ntls = false\n')
    with pytest.raises(ConfigError, match="needs tls"):
        load_config(config)
    config.write_text('[mqtt]\nhost = "broker.example"\npassword_file = "secret"\nusername = "u"\n')
    found = load_config(config).mqtt
    assert found is not None
    assert found.password_file == tmp_path / "secret"
    config.write_text('[mqtt]\nhost = "127.0.0.1"\ncommands = ["off"]\n')
    with pytest.raises(ConfigError, match="command_key_file"):
        load_config(config)


def test_the_outbox_is_bounded(tmp_path: Path, board_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with daemon(tmp_path, board_config, Broker(tmp_path)) as d:
            monkeypatch.setattr(outbox, "MOST_MESSAGES", 3)
            for number in range(5):
                await claimed_and_stored(d.store, f"run-{number}")
            assert [run_id for _, run_id in results_waiting(d.store)] == ["run-2", "run-3", "run-4"]
            monkeypatch.setattr(outbox, "MOST_AGE_S", -1.0)
            await claimed_and_stored(d.store, "late")
            assert outbox.waiting(d.store).count == 0

    asyncio.run(work())
    assert os.listdir(tmp_path / "state")
