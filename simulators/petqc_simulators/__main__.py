"""Command line of the simulators: python -m petqc_simulators serve ..., which is also `petqc simulate`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from petqc.loading import collect_seldom

if TYPE_CHECKING:
    from petqc_simulators.serving import ServeSettings

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended before it had begun."""


def _speed(text: str) -> float:
    speed = float(text)
    if not (math.isfinite(speed) and 0 < speed <= 100):
        raise argparse.ArgumentTypeError(f"{text} is not a speed above 0 and at most 100")
    return speed


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text} is not a seed (0 or more)")
    return seed


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds (0 or more)")
    return seconds


def _of_servers(command: argparse.ArgumentParser) -> None:
    """Where it is served, and for how long."""
    command.add_argument(
        "--listen",
        "--address",
        metavar="ADDRESS",
        help="udp://HOST:PORT, port 0 for any free one; or unix:/PATH for the maker's daemon in front of it. Default: "
        "udp://127.0.0.1:2000, or a socket in the folder for temporary files if the scanner has several units",
    )
    command.add_argument(
        "--instruments-at",
        type=int,
        default=0,
        metavar="PORT",
        help="first TCP port of bias supplies and chiller of a profile that has them; default: any free ones",
    )
    command.add_argument("--shared-memory", metavar="/NAME", help="name of the frame ring, with unix:/PATH")
    command.add_argument("--speed", type=_speed, default=1.0, help="simulated seconds per second")
    command.add_argument(
        "--write-config", type=Path, metavar="DIR", help="write its configuration in the maker's format here"
    )
    command.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="configuration and state go here; default: a folder that is removed in the end",
    )
    command.add_argument(
        "--for", type=_seconds, dest="seconds", metavar="SECONDS", help="end by itself after this time"
    )
    command.add_argument(
        "--status-every",
        type=_seconds,
        metavar="SECONDS",
        help="how often it tells how it goes, 0 for never; default: 1, or 10 where words go to no terminal",
    )
    command.add_argument("--json", action="store_true", help="lines of JSON on stdout")
    command.add_argument("--until-stdin-closes", action="store_true", help="end when standard input ends")


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    from petqc_simulators.profile import profile_names

    top = argparse.ArgumentParser(prog="petqc_simulators", description="Simulated detectors on their real wire.")
    commands = top.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve",
        prog="petqc simulate",
        help="a board on UDP, or behind the daemon's socket",
        description="A simulated scanner on its real wire, for petqc or any other program.",
    )
    replay = commands.add_parser(
        "replay",
        prog="petqc replay",
        help="a recording played back as hardware",
        description="A recording, or a bundle, on the wire of the boards that it came from.",
    )
    record = commands.add_parser("record", help="a recording, as fast as it goes")
    scenarios = commands.add_parser("scenarios", prog="petqc scenarios", help="stories of faults, as data")
    scenarios.add_argument("name", nargs="?", metavar="NAME|FILE", help="all of one")
    scenarios.add_argument("--seed", type=_seed, help="takes the place of its own")
    scenarios.add_argument("--json", action="store_true", help="as JSON on stdout")
    faults = commands.add_parser("faults", prog="petqc faults", help="what can break, and what should notice it")
    faults.add_argument("--json", action="store_true", help="a list on stdout")
    for command in (serve, record):
        command.add_argument(
            "--profile",
            help=f"default: bench, or the scenario's; one of {', '.join(profile_names())}, or the path of a .toml file",
        )
        command.add_argument("--seed", type=_seed, help="the individual detector; default: 1, or the scenario's")
        command.add_argument("--source", choices=("na22", "ge68", "none"), help="default: the profile's")
    for command in (serve, record, replay):
        command.add_argument(
            "--fault",
            action="append",
            default=[],
            metavar="ID[=size][:place][@begin[-end]][~ramp]",
            help="what is broken, how much, where, and from when on; may be repeated; `petqc faults` lists them",
        )
    replay.add_argument("path", type=Path, metavar="FILE.rawf|BUNDLE", help="what was recorded")
    replay.add_argument(
        "--config", type=Path, metavar="CONFIG.INI", help="default: the one beside it, or in the bundle"
    )
    replay.add_argument("--profile", help="boards that it came from; default: what its channels suggest")
    replay.add_argument("--loop", action="store_true", help="begin again at its end, instead of falling silent")
    replay.add_argument(
        "--compare",
        metavar="RUN",
        help="do not only play it: measure it with a daemon, and tell what differs from a run: its folder, its id, or "
        "`recorded`, the run that a bundle is of. With --all also what has not moved",
    )
    replay.set_defaults(seed=1, source=None, truth=False)
    _of_servers(serve)
    _of_servers(replay)
    serve.add_argument(
        "--scenario",
        metavar="NAME|FILE",
        help="a story of faults: one of `petqc scenarios`, or the path of a .toml file",
    )
    serve.add_argument(
        "--truth",
        action="store_true",
        help="compute what a perfect analysis would find, which takes seconds, into truth.json in --state-dir",
    )
    serve.add_argument(
        "--device",
        metavar="KIND",
        help="one instrument alone instead of a scanner; --listen tcp://HOST:PORT or pty:/PATH",
    )
    serve.add_argument("--model", help="of the instrument, with --device")
    serve.add_argument("--serial", help="serial number of the instrument, with --device")
    record.add_argument("--seconds", type=float, default=15.0, help="length")
    record.add_argument("prefix", type=Path, help="path of the recording without suffix")
    return top


def _serve_instrument(given: argparse.Namespace) -> int:
    from petqc_simulators.instrument_serving import InstrumentSettings, serve_instrument

    return serve_instrument(
        InstrumentSettings(
            device=given.device,
            listen=given.listen or "tcp://127.0.0.1:0",
            model=given.model,
            serial=given.serial,
            profile=given.profile or "bench",
            seed=1 if given.seed is None else given.seed,
            speed=given.speed,
            state_dir=given.state_dir,
            seconds=given.seconds,
            until_stdin_closes=given.until_stdin_closes,
            as_json=given.json,
            faults=given.fault,
        )
    )


def _serve(given: argparse.Namespace) -> int:
    if given.truth and (given.state_dir is None or given.device is not None):
        from petqc_simulators.profile import ProfileError

        raise ProfileError("--truth is of a detector and goes into its --state-dir: give that, and no --device")
    if given.device is not None:
        return _serve_instrument(given)
    from petqc_simulators.serving import serve

    return serve(_settings(given))


def _replay(given: argparse.Namespace) -> int:
    from petqc_simulators.replay import ReplaySettings, replay

    return replay(ReplaySettings(given.path, _settings(given), given.config, given.profile, loops=given.loop))


def _settings(given: argparse.Namespace) -> ServeSettings:
    from petqc_simulators.serving import ServeSettings

    every_s = given.status_every
    if every_s is None:
        every_s = 1.0 if given.json or sys.stderr.isatty() else 10.0
    name = getattr(given, "scenario", None)
    profile, seed, source = given.profile, given.seed, given.source
    if name is not None:
        from petqc_simulators.scenario import load_scenario

        scenario = load_scenario(name, given.seed)
        profile, seed, source = profile or scenario.profile, scenario.seed, source or scenario.source
    return ServeSettings(
        scenario=name,
        profile=profile or "bench",
        seed=1 if seed is None else seed,
        listen=given.listen,
        state_dir=given.state_dir,
        tells_truth=given.truth,
        speed=given.speed,
        source=source,
        faults=given.fault,
        until_stdin_closes=given.until_stdin_closes,
        shared_memory=given.shared_memory,
        instruments_at=given.instruments_at,
        write_config=given.write_config,
        seconds=given.seconds,
        as_json=given.json,
        status_every_s=every_s,
    )


def _scenarios(given: argparse.Namespace) -> int:
    from petqc_simulators.scenario import load_scenario, scenario_names

    names = scenario_names() if given.name is None else [given.name]
    found = [load_scenario(name, given.seed) for name in names]
    if given.json:
        documents = [one.document() for one in found]
        sys.stdout.write(json.dumps(documents if given.name is None else documents[0], indent=1) + "\n")
        return 0
    for one in found:
        days = f"; {one.days:g} days in {one.runs} runs" if one.days_per_run else ""
        sys.stdout.write(f"{one.name}: {one.title}{days}\n" + (f"{one.story}\n" if given.name is not None else ""))
        if given.name is not None:
            sys.stdout.writelines(f"  {fault}\n" for fault in one.faults)
            sys.stdout.writelines(
                f"  {f.fault} from day {f.at_day:g}, reached after {f.ramp_days:g} days\n" for f in one.of_days
            )
    return 0


def _faults(*, as_json: bool) -> int:
    from dataclasses import asdict

    from petqc_simulators.faults import EVERY_KIND

    if as_json:
        sys.stdout.write(json.dumps([asdict(kind) for kind in EVERY_KIND.values()], indent=1) + "\n")
        return 0
    for kind in EVERY_KIND.values():
        sys.stdout.write(
            f"{kind.id}  {kind.title} ({kind.place})\n"
            f"     size: {kind.size_means}; typical {kind.default_size:g}, at most {kind.largest_size:g}\n"
            f"     should notice: {kind.noticed_by}\n"
        )
    sys.stdout.write(
        "\nWrite a fault as ID[=size][:place][@begin[-end]][~ramp], times in seconds: F03=100, F06=5:module:0.0.1@60, "
        "L01=2:frames@10-20.\nAt the start: petqc simulate --fault; live: petqc fault add; at a rate, or over days: "
        "a scenario, petqc scenarios.\n"
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0, or 2 for what cannot be done as asked."""
    given = parser().parse_args(arguments)
    collect_seldom()
    from petqc_simulators.profile import ProfileError

    try:
        if given.command == "serve":
            return _serve(given)
        if given.command == "replay":
            return _replay(given)
        if given.command == "scenarios":
            return _scenarios(given)
        if given.command == "faults":
            return _faults(as_json=given.json)
        from petqc_simulators.recording import write_recording

        written = write_recording(
            given.prefix,
            given.profile or "bench",
            1 if given.seed is None else given.seed,
            given.seconds,
            faults=given.fault,
            source=given.source,
        )
        sys.stdout.write(f"{written['recording']}: {written['hits']} hits in {written['seconds']:.3f} s\n")
    except (ProfileError, ValueError) as error:
        return _refused(given, str(error))
    except OSError as error:
        return _refused(given, f"{error.filename or given.command}: {error.strerror}")
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _refused(given: argparse.Namespace, why: str) -> int:
    name = {"serve": "petqc simulate", "replay": "petqc replay"}.get(given.command, "petqc_simulators")
    sys.stderr.write(f"{name}: {why}\n")
    if given.command in {"serve", "replay"} and given.json:
        sys.stdout.write(json.dumps({"code": "simulator-refused", "error": why}) + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
