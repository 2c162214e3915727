"""julabo 2.3.0 (asyncio) with the circulator at the path given."""

import asyncio
import json
import sys

import pty_parity
from julabo import JulaboCF, connection_for_url

pty_parity.apply()


async def session():
    connection = connection_for_url(f"serial://{sys.argv[1]}", baudrate=4800, bytesize=7, parity="E")
    await connection.open()
    julabo = JulaboCF(connection)
    found = {"identification": await julabo.identification(), "status": await julabo.status()}
    await julabo.set_point_1(19.25)
    found["set_point_1"] = await julabo.set_point_1()
    await julabo.start()
    found["is_started"] = await julabo.is_started()
    found["bath"] = await julabo.bath_temperature()
    found["channel"] = await julabo.active_set_point_channel()
    await julabo.stop()
    found["status_then"] = await julabo.status()
    await connection.close()
    return found


print(json.dumps(asyncio.run(session())))
