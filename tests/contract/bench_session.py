"""A driver at a simulated bench: its settings out of the bench's own tables, and what it receives."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from petqc.calibration import CalibrationSet
from petqc.processing import ProcessingSettings, Processor
from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve
from petqc_drivers.petsys.settings import AsicSettings, BiasSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc.formats.petsys_config import PetsysConfig
    from petqc_drivers.petsys.readout import PetsysReadout
    from petqc_drivers.petsys.receive import ReceiveAccount

HIGHEST_V = 40.0


def bias_settings(config: PetsysConfig) -> dict[BiasChannel, BiasSettings]:
    curves: dict[BiasChannel, list[tuple[int, float]]] = {}
    for row in config.tables["bias_calibration"]:
        channel = BiasChannel(0, 0, int(row["slot"]), int(row["channel"]))
        curves.setdefault(channel, []).append((int(row["dac_code"]), float(row["volts"])))
    return {
        channel: BiasSettings(
            HardLimit(
                channel=str(channel), v_min=Volts(1.2), v_max=Volts(HIGHEST_V), max_step_v=3.0, slew_v_per_s=100.0
            ),
            BiasCurve(tuple(points)),
        )
        for channel, points in curves.items()
    }


def bias_targets(config: PetsysConfig) -> dict[BiasChannel, Volts]:
    return {
        BiasChannel(0, 0, int(row["slot"]), int(row["channel"])): Volts(float(row["breakdown"] + row["overvoltage"]))
        for row in config.tables["bias_settings"]
    }


def asic_settings(config: PetsysConfig) -> AsicSettings:
    per_channel = {
        (int(zero["chip"]), int(zero["channel"])): {
            "baseline_t": int(zero["baseline_t"]),
            "baseline_e": int(zero["baseline_e"]),
            **{f"vth_{d}": int(zero[f"zero_{d}"] - wanted[f"vth_{d}"]) for d in ("t1", "t2", "e")},
        }
        for zero, wanted in zip(config.tables["disc_calibration"], config.tables["disc_settings"], strict=True)
    }
    return AsicSettings(per_channel=per_channel)


class Sink:
    """Keeps what the receive thread gives."""

    def __init__(self) -> None:
        self.parts: list[NDArray[np.uint64]] = []
        self.crc32 = 0

    def __call__(self, words: NDArray[np.uint64]) -> None:
        self.parts.append(words)
        self.crc32 = zlib.crc32(words.tobytes(), self.crc32)

    def process(self, config: PetsysConfig) -> tuple[Any, Any, Any]:
        """Energies, time differences and account of everything received."""
        processor = Processor(CalibrationSet.from_config(config), ProcessingSettings.from_config(config))
        found = [processor.feed(words) for words in self.parts]
        found.append(processor.finish())
        energy = np.concatenate([f.singles.energy for f in found])
        dt = np.concatenate([f.prompts.time_a_ps - f.prompts.time_b_ps for f in found])
        return energy, dt, processor.account


async def acquire(device: PetsysReadout, seconds: float) -> tuple[Sink, ReceiveAccount]:
    sink = Sink()
    await device.start(sink)
    await device.wait_failed(seconds)
    return sink, await device.stop()
