// The page of a review: shows a question, sends the answer, shows the next one.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const views = [...document.querySelectorAll(".view")];
  let question = null, since = 0, busy = false;

  const make = (tag, text) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const picture = (photo, size) => {
    const image = make("img");
    image.src = photo.src ? photo.src[size] || "data:," : `photo/${photo.row}/${size}`;
    image.alt = photo.name;
    image.draggable = false;
    return image;
  };

  // Zoom: the wheel, two fingers, + and -; a drag moves, a double click shows all again.
  function zoomable(glass) {
    const at = { scale: 1, x: 0, y: 0 };
    const fingers = new Map();
    const show = () => {
      const layer = glass.querySelector(".layer");
      const room = (side) => side * (1 - at.scale);
      at.x = Math.min(0, Math.max(room(glass.clientWidth), at.x));
      at.y = Math.min(0, Math.max(room(glass.clientHeight), at.y));
      if (layer) layer.style.transform = `translate(${at.x}px, ${at.y}px) scale(${at.scale})`;
    };
    const zoom = (factor, x, y) => {
      const scale = Math.min(12, Math.max(1, at.scale * factor));
      at.x = x - (x - at.x) * (scale / at.scale);
      at.y = y - (y - at.y) * (scale / at.scale);
      at.scale = scale;
      show();
    };
    const place = (event) => {
      const box = glass.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    glass.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 400), ...place(event));
    }, { passive: false });
    glass.addEventListener("pointerdown", (event) => {
      glass.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, place(event));
    });
    glass.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const now = place(event);
      const other = [...fingers].find(([id]) => id !== event.pointerId);
      if (other) {
        const [, [x, y]] = other;
        const far = (point) => Math.max(1, Math.hypot(point[0] - x, point[1] - y));
        zoom(far(now) / far(before), (now[0] + x) / 2, (now[1] + y) / 2);
      } else {
        at.x += now[0] - before[0];
        at.y += now[1] - before[1];
        show();
      }
      fingers.set(event.pointerId, now);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      glass.addEventListener(end, (event) => fingers.delete(event.pointerId));
    }
    const reset = () => { at.scale = 1; at.x = 0; at.y = 0; show(); };
    glass.addEventListener("dblclick", reset);
    return { reset, zoom: (factor) => zoom(factor, glass.clientWidth / 2, glass.clientHeight / 2) };
  }

  const panes = views.map((view) => {
    const glass = view.appendChild(make("div"));
    glass.className = "glass";
    const caption = view.appendChild(make("figcaption"));
    const strip = view.appendChild(make("div"));
    strip.className = "strip";
    const zoom = zoomable(glass);
    let photos = [], chosen = 0, animal = "";
    const choose = (place) => {
      chosen = (place + photos.length) % photos.length;
      const photo = photos[chosen], image = picture(photo, "p");
      image.addEventListener("error", () => {
        const missing = make("p", `${photo.name}: this photograph cannot be shown.`);
        missing.className = "missing";
        glass.replaceChildren(missing);
      });
      const layer = make("div");
      layer.className = "layer";
      layer.append(image);
      glass.replaceChildren(layer);
      zoom.reset();
      changed();
      const name = make("b", animal || photo.name.split("/").pop());
      const more = [animal && photo.name.split("/").pop(), photo.about, photos.length > 1 ? `${chosen + 1} of ${photos.length}` : ""];
      caption.replaceChildren(name, ...more.filter(Boolean).map((text) => ` · ${text}`));
      caption.title = photo.name;
      [...strip.children].forEach((button, i) => button.setAttribute("aria-pressed", i === chosen));
    };
    return {
      zoom,
      row: () => photos[chosen].row,
      next: () => choose(chosen + 1),
      draw: async (points) => {
        const image = glass.querySelector("img");
        for (const old of glass.querySelectorAll("svg")) old.remove();
        if (!image || !points.length) return;
        await image.decode().catch(() => {});
        const [width, height] = [image.naturalWidth, image.naturalHeight];
        const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
        const spots = (name, share, colour) => {
          const group = drawing.appendChild(document.createElementNS(drawing.namespaceURI, "g"));
          group.setAttribute("class", name);
          for (const [x, y, hue] of points) {
            const spot = group.appendChild(document.createElementNS(drawing.namespaceURI, "circle"));
            spot.setAttribute("cx", x * width);
            spot.setAttribute("cy", y * height);
            spot.setAttribute("r", Math.max(width, height) / share);
            colour(spot.style, hue);
          }
        };
        if (wanted.heat) spots("heat", 22, () => {});
        if (wanted.spots) spots("spots", 110, (style, hue) => { style.stroke = `hsl(${hue} 95% 58%)`; });
        image.after(drawing);
      },
      show: (side) => {
        photos = side.photos;
        animal = side.animal;
        strip.replaceChildren(...(photos.length > 1 ? photos : []).map((photo, i) => {
          const button = make("button");
          button.type = "button";
          button.append(picture(photo, "t"));
          button.addEventListener("click", () => choose(i));
          return button;
        }));
        choose(0);
      },
    };
  });

  // Matched keypoints of the two photographs that are shown: the same colour in both is one match.
  const wanted = { spots: false, heat: false }, buttons = { spots: byId("matches"), heat: byId("heat") };
  const label = buttons.spots.querySelector("span");
  let ready = true; // both photographs are there
  const drawn = () => ready && (wanted.spots || wanted.heat) && question && question.kind === "pair";
  function changed() {
    panes.forEach((pane) => pane.draw([]));
    label.textContent = "Matches";
    for (const kind in buttons) buttons[kind].setAttribute("aria-pressed", wanted[kind]);
    if (drawn()) drawMatches();
  }
  async function drawMatches() {
    const rows = panes.map((pane) => pane.row());
    label.textContent = "Matching …";
    try {
      const content = window.offlineReview ? window.offlineReview.matches(question, rows) : await fromServer(`matches/${rows.join("/")}`);
      if (!drawn() || panes.some((pane, i) => pane.row() !== rows[i])) return;
      const hues = content.matches.map((match) => Math.round(300 * match[0]) + Math.round(60 * match[1]));
      panes.forEach((pane, i) => pane.draw(content.matches.map((match, k) => [match[2 * i], match[2 * i + 1], hues[k]])));
      label.textContent = `${content.count} matched keypoints`;
    } catch (error) {
      label.textContent = `No matches: ${error.message}`;
    }
  }
  const toggle = (kind) => { wanted[kind] = !wanted[kind]; changed(); };
  for (const kind in buttons) buttons[kind].addEventListener("click", () => toggle(kind));

  function show(content) {
    question = content;
    since = performance.now();
    for (const kind of ["pair", "name", "done"]) byId(kind).hidden = content.kind !== kind;
    byId("answers").hidden = false;
    for (const kind in buttons) buttons[kind].hidden = !content.matches;
    const [short, more] = byId("progress").children;
    [short.textContent, more.textContent] = content.progress;
    const chance = content.kind === "pair" ? content.probability : null;
    const about = [chance === null ? "" : `exreid: ${Math.round(100 * chance)}% one animal`, content.hint];
    byId("engine").textContent = about.filter(Boolean).join(" · ");
    if (content.kind === "pair") {
      const known = content.sides.map((side) => side.animal).filter(Boolean);
      byId("asked").textContent = known.length === 1 ? `Is this ${known[0]}?` : "Is this one animal?";
      ready = false;
      content.sides.forEach((side, i) => panes[i].show(side));
      ready = true;
      changed();
    }
    if (content.kind === "name") {
      byId("title").textContent = content.title || "What is this animal called?";
      byId("why").textContent = content.names.length ? `Its photographs were called ${content.names.join(" and ")}: one name for one animal.` : "";
      byId("called").value = content.names[0] || content.offered;
      byId("sheet").replaceChildren(...content.photos.map((photo) => {
        const item = make("li"), card = item.appendChild(make("div"));
        card.className = "card";
        const line = make("span", photo.name.split("/").pop());
        line.className = "sub";
        card.append(picture(photo, "t"), line);
        return item;
      }));
      byId("called").focus();
      byId("called").select();
    }
    if (content.kind === "done") {
      byId("done-title").textContent = content.title || "Done";
      byId("told").replaceChildren(...content.told.map((text) => make("li", text)));
      byId("called-all").textContent = content.called.join(", ");
    }
    enable();
  }

  function enable() {
    for (const button of document.querySelectorAll("[data-verdict]")) {
      button.hidden = question.kind !== "pair";
      button.disabled = busy;
    }
    byId("undo").disabled = busy || !question.undo;
  }

  async function fromServer(path, body) {
    const response = await fetch(path, body && {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const text = await response.text();
    let content = null;
    try { content = JSON.parse(text); } catch { throw new Error(text || response.statusText); }
    if (content.error) throw new Error(content.error);
    return content;
  }
  const ask = window.offlineReview ? window.offlineReview.ask : fromServer;

  async function send(path, body) {
    if (busy) return;
    busy = true;
    if (question) enable();
    try {
      const content = await ask(path, body && { ...body, number: question.number, seconds: (performance.now() - since) / 1000 });
      byId("trouble").textContent = content.trouble || "";
      byId("trouble").hidden = !content.trouble;
      busy = false;
      show(content);
    } catch (error) {
      const lost = error instanceof TypeError;
      byId("trouble").textContent = lost ? "The command exreid review does not answer: is it still running? What you have answered is saved." : error.message;
      byId("trouble").hidden = false;
      busy = false;
      if (question) enable();
    }
  }

  const answer = (verdict) => question && question.kind === "pair" && send("answer", { verdict });
  const undo = () => question && question.undo && send("undo", {});
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", () => answer(button.dataset.verdict));
  }
  byId("undo").addEventListener("click", undo);
  byId("naming").addEventListener("submit", (event) => {
    event.preventDefault();
    send("answer", { name: byId("called").value });
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.tagName === "INPUT") return;
    const keys = {
      1: () => answer("same"), 2: () => answer("different"), 3: () => answer("can't tell"), z: undo,
      m: () => question.matches && toggle("spots"), h: () => question.matches && toggle("heat"),
      a: () => panes[0].next(), d: () => panes[1].next(),
      "+": () => panes.forEach((pane) => pane.zoom.zoom(1.5)),
      "-": () => panes.forEach((pane) => pane.zoom.zoom(1 / 1.5)),
      0: () => panes.forEach((pane) => pane.zoom.reset()),
    };
    const act = keys[event.key.toLowerCase()];
    if (act && question && (question.kind === "pair" || event.key.toLowerCase() === "z")) {
      event.preventDefault();
      act();
    }
  });
  send("question");
})();
