import { spawn } from "node:child_process";
import { type Peer, startPeer } from "./libmodbus.js";

/** Units 1 and 3 with the words of `distinctWord`; holding registers 200..209 do not exist. */
const SOURCE = `
import asyncio
from pymodbus.datastore import ModbusServerContext, ModbusSlaveContext, ModbusSparseDataBlock
from pymodbus.server.async_io import ModbusTcpServer

def word(unit, function, address):
    return (unit * 7919 + function * 104729 + address * 31 + 17) & 0xFFFF

def block(unit, function, hole=range(0)):
    bits = function <= 2
    return ModbusSparseDataBlock({a: word(unit, function, a) & 1 if bits else word(unit, function, a) for a in range(3000) if a not in hole})

def slave(unit):
    return ModbusSlaveContext(
        co=block(unit, 1), di=block(unit, 2), hr=block(unit, 3, range(200, 210)), ir=block(unit, 4), zero_mode=True)

async def main():
    context = ModbusServerContext(slaves={unit: slave(unit) for unit in (1, 3)}, single=False)
    server = ModbusTcpServer(context, address=("127.0.0.1", 0))
    task = asyncio.create_task(server.serve_forever())
    await server.serving
    print(server.server.sockets[0].getsockname()[1], flush=True)
    await task

asyncio.run(main())
`;

/** Debian's pymodbus as a server; needs python3-pymodbus. */
export function startPymodbus(): Promise<Peer> {
    return startPeer(spawn("/usr/bin/python3", ["-c", SOURCE], { stdio: ["ignore", "pipe", "ignore"] }), () => undefined);
}
