"""What a simulator says: what it stands for and how to reach it, and while it runs how it goes."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from petqc_drivers.petsys.registers import POWER_BIAS
from petqc_simulators.physics.blocks import BLOCK_S
from petqc_simulators.physics.electronics import ACCEPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from petqc_drivers.petsys.mezzanines import BiasKind
    from petqc_simulators.boards.petsys_daqd import DaqdServer
    from petqc_simulators.boards.scanner import Scanner
    from petqc_simulators.live_faults import LiveFaults
    from petqc_simulators.profile import Profile
    from petqc_simulators.scenario import Scenario
    from petqc_simulators.server import BoardServer

BASE_PCBS = {2: "FEB/D 1K", 5: "FEB/D 8K"}
"""Base PCBs that have a name. Source: interface reference, section 1.4."""
MODULES = {0x0: "test board", 0x1: "FEM-128", 0x11: "FEM-128", 0x12: "FEM-128 with multiplexer", 0x111: "FEM-256"}
"""Kinds of module that have a name. Source: interface reference, sections 1.4 and 4.8."""
SOURCES = {"na22": "Na-22", "ge68": "Ge-68", "none": "none but the lutetium of the crystals"}
MAKERS_SOCKET, MAKERS_MEMORY = "/tmp/d.sock", "/daqd_shm"  # noqa: S108 - fixed in the maker's software
MAKERS_BOARD = "192.168.1.25"
"""Where the maker's software looks. Source: interface reference, sections 2.1 and 3.1."""
_ABOVE_OPERATION_V = 10.0


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What is replayed.

    name: of the recording. sha256: of its frames. seconds, hits: what is in it. loops: it begins again at its end.
    measures_s: how long a run can be that begins when the bias is on.
    """

    name: str
    sha256: str
    seconds: float
    hits: int
    loops: bool
    measures_s: float

    def words(self) -> str:
        """For people."""
        end = "then from its beginning again (LOOPED)" if self.loops else "then the board is silent"
        return f"{self.name}, {self.seconds:.2f} s with {self.hits:,} hits; {end}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What is simulated, where it answers, and how others are pointed at it.

    again: the command that gives the same detector once more. control: the socket where faults are planted while it
    runs. faults: as the truth describes them. highest_start_v: of outputs that come up before they can be told
    anything. instruments: what stands beside the boards, each as its table of petqc.toml. replayed: the recording that
    the frames are from, if they are not simulated. scenario: what is played, if any is.
    """

    profile: Profile
    seed: int
    again: str
    address: str
    shared_memory: str | None
    config: Path
    truth: Path | None
    control: Path
    faults: Sequence[dict[str, Any]]
    highest_start_v: float
    instruments: Sequence[Mapping[str, Any]] = ()
    replayed: Replayed | None = None
    scenario: Scenario | None = None

    def document(self) -> dict[str, Any]:
        """For programs: the first line of JSON."""
        geometry, hardware = self.profile.geometry, self.profile.hardware
        return {
            "ready": True,
            "address": self.address,
            **({"shared_memory": self.shared_memory} if self.shared_memory is not None else {}),
            "config": str(self.config),
            "truth": None if self.truth is None else str(self.truth),
            "control": str(self.control),
            "profile": self.profile.name,
            "title": self.profile.title,
            "seed": self.seed,
            "source": self.profile.source.kind,
            "repeats_blocks": self.profile.repetition.blocks,
            **({} if self.replayed is None else {"replayed": asdict(self.replayed)}),
            **({} if self.scenario is None else {"scenario": self.scenario.document()}),
            "boards": hardware.boards,
            "modules": geometry.modules,
            "asics": geometry.chips,
            "channels": geometry.channels,
            "bias_outputs": geometry.bias_channels,
            "faults": list(self.faults),
            **({"devices": [dict(one) for one in self.instruments]} if self.instruments else {}),
            "petqc_toml": self.device_table(),
        }

    def text(self) -> str:
        """For people."""
        facts = {**self._detector(), **self._place()}
        width = max(map(len, facts))
        return "\n".join(
            (
                f"Simulated: {self.profile.title or self.profile.name}"
                if self.replayed is None
                else f"Replayed: {self.replayed.words()}",
                *(f"  {name:<{width}}  {value}" for name, value in facts.items()),
                "",
                "petqc measures with it when petqc.toml says",
                "",
                self.device_table(),
                *self._makers_software(),
                "",
                "Ctrl-C ends it.",
            )
        )

    def _detector(self) -> dict[str, str]:
        p, geometry, hardware = self.profile, self.profile.geometry, self.profile.hardware
        pcb = BASE_PCBS.get(hardware.base_pcb, "FEB/D")
        unit = "port {}, slave {}".format(*hardware.trigger_address)
        trigger = f"clock and trigger unit at {unit}" if hardware.clock_trigger else "trigger of its own"
        kind = MODULES.get(hardware.module_kind, "module")
        where = f"two panels {2 * geometry.face_distance_mm:g} mm apart"
        if geometry.arrangement == "ring":
            where = f"a ring of {2 * geometry.face_distance_mm:g} mm"
        source = SOURCES[p.source.kind]
        if p.source.kind != "none":
            activity_bq = p.source.ge68_activity_bq if p.source.is_cylinder else p.source.activity_bq
            source = f"{p.source.shape} of {source}, {activity_bq / 1000:g} kBq"
            source += f" {p.source.age_days:g} days ago" if p.source.age_days else ""
        return {
            "profile": f"{p.name}, seed {self.seed}: the same seed is the same detector",
            "boards": f"{hardware.boards} x {pcb} (base PCB {hardware.base_pcb:#06x}), {trigger}",
            "modules": f"{geometry.modules} x {kind} ({hardware.module_kind:#06x}), each {geometry.columns} x "
            f"{geometry.rows} crystals, in {where}",
            "channels": f"{geometry.channels} on {_count(geometry.chips, 'ASIC')} TOFPET2 {hardware.asic_version}",
            "bias": f"{_count(geometry.bias_channels, 'output')}; each board has {', '.join(hardware.bias_slots)}"
            if hardware.bias_slots
            else _bias_from_outside(hardware.bias_supply),
            **(
                {"source": source}
                if self.replayed is None
                else {"simulated": "answers to commands, bias outputs and temperatures; frames are the recorded ones"}
            ),
            **({"repetition": _repetition_words(p.repetition.blocks)} if p.repetition.blocks else {}),
            **({} if self.scenario is None else {"scenario": f"{self.scenario.name}: {self.scenario.title}"}),
            "faults": "; ".join(_fault_words(fault) for fault in self.faults) or "none",
        }

    def _place(self) -> dict[str, str]:
        place = {"address": self.address}
        if self.shared_memory is not None:
            place["shared memory"] = f"{self.shared_memory} (the daemon's ring of frames)"
        place |= {one["name"]: one["address"] for one in self.instruments}
        place["configuration"] = str(self.config)
        place["control"] = f"{self.control} (petqc fault: what breaks while it runs)"
        if self.truth is not None:
            place["truth"] = f"{self.truth} (what a perfect analysis finds)"
        return place

    def device_table(self) -> str:
        """The part of petqc.toml that points petqc here."""
        is_daemon = self.shared_memory is not None
        return "\n".join(
            (
                "[[device]]",
                'name = "simulated"',
                f'kind = "{"petsys-daqd" if is_daemon else "petsys-udp"}"',
                f"address = {json.dumps(self.address)}",
                *((f"shared_memory = {json.dumps(self.shared_memory)}",) if is_daemon else ()),
                f"configuration = {json.dumps(str(self.config))}",
                "simulated = true             # everything that is made from it says so",
                *self._replay_lines(),
                f"control = {json.dumps(str(self.control))}",
                *self._bias_tables(),
                *(line for one in self.instruments for line in _table(one)),
                *self._run_lines(),
            )
        )

    def _replay_lines(self) -> list[str]:
        if self.replayed is None:
            return []
        looped = ", looped" if self.replayed.loops else ""
        return [f"replays = {json.dumps(f'{self.replayed.name}{looped} (SHA-256 {self.replayed.sha256[:16]})')}"]

    def _run_lines(self) -> list[str]:
        """How long a run with a source can be that is fed by a recording."""
        if self.replayed is None:
            return []
        return ["", "[qc.source]", f"seconds = {self.replayed.measures_s:.1f}", "settle_s = 0.0"]

    def _bias_tables(self) -> list[str]:
        """Limits of the simulated outputs: of the first mezzanine, then of each that is another one."""
        hardware = self.profile.hardware
        slots, in_use = hardware.mezzanines, hardware.bias_places(self.profile.outputs_per_board)
        if not slots:
            return []
        lines = ["[device.bias]                # of this simulated detector; a real one has limits of its own"]
        lines += self._limits(slots[0])
        for port, slave in hardware.addresses:
            for slot, kind in enumerate(slots):
                if kind is not slots[0] and (slot, 0) in in_use:
                    lines += ["[[device.bias.slot]]", f"port = {port}", f"slave = {slave}", f"slot = {slot}"]
                    lines += self._limits(kind)
        return lines

    def _limits(self, kind: BiasKind) -> list[str]:
        sipm = self.profile.sipm
        v_max = min(math.ceil(sipm.breakdown_v + sipm.overvoltage_v + _ABOVE_OPERATION_V), kind.full_scale_v)
        starts = [] if kind.hears_without_supply else [f"starts_with_v = {self.highest_start_v:.2f}"]
        return [
            f'mezzanine = "{kind.name}"',
            *starts,
            "v_min = 0.0",
            f"v_max = {float(v_max)}",
            "max_step_v = 5.0",
            "slew_v_per_s = 50.0",
        ]

    def _makers_software(self) -> list[str]:
        if self.shared_memory is not None:
            if (self.address, self.shared_memory) == (f"unix:{MAKERS_SOCKET}", MAKERS_MEMORY):
                return ["", "The maker's own programs find it: it stands where they look for their daemon."]
            return [
                "",
                "The maker's programs look for their daemon in one place only. For them, where no real one is used:",
                f"  {self.again} --listen unix:{MAKERS_SOCKET} --shared-memory {MAKERS_MEMORY}",
            ]
        if self.address == f"udp://{MAKERS_BOARD}:2000":
            return ["", "The maker's daemon finds it: daqd --daq-type GBE"]
        return [
            "",
            f"The maker's daemon looks for a board at {MAKERS_BOARD} only. For it, where no real board is used:",
            f"  ip address add {MAKERS_BOARD}/32 dev lo      (as root; the same with del takes it away)",
            f"  {self.again} --listen udp://{MAKERS_BOARD}:2000",
            "  daqd --daq-type GBE",
        ]


def _table(instrument: Mapping[str, Any]) -> list[str]:
    """[[device]] of an instrument, with its limits in a table of their own."""
    lines = ["", "[[device]]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in instrument.items() if not isinstance(value, dict)]
    for key, value in instrument.items():
        if isinstance(value, dict):
            lines += [f"[device.{key}]", *(f"{name} = {json.dumps(one)}" for name, one in value.items())]
    return lines


def _bias_from_outside(supply: str) -> str:
    return f"from a {supply} for each module" if supply else "always on, from outside: the boards have no mezzanine"


def _repetition_words(blocks: int) -> str:
    return f"{blocks * BLOCK_S:.2f} s are simulated, then repeated with new times: a test of speed, not of statistics"


def _fault_words(fault: dict[str, Any]) -> str:
    onset = f" after {fault['onset_s']:g} s" if fault["onset_s"] else ""
    return f"{fault['id']} {fault['title']}, {fault['size_means']} {fault['size']:g}{onset}"


class Status:
    """How a served scanner does. Rates are of the time since the last `take`, per second of the wall clock."""

    def __init__(self, server: BoardServer | DaqdServer, scanner: Scanner, faults: LiveFaults) -> None:
        self._server = server
        self._scanner = scanner
        self._faults = faults
        self._replay: Callable[[], dict[str, Any]] | None = getattr(scanner.detector, "replay_status", None)
        self._started = self._taken = time.monotonic()
        self._hits = 0

    def take(self) -> dict[str, Any]:
        """Numbers, all of simulated truth: what a client measures may differ.

        hits: measured by the detector since it was switched on. bias_v: least and most of all outputs. faults: ids of
        those that act now.
        """
        server, scanner, detector = self._server, self._scanner, self._scanner.detector
        now, hits = time.monotonic(), int(detector.counters[ACCEPTED])
        since = max(now - self._taken, 1e-3)
        rate = (hits - self._hits) / since
        self._taken, self._hits = now, hits
        volts = detector.bias_v
        return {
            "wall_s": round(now - self._started, 3),
            "simulated_s": round(scanner.elapsed_s, 3),
            "slipped_s": round(server.slipped_s, 3),
            "hits": hits,
            "hits_per_s": round(rate, 1),
            "blocks_repeated": scanner.blocks_repeated,
            "clients": server.n_clients,
            "is_streaming": scanner.is_streaming,
            "bias_supply_on": any(board.registers.value("power") & POWER_BIAS for board in scanner.boards),
            "bias_v": [round(float(volts.min()), 2), round(float(volts.max()), 2)] if volts.size else None,
            "faults": [fault["id"] for fault in self._faults.documents() if fault["is_acting"]],
            "rejected": dict(scanner.rejected),
            **({} if self._replay is None else self._replay()),
        }


def _replay_words(status: dict[str, Any]) -> tuple[str, ...]:
    if "played_s" not in status:
        return ()
    if status["is_at_end"]:
        return (f"the recording ended after {status['played_s']:.1f} s: silent",)
    turn = f", turn {status['turns'] + 1} (LOOPED)" if status["turns"] else ""
    return (f"{status['played_s']:.1f} s of the recording{turn}" if status["is_playing"] else "waits for bias",)


def status_words(status: dict[str, Any]) -> str:
    """A status as a line for people."""
    bias = "bias off"
    if status["bias_supply_on"] and status["bias_v"] is not None:
        bias = "bias on, {:.1f} to {:.1f} V".format(*status["bias_v"])
    slipped = f" ({status['slipped_s']:.1f} s behind)" if status["slipped_s"] >= 0.1 else ""
    return " · ".join(
        (
            f"{status['wall_s']:.0f} s",
            f"simulated {status['simulated_s']:.1f} s{slipped}",
            f"{status['hits_per_s']:,.0f} hits/s" if status["is_streaming"] else "not synchronised yet",
            *(("frames repeat",) if status["blocks_repeated"] else ()),
            *_replay_words(status),
            _count(status["clients"], "client"),
            bias,
            f"faults {', '.join(status['faults'])}" if status["faults"] else "no faults",
        )
    )


class StatusLine:
    """Tells a status now and then: lines of JSON on stdout, or words on stderr, which stay one line on a terminal.

    Args:
        every_s: Least time between two; 0: never.
        as_json: JSON instead of words.
    """

    def __init__(self, every_s: float, *, as_json: bool) -> None:
        self._every_s = every_s
        self._as_json = as_json
        self._due = time.monotonic() + every_s
        self._stays = sys.stderr.isatty()

    def tell(self, status: Status) -> None:
        """Tell it if it is time."""
        now = time.monotonic()
        if self._every_s <= 0.0 or now < self._due:
            return
        self._due = now + self._every_s
        if self._as_json:
            self._json({"status": status.take()})
        else:
            words = status_words(status.take())
            sys.stderr.write(f"\r\x1b[K{words}" if self._stays else f"{words}\n")
            sys.stderr.flush()

    def end(self, status: Status) -> None:
        """The last one."""
        if self._every_s <= 0.0:
            return
        if self._as_json:
            self._json({"ended": status.take()})
        else:
            last = status.take()
            head = "\r\x1b[K" if self._stays else ""
            sys.stderr.write(f"{head}ended after {last['wall_s']:.0f} s, {last['hits']:,} hits\n")

    @staticmethod
    def _json(document: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
