// Light or dark, as the reader chose; otherwise as the system says. Runs before the first paint.
(() => {
  "use strict";
  const kept = () => { try { return localStorage.getItem("exreid-theme"); } catch { return null; } };
  const keep = (name) => { try { localStorage.setItem("exreid-theme", name); } catch { /* not kept */ } };
  const root = document.documentElement;
  if (kept()) root.dataset.theme = kept();
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      const next = (root.dataset.theme || system) === "dark" ? "light" : "dark";
      root.dataset.theme = next;
      keep(next);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && document.activeElement?.closest(".tip")) document.activeElement.blur();
    });
  });
})();
