"""Drivers: one device family each, its bytes, its limits, its life cycle."""
