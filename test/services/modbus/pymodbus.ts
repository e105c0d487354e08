import { spawn } from "node:child_process";
import { type Peer, startPeer } from "./libmodbus.js";

/** Units 1 and 3 with the words of `distinctWord`; holding registers 200..209 do not exist. */
const SOURCE = `
import asyncio, sys
from pymodbus.datastore import ModbusServerContext, ModbusSlaveContext, ModbusSparseDataBlock
from pymodbus.framer.rtu_framer import ModbusRtuFramer
from pymodbus.framer.socket_framer import ModbusSocketFramer
from pymodbus.server.async_io import ModbusSerialServer, ModbusTcpServer, ModbusUdpServer

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
    if sys.argv[1] == "rtu":
        server = ModbusSerialServer(context, framer=ModbusRtuFramer, port=sys.argv[2], baudrate=115200, ignore_missing_slaves=True)
        await server.start()
        print(0, flush=True)
        await server.serve_forever()
    is_udp = sys.argv[1] == "udp"
    framer = ModbusRtuFramer if sys.argv[1] == "rtutcp" else ModbusSocketFramer
    server = (ModbusUdpServer if is_udp else ModbusTcpServer)(context, framer=framer, address=("127.0.0.1", 0), ignore_missing_slaves=True)
    task = asyncio.create_task(server.serve_forever())
    await server.serving
    name = server.protocol.get_extra_info("sockname") if is_udp else server.server.sockets[0].getsockname()
    print(name[1], flush=True)
    await task

asyncio.run(main())
`;

/** Debian's pymodbus as a server; needs python3-pymodbus and python3-serial-asyncio. @param line Device of the serial line. */
export function startPymodbus(transport: "tcp" | "rtutcp" | "udp" | "rtu" = "tcp", line = ""): Promise<Peer> {
    return startPeer(spawn("/usr/bin/python3", ["-c", SOURCE, transport, line], { stdio: ["ignore", "pipe", "ignore"] }), () => undefined);
}
