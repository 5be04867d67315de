// One photograph: the answer, the two photographs with their matches, the card, the neighbours.
"use strict";
(() => {
  const { el } = exreid;
  const SVG = "http://www.w3.org/2000/svg", GRID = 2000, HEIGHT = 600, GAP = 14;
  const narrow = matchMedia("(max-width: 600px)");
  // Kept from one photograph to the next.
  const view = { lines: true, heat: false, least: 0 };
  let now = null;

  function svg(tag, props, ...children) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(props)) if (value !== null && value !== false) made.setAttribute(name, String(value));
    made.append(...children);
    return made;
  }
  const fields = ["id", "key", "width", "height", "large", "animal", "date", "site", "visit", "view"];
  const photo = (chunk, i) => Object.fromEntries(fields.map((name, at) => [name, chunk.photos[i][at]]));
  const file = (one, size) => one.key ? `${size}/${one.key.slice(0, 2)}/${one.key}.jpg` : "";
  const source = (one) => file(one, one.large ? "p" : "t");
  const about = (one) => exreid.joined([one.date, one.site, one.view, one.visit ? `encounter ${one.visit}` : ""]);
  const short = (value) => value === null ? "–" : Math.abs(value) >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(3);

  function colour(confidence) {
    const stops = exreid.index.colours, least = exreid.index.threshold;
    const share = Math.min(1, Math.max(0, (confidence / 100 - least) / Math.max(1e-6, 1 - least)));
    return stops[Math.round(share * (stops.length - 1))];
  }

  // Both photographs, the layers and the lines in one drawing: it scales and prints as a whole.
  function drawing(query, other, pair) {
    const stacked = narrow.matches;
    const ratio = (one) => (one.width || 4) / (one.height || 3);
    const size = (one) => stacked ? [HEIGHT, HEIGHT / ratio(one)] : [HEIGHT * ratio(one), HEIGHT];
    const [qw, qh] = size(query), [gw, gh] = other ? size(other) : [0, 0];
    const gx = stacked || !other ? 0 : qw + GAP, gy = stacked && other ? qh + GAP : 0;
    const width = stacked ? HEIGHT : qw + (other ? GAP + gw : 0), height = stacked ? qh + (other ? GAP + gh : 0) : HEIGHT;
    const words = pair ? pair.words : "no matches were kept for this pair";
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": other ? `The query, and a photograph of ${other.animal || "an animal"}: ${words}` : "The query" });
    const place = (href, x, y, w, h, name) => root.append(svg("image", { href, x, y, width: w, height: h, preserveAspectRatio: "none", class: name }));
    place(source(query), 0, 0, qw, qh, "photo");
    if (other) place(source(other), gx, gy, gw, gh, "photo");
    if (!pair || !other) return root;
    if (view.heat && pair.heat) {
      root.append(svg("rect", { x: 0, y: 0, width: qw, height: qh, fill: "#000", opacity: .35 }), svg("rect", { x: gx, y: gy, width: gw, height: gh, fill: "#000", opacity: .35 }));
      place(pair.heat[0], 0, 0, qw, qh, "heat");
      place(pair.heat[1], gx, gy, gw, gh, "heat");
    }
    if (view.lines) root.append(lines(pair.points, qw, qh, gx, gy, gw, gh));
    return root;
  }
  function lines(points, qw, qh, gx, gy, gw, gh) {
    const group = svg("g", { class: "lines", fill: "none", "stroke-linecap": "round" });
    const rows = [];
    for (let at = 0; at < points.length; at += 7) rows.push(points.slice(at, at + 7));
    // The surest are drawn last, outliers first.
    rows.sort((a, b) => a[5] - b[5] || a[4] - b[4]);
    for (const [qx, qy, ox, oy, confidence, inlier, off] of rows) {
      if (confidence < view.least) continue;
      const a = [qx / GRID * qw, qy / GRID * qh], b = [gx + ox / GRID * gw, gy + oy / GRID * gh];
      const ends = { x1: a[0], y1: a[1], x2: b[0], y2: b[1] };
      const one = svg("g", { opacity: inlier ? 1 : .5 });
      one.append(svg("title", {}, `confidence ${confidence}%${off ? ", off the animal" : ""}${inlier ? "" : ", does not agree with the others"}`));
      one.append(svg("line", { ...ends, stroke: "#000", "stroke-opacity": .35, "stroke-width": 3.4, "vector-effect": "non-scaling-stroke" }));
      one.append(svg("line", { ...ends, stroke: colour(confidence), "stroke-width": inlier ? 1.7 : 1.2, "stroke-dasharray": inlier ? null : "5 5", "vector-effect": "non-scaling-stroke" }));
      for (const [x, y] of [a, b]) {
        if (off) one.append(svg("path", { d: `M${x - 6} ${y - 6}l12 12m0-12l-12 12`, stroke: "#fff", "stroke-width": 2.4, "vector-effect": "non-scaling-stroke" }));
        else one.append(svg("circle", { cx: x, cy: y, r: 4, fill: colour(confidence), stroke: "#000", "stroke-opacity": .6, "stroke-width": 1 }));
      }
      group.append(one);
    }
    return group;
  }

  function viewer() {
    const { chunk, entry, chosen } = now;
    const query = photo(chunk, entry.photo), other = chosen === null ? null : photo(chunk, chosen);
    const pair = chosen === null ? null : entry.pairs[chosen];
    const toggle = (name, label, key) => el("button", { type: "button", "aria-pressed": String(view[name]), id: `toggle-${name}`, title: `${label} (${key})`, on: { click: () => { view[name] = !view[name]; refresh(`toggle-${name}`); } } }, label, " ", el("kbd", {}, key));
    const slider = el("input", { type: "range", min: Math.round(100 * exreid.index.threshold), max: 99, value: Math.max(view.least, Math.round(100 * exreid.index.threshold)), "aria-label": "least confidence shown", id: "least" });
    slider.addEventListener("input", () => { view.least = Number(slider.value); now.figure.querySelector("svg").replaceWith(drawing(query, other, pair)); });
    const scale = el("span", { class: "scale" }, `confidence ${Math.round(100 * exreid.index.threshold)}%`, el("i", { style: `background:linear-gradient(90deg,${exreid.index.colours.join(",")})` }), "100%");
    const words = pair ? [`${pair.words[0].toUpperCase()}${pair.words.slice(1)}.`, pair.shown < pair.count ? ` ${pair.shown} of them are drawn, thinned evenly.` : "", pair.weaker ? ` ${pair.weaker} weaker ${pair.weaker === 1 ? "one is" : "ones are"} not drawn, and did not count.` : "", pair.verified ? " Dashed lines do not agree with the others." : ""].join("")
      : chosen === null ? "" : exreid.index.has_matches ? `Matched keypoints are kept for the best ${exreid.index.kept_matches === 1 ? "match" : `${exreid.index.kept_matches} matches`} of each photograph.` : "This run kept no matched keypoints.";
    const caption = (one, lead) => el("div", {}, el("p", {}, el("b", {}, lead)), el("p", { class: "meta" }, about(one)), one.key && one.large ? el("p", { class: "meta screen" }, el("a", { href: file(one, "p"), target: "_blank", rel: "noopener" }, "the photograph alone")) : null);
    return el("figure", { class: "viewer" },
      drawing(query, other, pair),
      el("div", { class: "captions" }, caption(query, "The query"), other ? caption(other, `${other.animal || "An animal"}, ${entry.ranks[chosen] ? `match ${entry.ranks[chosen][0]}` : "implausible"}`) : null),
      pair && pair.count ? el("div", { class: "toggles" }, toggle("lines", "Matched keypoints", "m"), toggle("heat", "Heat map", "h"), el("label", {}, "at least", slider), scale) : null,
      el("figcaption", {}, words));
  }

  function meter(card) {
    const bar = exreid.index.bar, from = exreid.index.bar_text, decided = bar !== null && card.decision !== null;
    const holder = el("div", { class: "meter", role: "img", "aria-label": `${card.said}${decided ? `; known from ${from} on` : ""}` }, el("i", { style: `width:${100 * card.probability}%` }));
    if (decided) holder.append(el("b", { style: `left:${100 * bar}%` }), el("span", { style: `left:${Math.min(85, Math.max(15, 100 * bar))}%` }, `known from ${from}`));
    return holder;
  }
  function parts(card) {
    const rows = card.parts.filter((one) => one.contribution !== null);
    if (!rows.length) return null;
    const total = rows.reduce((sum, one) => sum + one.contribution, 0);
    return el("table", { class: "parts" }, el("thead", {}, el("tr", {}, ...["looked at", "measured", "adds to the score"].map((name, at) => el("th", { class: at ? "n" : null, scope: "col" }, name)))),
      el("tbody", {}, ...rows.map((one) => el("tr", {}, el("th", { scope: "row" }, one.method), el("td", { class: "n" }, short(one.raw)), el("td", { class: "n" }, short(one.contribution)))),
        el("tr", {}, el("th", { scope: "row" }, "score"), el("td"), el("td", { class: "n" }, el("b", {}, short(total))))));
  }
  function cardPanel(card) {
    return el("section", { class: "panel why", "aria-label": "Why this answer" }, el("h2", {}, "Why this answer"),
      card.probability === null ? null : meter(card),
      el("ul", {}, ...card.sentences.map((one) => el("li", {}, one))), parts(card),
      card.warnings.length ? el("ul", { class: "doubt", "aria-label": "Reasons to doubt" }, ...card.warnings.map((one) => el("li", {}, one))) : null);
  }

  function animalCard(one) {
    const { chunk, entry } = now;
    const thumbs = one.images.map((at) => {
      const shot = photo(chunk, at), [rank, score, p] = entry.ranks[at] || [null, null, null];
      const weak = one.reason ? "" : [one.own_visit.includes(at) ? "same encounter" : "", one.other_side.includes(at) ? "other side" : ""].filter(Boolean).join(", ");
      const number = p !== null ? p : score !== null ? `score ${short(score)}` : "";
      return el("button", { type: "button", "data-photo": at, "aria-pressed": String(now.chosen === at), title: shot.id, on: { click: () => choose(at) } },
        shot.key ? el("img", { src: file(shot, "t"), alt: `${shot.animal || "animal"}, ${rank === null ? "implausible" : `match ${rank}`}`, loading: "lazy" }) : el("span", { class: "noimage" }, "no picture"),
        el("span", {}, one.reason ? [one.would_be[at] === null ? "not matched" : `would be #${one.would_be[at]}`] : [`#${rank}`, number].filter(Boolean).join(" · ")), el("span", {}, about(shot) || "no date or place"), weak ? el("span", { class: "weak" }, weak) : null);
    });
    return el("li", { class: `animal${one.own === true ? " own" : ""}` },
      el("header", {}, el("span", { class: "rank" }, one.place ? `${one.place}.` : one.reason ? "" : "further down:"), el("h3", {}, el("bdi", {}, one.name || "animal not known")),
        one.chance === null ? null : el("span", { class: "p" }, one.chance),
        one.reason ? el("span", { class: "weak" }, one.reason) : null,
        one.own === true ? el("span", { class: "badge right" }, "✓ the animal itself") : null),
      el("div", { class: "thumbs" }, ...thumbs));
  }

  function implausible(entry) {
    if (!entry.implausible.length) return [];
    return [el("h2", {}, "Implausible"), el("p", { class: "note screen" }, "Among the nearest by their looks, but ranked below all others, for the reason given (benchmark.gate)."), el("ol", { class: "animals" }, ...entry.implausible.map(animalCard))];
  }

  function choose(at) {
    now.chosen = at;
    refresh();
    for (const button of now.holder.querySelectorAll(".thumbs button")) button.setAttribute("aria-pressed", String(Number(button.dataset.photo) === at));
    if (now.figure.getBoundingClientRect().top < 0) now.figure.scrollIntoView({ block: "start" });
  }
  function refresh(focus) {
    const fresh = viewer();
    now.figure.replaceWith(fresh);
    now.figure = fresh;
    if (focus) document.getElementById(focus)?.focus();
  }

  function heading(i, entry) {
    const kind = exreid.outcome(i), { decision, said } = entry.card, truth = exreid.animal("truth", i);
    const right = { right: decision === "new" ? `It is ${truth}, a known animal, but it was counted as new.` : `It is ${truth}.`,
      wrong: `It is ${truth}${entry.first_rank ? `, whose best photograph is match ${entry.first_rank}` : ""}.`,
      new: decision === "known" ? `It is ${truth}, an animal that the gallery does not have, taken for a known one.` : `It is ${truth}, an animal that the gallery does not have.`, open: "" }[kind];
    const verdict = kind === "new" ? (decision === "known" ? "wrong" : decision === "new" ? "right" : "new") : kind === "right" && decision === "new" ? "wrong" : exreid.sign(i);
    const badges = [kind === "open" ? null : el("span", { class: `badge ${kind}` }, `${exreid.MARKS[kind]} ${exreid.WORDS[kind]}`), decision && kind !== "open" ? el("span", { class: "badge known" }, `counted as ${decision}`) : null,
      verdict !== exreid.sign(i) && kind !== "open" ? el("span", { class: `badge ${verdict}` }, `${exreid.MARKS[verdict]} ${verdict === "right" ? "right decision" : "wrong decision"}`) : null];
    return el("div", { class: "answer" }, el("h1", {}, el("span", { class: `mark ${verdict}`, "aria-hidden": "true" }, exreid.MARKS[verdict]), el("bdi", {}, said)), ...badges, el("p", { class: "truth" }, right));
  }

  exreid.detail = (holder, chunk, entry, i) => {
    now = { holder, chunk, entry, i, chosen: entry.animals.length ? entry.animals[0].images[0] : null };
    const at = exreid.shown.indexOf(i), id = exreid.index.id[i];
    document.title = `${entry.card.said} · ${id}`;
    now.figure = viewer();
    const move = (change, label, sign) => el("button", { type: "button", disabled: exreid.neighbour(change) === null, title: sign, on: { click: () => exreid.step(change) } }, label);
    holder.replaceChildren(
      el("div", { class: "steps" }, el("button", { type: "button", title: "Esc", on: { click: exreid.back } }, "All photographs"), move(-1, "← Previous", "left arrow"), move(1, "Next →", "right arrow"),
        el("span", { class: "place" }, at === -1 ? "" : `${(at + 1).toLocaleString("en")} of ${exreid.shown.length.toLocaleString("en")}`)),
      heading(i, entry),
      el("div", { class: "columns" },
        el("div", {}, now.figure, el("section", { class: "block near" }, el("h2", {}, "The nearest animals"), el("p", { class: "note screen" }, "By their best photograph. Choose a photograph to compare it above."), el("ol", { class: "animals" }, ...entry.animals.map(animalCard)), ...implausible(entry))),
        el("div", { class: "side" }, cardPanel(entry.card), el("section", { class: "panel about" }, el("h2", {}, "About this photograph"), el("dl", { class: "facts query-details" }, ...[["file", id], ...entry.details].map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("bdi", {}, value)))))))));
    scrollTo(0, 0);
    holder.focus({ preventScroll: true });
  };
  exreid.key = (key) => {
    if (!now) return;
    if (key === "m") view.lines = !view.lines; else if (key === "h") view.heat = !view.heat; else return;
    refresh();
  };
  narrow.addEventListener("change", () => { if (now && !now.holder.hidden) refresh(); });
})();
