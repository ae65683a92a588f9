// Serves the step labels.print until SIGTERM, by docs/reference/workers.md; the numbers are its rules.
import { connect, headers } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";
import { setTimeout as sleep } from "node:timers/promises";

const handler = "labels.print";
const nc = await connect({ servers: process.env.NATS_URL });
const js = jetstream(nc);
let stopping = false;
process.on("SIGTERM", () => (stopping = true));

// 1: the engine makes the consumer.
async function bind() {
  while (!stopping) {
    try {
      return await js.consumers.get("JETLOOM_TASKS", "task-labels=2Eprint");
    } catch {
      await sleep(250);
    }
  }
}

function failed(code, kind, message) {
  return { outcome: "error", error: { code, class: kind, message } };
}

function print(order, run) {
  if (order.address.length > 60) return failed("label.unprintable", "terminal", "the address is too long");
  return { outcome: "ok", output: { label: `L-${order.id}`, key: run.get("Jetloom-Key") } };
}

// 3: settled means that nobody waits for an answer any more.
async function settled(run) {
  const question = {
    run: run.get("Jetloom-Run"),
    inc: Number(run.get("Jetloom-Inc")),
    step: run.get("Jetloom-Step"),
    attempt: Number(run.get("Jetloom-Attempt")),
    handler,
  };
  for (;;) {
    try {
      return (await nc.request("jetloom.engine.settled", JSON.stringify(question), { timeout: 1000 })).json().settled;
    } catch {
      await sleep(1000);
    }
  }
}

// 5: of several answers to one attempt the first is kept; without a verdict the same bytes go again.
async function answer(subject, result) {
  const head = headers();
  head.set("Nats-Expected-Last-Subject-Sequence", "0");
  head.set("Jetloom-V", "1");
  for (;;) {
    try {
      return await js.publish(subject, JSON.stringify(result), { headers: head });
    } catch (error) {
      if (error.code === 10071) return;
      await sleep(500);
    }
  }
}

// 3, 4, 6, 8
async function serve(task) {
  const run = task.headers;
  task.working();
  const beating = setInterval(() => task.working(), beatMs);
  try {
    if (task.info.deliveryCount > 1 && (await settled(run))) return task.ack();
    const poison = task.info.deliveryCount > 10;
    const result = poison ? failed("task.poison", "retryable", "its workers die of it") : print(task.json().input, run);
    await answer(run.get("Jetloom-Reply"), result);
    task.ack();
  } finally {
    clearInterval(beating);
  }
}

const tasks = await bind();
const beatMs = tasks ? (await tasks.info()).config.ack_wait / 1e6 / 3 : 0;
while (tasks && !stopping) {
  // 2: one task is pulled when there is room for one.
  const task = await tasks.next({ expires: 1000 });
  if (task && task.headers.get("Jetloom-V") === "1") await serve(task);
}
await nc.drain();
