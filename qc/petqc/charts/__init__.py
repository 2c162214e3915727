"""Control charts: whether a quantity that is inside its absolute limits has moved, with a known rate of false alarms.

Absolute limits say when not to scan; charts say that something changed, long before. Everything here is a pure function
of the history: nothing is kept between runs, and a day without a run changes nothing.

`run_length` is the theory, `baseline` what a healthy quantity is like, `chart` the charts, `judge` which quantities of
a run are charted and what becomes of it. Source: daily-qc.md §2j.
"""
