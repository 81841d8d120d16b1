// What is drawn over the lines: bands, marks, the stop point, the race's runs.

const RUN_COLOURS = ["--line", "--mark", "--green", "--pink", "--yellow", "--sky", "--grey"];
const RUN_DASHES = [[], [10, 3], [3, 2], [14, 3, 3, 3], [6, 2, 2, 2, 2, 2], [18, 6], [3, 6]];
const RUN_GLYPHS = ["●", "■", "▲", "◆", "▼", "✚", "✖"];
const RULES = {
  quick: ["●", "--mark"],
  article: ["■", "--green"],
  valley: ["▲", "--pink"],
  slide: ["◆", "--yellow"],
  steep: ["▼", "--grey"],
  minimum: ["✚", "--sky"],
};

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Corners of each shape, in a square from -1 to 1; a circle has none.
const SHAPES = {
  "■": [[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]],
  "▲": [[0, -1], [1, 0.8], [-1, 0.8]],
  "▼": [[0, 1], [1, -0.8], [-1, -0.8]],
  "◆": [[0, -1.15], [1.15, 0], [0, 1.15], [-1.15, 0]],
  "✚": [[-0.4, -1], [0.4, -1], [0.4, -0.4], [1, -0.4], [1, 0.4], [0.4, 0.4], [0.4, 1], [-0.4, 1], [-0.4, 0.4], [-1, 0.4],
    [-1, -0.4], [-0.4, -0.4]],
  "✖": [[-1, -0.5], [-0.5, -1], [0, -0.5], [0.5, -1], [1, -0.5], [0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5], [-0.5, 1], [-1, 0.5],
    [-0.5, 0]],
};

function drawShape(ctx, glyph, x, y, size, fill) {
  ctx.beginPath();
  if (glyph in SHAPES) {
    for (const [dx, dy] of SHAPES[glyph]) ctx.lineTo(x + dx * size, y + dy * size);
    ctx.closePath();
  } else {
    ctx.arc(x, y, size, 0, 2 * Math.PI);
  }
  ctx.fillStyle = fill;
  ctx.strokeStyle = colour("--paper");
  ctx.lineWidth = size / 4;
  ctx.fill();
  ctx.stroke();
}

// The dip that the rule takes the middle of, between the line that it reads and the height from which on it counts.
function drawDip(chart, run) {
  const { ctx } = chart;
  const xs = Array.from(run.x.subarray(0, run.usable)).filter((x) => x >= run.dip.low && x <= run.dip.high);
  const place = (x, loss) => [chart.valToPos(x, "x", true), chart.valToPos(loss, "loss", true)];
  if (!xs.length) return;
  ctx.beginPath();
  ctx.moveTo(...place(xs[0], run.dip.top));
  for (const x of xs) ctx.lineTo(...place(x, heightAt(run.x, run.read, 0, run.usable, x)));
  ctx.lineTo(...place(xs[xs.length - 1], run.dip.top));
  ctx.globalAlpha = 0.2;
  ctx.fillStyle = colour("--line");
  ctx.fill();
  ctx.globalAlpha = 1;
}

// The interval of each run: a band for one, a bracket at the foot for several.
function drawIntervals(chart, runs, several) {
  const { ctx, bbox } = chart;
  runs.forEach((run, row) => {
    const interval = run.suggestion && run.suggestion.interval;
    if (!interval || interval.includes(null)) return;
    const [left, right] = interval.map((lr) => chart.valToPos(Math.log10(lr), "x", true));
    if (!several) {
      ctx.fillStyle = colour("--band");
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
      return;
    }
    const y = bbox.top + bbox.height - (6 + 7 * row) * uPlot.pxRatio;
    ctx.fillStyle = colour(run.colour);
    ctx.fillRect(left, y, right - left, 3 * uPlot.pxRatio);
  });
}

function drawMarks(chart, runs, several, rulesOn, layers) {
  const { ctx, bbox } = chart;
  const ratio = uPlot.pxRatio;
  for (const run of runs) {
    for (const answer of run.answers) {
      if (!rulesOn.has(answer.rule) || answer.lr === null) continue;
      const [glyph, tint] = RULES[answer.rule];
      drawRate(chart, run, answer.lr, glyph, 5 * ratio, colour(several ? run.colour : tint), run.smoothed);
    }
    const suggestion = run.suggestion;
    if (suggestion !== null && suggestion.lr !== null) {
      const tint = colour(several ? run.colour : "--mark");
      const x = chart.valToPos(Math.log10(suggestion.lr), "x", true);
      ctx.strokeStyle = tint;
      ctx.lineWidth = ratio;
      ctx.setLineDash([2 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.setLineDash([]);
      const line = layers.has("read") && run.read ? run.read : run.smoothed;
      const y = drawRate(chart, run, suggestion.lr, several ? run.glyph : "●", 6 * ratio, tint, line);
      if (!several) drawName(chart, suggestion.label, x, y, tint);
    }
    if (layers.has("signs")) {
      run.signs.forEach(({ lr }, i) => {
        const x = chart.valToPos(Math.log10(lr), "x", true);
        drawShape(ctx, "▲", x, bbox.top + bbox.height - 6 * ratio, 6 * ratio, colour(signTint(run, i)));
      });
    }
    if (run.stop !== null && run.stop.lr !== null) {
      const x = chart.valToPos(Math.log10(run.stop.lr), "x", true);
      drawShape(ctx, "✖", x, bbox.top + 7 * ratio, 6 * ratio, several ? colour(run.colour) : colour("--ink"));
    }
  }
}

function signTint(run, i) {
  if (run.suggestion !== null && run.suggestion.rule === "race") return "--pink";
  return i === 0 ? "--line" : "--grey";
}

// A rule's mark on the line that it reads; in the middle where there is none. Returns its height on the canvas.
function drawRate(chart, run, lr, glyph, size, fill, line) {
  const [start, end] = line === run.read ? [0, run.usable] : [run.start, run.end];
  const loss = heightAt(run.x, line, start, end, Math.log10(lr));
  const { bbox } = chart;
  const x = chart.valToPos(Math.log10(lr), "x", true);
  const y = Number.isFinite(loss) ? chart.valToPos(loss, "loss", true) : bbox.top + bbox.height / 2;
  drawShape(chart.ctx, glyph, x, y, size, fill);
  return y;
}

// Left below of its mark, as the curve falls from the left above; on the right where the left has no room.
function drawName(chart, text, x, y, fill) {
  const { ctx, bbox } = chart;
  const ratio = uPlot.pxRatio;
  ctx.font = `bold ${13 * ratio}px system-ui, sans-serif`;
  const left = x - bbox.left > ctx.measureText(text).width + 16 * ratio;
  ctx.textAlign = left ? "right" : "left";
  ctx.textBaseline = "top";
  ctx.lineWidth = 4 * ratio;
  ctx.lineJoin = "round";
  ctx.strokeStyle = colour("--paper");
  ctx.fillStyle = fill;
  const place = [x + (left ? -9 : 9) * ratio, y + 8 * ratio];
  ctx.strokeText(text, ...place);
  ctx.fillText(text, ...place);
}

// The runs of each race on their own axis; those that diverged stand at its top.
function drawRace(chart, runs, several) {
  const { bbox } = chart;
  const ratio = uPlot.pxRatio;
  for (const run of runs) {
    if (run.race === null) continue;
    const tint = colour(several ? run.colour : "--pink");
    for (const { lr, loss } of run.race.runs) {
      if (lr === null) continue;
      const x = chart.valToPos(Math.log10(lr), "x", true);
      const above = loss === null || run.race.limits === null || loss > run.race.limits[1];
      const y = above ? bbox.top + 7 * ratio : chart.valToPos(loss, "race", true);
      drawShape(chart.ctx, above ? "✖" : "◆", x, y, 5 * ratio, tint);
    }
  }
}
