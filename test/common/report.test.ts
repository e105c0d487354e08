import assert from "node:assert/strict";
import { type BadReason, createReading, type PointValue, type Quality, type ReadingMessage } from "../../dist/common/reading.js";
import { Reporter, type ReportOptions } from "../../dist/common/report.js";

const DEFAULTS: ReportOptions = { perPoint: false, byException: false, deadbandPct: 1, heartbeatMs: 60_000 };

function reporter(options: Partial<ReportOptions>) {
    const subject = new Reporter({ ...DEFAULTS, ...options });
    let at = 0;
    return (values: Record<string, PointValue>, { quality = "good", device = "d", bad = {} }: { quality?: Quality; device?: string; bad?: Record<string, BadReason> } = {}) => {
        at += 1000;
        return subject.take(createReading({ site: "s", device, class: "meter", seq: 0, quality, bad }, at, values), at);
    };
}

const payloads = (messages: { payload: unknown }[]) => messages.map(({ payload }) => payload);

describe("reporting", () => {
    it("sends every sample, numbered by device", () => {
        const take = reporter({});
        const seqs = [take({ a_w: 1 }), take({ a_w: 1 }), take({ a_w: 1 }, { device: "e" }), take({ a_w: 1 })].map(([message]) => [message!.topic, message!.reading.seq]);
        assert.deepEqual(seqs, [["s/d", 1], ["s/d", 2], ["s/e", 1], ["s/d", 3]]);
    });

    it("sends one message a point for charts", () => {
        const take = reporter({ perPoint: true });
        const messages = take({ a_w: 5, state: "ON" });
        assert.deepEqual(messages.map(({ topic, payload, timestamp }) => [topic, payload, timestamp]), [["s/d/a_w", 5, 1000], ["s/d/state", "ON", 1000]]);
        assert.deepEqual(messages.map(({ reading }) => reading.seq), [1, 1]);
        assert.deepEqual(take({}, { quality: "bad" }), []);
    });

    describe("by exception", () => {
        it("sends what moved by more than the deadband, and counts only what it sends", () => {
            const take = reporter({ byException: true });
            const sent = [5000, 5049, 5051, 5051, 5000].map((w) => take({ a_w: w }) as ReadingMessage[]);
            assert.deepEqual(sent.map(([message]) => message?.payload["a_w"]), [5000, undefined, 5051, undefined, 5000]);
            assert.deepEqual(sent.flatMap((messages) => messages.map(({ reading }) => reading.seq)), [1, 2, 3]);
        });

        it("is not misled by a flow that changes what it got", () => {
            const take = reporter({ byException: true });
            const [message] = take({ a_w: 5000, b_w: 1 }) as ReadingMessage[];
            delete message!.payload["a_w"];
            assert.deepEqual(take({ a_w: 5000, b_w: 1 }), []);
        });

        it("measures the deadband by the largest value, so that noise around zero stays quiet", () => {
            const take = reporter({ byException: true });
            take({ a_w: 10_000 });
            take({ a_w: 0 });
            assert.deepEqual(payloads([...take({ a_w: 60 }), ...take({ a_w: -60 }), ...take({ a_w: 101 })]), [{ a_w: 101 }]);
        });

        it("sees a slow drift", () => {
            const take = reporter({ byException: true });
            let sent = 0;
            for (let w = 1000; w < 1100; w += 1) sent += take({ a_w: w }).length;
            assert.ok(sent >= 9 && sent <= 11, String(sent));
        });

        it("sends everything at the heartbeat", () => {
            const take = reporter({ byException: true, heartbeatMs: 5000 });
            const sent = Array.from({ length: 11 }, () => take({ a_w: 7, b_w: 8 }).length);
            assert.deepEqual(sent, [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
        });

        it("sends when a text, the quality or the set of points changes", () => {
            const take = reporter({ byException: true });
            take({ a_w: 1, state: "ON" });
            assert.equal(take({ a_w: 1, state: "OFF" }).length, 1);
            assert.equal(take({ a_w: 1, state: "OFF" }, { quality: "uncertain" }).length, 1);
            assert.equal(take({ state: "OFF" }, { quality: "uncertain", bad: { a_w: "range" } }).length, 1);
            assert.equal(take({ state: "OFF" }, { quality: "uncertain", bad: { a_w: "range" } }).length, 0);
            assert.equal(take({ a_w: 1, state: "OFF" }, { quality: "uncertain" }).length, 1);
            assert.equal(take({}, { quality: "bad" }).length, 1);
            assert.equal(take({}, { quality: "bad" }).length, 0);
        });

        for (const perPoint of [false, true]) {
            it(`does not take slow values, which most samples are without, for changes${perPoint ? ", a point at a time" : ""}`, () => {
                const take = reporter({ byException: true, perPoint });
                take({ a_w: 1000, slow_c: 20 });
                for (let i = 0; i < 5; i++) assert.deepEqual([...take({ a_w: 1000 }), ...take({ a_w: 1000, slow_c: 20 })], []);
                assert.equal(take({ a_w: 1000, slow_c: 25 }).length, 1);
            });
        }

        it("a deadband of 0 sends any change", () => {
            const take = reporter({ byException: true, deadbandPct: 0 });
            take({ a_w: 1000 });
            assert.equal(take({ a_w: 1000.001 }).length, 1);
            assert.equal(take({ a_w: 1000.001 }).length, 0);
        });

        it("a point with a deadband of its own counts as changed by that one", () => {
            const deadbands = new Map([
                ["a_hz", { abs: 0.05 }],
                ["b_w", { abs: 50, pct: 10 }],
                ["c_w", { pct: 0 }],
                ["e_w", { maxAgeMs: 3000 }],
            ]);
            const take = reporter({ byException: true, perPoint: true, deadbandPct: 1, deadbands });
            const topics = (values: Record<string, PointValue>) => take({ a_hz: 50, b_w: 1000, c_w: 1000, d_w: 1000, e_w: 1000, ...values }).map(({ topic }) => topic.slice(4));
            assert.equal(topics({}).length, 5);
            assert.deepEqual(topics({ a_hz: 50.06, b_w: 1100, c_w: 1001, d_w: 1010, e_w: 1010 }), ["a_hz", "c_w"]);
            assert.deepEqual(topics({ a_hz: 50.1, b_w: 1120, c_w: 1001, d_w: 1011 }), ["b_w", "d_w"], "the wider of both");
            assert.deepEqual(topics({ a_hz: 50.1, b_w: 1120, c_w: 1001, d_w: 1011 }), ["e_w"], "3 s old, though it did not move");
            assert.deepEqual(topics({ a_hz: 50.1, b_w: 1120, c_w: 1001, d_w: 1011, e_w: 1012 }), ["e_w"], "without a size, the node's deadband");
        });

        it("a point at a time sends the points that changed, and all at the heartbeat", () => {
            const take = reporter({ byException: true, perPoint: true, heartbeatMs: 10_000 });
            const topics = (values: Record<string, PointValue>, bad: Record<string, BadReason> = {}) => take(values, { bad }).map(({ topic }) => topic.slice(4));
            assert.deepEqual(topics({ a_w: 1000, b_w: 5, state: "ON" }), ["a_w", "b_w", "state"]);
            assert.deepEqual(topics({ a_w: 1005, b_w: 6, state: "ON" }), ["b_w"]);
            assert.deepEqual(topics({ a_w: 1009, b_w: 6, state: "ON" }), [], "still within the deadband of what was sent");
            assert.deepEqual(topics({ a_w: 1012, b_w: 6, state: "ON" }), ["a_w"]);
            assert.deepEqual(topics({ b_w: 6, state: "ON" }, { a_w: "missing" }), []);
            assert.deepEqual(topics({ a_w: 1012, b_w: 6, state: "ON" }), ["a_w"], "it is back");
            for (let i = 0; i < 4; i++) assert.deepEqual(topics({ a_w: 1012, b_w: 6, state: "ON" }), []);
            assert.deepEqual(topics({ a_w: 1012, b_w: 6, state: "ON" }), ["a_w", "b_w", "state"]);
        });
    });
});
