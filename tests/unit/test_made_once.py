"""What many checks share is made once whatever thread asks, and what goes wrong reaches only those who ask for it."""

from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.unit.test_checks import ACCOUNT, SECONDS, Toy

from petqc import analysis, qc_input
from petqc.analysis import RunContext, analyse
from petqc.made_once import MadeOnce


def test_whoever_asks_while_a_value_is_made_waits_for_the_same_one():
    made, count, begun, go_on = MadeOnce(), [], threading.Event(), threading.Event()

    def make():
        count.append(threading.get_ident())
        begun.set()
        assert go_on.wait(60)
        return object()

    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(made.get, "x", make) for _ in range(3)]
        assert begun.wait(60)
        assert made.get("y", lambda: 2) == 2, "nobody waits for another value"
        time.sleep(0.05)
        go_on.set()
        values = {id(a.result()) for a in asked}
    assert len(values) == len(count) == 1
    assert (made.found("x"), made.found("y"), made.found("z")) == (asked[0].result(), 2, None)


def test_a_value_may_need_others_and_may_be_given():
    made = MadeOnce()
    made.give("a", 3)
    assert made.get("b", lambda: 2 * made.get("a", lambda: 0)) == 6


def test_what_goes_wrong_is_tried_once_and_told_to_all_who_ask():
    made, tried = MadeOnce(), []

    def make():
        tried.append(1)
        raise ZeroDivisionError("no")

    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="no"):
            made.get("x", make)
    assert tried == [1]
    assert made.found("x") is None
    assert made.get("y", lambda: 1) == 1


def of_toy(seed=3):
    return Toy(seed).histograms(), RunContext("toy", elapsed_s=SECONDS, live_time_s=SECONDS, account=ACCOUNT)


def test_a_run_is_the_same_in_one_thread_and_in_several(monkeypatch):
    runs = []
    for threads in (1, 2, 4):
        monkeypatch.setattr(analysis, "_AT_ONCE", threads)
        runs.append(pickle.dumps(analyse(*of_toy())))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize(
    ("part", "who_asks"),
    [
        ("solve_run", {"timing_width", "time_tails", "module_time_offset"}),
        ("fit_photopeaks", {"photopeak", "bias_peak", "energy_resolution"}),
    ],
)
def test_a_part_that_goes_wrong_reaches_the_checks_that_ask_for_it_and_no_other(monkeypatch, part, who_asks):
    calls = []

    def broken(*_, **__):
        calls.append(1)
        raise ZeroDivisionError(part)

    monkeypatch.setattr(qc_input, part, broken)
    run = analyse(*of_toy())
    assert {c.id for c in run.checks if f"did not work (ZeroDivisionError: {part})" in (c.reason or "")} == who_asks
    assert calls == [1], "nothing is tried twice"
