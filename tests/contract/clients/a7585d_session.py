"""a7585d 1.0.3, the vendor's own, with the supply at the path given."""

import json
import sys
import time

from a7585d.a7585d import A7585D, A7585D_REG

supply = A7585D()
supply.open(sys.argv[1])
for register, value in ((A7585D_REG.MAX_V, 60.0), (A7585D_REG.RAMP, 80.0), (A7585D_REG.V_TARGET, 54.5)):
    supply.set_parameter(register, value)
supply.set_parameter(A7585D_REG.HV_ENABLE, 1)
time.sleep(0.3)
found = {"on": supply.get_parameter(A7585D_REG.MON_VOUT), "serial": supply.get_parameter(A7585D_REG.SERIAL_NUMBER)}
supply.set_parameter(A7585D_REG.HV_ENABLE, 0)
time.sleep(0.2)
found["off"] = supply.get_parameter(A7585D_REG.MON_VOUT)
supply.close()
print(json.dumps(found))
