"""Nodes compared with their like: what widens a limit, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.siblings import FEWEST, Siblings


def test_a_few_bad_ones_neither_move_nor_widen():
    good = np.random.default_rng(1).normal(12.0, 0.3, 256)
    usual, found = Siblings.of(good), Siblings.of(np.concatenate([good[:246], np.full(10, 18.0)]))
    assert usual is not None
    assert found is not None
    assert found.median == pytest.approx(usual.median, abs=0.05)
    assert found.spread == pytest.approx(0.3, rel=0.15)


def test_few_nodes_have_a_median_and_no_spread():
    assert Siblings.of(np.full(FEWEST - 1, 10.0)) is None
    few = Siblings.of_any([10.0, 11.0, np.nan, 12.0])
    assert few is not None
    assert (few.median, few.spread) == (11.0, 0.0)
    assert Siblings.of_any([np.nan]) is None
