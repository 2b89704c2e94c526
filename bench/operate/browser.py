"""A Chromium without a window, driven over its DevTools protocol on two pipes."""

import base64
import json
import os
import select
import subprocess
import time

import stage

# What the page itself measures: the time between frames, and tasks of more than 50 ms (which Chromium calls long).
PROBE = """
window.probe = { frames: [], tasks: [], last: 0 }
new PerformanceObserver((list) => list.getEntries().forEach((one) => probe.tasks.push(one.duration)))
  .observe({ type: "longtask", buffered: false })
const frame = (at) => { if (probe.last) probe.frames.push(at - probe.last); probe.last = at; requestAnimationFrame(frame) }
requestAnimationFrame(frame)
window.until = async (true_, what) => {
  for (const end = performance.now() + 15000; !true_(); await new Promise((go) => setTimeout(go, 20)))
    if (performance.now() > end) return `not within 15 s: ${what}`
}
window.rest = (ms) => new Promise((go) => setTimeout(go, ms))
"""

BEGIN = "probe.frames = []; probe.tasks = []; probe.last = 0; true"
END = "({ frames: probe.frames, tasks: probe.tasks })"
HEAD = ["frames", "ms p50", "p99", "most", "long tasks", "ms the longest"]

OPEN = "(location.hash = '{view}', rest({rest}))"
COUNTED = "until(() => / of \\d+ sessions/.test(document.getElementById('count').textContent), 'all sessions')"
TYPED = """(async () => {
  const query = document.getElementById('query')
  for (const text of ['f', 'fl', 'fleet', 'fleet-', 'fleet-9', 'fleet-94', 'fleet-9', 'fleet', '']) {
    query.value = text
    query.dispatchEvent(new Event('input', { bubbles: true }))
    await rest(100)
  }
})()"""
SORTED = """(async () => {
  for (const by of ['packets', 'bytes', 'client_id', 'peer_addr']) {
    document.querySelector(`[data-sort="${by}"]`).click()
    await rest(200)
  }
})()"""
SCROLLED = """(async () => {
  const box = document.getElementById('scroll')
  for (let step = 0; step <= 180; step++) {
    box.scrollTop = (box.scrollHeight - box.clientHeight) * step / 180
    await new Promise(requestAnimationFrame)
  }
})()"""
OPENED = """(async () => {
  document.querySelector('#list tbody button').click()
  const late = await until(() => document.getElementById('detail').open, 'the detail')
  await rest(1000)
  return late
})()"""
CLOSED = "document.getElementById('detail').close()"
WATCHED = """(async () => {
  document.getElementById('tap-start').click()
  await rest(6000)
  return document.querySelectorAll('#watched tbody tr').length > 20 ? undefined : 'no packets are shown'
})()"""
SCENES = {
    "overview, 6 s": [OPEN.format(view="#overview", rest=6000)],
    "sessions, until all are loaded": [OPEN.format(view="#sessions", rest=0), COUNTED],
    "search, nine changes": [TYPED],
    "sort, four times": [SORTED],
    "scroll through all": [SCROLLED],
    "detail of one": [OPENED],
    "tap of all, 6 s": [CLOSED, OPEN.format(view="#tap", rest=200), WATCHED],
}


class Browser:
    def __init__(self, home, url):
        self.number, self.said = 0, []
        theirs_in, self.to = os.pipe()
        self.back, theirs_out = os.pipe()
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        words += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900"]
        words += [f"--user-data-dir={home}", "--remote-debugging-pipe", "about:blank"]

        def pipes():
            stage.die_with_parent()
            # The pipes may lie there themselves.
            inward, outward = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(inward, 3)
            os.dup2(outward, 4)

        home.mkdir()
        self.popen = subprocess.Popen(
            [stage.need("chromium", "chromium"), *words],
            env=os.environ | {"TMPDIR": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=pipes,
            close_fds=False,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.rest, self.session = b"", None
        target = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=PROBE)
        self.call("Page.navigate", url=url)
        time.sleep(2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.session = None
            self.call("Browser.close")
        finally:
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.popen.kill()

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            while b"\0" in self.rest:
                one, self.rest = self.rest.split(b"\0", 1)
                answer = json.loads(one)
                if answer.get("id") == self.number:
                    return answer.get("result") or stage.fail(f"{method}: {answer}") if "error" in answer else answer["result"]
                self.hear(answer)
            if select.select([self.back], [], [], 1)[0]:
                piece = os.read(self.back, 1 << 20)
                self.rest += piece or stage.fail("Chromium has ended")
        stage.fail(f"{method}: no answer")

    def hear(self, event):
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.said.append(parameters["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.said.append(parameters["entry"]["text"])

    def act(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            return str(answer["exceptionDetails"])[:500]
        return answer["result"].get("value")

    def begin(self):
        self.act(BEGIN)

    def end(self):
        seen = self.act(END)
        frames, tasks = sorted(seen["frames"]), seen["tasks"]
        at = lambda share: f"{frames[int(share * (len(frames) - 1))]:.0f}" if frames else "–"
        return [len(frames), at(0.5), at(0.99), at(1), len(tasks), f"{max(tasks, default=0):.0f}"]

    def picture(self, file):
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
