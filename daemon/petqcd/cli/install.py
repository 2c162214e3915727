"""install-service, install-monitoring: files that come with petqc, in their places."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petqcd.cli.common import Json, give_json
from petqcd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACES: Mapping[str, str] = {
    "petqcd.service": "etc/systemd/system/petqcd.service",
    "petqc-safe.service": "etc/systemd/system/petqc-safe.service",
    "petqc-daily.service": "etc/systemd/system/petqc-daily.service",
    "petqc-daily.timer": "etc/systemd/system/petqc-daily.timer",
    "petqc.sysusers": "etc/sysusers.d/petqc.conf",
    "petqc.tmpfiles": "etc/tmpfiles.d/petqc.conf",
    "60-petqc.rules": "etc/udev/rules.d/60-petqc.rules",
    "petqc.toml": "etc/petqc/petqc.toml",
}
"""Each file and where it belongs."""
KEPT = ("petqc.toml",)
"""What belongs to the site once it is there, and is never written again."""
SHIPPED_BIN = "/opt/petqc/bin/"
HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108 - named in order to be refused
"""What the service cannot see. Source: systemd.exec(5), ProtectHome= and PrivateTmp=."""
AFTERWARDS = (
    "systemd-sysusers",
    "systemd-tmpfiles --create",
    "udevadm control --reload",
    "systemctl daemon-reload",
    "systemctl enable --now petqcd",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("install-service")(install_service)
    app.command("install-monitoring")(install_monitoring)


def install_service(
    *,
    write: Annotated[bool, typer.Option("--write", help="Write the files; without it, only say which.")] = False,
    root: Annotated[
        Path, typer.Option(help="Write below this folder, for example of an image, instead of this system.")
    ] = Path("/"),
    binaries: Annotated[
        Path | None, typer.Option("--bin", help="Folder of petqc as the service sees it. Default: of this petqc.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Install the systemd service: units, user, folders, names of serial ports. Dry run unless --write is given."""
    from petqcd.shared_files import folder

    at = binaries if binaries is not None else Path(sys.prefix) / "bin"
    if binaries is None:
        _check(at)
    shipped, done = folder("systemd"), {}
    for name, place in PLACES.items():
        target = root / place
        text = (shipped / name).read_text(encoding="utf-8").replace(SHIPPED_BIN, f"{at}/")
        done[str(target)] = _state(target, text, is_kept=name in KEPT)
        if write and done[str(target)] in ("new", "changed"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    if as_json:
        give_json({"written": write, "files": done, "afterwards": list(AFTERWARDS)})
        return
    for target_name, state in done.items():
        sys.stdout.write(f"{state:10} {target_name}\n")
    if not write:
        sys.stdout.write("nothing was written; do it with: petqc install-service --write\n")
    else:
        sys.stdout.write("then, as root:\n" + "".join(f"  {command}\n" for command in AFTERWARDS))


def install_monitoring(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for them.")],
    *,
    as_json: Json = False,
) -> None:
    """Copy rules, examples and dashboards for Prometheus, Alertmanager and Grafana into a new folder."""
    from petqcd.shared_files import folder

    if target.exists():
        raise ConfigError(f"{target}: is there already (give the name of a new folder)")
    shutil.copytree(folder("monitoring"), target)
    files = sorted(str(path) for path in target.rglob("*") if path.is_file())
    if as_json:
        give_json({"files": files})
    else:
        sys.stdout.write("".join(f"{path}\n" for path in files))


def _check(at: Path) -> None:
    missing = [name for name in ("petqc", "petqc-safe") if not (at / name).is_file()]
    if missing:
        raise ConfigError(f"{at}: no {', '.join(missing)} there (give its folder with --bin)")
    # The interpreter of an environment is a link to one that may be somewhere else.
    for seen in (at, (at / "python").resolve()):
        if f"{seen}/".startswith(HIDDEN):
            raise ConfigError(
                f"{seen}: the service sees nothing below {', '.join(HIDDEN)}: install petqc where all can "
                "read, such as in /opt/petqc"
            )


def _state(target: Path, text: str, *, is_kept: bool) -> str:
    if not target.exists():
        return "new"
    if is_kept:
        return "kept"
    return "unchanged" if target.read_text(encoding="utf-8") == text else "changed"
