"""A run in other tools' forms: nothing invented, nothing lost, and the QATrack+ contract over a real socket."""

from __future__ import annotations

import csv
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest
from tests.unit.run_documents import usual_run

from petqc.errors import BadInputError
from petqc.exports import tables, wad_qc
from petqc.exports.qatrack import performed_test_list
from petqc.limits import Limits, Status
from petqc.results import CheckResult, Run
from petqcd.config import QatrackConfig
from petqcd.errors import ConfigError, RefusedError, UnreachableError
from petqcd.qatrack import post

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = Limits(fail_low=495.7, warn_low=505.9, warn_high=516.1, fail_high=526.3)


def a_run(*, simulated: bool = True) -> Run:
    return usual_run(
        run_id="2026-03-02-0001",
        finished_at="2026-03-02T06:05:12+00:00",
        simulated=simulated,
        verdict=Status.INVALID,
        sentence="Not measured: CTR (fit): too few pairs, 12 of 200.",
        checks=[
            CheckResult.measured("photopeak", "scanner", 510.1 + 0.2, "keV", 0.1, 1000, LIMITS),
            CheckResult.measured("photopeak", "module:0.0.1", 530.0, "keV", 0.2, 500, LIMITS),
            CheckResult.measured("photopeak", "asic:0.0.5", 530.0, "keV", 0.2, 100, LIMITS),
            CheckResult.missing("ctr_fit", "scanner", "ps", 12, Limits(), "too few pairs, 12 of 200"),
        ],
    )


def test_csv_and_parquet_hold_every_value_with_all_its_digits(tmp_path: Path) -> None:
    assert tables.write_csv([a_run()], tmp_path / "r.csv") == 4
    assert tables.write_parquet([a_run()], tmp_path / "r.parquet") == 4
    with (tmp_path / "r.csv").open(newline="") as file:
        from_csv = list(csv.DictReader(file))
    from_parquet = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [float(row["value"]) if row["value"] else None for row in from_csv] == [row["value"] for row in from_parquet]
    assert from_parquet[0]["value"] == 510.1 + 0.2
    assert (from_csv[0]["simulated"], from_parquet[0]["simulated"]) == ("true", True)
    assert from_csv[3]["value"] == ""
    assert from_csv[3]["reason"] == "too few pairs, 12 of 200"
    assert from_parquet[1]["fail_high"] == 526.3
    assert not list(tmp_path.glob("*.partial"))


def test_wad_qc_names_values_limits_and_what_has_no_number() -> None:
    results = {r["name"]: r for r in wad_qc.results(a_run())}
    assert results["photopeak module:0.0.1"] == {"category": "float", "name": "photopeak module:0.0.1", "val": 530.0}
    assert results["simulated"]["val"] is True
    assert results["verdict"]["val"] == "invalid"
    assert results["ctr_fit reason"]["val"] == "too few pairs, 12 of 200"
    assert "ctr_fit" not in results
    assert not any("asic" in name for name in results)
    described = wad_qc.meta(a_run())["results"]
    assert described["photopeak"]["constraint_minlowhighmax"] == [495.7, 505.9, 516.1, 526.3]
    assert "constraint_minlowhighmax" not in described["ctr_fit"]


def test_the_time_of_wad_qc_is_that_on_the_wall_of_the_scanner() -> None:
    """As a scanner writes it into its images; another time would stand hours off beside them."""
    for started, shown in (
        ("2026-03-02T06:00:00+00:00", "2026-03-02 07:00:00"),
        ("2026-07-02T23:30:00+00:00", "2026-07-03 01:30:00"),
    ):
        first = wad_qc.results(replace(a_run(), started_at=started), ZoneInfo("Europe/Amsterdam"))[0]
        assert first == {"category": "datetime", "name": "AcquisitionDateTime", "val": shown}


TESTS = {"peak": "photopeak", "peak_1": "photopeak@module:0.0.1", "ctr": "ctr_fit", "verdict": "verdict"}


def test_a_performed_test_list_skips_what_was_not_measured_and_says_simulated() -> None:
    body = performed_test_list(a_run(), unit_test_collection="https://q.example/api/qa/7/", tests=TESTS)
    assert body["tests"]["peak_1"]["value"] == 530.0
    assert body["tests"]["ctr"] == {"skipped": True, "comment": "too few pairs, 12 of 200"}
    assert body["tests"]["verdict"] == {"value": "invalid"}
    assert body["comment"].startswith("SIMULATED. ")
    assert body["work_started"].endswith("+00:00")
    assert not performed_test_list(a_run(simulated=False), unit_test_collection="u", tests=TESTS)["comment"].startswith(
        "SIMULATED"
    )
    with pytest.raises(BadInputError, match=r"no check 'peaks'.*photopeak"):
        performed_test_list(replace(a_run(), verdict=Status.FAIL), unit_test_collection="u", tests={"peak": "peaks"})


@contextmanager
def qatrack_server(tests: set[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The API's contract: 201 once, 400 for a repeated key, a missing test or a text for a number, 401 for a token."""
    performed: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = self._judge(body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _judge(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            if self.headers["Authorization"] != "Token abc123":
                return 401, {"detail": "Invalid token."}
            if self.path != "/api/qa/testlistinstances/":
                return 404, {"detail": "Not found."}
            if body["user_key"] in {p["user_key"] for p in performed}:
                return 400, {"user_key": ["test list instance with this user key already exists."]}
            if missing := tests - set(body["tests"]):
                return 400, {"non_field_errors": [f"Missing data for tests: {', '.join(sorted(missing))}"]}
            performed.append(body)
            return 201, {"site_url": "http://q.example/qa/session/details/1/"}

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api", performed
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings(tmp_path: Path, url: str, token: str = "abc123", mode: int = 0o600) -> QatrackConfig:  # noqa: S107
    path = tmp_path / "token"
    path.write_text(token + "\n")
    path.chmod(mode)
    return QatrackConfig(url=url, token_file=path, unit_test_collection="u", tests=TESTS)


def test_a_run_is_performed_once_on_the_server(tmp_path: Path) -> None:
    with qatrack_server(set(TESTS)) as (url, performed):
        first = post(settings(tmp_path, url), a_run())
        assert first == {
            "uploaded": True,
            "told": "performed on the server: http://q.example/qa/session/details/1/",
        }
        assert post(settings(tmp_path, url), a_run())["uploaded"] is False
        assert [p["user_key"] for p in performed] == ["2026-03-02-0001"]


def test_refusals_and_silence_are_told(tmp_path: Path) -> None:
    with qatrack_server({"more"}) as (url, performed):
        with pytest.raises(RefusedError, match="Missing data for tests: more"):
            post(settings(tmp_path, url), a_run())
        with pytest.raises(RefusedError, match="refused with 401"):
            post(settings(tmp_path, url, token="wrong"), a_run())  # noqa: S106
        assert not performed
    with pytest.raises(UnreachableError, match="does not answer"):
        post(settings(tmp_path, url), a_run())


@pytest.mark.parametrize(("token", "mode", "told"), [("abc", 0o644, "chmod 600"), ("", 0o600, "one line with a token")])
def test_a_token_that_others_can_read_or_that_is_none_is_refused(
    tmp_path: Path, token: str, mode: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        post(settings(tmp_path, "http://127.0.0.1:9/api", token, mode), a_run())


@pytest.mark.parametrize("verdict", [Status.MISSED, Status.INVALID])
def test_the_server_hears_of_a_day_that_was_not_measured(verdict: Status) -> None:
    run = usual_run(verdict=verdict, sentence="Missed: the daemon was not running.")
    tests = performed_test_list(run, unit_test_collection="u", tests=TESTS)["tests"]
    assert {"skipped": True, "comment": run.sentence} in tests.values()
    assert {"value": str(verdict)} in tests.values()
    with pytest.raises(BadInputError, match="has no check"):
        performed_test_list(usual_run(), unit_test_collection="u", tests=TESTS)
