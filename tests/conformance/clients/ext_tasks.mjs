// Drives one job with the TypeScript package ext-tasks, in the generation that is asked for:
// node ext_tasks.mjs URL modern|legacy
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { createTaskSessionFromClient, resultFromTaskOutcome } from "@modelcontextprotocol/ext-tasks/client";

const [url, era] = process.argv.slice(2);
const clientInfo = { name: "ext-tasks", version: "1" };
const client = new Client(clientInfo, {
  capabilities: {},
  versionNegotiation: { mode: era === "modern" ? { pin: "2026-07-28" } : "legacy" },
});
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
if (client.getProtocolEra() !== era) throw new Error(`agreed on ${client.getProtocolEra()}, not ${era}`);

// The package leaves requests of the new generation to its host, which is us.
let requests = 0;
async function rawDispatch(request, options) {
  const { method, params } = request;
  const headers = new Headers(options?.context?.headers); // for requests about tasks the package has them right
  headers.set("content-type", "application/json");
  headers.set("accept", "application/json, text/event-stream");
  headers.set("mcp-protocol-version", "2026-07-28");
  headers.set("mcp-method", method);
  if (params.name !== undefined) headers.set("mcp-name", params.name);
  const response = await fetch(url, {
    method: "POST",
    headers,
    body: JSON.stringify({ jsonrpc: "2.0", id: ++requests, method, params }),
    signal: options?.signal,
  });
  const message = await response.json();
  return "error" in message ? { kind: "error", error: message.error } : { kind: "result", result: message.result };
}

const modern = { rawDispatch, v2RequestFraming: { protocolVersion: "2026-07-28", clientInfo, clientCapabilities: {} } };
const session = createTaskSessionFromClient(client, { endpointId: url, ...(era === "modern" ? modern : {}) });
const argv = ["sh", "-c", `sleep 0.2; echo from ext-tasks, ${era}`];
const execution = await session.callTool("run_command", { argv }, { task: { preference: "require" } });
const { outcome } = await execution.settle();
const result = resultFromTaskOutcome(outcome);
console.log(JSON.stringify(result.structuredContent));
await session.close();
await client.close();
