// Receives Postrider's webhooks: verifies, answers, and works afterwards. ../README.md says why in this order.
import { createHmac, timingSafeEqual } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import express from "express";
import { Redis } from "ioredis";

const { WEBHOOK_SECRET, REDIS_URL = "redis://127.0.0.1:6379", PORT = "9000" } = process.env;
if (!WEBHOOK_SECRET) throw new Error("WEBHOOK_SECRET is not set");

const SEEN_SECONDS = 24 * 60 * 60;
const QUEUE_MAX = 10_000;

// No command is sent again by itself: a second BLMOVE would leave behind what the first one moved.
// A request must be answered soon, so its commands fail soon; the worker has a connection of its own to wait on.
const redis = new Redis(REDIS_URL, { maxRetriesPerRequest: 0, commandTimeout: 2_000 });
const worker = new Redis(REDIS_URL, { maxRetriesPerRequest: 0 });
for (const client of [redis, worker]) client.on("error", (error) => console.error(`redis: ${error.message}`));

function isGenuine(body, headers) {
  const expected = Buffer.from("sha256=" + createHmac("sha256", WEBHOOK_SECRET).update(body).digest("hex"));
  return ["x-nudj-signature", "x-nudj-signature-previous"].some((name) => {
    const given = Buffer.from(headers[name] ?? "");
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
}

function nonceOf(body) {
  try {
    return JSON.parse(body).nonce;
  } catch {
    return undefined;
  }
}

async function processEvent(event) {
  console.log(`processed ${event.nonce}`); // Your work.
}

const app = express();

app.post("/hooks", express.raw({ type: () => true, limit: "1mb" }), async (req, res) => {
  const body = req.body ?? Buffer.alloc(0);
  if (!isGenuine(body, req.headers)) return res.sendStatus(401);
  const nonce = nonceOf(body);
  if (typeof nonce !== "string" || nonce === "") return res.sendStatus(400);
  const [seen, waiting] = await Promise.all([redis.exists(`hooks:seen:${nonce}`), redis.llen("hooks:queue")]);
  if (seen) return res.sendStatus(200);
  if (waiting >= QUEUE_MAX) return res.sendStatus(503);
  await redis.lpush("hooks:queue", body);
  res.sendStatus(202);
});

app.use((error, _req, res, _next) => {
  console.error(error.message);
  res.sendStatus(error.status ?? 503);
});

async function workOne() {
  const body = await worker.blmove("hooks:queue", "hooks:working", "RIGHT", "LEFT", 1);
  if (body === null) return;
  const event = JSON.parse(body);
  const seen = `hooks:seen:${event.nonce}`;
  const done = worker.multi().lrem("hooks:working", 1, body);
  if (!(await worker.exists(seen))) {
    try {
      await processEvent(event);
      done.set(seen, 1, "EX", SEEN_SECONDS);
    } catch (error) {
      console.error(`failed ${event.nonce}: ${error.message}`);
      done.lpush("hooks:failed", body);
    }
  }
  await done.exec();
}

async function work() {
  for (;;) {
    try {
      while (await worker.lmove("hooks:working", "hooks:queue", "LEFT", "RIGHT")); // What a crash left behind.
      for (;;) await workOne();
    } catch (error) {
      console.error(`worker: ${error.message}`);
      await sleep(1_000);
    }
  }
}

work();
app.listen(Number(PORT), "127.0.0.1");
