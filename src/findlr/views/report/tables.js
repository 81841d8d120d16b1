// Everything on the page that is text. Whatever comes from a run goes in by textContent, never as HTML.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function glyph(text, tint) {
  const element = make("i", { class: "glyph", "aria-hidden": "true" }, text);
  element.style.color = `var(${tint})`;
  return element;
}

function checkbox(checked, onChange, ...label) {
  const box = make("input", { type: "checkbox" });
  box.checked = checked;
  box.addEventListener("change", () => onChange(box.checked));
  return make("label", {}, box, " ", ...label);
}

function cell(text, number = false) {
  return make("td", number ? { class: "number" } : {}, text);
}

// What is wider than the page scrolls by itself, with the keyboard too.
function scrollable(name, table) {
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, table);
}

function headings(...names) {
  const row = make("tr");
  for (const name of names) {
    const [text, number] = Array.isArray(name) ? name : [name, false];
    row.append(make("th", { scope: "col", ...(number ? { class: "number" } : {}) }, text));
  }
  return make("thead", {}, row);
}

// The rates that a suggestion is made of, each after the sign that stands for it in the chart.
function signTexts(run) {
  return run.signs.flatMap(({ label }, i) => [glyph("▲", signTint(run, i)), `${label} `]);
}

function named(run, text) {
  return run.label === "" ? text : `${run.label}: ${text}`;
}

function rateOf(run) {
  return run.suggestion === null ? "none" : rateText(run.suggestion.lr);
}

function intervalOf(run) {
  const interval = run.suggestion && run.suggestion.interval;
  return interval ? `${rateText(interval[0])} to ${rateText(interval[1])}` : "–";
}

function runName(run) {
  return [glyph(run.glyph, run.colour), run.label];
}

// One run: the reasons. Several: a table, with a box for each to show or hide it.
function buildSummary(section, runs, onRun) {
  if (runs.length === 1) {
    const [run] = runs;
    const refused = run.suggestion === null;
    const plan = make("p", {}, `for ${run.plan}`);
    if (!refused) section.append(plan);
    section.append(make("p", {}, make("span", { class: `verdict${refused ? " refused" : ""}` }, run.verdict), ` ${run.why}`));
    if (!refused) {
      const interval = run.suggestion.interval ? ` Interval: ${intervalOf(run)}.` : "";
      section.append(make("p", {}, `${run.suggestion.why}${interval} Rule: ${run.suggestion.rule}.`));
    } else section.append(plan);
    return;
  }
  const body = make("tbody");
  runs.forEach((run, i) => {
    const name = checkbox(true, (on) => onRun(i, on), ...runName(run));
    const row = make("tr", {}, make("th", { scope: "row" }, name), cell(rateOf(run), true), cell(intervalOf(run)), cell(run.verdict));
    row.append(cell(run.plan), cell(run.why));
    body.append(row);
  });
  const heads = headings("run", ["learning rate", true], "interval", "verdict", "plan", "why");
  const caption = make("caption", { class: "unseen" }, "The runs, with a box to show each in the chart");
  section.append(scrollable("The runs", make("table", { id: "runs" }, caption, heads, body)));
}

function buildRules(table, runs, rulesOn, onRule) {
  const several = runs.length > 1;
  const columns = several ? runs.map((run) => [run.label, true]) : [["learning rate", true], "why"];
  const body = make("tbody");
  runs[0].answers.forEach(({ rule }, at) => {
    const answers = runs.map((run) => run.answers[at]);
    const label = checkbox(rulesOn.has(rule), (on) => onRule(rule, on), glyph(...RULES[rule]), rule);
    label.firstChild.disabled = answers.every(({ lr }) => lr === null);
    const row = make("tr", {}, make("th", { scope: "row" }, label));
    for (const { lr } of answers) row.append(cell(lr === null ? "refused" : rateText(lr), true));
    if (!several) row.append(cell(whyText(runs[0], at)));
    body.append(row);
  });
  table.classList.toggle("single", !several);
  table.append(headings("rule", ...columns), body);
}

// Why a rule answers so, but not twice the same.
function whyText(run, at) {
  const { lr, why } = run.answers[at];
  if (why === run.why) return "For the reason above.";
  const before = run.answers.slice(0, at).find((other) => other.lr === lr && other.why === why);
  return before ? `As ${before.rule}.` : why;
}

// The values at the cursor, a row for each run.
class Readout {
  constructor(table, runs) {
    this.runs = runs;
    this.layers = ["smoothed", "loss"];
    if (runs.some((run) => run.corrected)) this.layers.push("less batch differences");
    if (runs.some((run) => run.validation)) this.layers.push("validation");
    const body = make("tbody");
    this.rows = runs.map((run) => {
      const cells = ["learning rate", ...this.layers].map(() => cell("–", true));
      body.append(make("tr", {}, ...(runs.length > 1 ? [make("th", { scope: "row" }, ...runName(run))] : []), ...cells));
      return cells;
    });
    const names = ["learning rate", ...this.layers].map((name) => [name, true]);
    table.append(headings(...(runs.length > 1 ? ["run"] : []), ...names), body);
  }

  values(run, i) {
    return [10 ** run.x[i], ...this.layers.map((layer) => valueAt(run, layer, i))];
  }

  show(x, visible) {
    this.runs.forEach((run, row) => {
      const suggested = run.suggestion && run.suggestion.lr ? Math.log10(run.suggestion.lr) : null;
      const at = x ?? suggested; // until somebody looks at another place
      const there = at !== null && run.x.length > 0 && visible.has(row);
      const values = there ? this.values(run, nearest(run.x, at)) : [];
      this.rows[row].forEach((element, i) => { element.textContent = brief(values[i]); });
    });
  }

  spoken(run, i) {
    const [lr, ...losses] = this.values(run, i);
    const parts = this.layers.map((layer, at) => `${layer} ${brief(losses[at])}`).filter((part) => !part.endsWith("–"));
    return `${this.runs.length > 1 ? `${run.label}, ` : ""}learning rate ${brief(lr)}, ${parts.join(", ")}`;
  }
}

function valueAt(run, layer, i) {
  if (layer === "loss") return run.loss[i];
  if (layer === "smoothed") return i >= run.start && i < run.end ? run.smoothed[i] : NaN;
  if (layer === "validation") return run.validation ? run.validation[i] : NaN;
  return run.corrected ? run.corrected[i] : NaN;
}

function buildRace(section, runs) {
  for (const run of runs) {
    if (run.race === null) continue;
    section.hidden = false;
    const body = make("tbody");
    for (const { lr, steps, loss } of run.race.runs) {
      body.append(make("tr", {}, cell(rateText(lr), true), cell(String(steps), true), cell(loss === null ? "diverged" : brief(loss), true)));
    }
    const caption = make("caption", {}, named(run, `the race: loss before training ${brief(run.race.start)}`));
    section.append(make("table", {}, caption, headings(["learning rate", true], ["steps", true], [run.race.label, true]), body));
    const sides = run.race.bracketed ? "with a worse run on each side" : "at an end of the rates tried";
    section.append(make("p", {}, `The runs are best around ${rateText(run.race.best_lr)}, ${sides}.`));
  }
}

function buildCode(section, runs) {
  for (const run of runs) {
    if (run.code === null) continue;
    section.hidden = false;
    const pre = make("pre", { tabindex: "0", role: "region", "aria-label": named(run, "code") }, make("code", {}, run.code));
    const button = make("button", { type: "button" }, "Copy");
    const told = make("span", { role: "status" });
    button.addEventListener("click", async () => {
      told.textContent = (await copied(pre)) ? " Copied." : " Selected: copy it with Ctrl+C.";
    });
    if (runs.length > 1) section.append(make("h3", {}, ...runName(run)));
    section.append(pre, make("div", { class: "toolbar" }, button, told));
  }
}

async function copied(element) {
  getSelection().selectAllChildren(element);
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    return document.execCommand("copy"); // where a page from disk may not use the clipboard otherwise
  }
}

const ROWS = 100;

// All points of a run, a hundred at a time; built when it is opened.
function buildPoints(section, runs, readout) {
  const picker = make("select", { "aria-label": "Run" });
  runs.forEach((run, i) => picker.append(make("option", { value: String(i) }, run.label)));
  const [before, after] = ["Previous", "Next"].map((text) => make("button", { type: "button" }, text));
  const where = make("span", { role: "status" });
  const body = make("tbody");
  const heads = ["learning rate", ...readout.layers].map((name) => [name, true]);
  const caption = make("caption", { class: "unseen" }, "The points of the sweep");
  const table = make("table", {}, caption, headings(["point", true], ...heads, ""), body);
  const details = make("details", {}, make("summary", {}, "Show all points as a table"));
  const tools = make("div", { class: "toolbar" }, ...(runs.length > 1 ? [picker] : []), before, after, where);
  let first = 0;
  const show = () => {
    const run = runs[Number(picker.value) || 0];
    const last = Math.min(first + ROWS, run.x.length);
    body.replaceChildren();
    for (let i = first; i < last; i++) {
      const values = readout.values(run, i).map((value) => cell(brief(value, 5), true));
      body.append(make("tr", {}, cell(String((run.kept ? run.kept[i] : i) + 1), true), ...values, cell(remark(run, i))));
    }
    const thinned = run.kept ? `, the peaks of all ${run.points} points` : "";
    where.textContent = last ? `${first + 1} to ${last} of ${run.x.length}${thinned}` : "no points";
    before.disabled = first === 0;
    after.disabled = last === run.x.length;
  };
  const turn = (by) => () => {
    first += by;
    show();
  };
  before.addEventListener("click", turn(-ROWS));
  after.addEventListener("click", turn(ROWS));
  picker.addEventListener("change", () => {
    first = 0;
    show();
  });
  details.addEventListener("toggle", () => details.open && show());
  details.append(tools, scrollable("Table of points", table));
  section.append(details);
  return () => details.open && show();
}

function remark(run, i) {
  if (i >= run.usable) return run.stop !== null && i === run.x.length - 1 ? "where it stopped" : "not used";
  return i < run.start || i >= run.end ? "left out of the line" : "";
}

function buildFacts(section, runs) {
  for (const run of runs) {
    const facts = make("div", { class: "facts" });
    for (const [title, pairs] of run.facts) {
      const body = make("tbody");
      for (const [name, value] of pairs) {
        const parts = name.split(/(?<=\.)/).flatMap((part) => [part, make("wbr")]); // long names break after a dot
        body.append(make("tr", {}, make("th", { scope: "row" }, ...parts), cell(value)));
      }
      facts.append(make("table", {}, make("caption", {}, title), body));
    }
    if (runs.length === 1) section.append(facts);
    else section.append(make("details", {}, make("summary", {}, ...runName(run)), facts));
  }
}
