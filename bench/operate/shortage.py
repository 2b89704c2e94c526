"""Something that mproxy needs is missing: file descriptors, room on a disk, the collector of traces. It serves on."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import stage
from fleet import Fleet, http, ledger

LOAD = {"clients": 200, "publishers": 100, "window": 8, "qos": "12", "rate": 1000, "hold": "10ms", "down": 200}
SECONDS = 5


def spent(process, fleet, seconds=SECONDS):
    """CPU and the ways of messages for so long, under `SPENT_HEAD`."""
    fleet.ask("look")
    before, begun = stage.cpu(process.popen), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begun
    cpu = 100 * (stage.cpu(process.popen) - before) / took
    up = fleet.ask("look")["up_ms"]
    return [f"{cpu:.1f}", f"{up['count']:,}", f"{up['p50']:.1f}", f"{up['p99']:.1f}", f"{up['max']:.0f}"]


SPENT_HEAD = ["CPU %", "messages", "ms p50", "p99", "most"]


# ---- File descriptors

DESCRIPTORS = 400


def descriptors(options, out):
    broker = stage.mosquitto(out)
    limited = ["prlimit", f"--nofile={DESCRIPTORS}", options.mproxy]
    proxy = stage.mproxy(limited, out / "mproxy.log", out, broker.port)
    load = LOAD | {"clients": 100, "publishers": 50, "rate": 500}
    fleet = Fleet(options.fleet, [proxy.port], broker, **load)
    fleet.ask("start")
    rows = [["100 clients", *spent(proxy, fleet, 3), *asked(proxy, 3), opened(proxy)]]
    crowd = [knock(proxy.port, number) for number in range(400)]
    rows.append(["and 400 more come", *spent(proxy, fleet, 3), *asked(proxy, 6), opened(proxy)])
    admitted = sum(answered(one) for one in crowd)
    for one in crowd:
        one.close()
    gone = time.monotonic()
    while not answered(knock(proxy.port, 0)):
        if time.monotonic() - gone > 30:
            break
    back = time.monotonic() - gone
    rows.append(["they have gone", *spent(proxy, fleet, 3), *asked(proxy, 3), opened(proxy)])
    _, wrong = ledger(fleet.finish())
    log = (out / "mproxy.log").read_text().splitlines()
    text = stage.table(["", *SPENT_HEAD, "admin API: answers of", "ms at most", "descriptors"], rows)
    text += f"\n\nOf the 400, {admitted} were served; {back:.2f} s after they had gone a new client was. Log lines in all: {len(log)}."
    if admitted < 40:
        wrong.append(f"only {admitted} of those who came later were served")
    if any(int(row[6].split("/")[0]) < int(row[6].split("/")[1]) for row in rows):
        wrong.append("the admin API did not answer")
    return text, wrong


def knock(port, number):
    link = socket.create_connection(("127.0.0.1", port), 5)
    link.settimeout(5)
    name = f"crowd-{number}".encode()
    with contextlib.suppress(OSError):
        link.sendall(bytes([0x10, 12 + len(name)]) + b"\0\4MQTT\4\2\0\0\0" + bytes([len(name)]) + name)
    return link


def answered(link):
    with contextlib.suppress(OSError):
        link.settimeout(0.2)
        return link.recv(4) == b"\x20\2\0\0"
    return False


def opened(process):
    return len(list(pathlib.Path(f"/proc/{process.popen.pid}/fd").iterdir()))


def asked(process, times):
    """How many of so many questions to the admin API are answered, and the longest time that took."""
    answers, longest = 0, 0.0
    for path in ["/readyz", "/metrics", "/api/v1/sessions"] * (times // 3):
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            http(process.admin, path, timeout=2)
            answers += 1
        longest = max(longest, time.monotonic() - begun)
    return [f"{answers}/{times}", f"{1000 * longest:.0f}"]


# ---- A disk of 1 MiB


@contextlib.contextmanager
def small_disk(folder):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M,mode=0755", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        stage.stop_all()
        subprocess.run(["umount", folder], check=True)


def disk(options, out):
    if os.geteuid() != 0:
        stage.fail("the scene `disk` mounts a small file system, which takes root")
    texts, wrong = [], []
    for scene in (decision_log, event_spool):
        with small_disk(out / scene.__name__) as folder:
            text, faults = scene(options, out, folder)
        texts.append(text)
        wrong += faults
    return "\n\n".join(texts), wrong


def counted(process, *names):
    return [f"{stage.metric(process, *name) if isinstance(name, tuple) else stage.metric(process, name):,.0f}" for name in names]


def decision_log(options, out, folder):
    """Each publish is recorded. The file is removed while it is full."""
    broker = stage.mosquitto(out)
    rules = out / "rules.toml"
    rules.write_text('anonymous = true\n[[rules]]\neffect = "allow"\ntopics = ["#"]\n')
    file = folder / "decisions.jsonl"
    settings = {"MPROXY_ACL_FILE": str(rules), "MPROXY_DECISION_LOG": str(file), "MPROXY_DECISION_LOG_ALLOWED_ONE_IN": "1"}
    proxy = stage.mproxy(options.mproxy, out / "log.log", out, broker.port, MPROXY_DECISION_LOG_FILES="1", **settings)
    fleet = Fleet(options.fleet, [proxy.port], broker, **LOAD)
    names = ["mproxy_decision_records_total", "mproxy_decision_records_lost_total", "mproxy_decision_log_file_errors_total"]

    def row(name):
        return [name, *spent(proxy, fleet), f"{file.stat().st_size:,}" if file.exists() else "–", *counted(proxy, *names)]

    fleet.ask("start")
    time.sleep(0.5)
    rows = [row("it becomes full")]
    rows.append(row("it is full"))
    broken = len(file.read_text().splitlines()) - sum(map(is_record, file.read_text().splitlines()))
    file.unlink()
    rows.append(row("the file was removed"))
    _, wrong = ledger(fleet.finish())
    lines = [line for line in (out / "log.log").read_text().splitlines() if "decision log" in line.lower()]
    text = stage.table(["decision log", *SPENT_HEAD, "bytes of the file", "records", "lost", "failed operations"], rows)
    if broken > 1:
        wrong.append(f"{broken} lines of the file are no records")
    if not 1 <= len(lines) <= 8:
        wrong.append(f"{len(lines)} log lines about the decision log")
    return text + "\n\n" + stage.table(["its log lines"], [[said(line, folder)] for line in lines]), wrong


def said(line, folder):
    """A line of the log, without when and where this run was."""
    return line.split(" ", 1)[1].strip().replace(str(folder), "…")


def is_record(line):
    """The last line of a full file may be cut."""
    with contextlib.suppress(ValueError):
        return "outcome" in json.loads(line)
    return False


def event_spool(options, out, folder):
    """The hook service, which takes events, is stopped for a time, so that its spool becomes full."""
    broker = stage.mosquitto(out)
    port = stage.free_port()
    hook = options.mproxy.parent / "mproxy-example-hook"
    # So that little is left.
    (folder / "filler").write_bytes(bytes(800 << 10))
    start = lambda: stage.Process("the service", [hook, f"127.0.0.1:{port}"], out / "hook.log", port)
    service = start()
    settings = {"MPROXY_POLICY_URL": f"http://127.0.0.1:{port}", "MPROXY_POLICY_ON_ERROR": "allow"}
    settings |= {"MPROXY_EVENTS_SPOOL": str(folder), "MPROXY_EVENTS_SPOOL_SIZE": "16MiB", "MPROXY_POLICY_TIMEOUT": "100ms"}
    proxy = stage.mproxy(options.mproxy, out / "spool.log", out, broker.port, **settings)
    fleet = Fleet(options.fleet, [proxy.port], broker, **LOAD)
    names = ["mproxy_events_confirmed_total", "mproxy_events_unconfirmed ", "mproxy_event_spool_bytes"]
    names += ["mproxy_events_not_spooled_total", "mproxy_events_dropped_total"]
    row = lambda name: [name, *spent(proxy, fleet), *counted(proxy, *names)]
    fleet.ask("start")
    rows = [row("the service takes events")]
    service.popen.send_signal(signal.SIGKILL)
    service.stop()
    rows += [row("it is away: the disk becomes full"), row("it is away: the disk is full")]
    start()
    rows.append(row("it is back"))
    wrong = ledger(fleet.finish())[1]
    time.sleep(3)
    if not stage.metric(proxy, "mproxy_events_not_spooled_total"):
        wrong.append("the disk was never full")
    unconfirmed, dropped = stage.metric(proxy, "mproxy_events_unconfirmed "), stage.metric(proxy, "mproxy_events_dropped_total")
    if unconfirmed or dropped:
        wrong.append(f"events: {unconfirmed} not confirmed, {dropped} dropped")
    head = ["event spool", *SPENT_HEAD, "events confirmed", "waiting", "bytes of the spool", "not spooled", "dropped"]
    lines = [line for line in (out / "spool.log").read_text().splitlines() if "spool" in line.lower()]
    return stage.table(head, rows) + "\n\n" + stage.table(["its log lines"], [[said(line, folder)] for line in lines]), wrong


# ---- The collector of traces


class Collector:
    """An address at which nobody takes a trace."""

    def __init__(self, kind):
        self.kind, self.links = kind, []
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        if kind == "nobody listens":
            self.listener.close()
            return
        self.listener.listen(0 if kind == "packets are dropped" else 64)
        if kind == "packets are dropped":
            # What does not fit into the queue of a listener is not even answered.
            for _ in range(3):
                link = socket.socket()
                link.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    link.connect(("127.0.0.1", self.port))
                self.links.append(link)

    def close(self):
        for one in [*self.links, self.listener]:
            one.close()


def collector(options, out):
    """Each question to the hook service has a span."""
    rows, wrong = [], []
    for kind in ("no traces", "nobody listens", "packets are dropped", "it takes and never answers"):
        broker, port = stage.mosquitto(out), stage.free_port()
        hook = [options.mproxy.parent / "mproxy-example-hook", f"127.0.0.1:{port}"]
        stage.Process("the service", hook, out / "hook.log", port, env=os.environ | {"HOOK_EVENTS": "off"})
        settings = {"MPROXY_POLICY_URL": f"http://127.0.0.1:{port}"}
        away = kind != "no traces" and Collector(kind)
        if away:
            settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{away.port}"
        proxy = stage.mproxy(options.mproxy, out / "mproxy.log", out, broker.port, **settings)
        fleet = Fleet(options.fleet, [proxy.port], broker, **LOAD)
        fleet.ask("start")
        time.sleep(1)
        row = [kind, *spent(proxy, fleet, 12)]
        memory = stage.metric(proxy, "process_resident_memory_bytes") / (1 << 20)
        row += [f"{memory:.1f}", *counted(proxy, "mproxy_trace_spans_lost_total")]
        wrong += [f"{kind}: {fault}" for fault in ledger(fleet.finish())[1]]
        begun = time.monotonic()
        proxy.stop()
        lines = [line for line in (out / "mproxy.log").read_text().splitlines() if "trace" in line.lower() or "span" in line.lower()]
        rows.append([*row, len(lines), f"{time.monotonic() - begun:.1f}"])
        stage.stop_all()
        if away:
            away.close()
    return stage.table(["the collector", *SPENT_HEAD, "MiB resident", "spans lost", "log lines", "s to stop"], rows), wrong
