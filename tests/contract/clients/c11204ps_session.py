"""c11204ps 0.2.1 with the supply at the path given."""

import json
import sys
import time

import c11204ps
import pty_parity
import serial.tools.list_ports

pty_parity.apply()

# It refuses to begin on a machine without any port of the usual names.
serial.tools.list_ports.comports = lambda: [(sys.argv[1], "pseudo-terminal", "")]

supply = c11204ps.C11204PS(sys.argv[1])
supply.set_voltage(54.0)
supply.hv_enable()
time.sleep(0.2)
on = [supply.get_voltage(), supply.get_current()]
supply.set_voltage(52.0)
time.sleep(0.2)
lower = supply.get_voltage()
power = supply.get_power()
supply.hv_disable()
time.sleep(0.2)
off = supply.get_voltage()
print(json.dumps({"on": on, "lower": lower, "power": repr(power), "off": off}))
