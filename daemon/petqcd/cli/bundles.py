"""bundle: what a run recorded, looked at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json
from petqcd.cli.progress import Bar
from petqcd.errors import EXIT_FAIL, EXIT_OK

if TYPE_CHECKING:
    from petqc.formats.bundle_check import BundleCheck

Bundle = Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder of a recorded run, or its id.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(help="What runs recorded.", no_args_is_help=True)
    group.command("check")(check)
    app.add_typer(group, name="bundle")


def folder_of(given: str, state_dir: Path) -> Path:
    """The folder that somebody means: one that is there, or that of a run in the state directory."""
    path = Path(given)
    stored = state_dir / "runs" / given
    return stored if not path.is_dir() and "/" not in given and stored.is_dir() else path


def check(
    bundle: Bundle,
    *,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Hold every file of a bundle against its manifest; of one that was cut, say what is whole.

    Ends with 1 if a file is missing or was changed, or the bundle is truncated.
    """
    from petqc.formats.bundle_check import check_bundle

    _, folder = configuration(config, state_dir)
    with Bar("checking") as bar:
        found = check_bundle(folder_of(bundle, folder), bar.part)
    if as_json:
        from dataclasses import asdict

        told = {"folder": str(found.bundle.folder), "state": found.bundle.state, "reason": found.bundle.reason}
        give_json({**told, "is_whole": found.is_whole, "files": [asdict(finding) for finding in found.findings]})
    else:
        sys.stdout.write("\n".join(_lines(found)) + "\n")
    raise typer.Exit(EXIT_OK if found.is_whole else EXIT_FAIL)


def _lines(found: BundleCheck) -> list[str]:
    bundle, about = found.bundle, found.bundle.about
    size = sum(file.bytes for file in bundle.files)
    simulated = ", simulated" if about.get("simulated") else ""
    kept = f"{about.get('recorded')}, {len(bundle.files)} files, {size / 1e6:.1f} MB"
    lines = [
        f"run {about.get('run_id')}, {about.get('kind')}{simulated}: {kept}",
        f"{bundle.state}{f': {bundle.reason}' if bundle.reason else ''}",
    ]
    for wire in bundle.wires:
        missing = f", {wire.dropped} bytes are missing" if wire.dropped else ""
        lines.append(
            f"  {wire.file}: {wire.kind} {wire.device} on {wire.transport} {wire.address}, "
            f"{wire.sent} bytes sent, {wire.received} received{missing}"
        )
    told = [f for f in found.findings if f.problem or f.remark]
    lines += [f"  {f.name}: {'; '.join(part for part in (f.problem, f.remark) if part)}" for f in told]
    good = len(found.findings) - len(found.problems)
    vouched = (
        "as they were when the run ended" if bundle.state != "recording" else "there, with no hash to hold against"
    )
    return [*lines, f"{good} of {len(found.findings)} files are {vouched}"]
