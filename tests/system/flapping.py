"""A real broker that comes and goes while runs are stored: what a subscriber with a lasting session has at the end.

`python -m tests.system.flapping --seconds 60` is the long one; CI has a few restarts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.system.broker import LASTING, Broker
from tests.system.test_mqtt import daemon, subscriber, value
from tests.unit.histories import claimed_and_stored

EVERY_S = 0.03
"""From one run to the next."""
PATIENCE_S = 120.0
"""After the flapping, until everything has arrived."""


async def flap(
    folder: Path, board_config: Path, *, seconds: float, up_s: float, down_s: float, seed: int, least: int = 0
) -> dict[str, Any]:
    """Let a broker come and go for so long; what came of it, in numbers.

    Args:
        folder: for the broker and the daemon.
        board_config: of a readout that is not there.
        seconds: of flapping.
        up_s: how long the broker lives each time, on average; every other time it is killed, else told to end.
        down_s: how long it is away, on average.
        seed: of the times.
        least: restarts, however long they take.
    """
    chance = random.Random(seed)
    broker = Broker(folder, LASTING)
    broker.start()
    restarts, stored = 0, 0
    try:
        async with subscriber(broker) as logger, daemon(folder, board_config, broker) as d:
            began_s = time.monotonic()
            next_s, is_up = began_s + up_s, True
            while (now_s := time.monotonic()) - began_s < seconds or restarts < least or not is_up:
                if now_s >= next_s:
                    if is_up:
                        broker.stop(signal.SIGKILL if restarts % 2 else signal.SIGTERM)
                    else:
                        broker.start()
                        restarts += 1
                    is_up = not is_up
                    next_s = time.monotonic() + chance.uniform(0.5, 1.5) * (up_s if is_up else down_s)
                await claimed_and_stored(d.store, f"run-{stored:05}")
                stored += 1
                await asyncio.sleep(EVERY_S)
            ended_s = time.monotonic()
            wanted = [f"run-{number:05}" for number in range(stored)]
            results = lambda: logger.of("run/daily/result")  # noqa: E731 - one expression
            while time.monotonic() - ended_s < PATIENCE_S:
                got = {one["run_id"] for one in results()}
                if got == set(wanted) and value(d, "petqc_mqtt_outbox_messages") == 0:
                    break
                await asyncio.sleep(0.05)
            caught_up_s = time.monotonic() - ended_s
            waiting = value(d, "petqc_mqtt_outbox_messages")
    finally:
        broker.stop()
    by_id = {one["id"]: one["run_id"] for one in results()}
    first = list(dict.fromkeys(one["run_id"] for one in results()))
    return {
        "seconds": round(ended_s - began_s, 1),
        "restarts": restarts,
        "stored": stored,
        "messages": len(results()),
        "lost": sorted(set(wanted) - set(by_id.values())),
        "ids": len(by_id),
        "out_of_order": sum(a > b for a, b in itertools.pairwise(first)),
        "left_in_outbox": int(waiting),
        "caught_up_s": round(caught_up_s, 1),
    }


def main() -> int:
    """The long one."""
    from petqc_simulators.recording import write_recording

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--up", type=float, default=2.0, help="seconds that the broker lives, on average")
    parser.add_argument("--down", type=float, default=1.0, help="seconds that it is away, on average")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="petqc-flapping-") as name:
        folder = Path(name)
        config = folder / write_recording(folder / "r", "bench", 1, 0.05, truth_seconds=0)["config"]
        found = asyncio.run(
            flap(folder, config, seconds=given.seconds, up_s=given.up, down_s=given.down, seed=given.seed)
        )
    sys.stdout.write(json.dumps(found) + "\n")
    return int(bool(found["lost"] or found["left_in_outbox"] or found["ids"] != found["stored"]))


if __name__ == "__main__":
    sys.exit(main())
