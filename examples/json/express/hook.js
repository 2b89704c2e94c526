const express = require("express");
const app = express().use(express.json({ limit: "6mb" }));

app.post("/Hello", (_, answer) => answer.json({ wants: [{ hook: "HOOK_AUTH_PUBLISH" }] }));

app.post("/AuthPublish", ({ body: { topic } }, answer) => {
  if (topic.startsWith("secret/")) answer.json({ deny: { reasonString: "keep out" } });
  else if (topic.startsWith("old/")) answer.json({ allow: { topic: topic.replace("old/", "new/") } });
  else answer.json({ allow: {} });
});

app.listen(50051, "127.0.0.1");
