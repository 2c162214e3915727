"""All commands in one application; everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import typer

from petqcd.cli import (
    access,
    alarms,
    backup,
    baseline,
    bias,
    bundles,
    calibrate,
    devices,
    exchange,
    fault,
    files,
    history,
    install,
    maintenance,
    off,
    reprocess,
    service,
    tools,
)

app = typer.Typer(
    name="petqc",
    help="Scanner control and detector QC for SiPM time-of-flight PET and PET/MR.",
    epilog="Exit codes: 0 pass or warn, 1 fail, 2 wrong use or configuration, 3 not reachable, 4 could not measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in (
    service,
    bias,
    off,
    maintenance,
    devices,
    alarms,
    calibrate,
    baseline,
    files,
    bundles,
    reprocess,
    history,
    exchange,
    access,
    backup,
    install,
    tools,
    fault,
):
    _module.register(app)
