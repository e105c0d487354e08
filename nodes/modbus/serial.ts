import { errorCode, errorText } from "../common/errors.js";
import { ModbusError } from "./transport.js";
import { type WireOptions, WireTransport } from "./wire.js";

/** Of a character: RTU has always 8 (Modbus over Serial Line V1.02 §2.5.1). */
export const DATA_BITS = 8;

export interface SerialSettings {
    /** `/dev/ttyUSB0`, better `/dev/serial/by-id/...`, or `COM3`. */
    path: string;
    baud: number;
    parity: "none" | "even" | "odd";
    stopBits: number;
}

/** What of a port of the npm package serialport is used. */
export interface SerialPort {
    readonly isOpen: boolean;
    open(done: (error: Error | null) => void): void;
    write(bytes: Buffer): unknown;
    close(done: (error: Error | null) => void): void;
    on(event: "data", listener: (chunk: Buffer) => void): unknown;
    on(event: "error" | "close", listener: (error?: Error | null) => void): unknown;
}

export interface SerialOptions extends WireOptions, SerialSettings {
    createPort?: (settings: SerialSettings) => SerialPort;
}

interface PortInfo {
    path: string;
    manufacturer?: string | undefined;
    serialNumber?: string | undefined;
}

interface SerialPackage {
    SerialPort: { new (options: object): SerialPort; list(): Promise<PortInfo[]> };
}

/** A framing over a serial port. */
export class SerialTransport extends WireTransport<SerialOptions> {
    protected readonly hints = HINTS;
    protected readonly target: string;
    private port: SerialPort | undefined;
    private opening = false;

    constructor(options: SerialOptions) {
        super(options);
        this.target = `serial port ${options.path}`;
    }

    protected start(): void {
        const { options } = this;
        const port = (options.createPort ?? createPort)(options);
        this.port = port;
        port.on("data", (chunk) => this.receive(chunk));
        port.on("error", (error) => this.end(this.closed(reason(error), error)));
        port.on("close", (error) => this.end(this.closed(error ? reason(error) : "the port was closed", error)));
        this.opening = true;
        port.open((error) => {
            this.opening = false;
            if (this.isOver) this.destroy();
            else if (error) this.end(this.closed(reason(error), error));
            else this.opened();
        });
    }

    protected send(bytes: Buffer): void {
        this.port?.write(bytes);
    }

    protected destroy(): void {
        // While it opens it cannot be closed; the end of the opening comes back here.
        if (this.opening) return;
        if (this.port?.isOpen) this.port.close(() => this.gone());
        else this.gone();
    }
}

/** The serial ports of this machine, those with a stable name first. @throws ModbusError MODBUS_CLOSED without the package serialport. */
export async function listPorts(): Promise<PortInfo[]> {
    const ports = await serialPackage().SerialPort.list();
    return ports.map(({ path, manufacturer, serialNumber }) => ({ path, manufacturer, serialNumber }));
}

function createPort({ path, baud, parity, stopBits }: SerialSettings): SerialPort {
    return new (serialPackage().SerialPort)({ path, baudRate: baud, parity, dataBits: DATA_BITS, stopBits, autoOpen: false });
}

/** Loaded at the first serial port and not before: it is native code, which everybody else is spared. */
function serialPackage(): SerialPackage {
    try {
        return require("serialport") as SerialPackage;
    } catch (error) {
        throw new ModbusError(
            "MODBUS_CLOSED",
            "Serial ports need the npm package serialport: run `npm install serialport` in the Node-RED user directory (~/.node-red) and restart Node-RED.",
            { cause: error },
        );
    }
}

/** The package tells errors of the system by message only. */
function reason(error: Error | null | undefined): string {
    const text = errorText(error);
    return errorCode(error) ?? Object.keys(HINTS).find((hint) => text.includes(hint)) ?? text.replace(/^Error: |\.$/g, "");
}

const HINTS: Record<string, string> = {
    "No such file or directory": "there is no such port; check the cable and the path",
    // What the package says of an adapter that was unplugged.
    "bad file descriptor": "the port is gone; check the cable and the adapter",
    "Permission denied": "not allowed; add the user that runs Node-RED to the group dialout",
    "Cannot lock port": "in use by another program, or by another modbus-link with other settings",
    "Device or resource busy": "in use by another program",
};
