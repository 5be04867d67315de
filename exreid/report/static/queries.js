// The list of photographs: search, filters, order, pages; and which photograph is open. All of it
// stands in the address, so that a view can be kept, sent and gone back to. Texts of the data
// become text nodes, never markup.
"use strict";
const exreid = (() => {
  const PER_PAGE = 48;
  const MARKS = { right: "✓", wrong: "✕", new: "✦", open: "?", known: "=", unsure: "?" };
  const WORDS = { right: "right animal", wrong: "wrong animal", new: "new animal", open: "truth not known", known: "known animal", unsure: "unsure" };
  const OUTCOMES = ["right", "wrong", "new", "open"];
  const DECISIONS = ["known", "new", "unsure"];
  const waiting = new Map();
  const $ = (id) => document.getElementById(id);
  let index = null, haystack = [], shown = [], state = {}, position = 0;

  function el(tag, props, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(props || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "on") for (const [event, call] of Object.entries(value)) made.addEventListener(event, call);
      else made.setAttribute(name, value === true ? "" : String(value));
    }
    for (const child of children.flat()) if (child !== null && child !== undefined && child !== "") made.append(child);
    return made;
  }

  // A page from disk may not read files, but it may run scripts: each part of the data is one.
  function load(name, file) {
    return new Promise((resolve, reject) => {
      if (waiting.has(name) && waiting.get(name).value) return resolve(waiting.get(name).value);
      const calls = waiting.get(name)?.calls || [];
      calls.push({ resolve, reject });
      waiting.set(name, { calls });
      if (calls.length > 1) return undefined;
      const script = el("script", { src: file });
      script.onerror = () => { waiting.delete(name); calls.forEach((one) => one.reject(new Error(file))); };
      document.head.append(script);
      return undefined;
    });
  }
  function data(name, value) {
    if (name === "index") return start(value);
    const calls = waiting.get(name)?.calls || [];
    waiting.set(name, { value });
    if (waiting.size > 12) for (const old of waiting.keys()) { if (old !== name && waiting.get(old).value) { waiting.delete(old); break; } }
    calls.forEach((one) => one.resolve(value));
    return undefined;
  }

  const text = (column, i) => { const code = index[column][i]; return code < 0 ? "" : index.texts[column][code]; };
  const animal = (column, i) => { const code = index[column][i]; return code < 0 ? "" : index.texts.animal[code]; };
  // Each part between marks that keep its writing direction to itself.
  const joined = (parts) => parts.filter(Boolean).map((one) => `\u2068${one}\u2069`).join(" · ");
  const thumb = (i) => index.key[i] ? `t/${index.key[i].slice(0, 2)}/${index.key[i]}.jpg` : "";
  const outcome = (i) => OUTCOMES[index.outcome[i]];
  // What the sign before an answer shows: its outcome or, where the truth is not known, the decision.
  const sign = (i) => (outcome(i) === "open" && DECISIONS[index.decision[i]]) || outcome(i);
  const title = (i) => index.said[i];
  function note(i) {
    const kind = outcome(i);
    if (kind === "wrong") return `is ${animal("truth", i)}`;
    if (kind === "new") return `new animal: ${animal("truth", i)}`;
    if (kind === "right" && index.decision[i] === 1) return `is ${animal("truth", i)}, counted as new`;
    return joined([text("site", i), text("viewpoint", i)]) || index.id[i];
  }

  // Orders by the outcome's own column; equal ones stay in the run's order.
  const ORDERS = {
    run: ["as in the run", null],
    sure: ["surest first", (a, b) => value(b) - value(a)],
    unsure: ["least sure first", (a, b) => value(a) - value(b)],
    rank: ["right animal found last first", (a, b) => index.rank[b] - index.rank[a]],
    animal: ["by animal", (a, b) => animal("truth", a).localeCompare(animal("truth", b)) || animal("leader", a).localeCompare(animal("leader", b))],
    date: ["by date", (a, b) => text("date", a).localeCompare(text("date", b))],
  };
  const value = (i) => index.p[i] === null ? (index.score[i] === null ? -Infinity : index.score[i]) : index.p[i];

  function read() {
    const found = new URLSearchParams(location.hash.slice(1));
    state = Object.fromEntries(found.entries());
  }
  function address(changes) {
    const next = new URLSearchParams();
    for (const [name, one] of Object.entries({ ...state, ...changes })) if (one !== "" && one !== undefined && one !== null) next.set(name, one);
    return `#${next.toString()}`;
  }
  function go(changes, replace) {
    const hash = address(changes);
    if (hash === location.hash || (hash === "#" && !location.hash)) return;
    if (replace) { history.replaceState(null, "", hash); render(); } else location.hash = hash;
  }

  function select() {
    const words = (state.find || "").toLowerCase().split(/\s+/).filter(Boolean);
    const low = state.low ? Number(state.low) / 100 : 0, high = state.high ? Number(state.high) / 100 : 1;
    const ranged = low > 0 || high < 1;
    const site = state.site === undefined ? null : index.texts.site.indexOf(state.site);
    const view = state.view === undefined ? null : index.texts.viewpoint.indexOf(state.view);
    shown = [];
    for (let i = 0; i < index.id.length; i++) {
      if (state.outcome && outcome(i) !== state.outcome) continue;
      if (state.decision && index.decision[i] !== DECISIONS.indexOf(state.decision)) continue;
      if (site !== null && index.site[i] !== site) continue;
      if (view !== null && index.viewpoint[i] !== view) continue;
      if (ranged && (index.p[i] === null || index.p[i] < low || index.p[i] > high)) continue;
      if (words.length && !words.every((word) => haystack[i].includes(word))) continue;
      shown.push(i);
    }
    const order = (ORDERS[state.sort] || ORDERS.run)[1];
    if (order) shown.sort((a, b) => order(a, b) || a - b);
  }

  function card(i) {
    const kind = outcome(i), src = thumb(i);
    const image = src ? el("img", { src, alt: "", loading: "lazy", decoding: "async" }) : el("span", { class: "noimage" }, "no picture");
    return el("li", {}, el("a", { class: `card ${kind}`, href: address({ photo: index.id[i] }), title: index.id[i] }, image,
      el("span", { class: "line" }, el("span", { class: `mark ${sign(i)}`, "aria-hidden": "true" }, MARKS[sign(i)]), el("span", { class: "sr" }, `${WORDS[sign(i)]}: `),
        el("span", { class: "name" }, el("bdi", {}, title(i)))),
      el("span", { class: note(i) === index.id[i] ? "sub tail" : "sub" }, el("bdi", {}, note(i)))));
  }

  function render() {
    read();
    const at = state.photo === undefined ? -1 : index.place.get(state.photo);
    select();
    $("loading").hidden = true;
    $("detail").hidden = at === -1;
    $("list").hidden = at !== -1;
    if (at === undefined) { $("list").hidden = false; $("detail").hidden = true; }
    if (at !== -1 && at !== undefined) return open(at);
    document.title = "Photographs";
    controls();
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    const page = Math.min(pages, Math.max(1, Number(state.page) || 1));
    const part = shown.slice((page - 1) * PER_PAGE, page * PER_PAGE);
    const count = index.id.length, total = `${count.toLocaleString("en")} photograph${count === 1 ? "" : "s"}`;
    $("found").textContent = shown.length === count ? total : `${shown.length.toLocaleString("en")} of ${total}`;
    if (at === undefined) $("found").textContent = `There is no photograph ${state.photo} in this report. ${$("found").textContent}`;
    $("grid").replaceChildren(...part.map(card));
    const turn = (to, label, off) => el("button", { type: "button", disabled: off, on: { click: () => { go({ page: to === 1 ? "" : to }); scrollTo(0, 0); } } }, label);
    $("pager").replaceChildren(...(pages > 1 ? [turn(1, "First", page === 1), turn(page - 1, "Back", page === 1), el("span", {}, `page ${page} of ${pages}`), turn(page + 1, "Next", page === pages), turn(pages, "Last", page === pages)] : []));
    if (position) { const top = position; position = 0; requestAnimationFrame(() => scrollTo(0, top)); }
    return undefined;
  }

  function open(i) {
    if ($("list").dataset.left !== "yes") position = 0;
    const part = Math.floor(i / index.per_part);
    const name = `part-${String(part).padStart(4, "0")}`;
    load(name, `data/${name}.js`).then((chunk) => {
      if (state.photo !== index.id[i]) return;
      exreid.detail($("detail"), chunk, chunk.queries[i - part * index.per_part], i);
    }, () => { $("detail").replaceChildren(el("p", { class: "warning" }, `data/${name}.js is missing or damaged: copy the whole folder of the report, or write the report again.`)); });
  }

  function chips(holder, name, options) {
    holder.replaceChildren(...options.map(([key, sign, label, count]) => el("button", {
      type: "button", "aria-pressed": String((state[name] || "") === key), "data-value": key,
      on: { click: () => { go({ [name]: (state[name] || "") === key ? "" : key, page: "" }, true); holder.querySelector(`[data-value="${key}"]`)?.focus(); } },
    }, sign ? el("span", { class: `mark ${key}`, "aria-hidden": "true" }, sign) : null, label, count === null ? null : el("small", {}, count.toLocaleString("en")))));
  }
  function options(field, name, texts, every) {
    $(`${field}-field`).hidden = texts.length < 2;
    const select = $(field);
    if (select.options.length === 0) select.append(el("option", { value: "*" }, every), ...texts.map((one) => el("option", { value: `=${one}` }, one || "(empty)")));
    select.value = state[name] === undefined ? "*" : `=${state[name]}`;
  }
  function controls() {
    const counts = OUTCOMES.map((_, code) => index.outcome.filter((one) => one === code).length);
    chips($("outcomes"), "outcome", OUTCOMES.map((key, code) => [key, MARKS[key], WORDS[key], counts[code]]).filter((one) => one[3] && counts.filter(Boolean).length > 1));
    const called = DECISIONS.map((key, code) => [key, "", index.truth_known ? `counted as ${key}` : key, index.decision.filter((one) => one === code).length]);
    chips($("decisions"), "decision", called.filter((one) => one[3]));
    options("site", "site", index.texts.site, "all");
    options("view", "view", index.texts.viewpoint, "both");
    $("sure-field").hidden = index.p.every((one) => one === null);
    if (document.activeElement !== $("find")) $("find").value = state.find || "";
    if (document.activeElement !== $("low")) $("low").value = state.low || 0;
    if (document.activeElement !== $("high")) $("high").value = state.high || 100;
    const sort = $("sort");
    if (sort.options.length === 0) sort.append(...Object.entries(ORDERS).filter(([key]) => (key !== "rank" || index.truth_known) && (key !== "date" || index.texts.date.length)).map(([key, [label]]) => el("option", { value: key }, label)));
    sort.value = ORDERS[state.sort] ? state.sort : "run";
  }
  function listen() {
    const change = (id, name, convert) => $(id).addEventListener("input", () => go({ [name]: convert($(id).value), page: "" }, true));
    change("find", "find", (one) => one.trim());
    change("low", "low", (one) => Number(one) > 0 ? one : "");
    change("high", "high", (one) => one !== "" && Number(one) < 100 ? one : "");
    change("sort", "sort", (one) => one === "run" ? "" : one);
    for (const [id, name] of [["site", "site"], ["view", "view"]]) {
      $(id).addEventListener("input", () => {
        const chosen = $(id).value, changes = { [name]: undefined, page: "" };
        if (chosen !== "*") changes[name] = chosen.slice(1);
        go(changes, true);
      });
    }
    $("clear").addEventListener("click", () => { state = {}; history.replaceState(null, "", "#"); $("find").value = ""; render(); });
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("grid").addEventListener("click", (event) => { if (event.target.closest("a")) position = scrollY; });
    addEventListener("hashchange", render);
    addEventListener("keydown", (event) => {
      const typing = event.target.matches?.("input, select, textarea");
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "/" && $("detail").hidden) { event.preventDefault(); $("find").focus(); }
      if (!$("detail").hidden) {
        if (event.key === "ArrowRight") step(1);
        else if (event.key === "ArrowLeft") step(-1);
        else if (event.key === "Escape" || event.key === "u") back();
        else exreid.key?.(event.key);
      }
    });
  }
  function neighbour(change) {
    const at = shown.indexOf(index.place.get(state.photo));
    if (at === -1) return shown.length ? shown[0] : null;
    const next = at + change;
    return next >= 0 && next < shown.length ? shown[next] : null;
  }
  function step(change) { const next = neighbour(change); if (next !== null) { go({ photo: index.id[next] }); } }
  function back() { $("list").dataset.left = "yes"; go({ photo: "" }); }

  function start(value) {
    index = value;
    index.place = new Map(index.id.map((id, i) => [id, i]));
    haystack = index.id.map((id, i) => [id, animal("truth", i), animal("leader", i), text("site", i), text("viewpoint", i), text("visit", i), text("date", i)].join(" ").toLowerCase());
    listen();
    render();
  }
  return { data, el, step, back, neighbour, joined, address, outcome, sign, WORDS, MARKS,
    get index() { return index; }, get shown() { return shown; }, animal, text };
})();
