"""The normal matrix of time offsets: sizes of real scanners."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.fits.offsets import Graph


@pytest.mark.parametrize("n", [512, 32_767, 60_800, 243_200])
def test_classes_of_depth_come_after_the_last_channel_of_any_scanner(n):
    graph = Graph(
        a=np.array([0, 1], np.int32),
        b=np.array([n - 2, n - 1], np.int32),
        depth=np.array([0, 2], np.int16),
        sign=np.array([1, -1], np.int8),
        n=n,
        classes=3,
        group=np.zeros(n, np.int32),
        n_groups=1,
    )
    matrix = graph.normal(np.array([2.0, 3.0], np.float32))
    assert matrix.shape == (n + 3, n + 3)
    places = [(0, n), (n - 2, n), (1, n + 2), (n - 1, n + 2), (n, n), (n + 2, n + 2), (n + 1, n + 1)]
    assert [matrix[place] for place in places] == [2.0, -2.0, -3.0, 3.0, 2.0, 3.0, 0.0]
