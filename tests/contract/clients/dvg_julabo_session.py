"""dvg-devices 1.8.1 with the circulator at the path given."""

import json
import sys

import pty_parity
from dvg_devices.Julabo_circulator_protocol_RS232 import Julabo_circulator

pty_parity.apply()

julabo = Julabo_circulator()
found = {"connected": julabo.connect_at_port(sys.argv[1]), "began": julabo.begin()}
found["set"] = [julabo.set_setpoint(18.5), julabo.set_over_temp(45.0), julabo.set_sub_temp(5.0)]
found["turned_on"] = julabo.turn_on()
julabo.query_status()
julabo.query_running()
julabo.query_bath_temp()
found["state"] = {k: v for k, v in vars(julabo.state).items() if isinstance(v, (int, float, str, bool))}
found["turned_off"] = julabo.turn_off()
julabo.close()
print()
print(json.dumps(found, default=float))
