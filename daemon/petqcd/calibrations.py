"""Which calibration set the device uses: accepting one, and what monitoring is told about its age."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any

from petqcd import clock

if TYPE_CHECKING:
    from petqc.calibrate.accepted import Acceptance
    from petqcd.config import PetqcConfig
    from petqcd.metrics import Metrics
    from petqcd.readout.supervisor import DeviceSupervisor
    from petqcd.store import Store

ENDPOINT_DEADLINE_S = 8.0


class Calibrations:
    """The calibration sets of one device.

    Args:
        config: petqc.toml.
        store: where the sets are.
        metrics: where their ages are published.
        device: the device, which knows its own configuration.
    """

    def __init__(self, config: PetqcConfig, store: Store, metrics: Metrics, device: DeviceSupervisor) -> None:
        self._config = config
        self._store = store
        self._metrics = metrics
        self._device = device
        self.in_use: str | None = None
        """The set that is accepted; None: the device's own configuration."""

    async def accept(self, set_id: str | None, *, who: str, reason: str) -> Acceptance:
        """Make a set the one that later runs use; None: the device's own configuration.

        Raises:
            BadInputError: there is no such set, or it must not be used.
            UnreachableError: it is not known what the device's own configuration is.
        """
        endpoint = await self._device.endpoint(ENDPOINT_DEADLINE_S)

        def work() -> Acceptance:
            from petqc.calibrate.accepted import accept
            from petqc.formats.petsys_config import load_config

            board = self._config.board
            return accept(
                self._store.sets,
                set_id,
                device=board.name,
                is_simulated=board.is_simulated,
                root_hash=load_config(endpoint.config_ini).config_hash,
                who=who,
                at=clock.utc_text(),
                reason=reason,
            )

        act = await asyncio.to_thread(work)
        await self.publish()
        return act

    def listing(self) -> dict[str, Any]:
        """Every set, newest first, and the act that says which one is used; reads files."""
        from petqc.calibrate.accepted import accepted
        from petqc.calibrate.sets import list_sets

        found = list_sets(self._store.sets)
        act = accepted(self._store.sets, self._config.board.name)
        return {
            "sets": [info.document() for info in reversed(found.sets)],
            "junk": found.junk,
            "accepted": None if act is None else act.document(),
        }

    async def publish(self) -> None:
        """Tell monitoring when what the device uses was made, kind by kind."""
        self.in_use, made = await asyncio.to_thread(self._made)
        for kind, made_unix_s in made.items():
            self._metrics.set("petqc_calibration_made_timestamp_seconds", made_unix_s, kind=kind)

    def _made(self) -> tuple[str | None, dict[str, float]]:
        """The accepted set; when the newest set of each kind in its chain was made, 0: there is none."""
        from petqc.calibrate.accepted import accepted
        from petqc.calibrate.sets import KINDS, chain_of
        from petqc.errors import BadInputError

        made = dict.fromkeys(KINDS, 0.0)
        in_use: str | None = None
        try:
            act = accepted(self._store.sets, self._config.board.name)
            in_use = None if act is None else act.set_id
            for info in chain_of(self._store.sets, in_use):
                made[info.kind] = made[info.kind] or datetime.fromisoformat(info.created_at).timestamp()
        except BadInputError:
            made = dict.fromkeys(KINDS, 0.0)  # a run will refuse it and say why
        return in_use, made
