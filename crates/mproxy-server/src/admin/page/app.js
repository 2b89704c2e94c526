// The page of the admin API: asks /metrics and /api/v1/ and shows what they say. No library, nothing from elsewhere.
// Whatever comes from clients (ids, topics, texts) is put in as text and never as markup.

const EVERY = 2000; // ms from one look at the metrics to the next
const KEPT = 90; // looks in a curve
const ROW = 28; // px of a row of the session table, as in style.css

const by = (id) => document.getElementById(id);
const TOKEN = "mproxy-token";

// ---- asking

class Refused extends Error {}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.status === 401) {
    sessionStorage.removeItem(TOKEN);
    await login();
    return ask(path, options);
  }
  if (!response.ok) {
    const text = await response.text();
    let said = text;
    try {
      const problem = JSON.parse(text);
      said = problem.detail ?? text;
    } catch {}
    const failed = response.status === 403 ? new Refused(said) : new Error(`${response.status}: ${said}`);
    failed.status = response.status;
    throw failed;
  }
  return response;
}

const json = async (path, options) => (await ask(path, options)).json();

let loggingIn = null;
function login() {
  // Several calls may find out at once; one dialog is enough.
  loggingIn ??= new Promise((done) => {
    const dialog = by("login");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(TOKEN, by("token").value);
      by("token").value = "";
      loggingIn = null;
      done();
    }, { once: true });
    dialog.addEventListener("cancel", (event) => event.preventDefault(), { once: true });
    dialog.showModal();
  });
  return loggingIn;
}

function problem(error) {
  by("problem").hidden = !error;
  by("problem").textContent = error ? `${error.message ?? error}` : "";
}

// ---- metrics

// Each sample of the Prometheus text format: [name, labels, value].
function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    if (!line || line[0] === "#") continue;
    const open = line.indexOf("{");
    const close = open < 0 ? -1 : line.lastIndexOf("}");
    const name = open < 0 ? line.slice(0, line.indexOf(" ")) : line.slice(0, open);
    const labels = {};
    if (open >= 0) {
      for (const [, key, value] of line.slice(open + 1, close).matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
        labels[key] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
      }
    }
    samples.push([name, labels, Number(line.slice(open < 0 ? name.length + 1 : close + 2).split(" ")[0])]);
  }
  return samples;
}

// The looks at the metrics, and what lies between the last two of them.
const looks = { now: null, before: null };

function series(name) {
  if (!looks.now) return [];
  const key = (labels) => JSON.stringify(Object.entries(labels).sort());
  const earlier = new Map();
  for (const [known, labels, value] of looks.before?.samples ?? []) if (known === name) earlier.set(key(labels), value);
  const seconds = looks.before ? (looks.now.at - looks.before.at) / 1000 : 0;
  return looks.now.samples.filter(([known]) => known === name).map(([, labels, value]) => {
    const then = earlier.get(key(labels)) ?? 0;
    // A counter that fell belongs to a process that was started anew.
    const rate = seconds > 0 ? Math.max(0, value >= then ? value - then : value) / seconds : 0;
    return { labels, value, rate };
  });
}

const sum = (rows, of) => rows.reduce((all, row) => all + row[of], 0);
const where = (rows, labels) => rows.filter((row) => Object.entries(labels).every(([key, value]) => row.labels[key] === value));

// A quantile of the observations between the last two looks, in seconds; of all there were where there are none.
function quantile(q, labels) {
  const buckets = where(series("mproxy_policy_call_duration_seconds_bucket"), labels)
    .map((row) => ({ le: row.labels.le === "+Inf" ? Infinity : Number(row.labels.le), rate: row.rate, value: row.value }))
    .sort((a, b) => a.le - b.le);
  if (!buckets.length) return NaN;
  const of = buckets.at(-1).rate > 0 ? "rate" : "value";
  const all = buckets.at(-1)[of];
  if (!(all > 0)) return NaN;
  let below = { le: 0, [of]: 0 };
  for (const bucket of buckets) {
    if (bucket[of] >= q * all) {
      if (bucket.le === Infinity) return below.le;
      const inside = bucket[of] - below[of];
      return below.le + (bucket.le - below.le) * (inside > 0 ? (q * all - below[of]) / inside : 1);
    }
    below = bucket;
  }
  return below.le;
}

// ---- writing numbers

const UNITS = ["", "k", "M", "G", "T"];
function short(value, step = 1000) {
  if (!Number.isFinite(value)) return "–";
  let unit = 0;
  while (Math.abs(value) >= step && unit < UNITS.length - 1) {
    value /= step;
    unit += 1;
  }
  const digits = value !== 0 && Math.abs(value) < 10 && (unit > 0 || value % 1 !== 0) ? 1 : 0;
  return value.toFixed(digits) + (UNITS[unit] && ` ${UNITS[unit]}${step === 1024 ? "i" : ""}`);
}
const bytes = (value) => `${short(value, 1024).replace("ki", "Ki")}${value >= 1024 ? "B" : " B"}`;
const ms = (seconds) => (Number.isFinite(seconds) ? (seconds * 1000).toFixed(seconds < 0.01 ? 2 : 0) : "–");
const hex = (code) => (typeof code === "number" ? `0x${code.toString(16).toUpperCase().padStart(2, "0")}` : (code ?? "–"));
const since = (time) => {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds / 60) % 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds / 3600) % 24)} h`;
};

// ---- tables

function cell(content, kind) {
  const td = document.createElement("td");
  if (kind) td.className = kind;
  if (content instanceof Node) td.append(content);
  else td.textContent = content ?? "–";
  if (!kind && typeof content === "string" && content.length > 28) td.title = content;
  return td;
}

// Fills a table: a row is an array of contents; a number stands right.
function fill(id, rows, empty = "none") {
  const body = by(id).tBodies[0];
  const width = by(id).tHead.rows[0].cells.length;
  const made = rows.map((row) => {
    const tr = document.createElement("tr");
    row.forEach((content, at) => tr.append(cell(content, by(id).tHead.rows[0].cells[at].className)));
    return tr;
  });
  if (!made.length) {
    const tr = document.createElement("tr");
    const td = cell(empty, "empty");
    td.colSpan = width;
    tr.append(td);
    made.push(tr);
  }
  body.replaceChildren(...made);
}

const ranked = (rows) => rows.filter((row) => row.value > 0).sort((a, b) => b.rate - a.rate || b.value - a.value);

// ---- overview

const curves = new Map();
function tile(name, value, written, note) {
  const points = curves.get(name) ?? [];
  points.push(value);
  if (points.length > KEPT) points.shift();
  curves.set(name, points);
  let node = document.querySelector(`[data-tile="${name}"]`);
  if (!node) {
    node = document.createElement("div");
    node.className = "tile";
    node.dataset.tile = name;
    const title = document.createElement("h3");
    title.textContent = name;
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${KEPT - 1} 20`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.append(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
    node.append(title, document.createElement("p"), document.createElement("small"), svg);
    by("tiles").append(node);
  }
  node.querySelector("p").textContent = written;
  node.querySelector("small").textContent = note;
  const most = Math.max(...points.filter(Number.isFinite), 1e-9);
  const from = KEPT - points.length;
  const line = points.map((point, at) => `${from + at},${(19 - (18 * (Number.isFinite(point) ? point : 0)) / most).toFixed(1)}`);
  node.querySelector("polyline").setAttribute("points", line.join(" "));
}

function overview() {
  const open = series("mproxy_connections_open");
  const packets = series("mproxy_packets_total");
  const size = series("mproxy_packet_bytes_total");
  const decisions = series("mproxy_decisions_total");
  const of = (rows, from) => sum(where(rows, { from }), "rate");
  const accepted = sum(where(series("mproxy_connections_total"), { outcome: "accepted" }), "rate");
  tile("Connections", sum(open, "value"), short(sum(open, "value")), `${short(accepted)} accepted per second`);
  tile("Packets from clients", of(packets, "client"), `${short(of(packets, "client"))}/s`, `${bytes(of(size, "client"))} per second`);
  tile("Packets from broker", of(packets, "broker"), `${short(of(packets, "broker"))}/s`, `${bytes(of(size, "broker"))} per second`);
  tile("Decisions", sum(decisions, "rate"), `${short(sum(decisions, "rate"))}/s`, `${short(sum(where(decisions, { source: "policy_service" }), "rate"))} by the hook service`);
  const refused = where(decisions, { outcome: "refused" });
  tile("Refused", sum(refused, "rate"), `${short(sum(refused, "rate"))}/s`, `${short(sum(refused, "value"))} in all`);
  const p99 = quantile(0.99, { outcome: "answered" });
  tile("Hook service, p99", p99, Number.isFinite(p99) ? `${ms(p99)} ms` : "–", `p50 ${ms(quantile(0.5, { outcome: "answered" }))} ms`);
  const failures = ["mproxy_policy_failures_total", "mproxy_policy_unusable_answers_total", "mproxy_overloads_total"].flatMap(series);
  tile("Failed answers", sum(failures, "rate"), `${short(sum(failures, "rate"))}/s`, `${short(sum(failures, "value"))} in all`);
  const memory = sum(series("process_resident_memory_bytes"), "value");
  const [started] = series("process_start_time_seconds");
  tile("Memory", memory, bytes(memory), started ? `up ${since(new Date(started.value * 1000).toISOString())}` : "");

  fill("decisions", ranked(decisions).slice(0, 12).map(({ labels, value, rate }) => [labels.hook, labels.source, labels.outcome, short(rate), short(value)]), "no decision yet");
  fill("closed", ranked(series("mproxy_connections_closed_total")).slice(0, 12).map(({ labels, value, rate }) => [labels.by, labels.cause, labels.listener, short(rate), short(value)]), "no connection has been closed");
  fill("packets", ranked(packets).slice(0, 12).map(({ labels, rate }) => [labels.from, labels.type, short(rate), bytes(sum(where(size, labels), "rate"))]), "no packet yet");
  const limits = series("mproxy_budget_limit_bytes");
  fill("budgets", series("mproxy_budget_used_bytes").map(({ labels, value }) => [labels.scope, labels.listener || "all", bytes(value), bytes(sum(where(limits, labels), "value"))]));
}

// ---- sessions

let all = []; // all sessions, as they came
let shown = []; // those that the search finds, in order
let order = { by: "connected_since", down: true };

const text = (session) => `${session.client_id ?? ""}\n${session.username ?? ""}\n${session.peer_addr}\n${session.connection_id}`.toLowerCase();
const sizes = (session) => ({ packets: session.traffic.client_packets + session.traffic.broker_packets, bytes: session.traffic.client_bytes + session.traffic.broker_bytes });

let loading = 0;
async function load() {
  const turn = (loading += 1);
  const found = [];
  let after = "";
  do {
    const page = await json(`/api/v1/sessions?limit=1000${after && `&after=${after}`}`);
    // Another load was started meanwhile.
    if (turn !== loading) return;
    for (const session of page.sessions) found.push({ ...session, ...sizes(session), text: text(session) });
    after = page.next ?? "";
    by("count").textContent = `${found.length} loaded…`;
  } while (after);
  all = found;
  const names = [...new Set(all.map((session) => session.listener))].sort();
  const chosen = by("listener").value;
  const option = (value, label) => Object.assign(document.createElement("option"), { value, textContent: label });
  by("listener").replaceChildren(option("", "all"), ...names.map((name) => option(name, name)));
  by("listener").value = names.includes(chosen) ? chosen : "";
  find();
}

function find() {
  const words = by("query").value.toLowerCase().split(/\s+/).filter(Boolean);
  const listener = by("listener").value;
  shown = all.filter((session) => (!listener || session.listener === listener) && words.every((word) => session.text.includes(word)));
  const side = order.down ? -1 : 1;
  shown.sort((a, b) => {
    const [x, y] = [a[order.by] ?? "", b[order.by] ?? ""];
    return x < y ? -side : x > y ? side : 0;
  });
  by("count").textContent = `${shown.length} of ${all.length} sessions`;
  by("scroll").scrollTop = 0;
  paint();
}

// Of thousands of rows only those in sight are made; two rows of the right height stand for the others.
function paint() {
  const box = by("scroll");
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 10);
  const last = Math.min(shown.length, first + Math.ceil(box.clientHeight / ROW) + 20);
  const space = (rows) => {
    const tr = document.createElement("tr");
    tr.className = "space";
    tr.setAttribute("aria-hidden", "true");
    const td = document.createElement("td");
    td.colSpan = 9;
    td.style.height = `${rows * ROW}px`;
    tr.append(td);
    return tr;
  };
  const rows = shown.slice(first, last).map((session) => {
    const open = document.createElement("button");
    open.type = "button";
    open.className = "link";
    open.textContent = session.client_id || "(none)";
    open.addEventListener("click", () => detail(session.connection_id).catch(problem));
    const tr = document.createElement("tr");
    for (const content of [open, session.username, session.listener, session.peer_addr, session.protocol, session.phase, since(session.connected_since)]) tr.append(cell(content));
    tr.append(cell(short(session.packets), "number"), cell(bytes(session.bytes), "number"));
    return tr;
  });
  by("list").tBodies[0].replaceChildren(space(first), ...rows, space(shown.length - last));
  by("list").setAttribute("aria-rowcount", shown.length + 1);
}

async function detail(id) {
  const session = await json(`/api/v1/sessions/${id}`);
  const fields = [];
  const add = (name, value) => {
    if (value === null || value === undefined || value === "") return;
    if (typeof value === "object" && !Array.isArray(value)) return Object.entries(value).forEach(([inner, content]) => add(`${name} ${inner}`.trim(), content));
    const dt = document.createElement("dt");
    dt.textContent = name.replaceAll("_", " ");
    const dd = document.createElement("dd");
    dd.textContent = Array.isArray(value) ? value.map((one) => (typeof one === "object" ? JSON.stringify(one) : one)).join(", ") : String(value);
    fields.push(dt, dd);
  };
  add("", session);
  by("fields").replaceChildren(...fields);
  by("detail-title").textContent = `Session of ${session.client_id || "a client without an id"}`;
  const dialog = by("detail");
  dialog.returnValue = "";
  dialog.showModal();
  dialog.onclose = () => {
    if (dialog.returnValue === "kick") kick(id, session.client_id || id).catch(problem);
  };
}

async function kick(id, name) {
  by("whom").textContent = name;
  const dialog = by("confirm");
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (dialog.returnValue !== "yes") return;
  try {
    await ask(`/api/v1/sessions/${id}?reason=${by("reason").value}`, { method: "DELETE" });
  } catch (error) {
    // It went by itself meanwhile.
    if (error.status !== 404) throw error;
  }
  await load();
}

// ---- the other views

async function refusals() {
  const client = by("why").value;
  const page = await json(`/api/v1/refusals?limit=200${client && `&client_id=${encodeURIComponent(client)}`}`);
  by("why-count").textContent = `${page.refusals.length}${page.next ? ", the newest," : ""} of those on record`;
  const what = (record) => record.hook ?? "connection";
  fill("refused", page.refusals.map((record) => [record.time, record.client_id, what(record), record.topic ?? record.filter ?? "", record.source, hex(record.reason_code), record.why]), "no refusal on record");
}

async function policy() {
  const { endpoints } = await json("/api/v1/policy");
  const health = (good) => {
    const span = document.createElement("span");
    span.className = good ? "good" : "bad";
    span.textContent = good ? "healthy" : "unhealthy";
    return span;
  };
  fill("endpoints", endpoints.map((one) => [one.endpoint, health(one.healthy), one.error ?? ""]), "no hook service is set");
  const calls = series("mproxy_policy_call_duration_seconds_count");
  fill("calls", ranked(calls).map(({ labels, value, rate }) => [labels.rpc, labels.outcome, short(rate), ms(quantile(0.5, labels)), ms(quantile(0.99, labels)), short(value)]), "no call yet");
  const differs = where(series("mproxy_shadow_comparisons_total"), { same: "false" });
  fill("shadow", ranked(differs).map(({ labels, value, rate }) => [labels.hook, labels.active, labels.shadow, short(rate), short(value)]), "nothing differs, or there is no shadow");
  const ready = await readiness();
  fill("listeners", (ready.listeners ?? []).map((one) => [one.name, one.address ?? "not bound"]));
  const warnings = [
    ...(ready.certificate_warnings ?? []).map((one) => `${one.used_by}: ${one.file}: ${one.warning}`),
    ...(ready.stale_certificates ?? []).map((one) => `${one.used_by}: ${one.error}`),
    ...(ready.failed_reloads ?? []).map((one) => `reload of ${one.what} failed: ${one.error}`),
  ];
  by("warnings").replaceChildren(...warnings.map((warning) => Object.assign(document.createElement("li"), { textContent: warning })));
}

async function settings() {
  const config = await json("/api/v1/config");
  const word = (value) => (value === null ? "not set" : typeof value === "string" ? value : JSON.stringify(value));
  fill("settings", (config.settings ?? []).map((one) => [one.key, word(one.value), one.source ?? ""]));
  by("level").value = (await json("/api/v1/log-level")).level;
}

async function readiness() {
  // It answers 503 while mproxy drains, and has a body all the same.
  const headers = sessionStorage.getItem(TOKEN) ? { Authorization: `Bearer ${sessionStorage.getItem(TOKEN)}` } : {};
  return (await fetch("/readyz", { headers, cache: "no-store" })).json();
}

// ---- turning

const views = ["overview", "sessions", "refusals", "policy", "config"];
const current = () => (views.includes(location.hash.slice(1)) ? location.hash.slice(1) : "overview");

// What a view shows anew with each look at the metrics.
const update = { overview, policy };
// What it loads when it is opened.
const enter = { sessions: load, refusals, policy, config: settings };

function show() {
  const view = current();
  for (const id of views) by(id).hidden = id !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `mproxy: ${by(`${view}-title`).textContent}`;
  problem(null);
  Promise.resolve(enter[view]?.()).catch(problem);
  if (view === "overview" && looks.now) overview();
}

async function look() {
  try {
    const [page, ready] = await Promise.all([ask("/metrics").then((response) => response.text()), readiness()]);
    looks.before = looks.now;
    looks.now = { at: performance.now(), samples: parse(page) };
    const [build] = series("mproxy_build_info");
    by("state").className = ready.ready ? "good" : "bad";
    by("state").textContent = `${ready.draining ? "draining" : ready.ready ? "ready" : "not ready"}${build ? `, version ${build.labels.version}` : ""}`;
    await update[current()]?.();
  } catch (error) {
    by("state").className = "bad";
    by("state").textContent = error instanceof TypeError ? "mproxy does not answer" : error.message;
  }
  // Not an interval: a slow answer must not be overtaken by the next question.
  setTimeout(look, document.hidden ? 5 * EVERY : EVERY);
}

addEventListener("hashchange", show);
by("search").addEventListener("submit", (event) => {
  event.preventDefault();
  load().catch(problem);
});
by("query").addEventListener("input", find);
by("listener").addEventListener("input", find);
by("scroll").addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
addEventListener("resize", paint);
for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    order = { by: button.dataset.sort, down: order.by === button.dataset.sort ? !order.down : false };
    for (const th of document.querySelectorAll("#list th")) th.setAttribute("aria-sort", "none");
    button.parentElement.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    find();
  });
}
by("ask-why").addEventListener("submit", (event) => {
  event.preventDefault();
  refusals().catch(problem);
});
by("log").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("/api/v1/log-level", { method: "PUT", body: JSON.stringify({ level: by("level").value }) });
    problem(null);
  } catch (error) {
    problem(error);
  }
});

show();
look();
json("/api/v1/config")
  .then((config) => {
    const name = (config.settings ?? []).find((one) => one.key === "instance");
    by("instance").textContent = name?.value ?? "";
  })
  .catch(problem);
