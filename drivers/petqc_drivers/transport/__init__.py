"""How bytes reach a device and come back; knows no device."""
