"""The fault catalogue as signatures: what each cause moves, at which kind of place, and the next test that decides.

Source: daily-qc.md §3 (ids, signs and sizes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc.diagnosis.places import PlaceLevel
    from petqc.diagnosis.signs import Quantity

EITHER = 2
"""A sign that may be up or down, but not absent."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause of the catalogue.

    levels: places where it sits, each with how well it goes with the cause (0 to 1). first: the quantity that it always
    moves, and which way. signs: what else it moves (+1, -1, EITHER) or must leave alone (0). sizes: usual sizes of the
    first quantity, in its unit. others: usual sizes of other quantities that it is known by. may: what it may move
    along, and need not. witnesses: what instruments with a clock of their own must have seen of it (EITHER) or not (0),
    where there are any. needs: the witness without which nobody could tell this cause from another. next_step: what to
    do; {here} is the place's address, {next} the place to swap with.
    """

    id: str
    title: str
    levels: Mapping[PlaceLevel, float]
    first: tuple[Quantity, int]
    next_step: str
    signs: Mapping[Quantity, int] = field(default_factory=dict)
    sizes: tuple[float, float] | None = None
    may: frozenset[Quantity] = frozenset()
    witnesses: Mapping[Quantity, int] = field(default_factory=dict)
    needs: Quantity | None = None
    others: Mapping[Quantity, tuple[float, float]] = field(default_factory=dict)


CATALOGUE: tuple[Cause, ...] = (
    Cause(
        "F01", "no signal: SiPM, bond, connector or cable open",
        {"channel": 1.0, "bias": 1.0, "asic": 1.0, "module": 1.0, "unit": 1.0}, ("dead", -1),
        "See whether {here} answers a test pulse: if it does, the fault lies before the ASIC (SiPM, bond, connector, "
        "bias); if not, in the ASIC, its configuration or its link.",
        may=frozenset({"prompts", "pairs", "dead_time"}),
    ),
    Cause(
        "F02", "noisy channel: SiPM defect or light leak", {"channel": 1.0}, ("hot", +1),
        "Measure the dark counts of {here} with the light-tight cover checked; if the rate stays, mask the channel or "
        "lower its overvoltage, and repeat the run.",
        may=frozenset({"shape"}),
    ),
    Cause(
        "F03", "bias of one output has drifted", {"bias": 1.0, "module": 0.5}, ("energy", EITHER),
        "Measure the voltage of {here} with a meter, then swap it with {next}: if the shift moves with the output, the "
        "supply is at fault; if it stays, the SiPMs or their coupling.",
        {"offset": 0, "onset": 0, "temperature": 0}, (1.0, 8.0), frozenset({"width"}),
    ),
    Cause(
        "F04", "bias output at a wrong step: DAC bit stuck or register upset", {"bias": 0.8}, ("energy", EITHER),
        "Write the set-point of {here} again and repeat the run; compare the code with the one of the day before.",
        {"offset": 0, "onset": 0, "temperature": 0}, (4.0, 60.0), frozenset({"width", "shape", "mixed"}),
    ),
    Cause(
        "F04", "bias output at a wrong step: DAC bit stuck or register upset", {"bias": 1.0}, ("shape", +1),
        "Write the set-point of {here} again and repeat the run; compare the code with the one of the day before.",
        {"temperature": 0}, may=frozenset({"width", "energy", "mixed", "onset", "side_peak"}),
    ),
    Cause(
        "F05", "temperature sensor wrong", {"asic": 1.0, "module": 0.7}, ("temperature", EITHER),
        "Compare the sensor of {here} with its neighbours with power off and everything at room temperature; until it "
        "is replaced, let no compensation use it.",
        {"energy": 0, "width": 0},
    ),
    Cause(
        "F06", "cooling lost: fan, pump or flow", {"module": 1.0, "unit": 1.0, "scanner": 0.7, "pair": 0.7},
        ("energy", -1),
        "Look at fan, flow and filter of {here}, let the temperature settle and repeat the run: the photopeak must "
        "come back by 1 to 3 % per kelvin.",
        {"temperature": +1, "offset": 0}, (1.0, 30.0), frozenset({"width", "dark"}),
        others={"temperature": (2.0, 30.0)},
    ),
    Cause(
        "F07", "room temperature has moved everything", {"scanner": 0.8, "pair": 0.8}, ("energy", EITHER),
        "Compare with the room temperature of the last days; if the photopeak follows it, let the "
        "compensation follow it too.",
        {"temperature": EITHER, "offset": 0}, (0.3, 2.5), frozenset({"width"}),
    ),
    Cause(
        "F08", "SiPMs aged: dark counts have risen", {"scanner": 0.8, "pair": 0.6, "module": 0.3}, ("width", +1),
        "Compare the dark rate (`petqc run dark`) and the bias current with those of the last months.",
        {"energy": 0, "offset": 0, "resolution": 0, "dark": +1},
    ),
    Cause(
        "F08", "SiPMs aged: dark counts have risen", {"scanner": 1.0, "pair": 1.0, "module": 0.8}, ("dark", +1),
        "Compare the dark rate with those of the last months at the same temperature; if it stays, plan the "
        "exchange of the SiPMs, and watch the CTR until then.",
        {"energy": 0, "temperature": 0}, may=frozenset({"width"}),
    ),
    Cause(
        "F09", "optical coupling lost", {"patch": 1.0, "asic": 0.7, "bias": 0.55, "channel": 0.6}, ("energy", -1),
        "Look at the flood map of {here} and at the coupling of its crystals; a swap of bias outputs must leave the "
        "shift where it is.",
        {"resolution": +1, "temperature": 0, "onset": 0}, (5.0, 40.0), frozenset({"width"}),
    ),
    Cause(
        "F10", "crystal cracked, loose or yellowed", {"channel": 1.0}, ("energy", -1),
        "Compare the spectrum of {here} with a neighbour's and inspect the crystal; if it is alone, it can be masked.",
        {"resolution": +1, "temperature": 0}, (8.0, 45.0), frozenset({"width"}),
    ),
    Cause(
        "F10", "crystal cracked, loose or yellowed", {"channel": 1.0}, ("shape", +1),
        "Compare the spectrum of {here} with a neighbour's and inspect the crystal; if it is alone, it can be masked.",
        {"temperature": 0}, may=frozenset({"width", "energy"}),
    ),
    Cause(
        "F11", "noise of the electronics: moisture, frost or a supply", {"module": 1.0, "asic": 0.6, "unit": 1.0},
        ("resolution", +1),
        "Look at the board of {here} and at the dew point; compare its supply voltages, and let it dry with the bias "
        "off before the next run.",
        {"energy": 0, "width": +1},
    ),
    Cause(
        "F12", "TDC calibration no longer fits", {"asic": 1.0, "unit": 0.5}, ("width", +1),
        "Run `petqc calibrate tdc` and repeat the run; if {here} is still wide, look at its supply voltage.",
        {"energy": 0, "onset": 0, "offset": EITHER},
    ),
    Cause(
        "F12", "TDC calibration no longer fits", {"asic": 1.0}, ("offset", EITHER),
        "Run `petqc calibrate tdc` and repeat the run; if {here} is still off, calibrate time offsets, and see whether "
        "it stays where it is.",
        {"energy": 0, "onset": 0, "width": +1},
    ),
    Cause(
        "F12", "TDC calibration no longer fits", {"module": 1.0, "scanner": 0.8}, ("tdc_scale", EITHER),
        "Run `petqc calibrate tdc` and repeat the run; if {here} is still off, compare its clock with the others'.",
        may=frozenset({"width", "offset"}),
    ),
    Cause(
        "F13", "one of the four time buffers of a channel is bad", {"channel": 1.0}, ("side_peak", +1),
        "Take a TDC calibration of {here}: the buffer that is off shows there; without a cure mask the channel.",
        {"energy": 0},
    ),
    Cause(
        "F13", "one of the four time buffers of a channel is bad", {"channel": 0.8}, ("offset", EITHER),
        "Take a TDC calibration of {here}: the buffer that is off shows there; without a cure mask the channel.",
        {"energy": 0, "width": +1},
    ),
    Cause(
        "F14", "clock phase has stepped, or its lock was lost", {"module": 1.0, "unit": 1.0, "pair": 1.0, "asic": 0.6},
        ("offset", EITHER),
        "Synchronise again and repeat the run: a step that goes away was a lost lock; one that comes back with another "
        "size is the clock cable or its receiver of {here}. Then calibrate time offsets.",
        {"energy": 0, "width": 0, "onset": 0}, may=frozenset({"clock"}),
        witnesses={"interval": 0, "clock": EITHER},
    ),
    Cause(
        "F29", "signals of the module have moved in time: front end, cable or supply", {"module": 1.0, "pair": 1.0},
        ("offset", EITHER),
        "The clocks are in step: look at cables, supply and discriminator of {here} before its time converters, and "
        "swap its signal cable with a neighbour's. Then calibrate time offsets.",
        {"energy": 0, "width": 0, "onset": 0}, witnesses={"interval": EITHER, "clock": 0}, needs="interval",
    ),
    Cause(
        "F30", "reference clock or its distribution drifts", {"module": 1.0, "pair": 1.0}, ("clock", EITHER),
        "Look at the reference clock, its fan-out and the cable to {here}; repeat the run once the skew stays where it "
        "is.",
        {"offset": 0},
    ),
    Cause(
        "F30", "reference clock of a timing instrument is missing", {"scanner": 1.0}, ("reference", +1),
        "Look at the 10 MHz reference and its cable to the instrument that is named; until it is back, modules and "
        "clocks cannot be told apart.",
    ),
    Cause(
        "F15", "clock jitter: noise or PLL", {"module": 1.0, "unit": 1.0, "pair": 1.0, "scanner": 0.6}, ("width", +1),
        "Measure the dark counts first (`petqc run dark`): if they have risen, it is the SiPMs. If not, swap the clock "
        "cable of {here} with a neighbour's and repeat the run; look at PLL lock and supply of the clock receiver.",
        {"energy": 0, "offset": 0, "resolution": 0, "onset": 0},
    ),
    Cause(
        "F16", "thresholds have drifted or are set wrong", {"asic": 1.0, "channel": 0.8, "module": 0.8},
        ("onset", EITHER),
        "Read the thresholds of {here} back and compare them with the configuration; run `petqc calibrate threshold`.",
        {"energy": 0}, may=frozenset({"width", "offset", "mixed", "shape"}),
    ),
    Cause(
        "F17", "baseline moves with the rate", {"scanner": 0.8, "pair": 0.8}, ("energy", -1),
        "Repeat the run with the source farther away, or with lutetium alone: a photopeak that comes back with less "
        "rate is the baseline's.",
        {"temperature": 0, "offset": 0, "resolution": 0}, (0.5, 5.0), frozenset({"width"}),
    ),
    Cause(
        "F18", "channels are blind for longer: firmware, integration or re-arm settings",
        {"scanner": 1.0, "pair": 1.0, "module": 0.9}, ("dead_time", +1),
        "Compare firmware and ASIC configuration of {here} with those of the last good run.",
        {"energy": 0}, may=frozenset({"prompts"}),
    ),
    Cause(
        "F18", "channels are blind for longer: firmware, integration or re-arm settings", {"scanner": 0.7},
        ("prompts", -1),
        "Compare firmware and ASIC configuration with those of the last good run; see what the gaps between hits say.",
        {"energy": 0, "width": 0, "resolution": 0}, (1.0, 30.0),
    ),
    Cause(
        "F20", "time stamps out of step by whole frames: coincidences vanish", {"module": 1.0, "pair": 1.0},
        ("pairs", -1),
        "Synchronise again and repeat the run; if the coincidences stay away, exchange the clock and synchronisation "
        "cable of {here}.",
        {"energy": 0}, may=frozenset({"prompts"}),
    ),
    Cause(
        "F22", "coincidence or energy window is another one", {"scanner": 1.0}, ("window", EITHER),
        "Load the configuration of the last good run and analyse this recording with it: windows are a setting, and "
        "nothing has to be measured again. Then see who changed it (the hashes of both are in the report).",
    ),
    Cause(
        "F22", "coincidence or energy window is another one", {"scanner": 0.6}, ("prompts", EITHER),
        "Compare the windows of the configuration with those of the last good run (the hashes of both are in the "
        "report).",
        {"energy": 0, "width": 0}, (3.0, 100.0),
    ),
    Cause(
        "F23", "false triggers of one module: RF pick-up, or light", {"module": 1.0}, ("singles", +1),
        "Repeat the run with the MR idle, then with its light cover looked at: triggers that come with the sequence "
        "only are RF at {here} (cables, filters), others are light.",
        {"energy": 0, "offset": 0}, may=frozenset({"dead_time", "hot"}),
    ),
    Cause(
        "F24", "heating by the gradients", {"scanner": 1.0, "pair": 1.0, "module": 0.9}, ("mr_peak", -1),
        "Let the cooling of {here} be looked at, and its compensation follow its sensors; repeat the run with a longer "
        "pause: what comes back within minutes is heat.",
    ),
    Cause(
        "F25", "false triggers of all modules: RF shield, ferrite or filter missing", {"scanner": 1.0, "pair": 1.0},
        ("singles", +1),
        "Repeat the run with the MR idle: if the rate is right then, look at shield, ferrites and filters that the "
        "last service touched.",
        {"energy": 0, "offset": 0}, may=frozenset({"dead_time", "hot"}),
    ),
    Cause(
        "F28", "crystals go by a neighbour's name: decoding of light sharing", {"asic": 1.0}, ("mixed", +1),
        "Look at the flood map of {here}: valleys that have moved between the crystals need a new crystal map.",
        {"energy": 0}, may=frozenset({"width", "offset", "side_peak", "shape"}),
    ),
    Cause(
        "F28", "crystals go by a neighbour's name: decoding of light sharing", {"asic": 1.0}, ("shape", +1),
        "Look at the flood map of {here}: valleys that have moved between the crystals need a new crystal map.",
        {"energy": 0}, may=frozenset({"width", "offset", "side_peak"}),
    ),
    Cause(
        "F28", "crystals go by a neighbour's name: decoding of light sharing", {"asic": 0.9}, ("resolution", +1),
        "Look at the flood map of {here}: valleys that have moved between the crystals need a new crystal map.",
        {"energy": 0, "width": +1}, may=frozenset({"offset", "side_peak"}),
    ),
    Cause(
        "F28", "crystals go by a neighbour's name: decoding of light sharing", {"asic": 1.0, "module": 0.8},
        ("side_peak", +1),
        "Look at the flood map of {here}: valleys that have moved between the crystals need a new crystal map.",
        {"energy": 0}, may=frozenset({"width", "offset", "mixed", "shape"}),
    ),
    Cause(
        "F19", "frames lost between the boards and the computer", {"scanner": 1.0}, ("frames", +1),
        "Read the link's error counters, exchange cable or transceiver, and watch the receive buffer of the computer; "
        "then repeat the run.",
    ),
    Cause(
        "F21", "channels go by another's name: cable or channel map swapped", {"asic": 1.0, "module": 1.0},
        ("scatter", +1),
        "Compare the cabling of {here} with the channel map; swap the two in the map (or the cables back) and repeat "
        "the run: photopeaks and offsets must fall into place.",
    ),
    Cause(
        "F26", "source misplaced", {"scanner": 1.0}, ("source", +1),
        "Put the source in its place and repeat the run; nothing else of this run speaks against the scanner "
        "until then.",
    ),
    Cause(
        "F27", "calibration of another day, or of another scanner, loaded", {"scanner": 1.0},
        ("scatter", +1),
        "Compare the hashes of the calibration with those of the last good run, load the right set, and analyse this "
        "recording with it.",
    ),
    Cause(
        "F27", "calibration of another day, or of another scanner, loaded", {"scanner": 1.0},
        ("unused", +1),
        "See in the account of hits why they were not used, load the calibration set of this board and acquisition "
        "mode, and analyse this recording with it.",
    ),
)  # fmt: skip
