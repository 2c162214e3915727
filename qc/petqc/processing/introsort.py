"""Introsort with the tie order of the GNU C++ library, for comparing with programs that sort with it.

Introsort (D. Musser, 1997) is quicksort that turns to heapsort when it recurses too deep and leaves short runs to one
insertion pass. It is not stable, so where equal keys end up follows from the details: pivot the median of the second,
middle and last element, moved to the front; partition from both ends that stops at equals; runs of 16 or fewer left
alone; depth limit 2 log2 n. These details are the GNU library's, checked against its output in the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAYLOAD_BITS = 16
"""Low bits of each element that are carried along but not compared."""

_SHORT = 16
_STACK = 128  # deeper than 2 log2 of any array that fits a memory


@kernel
def _sift(a: NDArray[np.int64], first: int, hole: int, size: int, value: int) -> None:
    """Put value into the heap a[first : first + size] whose element `hole` is free: down to a leaf, then up again."""
    top = hole
    child = 2 * hole + 2
    while child < size:
        if a[first + child] >> PAYLOAD_BITS < a[first + child - 1] >> PAYLOAD_BITS:
            child -= 1
        a[first + hole] = a[first + child]
        hole = child
        child = 2 * hole + 2
    if child == size:  # a last parent with a left child only
        a[first + hole] = a[first + child - 1]
        hole = child - 1
    while hole > top:
        parent = (hole - 1) // 2
        if a[first + parent] >> PAYLOAD_BITS >= value >> PAYLOAD_BITS:
            break
        a[first + hole] = a[first + parent]
        hole = parent
    a[first + hole] = value


@kernel
def _heapsort(a: NDArray[np.int64], first: int, last: int) -> None:
    size = last - first
    for parent in range(size // 2 - 1, -1, -1):
        _sift(a, first, parent, size, a[first + parent])
    while size > 1:
        size -= 1
        value = a[first + size]
        a[first + size] = a[first]
        _sift(a, first, 0, size, value)


@kernel
def _partition(a: NDArray[np.int64], first: int, last: int) -> np.int64:
    """Move the pivot to a[first], part the rest around it; where the upper part begins."""
    low, middle, high = first + 1, first + (last - first) // 2, last - 1
    x, y, z = a[low] >> PAYLOAD_BITS, a[middle] >> PAYLOAD_BITS, a[high] >> PAYLOAD_BITS
    if x < y < z:
        pick = middle
    elif x < y:
        pick = high if x < z else low
    elif x < z:
        pick = low
    else:
        pick = high if y < z else middle
    a[first], a[pick] = a[pick], a[first]
    pivot = a[first] >> PAYLOAD_BITS
    one = np.uint64(1)  # unsigned indices spare the test for negative ones
    i = np.uint64(first + 1)
    j = np.uint64(last)
    while True:
        while a[i] >> PAYLOAD_BITS < pivot:
            i += one
        j -= one
        while pivot < a[j] >> PAYLOAD_BITS:
            j -= one
        if i >= j:
            return np.int64(i)
        a[i], a[j] = a[j], a[i]
        i += one


@kernel
def introsort(a: NDArray[np.int64], n: int) -> None:
    """Sort a[:n] in place by element >> PAYLOAD_BITS, ties ordered as the GNU C++ library's std::sort orders them."""
    if n < 2:
        return
    stack = np.empty((_STACK, 3), np.int64)
    depth = np.int64(0)
    while (n >> (depth + 1)) > 0:
        depth += 1
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, n, 2 * depth
    pending = 1
    while pending > 0:
        pending -= 1
        first, last, depth = stack[pending, 0], stack[pending, 1], stack[pending, 2]
        while last - first > _SHORT:
            if depth == 0:
                _heapsort(a, first, last)
                break
            depth -= 1
            cut = _partition(a, first, last)
            stack[pending, 0], stack[pending, 1], stack[pending, 2] = cut, last, depth
            pending += 1
            last = cut
    for i in range(1, n):
        j = np.uint64(i)
        value = a[j]
        while j > np.uint64(0) and value >> PAYLOAD_BITS < a[j - np.uint64(1)] >> PAYLOAD_BITS:
            a[j] = a[j - np.uint64(1)]
            j -= np.uint64(1)
        a[j] = value
