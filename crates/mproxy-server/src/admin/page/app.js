// The page of the admin API: asks /api/v1/ and shows what it says. No library, nothing from elsewhere.
// Whatever comes from clients (ids, topics, texts) is put in as text and never as markup.

const EVERY = 2000; // ms from one look at the rates to the next
const KEPT = 90; // looks in a curve
const ROW = 28; // px of a row of the session table, as in style.css
const WATCHED = 300; // packets of a tap that are shown

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
    // Another one may have been given since this was asked.
    if (sessionStorage.getItem(TOKEN) === token) {
      sessionStorage.removeItem(TOKEN);
      await login(token !== null);
    }
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
function login(again) {
  // Several calls may find out at once; one dialog is enough.
  loggingIn ??= new Promise((done) => {
    const dialog = by("login");
    by("login-problem").textContent = again ? "mproxy does not accept this token. Is it the one of MPROXY_ADMIN_TOKEN?" : "";
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

// What was done, where that is no fault.
function notice(words) {
  by("notice").textContent = words ?? "";
}

// ---- rates

// The last answer of /api/v1/stats.
let stats = null;

// The window that was chosen, or the longest that there is yet.
const chosen = () => stats.windows[Math.min(by("window").selectedIndex, stats.windows.length - 1)];

// Rows of this kind, counted in all and by the second; those that grow fastest come first.
function rows(kind, count) {
  const key = (row) => JSON.stringify(Object.entries(row).filter(([, value]) => typeof value === "string"));
  const rates = new Map((chosen()?.[kind] ?? []).map((row) => [key(row), row]));
  return stats.totals[kind]
    .map((row) => ({ ...row, total: row[count], rate: rates.get(key(row))?.[count] ?? 0, now: rates.get(key(row)) }))
    .sort((a, b) => b.rate - a.rate || b.total - a.total);
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
const since = (time) => lasting(Math.max(0, (Date.now() - Date.parse(time)) / 1000));
const lasting = (seconds) => {
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
  // Somebody else has asked just now for the first time: the next look has a rate.
  if (!stats.windows.length) return;
  const { totals } = stats;
  // Curves show the shortest window, whatever is chosen: a minute's mean has no shape.
  const now = stats.windows[0];
  const shown = chosen();
  const second = (of) => `${short(of(shown))}/s`;
  tile("Connections", stats.connections_open, short(stats.connections_open), `${short(shown.connections_accepted)} accepted per second`);
  tile("Messages from clients", now.from_client.messages, second((at) => at.from_client.messages), `${bytes(shown.from_client.bytes)} per second`);
  tile("Messages from broker", now.from_broker.messages, second((at) => at.from_broker.messages), `${bytes(shown.from_broker.bytes)} per second`);
  const asked = shown.decisions.filter((row) => row.source === "policy_service").reduce((sum, row) => sum + row.decisions, 0);
  tile("Decisions", now.decided, second((at) => at.decided), `${short(asked)}/s by the service`);
  tile("Refused", now.refused, second((at) => at.refused), `${short(totals.refused)} in all`);
  const answered = (of) => of.policy_calls.filter((call) => call.outcome === "answered");
  const slowest = (of, quantile) => Math.max(...answered(of).map((call) => call[quantile]));
  const p99 = slowest(shown, "p99_seconds");
  tile("Hook service, p99", slowest(now, "p99_seconds"), Number.isFinite(p99) ? `${ms(p99)} ms` : "–", `p50 ${ms(slowest(shown, "p50_seconds"))} ms`);
  tile("Failed answers", now.failed_answers, second((at) => at.failed_answers), `${short(totals.failed_answers)} in all`);
  tile("Memory", stats.resident_memory_bytes, bytes(stats.resident_memory_bytes), `up ${lasting(stats.uptime_seconds)}`);

  fill("decisions", rows("decisions", "decisions").slice(0, 12).map((row) => [row.hook, row.source, row.outcome, short(row.rate), short(row.total)]), "no decision yet");
  fill("closed", rows("closed", "connections").slice(0, 12).map((row) => [row.by, row.cause, row.listener, short(row.rate), short(row.total)]), "no connection has been closed");
  fill("packets", rows("packets", "packets").slice(0, 12).map((row) => [row.from, row.type, short(row.rate), bytes(row.now?.bytes ?? 0)]), "no packet yet");
  fill("budgets", stats.budgets.map((one) => [one.scope, one.listener || "all", bytes(one.used_bytes), bytes(one.limit_bytes)]));
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
    open.dataset.id = session.connection_id;
    open.textContent = session.client_id || "(none)";
    open.addEventListener("click", () => detail(session.connection_id).catch(problem));
    const tr = document.createElement("tr");
    for (const content of [open, session.username, session.listener, session.peer_addr, session.protocol, session.phase, since(session.connected_since)]) tr.append(cell(content));
    tr.append(cell(short(session.packets), "number"), cell(bytes(session.bytes), "number"));
    return tr;
  });
  // Whoever goes through the rows by keyboard stays where they are.
  const focused = by("list").contains(document.activeElement) ? document.activeElement.dataset.id : undefined;
  by("list").tBodies[0].replaceChildren(space(first), ...rows, space(shown.length - last));
  if (focused) focusRow(focused);
  by("list").setAttribute("aria-rowcount", shown.length + 1);
}

// The button of a session's row, where that is in sight: each drawing makes a new one.
const rowOf = (id) => by("list").querySelector(`button[data-id="${CSS.escape(id)}"]`);
const focusRow = (id) => (rowOf(id) ?? by("scroll")).focus({ preventScroll: true });

// What is shown of a session: a label for what the API calls so, in this order.
const OF_CONNECTION = {
  client_id: "Client id", username: "User name", protocol: "MQTT version", phase: "State", connected_since: "Connected since",
  listener: "Listener", transport: "Transport", peer_addr: "Client address", local_addr: "Local address", broker: "Broker",
  broker_addr: "Broker address", keep_alive: "Keep alive", clean_start: "Clean start", connection_id: "Connection id",
};
const OF_TLS = {
  version: "Version", cipher_suite: "Cipher suite", sni: "Server name", alpn: "Application protocol", subject: "Certificate subject", common_name: "Common name",
  subject_alt_names: "Alternative names", serial: "Serial number", fingerprint: "Fingerprint (SHA-256)",
};
const OF_GRANT = { version: "Version", received: "Received", renews_at: "Is renewed", serves_until: "Serves until", expires_at: "Client leaves" };
const OF_REFUSAL = { time: "When", hook: "About", topic: "Topic", filter: "Filter", why: "Why", reason_code: "Reason code", reason: "Reason" };

// A value for people: times with how far away they are, yes and no.
function written(key, value) {
  if (value === true) return "yes";
  if (value === false) return "no";
  if (key === "keep_alive") return value === 0 ? "none" : `${value} s`;
  if (key.endsWith("reason_code")) return hex(value);
  if (key.endsWith("bytes")) return bytes(value);
  if (Array.isArray(value)) return value.join(", ");
  if (typeof value === "string" && /^\d{4}-\d\d-\d\dT/.test(value)) {
    const ahead = (Date.parse(value) - Date.now()) / 1000;
    return `${value} (${ahead > 0 ? `in ${lasting(ahead)}` : `${since(value)} ago`})`;
  }
  return String(value);
}

function heading(words) {
  return Object.assign(document.createElement("h3"), { textContent: words });
}

// A heading and a list of labels and values; nothing, where there is no value.
function list(title, values, labels) {
  const names = labels ? Object.keys(labels) : Object.keys(values ?? {});
  const dl = document.createElement("dl");
  for (const name of names) {
    const value = values?.[name];
    if (value === null || value === undefined || value === "" || (Array.isArray(value) && !value.length)) continue;
    const dt = Object.assign(document.createElement("dt"), { textContent: labels?.[name] ?? name });
    dl.append(dt, Object.assign(document.createElement("dd"), { textContent: written(name, value) }));
  }
  return dl.children.length ? [heading(title), dl] : [];
}

// A heading and a table of these columns; numbers stand right.
function grid(title, columns, numbers, rows, empty) {
  const words = Object.assign(document.createElement("p"), { textContent: empty });
  if (!rows.length) return [heading(title), words];
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  const kind = (at) => (numbers.includes(at) ? "number" : "wrap");
  columns.forEach((column, at) => head.append(Object.assign(document.createElement("th"), { scope: "col", textContent: column, className: kind(at) })));
  const body = table.createTBody();
  for (const row of rows) {
    const tr = body.insertRow();
    row.forEach((content, at) => tr.append(cell(content, kind(at))));
  }
  return [heading(title), table];
}

function described(session) {
  const { live, traffic } = session;
  const waiting = (key) => (live ? [live.waiting_packets[key], bytes(live.waiting_bytes[key]), bytes(live.unwritten_bytes[key])] : []);
  const columns = ["From", "Packets", "Bytes", ...(live ? ["Waiting packets", "Waiting bytes", "Unwritten bytes"] : [])];
  const subscriptions = live?.subscriptions;
  const shown = (subscriptions ?? []).map((one) => [one.filter, one.broker_filter ?? "the same", one.granted_qos ?? "–"]);
  const none = !live ? "The session did not say." : subscriptions ? "none" : "Not known: neither rules nor a hook service decide on them.";
  return [
    ...list("Connection", { ...session, broker_addr: live?.broker_addr }, OF_CONNECTION),
    ...grid("Traffic", columns, [1, 2, 3, 4, 5], [
      ["client", traffic.client_packets, bytes(traffic.client_bytes), ...waiting("from_client")],
      ["broker", traffic.broker_packets, bytes(traffic.broker_bytes), ...waiting("from_broker")],
    ]),
    ...grid(live?.more_subscriptions ? "Subscriptions, and there may be more" : "Subscriptions", ["Filter", "At the broker", "Granted QoS"], [2], shown, none),
    ...list("State", live, { session_present: "Session present", in_flight: "Publishes in flight", deliveries_in_flight: "Deliveries in flight", held_bytes: "Memory held" }),
    ...list("Attributes", session.attributes),
    ...list("Grant", session.grant, OF_GRANT),
    ...list("TLS", session.tls, OF_TLS),
    ...list("TLS to the broker", live?.broker_tls, OF_TLS),
    ...list("Last refusal", session.last_refusal, OF_REFUSAL),
  ];
}

async function detail(id) {
  problem(null);
  notice(null);
  let session;
  try {
    session = await json(`/api/v1/sessions/${id}`);
  } catch (error) {
    if (error.status !== 404) throw error;
    await gone("That session");
    return;
  }
  by("fields").replaceChildren(...described(session));
  by("detail-title").textContent = `Session of ${session.client_id || "a client without an id"}`;
  const dialog = by("detail");
  dialog.returnValue = "";
  dialog.showModal();
  by("fields").scrollTop = 0;
  dialog.onclose = () => {
    if (dialog.returnValue === "watch") watchSession(session);
    else if (dialog.returnValue === "kick") kick(id, session.client_id || id).catch(problem);
    else if (dialog.returnValue === "ban") ban(session).catch(problem);
    else focusRow(id);
  };
}

// Somebody was to be shown or disconnected who is not there any more.
async function gone(who) {
  await load();
  notice(`${who} has ended already.`);
  by("scroll").focus({ preventScroll: true });
}

async function kick(id, name) {
  by("whom").textContent = name;
  by("kick-text").value = "";
  const dialog = by("confirm");
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  focusRow(id);
  if (dialog.returnValue !== "yes") return;
  const told = new URLSearchParams({ reason: by("reason").value });
  if (by("kick-text").value) told.set("text", by("kick-text").value);
  try {
    await ask(`/api/v1/sessions/${id}?${told}`, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) throw error;
    await gone(`The session of ${name}`);
    return;
  }
  await load();
  notice(`${name} was disconnected.`);
  focusRow(id);
}

// ---- bans

async function ban(session) {
  // What there is of it: an address without its port.
  const address = session.peer_addr.startsWith("unix:") ? "" : session.peer_addr.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
  const ways = [["client_id", "client id", session.client_id], ["username", "user name", session.username], ["address", "address", address]].filter(([, , value]) => value);
  by("ban-by").replaceChildren(...ways.map(([key, name, value]) => Object.assign(document.createElement("option"), { value: key, textContent: `${name} ${value}` })));
  by("ban-whom").textContent = session.client_id || session.peer_addr;
  by("ban-reason").value = "";
  const dialog = by("ban");
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  focusRow(session.connection_id);
  const chosen = ways.find(([key]) => key === by("ban-by").value);
  if (dialog.returnValue !== "yes" || !chosen) return;
  const body = { [chosen[0]]: chosen[2] };
  if (by("ban-reason").value) body.reason = by("ban-reason").value;
  if (by("ban-time").value) body.expires_in = Number(by("ban-time").value);
  const answer = await json("/api/v1/bans", { method: "POST", body: JSON.stringify(body) });
  await load();
  if (answer.file_error) throw new Error(`The ban is in force, but the file of bans could not be written: ${answer.file_error}`);
}

async function bans() {
  const { bans } = await json("/api/v1/bans");
  const names = { client_id: "client id", username: "user name", address: "address" };
  fill("banned", bans.map((one) => {
    const key = Object.keys(names).find((name) => one[name] !== undefined);
    const lift = document.createElement("button");
    lift.type = "button";
    lift.textContent = "Lift";
    lift.setAttribute("aria-label", `Lift the ban of ${names[key]} ${one[key]}`);
    lift.addEventListener("click", async () => {
      try {
        await ask(`/api/v1/bans?${key}=${encodeURIComponent(one[key])}`, { method: "DELETE" });
      } catch (error) {
        // It was over, or somebody else has lifted it.
        if (error.status !== 404) return problem(error);
      }
      reloadBans();
    });
    return [names[key], one[key], one.since, one.expires ?? "until it is lifted", one.reason ?? "", lift];
  }), "nobody is banned");
}
const reloadBans = () => bans().catch(problem);

// ---- tap

let watching = null; // what ends the tap
let paused = false;
let watched = []; // the newest first
let waiting = []; // those that came while it is paused, or since the last frame
const counts = { shown: 0, lost: 0 };

function watchSession(session) {
  for (const id of ["tap-client", "tap-filter"]) by(id).value = "";
  by("tap-connection").value = session.connection_id;
  by("tap-type").value = "";
  location.hash = "#tap";
  watch();
  by("tap-start").focus();
}

async function watch() {
  stopWatching();
  clearWatched();
  pause(false);
  const query = new URLSearchParams();
  for (const [name, id] of [["client_id", "tap-client"], ["connection_id", "tap-connection"], ["filter", "tap-filter"], ["type", "tap-type"]]) {
    const value = by(id).value.trim();
    if (value) query.set(name, value);
  }
  if (by("tap-payload").checked) query.set("payload", 256);
  const own = new AbortController();
  watching = own;
  by("tap-start").textContent = "Stop";
  let ended = "The tap has ended.";
  try {
    // Not an EventSource: that cannot send a token.
    const response = await ask(`/api/v1/tap?${query}`, { signal: own.signal });
    problem(null);
    countWatched();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const text of events) ended = take(text) ?? ended;
    }
  } catch (error) {
    ended = own.signal.aborted ? null : error;
  }
  if (watching === own) stopWatching();
  if (ended && current() === "tap") problem(ended);
}

function stopWatching() {
  watching?.abort();
  watching = null;
  by("tap-start").textContent = "Watch";
  countWatched();
}

// One event of the stream; gives why it ends, where this is the last.
function take(text) {
  const field = (name) => text.split("\n").find((line) => line.startsWith(`${name}:`))?.slice(name.length + 1).trim();
  const [event, data] = [field("event"), field("data")];
  // A comment, which keeps the connection alive.
  if (!event || !data) return null;
  const told = JSON.parse(data);
  if (event === "end") return `The tap has ended: ${told.reason}.`;
  if (event === "lost") counts.lost += told.count;
  else counts.shown += 1;
  if (waiting.length === 0 && !paused) requestAnimationFrame(showWatched);
  waiting.push({ event, told });
  if (waiting.length > WATCHED) waiting.shift();
  return null;
}

function showWatched() {
  if (paused) return;
  const rows = waiting.map(watchedRow).reverse();
  waiting = [];
  const body = by("watched").tBodies[0];
  if (watched.length === 0) body.replaceChildren();
  body.prepend(...rows);
  watched.unshift(...rows);
  for (const row of watched.splice(WATCHED)) row.remove();
}

function watchedRow({ event, told }) {
  const tr = document.createElement("tr");
  if (event === "lost") {
    const td = cell(`${told.count} packets are not shown: there were too many at once`, "wrap bad");
    td.colSpan = 7;
    tr.append(td);
    return tr;
  }
  const time = (told.time ?? "").slice(11, 23);
  if (event === "refusal") {
    tr.append(cell(time), cell(told.client_id), cell("mproxy"), cell("refusal"), cell(told.why, "wrap"), cell("–", "number"), cell(told.source, "bad"));
    return tr;
  }
  const about = document.createElement("span");
  about.textContent = aboutPacket(told);
  const payload = told.payload ?? (told.payload_base64 && `base64 ${told.payload_base64}`);
  if (payload !== undefined) {
    const shown = document.createElement("code");
    shown.textContent = payload + (told.payload_truncated ? "…" : "");
    about.append(document.createElement("br"), shown);
  }
  const refused = told.refused_by ? ` by ${told.refused_by}, ${hex(told.refused_with)}` : "";
  const outcome = told.outcome === "refused" ? `refused${refused}` : `${told.outcome}${refused && `; refused${refused}`}`;
  tr.append(cell(time), cell(told.client_id), cell(told.from), cell(told.type), cell(about, "wrap"), cell(bytes(told.size), "number"), cell(outcome, refused ? "bad" : ""));
  return tr;
}

// What there is to say of a packet besides its payload.
function aboutPacket(told) {
  const parts = [];
  if (told.topic !== undefined) parts.push(told.broker_topic === undefined ? told.topic : `${told.topic} (at the broker ${told.broker_topic})`);
  if (told.filters) parts.push(told.filters.map((one) => (one.qos === undefined ? one.filter : `${one.filter} (QoS ${one.qos})`)).join(", ") + (told.more_filters ? ` and ${told.more_filters} more` : ""));
  if (told.protocol) parts.push(`MQTT ${told.protocol}`, told.username === undefined ? "no user name" : `user ${told.username}`, `keep alive ${told.keep_alive} s`);
  if (told.qos !== undefined) parts.push(`QoS ${told.qos}`);
  if (told.packet_id !== undefined) parts.push(`id ${told.packet_id}`);
  if (told.retain) parts.push("retain");
  if (told.dup) parts.push("DUP");
  if (told.session_present) parts.push("session present");
  if (told.reason_code !== undefined) parts.push(hex(told.reason_code));
  if (told.reason_codes?.length) parts.push(told.reason_codes.map(hex).join(" "));
  return parts.join(" · ");
}

function pause(now) {
  paused = now;
  by("tap-pause").setAttribute("aria-pressed", paused);
  by("tap-pause").textContent = paused ? "Go on" : "Pause";
  if (!paused) requestAnimationFrame(showWatched);
  countWatched();
}

function clearWatched() {
  watched = [];
  waiting = [];
  counts.shown = 0;
  counts.lost = 0;
  fill("watched", [], watching ? "no packet yet" : "nothing is watched");
  countWatched();
}

function countWatched() {
  const state = !watching ? "Not watching" : paused ? "Paused" : "Watching";
  const words = `${state}: ${counts.shown} packets${counts.lost ? `, and ${counts.lost} that are not shown` : ""}`;
  // Written only where it is other: a screen reader says it each time.
  if (by("tap-count").textContent !== words) by("tap-count").textContent = words;
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
  if (stats) {
    fill("calls", rows("policy_calls", "calls").map((row) => [row.rpc, row.outcome, short(row.rate), ms((row.now ?? row).p50_seconds), ms((row.now ?? row).p99_seconds), short(row.total)]), "no call yet");
    fill("shadow", rows("shadow_differences", "decisions").map((row) => [row.hook, row.active, row.shadow, short(row.rate), short(row.total)]), "nothing differs, or there is no shadow");
  }
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

const views = ["overview", "sessions", "tap", "refusals", "bans", "policy", "config"];
const current = () => (views.includes(location.hash.slice(1)) ? location.hash.slice(1) : "overview");

// What a view shows anew with each look at the rates.
const update = { overview, policy, tap: countWatched };
// What it loads when it is opened.
const enter = { sessions: load, refusals, bans, policy, config: settings };

function show() {
  const view = current();
  for (const id of views) by(id).hidden = id !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `mproxy: ${by(`${view}-title`).textContent}`;
  problem(null);
  notice(null);
  Promise.resolve(enter[view]?.()).catch(problem);
  if (view === "overview" && stats) overview();
  // A tap that nobody looks at would still keep its clients off the fast path.
  if (view !== "tap") stopWatching();
}

async function look() {
  try {
    const [now, ready] = await Promise.all([json("/api/v1/stats"), readiness()]);
    stats = now;
    by("state").className = ready.ready ? "good" : "bad";
    by("state").textContent = `${ready.draining ? "draining" : ready.ready ? "ready" : "not ready"}, version ${stats.version}`;
    await update[current()]?.();
  } catch (error) {
    by("state").className = "bad";
    by("state").textContent = error instanceof TypeError ? "mproxy does not answer" : error.message;
  }
  // Not an interval: a slow answer must not be overtaken by the next question.
  setTimeout(look, document.hidden ? 5 * EVERY : EVERY);
}

addEventListener("hashchange", show);
by("window").addEventListener("change", () => stats && update[current()]?.());
by("tap-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (watching) stopWatching();
  else watch();
});
by("tap-pause").addEventListener("click", () => pause(!paused));
by("tap-clear").addEventListener("click", clearWatched);
by("tap-connection").addEventListener("input", stopWatching);
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
