"""Our introsort orders ties as the GNU C++ library's std::sort does.

The CRC-32 values are those of the permutations (int32) that a program made with GCC 12 printed: std::sort of records
compared by key only, keys from the generator below.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from petqc.processing.introsort import PAYLOAD_BITS, introsort

if TYPE_CHECKING:
    from collections.abc import Iterator

# n, number of distinct keys, CRC-32
# fmt: off
CASES = (
    (2, 1, 0xdd9eb80c), (2, 2, 0xdd9eb80c), (2, 7, 0xa988dff7), (2, 50, 0xa988dff7),
    (2, 1000, 0xdd9eb80c), (2, 1000000, 0xdd9eb80c), (3, 1, 0x1d760e7a), (3, 2, 0x1d760e7a),
    (3, 7, 0x1d760e7a), (3, 50, 0x814ca677), (3, 1000, 0x5b44586e), (3, 1000000, 0x5b44586e),
    (15, 1, 0x07659749), (15, 2, 0xb5246d2e), (15, 7, 0xd9c96f44), (15, 50, 0x1433c0eb),
    (15, 1000, 0x4088eaf8), (15, 1000000, 0x87b98878), (16, 1, 0xe1897cc9), (16, 2, 0x06681dbc),
    (16, 7, 0xd7dc013f), (16, 50, 0x3efbb941), (16, 1000, 0x4f007577), (16, 1000000, 0x6319f8ed),
    (17, 1, 0x4c499877), (17, 2, 0x81fca6cc), (17, 7, 0xb7a93e7f), (17, 50, 0x31cb8dfc),
    (17, 1000, 0x791e8e79), (17, 1000000, 0x1e4b02f8), (18, 1, 0x94c10841), (18, 2, 0xa5ca7843),
    (18, 7, 0x18de4f3d), (18, 50, 0x6763a4cb), (18, 1000, 0xc0eeea54), (18, 1000000, 0x1aa1d672),
    (31, 1, 0x420a5f1b), (31, 2, 0x5987c51a), (31, 7, 0xad1dae2a), (31, 50, 0x5d648b6a),
    (31, 1000, 0xa00337e0), (31, 1000000, 0xb8415a32), (33, 1, 0xbdd97b72), (33, 2, 0xe4c1c58b),
    (33, 7, 0xd49836e2), (33, 50, 0xe0745bf3), (33, 1000, 0x69c495a1), (33, 1000000, 0x90bdb5e1),
    (64, 1, 0xf149536e), (64, 2, 0x45237bcb), (64, 7, 0x8e6304b2), (64, 50, 0x00267f81),
    (64, 1000, 0x4f568741), (64, 1000000, 0x058bdc20), (100, 1, 0xe2cfaad8), (100, 2, 0x7b2ef580),
    (100, 7, 0x59bebd8e), (100, 50, 0x7c5d3604), (100, 1000, 0xde4e94ff), (100, 1000000, 0x15a50150),
    (257, 1, 0x685a8287), (257, 2, 0x598dedbf), (257, 7, 0xd0f220e5), (257, 50, 0x7a984ba0),
    (257, 1000, 0xdb84b70f), (257, 1000000, 0x171c96f2), (1000, 1, 0x9a9dbb53), (1000, 2, 0x378ed734),
    (1000, 7, 0x79d33bbb), (1000, 50, 0xfcdeba60), (1000, 1000, 0x4ab1798c), (1000, 1000000, 0x03a65664),
    (3072, 1, 0x19b4231c), (3072, 2, 0x2ad313ad), (3072, 7, 0x6e1164e1), (3072, 50, 0x9fe33885),
    (3072, 1000, 0x93226820), (3072, 1000000, 0x7f8dcb6b), (10000, 1, 0x0488a704), (10000, 2, 0x3fc72777),
    (10000, 7, 0x59c32b1d), (10000, 50, 0xa6c78d88), (10000, 1000, 0x7e76012d), (10000, 1000000, 0xab1b19c9),
    (30000, 1, 0xd8738327), (30000, 2, 0x049f05fd), (30000, 7, 0x8f7e0be9), (30000, 50, 0x483c6c90),
    (30000, 1000, 0x777d49bf), (30000, 1000000, 0x5f765561),
)

# Keys that drive the median of three to its worst case (McIlroy's adversary), so that the heap is used.
KILLER = (
    315, 1, 229, 3, 357, 5, 227, 7, 313, 9, 225, 11, 389, 13, 223, 15, 311, 17, 221, 19, 355, 21, 219, 23, 309,
    25, 217, 27, 377, 29, 32, 31, 398, 396, 394, 392, 390, 388, 386, 384, 382, 380, 378, 376, 374, 372, 370, 368,
    366, 364, 362, 360, 358, 356, 354, 352, 350, 348, 346, 344, 342, 340, 338, 336, 334, 332, 330, 328, 326, 324,
    322, 320, 318, 316, 314, 312, 310, 308, 306, 304, 302, 300, 298, 296, 294, 292, 290, 288, 286, 284, 282, 280,
    278, 276, 274, 272, 270, 268, 266, 264, 262, 260, 258, 256, 254, 252, 250, 248, 246, 244, 242, 240, 238, 236,
    234, 232, 230, 228, 226, 224, 222, 220, 218, 307, 353, 305, 397, 303, 351, 301, 375, 299, 349, 297, 387, 295,
    347, 293, 373, 291, 345, 289, 393, 287, 343, 285, 371, 283, 341, 281, 385, 279, 339, 277, 369, 275, 337, 273,
    400, 271, 335, 269, 367, 267, 333, 265, 383, 263, 331, 261, 365, 259, 329, 257, 391, 255, 327, 253, 363, 251,
    325, 249, 381, 247, 323, 245, 361, 243, 321, 241, 395, 239, 319, 237, 359, 235, 317, 233, 379, 231, 0, 2, 4,
    6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 216, 213, 214, 211, 212, 209, 210, 207, 208, 205, 206, 203,
    204, 201, 202, 199, 200, 197, 198, 195, 196, 193, 194, 191, 192, 189, 190, 187, 188, 185, 186, 183, 184, 181,
    182, 179, 180, 177, 178, 175, 176, 173, 174, 171, 172, 169, 170, 167, 168, 165, 166, 163, 164, 161, 162, 159,
    160, 157, 158, 155, 156, 153, 154, 151, 152, 149, 150, 147, 148, 145, 146, 143, 144, 141, 142, 139, 140, 137,
    138, 135, 136, 133, 134, 131, 132, 129, 130, 127, 128, 125, 126, 123, 124, 121, 122, 119, 120, 117, 118, 115,
    116, 113, 114, 111, 112, 109, 110, 107, 108, 105, 106, 103, 104, 101, 102, 99, 100, 97, 98, 95, 96, 93, 94,
    91, 92, 89, 90, 87, 88, 85, 86, 83, 84, 81, 82, 79, 80, 77, 78, 75, 76, 73, 74, 71, 72, 69, 70, 67, 68, 65,
    66, 63, 64, 61, 62, 59, 60, 57, 58, 55, 56, 53, 54, 51, 52, 49, 50, 47, 48, 45, 46, 43, 44, 41, 42, 39, 40,
    37, 38, 35, 36, 33, 34, 215,
)
# fmt: on
KILLER_CRCS = {1: 0xA1093C5E, 3: 0x863C3F3F, 10: 0x34E89AB8}


def random() -> Iterator[int]:
    state = 1
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33


def crc_of_order(keys: list[int]) -> int:
    packed = np.array([key << PAYLOAD_BITS | i for i, key in enumerate(keys)], np.int64)
    introsort(packed, len(keys))
    assert (np.diff(packed >> PAYLOAD_BITS) >= 0).all()
    return zlib.crc32((packed & ((1 << PAYLOAD_BITS) - 1)).astype("<i4").tobytes())


def test_ties_come_out_as_from_the_library() -> None:
    numbers = random()
    for n, distinct, crc in CASES:
        keys = [next(numbers) % distinct for _ in range(n)]
        assert crc_of_order(keys) == crc, (n, distinct)


@pytest.mark.parametrize("divisor", sorted(KILLER_CRCS))
def test_worst_case_turns_to_the_heap_with_the_same_order(divisor: int) -> None:
    assert crc_of_order([key // divisor for key in KILLER]) == KILLER_CRCS[divisor]


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_sort(n: int) -> None:
    packed = np.full(n, 7, np.int64)
    introsort(packed, n)
    np.testing.assert_array_equal(packed, 7)
