"""paho, refused now and then: tells what it was told, a line each. Usage: paho_refusals.py HOST PORT 3|4|5"""

import queue
import sys

import paho.mqtt.client as mqtt

HOST, PORT, VERSION = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
NO = "no/ACTION_REJECT"
happened = queue.Queue()


def code(reason):
    return reason.value if hasattr(reason, "value") else reason


def client(name):
    it = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"paho-{name}-{VERSION}", protocol=VERSION,
                     reconnect_on_failure=False)
    it.on_connect = lambda *args: happened.put(("connected", code(args[3])))
    it.on_disconnect = lambda *args: happened.put(("disconnected", code(args[3])))
    it.on_publish = lambda *args: happened.put(("published", args[2], code(args[3])))
    it.on_subscribe = lambda *args: happened.put(("subscribed", args[2], *map(code, args[3])))
    it.on_message = lambda *args: happened.put(("received", args[2].topic, args[2].qos))
    return it


def next_one(kind):
    it = happened.get(timeout=20)
    assert it[0] == kind, f"{it} instead of {kind}"
    return it[1:]


def say(*words):
    print(*words, flush=True)


it = client("main")
it.connect(HOST, PORT)
it.loop_start()
say("connected", *next_one("connected"))
for qos in range(3):
    sent = it.publish(NO, "x", qos)
    mid, reason = next_one("published")
    assert mid == sent.mid
    say("published", qos, reason)
it.subscribe([(NO, 1), ("paho/yes", 2), (NO + "/#", 0)])
say("subscribed", *next_one("subscribed")[1:])
it.subscribe(NO, 2)
say("subscribed", *next_one("subscribed")[1:])
# It is as good as before: what is allowed comes back, from the same connection.
for qos in range(3):
    it.publish("paho/yes", "x", qos)
    came = [happened.get(timeout=20) for _ in range(2)]
    topic, got = next(each[1:] for each in came if each[0] == "received")
    say("received", topic, got)
it.disconnect()
say("disconnected", *next_one("disconnected"))
it.loop_stop()

it = client("refused")
it.username_pw_set(NO)
it.connect(HOST, PORT)
it.loop_start()
say("refused", *next_one("connected"))
it.loop_stop()
