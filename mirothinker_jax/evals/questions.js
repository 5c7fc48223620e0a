// The table of an evaluation's questions: filter, sort, search, and an episode under each that is opened.

const PAGE_ROWS = 100;

async function drawQuestions(root) {
  const { questions, episodes, runs, unit } = await readChunk("index");
  for (const question of questions) question.episodes = [];
  for (const episode of episodes) questions[episode.question].episodes.push(episode);
  for (const question of questions) question.episodes.sort((a, b) => a.run - b.run);
  const shown = { verdict: "all", run: "", stop: "", text: "", by: "order", down: false, most: PAGE_ROWS };
  const counted = (q) => (shown.run === "" ? q.episodes : q.episodes.filter((e) => runs[e.run] === shown.run));
  const mean = (list, value) => (list.length ? list.reduce((sum, e) => sum + value(e), 0) / list.length : 0);
  const right = (q) => {
    const judged = counted(q).filter((e) => e.correct !== null);
    return judged.length ? mean(judged, (e) => Number(e.correct)) : -1;
  };
  const TESTS = {
    all: () => true,
    right: (q) => right(q) === 1,
    wrong: (q) => counted(q).some((e) => e.correct === false),
    mixed: (q) => right(q) > 0 && right(q) < 1,
    unjudged: (q) => counted(q).some((e) => e.correct === null),
  };
  const LABELS = { all: "all", right: "right", wrong: "wrong", mixed: "now right, now wrong", unjudged: "not judged" };
  const COLUMNS = {
    order: ["#", (q) => q.order],
    question: ["question", (q) => q.question],
    right: ["right", right],
    calls: ["calls", (q) => mean(counted(q), (e) => e.calls)],
    failed: ["failed calls", (q) => mean(counted(q), (e) => e.failed)],
    tokens: [`${unit}s`, (q) => mean(counted(q), (e) => e.tokens)],
    stop: ["ended", (q) => [...new Set(counted(q).map((e) => e.stop))].join(", ")],
  };
  const matches = (q) => {
    const needle = shown.text.toLowerCase();
    return counted(q).length && (shown.stop === "" || counted(q).some((e) => e.stop === shown.stop)) &&
      (!needle || [q.id, q.question, q.expected, ...counted(q).map((e) => e.answer ?? "")].some((text) => text.toLowerCase().includes(needle)));
  };

  const body = h("tbody"), told = h("output", { class: "soft" }), more = h("button", { type: "button", onclick: () => draw(shown.most + PAGE_ROWS) }, "show more");
  const chips = Object.keys(TESTS).map((name) => h("button", { type: "button", "data-verdict": name, onclick: () => change({ verdict: name }) }));
  const heads = Object.entries(COLUMNS).map(([name, [title]]) =>
    h("th", { scope: "col", class: name === "question" || name === "stop" ? null : "n" }, h("button", { type: "button", onclick: () => change({ by: name, down: shown.by === name ? !shown.down : name !== "order" && name !== "question" && name !== "stop" }) }, title)));
  const options = (values, all) => [h("option", { value: "" }, all), ...values.map((value) => h("option", { value }, value.replaceAll("_", " ")))];
  const run = h("select", { "aria-label": "run", onchange: () => change({ run: run.value }) }, ...options(runs, "all runs"));
  const stop = h("select", { "aria-label": "ended", onchange: () => change({ stop: stop.value }) }, ...options([...new Set(episodes.map((e) => e.stop))].sort(), "ended in any way"));
  const search = h("input", { type: "search", placeholder: "search questions and answers", "aria-label": "search", oninput: () => change({ text: search.value }) });

  function change(what) {
    Object.assign(shown, what);
    draw(PAGE_ROWS);
  }

  function draw(most) {
    shown.most = most;
    const found = questions.filter(matches);
    for (const chip of chips) {
      const name = chip.dataset.verdict;
      chip.textContent = `${LABELS[name]} ${found.filter(TESTS[name]).length}`;
      chip.setAttribute("aria-pressed", String(name === shown.verdict));
    }
    const value = COLUMNS[shown.by][1];
    const rows = found.filter(TESTS[shown.verdict]).map((q) => [value(q), q]);
    rows.sort(([a, p], [b, q]) => (typeof a === "string" ? a.localeCompare(b) : a - b) * (shown.down ? -1 : 1) || p.order - q.order);
    heads.forEach((head, i) => head.setAttribute("aria-sort", Object.keys(COLUMNS)[i] === shown.by ? (shown.down ? "descending" : "ascending") : "none"));
    body.replaceChildren(...rows.slice(0, most).map(([, q]) => row(q)));
    told.textContent = `${count(rows.length, "question")}${rows.length > most ? `, the first ${most} shown` : ""}`;
    more.hidden = rows.length <= most;
  }

  function row(q) {
    const list = counted(q), share = right(q);
    const marks = list.map((e) => h("button", { type: "button", class: `mark ${verdict(e.correct)}`, title: `run ${runs[e.run]}: ${VERDICTS[verdict(e.correct)]}, answered ${e.answer ?? "nothing"}`, "aria-label": `run ${runs[e.run]}: ${verdict(e.correct)}`, "data-open": e.name, onclick: () => open(line, e) }, VERDICTS[verdict(e.correct)][0]));
    const line = h("tr", {},
      h("td", { class: "n" }, String(q.order + 1)),
      h("td", { class: "wrap" }, h("button", { type: "button", class: "asked", "data-open": list[0].name, onclick: () => open(line, list[0]) }, q.question), h("span", { class: "soft" }, `${q.id} · expected ${q.expected}`), h("span", { class: "marks" }, ...marks)),
      h("td", { class: "n" }, share < 0 ? "–" : `${Math.round(100 * share)}%`),
      ...["calls", "failed", "tokens"].map((name) => h("td", { class: "n" }, count(Number(COLUMNS[name][1](q).toFixed(name === "tokens" ? 0 : 1)), ""))),
      h("td", {}, COLUMNS.stop[1](q).replaceAll("_", " ")));
    return line;
  }

  async function open(line, episode) {
    const there = line.nextElementSibling?.classList.contains("opened") ? line.nextElementSibling : null;
    there?.remove();
    if (there?.dataset.episode === episode.name) return;
    const place = h("div");
    const cell = h("td", { colspan: heads.length }, h("p", { class: "soft" }, `run ${runs[episode.run] || "–"} · episode ${episode.id}`, h("button", { type: "button", onclick: () => line.nextElementSibling.remove() }, "close")), place);
    line.after(h("tr", { class: "opened", "data-episode": episode.name }, cell));
    history.replaceState(null, "", `#${episode.name}`);
    if (document.getElementById(`episode-${episode.name}`)) await openEpisode(place, episode.name);
    else place.append(h("p", {}, "This episode is not in the page, which would be too large with all of them; the note at its end says how to see it."));
  }

  root.replaceChildren(
    h("div", { class: "controls" }, search, run, stop, h("div", { class: "chips", role: "group", "aria-label": "verdict" }, ...chips)), told,
    h("div", { class: "scroll" }, h("table", { class: "questions" }, h("thead", {}, h("tr", {}, ...heads)), body)), more);
  draw(PAGE_ROWS);
  const wanted = location.hash.slice(1);
  const episode = wanted && episodes.find((e) => e.name === wanted);
  if (episode) {
    const q = questions[episode.question];
    shown.by = "order";
    if (q.order >= shown.most) draw(q.order + 1);
    await open(body.querySelector(`[data-open="${episode.name}"]`).closest("tr"), episode);
  }
}

drawQuestions(document.getElementById("questions"));
