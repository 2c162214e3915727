"""numpy's own random numbers, drawn inside a kernel: PCG64 (XSL-RR) and the ziggurats of its Generator.

A kernel that draws from a Generator calls through a pointer for each number. Here a kernel is given the state as a few
words, and drawing is part of its code. It is numpy's stream, number by number and bit by bit.

Source: O'Neill, PCG (2014); Marsaglia and Tsang, The ziggurat method (2000); numpy's distributions, tables from numba.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba.np.random import _constants as ziggurat

from petqc.jit import kernel_inlined
from petqc_simulators.physics.machine import congruence

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOW_FACTOR, _HIGH_FACTOR = np.uint64(4865540595714422341), np.uint64(2549297995355413924)
_WORD = (1 << 64) - 1

# Width of each layer, largest number inside it, density at its edge; where the tail begins.
_EXP_WIDTH, _EXP_INSIDE, _EXP_DENSITY = ziggurat.we_double, ziggurat.ke_double, ziggurat.fe_double
_EXP_END = float(ziggurat.ziggurat_exp_r)
_NORMAL_WIDTH, _NORMAL_INSIDE, _NORMAL_DENSITY = ziggurat.wi_double, ziggurat.ki_double, ziggurat.fi_double
_NORMAL_END, _NORMAL_END_INVERSE = float(ziggurat.ziggurat_nor_r), float(ziggurat.ziggurat_nor_inv_r)


def words_of(rng: np.random.Generator) -> NDArray[np.uint64]:
    """State and increment of a generator, (4,): of both the lower half first."""
    state = rng.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise TypeError(f"a stream of {state['bit_generator']}: kernels draw from PCG64")
    numbers = state["state"]["state"], state["state"]["inc"]
    return np.array([half for number in numbers for half in (number & _WORD, number >> 64)], np.uint64)


def move_on(rng: np.random.Generator, words: NDArray[np.uint64]) -> None:
    """Bring a generator to where a kernel has left its words."""
    state = rng.bit_generator.state
    state["state"]["state"] = int(words[0]) | int(words[1]) << 64
    rng.bit_generator.state = state


@kernel_inlined
def _bits(words: NDArray[np.uint64]) -> np.uint64:
    """The next 64 random bits."""
    congruence(words, _LOW_FACTOR, _HIGH_FACTOR)
    mixed, by = words[0] ^ words[1], words[1] >> np.uint64(58)
    return np.uint64((mixed >> by) | (mixed << ((np.uint64(64) - by) & np.uint64(63))))


@kernel_inlined
def uniform(words: NDArray[np.uint64]) -> float:
    """As Generator.random."""
    return float(np.int64(_bits(words) >> np.uint64(11))) * (1.0 / 9007199254740992.0)


@kernel_inlined
def exponential(words: NDArray[np.uint64]) -> float:
    """As Generator.standard_exponential."""
    while True:
        bits = _bits(words) >> np.uint64(3)
        layer = int(bits & np.uint64(255))
        bits >>= np.uint64(8)
        x = float(np.int64(bits) * _EXP_WIDTH[layer])
        if bits < _EXP_INSIDE[layer]:
            return x
        if layer == 0:
            return _EXP_END - math.log1p(-uniform(words))
        above, below = _EXP_DENSITY[layer - 1], _EXP_DENSITY[layer]
        if (above - below) * uniform(words) + below < math.exp(-x):
            return x


@kernel_inlined
def normal(words: NDArray[np.uint64]) -> float:
    """As Generator.standard_normal."""
    while True:
        bits = _bits(words)
        layer = int(bits & np.uint64(255))
        sign = -1.0 if bits & np.uint64(256) else 1.0
        bits = (bits >> np.uint64(9)) & np.uint64((1 << 52) - 1)
        x = float(np.int64(bits) * _NORMAL_WIDTH[layer])
        if bits < _NORMAL_INSIDE[layer]:
            return sign * x
        if layer == 0:
            sign = -1.0 if bits & np.uint64(256) else 1.0
            return sign * _tail(words)
        above, below = _NORMAL_DENSITY[layer - 1], _NORMAL_DENSITY[layer]
        if (above - below) * uniform(words) + below < math.exp(-0.5 * x * x):
            return sign * x


@kernel_inlined
def _tail(words: NDArray[np.uint64]) -> float:
    """Size of a normal number beyond the end of the ziggurat."""
    while True:
        x = -_NORMAL_END_INVERSE * math.log1p(-uniform(words))
        y = -math.log1p(-uniform(words))
        if y + y > x * x:
            return _NORMAL_END + x
