"""A drain of many clients to another mproxy, and a restart under load: nobody may lose a message."""

import signal
import time

import stage
from fleet import LEDGER_HEAD, Fleet, command, fixed_port, ledger

SPREAD = 10


def drain(options, out):
    rows, accounts, wrong = [], [], []
    for name, by_command in (("SIGTERM", False), ("`mproxy drain`, with a server reference", True)):
        report, seconds = drained(options, out, by_command)
        ends = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(report["ends"].items()))
        by_second = " ".join(map(str, report["ended_by_second"])), " ".join(map(str, report["returned_by_second"]))
        peaks = f"{report['most_ended_in_100_ms']}, {report['most_returned_in_100_ms']}"
        away = report["away_ms"]
        rows.append([name, ends, *by_second, peaks, f"{away['p50']:.1f}, {away['p99']:.0f}, {away['max']:.0f}", f"{seconds:.1f}"])
        account, faults = ledger(report)
        accounts += [[name, *row] for row in account]
        wrong += [f"{name}: {fault}" for fault in faults]
        if sum(report["ends"].values()) != options.clients or len(report["ends"]) != 2:
            wrong.append(f"{name}: {ends}")
    head = ["", "how connections ended", "ended in each second", "came back in each second", "most in 100 ms: ended, came back"]
    head += ["ms away: p50, p99, most", "s until mproxy had ended"]
    return f"{stage.table(head, rows)}\n\n{stage.table(['', *LEDGER_HEAD], accounts)}", wrong


def drained(options, out, by_command):
    broker = stage.mosquitto(out)
    second = stage.mproxy(options.mproxy, out / "second.log", out, broker.port)
    settings = {"MPROXY_DRAIN_SPREAD": f"{SPREAD}s", "MPROXY_DRAIN_TIMEOUT": "30s"}
    if by_command:
        settings["MPROXY_DRAIN_SERVER_REFERENCE"] = f"127.0.0.1:{second.port}"
    first = stage.mproxy(options.mproxy, out / "first.log", out, broker.port, **settings)
    load = {"publishers": 40, "window": 4, "qos": "12", "hold": "100ms", "pause": "100ms", "down": 500}
    fleet = Fleet(options.fleet, [first.port, second.port], broker, clients=options.clients, **load)
    fleet.ask("start")
    time.sleep(3)
    fleet.ask("mark")
    begun = time.monotonic()
    if by_command:
        command(options.mproxy, first.admin, "drain")
    else:
        first.popen.send_signal(signal.SIGTERM)
    first.popen.wait(40)
    seconds = time.monotonic() - begun
    fleet.wait_for(options.clients, 30)
    time.sleep(2)
    report = fleet.finish()
    stage.stop_all()
    return report, seconds


def restart(options, out):
    """500 messages a second of QoS 1; mproxy stops and starts at the same port."""
    rows, wrong = [], []
    for name, how in (("SIGTERM", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)):
        for _ in range(options.rounds):
            report, gone = restarted(options, out, how)
            account, faults = ledger(report)
            away = report["away_ms"]
            up = report["from_clients"]["QoS 1"]
            down = report["to_clients"]
            rows.append(
                [name, f"{gone:.2f}", f"{away['p50']:.0f}, {away['max']:.0f}", report["resent"]]
                + [f"{up['sent']:,}", up["lost"], up["arrived_again"]]
                + [f"{down['QoS 1']['sent'] + down['QoS 2']['sent']:,}", down["QoS 1"]["lost"] + down["QoS 2"]["lost"]]
            )
            wrong += [f"{name}: {fault}" for fault in faults]
    head = ["ended by", "s without mproxy", "ms away: p50, most", "sent again", "from clients", "lost", "arrived again"]
    return stage.table(head + ["to clients", "lost"], rows), wrong


def restarted(options, out, how):
    broker = stage.mosquitto(out)
    port = fixed_port()
    start = lambda: stage.mproxy(options.mproxy, out / "mproxy.log", out, broker.port, port=port)
    first = start()
    load = {"clients": 500, "publishers": 100, "window": 100, "qos": "1", "rate": 500, "hold": "20ms", "down": 200}
    fleet = Fleet(options.fleet, [port], broker, **load)
    fleet.ask("start")
    time.sleep(3)
    fleet.ask("mark")
    first.popen.send_signal(how)
    first.popen.wait(40)
    gone = time.monotonic()
    first.stop()
    start()
    gone = time.monotonic() - gone
    fleet.wait_for(500, 30)
    time.sleep(3)
    report = fleet.finish()
    stage.stop_all()
    return report, gone
