"""Time resolution of modules alone, from widths of pairs that chance made smaller or larger."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.fits.single_modules import single_widths

PAIRS = np.array([(i, j) for i in range(8) for j in range(i)])
TRUE = np.array([270.0, 250.0, 290.0, 280.0, 400.0, 260.0, 275.0, 240.0])


def test_no_pull_towards_small_widths():
    rng = np.random.default_rng(1)
    fwhm = np.hypot(TRUE[PAIRS[:, 0]], TRUE[PAIRS[:, 1]])
    pulls = []
    for _ in range(400):
        measured = fwhm * (1.0 + 0.06 * rng.standard_normal(fwhm.size))  # 140 pairs each
        found = single_widths(measured, 0.06 * measured, PAIRS[:, 0], PAIRS[:, 1], 8)
        assert found is not None
        pulls.append((found.fwhm - TRUE) / found.error)
    assert abs(np.nanmean(pulls)) < 0.15
    assert np.nanstd(pulls) == pytest.approx(1.0, abs=0.08)


def test_modules_that_pairs_do_not_tell_apart():
    two_sides = (PAIRS[:, 0] >= 4) & (PAIRS[:, 1] < 4)
    a, b = PAIRS[two_sides].T
    assert single_widths(np.full(a.size, 300.0), np.full(a.size, 3.0), a, b, 8) is None
    assert single_widths(np.empty(0), np.empty(0), a[:0], b[:0], 8) is None
    no_room = np.array([100.0, 100.0, 400.0])  # modules 0 and 1 leave more than 2 has with either
    found = single_widths(no_room, np.full(3, 1.0), np.array([2, 2, 1]), np.array([0, 1, 0]), 3)
    assert found is not None
    assert np.isnan(found.fwhm[2])
    assert np.isnan(found.most[2])  # and no noise explains it


def test_a_module_that_noise_left_nothing_for_has_a_limit():
    rng = np.random.default_rng(2)
    true = np.array([300.0, 310.0, 290.0, 40.0])
    a, b = np.array([(i, j) for i in range(4) for j in range(i)]).T
    fwhm = np.hypot(true[a], true[b])
    nothing = below = 0
    for _ in range(300):
        found = single_widths(fwhm * (1.0 + 0.05 * rng.standard_normal(a.size)), 0.05 * fwhm, a, b, 4)
        assert found is not None
        nothing += bool(np.isnan(found.fwhm[3]))
        below += bool(found.most[3] > true[3])
    assert 0.3 < nothing / 300 < 0.6
    assert below / 300 >= 0.95
