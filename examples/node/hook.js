// A hook service for mproxy: refuses one user and two topic trees, rewrites a third, and gives sensors a grant.
// README.md says how to start it.
"use strict";
const path = require("path");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

// Without keepCase, fields have other names here than in the contract, and those that you spell as it does are silently
// dropped: a grant would have no default, a rule no filters.
const file = process.env.HOOK_CONTRACT ?? path.join(__dirname, "../../proto/events.proto");
const { Hooks } = grpc.loadPackageDefinition(loadSync(file, { keepCase: true, enums: String })).mproxy.v1;

// Sensors say something about themselves, and hear what is said to them. What no rule matches is refused, and nobody is
// asked.
const sensor = {
  version: "sensor-1",
  rules: [
    { effect: "EFFECT_ALLOW", actions: ["GRANT_ACTION_PUBLISH"], topic_filters: ["sensors/${clientid}/#"] },
    { effect: "EFFECT_ALLOW", actions: ["GRANT_ACTION_SUBSCRIBE"], topic_filters: ["commands/${clientid}/#"] },
  ],
  default_effect: "EFFECT_DENY",
};

function decideConnect({ username, client_id }) {
  if (username === "mallory") return { deny: { reason_string: "mallory may not come in" } };
  // Such an id would be more than one level of a topic, or match the topics of others.
  if (/[/+#]/.test(client_id)) return { deny: { reason_code: 0x85 } };
  if (username === "sensor") return { allow: { grant: sensor } };
  return { allow: {} };
}

function decidePublish(topic) {
  if (topic.startsWith("forbidden/")) return { deny: { reason_string: "nobody publishes here" } };
  if (topic.startsWith("old/")) return { allow: { topic: `new/${topic.slice("old/".length)}` } };
  return { allow: {} };
}

function decideFilter(filter) {
  // Judge what a filter matches: "+" and "#" also match secret topics.
  if (["secret", "+", "#"].includes(filter.split("/")[0])) {
    return { deny: { reason_string: "this would show what is secret" } };
  }
  return { allow: {} };
}

const server = new grpc.Server();
server.addService(Hooks.service, {
  // The calls that this service wants; the others are never made.
  Hello(_, reply) {
    const hooks = ["HOOK_AUTH_CONNECT", "HOOK_AUTH_PUBLISH", "HOOK_AUTH_SUBSCRIBE"];
    reply(null, { name: "node", wants: hooks.map((hook) => ({ hook })) });
  },
  AuthConnect: ({ request }, reply) => reply(null, decideConnect(request.client)),
  AuthPublish: ({ request }, reply) => reply(null, decidePublish(request.topic)),
  AuthSubscribe: ({ request }, reply) =>
    reply(null, { verdicts: request.filters.map(({ filter }) => decideFilter(filter)) }),
});

const address = process.env.HOOK_ADDRESS ?? "127.0.0.1:50051";
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`listening on ${address.slice(0, address.lastIndexOf(":"))}:${port}`);
});
// What is asked already is answered; mproxy asks another endpoint, if there is one, or this one when it is back.
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => server.tryShutdown(() => process.exit()));
