"""Drives `fleet`, and the brokers and proxies that it stands before."""

import json
import os
import resource
import subprocess
import time
import urllib.request

import stage

# Listeners that are opened a second time need ports that no outgoing connection may have been given meanwhile.
FIXED = iter(range(31100 + os.getpid() % 1000, 32700))


def fixed_port():
    for port in FIXED:
        if not serves(port):
            return port
    stage.fail("no port is free")


def serves(port):
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def raise_descriptors():
    """As many files as may be: for each client the fleet and the broker need one, and mproxy two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Fleet:
    def __init__(self, program, targets, broker, **options):
        targets = ",".join(f"127.0.0.1:{port}" for port in targets)
        command = [program, "-targets", targets, "-broker", f"127.0.0.1:{broker.port}"]
        for name, value in options.items():
            command += [f"-{name}", str(value)]
        self.popen = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=stage.die_with_parent,
        )
        # All have come, or it has ended.
        self.answer()

    def answer(self):
        line = self.popen.stdout.readline()
        return json.loads(line) if line else stage.fail(f"the fleet has ended with {self.popen.wait()}")

    def ask(self, word):
        self.popen.stdin.write(word + "\n")
        self.popen.stdin.flush()
        return self.answer()

    def finish(self):
        report = self.ask("finish")
        self.popen.stdin.close()
        self.popen.wait(stage.END)
        return report

    def wait_for(self, connected, within):
        """Seconds until so many are connected."""
        begun = time.monotonic()
        while self.ask("count") != connected:
            if time.monotonic() > begun + within:
                stage.fail(f"not all {connected} clients have come back within {within} s")
            time.sleep(0.1)
        return time.monotonic() - begun


def ledger(report):
    """What became of the messages: rows of a table, and what is wrong with them."""
    rows, wrong = [], [f"fault: {fault}" for fault in report["faults"]]
    for way, name in (("from_clients", "from clients"), ("to_clients", "to clients")):
        for qos, one in report[way].items():
            if not one["sent"]:
                continue
            rows.append([f"{name}, {qos}", f"{one['sent']:,}", one["lost"], one["arrived_again"], one["out_of_order"]])
            # What was under way with QoS 0 when a connection ended may be lost with it.
            lost = one["lost"] and not (qos == "QoS 0" and report["ends"])
            if lost or qos != "QoS 1" and one["arrived_again"]:
                wrong.append(f"{name}, {qos}: {one['lost']} lost, {one['arrived_again']} arrived again")
    if report["unfinished"]:
        wrong.append(f"{report['unfinished']} clients have messages that were not acknowledged to the end")
    return rows, wrong


LEDGER_HEAD = ["messages", "sent", "lost", "arrived again", "out of order"]


def http(admin, path, method="GET", timeout=10):
    request = urllib.request.Request(f"http://127.0.0.1:{admin}{path}", method=method)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read().decode()


def command(program, admin, *words):
    environment = os.environ | {"MPROXY_ADMIN_PORT": str(admin)}
    return subprocess.run([str(program), *words], env=environment, check=True, capture_output=True, text=True).stdout
