"""`petqc-safe`: what becomes of bias outputs when the daemon is gone for good. No web server, database or plugins.

It reads the one small file that the daemon keeps of its outputs and does with each that is not known to be off what
`on_daemon_loss` says: `ramp_off` (down by its ramp, then off), `off` (at once), or `hold` (nothing). Nothing is ever
switched on or raised, and nothing else of petqc has to work for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from petqcd import places
from petqcd.errors import EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE, StoreError
from petqcd.off import outputs
from petqcd.off.safe_state import SafeState, outputs_off, worst

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petqcd.off.outputs import Output


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the policies say; 0: everything is as they say, 3: something could not be confirmed, 2: wrong use."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="petqc-safe: %(message)s", stream=sys.stderr)
    if given.state_dir is None:
        return _refused("say which state directory: --state-dir DIR")
    state_dir = given.state_dir.absolute()
    if not state_dir.is_dir():
        return _refused(f"{state_dir}: no such directory")
    descriptor = -1
    try:
        descriptor = places.hold(state_dir)
    except StoreError as error:
        return _refused(f"{error}; a running daemon is told by: petqc off")
    except OSError as error:  # a disk that cannot be written must not keep outputs on
        sys.stderr.write(f"petqc-safe: {error}; going on without the lock\n")
    try:
        return _work(state_dir, as_json=given.json)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="petqc-safe", description=(__doc__ or "").split("\n", 1)[0])
    default = os.environ.get("PETQC_STATE_DIR") or os.environ.get("STATE_DIRECTORY", "").split(":")[0] or None
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        default=None if default is None else Path(default),
        help="of the daemon; default: $PETQC_STATE_DIR, $STATE_DIRECTORY",
    )
    parser.add_argument("--json", action="store_true", help="results as JSON on stdout")
    return parser


def _refused(why: str) -> int:
    sys.stderr.write(f"petqc-safe: {why}\n")
    return EXIT_USAGE


def _work(state_dir: Path, *, as_json: bool) -> int:
    known = outputs.read(state_dir)
    if known.why:
        sys.stderr.write(f"petqc-safe: {known.why}\n")
    left = [one for one in known.outputs if one.may_be_on and one.on_daemon_loss == "hold"]
    acted_on = [one for one in known.outputs if one.may_be_on and one.on_daemon_loss != "hold"]
    outcomes = asyncio.run(outputs_off(acted_on, ramp=True))
    kept = True
    try:
        outputs.write_after_off(state_dir, known.outputs, {one.device: one.output for one in outcomes})
    except OSError as error:  # off is off, whatever comes of this
        sys.stderr.write(f"petqc-safe: what is known now could not be kept: {error}\n")
        kept = False
    lines = [_left(one) for one in left] + [f"{one.device}: {one.state}: {one.told}" for one in outcomes]
    if as_json:
        document = {
            "state": str(worst(outcomes)),
            "devices": [one.document() for one in outcomes],
            "held": [one.name for one in left],
            "warning": known.why,
        }
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines) or "no bias output is known to be on\n")
    unread = bool(known.why) and not known.outputs
    return EXIT_OK if kept and not unread and worst(outcomes) is SafeState.IN_SAFE_STATE else EXIT_UNREACHABLE


def _left(output: Output) -> str:
    at = "" if output.volts is None else f" at {output.volts:g} V"
    return f"{output.name}: left as it is, last known {output.state}{at} (on_daemon_loss = hold)"


if __name__ == "__main__":
    sys.exit(main())
