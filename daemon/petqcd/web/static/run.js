// A run that can be asked: spectra on click, and the channels of a module as a map with all numbers of each.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

async function ask(path) {
  const answer = await fetch(path);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

function number(value, digits = 5) {
  return value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 6, useGrouping: Math.abs(value) >= 1e4 });
}

// --- spectra -------------------------------------------------------------------------------------------------------

const spectra = document.getElementById("spectrum");

function drawSpectrum(figure, s) {
  figure.hidden = false;
  figure.querySelector("figcaption").textContent = `${s.quantity} ${s.node}, ${s.unit}`;
  figure.querySelector(".aside").textContent = s.text;
  const plot = figure.querySelector(".plot");
  plot.replaceChildren();
  const centres = s.counts.map((_, i) => (s.edges[i] + s.edges[i + 1]) / 2);
  const axis = { stroke: colour("--ink"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const data = [centres, s.counts];
  const series = [{ label: s.unit }, { label: "counts", stroke: colour("--quiet"), fill: `color-mix(in srgb, ${colour("--quiet")} 25%, transparent)`, points: { show: false } }];
  for (const [name, dash, style] of [["fit", [], "--link"], ["background", [4, 3], "--warn"], ["delayed", [2, 2], "--fail"]]) {
    if (s[name]) { data.push(s[name]); series.push({ label: name, stroke: colour(style), width: 2, dash, points: { show: false } }); }
  }
  const u = new uPlot({
    width: plot.clientWidth, height: 320, axes: [{ ...axis, values: (_, ticks) => ticks.map((t) => number(t)) }, { ...axis, size: 70 }],
    scales: { x: { time: false } }, series, cursor: { drag: { x: true, y: false } }, legend: { show: true },
  }, data, plot);
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-label", `Spectrum, ${s.counts.reduce((a, b) => a + (b || 0), 0).toLocaleString("en")} counts`);
  new ResizeObserver(() => u.setSize({ width: plot.clientWidth, height: 320 })).observe(plot);
}

if (spectra) {
  const buttons = [...spectra.querySelectorAll("button[data-spectrum]")];
  const figure = spectra.querySelector("figure");
  for (const button of buttons) {
    button.addEventListener("click", async () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      const query = new URLSearchParams({ id: button.dataset.spectrum, node: button.dataset.node });
      try {
        drawSpectrum(figure, await ask(`/api/v1/runs/${encodeURIComponent(spectra.dataset.run)}/spectrum?${query}`));
      } catch (error) {
        figure.hidden = false;
        figure.querySelector("figcaption").textContent = error.message;
      }
    });
  }
}

// --- channels ------------------------------------------------------------------------------------------------------

const box = document.getElementById("channel-map");
const STOPS = [[0, 34, 78], [61, 78, 108], [120, 120, 119], [186, 174, 108], [254, 232, 56]]; // from dark to light

function shade(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const i = Math.min(Math.floor(at), STOPS.length - 2);
  return `rgb(${STOPS[i].map((a, k) => Math.round(a + (at - i) * (STOPS[i + 1][k] - a))).join(",")})`;
}

class ChannelMap {
  constructor(element) {
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.module = element.querySelector("#map-module");
    this.quantity = element.querySelector("#map-quantity");
    this.cursor = null;
    this.module.addEventListener("change", () => this.load());
    this.quantity.addEventListener("change", () => this.draw());
    this.canvas.addEventListener("click", (event) => this.pick(event));
    this.canvas.addEventListener("keydown", (event) => this.move(event));
    new ResizeObserver(() => this.draw()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  async load() {
    const query = new URLSearchParams({ module: this.module.value });
    try {
      this.data = await ask(`/api/v1/runs/${encodeURIComponent(this.element.dataset.run)}/channels?${query}`);
    } catch (error) {
      this.element.querySelector("#map-scale").textContent = error.message;
      return;
    }
    const before = this.quantity.value;
    this.quantity.replaceChildren(...this.data.quantities.map((q) => new Option(q.unit ? `${q.title}, ${q.unit}` : q.title, q.id, false, q.id === before)));
    this.at = new Map(this.data.channels.map((_, i) => [`${this.data.column[i]},${this.data.row[i]}`, i]));
    this.cursor = null;
    this.element.querySelector("#channel").replaceChildren();
    this.draw();
  }

  get shown() { return this.data.quantities.find((q) => q.id === this.quantity.value); }

  draw() {
    if (!this.data || !this.shown) return;
    const { columns, rows, column, row, marks } = this.data, q = this.shown;
    const cell = Math.max(Math.floor(Math.min(this.element.clientWidth, 640) / columns), 8);
    const ratio = devicePixelRatio || 1;
    this.cell = cell;
    this.canvas.width = columns * cell * ratio; this.canvas.height = rows * cell * ratio;
    this.canvas.style.width = `${columns * cell}px`; this.canvas.style.height = `${rows * cell}px`;
    const c = this.canvas.getContext("2d");
    c.scale(ratio, ratio);
    const known = q.value.filter((v) => v !== null).sort((a, b) => a - b);
    const low = known[Math.floor(0.02 * known.length)] ?? 0, high = known[Math.floor(0.98 * (known.length - 1))] ?? 1;
    q.value.forEach((v, i) => {
      const x = column[i] * cell, y = row[i] * cell;
      c.fillStyle = v === null ? colour("--paper") : shade(high > low ? (v - low) / (high - low) : 0.5);
      c.fillRect(x, y, cell - 1, cell - 1);
      if (v === null) { c.strokeStyle = colour("--quiet"); c.strokeRect(x + 2, y + 2, cell - 5, cell - 5); }
      const sign = Object.entries(marks).find(([, flags]) => flags[i]);
      const status = q.status[i];
      if (sign || status === "warn" || status === "fail") this.sign(c, x, y, sign ? { dead: "✖", hot: "▲", suspect: "?" }[sign[0]] || "?" : status === "fail" ? "✖" : "▲");
    });
    if (this.cursor !== null) {
      c.strokeStyle = colour("--link"); c.lineWidth = 3;
      c.strokeRect(column[this.cursor] * cell + 1, row[this.cursor] * cell + 1, cell - 3, cell - 3);
    }
    const signs = Object.entries(marks).map(([name, flags]) => `${flags.filter(Boolean).length} ${name}`);
    this.element.querySelector("#map-scale").textContent =
      `Dark ${number(low)} to light ${number(high)} ${q.unit}; an empty frame has no number${signs.length ? `; marked: ${signs.join(", ")}` : ""}.`;
  }

  sign(c, x, y, text) {
    c.font = `bold ${Math.max(this.cell * 0.6, 8)}px sans-serif`;
    c.textAlign = "center"; c.textBaseline = "middle";
    c.lineWidth = 3; c.strokeStyle = "#fff"; c.fillStyle = "#000";
    c.strokeText(text, x + this.cell / 2, y + this.cell / 2); c.fillText(text, x + this.cell / 2, y + this.cell / 2);
  }

  pick(event) {
    const i = this.at?.get(`${Math.floor(event.offsetX / this.cell)},${Math.floor(event.offsetY / this.cell)}`);
    if (i !== undefined) this.choose(i);
  }

  move(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || !this.data) return;
    event.preventDefault();
    const from = this.cursor ?? 0;
    const i = this.cursor === null ? 0 : this.at.get(`${this.data.column[from] + step[0]},${this.data.row[from] + step[1]}`);
    if (i !== undefined) this.choose(i);
  }

  choose(i) {
    this.cursor = i;
    this.draw();
    const table = document.createElement("table");
    const caption = table.createCaption();
    const marked = Object.entries(this.data.marks).filter(([, flags]) => flags[i]).map(([name]) => name);
    caption.textContent = `${this.data.channels[i]}, ${this.data.asics[i]}${marked.length ? `: ${marked.join(", ")}` : ""}`;
    const body = table.createTBody();
    for (const q of this.data.quantities) {
      const line = body.insertRow();
      const head = document.createElement("th");
      head.scope = "row"; head.textContent = q.title;
      line.append(head);
      line.insertCell().textContent = `${number(q.value[i])}${q.uncertainty[i] ? ` ± ${number(q.uncertainty[i], 2)}` : ""} ${q.unit}`;
      line.insertCell().textContent = q.status[i];
      line.insertCell().textContent = q.reason[i];
    }
    this.element.querySelector("#channel").replaceChildren(table);
  }
}

if (box) new ChannelMap(box).load();

// --- the whole report ----------------------------------------------------------------------------------------------

const report = document.getElementById("report-box");
report?.addEventListener("toggle", () => {
  if (!report.open || report.querySelector("iframe")) return;
  const frame = document.createElement("iframe");
  frame.src = report.dataset.report;
  frame.title = "The whole report of this run";
  report.append(frame);
});
