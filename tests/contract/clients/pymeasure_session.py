"""pymeasure 0.16, its Keithley 2450 and 2400, with the source meter at the VISA resource given."""

import json
import sys
import time

from pymeasure.instruments.keithley import Keithley2400, Keithley2450

resource, model = sys.argv[1:3]
smu = {"2450": Keithley2450, "2400": Keithley2400}[model](
    resource, visa_library="@py", read_termination="\n", write_termination="\n"
)
found = {"id": smu.id}
smu.apply_voltage(voltage_range=200, compliance_current=1e-5)
smu.measure_current(nplc=0.1, current=1e-5, auto_range=True)
smu.source_voltage = 30.0
smu.enable_source()
found["set"] = smu.source_voltage
found["below"] = smu.current
smu.source_voltage = 55.0
time.sleep(0.5)  # the output goes to its level in tens of milliseconds
found["above"] = smu.current
found["limit"] = smu.compliance_current
smu.source_voltage = 0.0
smu.disable_source()
found["errors"] = [list(error) for error in smu.check_errors() or []]
smu.adapter.close()
print(json.dumps(found))
