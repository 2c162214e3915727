"""Keithley 2450 and 2400 source meters: IV curves, breakdown, leakage."""
