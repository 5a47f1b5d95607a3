"use strict";
// The list: live updates, keyboard navigation, filters without reloading the page.

const KEPT_ROWS = 200;
const filters = document.querySelector(".filters");
let source = null;
let missed = false;
let lastMark = "";
let asideTimer = null;

const box = () => document.getElementById("rows");
const task = () => box().dataset.task || "";
const body = () => box().querySelector("tbody");
const rows = () => [...body().rows];

function fragment(html) {
  const template = document.createElement("template");
  template.innerHTML = html; // from our own templates, which escape all values
  return template.content;
}

// Negative when a comes before b in the list.
function compare(a, b) {
  const [x, y] = [a, b].map((place) => place.split(".").map(Number));
  if (box().dataset.sort === "newest") return y[1] - x[1] || y[2] - x[2];
  return x[0] - y[0] || x[1] - y[1] || x[2] - y[2];
}

function tidy() {
  box().querySelector(".empty").hidden = body().rows.length > 0;
  page.times();
  showPatients();
}

// Whom the rows are of, for those who may see it. Rows are the same for everybody, so this comes apart from them, at most
// once in a quarter of a second; what was fetched is kept, because rows are drawn anew with each change.
const patients = new Map();
let patientsTimer = null;

function drawPatients() {
  for (const row of rows()) {
    const whose = patients.get(row.id.slice(2));
    const line = row.querySelector(".patient");
    if (!whose || !line.hidden) continue;
    line.textContent = [whose.patient, whose.accession].filter(Boolean).join(" · ");
    line.hidden = line.textContent === "";
  }
}

function showPatients() {
  if (!document.body.dataset.patients) return;
  drawPatients();
  patientsTimer ||= setTimeout(async () => {
    const lacking = rows().map((row) => row.id.slice(2)).filter((identity) => !patients.has(identity));
    if (lacking.length) {
      const query = lacking.slice(0, 100).map((identity) => `of=${encodeURIComponent(identity)}`).join("&");
      const response = await outbox.fetch(`/patients?${query}`, { signal: AbortSignal.timeout(5000) }).catch(() => null);
      if (response?.ok) {
        const whose = await response.json().catch(() => ({}));
        for (const identity of lacking.slice(0, 100)) patients.set(identity, whose[identity] || null);
        drawPatients();
      }
    }
    patientsTimer = null;
    if (lacking.length > 100) showPatients();
  }, 250);
}

function put({ identity, place, html }) {
  const old = document.getElementById(`e-${identity}`);
  const focused = old?.contains(document.activeElement);
  const isNew = old === null;
  old?.remove();
  const all = rows();
  const at = all.findIndex((row) => compare(place, row.dataset.place) < 0);
  const isPastEnd = at === -1 && box().dataset.more === "1" && all.length > 0;
  const isBeforeStart = at === 0 && box().dataset.first !== "1";
  if (!isPastEnd && !isBeforeStart) {
    const row = fragment(html).querySelector("tr");
    const link = row.querySelector(".xray a");
    link.search = new URLSearchParams([...new URLSearchParams(location.search)].filter(([name]) => !["after", "before"].includes(name)));
    if (isNew) {
      row.classList.add("fresh");
      document.getElementById("announce").textContent = `New: ${row.querySelector(".label").textContent.trim()}`;
    }
    body().insertBefore(row, at === -1 ? null : all[at]);
    if (focused) link.focus();
    while (body().rows.length > KEPT_ROWS) { body().lastElementChild.remove(); box().dataset.more = "1"; }
  }
  tidy();
}

function drop(identity) {
  const row = document.getElementById(`e-${identity}`);
  if (!row) return;
  const next = row.nextElementSibling || row.previousElementSibling;
  const focused = row.contains(document.activeElement);
  row.remove();
  if (focused) next?.querySelector("a")?.focus();
  tidy();
}

const spaced = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");

function count(all) {
  const counters = all.tasks[task()] || all;
  const colours = document.getElementById("colours");
  if (all.colours && colours.getAttribute("href") !== all.colours) colours.href = all.colours; // a task has come
  for (const figure of document.querySelectorAll("[data-unread]")) figure.textContent = spaced(all.tasks[figure.dataset.unread]?.unread ?? 0);
  for (const figure of document.querySelectorAll("[data-counter]")) {
    figure.textContent = spaced(counters[figure.dataset.counter]);
  }
  document.title = `${counters.urgent ? `(${counters.urgent}) ` : ""}Worklist · Lungline`;
}

async function load(path, id) {
  const response = await outbox.fetch(path, { signal: AbortSignal.timeout(5000) });
  if (response.status === 401) { location.href = "/login"; return false; }
  if (!response.ok) return false;
  document.getElementById(id).replaceWith(fragment(await response.text()).getElementById(id));
  page.times();
  showPatients();
  return true;
}

async function reload() {
  if (!await load(`/rows${location.search}`, "rows")) return false;
  // Changes that were sent while these rows were loading may be missing from them.
  const [ours, theirs] = [box().dataset.mark, lastMark].map((mark) => mark.split("."));
  return ours[0] === theirs[0] && Number(ours[1]) < Number(theirs[1]) ? reload() : true;
}

// At most once every three seconds, and not for a hidden page.
function freshenAside() {
  if (asideTimer) return;
  asideTimer = setTimeout(() => {
    asideTimer = null;
    if (document.hidden) { missed = true; return; }
    load(`/aside${location.search}`, "aside-content").catch(() => false);
  }, 3000);
}

function lamp(state, word) {
  const live = document.getElementById("live");
  live.className = `live ${state}`;
  if (live.querySelector(".word").textContent !== word) live.querySelector(".word").textContent = word;
  document.body.classList.toggle("stale", state === "off");
}

// Whatever the network does, the lamp is on only while fresh data arrives. Heartbeats come every 4 seconds and carry the
// server's time: a stream that is silent, or late because something holds it back, is not live. Then the list is loaded
// every few seconds instead, and says so.
const SILENCE = 12000;
const LATE = 12000;
const POLL = 6000;
const freshness = { heard: Date.now(), offset: null, calibrated: 0, tried: 0, polled: 0, since: "" };

// How far this computer's clock is ahead of the server's, at least: by a request, whose delay is bounded.
async function calibrate(at) {
  const began = Date.now();
  if (!isOld(freshness.calibrated, 3000)) return;
  freshness.calibrated = began;
  const response = await outbox.fetch("/session", { signal: AbortSignal.timeout(5000) }).catch(() => null);
  if (!response?.ok) return;
  freshness.offset = began - (await response.json()).at;
  beat(at);
}

function beat(at) {
  const lag = freshness.offset === null ? NaN : Date.now() - at - freshness.offset;
  if (!(Math.abs(lag) < LATE)) { calibrate(at); return; } // late, or one of the clocks was set
  freshness.heard = Date.now();
  lamp("on", "live");
}

const isOld = (moment, limit) => { const age = Date.now() - moment; return age > limit || age < -1000; };

async function watch() {
  if (!isOld(freshness.heard, SILENCE)) return;
  if (isOld(freshness.polled, 2 * POLL)) {
    if (!document.body.classList.contains("stale")) freshness.since = new Date().toLocaleTimeString();
    lamp("off", `no connection since ${freshness.since}, retrying`);
  }
  if (!isOld(freshness.tried, POLL)) return;
  freshness.tried = Date.now();
  follow();
  const began = Date.now();
  const isLoaded = await reload().catch(() => false);
  // A page that slept in between cannot tell how old the answer is.
  if (!isLoaded || isOld(began, POLL) || !isOld(freshness.heard, SILENCE)) return;
  freshness.polled = Date.now();
  load(`/aside${location.search}`, "aside-content").catch(() => false);
  lamp("slow", "updating every 6 s");
}

function follow() {
  source?.close();
  source = new EventSource(`/live${location.search}`);
  source.addEventListener("opened", (event) => {
    const { mark, at } = JSON.parse(event.data);
    lastMark = mark;
    if (box().dataset.mark !== lastMark) { reload(); freshenAside(); }
    if (at) beat(at);
  });
  source.addEventListener("heartbeat", (event) => beat(JSON.parse(event.data).at));
  source.addEventListener("sent", (event) => { lastMark = JSON.parse(event.data).mark; });
  source.addEventListener("error", () => {
    freshness.heard = 0;
    freshness.tried = Date.now();
    lamp("off", "no connection, retrying");
    // After a response that is not a stream, such as 401, browsers do not reconnect by themselves: `watch` does.
  });
  source.addEventListener("row", (event) => { put(JSON.parse(event.data)); freshenAside(); });
  source.addEventListener("gone", (event) => { drop(JSON.parse(event.data).identity); freshenAside(); });
  source.addEventListener("counters", (event) => count(JSON.parse(event.data)));
  source.addEventListener("ended", () => { source.close(); location.href = "/login"; });
  source.addEventListener("reload", () => { reload(); freshenAside(); });
}

function applyFilters() {
  const values = [...new FormData(filters)].filter(([name, value]) => value !== "" && !(name === "sort" && value === "urgent"));
  const query = new URLSearchParams(values).toString();
  history.replaceState(null, "", query ? `/?${query}` : "/");
  reload();
  follow();
}

let searchTimer = null;
filters.addEventListener("submit", (event) => { event.preventDefault(); applyFilters(); });
filters.addEventListener("change", (event) => { if (event.target.tagName === "SELECT") applyFilters(); });
filters.addEventListener("input", (event) => {
  if (event.target.type !== "search") return;
  clearTimeout(searchTimer);
  searchTimer = setTimeout(applyFilters, 250);
});

document.addEventListener("click", (event) => {
  const row = event.target.closest(".list tbody tr");
  if (!row || event.target.closest("a") || String(getSelection())) return;
  row.querySelector(".xray a").click();
});

function step(by) {
  const links = rows().map((row) => row.querySelector(".xray a"));
  const at = links.indexOf(document.activeElement);
  const next = links[Math.max(0, Math.min(links.length - 1, at === -1 ? 0 : at + by))];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  const search = filters.querySelector("[type=search]");
  if (event.target === search && event.key === "Escape") { search.blur(); return; }
  if (page.typing(event) || page.helpIsOpen()) return;
  const keys = {
    j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
    "/": () => search.focus(), u: () => { location.href = task() ? `/?task=${task()}` : "/"; }, a: () => { location.href = `/?view=all${task() ? `&task=${task()}` : ""}`; },
  };
  const act = keys[page.key(event)];
  if (act) { event.preventDefault(); act(); }
});
document.addEventListener("visibilitychange", () => {
  watch();
  if (!document.hidden && missed) { missed = false; freshenAside(); }
});
for (const wakening of ["online", "offline", "focus", "pageshow"]) addEventListener(wakening, watch);
document.addEventListener("resume", watch);
setInterval(watch, 1000); // also the first thing after a computer has slept
addEventListener("pagehide", () => source?.close());
follow();
showPatients();
