"""Bringing outputs to off with nothing but their drivers; what was last known of them, in one small file."""
