"""Tells a broker: whether the daemon lives, where a run is, what was found, which alarms there are.

Facts come from the outbox of the store, in order, each deleted there once the broker has it: at least once, with an id.
Whatever the broker does, runs do not notice; the connection is tried again for ever. Commands are taken if configured.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from petqcd import clock
from petqcd.errors import ConfigError, DaemonError, RefusedError, StoreError, TooManyError
from petqcd.kinds import find_kind
from petqcd.mqtt import messages
from petqcd.mqtt.commands import Command, Commands, load_key
from petqcd.security.access import Actor, Proof, Role
from petqcd.security.sessions import REFUSALS_BURST, REFUSALS_PER_S, RateLimit
from petqcd.store import outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from petqcd.app import Daemon
    from petqcd.config.mqtt import MqttConfig

log = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
"""The broker shows the last status of a dead daemon, and a dead broker too: whoever reads looks at its time."""
KEEPALIVE_S = 20
DEADLINE_S = 10.0
"""For one exchange with the broker."""
BACK_OFF_S = (0.5, 30.0)
GOOD_AFTER_S = 10.0
TAKEN_OVER_S = 300.0
"""Before one tries again for whose scanner another daemon speaks: two would throw each other out for ever."""
PROGRESS_EVERY_S = 1.0
OUTBOX_POLL_S = 1.0
OUTBOX_AT_ONCE = 100
MOST_COMMANDS = 20
"""That wait; more are dropped by the client."""
MOST_PACKET_BYTES = 2 << 20
"""What is longer the broker may not give us: it would be in memory before it could be refused."""


class _Refused(Exception):  # noqa: N818 - not an error of ours: an answer of the broker
    """The broker took a message and will not deliver it."""


class _Other(Exception):  # noqa: N818 - nothing is wrong with this one
    """Another daemon speaks for the same scanner."""


class _Context(ssl.SSLContext):
    """Knows the last socket it made: the client forgets to close one whose handshake fails."""

    last: ssl.SSLSocket | None = None

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        self.last = super().wrap_socket(*arguments, **named)
        return self.last

    @property
    def peer_expires_unix_s(self) -> float:
        """When the certificate of the other end, which was checked, ends."""
        until = None if self.last is None else (self.last.getpeercert() or {}).get("notAfter")
        return ssl.cert_time_to_seconds(until) if isinstance(until, str) else 0.0

    def close_last(self) -> None:
        """After a connection that ended, however it ended."""
        if self.last is not None:
            self.last.close()
            self.last = None


class _HeldBack:
    """Topics that the broker refuses: each is tried again, ever more seldom, and none of the others waits for it."""

    def __init__(self) -> None:
        self._again: dict[str, tuple[float, float]] = {}

    def topics(self) -> set[str]:
        """Those that are not tried yet."""
        now_s = clock.monotonic_s()
        return {topic for topic, (at_s, _) in self._again.items() if at_s > now_s}

    def add(self, topic: str) -> bool:
        """It was refused; whether that is new."""
        is_new = topic not in self._again
        wait_s = BACK_OFF_S[0] if is_new else min(2 * self._again[topic][1], BACK_OFF_S[1])
        self._again[topic] = clock.monotonic_s() + wait_s, wait_s
        return is_new

    def remove(self, topic: str) -> bool:
        """It was taken; whether that is new."""
        return self._again.pop(topic, None) is not None


class _Client(aiomqtt.Client):
    """Knows what the broker answered to a message, which aiomqtt takes for granted, and who else speaks for us."""

    refusal: str = ""
    status_topic: str = ""
    other: asyncio.Future[str]

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        if message.topic != self.status_topic:
            super()._on_message(client, userdata, message)
        elif not self.other.done() and (found := self.of_another(message.payload)):
            self.other.set_result(found)

    of_another: Callable[[bytes], str]

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        if reason_code.is_failure:
            self.refusal = str(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)


class Mqtt:
    """The daemon's word to its broker.

    Args:
        config: [mqtt].
        daemon: whose facts are told, and who obeys.

    Raises:
        ConfigError: a file that is named is missing or not what it should be.
    """

    def __init__(self, config: MqttConfig, daemon: Daemon) -> None:
        self._config, self._daemon, self._metrics = config, daemon, daemon.metrics
        self._base = f"{config.prefix}/{daemon.config.scanner.name}"
        self._password = _secret(config)
        self._tls = _tls(config)
        self._commands: Commands | None = None
        if config.command_key_file is not None:
            self._commands = Commands(config, load_key(config.command_key_file), clock.unix_s())
        self._other_at = clock.utc_text()
        self._refusals = RateLimit(REFUSALS_PER_S, REFUSALS_BURST)
        self._sequence = 0
        self._turn = asyncio.Lock()
        self._progress: dict[str, dict[str, Any]] = {}
        self._held_back = _HeldBack()
        self._is_lost = False
        self._stopping = False
        self._metrics.set("petqc_mqtt_configured", 1)
        daemon.store.announces = messages.result

    async def collect(self) -> None:
        """Take up what happens, whether there is a broker or not: alarms for the outbox, the last progress."""
        while True:
            with self._daemon.bus.listen() as queue:
                while (event := await queue.get()) is not None:
                    if event.name == "alarm":
                        await self._keep(*messages.alarm(event.data))
                    elif event.name == "progress":
                        topic, content = messages.progress(event.data)
                        self._progress[topic] = content
                    elif event.name == "audit":
                        topic, content = messages.audit(event.data)
                        self._progress[topic] = content
            await asyncio.sleep(0.1)  # dropped for not reading, or the daemon stops and ends this task

    async def run(self) -> None:
        """Be connected, for ever."""
        wait_s = BACK_OFF_S[0]
        while not self._stopping:
            began_s = clock.monotonic_s()
            try:
                await self._connected()
            except* Exception as group:
                error = _first(group)
                was_good = clock.monotonic_s() - began_s > GOOD_AFTER_S
                wait_s = BACK_OFF_S[0] if was_good else min(2 * wait_s, BACK_OFF_S[1])
                if not self._is_lost:
                    is_known = isinstance(error, aiomqtt.MqttError | OSError | _Refused | _Other)
                    place = (self._config.host, self._config.port)
                    log.warning("broker %s:%d: %s", *place, error, exc_info=None if is_known else error)
                self._is_lost = True
                if isinstance(error, _Other):
                    log.error("%s: give each a [scanner] name and a client_id of its own", error)  # noqa: TRY400
                    wait_s = TAKEN_OVER_S
            finally:
                self._metrics.set("petqc_mqtt_connected", 0)
                if self._tls is not None:
                    self._tls.close_last()
            await self._count_waiting()
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))  # noqa: S311 - to spread, not to hide

    async def stop(self, task: asyncio.Task[Any]) -> None:
        """End the task of `run`. The client's own waits may swallow a cancellation, so it is repeated."""
        self._stopping = True
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.5)

    @property
    def _client_id(self) -> str:
        return self._config.client_id or f"petqcd-{self._daemon.config.scanner.name}"

    async def _connected(self) -> None:
        """One connection, to its end."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MOST_PACKET_BYTES
        will = aiomqtt.Will(f"{self._base}/{messages.STATUS}", self._status("offline"), qos=1, retain=True)
        client = _Client(
            self._config.host,
            self._config.port,
            identifier=self._client_id,
            username=self._config.username,
            password=self._password,
            tls_context=self._tls,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            will=will,
            timeout=DEADLINE_S,
            keepalive=KEEPALIVE_S,
            max_queued_incoming_messages=MOST_COMMANDS,
            max_queued_outgoing_messages=MOST_COMMANDS,
            properties=properties,
        )
        async with client, asyncio.TaskGroup() as tasks:
            if self._is_lost:
                log.warning("broker %s:%d: connected", self._config.host, self._config.port)
            self._is_lost = False
            if self._tls is not None:
                self._metrics.set("petqc_mqtt_certificate_expiry_timestamp_seconds", self._tls.peer_expires_unix_s)
            await self._look_for_another(client)
            if self._commands is not None and self._config.commands:
                await self._listen_to(client, messages.COMMANDS)
            tasks.create_task(self._obey(client), name="mqtt commands")
            await self._tell(client, messages.STATUS, self._status("online"))
            self._metrics.set("petqc_mqtt_connected", 1)
            tasks.create_task(self._beat(client), name="mqtt heartbeat")
            tasks.create_task(self._tell_alarms(client), name="mqtt alarms")
            tasks.create_task(self._empty_outbox(client), name="mqtt outbox")
            tasks.create_task(self._tell_progress(client), name="mqtt progress")
            try:
                raise _Other(await client.other)
            finally:
                with suppress(aiomqtt.MqttError, _Refused):
                    if self._stopping:
                        await self._tell(client, messages.STATUS, self._status("offline"))

    async def _listen_to(self, client: _Client, topic: str) -> None:
        """Raises `_Refused` where the broker does not let us: nobody's off would come, and nobody would notice."""
        for code in await client.subscribe(f"{self._base}/{topic}", qos=1):
            if isinstance(code, ReasonCode) and code.is_failure:
                self._metrics.add("petqc_mqtt_refused_total")
                raise _Refused(f"{self._base}/{topic}: the broker answered {code}: look at its access list")

    async def _look_for_another(self, client: _Client) -> None:
        """Before anything is told. Raises `_Other`: another daemon told its status since this one began."""
        client.other, client.of_another = asyncio.get_running_loop().create_future(), self._of_another
        client.status_topic = f"{self._base}/{messages.STATUS}"
        for _ in range(2):  # what is retained came between the broker's answers to the first and to the second
            await self._listen_to(client, messages.STATUS)
        if client.other.done():
            raise _Other(client.other.result())

    def _of_another(self, payload: bytes) -> str:
        """Of whom a status tells something new; empty: it is ours, of an earlier life or as old as what was seen."""
        try:
            said = json.loads(payload)
            instance, at = str(said["instance"]), str(said["at"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""
        if instance == self._daemon.store.instance or at <= self._other_at:
            return ""
        self._other_at = at
        return f"another daemon speaks for {self._base}, at {at[:40]}"

    async def _beat(self, client: _Client) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._tell(client, messages.STATUS, self._status("online"))

    async def _tell_alarms(self, client: _Client) -> None:
        """What stands now, to a broker that may have forgotten it; once, unless it refuses one."""
        is_told = False
        while not is_told:
            is_told = True
            for document in self._daemon.alarms.documents():
                topic, content = messages.alarm(document)
                is_told &= await self._offer(client, topic, json.dumps(content, allow_nan=False))
            await asyncio.sleep(0 if is_told else BACK_OFF_S[1])

    async def _empty_outbox(self, client: _Client) -> None:
        store = self._daemon.store
        while True:
            held_back, n_told = self._held_back.topics(), 0  # one moment for all: within a topic their order stays
            try:
                for message in await asyncio.to_thread(outbox.oldest, store, OUTBOX_AT_ONCE, held_back):
                    if message.topic in held_back:
                        continue
                    if not await self._offer(client, message.topic, message.payload):
                        held_back.add(message.topic)
                        continue
                    await store.write(lambda connection, number=message.number: outbox.told(connection, number))  # type: ignore[misc]
                    self._metrics.add("petqc_mqtt_told_total")
                    n_told += 1
            except StoreError as error:
                log.warning("outbox: %s", error)
                await asyncio.sleep(BACK_OFF_S[1])
                continue
            await self._count_waiting()
            await asyncio.sleep(0 if n_told else OUTBOX_POLL_S)

    async def _count_waiting(self) -> None:
        """How much waits, for whoever watches; also while nobody takes it."""
        try:
            waiting = await asyncio.to_thread(outbox.waiting, self._daemon.store)
        except StoreError as error:
            log.warning("outbox: %s", error)
            return
        self._metrics.set("petqc_mqtt_outbox_messages", waiting.count)
        self._metrics.set("petqc_mqtt_outbox_oldest_timestamp_seconds", waiting.oldest_unix_s)

    async def _tell_progress(self, client: _Client) -> None:
        while True:
            for topic, content in list(self._progress.items()):
                text, is_told = json.dumps(content, allow_nan=False), True
                if not messages.is_retained(topic):
                    await client.publish(f"{self._base}/{topic}", text, qos=0)
                else:
                    is_told = topic not in self._held_back.topics() and await self._offer(client, topic, text)
                if is_told and self._progress[topic] is content:
                    del self._progress[topic]
            await asyncio.sleep(PROGRESS_EVERY_S)

    async def _tell(self, client: _Client, topic: str, payload: str) -> None:
        """Publish, and return once the broker has it.

        Raises:
            _Refused: it says that it will not deliver it.
        """
        async with self._turn:
            client.refusal = ""
            await client.publish(f"{self._base}/{topic}", payload, qos=1, retain=messages.is_retained(topic))
            if client.refusal:
                self._metrics.add("petqc_mqtt_refused_total")
                raise _Refused(f"{self._base}/{topic}: the broker answered {client.refusal}: look at its access list")

    async def _offer(self, client: _Client, topic: str, payload: str) -> bool:
        """Publish, and say whether the broker has it; a topic that it refuses is held back, no other waits."""
        try:
            await self._tell(client, topic, payload)
        except _Refused as error:
            if self._held_back.add(topic):
                log.warning("%s; it is tried again, at least every %g s", error, BACK_OFF_S[1])
            return False
        if self._held_back.remove(topic):
            log.warning("%s/%s: the broker takes it again", self._base, topic)
        return True

    async def _obey(self, client: _Client) -> None:
        """Answer what comes in; ends with an error as soon as the connection does."""
        async for message in client.messages:
            topic = str(message.topic).removeprefix(f"{self._base}/command/")
            if topic == "answer":
                continue  # our own
            answer = await self._answer(topic, message.payload, is_retained=bool(message.retain))
            await self._offer(client, messages.ANSWER, json.dumps(answer, allow_nan=False))

    async def _answer(self, topic: str, payload: bytes, *, is_retained: bool) -> dict[str, Any]:
        assert self._commands is not None  # noqa: S101 - nothing is subscribed without; for the type checker
        actor = Actor("mqtt", Role.PHYSICIST, Proof.TOKEN, f"broker {self._config.host}:{self._config.port}")
        request_id = ""
        try:
            command = self._commands.judge(topic, payload, is_retained=is_retained)
            request_id = command.request_id
            return {"request_id": request_id, "done": True, **await self._do(command, actor)}
        except DaemonError as error:
            self._metrics.add("petqc_mqtt_commands_refused_total")
            with suppress(TooManyError):  # many are counted, and some recorded: the log must not fill the disk
                self._refusals.require("broker")
                log.warning("command %s through the broker: %s", topic[:100], error)
                told = {"outcome": "refused", "error": str(error), "request_id": request_id}
                await self._daemon.audit.note(actor, "mqtt-command", topic[:100], **told)
            return {"request_id": request_id, "done": False, "code": error.code, "error": str(error)}

    async def _do(self, command: Command, actor: Actor) -> dict[str, Any]:
        daemon = self._daemon
        if command.topic == "off":
            async with daemon.audit.act(actor, "off", "all", first=True) as act:
                act.result = [one.document() for one in await daemon.off()]
            return {"devices": act.result}
        energises = find_kind(command.kind).energises(daemon.config, command.parameters)
        if energises and not self._config.energise:
            raise RefusedError(f"a {command.kind} run needs bias: [mqtt] energise is not set")
        async with daemon.audit.act(actor, "start-run", command.kind, new=command.parameters) as act:
            act.result = await daemon.runs.start(command.kind, source=actor.signature, parameters=command.parameters)
        return {"run_id": act.result}

    async def _keep(self, topic: str, content: Mapping[str, Any]) -> None:
        try:
            await self._daemon.store.write(lambda connection: outbox.put(connection, topic, content))
        except StoreError as error:
            log.warning("%s is not told to the broker: %s", topic, error)

    def _status(self, state: str) -> str:
        self._sequence += 1
        daemon = self._daemon
        document = {
            "state": state,
            "at": clock.utc_text(),
            "sequence": self._sequence,
            "instance": daemon.store.instance,
            "scanner": daemon.config.scanner.name,
            "simulated": daemon.config.is_simulated,
            "version": daemon.version,
        }
        return json.dumps(document)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _secret(config: MqttConfig) -> str | None:
    if config.password_file is None:
        return None
    try:
        return config.password_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{config.password_file}: no password: {error.strerror}") from error


def _tls(config: MqttConfig) -> _Context | None:
    if not config.tls:
        return None
    try:
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)  # certificate and host name are checked
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(config.ca_file)
        if config.certificate is not None:
            context.load_cert_chain(config.certificate, config.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"[mqtt] TLS: {error}") from error
    return context
