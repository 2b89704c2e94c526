// A hook service for mproxy in JSON: refuses one user and two topic trees, rewrites a third, and gives sensors a grant.
// ../README.md says how to start it. A field with its default value is left out of a question.
"use strict";
const express = require("express");

// Sensors say something about themselves, and hear what is said to them. What no rule matches is refused, and nobody is
// asked.
const sensor = {
  version: "sensor-1",
  rules: [
    { effect: "EFFECT_ALLOW", actions: ["GRANT_ACTION_PUBLISH"], topicFilters: ["sensors/${clientid}/#"] },
    { effect: "EFFECT_ALLOW", actions: ["GRANT_ACTION_SUBSCRIBE"], topicFilters: ["commands/${clientid}/#"] },
  ],
  defaultEffect: "EFFECT_DENY",
};

function decideConnect({ username, clientId = "" }) {
  if (username === "mallory") return { deny: { reasonString: "mallory may not come in" } };
  // Such an id would be more than one level of a topic, or match the topics of others.
  if (/[/+#]/.test(clientId)) return { deny: { reasonCode: 0x85 } };
  if (username === "sensor") return { allow: { grant: sensor } };
  return { allow: {} };
}

function decidePublish(topic) {
  if (topic.startsWith("forbidden/")) return { deny: { reasonString: "nobody publishes here" } };
  if (topic.startsWith("old/")) return { allow: { topic: topic.replace("old/", "new/") } };
  return { allow: {} };
}

function decideFilter(filter) {
  // Judge what a filter matches: "+" and "#" also match secret topics.
  if (["secret", "+", "#"].includes(filter.split("/")[0])) {
    return { deny: { reasonString: "this would show what is secret" } };
  }
  return { allow: {} };
}

// Payloads may be large, if `Hello` asks for them.
const app = express().use(express.json({ limit: "6mb" }));
// The calls that this service wants; the others are never made.
const hooks = ["HOOK_AUTH_CONNECT", "HOOK_AUTH_PUBLISH", "HOOK_AUTH_SUBSCRIBE"];
app.post("/Hello", (_, answer) => answer.json({ name: "express", wants: hooks.map((hook) => ({ hook })) }));
app.post("/AuthConnect", ({ body }, answer) => answer.json(decideConnect(body.client)));
app.post("/AuthPublish", ({ body }, answer) => answer.json(decidePublish(body.topic)));
app.post("/AuthSubscribe", ({ body }, answer) =>
  answer.json({ verdicts: body.filters.map(({ filter }) => decideFilter(filter)) }),
);

const [, host, port] = (process.env.HOOK_ADDRESS ?? "127.0.0.1:50051").match(/^(.*):(\d+)$/);
const server = app.listen(Number(port), host, (error) => {
  if (error) throw error;
  console.log(`listening on ${host}:${server.address().port}`);
});
// mproxy keeps connections for 4 s between calls: who waits longer than that never closes one under a question.
server.keepAliveTimeout = 10_000;
