"use strict";
// Common to all pages: theme, help, times in the reader's time zone.

const page = {
  typing(event) {
    const at = event.target;
    return event.ctrlKey || event.metaKey || event.altKey || at.isContentEditable
      || ["TEXTAREA", "SELECT"].includes(at.tagName) || (at.tagName === "INPUT" && at.type !== "range");
  },
  theme() {
    const root = document.documentElement;
    root.dataset.theme = root.dataset.theme === "light" ? "dark" : "light";
    document.cookie = `theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=lax`;
  },
  help() {
    const dialog = document.getElementById("help");
    if (dialog && !dialog.open) dialog.showModal();
  },
  helpIsOpen() {
    return Boolean(document.getElementById("help")?.open);
  },
  ago(seconds) {
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
    }
    return `${Math.max(0, Math.floor(seconds))} s`;
  },
  times() {
    const now = Date.now();
    for (const time of document.querySelectorAll("time[data-age]")) {
      const text = page.ago((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
    for (const time of document.querySelectorAll("time[data-clock]")) {
      time.title = time.textContent;
      time.textContent = new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
      time.removeAttribute("data-clock");
    }
  },
};

document.getElementById("theme").addEventListener("click", page.theme);
document.getElementById("help-button")?.addEventListener("click", page.help);
document.addEventListener("keydown", (event) => {
  if (page.typing(event) || page.helpIsOpen()) return;
  if (event.key === "t") page.theme();
  if (event.key === "?") page.help();
});
page.times();
setInterval(page.times, 10000);
