// A review from disk, without a server: the questions are fixed, the answers stay in this browser,
// and are handed out as a file of decisions.
"use strict";
(() => {
  const data = window.REVIEW, key = `exreid-review-${data.id}`;
  const kept = () => { try { return JSON.parse(localStorage.getItem(key)); } catch { return null; } };
  const state = kept() || { who: data.who, rows: [] };
  const keep = () => {
    try {
      localStorage.setItem(key, JSON.stringify(state));
      return "";
    } catch {
      return "This browser keeps nothing for pages from disk: save the answers before you close it.";
    }
  };

  // The rows that count, by their question: an undo takes back the latest.
  const standing = () => {
    const left = [];
    for (const row of state.rows) {
      if (row.verdict === "undo") left.pop();
      else left.push(row);
    }
    return left;
  };
  const answers = () => new Map(standing().map((row) => [row.question, row]));
  // An animal is named if the answers about its visits are those that its photographs were chosen by.
  const asked = (question, given) => question.kind === "pair" ||
    question.related.every((i) => given.has(i) && given.get(i).verdict === data.questions[i].expected);
  function following() {
    const given = answers();
    const at = data.questions.findIndex((question, i) => !given.has(i) && asked(question, given));
    const done = data.questions.filter((question, i) => given.has(i)).length;
    const common = { progress: [`${done} of ${data.questions.length}`, " questions"], undo: state.rows.length > 0 && standing().length > 0, told: [], called: [] };
    if (!state.who) return { ...common, kind: "name", title: "Who answers?", offered: "", names: [], photos: [], undo: false };
    if (at < 0) return { ...common, kind: "done", told: [`${done} answers by ${state.who}.`] };
    return { ...common, ...data.questions[at], number: at, matches: Boolean(data.questions[at].matched) };
  }

  const time = () => new Date().toISOString().replace("Z", "000+00:00");
  const free = (name, at) => {
    const given = standing().filter((row) => row.verdict === "name" && row.question !== at).map((row) => row.name);
    return ![...data.taken, ...given].some((other) => other.toLowerCase() === name.toLowerCase());
  };
  function answer(body) {
    const question = data.questions[body.number];
    if (!state.who) {
      state.who = body.name.trim();
      return state.who ? "" : "Give your name.";
    }
    if (!question) return "";
    const row = { question: body.number, who: state.who, when: time(), seconds: Math.min(body.seconds, 86400).toFixed(1) };
    if (question.kind === "pair") {
      const { first, second, purpose, shown, drawn } = question;
      state.rows.push({ ...row, first, second, verdict: body.verdict, probability: shown, purpose, drawn });
      return "";
    }
    const name = body.name.trim().replace(/\s+/g, " ").slice(0, 100);
    if (!name) return "Give the animal a name.";
    if (!free(name, body.number)) return `Another animal is called ${name}. If both are one, give this one another name, and join them later with exreid gallery merge.`;
    state.rows.push({ ...row, first: question.visits[0], verdict: "name", name, visits: question.visits });
    return "";
  }
  function undo() {
    const last = standing().at(-1);
    if (last) state.rows.push({ ...last, verdict: "undo", name: "", when: time(), seconds: "0.0", probability: "", purpose: "", drawn: "" });
  }

  const cell = (value) => {
    const text = String(value ?? "");
    const safe = /^'*[=+\-@\t\r]/.test(text) && !/^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/.test(text) ? `'${text}` : text;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  function file() {
    const rows = state.rows.flatMap((row) => (row.visits || [row.first]).map((first) => ({ ...row, first })));
    return [data.columns, ...rows.map((row) => data.columns.map((name) => row[name]))]
      .map((cells) => `${cells.map(cell).join(",")}\n`).join("");
  }
  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([file()], { type: "text/csv" }));
    link.download = `decisions-${(state.who || "").replace(/[^\p{L}\p{N}]+/gu, "-")}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  for (const button of document.querySelectorAll("[data-save]")) {
    button.hidden = false;
    button.addEventListener("click", save);
  }
  document.getElementById("next").textContent = data.next;
  // Only the photographs that are shown first were matched.
  const matches = (question, rows) => {
    const found = question.matched;
    if (rows.some((row, i) => row !== found.rows[i])) throw new Error("drawn for each visit's first photograph alone");
    if (found.error) throw new Error(found.error);
    return found;
  };
  window.offlineReview = {
    file,
    matches,
    ask: async (path, body) => {
      const said = { ...body, number: body && body.number };
      const error = path === "answer" ? answer(said) : path === "undo" ? undo() || "" : "";
      if (error) throw new Error(error);
      const lost = path === "question" ? "" : keep();
      return { ...following(), trouble: lost };
    },
  };
})();
