"""What a PETsys configuration directory means for the driver: thresholds, modes, bias targets, hard limits.

The configuration is what people wrote; the driver takes plain values. Nothing is clamped on the way: a threshold that
does not fit its DAC is refused with its channel named.

Source: PETsys TOFPET2 readout, configuration tables; DAC code of a threshold = whole part of (zero - setting).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from petqc_drivers.limits import HardLimit, Volts
from petqc_drivers.petsys.bias import BiasChannel, BiasCurve
from petqc_drivers.petsys.settings import AsicSettings, BiasSettings
from petqcd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petqc.formats.petsys_config import PetsysConfig
    from petqc_drivers.petsys.link import Address
    from petqc_drivers.petsys.settings import Mode
    from petqcd.interlocks.bias_limits import BiasLimits, OutputLimits
    from petqcd.readout.board import AsicPlan

INTERNAL_TRIGGER_ID = 1
"""Trigger id of a single board with internal trigger. Source: PETsys recordings of such a board."""
CHANNEL_OFF = 3
"""Value of the ASIC field trigger_mode_1 that switches a channel off."""
UNUSABLE = -1.0
"""What the vendor's calibration writes where a discriminator could not be calibrated."""
_DAC_CODES = range(64)
_THRESHOLDS = (("vth_t1", "zero_t1"), ("vth_t2", "zero_t2"), ("vth_e", "zero_e"))
_NAMED = 5


def asic_settings(config: PetsysConfig, plan: AsicPlan | None = None) -> dict[Address, AsicSettings]:
    """Thresholds, baselines and modes of every channel of the configuration, for each FEB/D.

    Args:
        config: what people wrote.
        plan: what a calibration wants instead.

    Raises:
        ConfigError: a threshold does not fit its DAC, or a channel has a setting and no calibration; or it is not
            known which FEB/Ds there are.
        BadInputError: a table that is needed is missing.
    """
    if plan is not None and not plan.needs_thresholds:
        mapped = _mapped_chips(config)
        return {board: _planned(config, plan, {}, mapped.get(board)) for board in febds(config)}
    per_channel = _thresholds_of_channels(config)
    if plan is not None:
        return {board: _planned(config, plan, fields, _chips(fields)) for board, fields in per_channel.items()}
    mode, mode_of = _modes(config)
    return {
        board: AsicSettings(
            mode=mode,
            global_fields=dict(config.asic_parameters.global_fields),
            channel_fields=dict(config.asic_parameters.channel_fields),
            per_channel=fields,
            mode_of={(c[2], c[3]): of_channel for c, of_channel in mode_of.items() if c[:2] == board},
            expected_chips=_chips(fields),
        )
        for board, fields in per_channel.items()
    }


def febds(config: PetsysConfig) -> frozenset[Address]:
    """The FEB/Ds that the configuration is about: those with thresholds, or without any, those with detectors.

    Without either it is a single board, 0/0.
    """
    for kind in ("disc_settings", "channel_map"):
        table = config.tables.get(kind)
        if table is not None and table.size:
            return frozenset((int(row["port"]), int(row["slave"])) for row in table)
    return frozenset({(0, 0)})


def _thresholds_of_channels(config: PetsysConfig) -> dict[Address, dict[tuple[int, int], dict[str, int]]]:
    settings = config.require("disc_settings")
    zeros = {_channel(row): row for row in config.require("disc_calibration")}
    found: dict[Address, dict[tuple[int, int], dict[str, int]]] = {}
    problems: list[str] = []
    for row in settings:
        channel = _channel(row)
        zero = zeros.get(channel)
        if zero is None:
            problems.append(f"channel {_name(channel)} has no discriminator calibration")
            continue
        fields = _thresholds(row, zero)
        outside = [f"{name} = {code}" for name, code in fields.items() if name in _DAC and code not in _DAC_CODES]
        if outside:
            problems.append(f"channel {_name(channel)}: {', '.join(outside)} is outside 0..63")
        found.setdefault(channel[:2], {})[channel[2:]] = fields
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ConfigError(f"{config.path}: discriminators: {'; '.join(problems[:_NAMED])}{more}")
    return found


def _planned(
    config: PetsysConfig,
    plan: AsicPlan,
    per_channel: dict[tuple[int, int], dict[str, int]],
    expected: frozenset[int] | None,
) -> AsicSettings:
    return AsicSettings(
        mode=plan.mode,
        global_fields={**config.asic_parameters.global_fields, **plan.global_fields},
        channel_fields={**config.asic_parameters.channel_fields, **plan.channel_fields},
        per_channel={channel: {**fields, **plan.channel_fields} for channel, fields in per_channel.items()},
        expected_chips=expected,
    )


def _mapped_chips(config: PetsysConfig) -> dict[Address, frozenset[int]]:
    """The ASICs that detectors are connected to; none for a board of which the configuration does not say."""
    table = config.tables.get("channel_map")
    found: dict[Address, set[int]] = {}
    for row in () if table is None else table:
        found.setdefault((int(row["port"]), int(row["slave"])), set()).add(int(row["chip"]))
    return {board: frozenset(chips) for board, chips in found.items()}


def _chips(per_channel: Mapping[tuple[int, int], object]) -> frozenset[int]:
    return frozenset(chip for chip, _ in per_channel)


def switched_off(config: PetsysConfig) -> list[tuple[int, int, int, int]]:
    """Port, slave, chip and channel of those whose discriminators could not be calibrated; they are switched off."""
    return [_channel(row) for row in config.require("disc_calibration") if _is_unusable(row)]


@dataclass(frozen=True, slots=True)
class Bias:
    """What the driver is told of bias.

    Attributes:
        outputs: Hard limit and calibration curve of every bias output of the configuration.
        mezzanines: The mezzanine that the limits of a slot are for, where they say so; by port, slave and slot.
        starts_with: The highest voltage that outputs come up with that can be told nothing before.
    """

    outputs: Mapping[BiasChannel, BiasSettings] = field(default_factory=dict)
    mezzanines: Mapping[tuple[int, int, int], str] = field(default_factory=dict)
    starts_with: Mapping[tuple[int, int, int], Volts] = field(default_factory=dict)


def bias_settings(config: PetsysConfig, limits: BiasLimits) -> Bias:
    """Limits and calibrations of the bias outputs of the configuration.

    Raises:
        ConfigError: there are limits of a slot whose outputs are in no table.
        LimitError: a calibration that cannot be one.
    """
    points: dict[BiasChannel, list[tuple[int, float]]] = {}
    for row in config.require("bias_calibration"):
        points.setdefault(_output(row), []).append((int(row["dac_code"]), float(row["volts"])))
    slots = {_slot_of(channel): limits.of(*_slot_of(channel)) for channel in points}
    for one in limits.slot:
        if one.address not in slots:
            raise ConfigError(
                "[[device.bias.slot]]: port {}, slave {}, slot {}: ".format(*one.address)
                + f"no output of that slot is in the bias calibration of {config.path}"
            )
    return Bias(
        {channel: _of_output(channel, curve, slots[_slot_of(channel)]) for channel, curve in points.items()},
        {slot: one.mezzanine for slot, one in slots.items() if one.mezzanine is not None},
        {slot: Volts(one.starts_with_v) for slot, one in slots.items() if one.starts_with_v is not None},
    )


def _slot_of(channel: BiasChannel) -> tuple[int, int, int]:
    """Port, slave and slot of an output."""
    return channel.port, channel.slave, channel.slot


def _of_output(channel: BiasChannel, curve: list[tuple[int, float]], limits: OutputLimits) -> BiasSettings:
    return BiasSettings(
        limit=HardLimit(
            channel=str(channel),
            v_min=Volts(limits.v_min),
            v_max=Volts(limits.v_max),
            max_step_v=limits.max_step_v,
            slew_v_per_s=limits.slew_v_per_s,
        ),
        curve=BiasCurve(tuple(curve)),
    )


def bias_targets(config: PetsysConfig, overvoltage_share: float = 1.0) -> dict[BiasChannel, Volts]:
    """Voltage of every bias output: offset + breakdown + overvoltage, or a share of the overvoltage."""
    return {
        _output(row): Volts(
            float(row["offset"]) + float(row["breakdown"]) + overvoltage_share * float(row["overvoltage"])
        )
        for row in config.require("bias_settings")
    }


_DAC = frozenset(name for name, _ in _THRESHOLDS)


def _thresholds(setting: Any, zero: Any) -> dict[str, int]:
    if _is_unusable(zero):
        return {"trigger_mode_1": CHANNEL_OFF}
    codes = {name: int(float(zero[z]) - float(setting[name])) for name, z in _THRESHOLDS}
    return {**codes, "baseline_t": int(zero["baseline_t"]), "baseline_e": int(zero["baseline_e"])}


def _is_unusable(zero: Any) -> bool:
    return any(float(zero[z]) == UNUSABLE for _, z in _THRESHOLDS)


def _modes(config: PetsysConfig) -> tuple[Mode, dict[tuple[int, int, int, int], Mode]]:
    table = config.tables.get("acquisition_mode")
    if table is None or not table.size:
        has_charge = config.tables.get("qdc") is not None
        return ("qdc" if has_charge else "tot"), {}
    mode_of: dict[tuple[int, int, int, int], Mode] = {
        _channel(row): "qdc" if int(row["mode"]) else "tot" for row in table
    }
    charge = sum(mode == "qdc" for mode in mode_of.values())
    usual: Mode = "qdc" if 2 * charge >= len(mode_of) else "tot"
    return usual, {channel: mode for channel, mode in mode_of.items() if mode != usual}


def _channel(row: Any) -> tuple[int, int, int, int]:
    return int(row["port"]), int(row["slave"]), int(row["chip"]), int(row["channel"])


def _name(channel: tuple[int, int, int, int]) -> str:
    return ".".join(map(str, channel))


def _output(row: Any) -> BiasChannel:
    return BiasChannel(int(row["port"]), int(row["slave"]), int(row["slot"]), int(row["channel"]))
