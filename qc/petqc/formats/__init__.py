"""Readers and writers of event formats: bytes on one side, arrays on the other, in bounded memory.

One module a format. Every reader says where its input is damaged (`Damage`) instead of dropping anything silently.
"""

from __future__ import annotations

from petqc.formats.damage import Damage, DamageLog

__all__ = ["Damage", "DamageLog"]
