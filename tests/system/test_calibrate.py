"""The daemon dies in mid-calibration: the points survive, the next daemon continues, and the set is used."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from petqc.formats.petsys_config import load_config
from petqc_simulators.physics.detector import BASELINE_STEPS, THRESHOLD_NOISE_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARAMETERS = {"channels": [0, 0]}


def follow_points(client: Any, wanted: int) -> str:
    """Start a calibration and follow it until so many points are taken; returns its id."""
    with closing(client.events()) as events:
        next(events)
        run_id = client.post("/api/v1/runs", {"kind": "calibrate-tdc", "parameters": PARAMETERS})["run_id"]
        for name, data in events:
            assert name not in {"finished", "lost"}, data
            if name == "progress" and data["counts"].get("points_done", 0) >= wanted:
                return str(run_id)
    raise AssertionError("the daemon closed the stream of events")


@pytest.mark.slow
def test_sigkill_of_the_daemon_in_mid_calibration(
    tmp_path: Path, serve: Callable[..., Any], petqc: Callable[..., Any]
) -> None:
    with serve(tmp_path, seconds=1.0) as daemon:
        assert daemon.petqc("status", "--wait-ready").code == 0
        killed = follow_points(daemon.client, 10)
        os.kill(daemon.process.pid, signal.SIGKILL)
        daemon.process.wait()

    with serve(tmp_path, seconds=1.0) as daemon:
        assert daemon.petqc("status", "--wait-ready").code == 0
        document = daemon.client.get(f"/api/v1/runs/{killed}")
        assert document["verdict"] == "invalid"
        assert "interrupted" in document["sentence"]
        assert [f["name"] for f in document["raw_files"]] == ["points.rawf", "points.idxf"]
        assert any(f"continue with: petqc calibrate tdc --resume {killed}" in note for note in document["notes"])

        refused = daemon.petqc("calibrate", "tdc", "--channels", "0-1", "--resume", killed)
        assert refused.code == 2
        assert "the plan has other channels" in refused.err

        assert daemon.petqc("status", "--wait-ready").code == 0
        done = daemon.petqc("calibrate", "tdc", "--channels", "0-0", "--resume", "last", "--json")
        assert done.code == 1, done.err  # most channels are not in the plan
        run = done.json()
        account = run["account"]
        assert account["points_continued"] >= 10
        assert account["points"] + account["points_continued"] == account["points_planned"]
        assert account["frames_received"] == account["frames_recorded"] + account["frames_dropped"]
        made = run["calibration_set"]
        own = load_config(daemon.state_dir / "simulator" / "board" / "config")
        fitted = load_config(daemon.state_dir / "sets" / made["id"])
        assert rms_difference_ps(own.require("tdc"), fitted.require("tdc")) < 10.0

        refused = daemon.petqc("calibration", "accept", made["id"])
        assert refused.code == 2
        assert "fail" in refused.err
        assert daemon.petqc("calibration", "accept", made["id"], "--force", "to see it used").code == 0
        listed = daemon.petqc("calibration", "list", "--json").json()["sets"]
        assert [(s["id"], s["in_use"]) for s in listed] == [(made["id"], "board")]
        assert daemon.petqc("calibration", "verify").code == 0
        daily = daemon.petqc("run", "daily", "--wait", "--json").json()
        assert daily["calibration_ids"]["set"] == made["id"]
        recording = daily["where"]["recording"]
        state = str(daemon.state_dir)
        again = petqc("analyse", recording, "--calibration", made["id"], "--state-dir", state, "--json")
        assert again.json()["calibration_ids"]["set"] == made["id"]


def rms_difference_ps(true: Any, found: Any) -> float:
    """Of the times that two calibrations make of the same codes, over the range, means of each branch aside."""
    names = ["port", "slave", "chip", "channel", "tac", "branch"]
    index = {tuple(line[n] for n in names): line for line in true}
    differences: dict[int, list[float]] = {0: [], 1: []}
    for line in found:
        other = index[tuple(line[n] for n in names)]
        for q in (0.6, 0.8, 1.0, 1.2, 1.4):
            code = line["a0"] + line["a1"] * q + line["a2"] * q * q
            differences[int(line["branch"])].append(time_ps(other, code) - time_ps(line, code))
    return float(np.sqrt(np.mean([np.var(d) for d in differences.values()])))


def time_ps(line: Any, code: float) -> float:
    root = np.sqrt(line["a1"] ** 2 - 4 * (line["a0"] - code) * line["a2"])
    return float(-5000.0 * (2 * (code - line["a0"]) / (line["a1"] + root) + line["t0"]))


@pytest.mark.slow
def test_thresholds_of_the_simulated_bench_are_found(tmp_path: Path, serve: Callable[..., Any]) -> None:
    with serve(tmp_path, seconds=1.0) as daemon:
        assert daemon.petqc("status", "--wait-ready").code == 0
        few = ("--channels", "0-0", "--set", "settle_windows=0", "--set", "code_step=2")
        done = daemon.petqc("calibrate", "threshold", *few, "--json")
        assert done.code == 1, done.err  # most channels are not in the plan
        run = done.json()
        assert run["account"]["points"] == run["account"]["points_planned"] == 3 * 32
        assert [f["name"] for f in run["raw_files"]] == ["points.jsonl"]
        own = load_config(daemon.state_dir / "simulator" / "board" / "config").require("disc_calibration")
        found = load_config(daemon.state_dir / "sets" / run["calibration_set"]["id"]).require("disc_calibration")
    assert found["chip"].tolist() == list(range(8))
    own = own[own["channel"] == 0]
    for name, trim, steps in (("t1", "t", 0), ("t2", "t", 0), ("e", "e", 1)):
        moved = BASELINE_STEPS[steps] * (found[f"baseline_{trim}"] - own[f"baseline_{trim}"])
        column = found[f"zero_{name}"] - own[f"zero_{name}"] - moved
        assert np.abs(column).max() < 0.01  # 20 standard errors
        assert np.abs(found[f"noise_{name}"] - THRESHOLD_NOISE_STEPS).max() < 0.01
