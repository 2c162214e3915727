"""hamamatsu-c11204-01 1.1.1 with the supply at the path given."""

import json
import sys
import time

import hamamatsu_c11204_01 as hm
import pty_parity

pty_parity.apply()

port = hm.open_port(sys.argv[1])
port.timeout = 0.15  # it always waits for all of it
found = {
    "stored": hm.set_temperature_factor(port, 0.0, 0.0, 54.0, 54.0, 55.0, 25.0),
    "read": hm.read_temperature_factor(port),
    "set": hm.set_voltage(port, 56.0),
    "too_high": hm.set_voltage(port, 95.0),
    "on": hm.turn_on(port),
}
time.sleep(0.2)
found["poll"] = hm.poling(port)
found["volts"] = hm.get_voltage(port)
found["temperature"] = hm.get_temp_aq_mppc(port)
found["off"] = hm.turn_off(port)
found["reset"] = hm.reset_ps(port)
hm.close_port(port)
print(json.dumps(found))
