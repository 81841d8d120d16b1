// The chart: lines by uPlot over the decimal logarithm of the rate, marks over them, zoom, and a cursor.

// A run as the page holds it: the arrays decoded, the line's smoothing still to be set.
function openedRun(run, index) {
  const loss = decoded(run.loss, Float64Array);
  return Object.assign({}, run, {
    x: decoded(run.log10_lr, Float32Array),
    loss,
    smoothed: new Float64Array(loss.length),
    corrected: decoded(run.corrected, Float32Array),
    read: decoded(run.read, Float32Array),
    validation: decoded(run.validation, Float32Array),
    kept: decoded(run.kept, Int32Array), // of a long run, which of its points these are
    colour: RUN_COLOURS[index % RUN_COLOURS.length],
    dash: RUN_DASHES[index % RUN_DASHES.length],
    glyph: RUN_GLYPHS[index % RUN_GLYPHS.length],
  });
}

class SweepChart {
  // state: {beta, layers: Set, rules: Set, runs: Set of indices}; onMove(x) is told where the cursor is, null if nowhere.
  constructor(element, runs, state, onMove) {
    Object.assign(this, { element, runs, state, onMove, several: runs.length > 1 });
    this.places = this.placed();
    this.everything = this.whole();
    this.view = { ...this.everything };
    this.smooth();
    this.plot = new uPlot(this.options(), this.columns(), element);
    this.onPaper = false; // where the screen's width is not to be followed
    new ResizeObserver(() => this.onPaper || this.fit()).observe(element);
  }

  // All rates of all runs in one rising array, and the place of each run's points in it.
  placed() {
    const races = this.runs.map((run) => (run.race ? run.race.runs.filter(({ lr }) => lr !== null) : []));
    const raceXs = races.map((all) => all.map(({ lr }) => Math.log10(lr)));
    const all = new Set(raceXs.flat());
    for (const run of this.runs) run.x.forEach((x) => all.add(x));
    this.xs = Float64Array.from(all).sort();
    const at = new Map();
    this.xs.forEach((x, i) => at.set(x, i));
    races.forEach((each, i) => {
      this.runs[i].raceColumn = this.column(raceXs[i].map((x) => at.get(x)), each.map(({ loss }) => loss), 0, each.length);
    });
    return this.runs.map((run) => Array.from(run.x, (x) => at.get(x)));
  }

  // Values from index start to end at their places; undefined elsewhere, which is no gap to uPlot, where null is one.
  column(places, values, start, end) {
    const result = new Array(this.xs.length);
    for (let i = start; i < end; i++) {
      const value = values[i];
      result[places[i]] = Number.isFinite(value) ? value : undefined;
    }
    return result;
  }

  whole() {
    const covered = (limits, otherwise) => {
      const there = limits.filter((pair) => pair !== null && pair !== undefined && !pair.includes(null));
      if (!there.length) return otherwise;
      return [Math.min(...there.map((pair) => pair[0])), Math.max(...there.map((pair) => pair[1]))];
    };
    const ends = this.xs.length ? [this.xs[0], this.xs[this.xs.length - 1]] : [-8, 1];
    const margin = 0.02 * (ends[1] - ends[0]) || 0.5;
    const raced = covered(this.runs.map((run) => run.race && run.race.limits), [0, 1]);
    const room = 0.04 * (raced[1] - raced[0]) * this.several; // for the marks of one that is alone at an end
    return {
      x: [ends[0] - margin, ends[1] + margin],
      loss: covered(this.runs.map((run) => run.limits), [0, 1]),
      race: [raced[0] - room, raced[1] + room],
    };
  }

  smooth() {
    const { beta } = this.state;
    for (const run of this.runs) {
      run.smoothed = run.averages
        ? decoded(run.averages[run.betas.indexOf(beta)], Float32Array)
        : biasCorrected(run.loss, beta);
    }
  }

  columns() {
    return [this.xs, ...this.runs.flatMap((run, i) => {
      const places = this.places[i];
      return [
        this.column(places, run.loss, 0, run.usable),
        run.corrected ? this.column(places, run.corrected, 0, run.usable) : [],
        run.validation ? this.column(places, run.validation, 0, run.usable) : [],
        run.raceColumn,
        this.column(places, run.smoothed, run.start, run.end),
        run.read ? this.column(places, run.read, 0, run.usable) : [],
      ];
    })];
  }

  // Which layer each column after the first belongs to, run by run.
  static LAYERS = ["raw", "corrected", "validation", "race", "smoothed", "read"];

  shows(index) {
    const { LAYERS } = SweepChart;
    const layer = LAYERS[index % LAYERS.length];
    return this.state.runs.has(Math.floor(index / LAYERS.length)) && this.state.layers.has(layer);
  }

  series() {
    return [{}, ...this.runs.flatMap((run) => {
      const own = (single) => () => colour(this.several ? run.colour : single);
      const none = { show: false };
      const dash = this.several ? run.dash : [];
      return [
        { paths: () => null, points: { show: true, size: 4, width: 0, fill: own("--line"), stroke: own("--line") }, alpha: 0.45 },
        { stroke: own("--grey"), width: 1, points: none, alpha: 0.8 },
        { stroke: own("--green"), width: 1.5, dash: [8, 4], points: { show: true, size: 5, fill: own("--green") } },
        { stroke: own("--pink"), width: 1.2, dash: [2, 3], points: none, scale: "race" },
        { stroke: own("--line"), width: run.read ? 1.2 : 2, dash, points: none },
        { stroke: own("--line"), width: this.several ? 2 : 3, dash, points: none },
      ];
    }).map((each, i) => ({ scale: "loss", show: this.shows(i), ...each }))];
  }

  options() {
    const axis = {
      stroke: () => colour("--soft"),
      grid: { stroke: () => colour("--edge"), width: 0.7 },
      ticks: { stroke: () => colour("--edge"), width: 0.7, size: 5 },
      font: "12px system-ui, sans-serif",
      labelFont: "13px system-ui, sans-serif",
      labelSize: 22,
    };
    const widest = (_, values) => 16 + 7 * Math.max(3, ...(values || []).map((text) => String(text).length));
    const range = (_, low, high, key) => this.view[key];
    const written = (_, splits) => splits.map((value) => brief(value));
    const raced = this.runs.find((run) => run.race !== null);
    return {
      ...this.size(),
      legend: { show: false },
      scales: { x: { time: false, range }, loss: { range }, race: { range } },
      series: this.series(),
      axes: [
        {
          ...axis,
          label: "learning rate (log scale)",
          size: 30,
          splits: (chart, _, low, high) => decadeTicks(low, high, Math.max(chart.bbox.width / uPlot.pxRatio / 75, 3)),
          values: (_, splits) => splits.map(tickText),
        },
        { ...axis, scale: "loss", label: "loss", values: written, size: widest },
        {
          ...axis,
          scale: "race",
          side: 1,
          show: raced !== undefined,
          label: this.several || !raced ? "loss of the race" : raced.race.label,
          grid: { show: false },
          values: written,
          size: widest,
          stroke: () => colour(this.several ? "--soft" : "--pink"),
        },
      ],
      cursor: {
        y: false,
        drag: { x: true, y: true, uni: 30, setScale: false },
        bind: { dblclick: () => () => this.zoomAll() },
        dataIdx: (chart, index) => this.hovered(index),
        points: { size: 9, fill: (chart, i) => chart.series[i].stroke(), width: 0 },
      },
      hooks: {
        drawAxes: [(chart) => this.inside(chart, () => this.drawUnder(chart))],
        draw: [(chart) => this.inside(chart, () => this.drawOver(chart))],
        setSelect: [(chart) => this.zoomTo(chart.select)],
        setCursor: [(chart) => this.onMove(chart.cursor.left < 0 ? null : chart.posToVal(chart.cursor.left, "x"))],
      },
    };
  }

  // The point of a smoothed line under the cursor; the other columns show none.
  hovered(index) {
    const { LAYERS } = SweepChart;
    const run = Math.floor((index - 1) / LAYERS.length);
    if (index === 0 || LAYERS[(index - 1) % LAYERS.length] !== "smoothed" || !this.runs[run].x.length) return null;
    return this.places[run][nearest(this.runs[run].x, this.plot.posToVal(this.plot.cursor.left, "x"))];
  }

  seen() {
    return this.runs.filter((_, i) => this.state.runs.has(i));
  }

  // Draws, but not beyond the axes.
  inside({ ctx, bbox }, draw) {
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    draw();
    ctx.restore();
  }

  drawUnder(chart) {
    drawIntervals(chart, this.seen(), this.several);
    if (this.state.layers.has("read") && !this.several) this.runs.forEach((run) => run.read && drawDip(chart, run));
  }

  drawOver(chart) {
    if (this.state.layers.has("race")) drawRace(chart, this.seen(), this.several);
    drawMarks(chart, this.seen(), this.several, this.state.rules, this.state.layers);
  }

  size() {
    const width = this.element.clientWidth || 700;
    return { width, height: Math.round(Math.min(Math.max(width * 0.5, 300), 460)) };
  }

  fit(width) {
    const size = width ? { width, height: Math.round(width * 0.55) } : this.size();
    if (size.width !== this.plot.width || size.height !== this.plot.height) this.plot.setSize(size);
  }

  // After a change of the state.
  update() {
    this.smooth();
    this.plot.batch(() => {
      this.plot.setData(this.columns(), false);
      for (let i = 1; i < this.plot.series.length; i++) {
        if (this.plot.series[i].show !== this.shows(i - 1)) this.plot.setSeries(i, { show: this.shows(i - 1) });
      }
    });
    this.plot.redraw();
  }

  look(view) {
    Object.assign(this.view, view);
    this.plot.batch(() => {
      for (const [key, [min, max]] of Object.entries(this.view)) this.plot.setScale(key, { min, max });
    });
  }

  zoomAll() {
    this.look(this.everything);
  }

  zoomTo({ left, top, width, height }) {
    if (width < 4 && height < 4) return;
    const chart = this.plot;
    const between = (key, from, to) => [chart.posToVal(from, key), chart.posToVal(to, key)];
    this.look({
      x: between("x", left, left + width),
      loss: between("loss", top + height, top),
      race: between("race", top + height, top),
    });
    chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  // By a factor around a place; else around the suggestion, or the middle of what is seen.
  zoomBy(factor, around = null) {
    const [low, high] = this.view.x;
    const [first, last] = this.everything.x;
    const suggested = this.seen().map((run) => (run.suggestion && run.suggestion.lr ? Math.log10(run.suggestion.lr) : NaN));
    const centre = [around, ...suggested].find((x) => x !== null && x > low && x < high) ?? (low + high) / 2;
    const span = Math.min(Math.max((high - low) * factor, 1e-3), last - first);
    const start = centre - ((centre - low) / (high - low)) * span;
    this.lookFrom(start, span);
  }

  lookFrom(start, span) {
    const [first, last] = this.everything.x;
    const low = Math.min(Math.max(start, first), last - span);
    this.look({ x: [low, low + span] });
  }

  // Puts the cursor at a rate, and the rate into what is seen.
  pointAt(x) {
    const [low, high] = this.view.x;
    if (x < low || x > high) this.lookFrom(x - (high - low) / 2, high - low);
    this.plot.setCursor({ left: this.plot.valToPos(x, "x"), top: 10 });
  }
}
