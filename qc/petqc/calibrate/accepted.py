"""Which calibration set a device uses: an explicit act, written down with who, when and what it was before.

`accepted.jsonl` beside the sets has one line for each act and only grows; the last line of a device counts.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from petqc.calibrate.sets import find_set, read_set, set_config
from petqc.errors import BadInputError
from petqc.limits import Status

if TYPE_CHECKING:
    from pathlib import Path

    from petqc.calibrate.sets import CalibrationSetInfo

RECORD = "accepted.jsonl"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """One act. set_id, previous: None is the device's own configuration. reason: given by who forced it, else empty."""

    at: str
    who: str
    device: str
    set_id: str | None
    previous: str | None
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)


def acceptances(root: Path) -> list[Acceptance]:
    """Every act, oldest first. A last line that was cut off while it was written was never acknowledged: left out.

    Raises:
        BadInputError: a line cannot be understood, so that nobody can say what the device shall use.
    """
    try:
        text = (root / RECORD).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot be read: {error}", where=str(root / RECORD)) from error
    found = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
        try:
            found.append(Acceptance(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise BadInputError(
                f"line {number} is damaged: {error}", where=str(root / RECORD), do="restore it from a backup"
            ) from error
    return found


def accepted(root: Path, device: str) -> Acceptance | None:
    """The last act for a device; None: it always used its own configuration.

    Raises:
        BadInputError: the record is damaged.
    """
    return next((a for a in reversed(acceptances(root)) if a.device == device), None)


def accept(
    root: Path,
    set_id: str | None,
    *,
    device: str,
    is_simulated: bool,
    root_hash: str,
    who: str,
    at: str,
    reason: str = "",
) -> Acceptance:
    """Make a set the one that a device uses from now on; None: its own configuration again.

    Args:
        root: the folder of all sets.
        set_id: the set.
        device: name of the device that shall use it.
        is_simulated: whether that one is simulated.
        root_hash: hash of the device's own configuration, which the set must go back to.
        who: by whom, for the record.
        at: when, ISO 8601.
        reason: why a set of a run that failed is to be used all the same; other objections cannot be overruled.

    Raises:
        BadInputError: there is no such set, or it must not be used with this device.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if set_id is not None:
        folder = find_set(root, set_id)
        info = read_set(folder)
        set_config(folder)
        _suits(info, device=device, is_simulated=is_simulated, root_hash=root_hash)
        if info.verdict not in {Status.PASS, Status.WARN} and not reason.strip():
            raise BadInputError(
                f"the verdict of its run is {info.verdict}: {info.sentence}",
                where=set_id,
                do="calibrate again, or say with --force REASON why it shall be used",
            )
    handle = os.open(root / RECORD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        last = accepted(root, device)
        act = Acceptance(at, who, device, set_id, last.set_id if last is not None else None, reason.strip())
        size = os.fstat(handle).st_size
        whole = os.pread(handle, size, 0).rfind(b"\n") + 1
        os.ftruncate(handle, whole)
        os.pwrite(handle, (json.dumps(act.document(), ensure_ascii=False) + "\n").encode(), whole)
        os.fsync(handle)
    finally:
        os.close(handle)
    return act


def _suits(info: CalibrationSetInfo, *, device: str, is_simulated: bool, root_hash: str) -> None:
    if info.device != device:
        raise BadInputError(f"was made with {info.device!r}, not with {device!r}", where=info.id)
    if info.simulated and not is_simulated:
        raise BadInputError("was made with a simulated device and this one is real", where=info.id)
    if info.root_hash != root_hash:
        raise BadInputError(
            "goes back to another configuration than the device has now",
            where=info.id,
            do="calibrate with the present configuration, or give the device the former one back",
        )
