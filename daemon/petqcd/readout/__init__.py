"""The readout: where it answers, what a run asks of it, and a simulated one as a process."""
