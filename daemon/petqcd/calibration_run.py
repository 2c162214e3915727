"""How a calibration run ends, whatever was calibrated: a verdict, and a new calibration set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petqcd import clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from petqc.analysis import RunContext
    from petqc.calibrate import Calibration
    from petqc.results import Run
    from petqcd.procedure import Job


def conclude(job: Job, context: RunContext, calibration: Calibration, channels: NDArray[np.int32]) -> Run:
    """The run, and the set that it made; a calibration without a table makes none.

    Args:
        job: the run's job.
        context: what is known about the run.
        calibration: what was found.
        channels: (n,) absolute numbers of all channels of the board.
    """
    from petqc.calibrate.conclude import conclude as judge
    from petqc.calibrate.conclude import set_document
    from petqc.calibrate.sets import Origin, create_set

    run = judge(calibration, context, job.board_config, channels)
    if not calibration.tables or not any(table.size for table in calibration.tables.values()):
        run.notes.append("No calibration set was made: there is nothing to put into one.")
        return run
    origin = Origin(
        run_id=job.run_id,
        created_at=clock.utc_text(),
        device=job.config.board.name,
        scanner=job.config.scanner.name,
        simulated=job.config.is_simulated,
        software=context.software,
        root_hash=job.root_hash,
        verdict=run.verdict,
        sentence=run.sentence,
        parent_set=job.set_id,
        quality=tuple(c for c in run.checks if c.node == "scanner"),
        raw_files=context.raw_files,
    )
    info = create_set(job.sets, calibration.kind, job.board_config, calibration.tables, origin)
    run.calibration_set = set_document(info, calibration, job.board_config)
    run.notes.append(f"Calibration set {info.id} was made; to use it: petqc calibration accept {info.id}.")
    return run
