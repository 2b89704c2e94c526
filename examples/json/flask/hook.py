from flask import Flask, request

app = Flask(__name__)


@app.post("/Hello")
def hello():
    return {"wants": [{"hook": "HOOK_AUTH_PUBLISH"}]}


@app.post("/AuthPublish")
def publish():
    topic = request.json["topic"]
    if topic.startswith("secret/"):
        return {"deny": {"reasonString": "keep out"}}
    if topic.startswith("old/"):
        return {"allow": {"topic": topic.replace("old/", "new/", 1)}}
    return {"allow": {}}
