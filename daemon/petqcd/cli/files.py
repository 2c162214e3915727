"""analyse, convert: recorded data, no daemon needed."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from petqcd.cli.common import VERDICT_EXIT, Json, StateDir, give_json, sets_folder
from petqcd.cli.progress import Bar
from petqcd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from petqc.results import Run


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("analyse")(analyse)
    app.command("convert")(convert)


def analyse(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(
            help=".rawf, .ldat, list text, .spe, .ptu, .pt3, Janus lists; or a bundle, its folder or its run."
        ),
    ],
    config: Annotated[Path | None, typer.Option("--config", help="config.ini of the readout that recorded.")] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="SET", help="Calibration set instead of a config.ini: its id, or its folder.")
    ] = None,
    descriptor: Annotated[Path | None, typer.Option(help="Columns, units and separators of a list text, TOML.")] = None,
    channel_roles: Annotated[
        Path | None, typer.Option(help="Which channels measure time and which energy, YAML.")
    ] = None,
    min_hits: Annotated[int, typer.Option(min=1, max=255, help="Least hits of a photon that counts.")] = 1,
    lutetium: Annotated[
        bool, typer.Option("--lutetium", help="No source was in the scanner: the checks of the crystals' own Lu-176.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the report: HTML, or PDF where the name ends in .pdf.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write the result into, as that of a run.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All nodes, ASICs that pass too.")] = False,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """QC of recorded data."""
    set_id = None
    if calibration is not None:
        if config is not None:
            raise ConfigError("give either --config or --calibration: a calibration set is a whole configuration")
        config, set_id = _of_set(calibration, state_dir)
    bundle = _bundle(files, state_dir)
    if bundle is not None:
        run = _again(bundle, config, set_id)
    else:
        from petqc.analysis import analyse_file

        with Bar("analysing") as bar:
            run = analyse_file(
                files,
                config=config,
                descriptor=descriptor,
                channel_roles=channel_roles,
                min_hits=min_hits,
                progress=bar.part,
                lutetium=lutetium,
            )
        if set_id is not None:
            run.calibration_ids["set"] = set_id
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        run.save(out)
    if report is not None:
        from petqc.report import write_report

        write_report(run, report)
    where = {"report": str(report)} if report is not None else {}
    where |= {"result": str(out)} if out is not None else {}
    if as_json:
        give_json({**run.document(), "where": where})
    else:
        from petqcd.cli.show import print_run

        print_run(run, everything=everything, where=where)
    raise typer.Exit(VERDICT_EXIT[str(run.verdict)])


def _bundle(files: list[Path], state_dir: Path | None) -> Path | None:
    """The folder of the bundle that is meant, if one is: a folder, or the name of a run."""
    if len(files) != 1 or files[0].is_file():
        return None
    if files[0].is_dir():
        return files[0]
    from petqcd.cli.bundles import folder_of
    from petqcd.cli.common import configuration

    folder = folder_of(str(files[0]), configuration(None, state_dir)[1])
    return folder if folder.is_dir() else None


def _again(bundle: Path, config: Path | None, set_id: str | None) -> Run:
    from petqc.reanalyse import Other, reanalyse

    with Bar("analysing again") as bar:
        return reanalyse(bundle, Other(config, set_id), progress=bar.part)


def _of_set(given: str, state_dir: Path | None) -> tuple[Path, str]:
    """The config.ini of a calibration set, and its id.

    Raises:
        BadInputError: there is no such set, or it is damaged.
    """
    from petqc.calibrate.sets import SET_JSON, find_set, read_set, set_config

    folder = Path(given)
    if not (folder / SET_JSON).is_file():
        folder = find_set(sets_folder(state_dir), given)
    return set_config(folder), read_set(folder).id


def convert(
    *,
    file: Annotated[Path, typer.Argument(help="A recording, .rawf.")],
    to: Annotated[Literal["singles", "groups", "coincidences"], typer.Option(help="What to make.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="NAME (makes NAME.ldat, NAME.lidx), or the text file.")],
    config: Annotated[Path, typer.Option("--config", help="config.ini of the readout that recorded.")],
    vendor_compatible: Annotated[
        bool, typer.Option("--vendor-compatible", help="Reproduce the vendor's own converter, its losses too.")
    ] = False,
    text: Annotated[bool, typer.Option("--text", help="Tab-separated text instead of binary.")] = False,
    as_json: Json = False,
) -> None:
    """Recordings to singles, groups or coincidences in the vendor's formats."""
    from petqc.convert import convert as convert_file

    with Bar("converting") as bar:
        summary: Any = convert_file(
            file, to, config=config, out=out, vendor_compatible=vendor_compatible, text=text, progress=bar.part
        )
    if as_json:
        give_json(_plain(asdict(summary)))
        return
    lines = [f"{summary.records} {to} in {summary.path} (energies in {summary.energy_unit})"]
    lines += [f"  {name.replace('_', ' ')}: {count}" for name, count in _counts(asdict(summary.account)) if count]
    lines += [f"damage: {damage}" for damage in summary.damages]
    lines += [f"warning: {warning}" for warning in summary.warnings]
    sys.stdout.write("\n".join(lines) + "\n")


def _counts(account: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers of a nested account, by name and reason."""
    for name, value in account.items():
        if isinstance(value, dict):
            yield from ((f"{name}: {reason}", count) for reason, count in value.items())
        elif isinstance(value, int | float):
            yield name, value


def _plain(value: Any) -> Any:
    """Paths as text, the rest as it is."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
