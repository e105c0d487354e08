/** The part of node-red-node-test-helper (no types of its own) that our tests use. */
declare module "node-red-node-test-helper" {
    import type { Node, NodeAPI } from "node-red";

    type Factory = (RED: NodeAPI) => void | Promise<void>;

    interface TestHelper {
        init(runtimePath: string, settings?: object): void;
        settings(settings: object): object;
        load(nodes: Factory | Factory[], flow: object[], credentials?: Record<string, object>): Promise<void>;
        setFlows(flow: object[], type?: "full" | "flows" | "nodes", credentials?: Record<string, object>): Promise<void>;
        clearFlows(): Promise<void>;
        unload(): Promise<void>;
        getNode<N extends Node = Node>(id: string): N;
        startServer(): Promise<void>;
        stopServer(): Promise<void>;
        /** A supertest agent for the admin routes; `RED.httpNode` is not served. */
        request(): { post(route: string): { send(body: object): Promise<{ status: number; body: unknown }> } };
        /** Base URL of the started server, which serves no routes. */
        url(): string;
        /** A sinon spy on Node-RED's log. */
        log(): { args: [{ level: number; msg: unknown; type?: string; id?: string }][] };
    }

    const helper: TestHelper;
    export default helper;
}
