"""`petqc demo --once`: one command, the whole way over the wire, and a verdict that agrees with what was planted."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from petqc.compare import compare
from petqc.formats.bundle import read_bundle
from petqc.formats.petsys_raw import RawReader
from petqc.formats.wire_log import WireEvent, WireLogReader
from petqc.results import Run
from petqc_drivers.petsys.wire import REPLY_MARK, Command, Reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PULL = 4.5
"""Sigmas: of a dozen comparisons none is further out but once in ten thousand runs."""


def check(document: dict[str, Any], id_: str, node: str = "scanner") -> dict[str, Any]:
    found = [c for c in document["checks"] if (c["id"], c["node"]) == (id_, node)]
    assert len(found) == 1, (id_, node)
    assert found[0]["value"] is not None, found[0]["reason"]
    return found[0]


def test_a_healthy_bench_passes_and_says_that_it_is_simulated(demo: Any) -> None:
    assert demo.document["verdict"] == "pass", demo.document["sentence"]
    assert demo.done.code == 0
    assert demo.document["simulated"] is True
    assert demo.document["kind"] == "daily"
    assert [(p["kind"], p["verdict"]) for p in demo.document["parts"]] == [("housekeeping", "pass"), ("source", "pass")]
    stages = re.findall(r"^daily QC, simulated: source, part 2 of 2: (\w+)", demo.done.err, re.MULTILINE)
    assert stages == ["connect", "configure", "bias", "acquire", "off", "analyse"]


@pytest.mark.parametrize(
    ("id_", "planted"),
    [
        ("photopeak", "photopeak_kev"),
        ("energy_resolution", "energy_resolution_percent"),
        ("ctr_fit", "ctr_fwhm_ps"),
    ],
)
def test_values_agree_with_the_truth_within_their_uncertainties(demo: Any, id_: str, planted: str) -> None:
    result = check(demo.document, id_)
    assert result["uncertainty"] > 0
    assert abs(result["value"] - demo.truth["scanner"][planted]) < PULL * result["uncertainty"]


def test_no_frame_is_lost_and_the_account_adds_up(demo: Any) -> None:
    account = demo.document["account"]
    assert account["frames_received"] == account["frames_recorded"] + account["frames_dropped"]
    assert account["frames_dropped"] == 0
    assert account["frames_missing"] == 0
    assert account["frames"] == account["frames_recorded"]
    assert account["datagrams_rejected"] == 0
    assert not any("do not add up" in note for note in demo.document["notes"])


def test_the_recording_is_whole_and_readable(demo: Any) -> None:
    assert not list(demo.source.glob("*.partial"))
    with RawReader(demo.source / "recording.rawf") as reader:
        assert reader.header.trigger_id == 1
        assert reader.header.all_charge
        (step,) = reader.steps
        assert step.frames == demo.document["account"]["frames_recorded"]
        n_words = sum(block.size for block in reader.blocks())
        assert reader.damage is None
    assert n_words > demo.document["account"]["hits"]
    (raw,) = demo.document["raw_files"]
    assert raw["name"] == f"../{demo.source.name}/recording.rawf"
    assert demo.document["where"]["recording"] == str(demo.source / "recording.rawf")
    assert re.fullmatch(r"[0-9a-f]{64}", raw["sha256"])


def test_the_run_folder_has_everything_that_made_the_result(demo: Any) -> None:
    run = Run.load(demo.folder)
    assert run.document() == {k: v for k, v in demo.document.items() if k != "where"}
    assert run.spectra
    assert len(run.channels["channel"]) == 512
    assert (demo.source / "config" / "config.ini").is_file()
    page = (demo.folder / "report.html").read_text()
    assert run.sentence.split(":")[0] in page
    assert demo.document["where"]["report"] == str(demo.folder / "report.html")
    assert {e["quality"] for e in demo.document["environment"]} <= {"good", "uncertain", "bad"}
    names = {e["name"] for e in demo.document["environment"]}
    assert any(n.startswith("temperature") for n in names)
    commanded = [e for e in demo.document["environment"] if e["unit"] == "V"]
    assert commanded
    assert not any(e["measured"] for e in commanded)  # these supplies cannot be read back


def test_bias_was_off_afterwards_and_read_back(demo: Any) -> None:
    assert "After the run: bias is off, read back from the board." in demo.document["notes"]


def test_the_recording_analysed_again_gives_the_same_numbers(demo: Any, petqc: Callable[..., Any]) -> None:
    recording, config = str(demo.source / "recording.rawf"), str(demo.source / "config" / "config.ini")
    again = petqc("analyse", recording, "--config", config, "--json").json()
    for id_ in ("photopeak", "energy_resolution", "ctr_fit"):
        assert check(again, id_)["value"] == pytest.approx(check(demo.document, id_)["value"], rel=1e-9)


def test_the_bundle_is_whole_and_has_every_command_with_its_answer(demo: Any, petqc: Callable[..., Any]) -> None:
    done = petqc("bundle", "check", demo.source.name, "--state-dir", str(demo.state_dir), "--json")
    assert (done.code, done.json()["is_whole"]) == (0, True), done.out
    found = read_bundle(demo.source)
    assert found.about["simulator"]["profile"] == "bench"
    (wire,) = found.wires
    assert (wire.device, wire.kind, wire.transport, wire.dropped) == ("board", "petsys-udp", "udp", 0)
    with WireLogReader(demo.source / wire.file) as log:
        records = list(log.records())
    sent, received = ([r for r in records if r.event is e] for e in (WireEvent.SENT, WireEvent.RECEIVED))
    assert len(sent) >= len(received) > 1000
    commands = {Command.from_bytes(r.payload).serial for r in sent[1:]}
    assert {Reply.from_bytes(r.payload).short_serial for r in received if r.payload[0] == REPLY_MARK} <= commands
    assert [r.monotonic_ns for r in records] == sorted(r.monotonic_ns for r in records)
    lines = (demo.source / "environment.jsonl").read_text().splitlines()
    assert any(json.loads(line)["name"].startswith("temperature") for line in lines)


def test_the_bundle_analysed_again_gives_the_same_bytes_and_the_values_of_the_run(
    demo: Any, petqc: Callable[..., Any], tmp_path: Path
) -> None:
    """In how many threads the machine adds up does not matter, nor from where the bundle is read."""
    moved = tmp_path / "moved"
    shutil.copytree(demo.source, moved)
    for name, bundle, threads in (("a", str(demo.source), "1"), ("b", str(moved), "2")):
        env = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = petqc("analyse", bundle, "-o", str(tmp_path / name), env=env)
        assert done.code == 0, done.err
    for name in ("run.json", "channels.parquet", "spectra.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    run, again = Run.load(demo.source), Run.load(tmp_path / "a")
    assert again.reanalysis_of == run.run_id
    found = compare(run, again)
    assert found.n_same == len(found.differences) > 100
    assert found.remarks == ["the second is a re-analysis of the first"]
    assert {k: v for k, v in run.account.items() if again.account[k] != v} == {}
    assert again.environment == run.environment


def test_the_recording_converts_to_the_pairs_that_were_counted(
    demo: Any, petqc: Callable[..., Any], tmp_path: Path
) -> None:
    recording, config = str(demo.source / "recording.rawf"), str(demo.source / "config" / "config.ini")
    out = tmp_path / "pairs"
    done = petqc("convert", recording, "--to", "coincidences", "--config", config, "-o", str(out), "--json")
    assert done.code == 0, done.err
    assert done.json()["records"] == demo.document["account"]["prompts"]
    assert out.with_suffix(".ldat").stat().st_size > 0
    told = petqc("convert", recording, "--to", "singles", "--config", config, "-o", str(tmp_path / "s"), "--text")
    assert re.search(r"^\d+ singles in ", told.out)
    assert petqc("convert", recording, "--to", "pairs", "--config", config, "-o", str(out)).code == 2


def test_the_history_can_be_read_afterwards_without_a_daemon(demo: Any, petqc: Callable[..., Any]) -> None:
    state = ("--state-dir", str(demo.state_dir))
    history = petqc("history", "--json", *state)
    ids = [demo.document["run_id"], *(p["run_id"] for p in demo.document["parts"])]
    assert [r["run_id"] for r in history.json()["runs"]] == ids[::-1]
    shown = petqc("show", "last", *state)
    assert shown.code == 0
    for wanted in ("SIMULATED", "Photopeak", "CTR", "±", "✔ pass", "report.html"):
        assert wanted in shown.out
    assert "no daemon answers" in shown.err
    assert petqc("status", *state).code == 3
    assert petqc("show", "no-such-run", *state).code == 2


@pytest.mark.slow
def test_a_fault_is_found_and_ends_with_its_exit_code(tmp_path: Path, petqc: Callable[..., Any]) -> None:
    # A quarter of all frames lost: nothing subtle, the point is the way from the fault to the exit code.
    done = petqc(
        "demo", "--once", "--seconds", "4", "--fault", "F19=25", "--json", "--state-dir", str(tmp_path / "state")
    )
    document = done.json()
    assert document["verdict"] == "fail", document["sentence"]
    assert done.code == 1
    assert check(document, "lost_frames")["status"] == "fail"


def test_a_fault_that_does_not_exist_is_wrong_use(tmp_path: Path, petqc: Callable[..., Any]) -> None:
    for fault, said in (("X1", "--fault 'X1'"), ("F99", "fault 'F99' is not known")):
        done = petqc("demo", "--once", "--fault", fault, "--state-dir", str(tmp_path / "state"))
        assert done.code == 2
        assert said in done.err


@pytest.mark.parametrize("in_mid_run", [False, True])
def test_without_once_it_serves_until_ctrl_c(tmp_path: Path, in_mid_run: bool, command: list[str]) -> None:  # noqa: FBT001
    seconds, wanted = ("60", "acquire") if in_mid_run else ("2", "serving on")
    process = subprocess.Popen(
        [*command, "demo", "--seconds", seconds, "--state-dir", str(tmp_path / "state")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    with process, process.stdout, process.stderr:
        for line in process.stderr:
            if wanted in line:
                break
        if not in_mid_run:
            address = line.split("serving on ")[1].split()[0]
            with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:  # noqa: S310 - our own address
                assert b"petqc_run_verdict" in answer.read()
        process.send_signal(signal.SIGINT)
        out, err = process.stdout.read(), process.stderr.read()
        code = process.wait(30)
    if in_mid_run:
        assert code == 4, err
        assert "the daemon was stopped" in out
        assert "bias is off, read back from the board" in out
    else:
        assert code in (0, 1), err  # the verdict of two seconds of data; what counts here is the orderly end
    assert "Traceback" not in err
    assert not (tmp_path / "state" / "petqcd.sock").exists()
