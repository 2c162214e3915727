"""Raw recordings to calibrated events in the vendor's file forms: the engine of `petqc convert`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from petqc.calibration import CalibrationSet, acquisition_of
from petqc.errors import BadInputError
from petqc.feeding import feed_step
from petqc.formats.petsys_config import PetsysConfig, load_config
from petqc.formats.petsys_events import DTYPES
from petqc.formats.petsys_ldat import open_event_writer
from petqc.formats.petsys_raw import RawReader
from petqc.processing import ProcessingSettings, Processor

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray

    from petqc.events import EnergyUnit
    from petqc.formats.damage import Damage
    from petqc.formats.petsys_event_text import TextWriter
    from petqc.formats.petsys_ldat_write import LdatWriter
    from petqc.processing import Processed, ProcessingAccount
    from petqc.processing.vendor_mode import VendorEvents

Target = Literal["singles", "groups", "coincidences"]


@dataclass(frozen=True, slots=True)
class ConvertSummary:
    """What a conversion did.

    path: the file written. records: records in it. account: where every frame and hit went. energy_unit: of the
    energies written. damages: places of the recording that could not be used. warnings: about its companions and the
    configuration.
    """

    path: Path
    records: int
    account: ProcessingAccount
    energy_unit: EnergyUnit
    damages: tuple[Damage, ...]
    warnings: tuple[str, ...]


def convert(
    path: str | os.PathLike[str],
    to: Target,
    *,
    config: PetsysConfig | str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: ProcessingSettings | None = None,
    vendor_compatible: bool = False,
    text: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ConvertSummary:
    """Convert a raw recording.

    Args:
        path: the .rawf file.
        to: "singles" are calibrated hits, as the vendor's converter of that name gives them; "groups" are photons;
            "coincidences" are prompt pairs of photons.
        config: the configuration with the calibrations, or the path of its config.ini.
        out: the file to write; binary gets the suffix .ldat and a .lidx beside it, text exactly this name.
        settings: what makes a single and a coincidence; None takes the configuration's.
        vendor_compatible: the vendor's semantics, record by record. There a record has the energy of the strongest
            hit; in petqc mode it has the sum over the photon's hits.
        text: tab-separated text instead of binary.
        progress: called with bytes of the recording read so far and its size.

    Raises:
        BadInputError: the recording, the configuration or a calibration it needs cannot be used, or the output cannot
            be written. What is damaged in the middle is passed over and stands in the summary.
    """
    if to not in {"singles", "groups", "coincidences"}:
        raise BadInputError(f"cannot convert to {to!r}", do="give singles, groups or coincidences")
    loaded = config if isinstance(config, PetsysConfig) else load_config(Path(config))
    wanted = replace(settings or ProcessingSettings.from_config(loaded), vendor_compatible=vendor_compatible)
    with RawReader(path) as reader:
        wanted = replace(wanted, clock_hz=float(reader.header.frequency_hz))
        calibration = CalibrationSet.from_config(loaded, acquisition=acquisition_of(reader.header, reader.modes))
        chain: _Chain = (_VendorChain if vendor_compatible else _PetqcChain)(
            calibration, wanted, reader.header.trigger_id, to
        )
        with open_event_writer(out, to, text=text) as writer:
            damages: list[Damage] = []
            before = 0
            for number, step in enumerate(reader.steps):
                writer.start_step(step.step1, step.step2)
                _convert_step(reader, number, chain, writer, before, progress)
                writer.end_step()
                damages += reader.damages
                before += step.end - step.begin
        warnings = (*loaded.warnings, *reader.warnings)
    return ConvertSummary(writer.path, writer.records, chain.account, chain.unit, tuple(damages), warnings)


def _convert_step(
    reader: RawReader,
    number: int,
    chain: _Chain,
    writer: LdatWriter | TextWriter,
    bytes_before: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    for records in feed_step(reader, number, chain.feed, chain.end):
        writer.write(records)
        if progress is not None:
            progress(bytes_before + reader.bytes_read, reader.size)


class _PetqcChain:
    """Records from petqc mode."""

    def __init__(
        self, calibration: CalibrationSet, settings: ProcessingSettings, trigger_id: int | None, to: Target
    ) -> None:
        self._to = to
        self._processor = Processor(calibration, settings, trigger_id=trigger_id, keep_hits=to == "singles")
        self.unit: EnergyUnit = calibration.energy_unit

    @property
    def account(self) -> ProcessingAccount:
        return self._processor.account

    def feed(self, words: NDArray[np.uint64]) -> NDArray[Any]:
        return self._records(self._processor.feed(words))

    def end(self, last_frame: int | None) -> NDArray[Any]:
        return self._records(self._processor.end_step(last_frame))

    def _records(self, processed: Processed) -> NDArray[Any]:
        if self._to == "singles" and processed.hits is not None:
            hits = processed.hits
            return _filled("singles", time_ps=hits.time_ps, energy=hits.energy, channel=hits.channel)
        if self._to == "groups":
            photons = processed.singles
            return _filled(
                "groups", n=photons.n_hits, time_ps=photons.time_ps, energy=photons.energy, channel=photons.channel
            )
        pairs = processed.prompts
        return _filled(
            "coincidences",
            n_a=pairs.n_hits_a,
            time_a_ps=pairs.time_a_ps,
            energy_a=pairs.energy_a,
            channel_a=pairs.channel_a,
            n_b=pairs.n_hits_b,
            time_b_ps=pairs.time_b_ps,
            energy_b=pairs.energy_b,
            channel_b=pairs.channel_b,
        )


class _VendorChain:
    """Records from the vendor's semantics, the strongest hit of each photon."""

    def __init__(
        self, calibration: CalibrationSet, settings: ProcessingSettings, trigger_id: int | None, to: Target
    ) -> None:
        from petqc.processing.vendor_mode import VENDOR_UNITS, VendorChain

        self._to = to
        self._chain = VendorChain(calibration, settings, trigger_id)
        self._counts = {"singles": 0, "singles_in_window": 0, "prompts": 0}
        self.unit: EnergyUnit = VENDOR_UNITS[calibration.acquisition]

    @property
    def account(self) -> ProcessingAccount:
        return self._chain.account(**self._counts)

    def feed(self, words: NDArray[np.uint64]) -> NDArray[Any]:
        return self._records(self._chain.run(words))

    def end(self, last_frame: int | None) -> NDArray[Any]:
        return self._records(self._chain.end(last_frame))

    def _records(self, events: VendorEvents) -> NDArray[Any]:
        n_photons = events.first.size - 1
        self._counts["singles"] += n_photons
        self._counts["singles_in_window"] += n_photons
        self._counts["prompts"] += int(events.pair.shape[0])
        if self._to == "singles":
            return _filled(
                "singles",
                time_ps=events.time_ps,
                energy=events.output_energy(slice(None)),
                channel=events.channel,
            )
        if self._to == "groups":
            photon = np.arange(n_photons)
            hit = events.strongest(photon)
            return _filled(
                "groups",
                n=events.n_hits(photon),
                time_ps=events.time_ps[hit],
                energy=events.output_energy(hit),
                channel=events.channel[hit],
            )
        photon_a, photon_b = np.ascontiguousarray(events.pair.T)
        a, b = events.strongest(photon_a), events.strongest(photon_b)
        return _filled(
            "coincidences",
            n_a=events.n_hits(photon_a),
            time_a_ps=events.time_ps[a],
            energy_a=events.output_energy(a),
            channel_a=events.channel[a],
            n_b=events.n_hits(photon_b),
            time_b_ps=events.time_ps[b],
            energy_b=events.output_energy(b),
            channel_b=events.channel[b],
        )


def _filled(kind: Target, **columns: NDArray[Any]) -> NDArray[Any]:
    """Records of a kind; columns that are not given (the index of a hit in its photon) are 0."""
    records = np.zeros(next(iter(columns.values())).size, DTYPES[kind])
    for name, column in columns.items():
        records[name] = column
    return records


_Chain = _PetqcChain | _VendorChain
