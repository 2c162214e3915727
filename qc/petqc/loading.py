"""How a process begins: loading modules makes objects that stay, and next to nothing to collect."""

from __future__ import annotations

import gc
from typing import Final

USUAL: Final = gc.get_threshold()
"""Python's own thresholds of collection."""
_WHILE_LOADING: Final = (10_000, 10, 10)


def collect_seldom() -> None:
    """Look for garbage after every 10,000 new objects: by Python's own rule a tenth of a start goes into looking."""
    gc.set_threshold(*_WHILE_LOADING)


def collect_as_usual() -> None:
    """What runs for months collects by Python's own rule, once it is up."""
    gc.set_threshold(*USUAL)
