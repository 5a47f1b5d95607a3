"use strict";
// The viewer: zoom, pan, window and level, overlay, and keys for readings.

const viewer = document.querySelector(".viewer");
const stage = document.getElementById("stage");
const film = document.getElementById("film");
const xray = document.getElementById("xray");
const heat = document.getElementById("heat");
const slider = (id) => document.getElementById(id);

const view = { scale: 1, x: 0, y: 0, width: 256, level: 128, inverted: false, fitted: true };
let lastOverlay = 60;

function draw() {
  film.style.setProperty("--scale", view.scale);
  film.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  // Out = (in - level) / width + 1/2, the linear window of DICOM, in 0..1.
  const slope = 256 / view.width;
  const intercept = 0.5 - view.level / view.width;
  for (const part of document.querySelectorAll("#window-level feComponentTransfer *")) {
    part.setAttribute("slope", view.inverted ? -slope : slope);
    part.setAttribute("intercept", view.inverted ? 1 - intercept : intercept);
  }
  slider("width").value = view.width;
  slider("level").value = view.level;
  slider("invert").setAttribute("aria-pressed", String(view.inverted));
  slider("readout").textContent = `${Math.round(view.scale * 100)}%  W ${Math.round(view.width)}  L ${Math.round(view.level)}`;
}

function fit() {
  const room = stage.getBoundingClientRect();
  const margin = 28;
  view.scale = Math.min((room.width - margin) / xray.naturalWidth, (room.height - 2 * margin) / xray.naturalHeight);
  view.x = (room.width - xray.naturalWidth * view.scale) / 2;
  view.y = (room.height - xray.naturalHeight * view.scale) / 2;
  view.fitted = true;
  draw();
}

function zoom(by, at) {
  const room = stage.getBoundingClientRect();
  const [x, y] = at ? [at.clientX - room.left, at.clientY - room.top] : [room.width / 2, room.height / 2];
  const scale = Math.min(40, Math.max(0.02, view.scale * by));
  view.x = x - (x - view.x) * (scale / view.scale);
  view.y = y - (y - view.y) * (scale / view.scale);
  view.scale = scale;
  view.fitted = false;
  draw();
}

function pan(x, y) {
  view.x += x;
  view.y += y;
  view.fitted = false;
  draw();
}

function windowTo(width, level) {
  view.width = Math.min(512, Math.max(2, width));
  view.level = Math.min(255, Math.max(0, level));
  draw();
}

// The grey levels between the 1st and the 99th percentile, measured on a small copy.
function autoWindow() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 128;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(xray, 0, 0, 128, 128);
  const grey = context.getImageData(0, 0, 128, 128).data.filter((_, at) => at % 4 === 0).sort();
  const [low, high] = [grey[Math.floor(grey.length * 0.01)], grey[Math.floor(grey.length * 0.99)]];
  windowTo(high - low + 1, (high + low + 1) / 2);
}

function overlay(value) {
  if (!heat) return;
  const percent = Math.min(100, Math.max(0, value));
  if (percent > 0) lastOverlay = percent;
  slider("overlay").value = percent;
  heat.style.opacity = percent / 100;
  sessionStorage.setItem("overlay", percent);
}

// The outline of the lungs stays as the reader left it, from one X-ray to the next.
function outline(on) {
  if (!slider("lungs")) return;
  film.classList.toggle("outlined", on);
  slider("lungs").setAttribute("aria-pressed", String(on));
  sessionStorage.setItem("lungs", on ? "on" : "off");
}

function toggleOutline() {
  if (!slider("lungs")) return;
  outline(!film.classList.contains("outlined"));
  const words = document.getElementById("lungs-outline").getAttribute("aria-label");
  slider("announce").textContent = film.classList.contains("outlined") ? words : "Outline of the lungs hidden";
}

function reset() {
  view.inverted = false;
  windowTo(256, 128);
  fit();
}

// Shows the server's error message as text, never as HTML.
async function explain(image, message) {
  let sentence = "The X-ray cannot be shown.";
  try {
    const response = await fetch(image.src, { headers: { accept: "application/json" } });
    if (response.status === 401) { signedOut(message); return; }
    if (response.ok) { image.src = `${image.src.split("#")[0]}#again`; return; }
    sentence = (await response.json()).error || sentence;
  } catch { sentence = "The worklist is not responding."; }
  message.hidden = false;
  message.textContent = `${sentence} `;
  const retry = document.createElement("button");
  retry.textContent = "Try again";
  retry.addEventListener("click", () => location.reload());
  message.append(retry);
}

// The page stays, with a comment that is being written, until the reader has signed in again.
function signedOut(message) {
  message.hidden = false;
  message.replaceChildren("Your session has ended. ", outbox.signInLink());
  const timer = setInterval(async () => {
    const response = await outbox.fetch("/session").catch(() => null);
    if (response?.ok) { clearInterval(timer); location.reload(); }
  }, 3000);
}

function showFilm() {
  film.style.width = `${xray.naturalWidth}px`;
  film.style.height = `${xray.naturalHeight}px`;
  document.getElementById("stage-message").hidden = true;
  film.classList.add("ready");
  fit();
  const following = viewer.dataset.following;
  if (following) new Image().src = `/x/${following}/xray`; // preload the next one
}

function followPointers() {
  const held = new Map();
  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button, a")) return;
    held.set(event.pointerId, event);
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("dragging");
  });
  stage.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return;
    const [x, y] = [event.clientX - before.clientX, event.clientY - before.clientY];
    if (held.size === 2) {
      const other = [...held.values()].find((pointer) => pointer.pointerId !== event.pointerId);
      const distance = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY);
      zoom(distance(event) / Math.max(1, distance(before)), other);
    } else if (before.buttons & 2 || event.shiftKey) {
      windowTo(view.width + x, view.level + y / 2);
    } else {
      pan(x, y);
    }
    held.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      held.delete(event.pointerId);
      stage.classList.toggle("dragging", held.size > 0);
    });
  }
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("dblclick", fit);
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.0016), event);
  }, { passive: false });
}

if (film) {
  xray.addEventListener("error", () => explain(xray, document.getElementById("stage-message")));
  if (heat) {
    heat.addEventListener("error", () => { heat.hidden = true; slider("overlay").disabled = true; });
    overlay(Number(sessionStorage.getItem("overlay") ?? 60));
  }
  outline(sessionStorage.getItem("lungs") === "on");
  if (xray.complete && xray.naturalWidth) showFilm();
  else if (xray.complete) explain(xray, document.getElementById("stage-message"));
  xray.addEventListener("load", showFilm);
  followPointers();
  addEventListener("resize", () => { if (view.fitted && xray.naturalWidth) fit(); });
  slider("width").addEventListener("input", (event) => windowTo(Number(event.target.value), view.level));
  slider("level").addEventListener("input", (event) => windowTo(view.width, Number(event.target.value)));
  slider("overlay")?.addEventListener("input", (event) => overlay(Number(event.target.value)));
  const clicks = {
    ...(slider("lungs") && { lungs: toggleOutline }),
    "zoom-in": () => zoom(1.25), "zoom-out": () => zoom(0.8), fit, reset, auto: autoWindow,
    invert: () => { view.inverted = !view.inverted; draw(); },
  };
  for (const [id, act] of Object.entries(clicks)) slider(id).addEventListener("click", act);
}

const press = (id) => document.getElementById(id)?.click();
const shown = () => film?.classList.contains("ready");
const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
const looks = {
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit, i: () => press("invert"), w: autoWindow, r: reset,
  l: () => press("lungs"),
  o: () => overlay(Number(slider("overlay")?.value) > 0 ? 0 : lastOverlay),
  "[": () => overlay(Number(slider("overlay")?.value) - 10), "]": () => overlay(Number(slider("overlay")?.value) + 10),
};
const steps = {
  j: () => press("to-next"), n: () => press("to-next"), k: () => press("to-previous"), p: () => press("to-previous"),
  Escape: () => press("to-list"), m: () => document.getElementById("comment")?.focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.target.id === "comment" && event.key === "Escape") { event.target.blur(); return; }
  if (page.typing(event) || page.helpIsOpen()) return;
  const key = page.key(event);
  const onSlider = event.target.type === "range" && key.startsWith("Arrow");
  const button = key.length === 1 && document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (button) { event.preventDefault(); button.click(); return; }
  const act = steps[key] || (shown() && (looks[key] || (!onSlider && moves[key] && (() => pan(...moves[key])))));
  if (act) { event.preventDefault(); act(); }
});

// A comment survives reloads, ended sessions and refused readings; only for who wrote it.
const comment = document.getElementById("comment");
const draftKey = `draft:${location.pathname}`;
if (comment) {
  const draft = JSON.parse(sessionStorage.getItem(draftKey) || "null");
  if (draft?.who === document.body.dataset.who && !comment.value) comment.value = draft.text;
  comment.addEventListener("input", () => {
    sessionStorage.setItem(draftKey, JSON.stringify({ who: document.body.dataset.who, text: comment.value }));
  });
}
