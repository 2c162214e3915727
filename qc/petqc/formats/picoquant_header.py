"""Headers of PicoQuant time-tag files: the tagged header of .ptu and the fixed one of PicoHarp .pt3.

Source: PicoQuant unified file header (tag types, TTTR record types) and PicoHarp 300 file format 2.0 (.pt3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from petqc.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

PTU_MAGIC: Final = b"PQTTTR\0\0"
_MAX_TAGS = 10_000
_MAX_BLOB = 16 << 20
# Units of time that no device has lie outside; a header that says so is damaged.
_SHORTEST_S, _LONGEST_S = 1e-18, 1.0
_TAG = struct.Struct("<32siIq")

_BOOL, _INT, _BITSET, _COLOR = 0x00000008, 0x10000008, 0x11000008, 0x12000008
_FLOAT, _DATE = 0x20000008, 0x21000008
_FLOATS, _ANSI, _WIDE, _BLOB = 0x2001FFFF, 0x4001FFFF, 0x4002FFFF, 0xFFFFFFFF
_EMPTY = 0xFFFF0008

PT3_TEXT: Final = struct.Struct("<16s6s18s12s18s2s256s")
PT3_SETTINGS: Final = struct.Struct("<18i 16i 9f 4i 20s")
PT3_BOARD: Final = struct.Struct("<16s8s 6i f 2i 24i")
PT3_TTTR: Final = struct.Struct("<9i")


@dataclass(frozen=True, slots=True)
class RecordType:
    """How the 32-bit records of one kind of device are laid out.

    t3: counts of sync periods and a delay instead of a time. picoharp: 4 bits of channel, else 1 special bit and 6
    bits of channel. wrap: what an overflow adds. counted: the overflow record says how many there were.
    """

    name: str
    t3: bool
    picoharp: bool
    wrap: int
    counted: bool


RECORD_TYPES: Final[Mapping[int, RecordType]] = {
    0x00010303: RecordType("PicoHarp T3", t3=True, picoharp=True, wrap=1 << 16, counted=False),
    0x00010203: RecordType("PicoHarp T2", t3=False, picoharp=True, wrap=210_698_240, counted=False),
    0x00010304: RecordType("HydraHarp 1 T3", t3=True, picoharp=False, wrap=1 << 10, counted=False),
    0x00010204: RecordType("HydraHarp 1 T2", t3=False, picoharp=False, wrap=33_552_000, counted=False),
    0x01010304: RecordType("HydraHarp 2 T3", t3=True, picoharp=False, wrap=1 << 10, counted=True),
    0x01010204: RecordType("HydraHarp 2 T2", t3=False, picoharp=False, wrap=1 << 25, counted=True),
    0x00010305: RecordType("TimeHarp 260 N T3", t3=True, picoharp=False, wrap=1 << 10, counted=True),
    0x00010205: RecordType("TimeHarp 260 N T2", t3=False, picoharp=False, wrap=1 << 25, counted=True),
    0x00010306: RecordType("TimeHarp 260 P T3", t3=True, picoharp=False, wrap=1 << 10, counted=True),
    0x00010206: RecordType("TimeHarp 260 P T2", t3=False, picoharp=False, wrap=1 << 25, counted=True),
    0x00010307: RecordType("Generic T3", t3=True, picoharp=False, wrap=1 << 10, counted=True),
    0x00010207: RecordType("Generic T2", t3=False, picoharp=False, wrap=1 << 25, counted=True),
}


@dataclass(frozen=True, slots=True)
class TttrHeader:
    """What a file says of its records.

    tags: all header entries by name, `name[index]` where the file numbers them. global_resolution_ps: unit of a T2
    time, period of the sync of a T3 file. resolution_ps: unit of a T3 delay (equal to the former in T2).
    n_records: as written, 0 if not. data_offset: byte where the records begin.
    """

    record_type: RecordType
    tags: Mapping[str, Any]
    global_resolution_ps: float
    resolution_ps: float
    n_records: int
    data_offset: int


def read_header(file: BinaryIO, where: str) -> TttrHeader:
    """Read the header of a .ptu or .pt3 file, from its first byte.

    Raises:
        BadInputError: neither of the two, cut off, or without what the records cannot be read without.
    """
    start = file.read(16)
    file.seek(0)
    if start.startswith(PTU_MAGIC):
        return _ptu(file, where)
    if start.rstrip(b"\0").startswith(b"PicoHarp 300"):
        return _pt3(file, where)
    raise BadInputError(
        f"begins with {start!r}: neither a .ptu nor a PicoHarp .pt3 file", where=f"{where} byte 0", do="check the file"
    )


def _ptu(file: BinaryIO, where: str) -> TttrHeader:
    file.read(16)
    tags: dict[str, Any] = {}
    for _ in range(_MAX_TAGS):
        at = file.tell()
        raw = file.read(_TAG.size)
        if len(raw) < _TAG.size:
            raise BadInputError("the header ends in the middle of a tag", where=f"{where} byte {at}")
        ident, index, kind, value = _TAG.unpack(raw)
        name = ident.split(b"\0", 1)[0].decode("ascii", "replace")
        if name == "Header_End":
            return _from_tags(tags, file.tell(), where)
        key = name if index < 0 else f"{name}[{index}]"
        tags[key] = _value(file, kind, value, f"{where} byte {at}: tag {name!r}")
    raise BadInputError(f"more than {_MAX_TAGS} tags and no end of the header", where=where)


def _value(file: BinaryIO, kind: int, value: int, where: str) -> Any:
    if kind == _EMPTY:
        return None
    if kind == _BOOL:
        return bool(value)
    if kind in (_INT, _BITSET, _COLOR):
        return value
    if kind in (_FLOAT, _DATE):
        return struct.unpack("<d", struct.pack("<q", value))[0]
    if kind not in (_FLOATS, _ANSI, _WIDE, _BLOB):
        raise BadInputError(f"type {kind:#010x} does not exist", where=where)
    if not 0 <= value <= _MAX_BLOB:
        raise BadInputError(f"a value of {value} bytes is impossible", where=where)
    blob = file.read(value)
    if len(blob) < value:
        raise BadInputError(f"the header ends {value - len(blob)} bytes too early", where=where)
    if kind == _ANSI:
        return blob.split(b"\0", 1)[0].decode("latin-1")
    if kind == _WIDE:
        return blob[: len(blob) // 2 * 2].decode("utf-16-le", "replace").split("\0", 1)[0]
    if kind == _FLOATS:
        return struct.unpack(f"<{value // 8}d", blob[: value // 8 * 8])
    return blob


def _from_tags(tags: dict[str, Any], data_offset: int, where: str) -> TttrHeader:
    kind = tags.get("TTResultFormat_TTTRRecType")
    record_type = RECORD_TYPES.get(kind) if isinstance(kind, int) else None
    if record_type is None:
        shown = f"{kind:#010x}" if isinstance(kind, int) else repr(kind)
        raise BadInputError(f"records of type {shown} are not known", where=where)
    unit = tags.get("MeasDesc_GlobalResolution")
    if not isinstance(unit, float) or not _SHORTEST_S <= unit <= _LONGEST_S:
        raise BadInputError(f"MeasDesc_GlobalResolution is {unit!r}, not a time in seconds", where=where)
    fine = tags.get("MeasDesc_Resolution") if record_type.t3 else unit
    if not isinstance(fine, float) or not _SHORTEST_S <= fine <= _LONGEST_S:
        raise BadInputError(f"MeasDesc_Resolution is {fine!r}, not a time in seconds", where=where)
    count = tags.get("TTResult_NumberOfRecords", 0)
    return TttrHeader(
        record_type, tags, unit * 1e12, fine * 1e12, count if isinstance(count, int) and count > 0 else 0, data_offset
    )


def _pt3(file: BinaryIO, where: str) -> TttrHeader:
    size = PT3_TEXT.size + PT3_SETTINGS.size + PT3_BOARD.size + PT3_TTTR.size
    raw = file.read(size)
    if len(raw) < size:
        raise BadInputError(f"the header has {len(raw)} bytes of {size}", where=where)
    at = PT3_TEXT.size
    ident, version, creator, creator_version, file_time, _, comment = map(_text, PT3_TEXT.unpack_from(raw))
    settings = PT3_SETTINGS.unpack_from(raw, at)
    board = PT3_BOARD.unpack_from(raw, at + PT3_SETTINGS.size)
    _, _, _, rate0, rate1, _, stop_reason, count, extra = PT3_TTTR.unpack_from(raw, size - PT3_TTTR.size)
    n_boards, mode, resolution_ns = settings[3], settings[5], board[8]
    if version != "2.0" or n_boards != 1:
        raise BadInputError(f"PicoHarp file format {version!r} with {n_boards} boards", where=where, do="2.0 is read")
    if mode not in (2, 3):
        raise BadInputError(f"measurement mode {mode} is neither T2 nor T3", where=where)
    if not 0 <= extra < 1 << 20:
        raise BadInputError(f"{extra} words of image header are impossible", where=f"{where} byte {size - 4}")
    if mode == 3 and (rate0 <= 0 or not _SHORTEST_S <= resolution_ns * 1e-9 <= _LONGEST_S):
        raise BadInputError(f"sync rate {rate0} /s and resolution {resolution_ns} ns give no times", where=where)
    # T2 of a PicoHarp 300 counts in units of 4 ps; T3 counts sync periods.
    unit_ps = 1e12 / rate0 if mode == 3 else 4.0
    tags = {
        "Ident": ident,
        "FormatVersion": version,
        "CreatorName": creator,
        "CreatorVersion": creator_version,
        "FileTime": file_time,
        "Comment": comment,
        "AcquisitionTime": settings[9],
        "MeasurementMode": mode,
        "RoutingChannels": settings[2],
        "HardwareIdent": _text(board[0]),
        "HardwareSerial": board[2],
        "Resolution": resolution_ns,
        "InpRate0": rate0,
        "InpRate1": rate1,
        "StopReason": stop_reason,
        "NumRecords": count,
    }
    return TttrHeader(
        RECORD_TYPES[0x00010303 if mode == 3 else 0x00010203],
        tags,
        unit_ps,
        resolution_ns * 1e3 if mode == 3 else unit_ps,
        max(0, count),
        size + 4 * extra,
    )


def _text(raw: Any) -> str:
    return raw.split(b"\0", 1)[0].decode("latin-1").strip() if isinstance(raw, bytes) else str(raw)
