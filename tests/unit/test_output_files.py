"""Outputs never take the place of a device or a folder."""

from __future__ import annotations

import os
import stat

import pytest

from petqc.errors import BadInputError
from petqc.formats.petsys_ldat import LdatWriter, TextWriter
from petqc.output_files import partial_of


def test_a_device_and_a_folder_are_refused_and_stay(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, tmp_path):
        with pytest.raises(BadInputError, match="not a regular file"):
            partial_of(place)
    with pytest.raises(BadInputError, match="not a regular file"):
        TextWriter(pipe, "singles")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_file_is_replaced_only_when_complete(tmp_path):
    old = tmp_path / "events.ldat"
    old.write_bytes(b"old")
    writer = LdatWriter(old, "singles")
    assert old.read_bytes() == b"old"
    writer.close()
    assert old.read_bytes() == b""
    assert not partial_of(old).exists()
