// Has the TypeScript SDK parse every sort of answer of `supervisor mcp`, and ajv every schema of a tool, in strict mode:
// node strict.mjs modern|legacy COMMAND...
import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import Ajv from "ajv/dist/2020.js";

const [era, command, ...args] = process.argv.slice(2);
const client = new Client(
  { name: "strict", version: "1" },
  { capabilities: {}, versionNegotiation: { mode: era === "modern" ? { pin: "2026-07-28" } : "legacy" } },
);
const problems = [];
client.onerror = (error) => problems.push(`the SDK says: ${error.message}`);
await client.connect(new StdioClientTransport({ command, args, env: process.env, stderr: "inherit" }));
if (client.getProtocolEra() !== era) throw new Error(`agreed on ${client.getProtocolEra()}, not ${era}`);

const { tools } = await client.listTools();
const ajv = new Ajv({ strict: true, allErrors: true });
const accepts = Object.fromEntries(tools.map((tool) => [tool.name, ajv.compile(tool.inputSchema)]));
const left = new Set(tools.map((tool) => tool.name));

async function call(name, given, isError = false) {
  left.delete(name);
  if (!accepts[name](given)) problems.push(`${name} has a schema that refuses ${JSON.stringify(given)}`);
  const result = await client.callTool({ name, arguments: given });
  if (Boolean(result.isError) !== isError) problems.push(`${name} answered ${JSON.stringify(result)}`);
  const text = JSON.parse(result.content[0].text);
  if (JSON.stringify(text) !== JSON.stringify(result.structuredContent)) problems.push(`${name} answers in two ways`);
  return result.structuredContent;
}

const said = await call("say", { word: "hello", wait_seconds: 50 });
const failed = await call("fail", { wait_seconds: 50 }, true);
const held = await call("hold", {});
await call("job_wait", { job_id: held.job_id, timeout_seconds: 0 });
await call("job_pause", { job_id: held.job_id });
await call("job_resume", { job_id: held.job_id });
await call("job_send", { job_id: held.job_id, text: "a line\n" });
await call("job_cancel", { job_id: held.job_id });
await call("job_status", { job_id: said.job_id });
await call("job_status", { job_id: failed.job.job_id, detail: "full" });
await call("job_status", { job_id: "0".repeat(32) }, true);
await call("job_list", { limit: 2 });
await call("job_list", { detail: "full" });
await call("job_logs", { job_id: said.job_id });
await call("job_result", { job_id: said.job_id });
await call("job_result", { job_id: said.job_id, max_characters: 2 });
await call("job_result", { job_id: failed.job.job_id }, true);
await call("group_list", {});
const again = await call("job_rerun", { job_id: said.job_id });
await call("job_wait", { job_id: again.job_id, timeout_seconds: 50 });

const { resources } = await client.listResources();
await client.listResourceTemplates();
const uris = [...resources.map((each) => each.uri), `job://${said.job_id}`, `job://${said.job_id}/stdout`];
for (const uri of uris) await client.readResource({ uri });
await call("job_consume_result", { job_id: said.job_id });
if (era === "legacy") await client.ping();
await client.close();

left.delete("job_continue"); // it needs a session of an agent
if (left.size) problems.push(`not called: ${[...left].join(", ")}`);
console.log(JSON.stringify({ value: problems.length ? problems.join("\n") : `${tools.length} tools\n` }));
