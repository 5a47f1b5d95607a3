"use strict";
// Readings and acknowledgements on their way to the server. They are kept in this tab until the server has accepted or
// refused them, through network failures, restarts and ended sessions.

const outbox = {
  timeout: 10000,
  box: document.getElementById("outbox"),
  who: document.body.dataset.who || "",
  csrf: document.querySelector("[name=csrf]")?.value || "",
  busy: false,
  timer: null,
  failures: 0,

  items() { return JSON.parse(sessionStorage.getItem("outbox") || "[]"); },
  keep(items) { sessionStorage.setItem("outbox", JSON.stringify(items)); },
  remove(item) { outbox.keep(outbox.items().filter(({ id }) => id !== item.id)); },

  // Message parts are text, links or buttons; never HTML.
  show(...parts) {
    outbox.box.replaceChildren(...parts);
    outbox.box.hidden = parts.length === 0;
  },
  button(text, act) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", act);
    return button;
  },
  link(text, address) {
    const link = document.createElement("a");
    link.className = "button";
    link.textContent = text;
    link.href = address;
    return link;
  },
  signInLink() {
    const link = outbox.link("Sign in", "/login");
    [link.target, link.rel] = ["_blank", "noopener"]; // this page must stay
    return link;
  },
  discard(item) {
    return outbox.button("Discard", () => { outbox.remove(item); outbox.release(item); outbox.show(); outbox.flush(); });
  },

  add(form, submitter) {
    const fields = [...new FormData(form)].filter(([name]) => name !== "csrf");
    if (submitter?.name) fields.push([submitter.name, submitter.value]);
    const item = { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), url: form.getAttribute("action"), fields };
    Object.assign(item, { name: form.dataset.send, who: outbox.who, page: location.pathname });
    outbox.keep([...outbox.items(), item]);
    outbox.flush();
  },
  retry(seconds) {
    clearTimeout(outbox.timer);
    outbox.timer = setTimeout(outbox.flush, seconds * 1000);
  },

  async flush() {
    clearTimeout(outbox.timer);
    if (outbox.busy) return;
    outbox.busy = true;
    try {
      for (let item = outbox.items()[0]; item; item = outbox.items()[0]) {
        if (!await outbox.send(item)) break;
      }
    } finally {
      outbox.busy = false;
    }
  },

  fetch(url, options) {
    const headers = { accept: "application/json" };
    return fetch(url, { headers, cache: "no-store", signal: AbortSignal.timeout(outbox.timeout), ...options });
  },

  // True when the item is settled and the next may follow.
  async send(item) {
    if (item.who !== outbox.who && !await outbox.renew(item)) return false;
    let response;
    try {
      const body = new URLSearchParams([...item.fields, ["csrf", outbox.csrf]]);
      response = await outbox.fetch(item.url, { method: "POST", body });
      if (response.status === 401 || response.status === 403) return await outbox.renew(item, response.status === 403);
      if (response.status >= 500 || response.status === 408 || response.status === 429) return outbox.unreachable(item);
      const answer = await response.json();
      return response.ok ? outbox.saved(item, answer.next) : outbox.refused(item, response.status, answer.error);
    } catch {
      return outbox.unreachable(item);
    }
  },
  unreachable(item) {
    outbox.failures += 1;
    outbox.show(`Not saved yet: ${item.name}. The worklist is not responding; trying again. `, outbox.discard(item));
    outbox.retry(Math.min(10, 2 ** (outbox.failures - 1)));
    return false;
  },

  // Take over the session that this browser has now; true when the item may be sent again with it.
  async renew(item, wasRefused = false) {
    let session;
    try {
      const response = await outbox.fetch("/session");
      if (response.status === 401) {
        outbox.show(`Your session has ended. Not saved yet: ${item.name}. `, outbox.signInLink(), outbox.discard(item));
        outbox.retry(3);
        return false;
      }
      if (!response.ok) return outbox.unreachable(item);
      session = await response.json();
    } catch {
      return outbox.unreachable(item);
    }
    if (wasRefused && session.csrf === outbox.csrf) return outbox.refused(item, 403, "You may not do this.");
    outbox.csrf = session.csrf;
    outbox.who = session.who;
    for (const field of document.querySelectorAll("[name=csrf]")) field.value = session.csrf;
    if (item.who === session.who) { outbox.retry(0); return false; }
    const claim = () => {
      outbox.keep(outbox.items().map((other) => (other.id === item.id ? { ...other, who: session.who } : other)));
      outbox.flush();
    };
    outbox.show(
      `Not saved yet: ${item.name}, by ${item.who}. You are signed in as ${session.who}. `,
      outbox.button(`Save as ${session.who}`, claim), outbox.discard(item),
    );
    return false;
  },

  saved(item, next) {
    outbox.failures = 0;
    outbox.remove(item);
    sessionStorage.removeItem(`draft:${item.page}`);
    if (location.pathname === item.page && next) location.href = next;
    else outbox.show(`Saved: ${item.name}. `, outbox.button("Close", () => outbox.show()));
    return true;
  },
  refused(item, status, error) {
    outbox.failures = 0;
    outbox.remove(item);
    const message = error || "The worklist refused it.";
    if (status === 409 && location.pathname === item.page) {
      sessionStorage.setItem("notice", message);
      location.reload(); // the page as it is now; the comment is kept as a draft
      return true;
    }
    outbox.release(item);
    outbox.show(`Not saved: ${item.name}. ${message} `, outbox.link("Open", item.page));
    return true;
  },
  release(item) {
    for (const form of document.querySelectorAll("form[data-send]")) {
      if (form.getAttribute("action") === item.url) delete form.dataset.sent;
    }
  },
};

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.getAttribute("action") === "/logout") sessionStorage.clear();
  if (!form.dataset.send) return;
  event.preventDefault();
  if (form.dataset.sent) return; // a double click, or a held key
  form.dataset.sent = "1";
  outbox.add(form, event.submitter);
});
// Links keep the tab and its outbox; closing it does not.
let isFollowingLink = false;
document.addEventListener("click", (event) => { isFollowingLink = Boolean(event.target.closest("a[href]:not([target])")); });
addEventListener("beforeunload", (event) => { if (outbox.items().length && !outbox.busy && !isFollowingLink) event.preventDefault(); });
addEventListener("online", outbox.flush);
addEventListener("focus", () => { if (outbox.items().length) outbox.flush(); });
// A page restored from the browser's history may show a result that has changed since.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

const notice = sessionStorage.getItem("notice");
if (notice) {
  sessionStorage.removeItem("notice");
  outbox.show(`${notice} `, outbox.button("Close", () => outbox.show()));
}
outbox.flush();
