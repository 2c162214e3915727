"""Bias that follows the temperature: a sensor that lies can never raise it by more than the bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petqc_drivers.device import Quality, Reading
from petqcd.interlocks.following import Follower, FollowingSettings

SETTINGS = FollowingSettings(mv_per_k=54.0, reference_degc=25.0, most_v=1.5, v_per_min=0.6)


def reading(value: float | None, at_s: float, quality: Quality = Quality.GOOD, node: str = "hv") -> Reading:
    return Reading("temperature_sipm", node, value, "degC", True, quality, at_s)


def followed(values: list[float], follower: Follower | None = None, begin_s: float = 0.0) -> Follower:
    found = follower or Follower(SETTINGS)
    for number, value in enumerate(values):
        at_s = begin_s + 10.0 * number
        found.sample([reading(value, at_s)], at_s)
        found.step(at_s)
    return found


def test_it_follows_slowly() -> None:
    found = followed([26.0] * 4)
    assert found.correction_v == pytest.approx(0.054)  # the median is needed first; then its rate is enough
    assert followed([35.0] * 4).correction_v == pytest.approx(0.2)  # 0.6 V a minute, two steps of 10 s
    assert followed([35.0] * 40).correction_v == pytest.approx(0.54)
    assert followed([15.0] * 40).correction_v == pytest.approx(-0.54)


@pytest.mark.parametrize(
    "lie",
    [
        reading(85.0, 400.0),
        reading(-127.0, 400.0),
        reading(float("nan"), 400.0),
        reading(float("inf"), 400.0),
        reading(None, 400.0),
        reading(31.0, 400.0),
        reading(26.0, 400.0, Quality.UNCERTAIN),
        reading(26.0, 400.0, Quality.BAD),
        reading(26.0, 300.0),
        reading(26.0, 500.0),
    ],
    ids=str,
)
def test_what_cannot_be_believed_freezes(lie: Reading) -> None:
    found = followed([25.5] * 40)
    before_v = found.correction_v
    found.sample([lie], 400.0)
    assert found.frozen
    assert found.step(400.0) == before_v


def test_neighbours_must_agree_and_be_there() -> None:
    found = Follower(SETTINGS)
    found.sample([reading(25.0, 1.0, node="a"), reading(31.0, 1.0, node="b")], 1.0)
    assert "disagree" in found.frozen
    found.sample([], 1.0)
    assert found.frozen


def test_beyond_the_bound_it_stands_still_and_says_so() -> None:
    warmer = [25.0 + 0.5 * step for step in range(80)]
    found = followed(warmer)
    assert found.correction_v <= SETTINGS.most_v
    assert "at most 1.5 V" in found.frozen


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=True) | st.floats(-50, 90) | st.sampled_from([85.0, -127.0]),
            st.sampled_from(Quality),
            st.floats(0.0, 120.0),
            st.floats(-5.0, 40.0),
        ),
        max_size=60,
    ),
    st.floats(-100, 100),
)
def test_no_sensor_moves_bias_beyond_the_bound_or_faster_than_the_rate(
    said: list[tuple[float, Quality, float, float]], mv_per_k: float
) -> None:
    settings = FollowingSettings(mv_per_k=mv_per_k, reference_degc=25.0, most_v=1.5, v_per_min=0.6)
    found, now_s = Follower(settings), 0.0
    for value, quality, passes_s, age_s in said:
        now_s += passes_s
        found.sample([reading(value, now_s - age_s, quality)], now_s)
        before_v = found.correction_v
        after_v = found.step(now_s)
        assert abs(after_v) <= settings.most_v
        assert abs(after_v - before_v) <= settings.v_per_min * passes_s / 60.0 + 1e-12


@given(st.floats(-0.6, 0.6), st.integers(1, 400))
def test_a_sensor_that_drifts_away_by_itself_stops_at_the_bound(drift_k: float, steps: int) -> None:
    found = followed([25.0 + drift_k * step for step in range(steps)])
    assert abs(found.correction_v) <= SETTINGS.most_v
