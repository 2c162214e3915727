"""Command line of the simulators: python -m petqc_simulators serve ..."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path


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


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    from petqc_simulators.faults import KINDS

    top = argparse.ArgumentParser(prog="petqc_simulators", description="Simulated detectors on their real wire.")
    commands = top.add_subparsers(dest="command", required=True)
    faults = "; ".join(f"{k.id} {k.title} ({k.size_means}, {k.default_size:g})" for k in KINDS.values())
    serve = commands.add_parser("serve", help="a board on UDP, or behind the daemon's socket")
    record = commands.add_parser("record", help="a recording, as fast as it goes")
    for command in (serve, record):
        command.add_argument("--profile", default="bench", help="name of a profile or path of a .toml file")
        command.add_argument("--seed", type=_seed, default=1, help="the individual detector")
        command.add_argument("--source", choices=("na22", "ge68", "none"), help="default: the profile's")
        command.add_argument(
            "--fault", action="append", default=[], metavar="ID[=size][@seconds]", help=f"may be repeated: {faults}"
        )
    serve.add_argument(
        "--listen", default="udp://127.0.0.1:0", help="udp://HOST:PORT, port 0 for any free one; or unix:/PATH"
    )
    serve.add_argument("--shared-memory", default="/daqd_shm", help="name of the frame ring, with unix:/PATH")
    serve.add_argument("--state-dir", type=Path, required=True, help="configuration, truth and state go here")
    serve.add_argument("--speed", type=_speed, default=1.0, help="simulated seconds per second")
    serve.add_argument("--until-stdin-closes", action="store_true", help="end when standard input ends")
    record.add_argument("--seconds", type=float, default=15.0, help="length")
    record.add_argument("prefix", type=Path, help="path of the recording without suffix")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0, or 2 for what cannot be done as asked."""
    given = parser().parse_args(arguments)
    from petqc_simulators.profile import ProfileError

    try:
        if given.command == "serve":
            from petqc_simulators.server import ServeSettings, serve

            return serve(
                ServeSettings(
                    profile=given.profile,
                    seed=given.seed,
                    listen=given.listen,
                    state_dir=given.state_dir,
                    speed=given.speed,
                    source=given.source,
                    faults=given.fault,
                    until_stdin_closes=given.until_stdin_closes,
                    shared_memory=given.shared_memory,
                )
            )
        from petqc_simulators.recording import write_recording

        written = write_recording(
            given.prefix, given.profile, given.seed, given.seconds, faults=given.fault, source=given.source
        )
        sys.stdout.write(f"{written['recording']}: {written['hits']} hits in {written['seconds']:.3f} s\n")
    except (ProfileError, ValueError) as error:
        sys.stderr.write(f"petqc_simulators: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"petqc_simulators: {error.filename or given.command}: {error.strerror}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
