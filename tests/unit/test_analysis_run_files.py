"""A run survives its files; damage is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from petqc.errors import BadInputError
from petqc.limits import Limits, Status
from petqc.results import ChannelColumn, CheckResult, EnvironmentReading, Hypothesis, RawFile, Run, Spectrum
from petqc.run_files import load_run, save_run


def a_run() -> Run:
    edges = np.linspace(0.0, 10.0, 6)
    counts = np.array([0.0, 3.0, 9.0, 2.0, 1.0])
    return Run(
        run_id="r1",
        kind="daily",
        started_at="2026-01-01T06:00:00Z",
        finished_at="2026-01-01T06:01:00Z",
        simulated=True,
        verdict=Status.WARN,
        sentence="Scan, but look at channel 3.",
        software={"petqcd": "0.1.0"},
        config_hash="abc",
        calibration_ids={"tdc": "1"},
        raw_files=[RawFile("a.rawf", "00")],
        environment=[EnvironmentReading("temperature", "module:0.0.0", 21.5, "degC", True, "good", 1.0)],
        checks=[
            CheckResult.measured("photopeak", "scanner", 510.5, "keV", 0.2, 900, Limits(490, 500, 520, 530)),
            CheckResult.missing("ctr_fit", "scanner", "ps", 3, Limits(), "3 pairs are too few"),
        ],
        diagnosis=[Hypothesis("F01", "channel:0.0.0.3", 0.9, ("no counts",), "swap it")],
        account={"frames": 10, "live_time_s": 0.5},
        notes=["a note"],
        channels={
            "channel": np.array([0, 1, 3], np.int32),
            "module": np.array(["module:0.0.0"] * 3, dtype=object),
            "column": np.array([0, 1, 2], np.int16),
        },
        columns=[
            ChannelColumn(
                "photopeak",
                "keV",
                np.array([510.0, np.nan, 511.25]),
                np.array([1.0, np.nan, 1.5]),
                np.array([100, 0, 90]),
                np.array(["pass", "invalid", "pass"], dtype=object),
                np.array(["", "no counts", ""], dtype=object),
            )
        ],
        spectra=[
            Spectrum("energy", "scanner", "energy", "keV", edges, counts, window=(2.0, 8.0), text="all"),
            Spectrum("tof", "scanner", "dt", "ps", edges, counts, np.full(5, np.nan), counts * 0, counts),
        ],
        scanner="bench",
    )


def test_everything_comes_back(tmp_path):
    run = a_run()
    save_run(run, tmp_path)
    back = load_run(tmp_path)
    assert back.document() == run.document()
    assert list(back.channels) == list(run.channels)
    for name, values in run.channels.items():
        assert back.channels[name].dtype == values.dtype
        assert (back.channels[name] == values).all()
    (column,) = back.columns
    np.testing.assert_array_equal(column.value, run.columns[0].value)
    np.testing.assert_array_equal(column.uncertainty, run.columns[0].uncertainty)
    assert column.unit == "keV"
    assert column.n.dtype == np.int64
    assert list(column.status) == ["pass", "invalid", "pass"]
    assert list(column.reason) == ["", "no counts", ""]
    energy, tof = back.spectra
    assert energy.window == (2.0, 8.0)
    assert energy.fit is None
    assert energy.text == "all"
    assert tof.fit is not None
    assert np.isnan(tof.fit).all()
    np.testing.assert_array_equal(tof.delayed, run.spectra[1].delayed)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        a_run().save(tmp_path / name)
    for name in ("run.json", "channels.parquet", "spectra.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["channels.parquet", "run.json", "spectra.parquet"]


def test_an_empty_run_comes_back(tmp_path):
    run = a_run()
    run.channels, run.columns, run.spectra = {}, [], []
    save_run(run, tmp_path)
    back = Run.load(tmp_path)
    assert (back.channels, back.columns, back.spectra) == ({}, [], [])


def test_refusals_name_the_place(tmp_path):
    with pytest.raises(BadInputError, match="no such folder"):
        save_run(a_run(), tmp_path / "nowhere")
    with pytest.raises(BadInputError, match=r"run\.json: no run here"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text("{not json")
    with pytest.raises(BadInputError, match="not a run document"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(BadInputError, match="no object"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": "petqc-run/1"}')
    with pytest.raises(BadInputError, match="lacks"):
        load_run(tmp_path)
    save_run(a_run(), tmp_path)
    (tmp_path / "channels.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(BadInputError, match=r"channels\.parquet"):
        load_run(tmp_path)


def test_columns_of_other_lengths_are_refused(tmp_path):
    run = a_run()
    run.columns = [replace(run.columns[0], n=np.array([1]))]
    with pytest.raises(BadInputError, match=r"photopeak\.n has 1 rows, not 3"):
        save_run(run, tmp_path)
    assert not (tmp_path / "run.json").exists()
