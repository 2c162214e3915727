"""What the bias mezzanines of a board say about themselves: which they are, and the calibration in their PROM.

The calibration that is configured must be that of the mezzanine that is plugged: a table of another one sets every
output to a wrong voltage, and nothing later would show it.

Source: TOFPET2 interface reference (vendor software revision 194662e, protocol 0x0104), sections 4.2 (0x0030) and 4.9.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from petqc_drivers.errors import RemoteProtocolError, WrongIdentityError
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve
from petqc_drivers.petsys.mezzanines import IDENTIFY_BY_PROM, PROM_MAGIC_BYTES, interface_nibble, mezzanine_name
from petqc_drivers.petsys.spi import bias_prom, m95256_read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc_drivers.petsys.board import Board
    from petqc_drivers.petsys.mezzanines import BiasKind

OLD_MAGIC: Final = b"PETSYS  "
"""How the PROM of an older mezzanine begins; the version of its layout follows."""
OLD_LAYOUT: Final = 1
PROM_BYTES: Final = 1 << 15
FULL_SCALE_V: Final = 100.0
"""Voltage that the largest number of a calibration would be."""
TOLERANCE_V: Final = 0.05
"""How far a configured calibration may be from that in the PROM. One that was made from it is within a microvolt, that
of another mezzanine some hundred millivolt off, and one that was measured again in between."""
_COUNTS_AT, _CODES_AT = 0x10, 0x20
_ERASED: Final = (1 << 64) - 1


async def _read(board: Board, slot: int, address: int, n_bytes: int) -> bytes:
    """Bytes of the PROM of a slot; both numbers are even."""
    found = b""
    for place in range(address, address + n_bytes, 2):
        word = await board.spi(m95256_read(bias_prom(slot), place), f"PROM of bias slot {slot}")
        found += word.to_bytes(2, "big")
    return found


async def identify_mezzanines(board: Board, slots: int) -> tuple[str, ...]:
    """Name of what is in each slot; changes nothing."""
    names: list[str] = []
    for slot in range(slots):
        nibble = interface_nibble(await board.read("bias_interface"), slot)
        magic = await _read(board, slot, 0, PROM_MAGIC_BYTES) if nibble == IDENTIFY_BY_PROM else None
        names.append(mezzanine_name(nibble, magic))
    return tuple(names)


def parse_calibration(data: bytes, n_channels: int, n_points: int) -> dict[int, list[tuple[int, float]]]:
    """Points of each channel from the codes and voltages as they stand in a PROM.

    Args:
        data: From the first code on.
        n_channels: How many channels it is for.
        n_points: How many points each has.
    """
    codes = struct.unpack_from(f"<{n_points}H", data)
    steps = struct.unpack_from(f"<{n_channels * n_points}I", data, 2 * n_points)
    return {
        channel: [
            (code, step * FULL_SCALE_V / (1 << 32))
            for code, step in zip(codes, steps[channel * n_points : (channel + 1) * n_points], strict=True)
        ]
        for channel in range(n_channels)
    }


async def read_calibration(board: Board, slot: int, kind: BiasKind) -> dict[int, BiasCurve] | None:
    """Curves of all outputs from the mezzanine's own PROM; None if the kind has no PROM, or it was never written.

    Raises:
        RemoteProtocolError: If the PROM holds something else than a calibration of this kind.
    """
    base = kind.prom_layout_at
    if base is None:
        return None
    where = f"{board.name}, PROM of bias slot {slot}"
    if base == 0:
        begin = await _read(board, slot, 0, len(OLD_MAGIC) + 8)
        if begin == b"\xff" * len(begin):
            return None
        if begin != OLD_MAGIC + OLD_LAYOUT.to_bytes(8, "little"):
            raise RemoteProtocolError(f"begins {begin.hex()}, which is no layout that is known", device=where)
    counts = await _read(board, slot, base + _COUNTS_AT, 16)
    n_channels, n_points = struct.unpack("<QQ", counts)
    if (n_channels, n_points) == (_ERASED, _ERASED):
        return None
    size = n_points * (2 + 4 * n_channels)
    if n_channels != kind.n_channels or n_points < 2 or size > PROM_BYTES - base - _CODES_AT:
        raise RemoteProtocolError(
            f"{n_points} points of {n_channels} channels cannot be a calibration of {kind.name}",
            device=where,
            do="check the seat of the mezzanine",
        )
    points = parse_calibration(await _read(board, slot, base + _CODES_AT, size), n_channels, n_points)
    try:
        return {channel: BiasCurve(tuple(found)) for channel, found in points.items()}
    except ValueError as error:
        raise RemoteProtocolError(str(error), device=where, do="check the seat of the mezzanine") from error


def check_agreement(
    channel: BiasChannel, configured: BiasCurve, from_prom: BiasCurve, tolerance_v: float = TOLERANCE_V
) -> None:
    """Refuse a configured calibration that is not that of the mezzanine.

    They are compared at every point of either where both are defined.

    Raises:
        WrongIdentityError: If they differ by more than the tolerance, or share no range.
    """
    low = max(configured.points[0][0], from_prom.points[0][0])
    high = min(configured.points[-1][0], from_prom.points[-1][0])
    codes = sorted({code for curve in (configured, from_prom) for code, _ in curve.points if low <= code <= high})
    if not codes:
        raise WrongIdentityError("the configured calibration and that in the PROM share no code", device=str(channel))
    worst = max(codes, key=lambda code: abs(configured.volts_for(code) - from_prom.volts_for(code)))
    ours_v, theirs_v = configured.volts_for(worst), from_prom.volts_for(worst)
    if abs(ours_v - theirs_v) > tolerance_v:
        raise WrongIdentityError(
            f"the configured calibration gives {ours_v:.4f} V for code {worst}, its own PROM {theirs_v:.4f} V",
            device=str(channel),
            do="the table belongs to another mezzanine: make it anew from the PROM",
        )


async def check_mezzanine(
    board: Board, slot: int, kind: BiasKind, configured: Mapping[BiasChannel, BiasCurve], tolerance_v: float
) -> bool:
    """Compare the configured calibrations of a slot with its PROM; whether there was a PROM to compare with.

    Raises:
        WrongIdentityError: If one is not that of the mezzanine.
        RemoteProtocolError: If the PROM cannot be read.
    """
    found = await read_calibration(board, slot, kind)
    if found is None:
        return False
    for channel, curve in sorted(configured.items()):
        if channel.slot == slot and channel.channel in found:
            check_agreement(channel, curve, found[channel.channel], tolerance_v)
    return True
