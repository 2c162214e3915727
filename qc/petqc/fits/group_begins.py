"""Where groups begin when their members are laid out one group after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from petqc.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def group_begins(group: NDArray[np.int32] | NDArray[np.int64], n_groups: int) -> NDArray[np.int64]:
    """Place of each group's first member, (n_groups + 1,); the last is the number of members.

    Args:
        group: (m,) group of each member, 0 .. n_groups - 1.
        n_groups: how many groups.
    """
    begin = np.zeros(n_groups + 1, np.int64)
    for k in range(group.size):
        begin[group[k] + 1] += 1
    for g in range(n_groups):
        begin[g + 1] += begin[g]
    return begin
