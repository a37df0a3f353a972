// The unmodified openai package for Node against a server of tiny models; every answer is checked against a schema of its fields.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: `${process.env.MODELYARD_URL}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const ask = { model: "chat", messages, temperature: 0, max_tokens: 16 };

const usage = z.object({ prompt_tokens: z.number().int(), completion_tokens: z.number().int(), total_tokens: z.number().int() });
const toolCall = z.object({ id: z.string(), type: z.literal("function"), function: z.object({ name: z.string(), arguments: z.string() }) });
const finish = z.enum(["stop", "length", "tool_calls"]);
const completion = z.object({
  id: z.string(), object: z.literal("chat.completion"), created: z.number().int(), model: z.string(), usage,
  choices: z.array(z.object({
    index: z.number().int(), finish_reason: finish,
    message: z.object({ role: z.literal("assistant"), content: z.string().nullable(), refusal: z.null(), tool_calls: z.array(toolCall).optional() }),
  })).min(1),
});
const chunk = z.object({
  id: z.string(), object: z.literal("chat.completion.chunk"), created: z.number().int(), model: z.string(), usage: usage.nullish(),
  choices: z.array(z.object({
    index: z.number().int(), finish_reason: finish.nullable(),
    delta: z.object({ role: z.literal("assistant").optional(), content: z.string().nullish() }).loose(),
  })),
});
const weather = {
  type: "function",
  function: {
    name: "weather", description: "Tells the weather of a city.",
    parameters: { type: "object", properties: { city: { enum: ["Paris", "Rome"] } }, required: ["city"], additionalProperties: false },
  },
};

test("models are listed", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.deepEqual(names.sort(), ["chat", "ears", "embed", "eyes", "judge", "moods"]);
  assert.equal((await client.models.retrieve("chat")).object, "model");
});

test("a chat", async () => {
  const answer = completion.parse(await client.chat.completions.create({ ...ask, n: 2, seed: 7, temperature: 1 }));
  assert.equal(answer.choices.length, 2);
});

test("a streamed chat says what the whole one says", async () => {
  const whole = await client.chat.completions.create(ask);
  let text = "", last;
  for await (const piece of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
    chunk.parse(piece);
    text += piece.choices[0]?.delta.content ?? "";
    last = piece;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(last.usage.total_tokens, whole.usage.total_tokens);
});

test("the stream helper gathers the same", async () => {
  const whole = await client.chat.completions.create(ask);
  const gathered = await client.chat.completions.stream(ask).finalChatCompletion();
  assert.equal(gathered.choices[0].message.content, whole.choices[0].message.content);
});

test("log probabilities", async () => {
  const answer = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 3 });
  const tokens = answer.choices[0].logprobs.content;
  assert.equal(tokens.map((token) => token.token).join(""), answer.choices[0].message.content);
  assert.ok(tokens.every((token) => token.top_logprobs.length === 3 && token.logprob <= 0));
});

test("a schema is kept to", async () => {
  const shape = z.object({ city: z.enum(["Paris", "Rome"]), sunny: z.boolean() });
  const answer = await client.chat.completions.parse({ ...ask, max_tokens: 200, response_format: zodResponseFormat(shape, "weather") });
  shape.parse(answer.choices[0].message.parsed);
});

test("a required tool is called with valid arguments", async () => {
  const answer = completion.parse(await client.chat.completions.create({ ...ask, max_tokens: 200, tools: [weather], tool_choice: "required" }));
  const call = answer.choices[0].message.tool_calls[0].function;
  assert.equal(call.name, "weather");
  assert.ok(["Paris", "Rome"].includes(JSON.parse(call.arguments).city));
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
});

test("a streamed tool call says the same", async () => {
  const request = { ...ask, max_tokens: 200, tools: [weather], tool_choice: { type: "function", function: { name: "weather" } } };
  const whole = await client.chat.completions.create(request);
  const gathered = await client.chat.completions.stream(request).finalChatCompletion();
  assert.equal(gathered.choices[0].message.tool_calls[0].function.arguments, whole.choices[0].message.tool_calls[0].function.arguments);
});

test("a tool's answer goes back", async () => {
  const { choices: [{ message }] } = await client.chat.completions.create({ ...ask, max_tokens: 200, tools: [weather], tool_choice: "required" });
  const told = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "sunny" };
  completion.parse(await client.chat.completions.create({ ...ask, messages: [...messages, message, told], tools: [weather] }));
});

test("completions", async () => {
  const answer = await client.completions.create({ model: "chat", prompt: ["one", "two"], max_tokens: 4, echo: true, logprobs: 2 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
  assert.ok(answer.choices[0].text.startsWith("one"));
});

test("embeddings come as numbers, whatever travels", async () => {
  const [packed, plain] = await Promise.all([
    client.embeddings.create({ model: "embed", input: ["one", "two"] }),
    client.embeddings.create({ model: "embed", input: ["one", "two"], encoding_format: "float" }),
  ]);
  assert.equal(packed.data.length, 2);
  packed.data[1].embedding.forEach((value, index) => assert.ok(Math.abs(value - plain.data[1].embedding[index]) < 1e-6));
});

test("responses, whole and streamed", async () => {
  const request = { model: "chat", input: "Hello", temperature: 0, max_output_tokens: 16 };
  const whole = await client.responses.create(request);
  const stream = client.responses.stream(request);
  const seen = [];
  for await (const event of stream) seen.push(event.type);
  assert.equal((await stream.finalResponse()).output_text, whole.output_text);
  assert.equal(seen[0], "response.created");
});

test("images", async () => {
  const pixel = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAF0lEQVR4nGP4z8BAEiJN9aiGUQ1DSgMAkPn/ASc0xYkAAAAASUVORK5CYII=";
  const content = [{ type: "text", text: "What is it?" }, { type: "image_url", image_url: { url: `data:image/png;base64,${pixel}` } }];
  completion.parse(await client.chat.completions.create({ ...ask, model: "eyes", messages: [{ role: "user", content }] }));
});

test("errors have their classes", async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, model: "nope" }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ ...ask, temperature: 9 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
});

test("a stream that is left ends", async () => {
  const stream = await client.chat.completions.create({ ...ask, max_tokens: 1000, stream: true });
  for await (const piece of stream) { chunk.parse(piece); break; }
  completion.parse(await client.chat.completions.create(ask));
});
