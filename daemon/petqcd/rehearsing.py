"""What the first run would wait for, and everybody at the console beside it: loaded before, while there is no run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


def load_for_runs(configuration: Path | None) -> None:
    """Load modules and compiled code of receiving, processing, analysis and report; takes a few seconds.

    What fails here fails in the run that needs it, which says so to whoever started it.

    Args:
        configuration: config.ini of the readout; None: a simulator brings its own.
    """
    from petqc.calibration import CalibrationSet
    from petqc.formats.petsys_config import load_config
    from petqc.rehearsal import rehearse
    from petqc_drivers.petsys import receive
    from petqcd.measurement import count_noise, live_settings

    try:
        receive.warm_up()
        if configuration is not None:
            config = load_config(configuration)
            count_noise(CalibrationSet.from_config(config), live_settings(config))
        rehearse()
    except Exception:
        log.exception("what runs need could not be loaded ahead; the first run does it")
