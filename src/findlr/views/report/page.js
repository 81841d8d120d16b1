// Puts the page together.

const LAYERS = {
  read: ["━", "--line", "what the rule reads"],
  smoothed: ["─", "--line", "smoothed loss"],
  raw: ["●", "--line", "raw loss"],
  corrected: ["─", "--grey", "raw loss less batch differences"],
  validation: ["╌", "--green", "validation loss"],
  race: ["◆", "--pink", "short runs of the race, on the right axis"],
  signs: ["▲", "--line", "what the suggestion is made of"],
};

function present(runs) {
  const several = runs.length > 1;
  const there = {
    read: runs.every((run) => run.read),
    smoothed: true,
    raw: true,
    corrected: runs.some((run) => run.corrected),
    validation: runs.some((run) => run.validation),
    race: runs.some((run) => run.race),
    signs: !several && runs[0].signs.length > 0,
  };
  const names = Object.keys(LAYERS).filter((name) => there[name]);
  const off = ["raw", "corrected", ...(there.read ? ["smoothed"] : [])]; // of several: one line each
  const on = names.filter((name) => !several || !off.includes(name));
  return [names, new Set(on)];
}

function start() {
  const find = (id) => document.getElementById(id);
  const runs = JSON.parse(find("data").textContent).map(openedRun);
  const several = runs.length > 1;
  const title = several ? `${runs.length} runs` : runs[0].message || `Learning rate ${rateOf(runs[0])}`;
  find("title").textContent = title;
  document.title = several ? `${title} - findlr` : `${named(runs[0], title)} - findlr`;

  const { betas } = runs[0];
  const [names, layers] = present(runs);
  const state = { beta: runs[0].smoothing, layers, rules: new Set(), runs: new Set(runs.keys()) };
  const readout = new Readout(find("readout"), runs);
  const element = find("chart");
  let cursor = null;
  const chart = new SweepChart(element, runs, state, (x) => {
    cursor = x;
    readout.show(x, state.runs);
  });
  const told = runs.map((run) => named(run, run.message || `suggested ${rateOf(run)}`)).join("; ");
  element.setAttribute("aria-label", `Loss against learning rate. ${told}`);

  const redrawPoints = buildPoints(find("points"), runs, readout);
  const update = () => {
    chart.update();
    readout.show(cursor, state.runs);
    redrawPoints();
  };
  const put = (set) => (key, on) => {
    if (on) set.add(key);
    else set.delete(key);
    update();
  };
  buildSummary(find("summary"), runs, put(state.runs));
  buildRules(find("rules"), runs, state.rules, put(state.rules));
  for (const name of names) {
    const [sign, tint, text] = LAYERS[name];
    const label = name === "signs" ? signTexts(runs[0]) : [several ? "" : glyph(sign, tint), text];
    find("layers").append(checkbox(layers.has(name), (on) => put(layers)(name, on), ...label));
  }
  buildRace(find("race"), runs);
  buildCode(find("code"), runs);
  buildFacts(find("facts"), runs);

  const slider = find("beta");
  const tell = () => {
    find("beta-value").textContent = String(state.beta);
    slider.setAttribute("aria-valuetext", String(state.beta));
  };
  slider.max = String(betas.length - 1);
  slider.value = String(betas.indexOf(state.beta));
  slider.addEventListener("input", () => {
    state.beta = betas[Number(slider.value)];
    tell();
    update();
  });
  tell();

  find("zoom-in").addEventListener("click", () => chart.zoomBy(0.5));
  find("zoom-out").addEventListener("click", () => chart.zoomBy(2));
  find("zoom-all").addEventListener("click", () => chart.zoomAll());
  element.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // a wheel alone scrolls the page
    event.preventDefault();
    chart.zoomBy(event.deltaY < 0 ? 0.8 : 1.25, cursor);
  }, { passive: false });
  listenToKeys(element, chart, runs, state, (run, i) => { find("spoken").textContent = readout.spoken(run, i); });
  listenToPaper(chart);
  window.findlrChart = chart; // for whoever looks closer, in the browser's console
}

// The keyboard's cursor: from point to point of the first run that is shown.
function listenToKeys(element, chart, runs, state, speak) {
  const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity };
  const zooms = { "+": (x) => chart.zoomBy(0.5, x), "=": (x) => chart.zoomBy(0.5, x), "-": (x) => chart.zoomBy(2, x), 0: () => chart.zoomAll() };
  let at = null;
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const run = runs.find((each, i) => state.runs.has(i) && each.x.length > 0);
    if (event.key in zooms) {
      const here = at === null || !run ? null : run.x[Math.min(at, run.x.length - 1)];
      zooms[event.key](here);
      if (here !== null) chart.pointAt(here);
    } else if (event.key in moves && run) {
      const begin = run.suggestion && run.suggestion.lr ? nearest(run.x, Math.log10(run.suggestion.lr)) : run.start;
      at = Math.min(Math.max((at === null ? begin : Math.min(at, run.x.length - 1)) + moves[event.key], 0), run.x.length - 1);
      chart.pointAt(run.x[at]);
      speak(run, at);
    } else return;
    event.preventDefault();
  });
}

// Paper is white, and narrower than most screens.
function listenToPaper(chart) {
  const root = document.documentElement;
  const redraw = () => chart.plot.redraw(false);
  let closed = [];
  window.addEventListener("beforeprint", () => {
    root.classList.add("printing");
    closed = [...document.querySelectorAll("#facts details:not([open])")];
    for (const each of closed) each.open = true;
    chart.onPaper = true;
    chart.fit(Math.min(660, chart.plot.width));
    redraw();
  });
  window.addEventListener("afterprint", () => {
    root.classList.remove("printing");
    for (const each of closed) each.open = false;
    chart.onPaper = false;
    chart.fit();
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

start();
