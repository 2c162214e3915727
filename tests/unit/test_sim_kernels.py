"""What the simulator's kernels are made of: numpy's stream of random numbers, directions, where a ray meets modules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from petqc_simulators.physics.directions import around, deflected, turned
from petqc_simulators.physics.emission import Emission
from petqc_simulators.physics.machine import lowest_one
from petqc_simulators.physics.pcg64 import exponential, move_on, normal, uniform, words_of
from petqc_simulators.physics.placement import ALONG_X, OUT, SHIFT_X, SHIFT_Y
from petqc_simulators.physics.rays import FACE, HALF_HEIGHT, HALF_WIDTH, LENGTH, in_reach, meet
from petqc_simulators.profile import load_profile

DRAWS = 200_000
KINDS = {uniform: "random", exponential: "standard_exponential", normal: "standard_normal"}


@pytest.mark.parametrize("draw", KINDS, ids=list(KINDS.values()))
@pytest.mark.parametrize("seed", [1, [7, 200, 3]])
def test_kernels_draw_the_numbers_that_numpy_draws(draw, seed) -> None:
    rng = np.random.default_rng(seed)
    words = words_of(rng)
    got = np.array([draw(words) for _ in range(DRAWS)])
    np.testing.assert_array_equal(got, getattr(np.random.default_rng(seed), KINDS[draw])(DRAWS))


def test_tails_beyond_the_ziggurats_are_among_those_numbers() -> None:
    # So that the test above has seen the ways that are rarely gone.
    rng = np.random.default_rng(1)
    assert (rng.standard_exponential(DRAWS) > 7.7).sum() > 20
    assert (np.abs(np.random.default_rng(1).standard_normal(DRAWS)) > 3.66).sum() > 20


def test_the_stream_goes_on_in_numpy_where_kernels_have_left_it() -> None:
    rng, same = np.random.default_rng(5), np.random.default_rng(5)
    same.integers(0, 9, dtype=np.int32), rng.integers(0, 9, dtype=np.int32)  # half of a number is still to come
    words = words_of(rng)
    mixed = [draw(words) for _ in range(3000) for draw in KINDS]
    move_on(rng, words)
    assert mixed == [getattr(same, KINDS[draw])() for _ in range(3000) for draw in KINDS]
    assert rng.bit_generator.state == same.bit_generator.state


def test_another_generator_than_numpys_default_is_refused() -> None:
    with pytest.raises(TypeError, match="MT19937"):
        words_of(np.random.Generator(np.random.MT19937(1)))


def test_sines_and_cosines_of_shares_of_a_turn() -> None:
    shares = np.concatenate([np.linspace(0.0, 1.0, 4097), np.random.default_rng(2).random(20000)])
    got = np.array([turned(share) for share in shares])
    angle = 2.0 * np.pi * shares
    np.testing.assert_allclose(got, np.stack([np.cos(angle), np.sin(angle)], axis=1), rtol=0, atol=1e-15)
    assert [turned(q / 4) for q in range(4)] == [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]


def test_directions_have_the_angle_that_was_asked_for() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        u = np.array(around(2.0 * rng.random() - 1.0, rng.random()))
        cosine = 2.0 * rng.random() - 1.0
        v = np.array(deflected(*u, cosine, rng.random()))
        assert (u @ u, v @ v, u @ v) == pytest.approx((1.0, 1.0, cosine), abs=1e-12)
    for pole in (1.0, -1.0):
        assert deflected(0.0, 0.0, pole, 0.5, 0.0) == pytest.approx((math.sqrt(0.75), 0.0, 0.5 * pole))


def test_the_lowest_bit_that_is_one() -> None:
    assert [lowest_one(np.uint64(1 << k | 1 << 63)) for k in range(64)] == list(range(64))


def _first_met(at, along, geometry, modules):
    """Module, entry and exit of a ray, module by module and plane by plane."""
    best = (-1, np.inf, np.inf)
    for m in range(modules.shape[1]):
        out, side, up = modules[OUT : OUT + 3, m], modules[ALONG_X : ALONG_X + 3, m], np.array([0.0, 1.0, 0.0])
        near, far = 0.0, np.inf
        for axis, low, high in (
            (out, geometry[FACE], geometry[FACE] + geometry[LENGTH]),
            (side, modules[SHIFT_X, m] - geometry[HALF_WIDTH], modules[SHIFT_X, m] + geometry[HALF_WIDTH]),
            (up, modules[SHIFT_Y, m] - geometry[HALF_HEIGHT], modules[SHIFT_Y, m] + geometry[HALF_HEIGHT]),
        ):
            ends = sorted((plane - axis @ at) / (axis @ along) for plane in (low, high))
            near, far = max(near, ends[0]), min(far, ends[1])
        if far > near + 1e-9 and near < best[1]:
            best = (m, near, far)
    return best


@pytest.mark.parametrize("name", ["bench", "febd-8k", "ring-small", "signa", "vereos"])
def test_a_ray_meets_the_module_that_is_first_in_its_way(name) -> None:
    emission = Emission(load_profile(name), np.random.default_rng(1))
    geometry, modules = emission.geometry, emission.modules
    rng = np.random.default_rng(4)
    reach = 1.3 * (geometry[FACE] + geometry[LENGTH])
    met = 0
    for _ in range(400):
        at = tuple(rng.uniform(-reach, reach, 3) * np.array([1.0, 0.3, 1.0]))
        along = around(2.0 * rng.random() - 1.0, rng.random())
        ahead, behind = meet(at, along, -1, 2, geometry, modules)
        back = tuple(-part for part in along)
        for found, direction in ((ahead, along), (behind, back)):
            wanted = _first_met(np.array(at), np.array(direction), geometry, modules)
            assert found[0] == wanted[0]
            if found[0] >= 0:
                assert found[1:] == pytest.approx(wanted[1:], rel=1e-9, abs=1e-9)
                met += 1
        assert meet(at, along, -1, 1, geometry, modules)[0] == ahead
        assert meet(at, back, -1, 1, geometry, modules)[0] == behind
    assert met > 100


def test_a_ray_that_begins_in_a_module_meets_no_other_one_first() -> None:
    emission = Emission(load_profile("bench"), np.random.default_rng(1))
    (module, entry, leave), _ = meet((0.0, 0.0, 55.0), (0.0, 0.0, -1.0), 1, 1, emission.geometry, emission.modules)
    assert (module, entry, leave) == (1, 0.0, 5.0)
    assert meet((0.0, 0.0, 45.0), (0.0, 0.0, -1.0), 1, 1, emission.geometry, emission.modules)[0][0] == -1


def test_more_modules_than_a_word_has_bits() -> None:
    emission = Emission(load_profile("mmr"), np.random.default_rng(1))
    geometry = emission.geometry
    # The ring twice more, far away along y: the modules that count are the last ones.
    modules = np.concatenate([emission.modules] * 3, axis=1)
    modules[SHIFT_Y, :112] += 1e6
    rng = np.random.default_rng(5)
    met = 0
    for _ in range(50):
        x, z, y = around(0.2 * rng.random() - 0.1, rng.random())
        alone, _ = meet((0.0, 0.0, 0.0), (x, y, z), -1, 1, geometry, emission.modules)
        again, _ = meet((0.0, 0.0, 0.0), (x, y, z), -1, 1, geometry, modules)
        assert again[1:] == alone[1:]
        assert again[0] == (alone[0] + 112 if alone[0] >= 0 else -1), "between two modules there is a gap"
        met += alone[0] >= 0
    assert met > 30
    everything = in_reach((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), 128, 1, geometry, modules)
    assert everything == (1 << 40) - 1, "along the axis nothing can be left out"
