"""The compact forms of PETsys event files: counts once, then one single for each hit.

Both forms are turned into the records of the plain files and back: a group gives n records, a coincidence the hits
(m, 0) and (0, n), which name every hit of both photons.
Source: PETsys sw_daq_tofpet2 revision 194662e, processed output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from petqc.errors import BadInputError
from petqc.formats.petsys_events import COINCIDENCE, GROUP, SINGLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST: Final = 2 + 16 * 510
"""Bytes of the longest compact record: two counts and 255 hits for each."""


def expand_groups(counts: NDArray[np.int64], hits: NDArray[Any]) -> NDArray[Any]:
    """Records of a plain group file.

    Args:
        counts: (g,) hits in each group.
        hits: (sum of counts,) SINGLE records.
    """
    out = np.empty(hits.size, GROUP)
    out["n"] = np.repeat(counts, counts)
    out["index"] = np.arange(hits.size) - np.repeat(np.cumsum(counts) - counts, counts)
    for name in ("time_ps", "energy", "channel"):
        out[name] = hits[name]
    return out


def expand_coincidences(counts: NDArray[np.int64], hits: NDArray[Any]) -> NDArray[Any]:
    """Records of a plain coincidence file: hit 0 of a with every hit of b, then the other hits of a with hit 0 of b.

    Args:
        counts: (g, 2) hits of photon a and b of each coincidence, 1 at least.
        hits: (sum of counts,) SINGLE records, those of a before those of b.
    """
    n_a, n_b = counts[:, 0], counts[:, 1]
    records = n_a + n_b - 1
    first_hit = np.cumsum(n_a + n_b) - (n_a + n_b)
    within = np.arange(int(records.sum())) - np.repeat(np.cumsum(records) - records, records)
    n_b_each = np.repeat(n_b, records)
    index_b = np.where(within < n_b_each, within, 0)
    index_a = np.where(within < n_b_each, 0, within - n_b_each + 1)
    out = np.empty(within.size, COINCIDENCE)
    out["n_a"], out["n_b"] = np.repeat(n_a, records), n_b_each
    out["index_a"], out["index_b"] = index_a, index_b
    start = np.repeat(first_hit, records)
    a, b = hits[start + index_a], hits[start + np.repeat(n_a, records) + index_b]
    for name, column in (("time_ps", "time_{}_ps"), ("energy", "energy_{}"), ("channel", "channel_{}")):
        out[column.format("a")] = a[name]
        out[column.format("b")] = b[name]
    return out


def fold_groups(records: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Counts and hits of whole groups; the opposite of expand_groups.

    Raises:
        BadInputError: a group is not whole.
    """
    starts = np.flatnonzero(records["index"] == 0)
    counts = np.diff(np.append(starts, records.size))
    if records.size and (starts.size == 0 or starts[0] != 0):
        raise BadInputError("the first record is not the first hit of a group", do="write whole groups at a time")
    if not (records["n"] == np.repeat(counts, counts)).all():
        raise BadInputError("a group does not have the hits that it counts", do="the compact form holds whole groups")
    hits = np.empty(records.size, SINGLE)
    for name in ("time_ps", "energy", "channel"):
        hits[name] = records[name]
    return counts.astype(np.int64), hits


def fold_coincidences(records: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Counts and hits of whole coincidences; the opposite of expand_coincidences.

    Raises:
        BadInputError: the records are not whole coincidences.
    """
    starts = np.flatnonzero((records["index_a"] == 0) & (records["index_b"] == 0))
    counts = np.stack([records["n_a"][starts], records["n_b"][starts]], axis=1).astype(np.int64)
    hits = np.empty(int(counts.sum()), SINGLE)
    n_hits = counts.sum(axis=1)
    first_hit = np.cumsum(n_hits) - n_hits
    event = np.cumsum((records["index_a"] == 0) & (records["index_b"] == 0)) - 1
    whole = "the compact form holds whole coincidences"
    if records.size and event[0] < 0:
        raise BadInputError(
            "the first record is not the first of a coincidence", do="write whole coincidences at a time"
        )
    if int((n_hits - 1).sum()) != records.size or (counts < 1).any():
        raise BadInputError("a coincidence does not have the records that its counts give", do=whole)
    to_a = first_hit[event] + records["index_a"]
    to_b = first_hit[event] + counts[event, 0] + records["index_b"]
    if (to_b >= (first_hit + n_hits)[event]).any() or (to_a >= (first_hit + counts[:, 0])[event]).any():
        raise BadInputError("a record names a hit that its coincidence does not have", do=whole)
    for name, column in (("time_ps", "time_{}_ps"), ("energy", "energy_{}"), ("channel", "channel_{}")):
        hits[name][to_a] = records[column.format("a")]
        hits[name][to_b] = records[column.format("b")]
    if not np.array_equal(expand_coincidences(counts, hits), records):
        raise BadInputError(
            "records of one coincidence are not in the file's order, or contradict each other", do=whole
        )
    return counts, hits


def pack(counts: NDArray[np.int64], hits: NDArray[Any]) -> bytes:
    """The bytes of compact records: counts (g,) or (g, 2), hits as SINGLE records."""
    table = counts[:, None] if counts.ndim == 1 else counts
    head = table.shape[1]
    raw = hits.view(np.uint8).reshape(-1, SINGLE.itemsize)
    n_hits = table.sum(axis=1)
    size = head + n_hits * SINGLE.itemsize
    start = np.cumsum(size) - size
    out = np.empty(int(size.sum()), np.uint8)
    out[start[:, None] + np.arange(head)] = table
    first = np.cumsum(n_hits) - n_hits
    at = np.repeat(start + head, n_hits) + (np.arange(hits.size) - np.repeat(first, n_hits)) * SINGLE.itemsize
    out[at[:, None] + np.arange(SINGLE.itemsize)] = raw
    return out.tobytes()


def unpack(data: NDArray[np.uint8], head: int) -> tuple[NDArray[np.int64], NDArray[Any], int]:
    """Whole compact records from the first byte on.

    Args:
        data: (n,) uint8.
        head: counts in front of each record, 1 (groups) or 2 (coincidences).

    Returns:
        Counts (g,) or (g, 2), hits as SINGLE records, and the bytes used. Ends before a record with a count of 0.
    """
    content, size = data.tobytes(), data.size
    starts = []
    at = 0
    while at + head <= size:
        counts_here = content[at : at + head]
        following = at + head + SINGLE.itemsize * sum(counts_here)
        if following > size or not all(counts_here):
            break
        starts.append(at)
        at = following
    start = np.array(starts, np.int64)
    counts = data[start[:, None] + np.arange(head)].astype(np.int64)
    n_hits = counts.sum(axis=1)
    first = np.cumsum(n_hits) - n_hits
    places = (
        np.repeat(start + head, n_hits) + (np.arange(int(n_hits.sum())) - np.repeat(first, n_hits)) * SINGLE.itemsize
    )
    hits = data[places[:, None] + np.arange(SINGLE.itemsize)].reshape(-1).view(SINGLE)
    return counts[:, 0] if head == 1 else counts, hits, at
