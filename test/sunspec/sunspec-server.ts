import { ModbusLink, type LinkMember, type LinkSettings } from "../../dist/modbus/link.js";
import { MbapFraming } from "../../dist/modbus/mbap.js";
import { TcpTransport } from "../../dist/modbus/tcp.js";
import type { ModelValues } from "../../dist/sunspec/decode.js";
import { encodeModel } from "../../dist/sunspec/encode.js";
import { countsIn, layoutOf } from "../../dist/sunspec/layout.js";
import { officialModels } from "../../dist/sunspec/model.js";
import { type Behaviour, FaultServer, faults } from "../modbus/fault-server.js";
import { SETTINGS } from "../modbus/rig.js";

/** "SunS" */
export const MARKER = Buffer.from("53756e53", "hex");
export const END = Buffer.from("ffff0000", "hex");

/** The registers of an official model. */
export function model(id: number, values: ModelValues = {}, length?: number): Buffer {
    return encodeModel(officialModels.get(id)!, values, length);
}

/** A model that no definition knows. */
export function unknown(id: number, length: number): Buffer {
    const bytes = Buffer.alloc((length + 2) * 2, 0xa5);
    bytes.writeUInt16BE(id, 0);
    bytes.writeUInt16BE(length, 2);
    return bytes;
}

export function common(serial: string, length?: number): Buffer {
    return model(1, { Mn: "Maker", Md: "M1", Vr: "1.2", SN: serial, DA: 7 }, length);
}

/**
 * A plant of SunSpec units behind a real TCP server. Registers that are not set are refused with exception 2, units that have
 * none stay silent.
 */
export class SunSpecServer {
    readonly units = new Map<number, Map<number, number>>();
    private readonly members: LinkMember[] = [];

    private constructor(readonly server: FaultServer) {
        server.registers = (unit, address) => this.units.get(unit)?.get(address);
        server.otherwise = (asked, peer) => (this.units.has(asked.unit) ? faults.right : faults.silent)(asked, peer);
    }

    static async start(): Promise<SunSpecServer> {
        return new SunSpecServer(await FaultServer.start());
    }

    /** Sets registers from `address` on, and forgets those of the unit before. */
    put(unit: number, address: number, ...parts: Buffer[]): void {
        const registers = new Map<number, number>();
        const bytes = Buffer.concat(parts);
        for (let i = 0; i < bytes.length; i += 2) registers.set(address + i / 2, bytes.readUInt16BE(i));
        this.units.set(unit, registers);
    }

    link(settings: Partial<LinkSettings> = {}): LinkMember {
        const { host, port } = this.server;
        const link = new ModbusLink({
            createTransport: (onLost) => new TcpTransport({ host, port, framing: new MbapFraming(), onLost }),
            random: () => 0,
        });
        const member = link.join({ ...SETTINGS, timeoutMs: 2000, ...settings });
        this.members.push(member);
        return member;
    }

    /** Refuses with exception 2 what begins or ends within a point, as strict devices do. */
    refuseCuts(unit: number, base: number): void {
        const registers = this.units.get(unit)!;
        const cuts = new Set<number>();
        let address = base + 2;
        for (let id = registers.get(address); id !== undefined && id !== 0xffff; id = registers.get(address)) {
            const length = registers.get(address + 1)!;
            const bytes = Buffer.alloc((length + 2) * 2);
            for (let i = 0; i < length + 2; i++) bytes.writeUInt16BE(registers.get(address + i)!, i * 2);
            const definition = officialModels.get(id)!;
            for (const { offset, point } of layoutOf(definition, length, length + 2, countsIn(definition, bytes)).slots) {
                for (let i = 1; i < point.size; i++) cuts.add(address + offset + i);
            }
            address += length + 2;
        }
        const strict: Behaviour = (asked, peer) => {
            const cut = cuts.has(asked.address) || cuts.has(asked.address + asked.quantity);
            (cut ? faults.exception(2) : faults.right)(asked, peer);
        };
        this.server.otherwise = strict;
    }

    async stop(): Promise<void> {
        await Promise.all(this.members.map((member) => member.leave()));
        await this.server.stop();
    }
}
