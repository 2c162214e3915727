"""sr620py 1.5, with the counter at the path given."""

import json
import sys

from sr620py import SR620

counter = SR620(sys.argv[1])
found = {"was": [counter.mode, counter.size]}
counter.set_custom_configuration(mode="time", size=1000, clock="ext")
found["is"] = [counter.mode, counter.size, counter.clock]
found["mean"], found["jitter"] = (counter.measure(which, progress=False) for which in ("mean", "jitter"))
counter.close_connection()
print(json.dumps(found))
