#!/usr/bin/env node
// A hook service for mproxy in Node, over calls and over all three streams; what it decides stands in ../README.md.
//
//     ./service.js 127.0.0.1:50051
"use strict";
const path = require("path");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

const contract = loadSync(path.join(__dirname, "../../../proto/events.proto"), {
  keepCase: true, // or names that are spelt as in the contract are dropped without a word
  enums: String,
  longs: String, // a 64 bit id does not fit into a number
  oneofs: true, // names the member that is set
});
const { Hooks, HookStream } = grpc.loadPackageDefinition(contract).mproxy.v1;

const refusal = { reason_code: 0x87 };
const allowed = { allow: {} };
const denied = { deny: refusal };

const decide = {
  connect: ({ username, client_id }) => (username === "mallory" || /[/+#]/.test(client_id) ? denied : allowed),
  publish(client, { topic }) {
    if (topic.startsWith("forbidden/")) return denied;
    if (topic.startsWith("kick/")) {
      if (client.username !== "admin") return denied;
      disconnect(topic.slice("kick/".length));
    }
    return allowed;
  },
  subscribe(_, { filters }) {
    const secret = (filter) => ["secret", "+", "#"].includes(filter.split("/")[0]);
    return { verdicts: filters.map(({ filter }) => (secret(filter) ? denied : allowed)) };
  },
};

// Where commands go: one stream for each mproxy that has opened Control.
const controls = new Set();
let lastCommand = 0;
function disconnect(client_id) {
  lastCommand += 1;
  const command = { id: lastCommand, selector: { client_id }, disconnect: { detail: "kicked" } };
  for (const stream of controls) stream.write(command);
}

const call = (kind) => ({ request }, reply) => reply(null, decide[kind](request.client, request));
const told = (_, reply) => reply(null, {});
const hooks = {
  Hello(_, reply) {
    const decisions = ["HOOK_AUTH_CONNECT", "HOOK_AUTH_PUBLISH", "HOOK_AUTH_SUBSCRIBE"];
    const events = ["HOOK_CONNECT", "HOOK_PUBLISH", "HOOK_SUBSCRIBE", "HOOK_DISCONNECT"];
    const hooks = process.env.HOOK_EVENTS === "off" ? decisions : [...decisions, ...events];
    reply(null, { name: "node", streams: true, wants: hooks.map((hook) => ({ hook })) });
  },
  AuthConnect: call("connect"),
  AuthPublish: call("publish"),
  AuthSubscribe: call("subscribe"),
  // Events, where mproxy cannot send them over Observe.
  Connect: told,
  Publish: told,
  Subscribe: told,
  Disconnect: told,
};

function answer({ id, client_ref, question: kind, ...asked }, clients) {
  if (!decide[kind]) return { id, error: { detail: "not decided here" } };
  return { id, [kind]: decide[kind](clients.get(client_ref), asked[kind]) };
}

// Reads a stream, and stops reading it while what was written is not taken.
function serve(stream, onMessage) {
  stream.on("data", (message) => {
    const response = onMessage(message);
    if (response && !stream.write(response)) {
      stream.pause();
      stream.once("drain", () => stream.resume());
    }
  });
  stream.on("end", () => stream.end());
  stream.on("error", () => {}); // mproxy has gone, and asks again elsewhere
}

const streams = {
  // Each message of questions is answered with one message of answers.
  Decide(stream) {
    const clients = new Map();
    serve(stream, ({ introduce, questions, forget }) => {
      for (const { client_ref, client } of introduce ?? []) clients.set(client_ref, client);
      const answers = (questions ?? []).map((asked) => answer(asked, clients));
      for (const gone of forget ?? []) clients.delete(gone);
      return { answers };
    });
  },
  // Counts events by their numbers, and confirms each message; a service of yours would store them first.
  Observe(stream) {
    let last = 0;
    let [seen, repeated, lost] = [0, 0, 0];
    serve(stream, ({ events, gaps }) => {
      for (const event of events ?? []) {
        const sequence = Number(event[event.event].sequence);
        seen += 1;
        if (sequence > last) last = sequence;
        else repeated += 1;
      }
      for (const { from, to } of gaps ?? []) {
        lost += Number(to) - Number(from) + 1;
        last = Math.max(last, Number(to));
      }
      return last ? { safe_up_to: last } : null;
    });
    stream.on("close", () => console.log(`observed events=${seen} last=${last} repeated=${repeated} gaps=${lost}`));
  },
  // Sends commands, and reads what became of them.
  Control(stream) {
    controls.add(stream);
    stream.on("close", () => controls.delete(stream));
    serve(stream, ({ result }) => {
      if (result?.error) console.error(`command ${result.id}: ${result.error}`);
    });
  },
};

const server = new grpc.Server();
server.addService(Hooks.service, hooks);
server.addService(HookStream.service, streams);
server.bindAsync(process.argv[2] ?? "127.0.0.1:50051", grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});
