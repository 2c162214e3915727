"""A daily QC report as a Siemens scanner writes it, with numbers of our own and four blocks."""

from __future__ import annotations

_ITEMS = (
    # tag, lower and upper bound with unit, value with unit
    ("aBlockNoise", "0", "3", "crystal", "0", "Block_Outside_Range"),
    ("bBlockEfficiency", "80", "120", "%", "0", "Block_Outside_Range"),
    ("cMeasureRandoms", "85", "115", "%", "{randoms}", "%"),
    ("dScannerEfficiency", "25.5", "47.3", "cps/Bq/cc", "40.1", "cps/Bq/cc"),
    ("eScatterRatio", "28.8", "35.2", "%", "31.0", "%"),
    ("fECF", "2e+007", "4e+007", "Bq*s/ECAT counts", "2.8e+007", "Bq*s/ECAT counts"),
    ("gPlaneEff", "-5", "5", "%", "0", "Planes_Outside_Range"),
    ("hTimeAlignment", "0", "0.5", "bin", "0", "Block_Outside_Range"),
    ("iTAFWHM", "0", "5", "bin", "0", "Block_Outside_Range"),
    ("jTAFitX", "0", "2", "mm", "0.1", "mm"),
    ("kTAFitY", "0", "2", "mm", "0.2", "mm"),
    ("lTAResidual", "0", "2", "mm", "1.0", "mm"),
)


def report(
    *,
    efficiencies: tuple[float, ...] = (0.49, 0.5, 0.5, 0.51),
    randoms: str = "101.4",
    system: str = "Passed",
    decision: str = "Passed",
    without: tuple[str, ...] = (),
) -> str:
    """The report as text; decision is that of the measured randoms."""
    items = "".join(
        f"<{tag}><aUpperBound><aValue>{high}</aValue><bMeasure>{unit}</bMeasure></aUpperBound>"
        f"<bLowerBound><aValue>{low}</aValue><bMeasure>{unit}</bMeasure></bLowerBound>"
        f"<cBlkValue><aValue>{value.format(randoms=randoms)}</aValue><bMeasure>{measure}</bMeasure></cBlkValue>"
        f"<dDecision>{decision if tag == 'cMeasureRandoms' else 'Passed'}</dDecision></{tag}>"
        for tag, low, high, unit, value, measure in _ITEMS
        if tag not in without
    )
    return (
        '<?xml version="1.0" encoding="utf-8" ?><SystemQualityReport>'
        + _blocks("BlockEfficiency", efficiencies)
        + _blocks("BlockNoise", (0, 0, 0, 0))
        + _blocks("TimeOffset", (0.03, 0.05, -0.21, 0.02))
        + _blocks("TimeWidth", (3.8, 3.9, 3.85, 3.82))
        + "<aTitle>SystemQuality</aTitle><bScandate>2024-03-05T07:20:11+01:00</bScandate>"
        "<cPhantomParameters><aIsotope>Ge-68</aIsotope><bAssayActivity><aValue>2.0</aValue><bMeasure>mCi</bMeasure>"
        "</bAssayActivity><cAssayDateTime>2023-06-08T12:00:00+02:00</cAssayDateTime>"
        "<eCalibrationFactor>1.000000</eCalibrationFactor></cPhantomParameters>"
        "<dInputforComputation><cLastSuccessfulSetup><LastSetupDateTime>2024-03-05T07:25:00+01:00</LastSetupDateTime>"
        "</cLastSuccessfulSetup><dICSName>PETCT7</dICSName><eICSSWVersion>PETSYNGO_EXAMPLE</eICSSWVersion>"
        "<hLastSuccessfulSetup><LastSetupDateTime>2024-03-01T09:00:00+01:00</LastSetupDateTime></hLastSuccessfulSetup>"
        f"</dInputforComputation><eResults><aPhantomAgeResult>Passed</aPhantomAgeResult>"
        f"<aSystemQualityResults>{system}</aSystemQualityResults></eResults>"
        f"<fDetailedSystemQualityReport><aItem>{items}</aItem></fDetailedSystemQualityReport></SystemQualityReport>"
    )


def _blocks(tag: str, values: tuple[float, ...]) -> str:
    rows = "".join(
        f"<bValue>{value}</bValue><cDEA>{n // 2}</cDEA><dBlock>{n % 2}</dBlock>" for n, value in enumerate(values)
    )
    return f"<{tag}><aBlockNumber>{len(values)}</aBlockNumber><bValues>{rows}</bValues></{tag}>"
