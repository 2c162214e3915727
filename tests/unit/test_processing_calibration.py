"""Calibration functions: forward and inverse agree, tables land at their channel, what is missing is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from petqc.calibration import CalibrationSet, acquisition_of
from petqc.calibration.charge import (
    CODE_HIGH,
    CODE_LOW,
    charge_table,
    code_of_time,
    slope_at_time,
    time_of_code,
    time_of_code_newton,
)
from petqc.calibration.energy import charge_of_kev, kev_of_charge, linearised
from petqc.calibration.tdc import code_of_interval, interval_of_code, interval_of_code_vendor, interval_range
from petqc.calibration.time_offsets import apply_offset, centred, remove_offset
from petqc.errors import BadInputError
from petqc.formats.petsys_config import PetqcSection, load_config, write_config
from petqc.formats.petsys_frames import RawHeader
from petqc.formats.petsys_tables import TABLES

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def table(kind: Any, rows: list[tuple[Any, ...]]) -> NDArray[Any]:
    return np.array(rows, TABLES[kind].dtype)


def tdc_rows(n: int = 500) -> tuple[NDArray[np.float64], ...]:
    rng = np.random.default_rng(1)
    return rng.uniform(60, 110, n), rng.uniform(150, 250, n), rng.uniform(-20, -0.01, n)


def test_tdc_inverse_undoes_the_model() -> None:
    a0, a1, a2 = tdc_rows()
    for q in (0.5, 1.0, 1.5):
        code = code_of_interval(np.full(a0.size, q), a0, a1, a2)
        found = interval_of_code(code, a0, a1, a2)  # type: ignore[arg-type]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, q, atol=1e-6)  # 5 fs
        np.testing.assert_allclose(interval_of_code_vendor(code, a0, a1, a2), q, atol=6e-4)  # type: ignore[arg-type]


def test_tdc_inverse_of_a_straight_line() -> None:
    one = np.ones(1, np.float32)
    assert interval_of_code(300 * one, 100 * one, 200 * one, 0 * one)[0] == 1.0


def test_tdc_range_bounds_every_code() -> None:
    a0, a1, a2 = (x.astype(np.float32)[:, None] for x in tdc_rows())
    q = interval_of_code(np.arange(1024, dtype=np.float32), a0, a1, a2)
    low, high = interval_range(a0[:, 0], a1[:, 0], a2[:, 0])
    assert np.isnan(q).any()  # the curve turns before the last code for some
    assert (np.nanmin(q, axis=1) >= low).all()
    assert (np.nanmax(q, axis=1) <= high).all()


def charge_rows(n: int = 300) -> NDArray[np.float64]:
    rng = np.random.default_rng(2)
    p = np.zeros((n, 10))
    for power, span in enumerate(((60, 120), (2, 3.5), (-2e-3, -1e-4), (-4e-6, 1e-6))):
        p[:, power] = rng.uniform(*span, n)
    return p


def test_charge_table_is_the_inverse_where_the_curve_rises() -> None:
    p = charge_rows()
    curve = charge_table(p.astype(np.float32))
    assert curve.usable.all()
    t = np.arange(0, 400, 0.5)[:, None]
    code = code_of_time(t, p)
    row = np.broadcast_to(np.arange(p.shape[0]), code.shape)
    rising = np.minimum.accumulate(slope_at_time(t, p) / p[:, 1], axis=0)
    inside = (code <= curve.ends[:, CODE_HIGH]) & (code >= curve.ends[:, CODE_LOW])
    found = time_of_code(code.astype(np.float32).ravel(), row.ravel(), curve).reshape(code.shape)
    error = np.abs(found - t)
    assert error[inside & (rising > 0.3)].max() < 0.005
    assert error[inside & (rising > 0.12)].max() < 0.1  # a code is 4 clocks there
    assert (inside | (rising < 0.12) | (code > 1023)).all()


def test_charge_table_goes_on_straight_and_rising() -> None:
    p = charge_rows()
    curve = charge_table(p.astype(np.float32))
    codes = np.arange(-50, 1100, 1.0, dtype=np.float32)
    for row in range(0, 300, 20):
        t = time_of_code(codes, np.full(codes.size, row), curve)
        assert (np.diff(t) > 0).all()


def test_newton_as_the_vendor_takes_it() -> None:
    p = charge_rows()
    truth = np.random.default_rng(3).uniform(60, 300, p.shape[0])
    code = code_of_time(truth, p).astype(np.float32)
    good = slope_at_time(truth, p) > 0.5 * p[:, 1]
    start = (truth - 50).astype(np.float32)
    found = time_of_code_newton(code, start, p.astype(np.float32))
    np.testing.assert_allclose(found[good], truth[good], atol=0.01)


def test_rows_without_a_rising_curve_are_not_usable() -> None:
    p = np.zeros((3, 10), np.float32)
    p[1, :2] = 100, -2
    p[2, :2] = 100, 2
    assert charge_table(p).usable.tolist() == [False, False, True]
    assert charge_table(np.zeros((0, 10), np.float32)).cubics.shape == (0, 16, 4)


def test_kev_and_back() -> None:
    energy = np.array([0, 60, 202, 307, 511, 1275], np.float32)
    for saturation in (np.inf, 150.0):
        k, s = np.full(6, 8.0, np.float32), np.full(6, saturation, np.float32)
        np.testing.assert_allclose(kev_of_charge(charge_of_kev(energy, k, s), k, s), energy, rtol=1e-4, atol=1e-4)
    one = np.ones(2, np.float32)
    assert np.isnan(kev_of_charge(np.array([150, 200], np.float32), one, 150 * one)).all()


def test_linearisation_joins_zero_smoothly_enough() -> None:
    parameters = [np.full(4, x, np.float32) for x in (8.0, 1.04676, 1.02734, 0.31909)]
    found = linearised(np.array([-10, 0, 1e-3, 40], np.float32), *parameters)
    assert found[:2].tolist() == pytest.approx([-3.1909, 0])
    assert found[2] == pytest.approx(0, abs=2e-3)
    assert found[3] == pytest.approx(8 * 1.04676 ** (40**1.02734) + 0.31909 * 40 - 8, rel=1e-5)


def test_time_offsets() -> None:
    t, offset = np.array([100.0, 200.0]), np.array([30.0, -20.0])
    assert apply_offset(t, offset).tolist() == [70, 220]
    np.testing.assert_array_equal(remove_offset(apply_offset(t, offset), offset), t)
    np.testing.assert_array_equal(centred(np.array([1.0, np.nan, 3.0])), [-1, np.nan, 1])
    assert np.isnan(centred(np.array([np.nan]))).all()


TDC = [(0, 0, 1, c, t, b, 0.1 * b, 60.0 + c, 200.0, -1.0) for c in (0, 5) for t in range(4) for b in (0, 1)]
QDC = [(0, 0, 1, c, t, 50.0 + t, 2.0, *[0.0] * 8) for c in (0, 5) for t in range(4)]


def test_tables_land_at_their_channel(tmp_path: Path) -> None:
    tables: dict[Any, Any] = {
        "tdc": table("tdc", TDC),
        "qdc": table("qdc", QDC),
        "time_offset": table("time_offset", [(0, 0, 1, 5, 123.0), (3, 0, 1, 5, 999.0)]),
        "channel_map": table(
            "channel_map", [(0, 0, 1, 5, 2, 3, 4, 1.0, 2.0, 3.0), (2, 1, 7, 0, -1, 0, 0, 0.0, 0.0, 0.0)]
        ),
        "trigger_map": table("trigger_map", [(2, 2, 0), (2, 0, 1), (7, 2, 1)]),
        "energy_kev": table("energy_kev", [(0, 0, 1, 5, 3.0, np.inf)]),
    }
    write_config(tmp_path, tables, petqc=PetqcSection(asics_per_module=2))
    found = CalibrationSet.from_config(load_config(tmp_path))
    assert (found.acquisition, found.energy_unit, found.mapped) == ("qdc", "kev", True)
    assert found.topology.channels.tolist() == [69]
    assert found.topology.module_nodes == ("module:0.0.0",)
    at = int(found.dense_of(np.array([69], np.int32))[0])
    assert found.channel[at] == 69
    assert found.offset_ps[at] == 123.0
    assert (found.region[at], found.xyz_mm[at].tolist()) == (2, [1, 2, 3])
    np.testing.assert_array_equal(found.rows.tdc[at * 4 + 3], np.float32([0, 65, 200, -1, 0.1, 65, 200, -1]))
    assert found.rows.charge[at * 4 + 3, :2].tolist() == [53, 2]
    assert found.kev[at].tolist() == [3, np.inf]
    assert found.relation.tolist() == [[0, 0, 2], [0, 0, 0], [2, 0, 1]]
    assert found.dense_of(np.array([1 << 17], np.int32)).tolist() == [-1]


def test_how_hits_were_taken(tmp_path: Path) -> None:
    modes = table("acquisition_mode", [(0, 0, 1, 0, 0), (0, 0, 1, 5, 1)])
    tables: dict[Any, Any] = {"tdc": table("tdc", TDC), "qdc": table("qdc", QDC)}
    write_config(tmp_path, tables)
    config = load_config(tmp_path)
    assert CalibrationSet.from_config(config).acquisition == "qdc"
    assert CalibrationSet.from_config(config, acquisition="tot").energy_unit == "ns"
    mixed = CalibrationSet.from_config(config, acquisition=modes)
    assert (mixed.acquisition, mixed.energy_unit) == ("mixed", "arbitrary")
    assert mixed.mode[[0, 1, 5]].tolist() == [0, -1, 1]
    write_config(tmp_path / "tot", {"tdc": table("tdc", TDC)})
    assert CalibrationSet.from_config(load_config(tmp_path / "tot")).acquisition == "tot"
    assert acquisition_of(RawHeader(all_charge=True), None) == "qdc"
    assert acquisition_of(RawHeader(), None) == "tot"
    assert acquisition_of(RawHeader(mixed=True), modes) is modes
    with pytest.raises(BadInputError, match="neither tot nor qdc"):
        CalibrationSet.from_config(config, acquisition="both")  # type: ignore[arg-type]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.ini").write_text("[main]\n")
    with pytest.raises(BadInputError, match="tdc_calibration_table is not set"):
        CalibrationSet.from_config(load_config(tmp_path))
    write_config(tmp_path / "tot", {"tdc": table("tdc", TDC)})
    (tmp_path / "tot" / "qdc.tsv").unlink()
    with pytest.raises(BadInputError, match=r"qdc\.tsv does not exist"):
        CalibrationSet.from_config(load_config(tmp_path / "tot"), acquisition="qdc")


@pytest.mark.parametrize("line", [(0, 0, 1, 5, 0.0, np.inf), (0, 0, 1, 5, 3.0, -1.0)])
def test_impossible_kev_calibrations_are_refused(tmp_path: Path, line: tuple[Any, ...]) -> None:
    write_config(tmp_path, {"tdc": table("tdc", TDC), "energy_kev": table("energy_kev", [line])})
    with pytest.raises(BadInputError, match=r"channel:0\.0\.1\.5"):
        CalibrationSet.from_config(load_config(tmp_path))
