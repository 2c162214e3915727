"""The daemon: its parts, in the order in which they start, and the reverse in which they end."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import logging
import math
import os
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from petqcd import clock, process_health
from petqcd.baselines import Baselines
from petqcd.calibrations import Calibrations
from petqcd.client import SOCKET_NAME
from petqcd.errors import ConfigError, DaemonError, NotFoundError, StoreError
from petqcd.instruments.collection import Instruments
from petqcd.interlocks.alarm_keeper import DISK, STORE, AlarmKeeper
from petqcd.interlocks.alarms import Severity
from petqcd.interlocks.bias_control import BiasControl
from petqcd.interlocks.bias_following import BiasFollowing
from petqcd.interlocks.bias_watch import BiasWatch
from petqcd.interlocks.operating_limits import KeptLimits
from petqcd.interlocks.readout_watch import ReadoutWatch
from petqcd.kinds import all_kinds
from petqcd.metrics import Metrics
from petqcd.off.kept_outputs import KeptOutputs
from petqcd.off.output_settings import configured_outputs
from petqcd.off.retired import Retired
from petqcd.off.safe_state import HARDWARE_SWITCH, SafeOutcome, SafeState, together
from petqcd.progress import Bus, Event
from petqcd.readiness import Readiness
from petqcd.readout.configuration import OwnConfiguration
from petqcd.readout.supervisor import BiasState, DeviceSupervisor
from petqcd.runs import RunManager
from petqcd.scheduler import Scheduler
from petqcd.security.access import daemon_itself
from petqcd.security.accounts import Accounts
from petqcd.security.audit import Audit, newest
from petqcd.security.syslog import SyslogExport
from petqcd.store import Store, database_of
from petqcd.store.disk import Disk, DiskLevel
from petqcd.store.nightly_backup import Backups
from petqcd.web.api import make_app
from petqcd.web.server import Connections, Server, Tls, make_server, tcp_socket, unix_socket

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from petqcd.config import PetqcConfig
    from petqcd.mqtt.publisher import Mqtt
    from petqcd.running import MakeBoard

log = logging.getLogger(__name__)

HOUSEKEEPING_EVERY_S = 5.0
AUDIT_EVERY_S = 3600.0
_SAFE = {BiasState.OFF_CONFIRMED: SafeState.IN_SAFE_STATE, BiasState.OFF_COMMANDED: SafeState.SAFE_COMMANDED}


class Daemon:
    """`async with Daemon(config, state_dir) as daemon:` starts everything and ends everything.

    Attributes:
        config, store, audit, accounts, bus, metrics, device, instruments, alarms, watch, bias, runs, calibrations: its
            parts.
        http: address of the TCP listener.
    """

    def __init__(self, config: PetqcConfig, state_dir: Path, make_board: MakeBoard | None = None) -> None:
        self.config = config
        self.state_dir = state_dir
        self.version = importlib.metadata.version("petqcd")
        self.bus = Bus()
        self.metrics = Metrics(config.scanner.name, config.board.name, simulated=config.is_simulated)
        self._make_board = make_board
        self._started_unix_s = clock.unix_s()
        self._stack = AsyncExitStack()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self.http = ""
        self._tls: Tls | None = None

    async def __aenter__(self) -> Self:
        """Start: store, history of interrupted runs, device, listeners.

        Raises:
            DaemonError: naming what stands in the way; everything that had started is ended again.
        """
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End: the run first (bias off before anything else), then the listeners, the simulator, the store."""
        await self._stack.aclose()

    async def run_until_stopped(self) -> None:
        """Wait for `stop`; a part that failed by a programming error ends the daemon with it."""
        stop = asyncio.create_task(self._stop.wait(), name="wait for stop")
        try:
            done, _ = await asyncio.wait({stop, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:
                task.result()
                raise RuntimeError(f"{task.get_name()} ended by itself")
        finally:
            stop.cancel()
            await asyncio.wait({stop})

    def stop(self) -> None:
        """Ask for an orderly end; may be a signal handler."""
        self._stop.set()

    def stuck(self) -> str:
        """Why this process had better be ended and started again; empty: all that it must do is being done."""
        ended = [task.get_name() for task in self._tasks if task.done()]
        if ended:
            return f"{', '.join(ended)} ended by itself"
        return "" if self.store.is_alive else "nobody writes to the store"

    def status(self, devices: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """What is, as plain types. devices: what is known of the instruments, where somebody has it already."""
        progress = self.runs.progress
        return {
            "scanner": self.config.scanner.name,
            "simulated": self.config.is_simulated,
            "version": self.version,
            "process": os.getpid(),
            "started_at": clock.utc_text(self._started_unix_s),
            "http": self.http,
            "state_dir": str(self.state_dir),
            "configuration": str(self.config.source_file) if self.config.source_file else None,
            "device": self.device.state.document(),
            "readout_permits": self.readout_watch.document(),
            "devices": self.instruments.documents() if devices is None else devices,
            "alarms": self.alarms.documents(),
            "bypasses": [one.document(clock.monotonic_s()) for one in self.watch.bypasses.holding(clock.monotonic_s())],
            "calibration_set": self.calibrations.in_use,
            "maintenance": [one.document() for one in self.watch.maintenance.all()],
            "missing": self.readiness.missing(),
            "run": progress.document() if progress else None,
            "schedule": self.scheduler.document(),
        }

    async def off(self) -> list[SafeOutcome]:
        """Every output off, now and all at once; needs no permit and no store, and overtakes whatever goes on."""
        instruments = (one.off() for one in self.instruments.bias_sources)
        return await together([self._board_off(), *instruments, *self.retired.off()])

    async def _board_off(self) -> SafeOutcome:
        name = self.device.state.name
        try:
            outcome = await self.runs.off()
        except DaemonError as error:
            return SafeOutcome(name, SafeState.UNKNOWN, f"{error} ({HARDWARE_SWITCH})")
        except Exception as error:
            log.exception("switching %s off", name)
            return SafeOutcome(name, SafeState.UNKNOWN, f"off could not be told: {error} ({HARDWARE_SWITCH})")
        return SafeOutcome(name, _SAFE.get(outcome.state, SafeState.UNKNOWN), outcome.told)

    async def _start(self) -> None:
        self.store = Store(self.state_dir, database_of(self.config.store, self.state_dir))
        self._stack.callback(self.store.close)
        self.audit = Audit(self.store, self.version)
        self._stack.push_async_callback(self._end_audit)
        await self.audit.note(
            daemon_itself("daemon"), "start", self.config.scanner.name, configuration=self.config.hash
        )
        self.accounts = Accounts(self.store, self.audit)
        await self.accounts.load()
        self.instruments = Instruments(self.config.instruments, self.bus, self.metrics)
        self.device = DeviceSupervisor(
            self.config.board, self.state_dir, self.bus, self.metrics, told=self.instruments.told
        )
        self.alarms = AlarmKeeper(self.state_dir, self.bus, self.metrics)
        mqtt = await self._make_mqtt()
        self.outputs = KeptOutputs(self.state_dir, configured_outputs(self.config))
        self.retired = Retired(self.outputs)
        self.watch = BiasWatch(
            self.config,
            self.instruments,
            self.alarms,
            self.outputs,
            self.audit,
            self.metrics,
            self.state_dir,
            await asyncio.to_thread(self._newest_unix_s),
        )
        self.device.kept = self.outputs
        self.bias = BiasControl(self.instruments, self.watch, self.outputs, KeptLimits(self.state_dir))
        self.following = BiasFollowing(self.instruments, self.bias, self.audit, self.alarms, self.metrics)
        self.bias.follows = self.following.document
        self.runs = RunManager(
            self.config,
            self.store,
            self.bus,
            self.metrics,
            self.device,
            self._make_board or self._petsys_board,
            self.instruments.readings,
            lambda: self.instruments.run_volts,
            lambda: [one.config.model_dump(mode="json") for one in self.instruments],
        )
        self.disk = Disk(self.state_dir, self.metrics, keeps_reserve=not self.config.is_simulated)
        await asyncio.to_thread(self.disk.look)
        self.own_configuration = OwnConfiguration(self.config.board.configuration)
        await asyncio.to_thread(self.own_configuration.look)
        if self.own_configuration.problem:
            log.error("no run can start: %s", self.own_configuration.problem)
        self.readout_watch = ReadoutWatch(
            self.config, self.device, self.runs, self.watch, self.alarms, self.audit, self.metrics
        )
        self.runs.services.permits.around = self.readout_watch.against
        self.bias.readout = self.readout_watch
        self.readiness = Readiness(self)
        self.runs.refuses = self.readiness.why_no_run
        self.watch.maintenance.why_not_off, self.watch.maintenance.is_on = (
            self.readiness.why_not_off,
            self.readiness.is_on,
        )
        self.backups = Backups(self.config, self.store, self.audit, self.metrics, self.version)
        await self.backups.publish()
        self.calibrations = Calibrations(self.config, self.store, self.metrics, self.device)
        self.baselines = Baselines(self.config, self.store, self.metrics)
        await self._restore()
        await self.calibrations.publish()
        await self.baselines.publish()
        await self.runs.recover()
        self.scheduler = Scheduler(self.config.schedule, self.runs, audit=self.audit)
        await self.scheduler.begin()
        self._own(asyncio.create_task(self.device.run(), name="device supervisor"), ends=self.device.runs_nothing)
        self._own(asyncio.create_task(self.instruments.run(), name="instruments"))
        self._stack.push_async_callback(self._outputs_at_stop)
        self._own(asyncio.create_task(self.watch.run(), name="interlocks"))
        self._own(asyncio.create_task(self.readout_watch.run(), name="interlocks of the readout"))
        self._own(asyncio.create_task(self.following.run(), name="temperature following"))
        self._own(asyncio.create_task(self._housekeeping(), name="housekeeping"))
        self._own(asyncio.create_task(process_health.watch(self.metrics), name="watch of the process"))
        self._own(asyncio.create_task(self.backups.run(), name="nightly backup"))
        if self.config.audit.syslog is not None:
            copying = SyslogExport(self.config.audit.syslog, self.store, self.metrics, self.config.scanner.name)
            self._own(asyncio.create_task(copying.run(), name="audit log to syslog"))
        if mqtt is not None:
            speaking = asyncio.create_task(mqtt.run(), name="mqtt")
            self._tasks.append(speaking)
            self._stack.push_async_callback(mqtt.stop, speaking)
        await self._listen()
        self._stack.push_async_callback(self.runs.aclose)
        self._own(asyncio.create_task(self.scheduler.run(), name="scheduler"))
        if self._make_board is None:
            loading = asyncio.to_thread(importlib.import_module, "petqcd.readout.supplied_board")
            self._own(asyncio.create_task(loading, name="load the board's driver"), ends=True)

    def _petsys_board(self, *arguments: Any) -> Any:
        """The real board; imported soon after the start, for an off must need no file."""
        from petqcd.readout.supplied_board import RunSupplies, SuppliedBoard

        return SuppliedBoard(*arguments, supplies=RunSupplies(self.instruments, self.bias, self.audit))

    async def _make_mqtt(self) -> Mqtt | None:
        """The word to the broker; from here on what happens is kept for it. Imported only where there is one."""
        if self.config.mqtt is None:
            return None
        from petqcd.mqtt.publisher import Mqtt

        mqtt = await asyncio.to_thread(Mqtt, self.config.mqtt, self)
        self._own(asyncio.create_task(mqtt.collect(), name="collect for mqtt"))
        return mqtt

    async def _end_audit(self) -> None:
        await self.audit.note(daemon_itself("daemon"), "stop", self.config.scanner.name)
        await self.audit.aclose()

    def _newest_unix_s(self) -> float:
        """When the newest run that is stored began; 0: there is none."""
        with suppress(NotFoundError):
            return datetime.fromisoformat(self.store.line("last").started_at).timestamp()
        return 0.0

    async def _outputs_at_stop(self) -> None:
        for told in await self.bias.stop():
            log.warning("%s", told)
        await self.watch.outputs_kept()

    async def _restore(self) -> None:
        """Metrics continue where the last daemon left them, with the times they had."""
        from petqc.results import Run

        found = []
        for kind in all_kinds():
            for missed in (False, True):
                with suppress(NotFoundError):
                    document = await asyncio.to_thread(self.store.last_document, kind, missed=missed)
                    found.append(Run.from_document(document))
        # Some checks belong to several kinds: the newest run says what holds.
        for run in sorted(found, key=lambda run: run.finished_at):
            self.metrics.restore(run, finished_unix_s=datetime.fromisoformat(run.finished_at).timestamp())

    def _own(self, task: asyncio.Task[Any], *, ends: bool = False) -> None:
        """Hold a task; ends: it may end by itself."""
        if not ends:
            self._tasks.append(task)

        async def end() -> None:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is not None:
                log.error("%s failed", task.get_name(), exc_info=task.exception())

        self._stack.push_async_callback(end)

    async def _listen(self) -> None:
        api = self.config.api
        if not api.is_loopback and not self.accounts.users:
            raise ConfigError(
                f"[api] listen = {api.listen}: nobody could log in there: listen on loopback first and add a user "
                "(petqc user add NAME --role engineer)"
            )
        if api.tls_certificate is not None and api.tls_key is not None:
            self._tls = Tls(api.tls_certificate, api.tls_key)
        reading = tcp_socket(api.host, api.port)
        self._stack.callback(reading.close)
        commanding = unix_socket(self.state_dir, api.socket_group)
        self._stack.callback(commanding.close)
        self._stack.callback(lambda: (self.state_dir / SOCKET_NAME).unlink(missing_ok=True))
        host, port = reading.getsockname()[:2]
        self.http = f"{'http' if self._tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"
        counted = Connections(
            api.connections_per_source, lambda: self.metrics.add("petqc_http_connections_refused_total")
        )
        servers: list[Server] = []
        tasks = []
        for listener, on_socket in ((reading, False), (commanding, True)):
            application = make_app(self, on_socket=on_socket)
            server = (
                make_server(application)
                if on_socket
                else make_server(application, tls=self._tls, connections=counted, most=api.connections)
            )
            name = "command socket" if on_socket else "TCP listener"
            tasks.append(asyncio.create_task(server.serve(sockets=[listener]), name=name))
            servers.append(server)
        self._tasks += tasks

        async def end() -> None:
            self.bus.close()
            for server in servers:
                server.should_exit = True
            await asyncio.wait(tasks)

        self._stack.push_async_callback(end)
        for server, task in zip(servers, tasks, strict=True):
            ready = asyncio.create_task(server.ready.wait(), name="wait for the listener")
            await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            await asyncio.wait({ready})
            if task.done():
                task.result()

    async def _watch_disk(self) -> None:
        level = await asyncio.to_thread(self.disk.look)
        if level >= DiskLevel.RUNS_STOP and self.runs.progress is not None:
            self.runs.abort(f"{self.disk.told}; the run was stopped while it could still be stored")
        severity = Severity.MAJOR if level >= DiskLevel.NO_NEW_RUNS else Severity.MINOR
        self.alarms.scanner_condition(DISK, is_wrong=bool(level), detail=self.disk.told, severity=severity)
        self.alarms.scanner_condition(STORE, is_wrong=bool(self.store.trouble), detail=self.store.trouble)

    async def _publish_audit(self) -> None:
        """Say how far the audit log goes, where somebody else keeps it: cutting off its end then shows."""
        head = await asyncio.to_thread(newest, self.store)
        log.info("audit log: row %d, hash %s", head.number, head.hash)
        self.bus.publish(Event("audit", {"number": head.number, "hash": head.hash, "at": clock.utc_text()}))
        self.metrics.set("petqc_audit_rows", head.number)
        self.metrics.set("petqc_audit_published_timestamp_seconds", clock.unix_s())

    async def _housekeeping(self) -> None:
        dropped = 0
        published_s = -math.inf
        while True:
            if clock.monotonic_s() - published_s >= AUDIT_EVERY_S:
                try:
                    await self._publish_audit()
                    published_s = clock.monotonic_s()
                except StoreError as error:  # the next round tries again
                    log.error("the newest row of the audit log cannot be read: %s", error)  # noqa: TRY400
            await self._watch_disk()
            await asyncio.to_thread(self.own_configuration.look)
            self.metrics.set("petqc_store_wal_bytes", self.store.wal_bytes)
            self.metrics.add("petqc_listeners_dropped_total", self.bus.dropped - dropped)
            dropped = self.bus.dropped
            await self.audit.flush()
            if self._tls is not None:
                await asyncio.to_thread(self._tls.refresh)
                self.metrics.set("petqc_tls_certificate_expiry_timestamp_seconds", self._tls.expires_unix_s)
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)
