// What programs with the clients for Node.js do: `openai`, `@anthropic-ai/sdk`, and `ai` with `@ai-sdk/openai-compatible`.
// Arguments: the folder with `node_modules`, and the address of the gateway.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [folder, url] = process.argv.slice(2);
const require = createRequire(`${folder}/package.json`);
const said = "2 messages, the last: hello";

async function rejects(call, check) {
  await assert.rejects(call, (error) => (check(error), true));
}

async function openai() {
  const OpenAI = require("openai");
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any" });
  const messages = [{ role: "system", content: "be brief" }, { role: "user", content: "hello" }];
  const { data, response } = await client.chat.completions.create({ model: "model", messages }).withResponse();
  assert.equal(data.choices[0].message.content, said);
  assert.equal(data.id, `chatcmpl-${response.headers.get("x-phoenix-plan-id")}`);

  let text = "";
  for await (const chunk of await client.chat.completions.create({ model: "model", messages, stream: true })) {
    text += chunk.choices[0]?.delta.content ?? "";
  }
  assert.equal(text, said);

  const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
  const called = await client.chat.completions.create({ model: "model", messages, tools });
  assert.equal(called.choices[0].message.tool_calls[0].function.arguments, '{"city": "Bonn"}');
  const streamed = await client.chat.completions.stream({ model: "model", messages, tools }).finalMessage();
  assert.equal(streamed.tool_calls[0].function.name, "weather");

  const asked = { model: "model", instructions: "be brief", input: "hello" };
  assert.equal((await client.responses.create(asked)).output_text, said);
  let output = "";
  for await (const event of await client.responses.create({ ...asked, stream: true })) {
    if (event.type === "response.output_text.delta") output += event.delta;
  }
  assert.equal(output, said);

  await rejects(client.chat.completions.create({ model: "gpt-0", messages }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError, error);
    assert.equal(error.code, "model_not_found");
  });
}

async function anthropic() {
  const Anthropic = require("@anthropic-ai/sdk");
  const client = new Anthropic({ baseURL: url, apiKey: "any" });
  const request = {
    model: "model", max_tokens: 64, system: "be brief", messages: [{ role: "user", content: "hello" }],
  };
  const { data, request_id } = await client.messages.create(request).withResponse();
  assert.equal(data.content[0].text, said);
  assert.match(request_id, /^[0-9a-f-]{36}$/);
  assert.equal(await client.messages.stream(request).finalText(), said);

  const tools = [{ name: "weather", input_schema: { type: "object" } }];
  const called = await client.messages.create({ ...request, tools });
  assert.deepEqual(called.content[0].input, { city: "Bonn" });
  const streamed = await client.messages.stream({ ...request, tools }).finalMessage();
  assert.deepEqual([streamed.content[0].input, streamed.stop_reason], [{ city: "Bonn" }, "tool_use"]);
  assert.ok((await client.messages.countTokens({ model: "model", messages: request.messages })).input_tokens > 4);

  await rejects(client.messages.create({ ...request, max_tokens: 0 }), (error) => {
    assert.ok(error instanceof Anthropic.BadRequestError, error);
    assert.equal(error.error.error.type, "invalid_request_error");
  });
}

async function ai() {
  const { generateText, streamText, jsonSchema, tool, APICallError } = require("ai");
  const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
  const model = createOpenAICompatible({ name: "phoenix", baseURL: `${url}/v1`, includeUsage: true })("model");
  const request = { model, system: "be brief", prompt: "hello" };
  const answer = await generateText(request);
  assert.deepEqual([answer.text, answer.finishReason, answer.usage.totalTokens], [said, "stop", 8]);

  const stream = streamText(request);
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.deepEqual([text, (await stream.usage).outputTokens], [said, 5]);

  const schema = jsonSchema({ type: "object", properties: { city: { type: "string" } } });
  const tools = { weather: tool({ description: "W", inputSchema: schema }) };
  const called = await generateText({ ...request, tools });
  assert.deepEqual(called.toolCalls[0].input, { city: "Bonn" });
  const calls = await streamText({ ...request, tools }).toolCalls;
  assert.deepEqual([calls[0].toolName, calls[0].input], ["weather", { city: "Bonn" }]);

  const absent = createOpenAICompatible({ name: "phoenix", baseURL: `${url}/v1` })("gpt-0");
  await rejects(generateText({ ...request, model: absent }), (error) => {
    assert.ok(APICallError.isInstance(error), error);
    assert.equal(error.statusCode, 404);
  });
}

await Promise.all([openai(), anthropic(), ai()]);
