"""QCoDeS 0.58, its Keithley 2450, with the source meter at the VISA resource given."""

import json
import os
import sys
import tempfile
import time

os.environ["HOME"] = tempfile.mkdtemp()  # where it would keep logs and settings

from qcodes.instrument_drivers.Keithley import Keithley2450

smu = Keithley2450("smu", sys.argv[1], visalib="@py", terminator="\n")
found = {"idn": smu.get_idn()}
smu.sense.function("current")
smu.source.function("voltage")
smu.source.limit(1e-5)
smu.source.voltage(30.0)
smu.output_enabled(True)
found["set"] = smu.source.voltage()
found["below"] = smu.sense.current()
smu.source.voltage(55.0)
time.sleep(0.5)  # the output goes to its level in tens of milliseconds
found["above"] = smu.sense.current()
found["on"] = smu.output_enabled()
smu.source.voltage(0.0)
smu.output_enabled(False)
found["off"] = smu.output_enabled()
smu.close()
print(json.dumps(found))
