"""The physics and statistics of detector QC: arrays in, results out."""
