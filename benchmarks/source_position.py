"""How far a source is found from where it is, in stated errors: points, lines and annuli at random places.

    python benchmarks/source_position.py [--places 10] [--seed 1]

Gammas go through the simulated crystals of bench, small ring and SIGNA; what each module absorbs is one energy,
and its strongest crystal is where the line ends. No electronics, no randoms. Every place is drawn from ±10 mm in x, y
and z.
Along the axis of a line or an annulus there is no number.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from petqc.channel_map import Topology
from petqc.errors import TooFewCountsError
from petqc.fits.source_place import find_source
from petqc_simulators.physics.crystal import CHANNEL, DECAY, DEPOSIT_COLUMNS, E
from petqc_simulators.physics.emission import CLOCK_S, Emission
from petqc_simulators.physics.placement import crystal_middles_mm, in_coincidence
from petqc_simulators.profile import load_profile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from petqc_simulators.profile import Profile

LINES = {500: 8, 1_000: 8, 10_000: 4, 100_000: 1}
"""Lines of a run, and how many runs of each place."""
FWHM_AT_511 = 0.105
WINDOW_KEV = (425.0, 650.0)
_AT_ONCE = 60_000
_FARTHEST_MM = 18.0
_SHAPES = {
    "bench": ("point", "line"),
    "ring-small": ("point", "line", "extended"),
    "signa": ("point", "line", "extended"),
}


def with_source(name: str, shape: str) -> Profile:
    """The profile with a source of that shape: a line of 60 mm, or an annulus of 70 to 80 mm across and 60 mm long."""
    profile = load_profile(name)
    about = {
        "point": {},
        "line": {"length_mm": 60.0},
        "extended": {
            "kind": "ge68",
            "ge68_radius_mm": 40.0,
            "ge68_inner_radius_mm": 35.0,
            "ge68_length_mm": 60.0,
            "ge68_activity_bq": 1e6,
        },
    }[shape]
    return replace(profile, source=replace(profile.source, **about))


def lines(
    profile: Profile, place_mm: NDArray[np.float64], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Crystals at both ends of n lines, in the detector's order."""
    geometry = profile.geometry
    emission = Emission(profile, rng, _FARTHEST_MM)
    emission.numbers[1] = 0.0  # no lutetium
    emission.move_source(place_mm)
    opposite = in_coincidence(geometry)
    deposits = np.empty((1 << 18, DEPOSIT_COLUMNS))
    found: list[NDArray[np.int64]] = []
    until = 0.0
    while sum(len(part) for part in found) < n:
        until += _AT_ONCE / (emission.source_hz * CLOCK_S)
        deposits, m = emission.generate(until, deposits, 0)
        decay, channel = (deposits[:m, k].astype(np.int64) for k in (DECAY, CHANNEL))
        photon = decay * geometry.modules + channel // geometry.crystals_per_module
        order = np.lexsort((-deposits[:m, E], photon))
        photon, first, inverse = np.unique(photon[order], return_index=True, return_inverse=True)
        energy = np.bincount(inverse, deposits[:m, E][order])
        energy += rng.normal(0.0, FWHM_AT_511 / 2.355, energy.size) * np.sqrt(511.0 * energy)
        inside = (energy > WINDOW_KEV[0]) & (energy < WINDOW_KEV[1])
        decay, module = np.divmod(photon[inside], geometry.modules)
        strongest = channel[order][first][inside]
        pair = np.flatnonzero(decay[1:] == decay[:-1])
        pair = pair[opposite[module[pair], module[pair + 1]]]
        found.append(np.stack([strongest[pair], strongest[pair + 1]], axis=1))
    ends = np.concatenate(found)[:n].astype(np.int32)
    return ends[:, 0], ends[:, 1]


def topology_of(profile: Profile) -> Topology:
    """The crystals in the detector's order."""
    geometry = profile.geometry
    module, inside = np.divmod(np.arange(geometry.channels, dtype=np.int32), geometry.crystals_per_module)
    one = -(-geometry.crystals_per_module // 64)
    return Topology.from_channels(
        module * one * 64 + inside, asics_per_module=one, xyz_mm=crystal_middles_mm(geometry).astype(np.float32)
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--places", type=int, default=10, help="of each source")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    print("| scanner | source | lines | runs | off, rms mm: x y z | stated: x y z | pulls, rms: x y z | no number |")
    print("| --- " * 8 + "|")
    for name, shapes in _SHAPES.items():
        for shape in shapes:
            profile = with_source(name, shape)
            topology = topology_of(profile)
            results: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
            none: dict[int, int] = defaultdict(int)
            for place in range(given.places):
                rng = np.random.default_rng([given.seed, place])
                at = rng.uniform(-10.0, 10.0, 3)
                a, b = lines(profile, at, max(LINES) + sum(k * n for k, n in LINES.items() if k < max(LINES)), rng)
                first = 0
                for n, runs in LINES.items():
                    for _ in range(runs):
                        part = slice(first, first + n)
                        first += n
                        try:
                            found = find_source(
                                topology, a[part], b[part], crystal_mm=profile.geometry.crystal_length_mm, shape=shape
                            )  # type: ignore[arg-type]
                        except TooFewCountsError:
                            none[n] += 1
                            continue
                        results[n].append(np.stack([np.array(found.xyz_mm) - at, found.error_mm]))
            for n, rows in results.items():
                off, error = np.array(rows).transpose(1, 0, 2)
                shown = [np.sqrt((off**2).mean(0)), error.mean(0), np.sqrt(((off / error) ** 2).mean(0))]
                digits = (3, 3, 2)
                cells = [
                    " ".join("–" if shape != "point" and k == 1 else f"{v:.{d}f}" for k, v in enumerate(values))
                    for values, d in zip(shown, digits, strict=True)
                ]
                print(f"| `{name}` | {shape} | {n} | {len(rows)} | {' | '.join(cells)} | {none[n]} |", flush=True)


if __name__ == "__main__":
    main()
