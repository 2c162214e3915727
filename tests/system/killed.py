"""A real daemon that is killed with SIGKILL again and again, whatever it does, and what must be true each time.

`python -m tests.system.killed --kills 1000 --ledger FILE` is the long run, which a later one goes on with. A nursery
has everything imported and forks one daemon for each life, so that a life costs a second; board and detector are
simulated and live through all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import importlib
import json
import math
import os
import pkgutil
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PHASES = ("start", "up", "claimed", "connect", "acquire", "analyse", "stored", "backup")
"""When it is killed: a moment after it told this."""
LATEST_S = {"start": 0.8, "up": 0.1, "claimed": 0.05, "acquire": 0.3, "analyse": 0.4, "backup": 0.02}
LIFE_DEADLINE_S = 600.0
"""One that hangs ends; on a busy machine one that does not may take minutes."""

BOARD = """\
[[device]]
address = "{address}"
configuration = "{configuration}"
simulated = true
[device.bias]
v_min = 0.0
v_max = 50.0
max_step_v = 20.0
slew_v_per_s = 100.0
"""
CONFIG = f"""\
{BOARD}[qc.source]
seconds = 0.5
settle_s = 0.0
[qc.housekeeping]
seconds = 0.1
[api]
listen = "127.0.0.1:0"
[mqtt]
host = "127.0.0.1"
port = 9
tls = false
"""


def nursery() -> None:
    """Fork a daemon for each line on stdin, a folder and kinds of runs; tell what it tells on stdout."""
    import petqc
    import petqcd
    from petqcd.config import load_config
    from petqcd.kinds import all_kinds

    for name in ("pyarrow.parquet", "scipy.optimize", "scipy.stats", "numba"):
        importlib.import_module(name)
    for package in (petqc, petqcd):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    all_kinds()
    for line in sys.stdin:
        given = json.loads(line)
        folder = Path(given["folder"])
        config = load_config(folder / "petqc.toml")
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(_life(config, folder / "state", given["kinds"]))
            finally:
                os._exit(1)
        tell("born", pid=pid)
        os.waitpid(pid, 0)
        tell("dead")


def tell(what: str, **said: Any) -> None:
    """One line, in one piece."""
    os.write(1, json.dumps({"what": what, **said}).encode() + b"\n")


async def _life(config: Any, state_dir: Path, kinds: list[str]) -> None:
    """Run after run, with backups in between, until it is killed."""
    from petqcd.app import Daemon

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell_tasks)
    faulthandler.register(signal.SIGUSR1, chain=True)
    async with Daemon(config, state_dir) as daemon:
        tell("up")
        backing_up = asyncio.create_task(_backups(daemon), name="backups")
        with daemon.bus.listen() as queue:
            for kind in kinds * 1000:
                run_id = await daemon.runs.start(kind, source="killed")
                tell("claimed", run_id=run_id)
                while (event := await queue.get()) is not None:
                    if event.name == "progress":
                        tell(event.data["stage"])
                    elif event.name in ("finished", "lost"):
                        tell("stored" if event.name == "finished" else "lost", **event.data)
                        break
        await backing_up


def _tell_tasks() -> None:
    for task in asyncio.all_tasks():
        task.print_stack()


async def _backups(daemon: Any) -> None:
    while True:
        tell("backup")
        made = await daemon.backups.make()
        tell("backed-up", path=str(made.path))
        await asyncio.sleep(1.1)  # backups are named by the second


@dataclass
class Campaign:
    """Lives and deaths in one folder."""

    folder: Path
    seed: int
    claimed: list[str] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    backups: list[str] = field(default_factory=list)
    lives: int = 0
    phases: dict[str, int] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        """Of the daemon."""
        return self.folder / "state"

    def live(self, nursery: subprocess.Popen[str]) -> None:
        """One life, and its death in the phase that is next."""
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        chance = random.Random(f"{self.seed} {self.lives}")
        phase = PHASES[self.lives % len(PHASES)]
        # A run with a source takes seconds to analyse; most deaths need none.
        with_source = phase == "acquire" or self.lives % 5 == 0
        kinds = ["source", "housekeeping"] if with_source else ["housekeeping", "source"]
        nursery.stdin.write(json.dumps({"folder": str(self.folder), "kinds": kinds}) + "\n")
        nursery.stdin.flush()
        pid = 0
        seen: list[str] = []
        end_s = time.monotonic() + LIFE_DEADLINE_S
        for line in nursery.stdout:
            said = json.loads(line)
            what = said["what"]
            seen.append(what)
            if time.monotonic() > end_s:
                os.kill(pid, signal.SIGUSR1)  # where it stands, it tells in nursery.log
                time.sleep(5.0)
                raise AssertionError(f"life {self.lives}: no {phase}: {seen[:20]} … {seen[-5:]}")
            if what == "born":
                pid = said["pid"]
                what = "start"
            elif what == "claimed":
                self.claimed.append(said["run_id"])
            elif what == "stored":
                self.acknowledged[said["run_id"]] = said["verdict"]
            elif what == "backed-up":
                self.backups.append(said["path"])
            elif what == "lost":
                raise AssertionError(f"life {self.lives}: a run was lost: {said}")
            elif what == "dead":
                break
            if what == phase and pid:
                time.sleep(chance.uniform(0, LATEST_S.get(phase, 0.02)))
                os.kill(pid, signal.SIGKILL)
                self.phases[phase] = self.phases.get(phase, 0) + 1
                pid = 0
        assert pid == 0, f"life {self.lives} ended by itself: {seen}"
        self.lives += 1

    def judge(self) -> None:
        """What must be true after every death, read as anybody would who starts up next."""
        path = self.state_dir / "history.sqlite"
        if not path.is_file():
            assert not self.claimed
            return
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as history:
            assert history.execute("PRAGMA quick_check").fetchone() == ("ok",)
            if history.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone() is None:
                assert not self.claimed, "tables are made in one step, before anything is claimed"
                return
            runs = history.execute(
                "SELECT run_id, state, verdict, document, sequence FROM runs ORDER BY sequence"
            ).fetchall()
            counts = dict(history.execute("SELECT run, count(*) FROM results GROUP BY run"))
            waiting = [json.loads(text) for (text,) in history.execute("SELECT payload FROM outbox")]
            told = [message["run_id"] for message in waiting if "run_id" in message]  # alarms wait there, too
        by_id = {run[0]: run for run in runs}
        order = [run[0] for run in runs if run[0] in set(self.claimed)]
        assert order == self.claimed, "what was claimed is there, in order"
        assert len(runs) - len(self.claimed) <= self.lives, "at most one claim of a life was not told"
        for run_id, verdict in self.acknowledged.items():
            assert by_id[run_id][2] == verdict, "what was acknowledged is there"
        for run_id, state, verdict, document, sequence in runs:
            assert (state == "finished") == (document is not None)
            if document is not None:
                found = json.loads(document)
                assert (found["run_id"], found["verdict"]) == (run_id, verdict)
                assert len(found["checks"]) == counts.get(sequence, 0), "a result is stored whole"
            assert told.count(run_id) == int(state == "finished"), "a stored run is told once, any other never"
        running = [run[0] for run in runs if run[1] == "running"]
        assert running in ([], [run[0] for run in runs[-1:]]), "every older claim has become a record"
        for made in self.backups:
            assert not Path(made).exists() or (Path(made) / "backup.json").is_file()

    def finish(self) -> dict[str, Any]:
        """Start once more, end in order, and read everything there is; what happened, in numbers."""
        from petqc.formats.petsys_raw import RawReader
        from petqc.results import Run
        from petqcd.app import Daemon
        from petqcd.config import load_config
        from petqcd.security.audit import verify
        from petqcd.store.backup import backups, verify_backup

        async def once() -> None:
            async with Daemon(load_config(self.folder / "petqc.toml"), self.state_dir) as daemon:
                assert not daemon.store.running()
                lines = daemon.store.history(limit=10_000)
                for line in lines:
                    Run.from_document(daemon.store.document(line.run_id))
                verify(daemon.store)

        asyncio.run(once())
        self.judge()
        assert not list(self.state_dir.glob("runs/*/*.partial")), "every recording was finalised"
        recordings = sorted(self.state_dir.glob("runs/*/recording.rawf"))
        for path in recordings:
            with RawReader(path) as reader:
                assert reader.damage is None
        kept = backups(self.state_dir / "backups")
        verify_backup(kept[-1])
        with closing(sqlite3.connect(self.state_dir / "history.sqlite")) as history:
            assert history.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (interrupted,) = history.execute("SELECT count(*) FROM runs WHERE sentence LIKE '%interrupted%'").fetchone()
        return {
            "kills": self.lives,
            "phases": self.phases,
            "claimed": len(self.claimed),
            "acknowledged": len(self.acknowledged),
            "interrupted": interrupted,
            "recordings": len(recordings),
            "backups": len(self.backups),
        }


@contextmanager
def processes(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The simulator, with its configuration in the folder, and the nursery."""
    serve = [sys.executable, "-m", "petqc_simulators", "serve", "--json", "--until-stdin-closes"]
    serve += ["--listen", "udp://127.0.0.1:0", "--state-dir", str(folder / "simulator")]
    nurse = [sys.executable, "-c", "from tests.system.killed import nursery; nursery()"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with (
        (folder / "nursery.log").open("w") as log,
        subprocess.Popen(serve, **pipes) as simulator,
        subprocess.Popen(nurse, **pipes, stderr=log) as nursery,
    ):
        assert simulator.stdout is not None
        ready = json.loads(simulator.stdout.readline())
        # It goes on telling, and would stand still with nobody to read it.
        reading = threading.Thread(target=_read_on, args=(simulator.stdout,), name="simulator's words")
        reading.start()
        (folder / "petqc.toml").write_text(CONFIG.format(address=ready["address"], configuration=ready["config"]))
        try:
            yield nursery
        finally:
            nursery.kill()
            simulator.terminate()
            reading.join()


def _read_on(stream: IO[str]) -> None:
    for _ in stream:
        pass


def campaign(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """So many lives and deaths; what happened, in numbers."""
    found = Campaign(folder, seed)
    with processes(folder) as nursery:
        for _ in range(kills):
            found.live(nursery)
            found.judge()
        return found.finish()


CHUNK = 50
"""Kills in one folder; its end is judged as a whole, and counts."""


def main() -> None:
    """The long run: chunk after chunk, each with a seed of its own, and the sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="in all, with those that the ledger has")
    parser.add_argument("--seed", type=int, default=1, help="of the first chunk; the next has the next")
    parser.add_argument("--ledger", type=Path, help="JSON lines, one for each chunk; a later run goes on from there")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no chunk after so long")
    given = parser.parse_args()
    ledger: Path | None = given.ledger
    done = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger and ledger.exists() else []
    seed = 1 + max((chunk["seed"] for chunk in done), default=given.seed - 1)
    began_s = time.monotonic()
    while (left := given.kills - sum(chunk["kills"] for chunk in done)) > 0:
        if time.monotonic() - began_s > 60 * given.minutes:
            break
        done.append(_chunk(min(left, CHUNK), seed))
        sys.stderr.write(f"{sum(chunk['kills'] for chunk in done)} of {given.kills} kills\n")
        seed += 1
        if ledger:
            with ledger.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    sys.stdout.write(json.dumps(_sum(done)) + "\n")


def _chunk(kills: int, seed: int) -> dict[str, Any]:
    """A campaign in a folder that is kept only if something was wrong."""
    began_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="petqc-kills-"))
    try:
        found = campaign(folder, kills, seed)
    except BaseException:
        sys.stderr.write(f"seed {seed}: see {folder}\n")
        raise
    shutil.rmtree(folder)
    return {**found, "seed": seed, "seconds": round(time.monotonic() - began_s)}


def _sum(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("kills", "claimed", "acknowledged", "interrupted", "recordings", "backups", "seconds")
    found: dict[str, Any] = {name: sum(chunk[name] for chunk in chunks) for name in names}
    found["phases"] = {phase: sum(chunk["phases"].get(phase, 0) for chunk in chunks) for phase in PHASES}
    return {**found, "seeds": [chunk["seed"] for chunk in chunks]}


if __name__ == "__main__":
    main()
