"""paho over WebSocket: what it publishes comes back to it. Usage: paho_ways.py HOST PORT 3|4|5 [CA]"""

import queue
import sys

import paho.mqtt.client as mqtt

host, port, version = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
heard = queue.Queue()
client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2, f"paho-{version}", protocol=version, transport="websockets"
)
client.ws_set_options(path="/mqtt")
if len(sys.argv) > 4:
    client.tls_set(ca_certs=sys.argv[4])
client.on_connect = lambda *a: heard.put(("connected", a[3].value))
client.on_subscribe = lambda *a: heard.put(("subscribed", a[3][0].value))
client.on_message = lambda _client, _data, message: heard.put((message.qos, message.payload))
client.connect(host, port)
client.loop_start()
print(*heard.get(timeout=20))
topic = f"paho/{version}"
client.subscribe(topic, 2)
print(*heard.get(timeout=20))
for qos, size in [(0, 1), (1, 70_000), (2, 1_000_000)]:
    payload = bytes(n % 251 for n in range(size))
    client.publish(topic, payload, qos)
    came_qos, came = heard.get(timeout=20)
    print("received", came_qos, len(came), "the same" if came == payload else "something else")
client.disconnect()
client.loop_stop()
print("ended")
