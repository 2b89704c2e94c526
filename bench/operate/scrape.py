"""All sessions open, messages on their way, and somebody who looks: a Prometheus, or a browser that shows the page."""

import http.client
import threading
import time

import browser
import stage
from fleet import Fleet, ledger
from shortage import SPENT_HEAD, spent

LOAD = {"publishers": 100, "window": 8, "qos": "12", "rate": 500, "hold": "10ms", "down": 500}


class Scraper:
    """Asks for the same page again and again over one connection, as Prometheus does."""

    def __init__(self, admin, path, every, accept="text/plain"):
        self.admin, self.path, self.every, self.accept = admin, path, every, accept
        self.times, self.size, self.failed, self.running = [], 0, 0, True
        self.thread = threading.Thread(target=self.scrape, daemon=True)
        self.thread.start()

    def scrape(self):
        link = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        due = time.monotonic()
        while self.running:
            begun = time.monotonic()
            try:
                link.request("GET", self.path, headers={"Accept": self.accept})
                answer = link.getresponse()
                self.size = len(answer.read())
                self.failed += answer.status != 200
                self.times.append(1000 * (time.monotonic() - begun))
            except (OSError, http.client.HTTPException):
                # mproxy ends a connection after two minutes.
                self.failed += 1
                link.close()
            due = max(due + self.every, time.monotonic())
            time.sleep(max(0, due - time.monotonic()))

    def stop(self):
        self.running = False
        self.thread.join()
        times = sorted(self.times)
        at = lambda share: times[int(share * (len(times) - 1))]
        return [f"{len(times)}", f"{self.size / 1024:.0f}", f"{at(0.5):.1f}", f"{at(0.99):.1f}", f"{times[-1]:.1f}"]


OPENMETRICS = "application/openmetrics-text;version=1.0.0"
SCRAPES = {
    "nobody": None,
    "`/metrics` each 100 ms": ("/metrics", 0.1),
    "the same as OpenMetrics": ("/metrics", 0.1, OPENMETRICS),
    "`/api/v1/stats` each 100 ms": ("/api/v1/stats", 0.1),
    "`/api/v1/sessions?limit=1000` each 100 ms": ("/api/v1/sessions?limit=1000", 0.1),
}


def scene(options, out):
    broker = stage.mosquitto(out)
    proxy = stage.mproxy(options.mproxy, out / "mproxy.log", out, broker.port)
    fleet = Fleet(options.fleet, [proxy.port], broker, clients=options.clients, **LOAD)
    fleet.ask("start")
    time.sleep(2)
    return proxy, fleet


def scrape(options, out):
    proxy, fleet = scene(options, out)
    rows, wrong = [], []
    for name, what in SCRAPES.items():
        scraper = what and Scraper(proxy.admin, *what)
        row = [name, *spent(proxy, fleet, 7)]
        rows.append(row + (scraper.stop() if scraper else ["–"] * 5))
        if scraper and scraper.failed:
            wrong.append(f"{name}: {scraper.failed} were not answered")
    wrong += ledger(fleet.finish())[1]
    head = [f"who asks, with {options.clients:,} sessions", *SPENT_HEAD, "answers", "KiB each", "ms p50", "p99", "most"]
    return stage.table(head, rows), wrong


def page(options, out):
    """The page in Chromium: how long it is busy at a time, and how long its frames take."""
    proxy, fleet = scene(options, out)
    rows, wrong = [], []
    with browser.Browser(out / "chromium", f"http://127.0.0.1:{proxy.admin}/") as tab:
        for name, acts in browser.SCENES.items():
            tab.begin()
            found = [tab.act(act) for act in acts]
            row = [name, *tab.end(), *spent(proxy, fleet, 1)]
            rows.append(row)
            if options.pictures:
                options.pictures.mkdir(parents=True, exist_ok=True)
                tab.picture(options.pictures / f"{len(rows)}-{name.split(',')[0].replace(' ', '-')}.png")
            wrong += [f"{name}: {one}" for one in found if isinstance(one, str)]
        wrong += [f"the page's console: {line}" for line in tab.said]
    wrong += ledger(fleet.finish())[1]
    head = [f"with {options.clients:,} sessions", *browser.HEAD, *SPENT_HEAD]
    return stage.table(head, rows), wrong
