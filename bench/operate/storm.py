"""Strangers knock as fast as the machine lets them, and then the whole fleet comes back at once. Those who sit notice
nothing, and the broker and the hook service see no more than was said."""

import json
import os
import pathlib
import subprocess
import threading
import time

import stage
from fleet import Fleet, ledger

# Clients that stay connected, and publish.
SITTERS = 500
ADMITTED = 1000
STRANGERS_SECONDS = 10
LOAD = {"publishers": 100, "window": 8, "qos": "12", "rate": 500, "hold": "10ms", "down": 200, "addresses": 5000}
SETTINGS = {
    "MPROXY_MAX_ADMISSIONS_PER_SECOND": str(ADMITTED),
    "MPROXY_ADDRESS_RATE": "60/m",
    "MPROXY_ADDRESS_CONNECTIONS": "50",
    "MPROXY_MEMORY_REFUSE": "2GiB",
}
CALLS = 'mproxy_policy_call_duration_seconds_count{rpc="AuthConnect"'


class Watch:
    """Each half second: resident memory, CONNECTs that the hook service was asked about, and connections to the broker."""

    def __init__(self, proxy):
        self.proxy, self.running, self.samples = proxy, True, []
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self):
        while self.running:
            now = time.monotonic()
            calls = stage.metric(self.proxy, CALLS.split("{")[0], 'rpc="AuthConnect"')
            dials = stage.metric(self.proxy, "mproxy_broker_dial_duration_seconds_count")
            self.samples.append((now, resident(self.proxy.popen.pid), calls, dials))
            time.sleep(0.5)

    def most(self, since):
        """MiB, and the most a second of questions and dials, over a second each."""
        samples = [one for one in self.samples if one[0] >= since]
        rates = [[], []]
        for at, (begun, _, calls, dials) in enumerate(samples):
            end = next((one for one in samples[at + 1 :] if one[0] - begun >= 1), None)
            if end:
                rates[0].append((end[2] - calls) / (end[0] - begun))
                rates[1].append((end[3] - dials) / (end[0] - begun))
        return max(one[1] for one in samples), *(max(rate, default=0) for rate in rates)

    def stop(self):
        self.running = False
        self.thread.join()


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


def hook_service(options, out):
    port = stage.free_port()
    environment = os.environ | {"HOOK_ADDRESS": f"127.0.0.1:{port}"}
    service = stage.Process("hook", [options.mproxy.parent / "mproxy-example-hook"], out / "hook.log", port, env=environment)
    service.url = f"http://127.0.0.1:{port}"
    return service


def without_mproxy(options, out, broker, clients):
    """The same return at the broker itself: what of it is the broker's, the fleet's and the machine's."""
    fleet = Fleet(options.fleet, [broker.port], broker, clients=clients, **LOAD)
    fleet.ask("start")
    time.sleep(2)
    found = []
    for name, seconds in (("nobody else", 5), (f"{clients - SITTERS:,} come back at once", 0)):
        fleet.ask("look")
        begun = time.monotonic()
        if not seconds:
            fleet.ask("mark")
            fleet.ask(f"drop {SITTERS}")
            # As long as it takes where they are admitted in turn.
            fleet.wait_for(clients, 60)
            seconds = clients / ADMITTED
        time.sleep(max(0, begun + seconds - time.monotonic()))
        found.append((f"at the broker itself: {name}", time.monotonic() - begun, fleet.ask("look")["up_ms"]))
    fleet.finish()
    stage.stop_all()
    return found


def storm(options, out):
    broker = stage.mosquitto(out)
    clients = options.clients - 250
    alone = without_mproxy(options, out, broker, clients)
    broker = stage.mosquitto(out)
    service = hook_service(options, out)
    # What strangers are told apart by: the service refuses one user.
    proxy = stage.mproxy(options.mproxy, out / "mproxy.log", out, broker.port, MPROXY_POLICY_URL=service.url, **SETTINGS)
    strangers = out / "strangers"
    stage.build_go(pathlib.Path(__file__).parent / "strangers", strangers)
    fleet = Fleet(options.fleet, [proxy.port], broker, clients=clients, **LOAD)
    watch = Watch(proxy)
    fleet.ask("start")
    time.sleep(2)
    fleet.ask("look")
    rows, wrong, times = [], [], []
    for name, took, up in alone:
        row = [name, f"{took:.1f}", f"{up['count']:,}", f"{up['p50']:.1f}", f"{up['p99']:.1f}", f"{up['max']:.0f}"]
        rows.append(row + ["–"] * 4)

    def phase(name, during, seconds=0):
        begun, cpu = time.monotonic(), stage.cpu(proxy.popen)
        came = during()
        time.sleep(max(0, begun + seconds - time.monotonic()))
        took = time.monotonic() - begun
        up = fleet.ask("look")["up_ms"]
        times.append(up["p99"])
        mib, calls, dials = watch.most(begun)
        cpu = 100 * (stage.cpu(proxy.popen) - cpu) / took
        row = [name, f"{took:.1f}", f"{up['count']:,}", f"{up['p50']:.1f}", f"{up['p99']:.1f}", f"{up['max']:.0f}"]
        rows.append(row + [f"{cpu:.0f}", f"{mib:.0f}", f"{calls:,.0f}", f"{dials:,.0f}"])
        # A tenth of a second's may come at once; and what is counted is seen a little later.
        if calls > 1.15 * ADMITTED or dials > 1.15 * ADMITTED:
            wrong.append(f"{name}: {calls:.0f} questions and {dials:.0f} connections to the broker in a second")
        return came

    def knock():
        # They would have a machine of their own: here they have what the others leave of this one.
        command = ["nice", "-n", "19", strangers, "-target", f"127.0.0.1:{proxy.port}", "-lasts", f"{STRANGERS_SECONDS}s"]
        return json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)

    def come_back():
        fleet.ask("mark")
        fleet.ask(f"drop {SITTERS}")
        return fleet.wait_for(clients, 60)

    phase("nobody else", lambda: None, 8)
    said = phase(f"strangers for {STRANGERS_SECONDS} s", knock)
    if said["a_second"] < 5000:
        wrong.append(f"only {said['a_second']:.0f} attempts a second")
    if said["admitted"]:
        wrong.append(f"{said['admitted']} strangers were admitted")
    phase("after them", lambda: None, 3)
    phase(f"{clients - SITTERS:,} come back at once", come_back)
    watch.stop()
    report = fleet.finish()
    account, faults = ledger(report)
    wrong += faults
    most = 2 * max(times[0], alone[1][2]["p99"])
    wrong += [f"p99 of those who sit: {one} ms after {times[0]} ms" for one in times[1:] if one > most]
    head = ["", "s", "messages of those who sit", "ms p50", "p99", "most", "mproxy's CPU %", "MiB", "questions a second at most"]
    text = stage.table(head + ["dials a second at most"], rows)
    told = ", ".join(f"{name.replace('_', ' ')} {said[name]:,}" for name in ("not_reached", "closed", "refused", "no_answer"))
    text += f"\n\nStrangers: {said['attempts']:,} attempts, {said['a_second']:,.0f} a second; {told}, admitted {said['admitted']}."
    back = " ".join(map(str, report["returned_by_second"]))
    text += f"\nCame back in each second: {back}; connects that failed meanwhile: {report['failed_connects']:,}."
    return text + "\n\n" + stage.table(["messages", "sent", "lost", "arrived again", "out of order"], account), wrong
