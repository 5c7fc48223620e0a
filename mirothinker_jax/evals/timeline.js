// When an episode's calls waited, ran and failed, and how long its context was: two drawings over the same view.

function drawTimeline(record, seen, show) {
  const box = h("div", { class: "timeline" });
  const made = record.calls_made.filter((call) => call[3] !== null && call[4] !== null);
  if (made.length) box.append(...drawCalls(record, made, show));
  if (seen.length > 1) box.append(...drawContext(record.unit, seen, show));
  return box;
}

function drawCalls(record, made, show) {
  const ends = made.map((call) => call[3] + call[4] + call[5]);
  const length = Math.max(...ends, ...record.turn_times.map(([, at]) => at), 0.001);
  const lanes = 1 + Math.max(...made.map((call) => call[1])), tall = 12;
  const x = (at) => (1000 * at) / length;
  const paths = { sampling: "", waiting: "", running: "", failing: "" };
  const bar = (kind, from, to, lane, height) => {
    paths[kind] += `M${x(from).toFixed(2)} ${lane * tall + 1}h${Math.max(0.6, x(to) - x(from)).toFixed(2)}v${height}H${x(from).toFixed(2)}z`;
  };
  let before = 0;
  const endOf = new Map();
  for (const call of made) endOf.set(call[0], Math.max(endOf.get(call[0]) ?? 0, call[3] + call[4] + call[5]));
  for (const [number, at] of record.turn_times) {
    if (at > before) bar("sampling", before, at, 0, lanes * tall - 2);
    before = Math.max(at, endOf.get(number) ?? 0);
  }
  for (const [, lane, , asked, waited, ran, failure] of made) {
    if (waited > 0) bar("waiting", asked, asked + waited, lane, tall - 2);
    bar(failure ? "failing" : "running", asked + waited, asked + waited + ran, lane, tall - 2);
  }
  const chart = svg("svg", { viewBox: `0 0 1000 ${lanes * tall}`, preserveAspectRatio: "none", style: `height: ${Math.max(28, 20 * Math.min(lanes, 8))}px`, role: "img",
    "aria-label": `Timeline of ${made.length} calls over ${seconds(length)}` });
  for (const [kind, path] of Object.entries(paths)) chart.append(svg("path", { class: kind, d: path }));
  const told = h("output", { class: "soft" }, "point at a call; a click goes to its turn");
  const nearest = (event) => {
    const frame = chart.getBoundingClientRect();
    const at = ((event.clientX - frame.left) / frame.width) * length, lane = Math.floor(((event.clientY - frame.top) / frame.height) * lanes);
    const away = (call) => Math.max(call[3] - at, at - call[3] - call[4] - call[5], 0) + (call[1] === lane ? 0 : length / 50);
    return made.reduce((best, call) => (away(call) < away(best) ? call : best));
  };
  chart.addEventListener("mousemove", (event) => {
    const [turn, , tool, asked, waited, ran, failure] = nearest(event);
    told.textContent = `turn ${turn + 1} · ${tool} · after ${seconds(asked)}: waited ${seconds(waited)}, ran ${seconds(ran)}${failure ? `, ${failure.replaceAll("_", " ")}` : ""}`;
  });
  chart.addEventListener("click", (event) => show(nearest(event)[0]));
  const sum = (place) => made.reduce((total, call) => total + call[place], 0);
  const key = (kind, text) => h("span", { class: `key ${kind}` }, text);
  const failed = made.filter((call) => call[6]);
  return [h("p", { class: "soft" }, `${seconds(length)} from first to last: `, key("sampling", "sampling"), key("waiting", `waiting, ${seconds(sum(4))}`), key("running", `running, ${seconds(sum(5))}`), key("failing", `failed, ${count(failed.length, "call")}`)), chart, told];
}

function drawContext(unit, seen, show) {
  const most = Math.max(...seen.map((turn) => turn.tokens), 1);
  const x = (number) => (1000 * number) / (seen.length - 1);
  const line = seen.map((turn, number) => `${x(number).toFixed(1)} ${(100 - (96 * turn.tokens) / most).toFixed(1)}`).join("L");
  const chart = svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", style: "height: 48px", role: "img", "aria-label": `Length of the context, turn by turn, up to ${count(most, unit)}` });
  chart.append(svg("path", { class: "context", d: `M0 100L${line}L1000 100z` }));
  chart.addEventListener("click", (event) => {
    const frame = chart.getBoundingClientRect();
    show(Math.round(((event.clientX - frame.left) / frame.width) * (seen.length - 1)));
  });
  return [h("p", { class: "soft" }, `Context of each turn: up to ${count(most, unit)}`), chart];
}
