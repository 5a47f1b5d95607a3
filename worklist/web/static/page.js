"use strict";
// Common to all pages: theme, help, times in the reader's time zone.

const page = {
  typing(event) {
    const at = event.target;
    const isModified = (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState?.("AltGraph");
    return isModified || at.isContentEditable
      || ["TEXTAREA", "SELECT"].includes(at.tagName) || (at.tagName === "INPUT" && !["range", "checkbox"].includes(at.type));
  },
  // The shortcut that a key stands for. Caps Lock changes nothing, and on other layouts (Cyrillic, Greek, Hebrew, AZERTY, an
  // input method) the position of the key counts. Shift with a letter is no shortcut.
  key(event) {
    const { key, code } = event;
    if (/^[a-z]$/i.test(key)) return event.shiftKey ? "" : key.toLowerCase();
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(code)?.[1];
    if (/^\d$/.test(key) || (key.length > 1 && !["Dead", "Process", "Unidentified"].includes(key))) return key;
    if (digit && !event.shiftKey && !"+-=[]/?".includes(key)) return digit;
    if (key.length === 1 && key.charCodeAt(0) < 128) return key;
    if (code === "Slash") return event.shiftKey ? "?" : "/";
    if (event.shiftKey) return "";
    const places = { BracketLeft: "[", BracketRight: "]", Minus: "-", Equal: "=" };
    return /^Key([A-Z])$/.exec(code)?.[1].toLowerCase() || places[code] || key;
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
  const key = page.key(event);
  if (key === "t") page.theme();
  if (key === "?") page.help();
});
page.times();
setInterval(page.times, 10000);
