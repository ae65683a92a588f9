// Publishes an event, calls an endpoint twice, lists the services. One JSON document at the end.
import { connect, headers } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";
import { ServiceError, Svcm } from "@nats-io/services";

const nc = await connect({ servers: process.env.NATS_URL });
const js = jetstream(nc);

async function place(order) {
  const head = headers();
  head.set("ce-id", `${order.id}-placed`);
  head.set("ce-source", "till");
  const body = JSON.stringify(order);
  return await js.publish("jetloom.events.shop.order.placed", body, { headers: head, msgID: `${order.id}-placed` });
}

async function call(module, endpoint, input) {
  const answer = await nc.request(`jetloom.rpc.${module}.${endpoint}`, JSON.stringify(input), { timeout: 2000 });
  if (ServiceError.isServiceError(answer)) {
    throw Object.assign(ServiceError.toServiceError(answer), { error: answer.json() });
  }
  return answer.json();
}

async function services() {
  const found = [];
  for await (const each of await new Svcm(nc).client().info()) {
    found.push({ name: each.name, version: each.version, endpoints: each.endpoints.map((one) => one.subject) });
  }
  return found;
}

async function refusal(...request) {
  try {
    await call(...request);
  } catch (error) {
    return { status: error.code, text: error.message, error: error.error };
  }
}

const first = await place({ id: "n-1", item: "pen", pieces: 5 });
const again = await place({ id: "n-1", item: "pen", pieces: 5 });
console.log(
  JSON.stringify({
    stored: { stream: first.stream, seq: first.seq, again: again.seq, duplicate: again.duplicate },
    left: await call("stock", "left", { item: "pen" }),
    refused: await refusal("stock", "left", { item: "sword" }),
    misfit: await refusal("stock", "left", { item: 7 }),
    services: await services(),
  }),
);
await nc.close();
