"""What stands around the detector: each instrument with its supervisor, its queue and its readings."""
