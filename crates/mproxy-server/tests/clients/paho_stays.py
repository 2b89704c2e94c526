"""paho as applications run it: it says when it has subscribed, each time it has, and what it hears, until it is killed.
Usage: paho_stays.py HOST PORT 3|4|5"""

import sys

import paho.mqtt.client as mqtt

host, port, version = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def say(*words):
    print(*words, flush=True)


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"paho-{version}", protocol=version)
client.on_connect = lambda client, _data, _flags, reason, _properties: (
    say("refused", reason) if reason.is_failure else client.subscribe("news", 1)
)
client.on_subscribe = lambda *_: say("subscribed")
client.on_message = lambda _client, _data, message: say("heard", message.payload.decode())
client.on_disconnect = lambda *_: say("closed")
client.connect(host, port)
client.loop_forever(retry_first_connection=True)
