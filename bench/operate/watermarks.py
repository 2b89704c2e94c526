"""Both watermarks are reached and left again, of descriptors and of memory, with nearly all clients inside: whoever came last
goes first, and the fleet notices nothing."""

import signal
import time

import stage
from fleet import LEDGER_HEAD, Fleet, ledger
from shortage import answered, knock, opened
from storm import resident

LOAD = {"publishers": 200, "window": 4, "qos": "012", "rate": 500, "hold": "10ms", "down": 300}
HEAD = ["", "s", "of the crowd", "level", "descriptors", "MiB", "ms of messages from clients: p50, p99, most", "to clients"]
MIB = 1 << 20
CROWD = 600


class Scene:
    def __init__(self, options, out):
        self.broker = stage.mosquitto(out)
        self.config = out / "mproxy.toml"
        self.proxy = stage.mproxy(options.mproxy, out / "mproxy.log", out, self.broker.port)
        self.plain = self.config.read_text()
        # Both of its descriptors, of 20,000: 9,000 take nine tenths.
        self.clients = options.clients - 500
        self.fleet = Fleet(options.fleet, [self.proxy.port], self.broker, clients=self.clients, **LOAD)
        self.fleet.ask("start")
        self.crowd, self.names, self.rows, self.wrong = [], 0, [], []

    def marks(self, **marks):
        """Changed while it runs, by a reload."""
        lines = "".join(f"{name} = {value!r}\n".replace("'", '"') for name, value in marks.items())
        self.config.write_text(f"{self.plain}\n[protection]\n{lines}")
        done = 'mproxy_reloads_total{what="configuration",outcome="reloaded"}'
        before = stage.metric(self.proxy, done.split("{")[0], 'outcome="reloaded"')
        self.proxy.popen.send_signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while stage.metric(self.proxy, done.split("{")[0], 'outcome="reloaded"') == before:
            if time.monotonic() > end:
                stage.fail("the reload did not come: " + (self.config.parent / "mproxy.log").read_text()[-500:])
            time.sleep(0.05)
        # It is looked at each second.
        time.sleep(1.2)

    def level(self, resource):
        return int(stage.metric(self.proxy, "mproxy_watermark_level", f'resource="{resource}"'))

    def until_level(self, resource, level, within=10):
        begun = time.monotonic()
        while self.level(resource) != level:
            if time.monotonic() - begun > within:
                self.wrong.append(f"{resource}: the level is {self.level(resource)} and not {level}")
                break
            time.sleep(0.05)

    def there(self):
        """How many of the crowd are still connected."""
        for one in self.crowd.copy():
            one.setblocking(False)
            try:
                if not one.recv(100):
                    raise ConnectionError
            except BlockingIOError:
                pass
            except OSError:
                one.close()
                self.crowd.remove(one)
        return len(self.crowd)

    def come(self, count=CROWD):
        # Names that those who are here have not.
        self.names += count
        came = [knock(self.proxy.port, number) for number in range(self.names - count, self.names)]
        self.crowd += [one for one in came if answered(one)]

    def phase(self, name, resource, during):
        self.fleet.ask("look")
        begun = time.monotonic()
        during()
        time.sleep(3)
        took = time.monotonic() - begun
        look = self.fleet.ask("look")
        times = [f"{look[way]['p50']:.1f}, {look[way]['p99']:.0f}, {look[way]['max']:.0f}" for way in ("up_ms", "down_ms")]
        mib = f"{resident(self.proxy.popen.pid):.0f}"
        self.rows.append([name, f"{took:.1f}", self.there(), self.level(resource), f"{opened(self.proxy):,}", mib, *times])
        if look["connected"] != self.clients:
            self.wrong.append(f"{name}: {look['connected']} of {self.clients} clients are connected")

    def shed(self):
        return int(stage.metric(self.proxy, "mproxy_connections_closed_total", 'cause="shed"'))


def watermarks(options, out):
    scene = Scene(options, out)
    phase, wrong = scene.phase, scene.wrong
    # In hundredths of all descriptors; the fleet has 90.
    phase("nobody else", "descriptors", lambda: None)

    scene.marks(descriptors_refuse="92%", descriptors_drain="96%")
    phase(f"{CROWD} more come, first mark at 92 %", "descriptors", lambda: (scene.come(), scene.until_level("descriptors", 1)))
    if not 100 <= len(scene.crowd) < CROWD:
        wrong.append(f"{len(scene.crowd)} of the crowd were let in")
    scene.marks(descriptors_refuse="97%", descriptors_drain="98%")
    scene.until_level("descriptors", 0)
    phase("marks at 97 %, the others come", "descriptors", lambda: scene.come(CROWD - len(scene.crowd)))
    before = len(scene.crowd)
    # The level is left with a twentieth less in use: that is what the fleet has.
    marks = {"descriptors_refuse": "94%", "descriptors_drain": "95%"}
    phase("second mark at 95 %", "descriptors", lambda: scene.marks(**marks))
    if before != CROWD or not 0 < len(scene.crowd) < 100:
        wrong.append(f"of {before} of the crowd {len(scene.crowd)} are left")
    if scene.shed() != before - len(scene.crowd):
        wrong.append(f"{before - len(scene.crowd)} have gone, {scene.shed()} are counted")

    def leave():
        while scene.crowd:
            scene.crowd.pop().close()
        scene.marks(descriptors_refuse="97%", descriptors_drain="98%")
        scene.until_level("descriptors", 0)

    phase("they leave, marks at 97 %", "descriptors", leave)
    scene.come()
    phase("they come again", "memory", lambda: None)
    used = int(resident(scene.proxy.popen.pid))
    before, refused = len(scene.crowd), knocked(scene)
    if refused:
        wrong.append("a client was refused below all marks")

    def first():
        scene.marks(memory_refuse=f"{used - 2}MiB")
        scene.until_level("memory", 1)

    phase(f"first mark at {used - 2} MiB", "memory", first)
    if not knocked(scene):
        wrong.append("a client was let in above the mark of memory")

    def second():
        scene.marks(memory_refuse=f"{used - 8}MiB", memory_drain=f"{used - 4}MiB")
        scene.until_level("memory", 2)

    phase(f"second mark at {used - 4} MiB", "memory", second)
    if not 0 <= len(scene.crowd) < before:
        wrong.append("none of the crowd were disconnected for memory")

    def back():
        scene.marks(memory_refuse=f"{used * 2}MiB", memory_drain=f"{used * 3}MiB")
        scene.until_level("memory", 0)

    phase(f"marks at {used * 2} MiB", "memory", back)
    if knocked(scene):
        wrong.append("a client was refused when the level was left")
    report = scene.fleet.finish()
    account, faults = ledger(report)
    if report["ends"]:
        wrong.append(f"connections of the fleet ended: {report['ends']}")
    return f"{stage.table(HEAD, scene.rows)}\n\n{stage.table(LEDGER_HEAD, account)}", wrong + faults


def knocked(scene):
    """Whether one more is refused."""
    one = knock(scene.proxy.port, 100 * CROWD)
    served = answered(one)
    one.close()
    return not served
