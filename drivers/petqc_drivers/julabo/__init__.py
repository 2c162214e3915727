"""Julabo circulators: temperature of the coolant, over RS-232, RS-485 or USB-serial."""
