"""Hamamatsu C11204-01 and -02: SiPM bias supplies on a serial line."""
