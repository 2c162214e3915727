"""The text of the metrics is what Prometheus' own library writes and reads."""

from __future__ import annotations

import math
import threading
from random import Random

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from petqcd.metric_table import METRICS
from petqcd.metrics import Metrics

AWKWARD = 'a "quoted" \\ name\nof two lines, µ'


def library_text(metrics: Metrics) -> str:
    """The same values, written by the library."""
    disable_created_metrics()
    registry = CollectorRegistry()
    for family in metrics._families.values():
        kind = Gauge if family.metric.kind == "gauge" else Counter
        one = kind(family.metric.name, family.metric.help, family.metric.labels, registry=registry)
        for values, series in family.series.items():
            child = one.labels(*values)
            child.set(series.value) if isinstance(child, Gauge) else child.inc(series.value)
    return generate_latest(registry).decode()


def filled() -> Metrics:
    metrics = Metrics(AWKWARD, "board", simulated=True)
    for number, value in enumerate((0.0, -1.5, 1e-9, 1.7987654321e9, 1e300, math.inf, -math.inf, 3)):
        metrics.set("petqc_check_status", value, module=f"0.0.{number}", check="photopeak")
    metrics.add("petqc_runs_passed_total")
    metrics.add("petqc_runs_passed_total", 2)
    return metrics


def test_it_is_the_librarys_text_but_for_how_large_numbers_are_written() -> None:
    metrics = filled()
    ours, theirs = metrics.text().decode().splitlines(), library_text(metrics).splitlines()
    assert len(ours) == len(theirs) > 2 * len(METRICS)
    for mine, other in zip(ours, theirs, strict=True):
        if mine.startswith("#"):
            assert mine == other
            continue
        (name, number), (other_name, other_number) = mine.rsplit(" ", 1), other.rsplit(" ", 1)
        assert name == other_name
        assert float(number) == float(other_number)


def test_the_library_reads_every_value_back() -> None:
    metrics = filled()
    metrics.set("petqc_check_status", math.nan, module="0.0.9", check="photopeak")
    read = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }
    status = [value for (name, *_), value in read.items() if name == "petqc_check_status"]
    assert status[:8] == [0.0, -1.5, 1e-9, 1.7987654321e9, 1e300, math.inf, -math.inf, 3.0]
    assert math.isnan(status[8])
    assert all(dict(labels)["scanner"] == AWKWARD for _, *labels in read)
    assert read["petqc_runs_passed_total", ("scanner", AWKWARD)] == 3.0


def test_what_has_no_value_any_more_is_not_there_and_an_unknown_name_is_a_mistake_of_ours() -> None:
    metrics = filled()
    labels = {"module": "0.0.0", "check": "photopeak"}
    before = metrics.text()
    assert metrics.text() is before, "made again only after a change"
    metrics.clear("petqc_check_status", **labels)
    assert b'petqc_check_status{check="photopeak",module="0.0.0"' not in metrics.text()
    after = metrics.text()
    metrics.clear("petqc_check_status", **labels)
    assert metrics.text() is after
    metrics.set("petqc_check_status", 1, **labels)
    assert b'petqc_check_status{check="photopeak",module="0.0.0"' in metrics.text()
    with pytest.raises(KeyError):
        metrics.set("petqc_nothing_of_the_kind", 1.0)
    with pytest.raises(KeyError):
        metrics.set("petqc_check_status", 1.0, module="0.0.0")


def test_values_may_be_set_while_a_text_is_made() -> None:
    metrics = filled()
    ended = threading.Event()

    def setting() -> None:
        number = 0
        while not ended.is_set():
            metrics.set("petqc_check_status", 1, module=f"1.0.{number % 5000}", check="ctr_fit")
            metrics.clear("petqc_check_status", module=f"1.0.{(number + 2500) % 5000}", check="ctr_fit")
            number += 1

    thread = threading.Thread(target=setting)
    thread.start()
    try:
        for _ in range(50):
            list(text_string_to_metric_families(metrics.text().decode()))
    finally:
        ended.set()
        thread.join()


def test_after_any_changes_it_is_the_text_of_the_values_as_they_are() -> None:
    """What did not change is not written anew: nothing of it may stay behind."""
    random, changed = Random(7), Metrics("s", "board", simulated=True)
    values = (0.0, 1.0, 1.0, math.nan, -2.5)
    gauges = [changed.gauge("petqc_reading_volts", module="", device=f"d{n}", quantity="q") for n in range(4)]
    for _ in range(300):
        match random.randrange(4):
            case 0:
                random.choice(gauges).set(random.choice(values))
            case 1:
                random.choice(gauges).clear()
            case 2:
                changed.set("petqc_device_up", random.choice(values), device=f"d{random.randrange(3)}")
            case _:
                changed.add("petqc_runs_passed_total", random.randrange(2))
        text = changed.text()
        assert changed.text() is text
        for family in changed._families.values():  # as if it had never been written
            family.text = None
            for series in family.series.values():
                series.line = None
        assert changed._written().encode() == text
