"""Simulated detectors that speak the real wire protocols."""
