"""Temperature sensors that are fitted and give nothing: what is not measured is neither compensated nor judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqc.channel_map import SCANNER
from petqc.checks import CheckOutput, check
from petqc.limits import Limits

if TYPE_CHECKING:
    from petqc.checks import Level
    from petqc.housekeeping import HousekeepingInput


@check(
    "temperature_sensors",
    title="Silent temperature sensors",
    unit="sensors",
    levels=("scanner", "module"),
    order=131,
    data=("housekeeping",),
    limits={"module": Limits(warn_high=0.0)},
    source="faults F05 and F06: daily-qc.md §3 (a sensor that lies, cooling that is lost); limits: any silent sensor "
    "is a warning, a module without any temperature fails, petqc's own rule: missing data is never a pass",
)
def temperature_sensors(q: HousekeepingInput) -> CheckOutput:
    """How many of the fitted sensors of a module gave no temperature."""
    silent: dict[str, list[str]] = {}
    fitted: dict[str, int] = {}
    for r in q.last.values():
        module = q.module_of(r.node) if r.name.startswith("temperature") else None
        if module is None:
            continue
        fitted.setdefault(module, 0)
        if r.quality == "absent":
            continue
        fitted[module] += 1
        if not (r.measured and r.quality == "good" and r.value is not None):
            silent.setdefault(module, []).append(f"{r.node}: {r.reason or r.quality}")
    results = []
    for node in q.nodes("module"):
        n, dumb = fitted.get(node.name, 0), silent.get(node.name, [])
        if node.name not in fitted:
            results.append(q.missing("temperature_sensors", node, "sensors", 0, "its sensors were not read"))
        elif n == 0:
            told = "no temperature sensor is fitted"
            results.append(q.missing("temperature_sensors", node, "sensors", 0, told, needed=False))
        else:
            limits, _ = q.limits("temperature_sensors", "module", node.name)
            limits = Limits(None, None, limits.warn_high, max(n - 1.0, limits.warn_high or 0.0))
            results.append(
                q.judge(
                    "temperature_sensors", node, len(dumb), "sensors", 0.0, n, limits=limits,
                    reason=q.named(dumb),
                )
            )  # fmt: skip
    everywhere = [told for dumb in silent.values() for told in dumb]
    n = sum(fitted.values())
    where: tuple[Level, str] = ("scanner", SCANNER)
    if n:
        results.insert(0, q.judge("temperature_sensors", where, len(everywhere), "sensors", 0.0, n))
    return CheckOutput(results)
