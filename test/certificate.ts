import { generateKeyPairSync, sign } from "node:crypto";

/** A self-signed certificate for localhost and 127.0.0.1 with its key, both PEM, made anew so that no key lies in the repository. */
export function makeCertificate(): { cert: string; key: string } {
    const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const ecdsaSha256 = sequence(oid("2a8648ce3d040302"));
    const name = sequence(der(0x31, sequence(oid("550403"), der(0x0c, Buffer.from("localhost")))));
    const names = sequence(der(0x82, Buffer.from("localhost")), der(0x87, Buffer.from([127, 0, 0, 1])));
    // RFC 5280 §4.1: version 3, serial 1, valid 2020 to 2049, CA, subject alternative names.
    const body = sequence(
        der(0xa0, der(0x02, Buffer.from([2]))),
        der(0x02, Buffer.from([1])),
        ecdsaSha256,
        name,
        sequence(der(0x17, Buffer.from("200101000000Z")), der(0x17, Buffer.from("490101000000Z"))),
        name,
        publicKey.export({ type: "spki", format: "der" }),
        der(
            0xa3,
            sequence(
                sequence(oid("551d13"), der(0x01, Buffer.from([0xff])), der(0x04, sequence(der(0x01, Buffer.from([0xff]))))),
                sequence(oid("551d11"), der(0x04, names)),
            ),
        ),
    );
    const signature = sign("sha256", body, privateKey);
    const cert = sequence(body, ecdsaSha256, der(0x03, Buffer.from([0]), signature));
    return {
        cert: `-----BEGIN CERTIFICATE-----\n${cert.toString("base64").replace(/.{64}/g, "$&\n")}\n-----END CERTIFICATE-----\n`,
        key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    };
}

function der(tag: number, ...parts: Buffer[]): Buffer {
    const content = Buffer.concat(parts);
    const size = content.length;
    const length = size < 0x80 ? [size] : size < 0x100 ? [0x81, size] : [0x82, size >> 8, size & 0xff];
    return Buffer.concat([Buffer.from([tag, ...length]), content]);
}

function sequence(...parts: Buffer[]): Buffer {
    return der(0x30, ...parts);
}

function oid(hex: string): Buffer {
    return der(0x06, Buffer.from(hex, "hex"));
}
