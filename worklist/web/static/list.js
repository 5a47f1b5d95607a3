"use strict";
// The list: live updates, keyboard navigation, filters without reloading the page.

const KEPT_ROWS = 200;
const filters = document.querySelector(".filters");
let source = null;
let missed = false;
let lastMark = "";
let asideTimer = null;

const box = () => document.getElementById("rows");
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

function count(counters) {
  for (const figure of document.querySelectorAll("[data-counter]")) {
    figure.textContent = String(counters[figure.dataset.counter]).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  }
  document.title = `${counters.urgent ? `(${counters.urgent}) ` : ""}Worklist · Lungline`;
}

async function load(path, id) {
  const response = await fetch(path, { headers: { accept: "application/json" } });
  if (response.status === 401) { location.href = "/login"; return false; }
  if (!response.ok) return false;
  document.getElementById(id).replaceWith(fragment(await response.text()).getElementById(id));
  page.times();
  return true;
}

async function reload() {
  if (!await load(`/rows${location.search}`, "rows")) return;
  // Changes that were sent while these rows were loading may be missing from them.
  const [ours, theirs] = [box().dataset.mark, lastMark].map((mark) => mark.split("."));
  if (ours[0] === theirs[0] && Number(ours[1]) < Number(theirs[1])) await reload();
}

// At most once every three seconds, and not for a hidden page.
function freshenAside() {
  if (asideTimer) return;
  asideTimer = setTimeout(() => {
    asideTimer = null;
    if (document.hidden) { missed = true; return; }
    load("/aside", "aside-content");
  }, 3000);
}

function lamp(state, word) {
  const live = document.getElementById("live");
  live.className = `live ${state}`;
  live.querySelector(".word").textContent = word;
}

function follow() {
  source?.close();
  source = new EventSource(`/live${location.search}`);
  source.addEventListener("opened", (event) => {
    lastMark = JSON.parse(event.data).mark;
    if (box().dataset.mark !== lastMark) { reload(); freshenAside(); }
    lamp("on", "live");
  });
  source.addEventListener("sent", (event) => { lastMark = JSON.parse(event.data).mark; });
  source.addEventListener("error", () => {
    lamp("off", "no connection, retrying");
    // After an response that is no stream, such as 401, browsers do not try again by themselves.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { reload(); follow(); }, 5000);
  });
  source.addEventListener("row", (event) => { put(JSON.parse(event.data)); freshenAside(); });
  source.addEventListener("gone", (event) => { drop(JSON.parse(event.data).identity); freshenAside(); });
  source.addEventListener("counters", (event) => count(JSON.parse(event.data)));
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
    "/": () => search.focus(), u: () => { location.href = "/"; }, a: () => { location.href = "/?view=all"; },
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && missed) { missed = false; freshenAside(); } });
// A page restored from the browser's history shows the state of when it was left.
addEventListener("pageshow", (event) => { if (event.persisted) { reload(); follow(); } });
addEventListener("pagehide", () => source?.close());
follow();
