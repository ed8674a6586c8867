"use strict";
// One page, two lives: with data inside it is a report, without it asks the server that sent it.
// Whatever comes from a run becomes text, never markup.

// Okabe and Ito's colours, which people with any colour vision tell apart, in an order for both backgrounds.
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6fdf", "#7a7a7a", "#b8a800", "#a6452b"];
const REFRESH = 2000;

// What a person chose; kept while the page is drawn anew.
const view = { smooth: 0.6, log: false, axis: "step" };

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child != null));
  return node;
}

function drawing(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const color = i => COLORS[i % COLORS.length];
const swatch = i => element("span", { class: "swatch", style: { background: color(i) } });
const short = id => id.slice(-8);
const isRate = name => /(^|\.)top\d/.test(name) || name === "system.data_wait";
const trimmed = text => text.replace(/(\.\d*?)0+(e|$)/, "$1$2").replace(/\.(e|$)/, "$1");

function number(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? trimmed(value.toExponential(3)) : trimmed(value.toPrecision(5));
}
// As the terminal shows it: a value with its unit.
function metric(name, value) {
  if (value == null) return "–";
  if (isRate(name)) return (100 * value).toFixed(2) + " %";
  if (/^system\..*percent$/.test(name)) return value.toFixed(0) + " %";
  return /^system\..*_bytes$/.test(name) ? count(value) + "B" : number(value);
}
function count(value) {
  if (value == null) return "–";
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (value >= size) return (value / size).toPrecision(3) + unit;
  }
  return String(value);
}
function duration(seconds) {
  const whole = Math.round(seconds), two = n => String(n).padStart(2, "0");
  if (whole < 60) return whole + " s";
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} min`;
}

function table(headers, rows, attributes = {}) {
  const cell = (tag, { text, kind, ...others }) => element(tag, { class: kind, ...others }, text);
  const named = value => value != null && typeof value === "object" && !(value instanceof Node) ? value : { text: value };
  return element("div", { class: "wide" }, element("table", attributes,
    element("thead", {}, element("tr", {}, headers.map(header => cell("th", named(header))))),
    element("tbody", {}, rows.map(row => element("tr", {}, row.map(value => cell("td", named(value))))))));
}

// --- curves ---

// TensorBoard's: an exponential mean, without the bias of its beginning.
function smoothed(points, weight) {
  let mean = 0, debt = 0;
  return points.map(([x, y]) => {
    mean = mean * weight + (1 - weight) * y;
    debt = debt * weight + (1 - weight);
    return [x, mean / debt];
  });
}

function ticks(low, high, wanted) {
  if (!(high > low)) return [low];
  const raw = (high - low) / wanted, size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * size).find(step => step >= raw);
  const list = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) list.push(i * step);
  return list;
}

// What stands at an axis: short, with its unit.
function label(name, value) {
  if (isRate(name)) return trimmed((100 * value).toPrecision(4)) + " %";
  return /_bytes$/.test(name) ? metric(name, value) : number(Number(value.toPrecision(3)));
}

function chart(name, runs) {
  const width = 520, height = 280, left = 62, right = 14, top = 12, bottom = 34;
  const series = runs.map((run, i) => {
    const perEpoch = view.axis === "epoch" && run.epoch_steps ? run.epoch_steps : 1;
    const points = (run.curves[name]?.points ?? [])
      .filter(([, y]) => y != null && (!view.log || y > 0))
      .map(([step, y]) => [(step + 1) / perEpoch, y]);
    // A curve of few points is what it is, and a schedule has no noise.
    const curve = view.smooth > 0 && points.length > 20 && name !== "optim.lr" ? smoothed(points, view.smooth) : points;
    return { run, i, points, curve };
  }).filter(one => one.points.length > 0);
  const figure = element("figure", { "data-metric": name }, element("figcaption", {}, name));
  if (series.length === 0) {
    figure.append(element("p", { class: "faint" }, view.log ? "nothing above zero" : "no finite value"));
    return figure;
  }
  const all = series.flatMap(one => one.points);
  const scale = y => view.log ? Math.log10(y) : y;
  let [x0, x1, y0, y1] = all.reduce(([a, b, c, d], [x, y]) => [Math.min(a, x), Math.max(b, x), Math.min(c, scale(y)), Math.max(d, scale(y))],
    [Infinity, -Infinity, Infinity, -Infinity]);
  if (x1 === x0) [x0, x1] = [x0 - 0.5, x1 + 0.5];
  const margin = y1 > y0 ? (y1 - y0) * 0.05 : Math.abs(y0) * 0.1 || 0.5;
  [y0, y1] = [y0 - margin, y1 + margin];
  const px = x => left + (x - x0) / (x1 - x0) * (width - left - right);
  const py = y => height - bottom - (scale(y) - y0) / (y1 - y0) * (height - top - bottom);
  const image = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name} by ${view.axis}` });
  for (const tick of ticks(y0, y1, 5)) {
    const value = view.log ? 10 ** tick : tick, y = py(value);
    image.append(drawing("line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y }),
      drawing("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, label(name, value)));
  }
  for (const tick of ticks(x0, x1, 6)) {
    image.append(drawing("text", { x: px(tick), y: height - bottom + 16, "text-anchor": "middle" }, number(tick)));
  }
  image.append(drawing("text", { x: width - right, y: height - 4, "text-anchor": "end" }, view.axis));
  const path = points => points.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
  for (const { i, points, curve } of series) {
    if (curve !== points) image.append(drawing("path", { class: "raw", d: path(points), stroke: color(i) }));
    if (curve.length > 1) image.append(drawing("path", { class: "curve", d: path(curve), stroke: color(i) }));
    if (curve.length <= 40) for (const [x, y] of curve) image.append(drawing("circle", { cx: px(x), cy: py(y), r: 2.5, fill: color(i) }));
  }
  const cross = drawing("line", { class: "cross", y1: top, y2: height - bottom, visibility: "hidden" });
  const tip = element("div", { class: "tip", hidden: true });
  image.append(cross);
  image.addEventListener("pointermove", event => {
    const box = image.getBoundingClientRect();
    const x = x0 + ((event.clientX - box.left) / box.width * width - left) / (width - left - right) * (x1 - x0);
    const nearest = points => points.reduce((best, point) => Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);
    const at = nearest(series[0].points)[0];
    cross.setAttribute("x1", px(at));
    cross.setAttribute("x2", px(at));
    cross.setAttribute("visibility", "visible");
    tip.replaceChildren(element("div", { class: "faint" }, `${view.axis} ${number(at)}`),
      ...series.map(one => element("div", {}, swatch(one.i), `${one.run.label}: ${metric(name, nearest(one.points)[1])}`)));
    tip.hidden = false;
    const share = (px(at) / width);
    tip.style.left = share < 0.5 ? `${share * 100}%` : "auto";
    tip.style.right = share < 0.5 ? "auto" : `${(1 - share) * 100}%`;
    tip.style.top = "2rem";
  });
  image.addEventListener("pointerleave", () => { tip.hidden = true; cross.setAttribute("visibility", "hidden"); });
  figure.append(image, tip);
  return figure;
}

function curves(runs) {
  const names = [...new Set(runs.flatMap(run => Object.keys(run.curves)))];
  // What people look at first stands first.
  const rank = name => ["val.", "train.", "optim."].findIndex(start => name.startsWith(start)) + 1 || 9;
  names.sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  const charts = element("div", { class: "charts" });
  const draw = () => charts.replaceChildren(...names.map(name => chart(name, runs)));
  const smooth = element("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: view.smooth, id: "smooth",
    oninput: event => { view.smooth = Number(event.target.value); draw(); } });
  const log = element("input", { type: "checkbox", checked: view.log, id: "log", onchange: event => { view.log = event.target.checked; draw(); } });
  const axis = element("select", { id: "axis", onchange: event => { view.axis = event.target.value; draw(); } },
    ["step", "epoch"].map(name => element("option", { selected: view.axis === name }, name)));
  draw();
  return [element("h2", {}, "Curves"),
    element("div", { class: "bar controls" }, element("label", {}, "smoothing ", smooth), element("label", {}, log, " log scale"), element("label", {}, "by ", axis)),
    charts];
}

// --- runs beside each other ---

function card(run, i) {
  const fact = (name, value) => value == null || value === "" ? [] : [element("dt", {}, name), element("dd", {}, value)];
  const planned = run.plan?.steps, steps = planned ? `${run.steps} of ${planned}` : String(run.steps);
  const rate = run.seconds > 0 && run.steps > 0 ? run.steps / run.seconds : 0;
  const left = run.live && planned && rate ? duration((planned - run.steps) / rate) : null;
  return element("section", { class: "card", style: { borderLeftColor: color(i) }, "data-run": run.id },
    element("b", {}, run.name), " ", element("span", { class: "mono faint" }, short(run.id)), " ", element("span", { class: `state ${run.state}` }, run.state),
    element("dl", {}, fact("model", run.model), fact("steps", steps), fact("time", duration(run.seconds)), fact("left", left), fact("seed", run.seed), fact("device", run.device),
      fact("created", run.created), fact("group", run.group), fact("tags", (run.tags ?? []).join(", ")), fact("note", run.note), fact("ended", run.reason)),
    run.warnings.map(warning => element("p", { class: "UNKNOWN" }, `step ${warning.step}: ${warning.message}`)));
}

function results(runs) {
  const names = [...new Set(runs.flatMap(run => Object.keys(run.metrics)))].sort();
  const rows = [];
  for (const name of names) {
    const goal = runs.map(run => run.metrics[name]?.goal).find(goal => goal);
    const best = runs.map(run => run.metrics[name]?.best).filter(value => value != null);
    const winner = goal === "min" ? Math.min(...best) : Math.max(...best);
    rows.push([name, ...runs.flatMap(run => {
      const summary = run.metrics[name];
      const wins = runs.length > 1 && goal && summary?.best === winner;
      return [{ text: metric(name, summary?.best), kind: wins ? "number best" : "number" }, { text: summary?.best_step == null ? "–" : String(summary.best_step + 1), kind: "number faint" },
        { text: metric(name, summary?.last), kind: "number" }];
    })]);
  }
  const headers = ["metric", ...runs.flatMap((run, i) => [{ text: element("span", {}, swatch(i), runs.length > 1 ? `${run.label}: best` : "best"), kind: "number" },
    { text: "at step", kind: "number" }, { text: "last", kind: "number" }])];
  return [element("h2", {}, "Results"), table(headers, rows, { id: "results" })];
}

function settings(story) {
  if (story.runs.length < 2) return [];
  const heading = element("h2", {}, "Settings that differ");
  if (story.settings.length === 0) return [heading, element("p", { class: "faint" }, "none")];
  const rows = story.settings.map(setting => [{ text: setting.key, kind: "mono" }, ...setting.values.map((value, i) =>
    ({ text: value ?? "–", title: setting.set_by[i] ? `set by ${setting.set_by[i]}` : null, kind: "mono" }))]);
  const headers = ["key", ...story.runs.map((run, i) => ({ text: element("span", {}, swatch(i), run.label) }))];
  return [heading, table(headers, rows, { id: "settings" })];
}

// --- where a model errs ---

function matrix(evaluation, classes) {
  const cells = new Map(evaluation.confusion.map(([label, predicted, samples]) => [`${label} ${predicted}`, samples]));
  if (classes.length > 40) {
    const worst = evaluation.confusion.filter(([a, b]) => a !== b).sort((a, b) => b[2] - a[2]).slice(0, 30);
    return [element("p", {}, `${classes.length} classes; the pairs that are confused most:`),
      table(["class", "taken for", { text: "samples", kind: "number" }], worst.map(([a, b, samples]) => [classes[a], classes[b], { text: String(samples), kind: "number" }]))];
  }
  const rows = classes.map((name, label) => element("tr", {}, element("th", { scope: "row" }, name), classes.map((predicted, at) => {
    const samples = cells.get(`${label} ${at}`) ?? 0, of = evaluation.classes[label].samples;
    const share = of ? samples / of : 0;
    return element("td", { title: `${name} taken for ${predicted}: ${samples} of ${of}`, style: { background: samples ? `rgb(var(--heat) / ${(0.08 + 0.8 * share).toFixed(3)})` : "" } },
      samples ? String(samples) : "");
  })));
  return [element("p", { class: "faint" }, "rows: the class; columns: what it was taken for"),
    element("div", { class: "wide" }, element("table", { class: "matrix" },
      element("thead", {}, element("tr", {}, element("td"), classes.map(name => element("th", { class: "up", scope: "col" }, name)))), element("tbody", {}, rows)))];
}

function evaluation(run) {
  if (run.evaluation_missing) return [element("h3", {}, run.label), element("p", { class: "UNKNOWN" }, `not evaluated: ${run.evaluation_missing}`)];
  const found = run.evaluation;
  if (!found) return [];
  const percent = value => ({ text: value == null ? "–" : (100 * value).toFixed(1) + " %", kind: "number" });
  const figures = found.classes.map((one, i) => [run.classes[i], { text: String(one.samples), kind: "number" }, percent(one.precision), percent(one.recall), percent(one.f1)]);
  const numbers = ["samples", "precision", "recall", "F1"].map(text => ({ text, kind: "number" }));
  const pictures = found.mistakes.map(mistake => element("figure", {}, element("img", { src: mistake.picture, alt: mistake.id, loading: "lazy" }),
    element("b", {}, run.classes[mistake.predicted]), ` ${(100 * mistake.probability).toFixed(1)} %`,
    element("div", {}, `is ${run.classes[mistake.class]} (${(100 * mistake.class_probability).toFixed(1)} %)`), element("div", { class: "mono faint" }, mistake.id)));
  return [element("h3", {}, `${run.label}: ${found.correct} of ${found.samples} right (${(100 * found.correct / found.samples).toFixed(2)} %)`),
    ...matrix(found, run.classes),
    element("details", { open: run.classes.length <= 40 }, element("summary", {}, "by class"), table(["class", ...numbers], figures)),
    element("h3", {}, "Worst mistakes"), pictures.length ? element("div", { class: "pictures" }, pictures) : element("p", { class: "faint" }, "none")];
}

// --- the network ---

function architecture(run) {
  const net = run.architecture;
  if (!net) return [];
  const size = shape => shape.join(" × ");
  // layer1.0.conv1 belongs to block 0 of layer1; conv1 is on its own.
  const stages = [];
  for (const layer of net.layers) {
    const [field, block] = layer.path.split(".");
    let stage = stages.at(-1);
    if (stage?.field !== field) stages.push(stage = { field, blocks: new Map(), layers: [] });
    const key = /^\d+$/.test(block ?? "") ? block : "";
    stage.layers.push(layer);
    if (key) stage.blocks.set(key, (stage.blocks.get(key) ?? []).concat(layer));
  }
  const sum = (layers, of) => layers.reduce((sum, layer) => sum + layer[of], 0);
  const boxes = stages.flatMap((stage, i) => {
    const last = stage.layers.at(-1), blocks = [...stage.blocks.values()];
    const box = element("div", { class: "stage" }, element("b", {}, stage.field), blocks.length ? "" : element("div", { class: "faint" }, stage.layers.map(layer => layer.what).join("; ")),
      blocks.map(layers => element("span", { class: layers.some(layer => layer.path.includes("downsample")) ? "block down" : "block",
        title: layers.map(layer => `${layer.path}: ${layer.what}`).join("\n") })),
      element("div", { class: "faint" }, `${size(last.output)}; ${count(sum(stage.layers, "params"))} parameters, ${count(sum(stage.layers, "macs"))} MACs`));
    return i ? [element("span", { class: "arrow" }, "→"), box] : [box];
  });
  const rows = net.layers.map(layer => [{ text: layer.path, kind: "mono" }, layer.what, { text: size(layer.output), kind: "number" }, { text: String(layer.params), kind: "number" }, { text: count(layer.macs), kind: "number" }]);
  return [element("h3", {}, `${run.model}: ${count(net.params)} parameters, ${count(net.macs)} MACs at ${size(net.input)}`),
    element("div", { class: "blocks" }, boxes),
    element("details", {}, element("summary", {}, `all ${net.layers.length} layers`),
      table(["layer", "what", { text: "output", kind: "number" }, { text: "parameters", kind: "number" }, { text: "MACs", kind: "number" }], rows))];
}

function story(root, data, links) {
  const { runs } = data;
  for (const run of runs) run.label = runs.some(other => other !== run && other.name === run.name) ? `${run.name} ${short(run.id)}` : run.name;
  const nets = runs.filter((run, i) => runs.findIndex(other => other.model === run.model) === i);
  const evaluations = runs.flatMap(evaluation), networks = nets.flatMap(architecture);
  root.replaceChildren(...links, element("h1", {}, [...new Set(runs.map(run => run.name))].join(", ")), element("div", { class: "cards" }, runs.map(card)),
    ...results(runs), ...settings(data), ...curves(runs),
    ...(evaluations.length ? [element("h2", {}, "Where it errs"), ...evaluations] : []),
    ...(networks.length ? [element("h2", {}, "Architecture"), ...networks] : []));
  document.title = runs.map(run => run.name).join(", ");
}

// --- the server's life ---

let drawn = 0;

async function ask(path, parameters) {
  const response = await fetch(`${path}?${new URLSearchParams(parameters)}`);
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error), { told: true });
  return answer;
}

// The place in the page's address: #/runs?filter=.. or #/story?runs=ID,ID.
function place() {
  const [name, query] = location.hash.replace(/^#\//, "").split("?");
  return { name: name || "runs", parameters: Object.fromEntries(new URLSearchParams(query ?? "")) };
}
const go = (name, parameters) => { location.hash = `#/${name}?${new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== ""))}`; };

async function show(root) {
  const turn = ++drawn;
  const { name, parameters } = place();
  let again = 0;
  try {
    if (name === "story") {
      const data = await ask("/api/story", parameters);
      if (turn !== drawn) return;
      const top = window.scrollY;
      story(root, data, [element("nav", {}, element("a", { href: "#/runs" }, "← all runs"))]);
      window.scrollTo(0, top);
      if (data.runs.some(run => run.live)) again = REFRESH;
    } else {
      const data = await ask("/api/runs", parameters);
      if (turn !== drawn) return;
      list(root, data, parameters, null);
      again = data.runs.some(run => run.state === "RUNNING") ? REFRESH : 5 * REFRESH;
    }
  } catch (error) {
    if (turn !== drawn) return;
    const message = error.told ? error.message : `the server does not answer: ${error.message}`;
    if (name === "story") root.replaceChildren(element("nav", {}, element("a", { href: "#/runs" }, "← all runs")), element("pre", { class: "error" }, message));
    else list(root, { runs: [], total: 0, offset: 0, metrics: [] }, parameters, message);
    if (!error.told) again = REFRESH;
  }
  document.body.dataset.drawn = name;
  document.body.dataset.turn = turn;
  if (again) setTimeout(() => { if (turn === drawn) show(root); }, again);
}

const chosen = new Set();

function list(root, data, parameters, error) {
  // What is being written is not taken from under the person's hands.
  const old = document.getElementById("filter");
  const writing = old != null && old === document.activeElement;
  const filter = writing ? old : element("input", { type: "search", id: "filter", value: parameters.filter ?? "", "aria-label": "filter",
    placeholder: 'val.top1 > 0.85 and (model = "resnet34" or tag = "baseline")' });
  const search = event => { event.preventDefault(); go("runs", { ...parameters, filter: document.getElementById("filter").value, offset: "" }); };
  const compare = element("button", { type: "button", id: "compare", disabled: chosen.size === 0, onclick: () => go("story", { runs: [...chosen].join(",") }) }, `show ${chosen.size || ""} chosen`);
  const archived = element("input", { type: "checkbox", checked: parameters.archived === "1", onchange: event => go("runs", { ...parameters, archived: event.target.checked ? "1" : "", offset: "" }) });

  const metrics = data.metrics.filter(name => name.startsWith("val.")).concat(data.metrics.filter(name => name === "train.loss"));
  const columns = ["name", "model", "state", ...metrics, "steps", "duration", "created", "group", "tags"];
  const sortable = name => !["tags"].includes(name);
  const key = name => /^[\w.]+$/.test(name) ? name : "`" + name + "`";
  const sort = parameters.sort ?? "";
  const header = name => {
    if (!sortable(name)) return name;
    const [ascending, descending] = [`${key(name)} asc`, `${key(name)} desc`];
    const mark = sort === ascending ? " ▲" : sort === descending ? " ▼" : "";
    return { text: element("button", { type: "button", onclick: () => go("runs", { ...parameters, sort: sort === descending ? ascending : descending, offset: "" }) }, name + mark), kind: metrics.includes(name) ? "number" : null };
  };
  const rows = data.runs.map(run => {
    const box = element("input", { type: "checkbox", checked: chosen.has(run.id), "aria-label": `choose ${run.name}`, onchange: event => {
      if (event.target.checked) chosen.add(run.id); else chosen.delete(run.id);
      compare.disabled = chosen.size === 0;
      compare.textContent = `show ${chosen.size || ""} chosen`;
    } });
    const planned = run.plan?.steps;
    return [box, element("a", { href: `#/story?runs=${run.id}`, title: run.id }, `${run.name} ${short(run.id)}`), run.model, element("span", { class: `state ${run.state}`, title: run.reason ?? "" }, run.state),
      ...metrics.map(name => ({ text: metric(name, run.metrics[name]?.best ?? run.metrics[name]?.last), kind: "number" })),
      { text: planned ? `${run.steps}/${planned}` : String(run.steps), kind: "number" }, { text: duration(run.seconds), kind: "number" }, run.created, run.group ?? "", (run.tags ?? []).join(", ")];
  });
  const limit = 50, first = data.offset;
  const pages = data.total > data.runs.length || first > 0
    ? element("div", { class: "bar" },
      element("button", { type: "button", disabled: first === 0, onclick: () => go("runs", { ...parameters, offset: String(Math.max(0, first - limit)) }) }, "newer"),
      `${data.total ? first + 1 : 0} to ${first + data.runs.length} of ${data.total}`,
      element("button", { type: "button", disabled: first + data.runs.length >= data.total, onclick: () => go("runs", { ...parameters, offset: String(first + limit) }) }, "older"))
    : null;
  const form = element("form", { class: "bar", onsubmit: search }, filter, element("button", {}, "filter"), element("label", {}, archived, " archived"), compare);
  root.replaceChildren(element("h1", {}, "Runs"), form, ...(error ? [element("pre", { class: "error" }, error)] : []),
    rows.length ? table(["", ...columns.map(header)], rows, { id: "runs" }) : error ? "" : element("p", { class: "faint" }, "no run is like that"), ...(pages ? [pages] : []));
  if (writing) filter.focus();
  document.title = "resnet-zoo";
}

const root = document.getElementById("page");
const data = JSON.parse(document.getElementById("data").textContent);
if (data) {
  story(root, data, []);
  document.body.dataset.drawn = "report";
} else {
  window.addEventListener("hashchange", () => show(root));
  show(root);
}
