"""A hook service for mproxy in JSON: refuses one user and two topic trees, rewrites a third, and gives sensors a grant.

../README.md says how to start it. A field with its default value is left out of a question, so use `get` for what may be
empty.
"""

import os
import re

from flask import Flask, request

app = Flask(__name__)

# Sensors say something about themselves, and hear what is said to them. What no rule matches is refused, and nobody is
# asked.
SENSOR = {
    "version": "sensor-1",
    "rules": [
        {"effect": "EFFECT_ALLOW", "actions": ["GRANT_ACTION_PUBLISH"], "topicFilters": ["sensors/${clientid}/#"]},
        {"effect": "EFFECT_ALLOW", "actions": ["GRANT_ACTION_SUBSCRIBE"], "topicFilters": ["commands/${clientid}/#"]},
    ],
    "defaultEffect": "EFFECT_DENY",
}


@app.post("/Hello")
def hello():
    # The calls that this service wants; the others are never made.
    hooks = ["HOOK_AUTH_CONNECT", "HOOK_AUTH_PUBLISH", "HOOK_AUTH_SUBSCRIBE"]
    return {"name": "flask", "wants": [{"hook": hook} for hook in hooks]}


@app.post("/AuthConnect")
def connect():
    client = request.json["client"]
    username = client.get("username")
    if username == "mallory":
        return {"deny": {"reasonString": "mallory may not come in"}}
    # Such an id would be more than one level of a topic, or match the topics of others.
    if re.search("[/+#]", client.get("clientId", "")):
        return {"deny": {"reasonCode": 0x85}}
    return {"allow": {"grant": SENSOR} if username == "sensor" else {}}


@app.post("/AuthPublish")
def publish():
    topic = request.json["topic"]
    if topic.startswith("forbidden/"):
        return {"deny": {"reasonString": "nobody publishes here"}}
    if topic.startswith("old/"):
        return {"allow": {"topic": topic.replace("old/", "new/", 1)}}
    return {"allow": {}}


@app.post("/AuthSubscribe")
def subscribe():
    def judge(asked):
        # Judge what a filter matches: "+" and "#" also match secret topics.
        if asked["filter"].split("/")[0] in ("secret", "+", "#"):
            return {"deny": {"reasonString": "this would show what is secret"}}
        return {"allow": {}}

    return {"verdicts": [judge(asked) for asked in request.json["filters"]]}


if __name__ == "__main__":
    host, _, port = os.environ.get("HOOK_ADDRESS", "127.0.0.1:50051").rpartition(":")
    app.run(host, int(port))
