import { WattError } from "../common/errors.js";
import type { Kept } from "../store/spool.js";
import type { DataEntry, Entry } from "./entry.js";
import { type DeviceState, ReplayWindow } from "./replay.js";

/** A message that is not durable yet. */
interface Flight {
    sum: number;
    kept: Promise<Kept>;
}

class Device {
    window = new ReplayWindow();
    readonly flights = new Map<string, Flight>();
    /** Of the messages that came, durable or not. */
    newestBoot = -1;
    isSimulated = false;
    /** Counts the messages of a device that does not. */
    count = 0;
    /** Two devices under one name were told. */
    isTwinTold = false;
}

/** What a message is beside those before it: `fresh`, or the one it repeats, which may still be on its way to the disk. */
export type Admission = { kind: "fresh" } | { kind: "duplicate"; kept?: Promise<Kept> };

/** The devices of one node: what each has sent so far, so that nothing is kept twice and nothing old is taken for new. */
export class Devices {
    private readonly known = new Map<string, Device>();

    /** Of those known, how many are not listed. */
    private unlisted = 0;

    /** So many that are not listed are known at a time; of others nothing is taken. */
    constructor(
        private readonly room: { most: number; isListed(device: string): boolean },
        private readonly onTwin: (error: WattError) => void,
    ) {}

    /** A device to be remembered. */
    private get(name: string): Device {
        let device = this.known.get(name);
        if (!device) {
            this.known.set(name, (device = new Device()));
            if (!this.room.isListed(name)) this.unlisted++;
        }
        return device;
    }

    /**
     * Judges a message by its number.
     * @throws WattError REPLAYED, DEVICE_TWICE
     */
    admit(name: string, boot: number | undefined, seq: number | undefined, sum: number): Admission {
        const device = this.known.get(name);
        if (!device || boot === undefined || seq === undefined) return { kind: "fresh" };
        const flight = device.flights.get(`${boot}:${seq}`);
        if (flight) {
            if (flight.sum !== sum) throw this.twin(name, device);
            return { kind: "duplicate", kept: flight.kept };
        }
        const verdict = boot < device.newestBoot ? "old" : device.window.check(boot, seq, sum);
        if (verdict === "fresh") return { kind: "fresh" };
        if (verdict === "duplicate") return { kind: "duplicate" };
        if (verdict === "conflict" || device.window.isTwin(boot, seq)) throw this.twin(name, device);
        throw new WattError("REPLAYED", `${name} has sent later messages than ${boot}/${seq} (boot/seq) before: this one is not taken again. Number each message, and count the starts in memory that survives a restart.`);
    }

    /** @throws WattError TOO_MANY_DEVICES, before any of these messages is claimed */
    checkRoom(entries: readonly DataEntry[]): void {
        const { most } = this.room;
        const more = entries.filter(({ device }) => !this.known.has(device) && !this.room.isListed(device)).length;
        if (more === 0 || this.unlisted + more <= most) return;
        throw new WattError("TOO_MANY_DEVICES", `${most} devices without a key of their own send already: raise the limit in the dialog of the node, or give keys to those that may send.`);
    }

    /** Remembers a message on its way to the disk. */
    claim({ device: name, boot, seq, sum, simulated }: DataEntry, kept: Promise<Kept>): void {
        const device = this.get(name);
        device.isSimulated ||= simulated === true;
        if (boot === undefined || seq === undefined) {
            device.count++;
            return;
        }
        device.flights.set(`${boot}:${seq}`, { sum: sum ?? 0, kept });
        device.newestBoot = Math.max(device.newestBoot, boot);
    }

    /** A message that was claimed is durable, or lost. */
    settle({ device: name, boot, seq, sum }: DataEntry, isDurable: boolean): void {
        const device = this.known.get(name);
        if (!device || boot === undefined || seq === undefined) return;
        // The device may have been forgotten since.
        if (!device.flights.delete(`${boot}:${seq}`) || !isDurable) return;
        device.window.mark(boot, seq, sum ?? 0);
    }

    /** True for a device that said so once: nothing it says later makes it a real one. */
    isSimulated(name: string, says: boolean): boolean {
        return says || this.known.get(name)?.isSimulated === true;
    }

    /** The next number of a device that does not count. */
    count(name: string): number {
        return this.known.get(name)?.count ?? 0;
    }

    /** Begins anew: the board was replaced, or its memory erased. */
    forget(name: string): void {
        if (this.known.delete(name) && !this.room.isListed(name)) this.unlisted--;
    }

    /** Takes over what the spool holds. */
    restore(entry: Entry): void {
        if ("forget" in entry) return this.forget(entry.forget);
        if ("state" in entry) {
            for (const state of entry.state) this.restored(state.device, state.simulated, (window) => window.merge(state));
        } else {
            const { device, boot, seq, sum = 0, simulated } = entry;
            this.restored(device, simulated, (window) => boot !== undefined && seq !== undefined && window.mark(boot, seq, sum));
        }
    }

    private restored(name: string, simulated: boolean | undefined, fill: (window: ReplayWindow) => void): void {
        const device = this.get(name);
        device.isSimulated ||= simulated === true;
        fill(device.window);
        device.newestBoot = device.window.lastBoot;
    }

    /** All that must survive. */
    states(): DeviceState[] {
        const states: DeviceState[] = [];
        for (const [device, { window, isSimulated }] of this.known) {
            const state = window.state();
            if (state.boot >= 0 || isSimulated) states.push({ device, ...state, ...(isSimulated && { simulated: true }) });
        }
        return states;
    }

    private twin(name: string, device: Device): WattError {
        const error = new WattError("DEVICE_TWICE", `Two devices seem to send as ${name}: give each a name and a key of its own. Where the board was replaced or its memory erased, press Forget beside it in the dialog of the node.`);
        if (!device.isTwinTold) this.onTwin(error);
        device.isTwinTold = true;
        return error;
    }
}
