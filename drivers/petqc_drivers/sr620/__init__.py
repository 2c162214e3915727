"""SRS SR620: time-interval counter, for the skew of clocks and detector heads."""
