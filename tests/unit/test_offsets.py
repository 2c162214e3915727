"""Time offsets from pairs: near the ideal, honest about their errors, and of scanners of every size."""

from __future__ import annotations

import numpy as np
import pytest

from petqc.errors import TooFewCountsError
from petqc.fits import offset_errors as oe
from petqc.fits import offset_kernels as ok
from petqc.fits import offsets as om
from petqc.fits.offsets import Graph, solve_offsets


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
    matrix = graph.normal(np.array([2.0, 3.0]))
    assert matrix.shape == (n + 3, n + 3)
    places = [(0, n), (n - 2, n), (1, n + 2), (n - 1, n + 2), (n, n), (n + 2, n + 2), (n + 1, n + 1)]
    assert [matrix[place] for place in places] == [2.0, -2.0, -3.0, 3.0, 2.0, 3.0, 0.0]


def solved_offsets(*pairs, **about):
    return solve_offsets(*pairs, **about).with_errors()


def ring_pairs(rng, n, per_node, sigma, randoms, window=10_000.0):
    """Wide fans: every node with nodes of the other half of a ring."""
    m = n * per_node // 2
    a = rng.integers(0, n, m)
    b = (a + n // 4 + rng.integers(0, n // 2, m)) % n
    offset = rng.normal(0.0, 30.0, n)
    dt = rng.normal(0.0, sigma, m) + offset[a] - offset[b]
    loose = rng.random(m) < randoms
    dt[loose] = rng.uniform(-0.5 * window, 0.5 * window, int(loose.sum()))
    return a.astype(np.int32), b.astype(np.int32), dt, offset - offset.mean()


@pytest.mark.parametrize(("randoms", "ideal"), [(0.0, 5.2), (0.1, 5.5), (0.3, 6.3)])
def test_offsets_are_near_the_ideal_with_randoms(randoms, ideal):
    """Source: table of daily-qc.md §2d, 560 nodes, 390 ps, 1 000 events a node; plain least squares has 17 and 32."""
    rng = np.random.default_rng(int(100 * randoms))
    a, b, dt, truth = ring_pairs(rng, 560, 1000, 390.0 / 2.35482, randoms)
    solved = solved_offsets(a, b, dt, 560, window_ps=10_000.0, start_ps=np.zeros(560), sigma_ps=166.0)
    error = solved.offset_ps - truth
    assert error.std() < 1.08 * ideal
    assert (error / solved.error_ps).std() == pytest.approx(1.0, abs=0.12)
    assert solved.n_components == 1
    assert solved.share == pytest.approx(1.0 - randoms, abs=0.02)


def test_offsets_of_separate_groups_are_told_apart():
    rng = np.random.default_rng(3)
    a1, b1, dt1, t1 = ring_pairs(rng, 100, 200, 100.0, 0.0)
    a2, b2, dt2, _ = ring_pairs(rng, 40, 200, 100.0, 0.0)
    a, b = np.concatenate([a1, a2 + 100]), np.concatenate([b1, b2 + 100])
    solved = solved_offsets(
        a.astype(np.int32), b.astype(np.int32), np.concatenate([dt1, dt2]), 150, window_ps=1e4, start_ps=np.zeros(150),
        sigma_ps=100.0,
    )  # fmt: skip
    assert solved.n_components == 2
    assert (solved.component[:100] == 0).all()
    assert (solved.component[100:140] == 1).all()
    assert (solved.component[140:] == -1).all()
    assert np.isnan(solved.offset_ps[140:]).all()
    assert (solved.offset_ps[:100] - t1).std() < 20.0


def test_many_channels_take_the_short_way(monkeypatch):
    rng = np.random.default_rng(4)
    a, b, dt, _ = ring_pairs(rng, 300, 500, 150.0, 0.05)
    exact = solved_offsets(a, b, dt, 300, window_ps=1e4, start_ps=np.zeros(300), sigma_ps=150.0)
    monkeypatch.setattr(om, "DENSE", 10)
    quick = solved_offsets(a, b, dt, 300, window_ps=1e4, start_ps=np.zeros(300), sigma_ps=150.0)
    np.testing.assert_allclose(quick.offset_ps, exact.offset_ps, atol=0.05)
    np.testing.assert_allclose(quick.error_ps, exact.error_ps, rtol=0.15)
    members, others = np.arange(30), np.arange(300)
    assert quick.mean_error(members, others) == pytest.approx(exact.mean_error(members, others), rel=0.3)


def test_more_groups_than_a_matrix_has_room_for_change_no_offset_and_no_error(monkeypatch):
    """A chain: every channel meets some hundred neighbours on the other side only, as with a point source."""
    rng = np.random.default_rng(6)
    n, m = 3000, 120_000
    a = rng.integers(0, n // 2, m)
    b = n // 2 + np.clip(a + rng.integers(-200, 201, m), 0, n // 2 - 1)
    truth = rng.normal(0.0, 30.0, n)
    dt = rng.normal(0.0, 90.0, m) + truth[a] - truth[b]
    given_ = {"window_ps": 1e4, "start_ps": np.zeros(n), "sigma_ps": 90.0, "group": np.arange(n, dtype=np.int32) // 5}
    fine = solved_offsets(a.astype(np.int32), b.astype(np.int32), dt, n, **given_)
    shapes = []
    inverse = oe.inverse_of_groups
    monkeypatch.setattr(oe, "inverse_of_groups", lambda joint: (shapes.append(joint.shape), inverse(joint))[1])
    monkeypatch.setattr(om, "MOST_GROUPS", 64)
    coarse = solved_offsets(a.astype(np.int32), b.astype(np.int32), dt, n, **given_)
    assert set(shapes) == {(60, 60)}
    np.testing.assert_allclose(coarse.offset_ps, fine.offset_ps, atol=0.05)
    np.testing.assert_allclose(coarse.error_ps, fine.error_ps, rtol=0.02)
    assert ((coarse.offset_ps - (truth - truth.mean())) / coarse.error_ps).std() == pytest.approx(1.0, abs=0.05)
    members, others = np.arange(25), np.arange(n)
    assert coarse.mean_error(members, others) == pytest.approx(fine.mean_error(members, others), rel=0.02)


def test_offset_kernels_equal_python():
    rng = np.random.default_rng(5)
    a, b, dt, _ = ring_pairs(rng, 20, 40, 100.0, 0.1)
    dt, module = dt.astype(np.float32), (np.arange(20) // 5).astype(np.int32)
    depth, sign = rng.integers(0, 3, a.size).astype(np.int16), rng.choice([-1, 0, 1], a.size).astype(np.int8)
    x, weight = rng.normal(size=23), rng.random(a.size).astype(np.float32)
    share = np.full((2, 4, 4), 0.9)
    graph = (a, b, depth, sign, 20)
    results = []
    for pick in (lambda f: f, lambda f: f.py_func):
        w, degree, right, out = np.empty(a.size, np.float32), np.empty(23), np.empty(23), np.empty(23)
        sums, joint, drawn, step = np.empty((2, 4, 4, 3)), np.empty((4, 4)), np.empty((23, 8)), np.empty(23)
        order, firsts, begin = (np.full(a.size + k, -1, np.int32) for k in (0, 0, 1))
        lines = pick(ok.number_lines)(*graph, order, firsts, begin)
        line, summed = (*(column[firsts[:lines]] for column in graph[:4]), 20), np.empty(lines)
        squares = pick(ok.weigh)(*line, begin, module, dt[order], x, 100.0, share, 1e-4, w, summed, degree, right, sums)
        pick(ok.apply_normal)(*graph, weight.astype(np.float64), x, out)
        pick(ok.join_groups)(a, b, weight, module, joint)
        with np.errstate(over="ignore"):
            pick(ok.shake)(*graph, dt, x, weight, degree, 7, drawn)
        steps = pick(ok.conjugate_gradients)(*line, summed, degree, right, module, np.eye(4), 1e-3, step)
        begins = begin[: lines + 1]
        results.append((squares, steps, order, firsts, begins, w, summed, degree, right, out, sums, joint, drawn, step))
    for p, q in zip(*results, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6)


def test_pairs_of_one_line_are_one_row_of_the_normal_equations():
    rng = np.random.default_rng(15)
    a, b, _, _ = ring_pairs(rng, 30, 100, 100.0, 0.1)
    depth, sign = rng.integers(0, 2, a.size).astype(np.int16), np.ones(a.size, np.int8)
    weight = rng.random(a.size).astype(np.float32)
    by_channels = rng.integers(0, 2, (30, 30)).astype(np.int16)[a, b]
    for classes, g, s in ((0, depth[:0], sign[:0]), (2, by_channels, sign), (2, depth, sign)):
        graph = Graph(a=a, b=b, depth=g, sign=s, n=30, classes=classes, group=np.zeros(30, np.int32), n_groups=1)
        lines = graph.lines()
        fewest = np.unique(np.stack([a, b]), axis=1).shape[1]
        assert fewest <= lines.graph.a.size < a.size
        assert lines.graph.a.size == fewest or g is depth, "a line is its two channels, and a depth that differs"
        assert lines.begin[-1] == a.size
        line, pairs, each = lines.graph, np.diff(lines.begin), lines.order
        for name in ("a", "b", "depth", "sign") if classes else ("a", "b"):
            np.testing.assert_array_equal(np.repeat(getattr(line, name), pairs), getattr(graph, name)[each])
        beginning = np.isin(np.arange(a.size), lines.begin)
        assert (np.diff(each)[~beginning[1:]] > 0).all(), "pairs of a line stay in the order in which they came"
        np.testing.assert_array_equal(lines.of_pairs(weight[each]), weight)
        summed = lines.summed(weight)
        np.testing.assert_allclose(summed, np.bincount(np.repeat(np.arange(pairs.size), pairs), weight[each]))
        normal, x, product = (
            graph.normal(weight.astype(np.float64)),
            rng.normal(size=30 + classes),
            np.empty(30 + classes),
        )
        np.testing.assert_allclose(line.normal(summed).toarray(), normal.toarray(), rtol=1e-6, atol=1e-6)
        ok.apply_normal(line.a, line.b, line.depth, line.sign, 30, summed, x, product)
        np.testing.assert_allclose(product, normal @ x, rtol=1e-5)
        right = normal @ x
        solved = lines.solve(summed, normal.diagonal(), right, np.zeros((0, 0)))
        assert np.linalg.norm(normal @ solved - right) < 1e-3 * np.linalg.norm(right)


def test_a_chain_of_modules_knows_how_uncertain_its_far_ends_are(monkeypatch):
    """A ring that a point source links like a chain: neighbours only, so errors add up along it."""
    monkeypatch.setattr(om, "DENSE", 10)
    rng = np.random.default_rng(6)
    n, group = 800, (np.arange(800) // 40).astype(np.int32)
    pulls = []
    for _ in range(8):
        a = rng.integers(0, n, 60_000)
        b = (a + rng.integers(1, 4, a.size)) % n
        dt = rng.normal(0.0, 100.0, a.size)
        solved = solved_offsets(
            a.astype(np.int32), b.astype(np.int32), dt, n, window_ps=1e4, start_ps=np.zeros(n), sigma_ps=100.0,
            group=group,
        )  # fmt: skip
        for number in range(20):
            mine = np.flatnonzero(group == number)
            error = solved.mean_error(mine, np.arange(n))
            pulls.append(float(solved.offset_ps[mine].mean()) / error)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.35)
    # What its own pairs say of a channel is the smaller part.
    assert np.nanmedian(solved.error_ps) > 2.0 * 100.0 / np.sqrt(np.median(solved.pairs))


def test_too_few_pairs_for_offsets():
    none = np.zeros(10, np.int32)
    with pytest.raises(TooFewCountsError, match="at least 200"):
        solved_offsets(none, none, np.zeros(10), 5, window_ps=1e4, start_ps=np.zeros(5), sigma_ps=100.0)
