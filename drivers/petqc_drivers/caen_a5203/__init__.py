"""CAEN A5203 / DT5203: a 64 or 128 channel picoTDC board that times coincidences, over Ethernet."""
