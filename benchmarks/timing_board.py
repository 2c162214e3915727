"""The figure of docs/reference/caen-a5203.md: time differences of coincidences on the timing board and on the readout.

python benchmarks/timing_board.py docs/reference/timing-board.svg
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.contract.test_timing_board_and_readout import SECONDS, SEED, pairs_of_both, record

from petqc.report import svg

WIDTH, HEIGHT, LEFT, BOTTOM = 640.0, 300.0, 50.0, 40.0
EDGES = np.arange(-400.0, 401.0, 16.0)
COLOURS = {"timing board": "#c0392b", "readout": "#1f4e79"}


def main() -> int:
    """Measure, and draw both histograms over each other."""
    with tempfile.TemporaryDirectory() as folder:
        readout, board = pairs_of_both(record(Path(folder)))
    x = svg.Scale(EDGES[0], EDGES[-1], LEFT, WIDTH - 10.0)
    counts = {"timing board": np.histogram(board, EDGES)[0], "readout": np.histogram(readout, EDGES)[0]}
    y = svg.Scale(0.0, 1.08 * max(int(c.max()) for c in counts.values()), HEIGHT - BOTTOM, 10.0)
    pieces = [
        svg.tag("rect", x=0.0, y=0.0, width=WIDTH, height=HEIGHT, fill="#ffffff"),
        *(_text(f"{tick:g}", x.at(tick), HEIGHT - BOTTOM + 16.0, "middle") for tick in x.ticks(8)),
        *(_text(f"{tick:g}", LEFT - 6.0, y.at(tick) + 4.0, "end") for tick in y.ticks(4)),
    ]
    for row, (name, found) in enumerate(counts.items()):
        values = board if name == "timing board" else readout
        path = svg.steps(x.of(EDGES), y.of(found.astype(float)))
        pieces.append(svg.tag("path", d=path, fill="none", stroke=COLOURS[name], stroke_width=1.6))
        told = f"{name}: {values.mean():+.1f} ps, sigma {values.std():.1f} ps"
        pieces.append(_text(told, LEFT + 12.0, 24.0 + 18.0 * row, "start", COLOURS[name]))
    pieces.append(_text("t_a - t_b (ps), coincidences that both have", 0.5 * (LEFT + WIDTH), HEIGHT - 6.0, "middle"))
    label = f"{readout.size} coincidences of {SECONDS:g} s, seed {SEED}, timed by the board and by the readout"
    picture = svg.picture(WIDTH, HEIGHT, label, *pieces)
    text = str(picture).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    Path(sys.argv[1]).write_text(text + "\n", "utf-8")
    print(label)
    return 0


def _text(words: str, x: float, y: float, anchor: str, fill: str = "#333333") -> svg.Markup:
    return svg.tag("text", words, x=x, y=y, text_anchor=anchor, fill=fill, font_size=12.0, font_family="sans-serif")


if __name__ == "__main__":
    sys.exit(main())
