"""PETsys TOFPET2 readout: bytes, registers, ASIC configuration, frames, bias, and the readout over UDP."""
