// An episode as a person reads it, drawn from a record that is in the page (evals/episodes.py says what is in it).
// All text goes in as text: no string of a record is ever taken for markup.
"use strict";

// Characters that turn text around, or that nobody sees, by their number: a reader must see what a model was shown.
const UNSEEN = /[\0-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;
const visible = (text) => text.replace(UNSEEN, (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

const h = (tag, props = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null).map((child) => (typeof child === "string" ? visible(child) : child)));
  return node;
};
const svg = (tag, props) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  return node;
};

async function readChunk(id) {
  const letters = atob(document.getElementById(id).textContent.trim());
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).json();
}

const count = (n, word) => `${n.toLocaleString("en").replaceAll(",", " ")} ${word}${n === 1 || !word ? "" : "s"}`;
const seconds = (s) => (s < 10 ? `${s.toFixed(2)} s` : s < 120 ? `${s.toFixed(0)} s` : `${(s / 60).toFixed(0)} min`);
const NAMES = { prompt: "prompt", think: "thought", call: "call", text: "said", answer: "answer", forged: "a result that it made up" };
const VERDICTS = { right: "✓ right", wrong: "✗ wrong", unjudged: "? not judged" };
const verdict = (correct) => (correct === null ? "unjudged" : correct ? "right" : "wrong");
const badge = (kind) => h("span", { class: `badge ${kind}` }, VERDICTS[kind]);

// What each turn was sampled in: counts for all turns, which only change by what the context changed.
function contexts(record) {
  const context = [], sum = { tokens: 0, full: 0, short: 0 };
  const weigh = (index, sign) => {
    const { tokens, source } = record.segments[index];
    sum.tokens += sign * tokens;
    if (source === "observation") sum.full += sign;
    if (source === "placeholder") sum.short += sign;
  };
  const hiddenFrom = new Map(); // observation → the first turn that saw its short form
  const turns = record.turns.map(([segment, kept, added, attempt], number) => {
    for (const index of context.splice(kept)) weigh(index, -1);
    for (const index of added) {
      weigh(index, 1);
      const hidden = record.segments[index].hides;
      if (hidden !== undefined && !hiddenFrom.has(hidden)) hiddenFrom.set(hidden, number);
    }
    context.push(...added);
    return { segment, attempt, ...sum };
  });
  return { turns, hiddenFrom };
}

// The segments that turn `number` saw: in full, and those whose short form stood there (→ that form).
function seenBy(record, number) {
  let context = [];
  for (const [, kept, added] of record.turns.slice(0, number + 1)) context.splice(kept, Infinity, ...added);
  const short = new Map(context.filter((i) => record.segments[i].hides !== undefined).map((i) => [record.segments[i].hides, i]));
  return { full: new Set(context), short };
}

function drawPart([kind, title, text, more], calls, state) {
  const who = h("span", { class: "who" }, NAMES[kind] ?? kind, title ? ` · ${title}` : "");
  let failed = false;
  if (kind === "call") {
    const made = calls?.get(state.call++);
    if (made) {
      failed = Boolean(made[6]);
      const told = [made[6]?.replaceAll("_", " "), made[7] && "from memory", made[8] && "cut", made[4] > 0.005 && `waited ${seconds(made[4])}`, made[5] > 0 && `ran ${seconds(made[5])}`];
      who.append(h("span", { class: failed ? "failed" : "soft" }, ` · ${told.filter(Boolean).join(", ")}`));
    } else if (title.startsWith("malformed")) failed = true;
  }
  const left = more ? h("span", { class: "soft" }, `… ${count(more, "more character")}`) : null;
  return h("div", { class: `part ${kind}${failed ? " broken" : ""}` }, who, h("pre", {}, text), left);
}

function drawPrompt(segment) {
  return segment.parts.map(([role, , text, more]) =>
    h("details", { class: "part prompt" }, h("summary", { class: "who" }, role === "user" ? "question, as it was asked" : role),
      h("pre", {}, text), more ? h("span", { class: "soft" }, `… ${count(more, "more character")}`) : null));
}

function drawTokens([said, logprobs], trained) {
  const low = Math.min(...logprobs);
  const mean = logprobs.reduce((a, b) => a + b, 0) / logprobs.length / 1000;
  const box = h("div", { class: "tokens" }, h("p", { class: "soft" },
    `${count(said.length, "token")}, ${trained}; log-probability in nats: mean ${mean.toFixed(3)}, lowest ${(low / 1000).toFixed(2)}. The darker, the less likely it was.`));
  said.forEach((text, i) => {
    const share = Math.min(1, -logprobs[i] / 5000);
    box.append(h("span", { style: `--unlikely: ${Math.round(100 * share)}%`, title: `${(logprobs[i] / 1000).toFixed(3)}` },
      typeof text === "number" ? `${text} ` : text.replaceAll("\n", "↵\n")));
  });
  return box;
}

// The whole view. `tokens`: the chunk that has them, or null.
function drawEpisode(record, tokens) {
  const { turns: seen, hiddenFrom } = contexts(record), items = [];
  const calls = new Map();
  for (const made of record.calls_made) {
    if (!calls.has(made[0])) calls.set(made[0], new Map());
    calls.get(made[0]).set(made[1], made);
  }
  const turnOf = new Map(seen.map((turn, number) => [turn.segment, number]));
  const last = seen.at(-1), ending = seenBy(record, seen.length - 1);
  const list = h("ol", { class: "segments" });
  let attempt = 0, results = 0;
  record.segments.forEach((segment, index) => {
    if (segment.source === "placeholder") return;
    const number = turnOf.get(index), turn = seen[number];
    const item = h("li", { class: `segment ${segment.source}`, "data-segment": index });
    if (turn) {
      if (turn.attempt !== attempt) list.append(h("li", { class: "again" }, `fresh start ${(attempt = turn.attempt)}`));
      const none = results - turn.full - turn.short;
      const saw = [`${turn.full} in full`, turn.short && `${turn.short} as placeholder`, none && `${none} not at all`];
      const taken = index !== last.segment && turn.attempt === last.attempt && !ending.full.has(index);
      item.append(h("div", { class: "turn" }, h("b", {}, `turn ${number + 1}`), ` ${count(segment.tokens, record.unit)} · results seen: ${results ? saw.filter(Boolean).join(", ") : "none yet"} · context ${count(turn.tokens, record.unit)}`,
        taken ? h("span", { class: "failed" }, " · taken back") : null,
        h("button", { type: "button", onclick: () => look(number) }, "what it saw"),
        tokens ? h("button", { type: "button", "aria-expanded": "false", onclick: (event) => toggleTokens(event.currentTarget, item, index) }, "tokens") : null));
    }
    const state = { call: 0 };
    if (segment.source === "prompt") item.append(...drawPrompt(segment));
    else if (segment.source === "policy") item.append(...segment.parts.map((part) => drawPart(part, calls.get(number), state)));
    else {
      results++;
      const from = hiddenFrom.get(index);
      segment.parts.forEach(([role, , text, more]) => item.append(h("div", { class: "part observation" },
        h("span", { class: "who" }, role === "tool" ? "result" : "asked for", ` · ${count(segment.tokens, record.unit)}`,
          from === undefined ? "" : ` · hidden from turn ${from + 1} on`),
        h("pre", { tabindex: "0" }, text), more ? h("span", { class: "soft" }, `… ${count(more, "more character")}`) : null)));
    }
    items.push([index, item]);
    list.append(item);
  });

  const slider = h("input", { type: "range", min: 0, max: seen.length, value: 0, "aria-label": "as which turn saw it", oninput: () => look(slider.valueAsNumber - 1, false) });
  const told = h("output", {}, "everything, as it happened");
  // Shows the episode as turn `number` saw it; −1: all of it.
  function look(number, jump = true) {
    const turn = seen[number], saw = turn && seenBy(record, number);
    slider.value = number + 1;
    told.textContent = turn ? `as turn ${number + 1} saw it` : "everything, as it happened";
    for (const [index, item] of items) {
      if (!turn) delete item.dataset.saw;
      else item.dataset.saw = index === turn.segment ? "itself" : saw.full.has(index) ? "full" : saw.short.has(index) ? "short" : index > turn.segment ? "later" : "none";
      if (saw?.short.has(index)) item.dataset.short = record.segments[saw.short.get(index)].parts.map((part) => part[2]).join(" ");
    }
    if (turn && jump) show(number);
  }
  const reveal = (item) => {
    item.scrollIntoView({ block: "center" });
    item.classList.add("found");
    setTimeout(() => item.classList.remove("found"), 1500);
  };
  const show = (number) => seen[number] && reveal(list.querySelector(`[data-segment="${seen[number].segment}"]`));
  let tokenRecord = null;
  async function toggleTokens(button, item, index) {
    const there = item.querySelector(".tokens");
    button.setAttribute("aria-expanded", String(!there));
    if (there) return there.remove();
    tokenRecord ??= await readChunk(tokens);
    button.parentElement.after(drawTokens(tokenRecord[index], "the ones that training learns from"));
  }
  // Looks in the record, not in the document, whose hidden parts the browser would have to lay out.
  let place = -1;
  function find(text) {
    const needle = text.toLowerCase(), n = items.length;
    if (!needle) return;
    const holds = (i) => record.segments[items[i][0]].parts.some((part) => part[1].toLowerCase().includes(needle) || part[2].toLowerCase().includes(needle));
    const found = [...Array(n).keys()].map((i) => (place + 1 + i) % n).find(holds);
    search.setCustomValidity(found === undefined ? "not in this episode" : "");
    search.reportValidity();
    if (found !== undefined) reveal(items[(place = found)][1]);
  }
  const search = h("input", { type: "search", placeholder: "find in this episode, Enter for the next", "aria-label": "find in this episode", oninput: () => search.setCustomValidity(""), onkeydown: (event) => event.key === "Enter" && find(search.value) });
  const jump = h("input", { type: "number", min: 1, max: seen.length, placeholder: "turn", "aria-label": "go to turn", onchange: () => show(jump.valueAsNumber - 1) });
  const only = h("select", { "aria-label": "what is shown", onchange: () => (list.dataset.only = only.value) },
    ...[["all", "thoughts, calls and results"], ["calls", "calls only"], ["think", "thoughts and calls"], ["failed", "failed calls only"]].map(([value, text]) => h("option", { value }, text)));
  const facts = [["expected", record.expected], ["answered", record.answer ?? "nothing"], ["calls", `${record.calls}${record.metrics.max_calls === undefined ? "" : ` of ${record.metrics.max_calls}`}`],
    ["failed", record.failed_calls], ["malformed", record.malformed_calls], ["ended", record.stop.replaceAll("_", " ")], [`${record.unit}s`, record.tokens], ["judged", record.reason]];
  return h("div", { class: `view is-${verdict(record.correct)}` },
    h("p", { class: "asked" }, badge(verdict(record.correct)), record.question),
    h("dl", { class: "facts" }, ...facts.filter(([, value]) => value !== "" && value !== 0).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, typeof value === "number" ? count(value, "") : value)))),
    drawTimeline(record, seen, show),
    h("div", { class: "controls" }, search, only, jump, seen.length ? h("label", {}, slider, told) : null),
    list);
}
