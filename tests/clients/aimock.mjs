// Upstreams of language models by the package `@copilotkit/aimock`, in the folder of the first argument. Prints their address, and ends
// with its standard input.
import { pathToFileURL } from "node:url";

const { LLMock } = await import(pathToFileURL(`${process.argv[2]}/node_modules/@copilotkit/aimock/dist/index.js`));
const mock = new LLMock({ port: 0, chunkSize: 4 });
const usage = {
  prompt_tokens: 11, completion_tokens: 7, total_tokens: 18, input_tokens: 11, output_tokens: 7,
  promptTokenCount: 11, candidatesTokenCount: 7, totalTokenCount: 18,
};
const fail = (status, more) => ({ error: { message: `said ${status}`, type: "some_error", ...more }, status });

mock.onMessage("plain", { content: "an answer in some words", usage });
mock.onMessage("weather", { toolCalls: [{ id: "call_1", name: "weather", arguments: '{"city":"Bonn"}' }], usage });
for (const status of [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503, 529]) {
  mock.onMessage(`status ${status}`, fail(status));
}
mock.onMessage("cut", { content: "an answer that breaks off" }, { truncateAfterChunks: 2 });
mock.onMessage("garbage", { content: "never" }, { chaos: { malformedRate: 1 } });
mock.onMessage("dropped", { content: "never" }, { chaos: { disconnectRate: 1 } });
await mock.start();
console.log(mock.url);
process.stdin.on("end", () => process.exit());
process.stdin.resume();
