"""Spectra of single channels: what was counted comes back, one channel without the others, with the fit's own curve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from petqc.channel_map import channel_node
from petqc.channel_spectra import CHANNEL_SPECTRA_PARQUET, ChannelSpectra, read_channel_spectra
from petqc.errors import BadInputError
from petqc.fits.photopeaks import fit_photopeaks

EDGES = np.arange(401) * 4.0
CHANNELS = np.array([0, 1, 5, 64, 200, 4096], np.int32)


def spectra() -> ChannelSpectra:
    """Six channels: a peak at 511 keV each, a little higher from one to the next; the third has no counts."""
    middle = 0.5 * (EDGES[1:] + EDGES[:-1])
    shape = np.exp(-0.5 * ((middle[None, :] - 511.0 - 2.0 * np.arange(6)[:, None]) / 24.0) ** 2)
    counts = np.round(300.0 * shape + 5.0).astype(np.uint32)
    counts[2] = 0
    fits = fit_photopeaks(EDGES, counts, np.full(6, 511.0), np.full(6, 24.0))
    outside = np.zeros((6, 2), np.int64)
    outside[5] = 3, 7
    return ChannelSpectra("energy", "keV", CHANNELS, EDGES, counts, outside, fits)


def test_one_channel_comes_back_with_the_curve_that_was_fitted(tmp_path):
    kept = spectra()
    kept.save(tmp_path)
    found = read_channel_spectra(tmp_path, [5, 4096, 77])
    assert set(found) == {5, 4096}  # 77 is no channel of the run
    assert found[5].counts.sum() == 0
    assert (found[5].fit, found[5].text) == (None, "fewer than 200 counts")
    last = found[4096]
    assert (last.node, last.unit) == (channel_node(4096), "keV")
    np.testing.assert_array_equal(last.counts, kept.counts[5])
    np.testing.assert_allclose(last.edges, EDGES)
    assert last.text == "3 below the axis; 7 above the axis"
    assert last.fit is not None
    assert last.background is not None
    drawn = np.isfinite(last.fit)
    assert (np.isfinite(last.background) == drawn).all()
    assert 60 < drawn.sum() < 80  # 400 to 650 keV
    # The curve is the one that gave the number: it follows the counts, and its peak holds the fitted area.
    assert np.abs(last.fit[drawn] - kept.counts[5][drawn]).max() < 5.0
    assert kept.fits is not None
    assert (last.fit - last.background)[drawn].sum() == pytest.approx(kept.fits.area[5], rel=0.01)


def test_the_same_spectra_give_the_same_bytes_and_what_is_damaged_is_told(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        spectra().save(tmp_path / name)
    whole = (tmp_path / "a" / CHANNEL_SPECTRA_PARQUET).read_bytes()
    assert (tmp_path / "b" / CHANNEL_SPECTRA_PARQUET).read_bytes() == whole
    (tmp_path / "a" / CHANNEL_SPECTRA_PARQUET).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInputError, match=r"channel_spectra\.parquet"):
        read_channel_spectra(tmp_path / "a", [0])
    with pytest.raises(BadInputError, match="no readable spectra"):
        read_channel_spectra(tmp_path, [0])


def test_without_fits_the_counts_are_kept_and_it_is_said(tmp_path):
    replace(spectra(), fits=None).save(tmp_path)
    (one,) = read_channel_spectra(tmp_path, [0]).values()
    assert one.counts.sum() > 0
    assert (one.fit, one.text) == (None, "nobody looked for a peak")
