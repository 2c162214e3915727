// The channels of a run: a map of one module or of the unrolled ring, a table, and the channel that was chosen by mouse,
// keyboard or address (#channel:…): its spectrum as counted, the fit through it, its numbers beside its neighbours'.

import { ask, colour, drawSpectrum, number } from "/static/spectrum.js";

const box = document.getElementById("channel-map");
const STOPS = [[0, 34, 78], [61, 78, 108], [120, 120, 119], [186, 174, 108], [254, 232, 56]]; // from dark to light
const SIGNS = { dead: "✖", hot: "▲", suspect: "?" };
const RING = "ring";
const REST_MS = 120; // who holds an arrow key asks for the channel where it rests

function shade(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const i = Math.min(Math.floor(at), STOPS.length - 2);
  return `rgb(${STOPS[i].map((a, k) => Math.round(a + (at - i) * (STOPS[i + 1][k] - a))).join(",")})`;
}

const titled = (q) => (q.unit ? `${q.title}, ${q.unit}` : q.title);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function status(word) {
  return element("span", `${{ pass: "✔", warn: "▲", fail: "✖", invalid: "?" }[word] || "·"} ${word}`, { class: `verdict ${word}` });
}

class ChannelMap {
  constructor(root) {
    this.root = root;
    this.at = (id) => root.querySelector(`#${id}`);
    this.path = `/api/v1/runs/${encodeURIComponent(root.dataset.run)}`;
    this.canvas = root.querySelector("canvas");
    this.place = this.at("map-module");
    this.quantity = this.at("map-quantity");
    this.cursor = null;
    this.place.addEventListener("change", () => this.load());
    this.quantity.addEventListener("change", () => (this.place.value === RING ? this.load() : this.redraw()));
    this.canvas.addEventListener("click", (event) => this.pick(event));
    this.canvas.addEventListener("keydown", (event) => this.move(event));
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-channel]");
      if (button) this.open(button.dataset.channel, button.dataset.module);
    });
    this.at("map-table").addEventListener("toggle", () => this.table());
    new ResizeObserver(() => this.draw()).observe(root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.draw(); if (this.chosen) this.show(this.chosen); });
    addEventListener("hashchange", () => this.linked());
  }

  async load() {
    const isRing = this.place.value === RING;
    this.root.querySelector(".drill").classList.toggle("wide", isRing);
    const query = isRing ? new URLSearchParams({ quantity: this.quantity.value }) : new URLSearchParams({ module: this.place.value });
    try {
      this.data = await ask(`${this.path}/${isRing ? "ring" : "channels"}?${query}`);
    } catch (error) {
      this.at("map-scale").textContent = error.message;
      return;
    }
    const before = this.quantity.value;
    this.quantity.replaceChildren(...this.data.quantities.map((q) => new Option(titled(q), q.id, false, q.id === before)));
    if (!before) this.quantity.value = (this.data.quantities.find((q) => q.value?.some((v) => v !== null)) || this.data.quantities[0]).id;
    this.cells = new Map(this.data.channels.map((_, i) => [`${this.data.column[i]},${this.data.row[i]}`, i]));
    this.cursor = this.chosen ? this.indexOf(this.chosen.node) : null;
    this.redraw();
  }

  indexOf(node) { const i = this.data.channels.indexOf(node); return i < 0 ? null : i; }

  get shown() { return this.data.quantities.find((q) => q.id === this.quantity.value && q.value); }

  redraw() { this.draw(); this.table(); }

  draw() {
    if (!this.data || !this.shown) return;
    const { columns, rows, column, row, marks } = this.data, q = this.shown;
    const cell = Math.max(Math.floor(Math.min(this.canvas.parentElement.clientWidth, 640) / columns), this.place.value === RING ? 3 : 8);
    const gap = cell > 5 ? 1 : 0, ratio = devicePixelRatio || 1;
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
      c.fillRect(x, y, cell - gap, cell - gap);
      if (v === null && gap) { c.strokeStyle = colour("--quiet"); c.strokeRect(x + 2, y + 2, cell - 5, cell - 5); }
    });
    q.value.forEach((_, i) => {
      const mark = Object.keys(marks).find((name) => marks[name][i]);
      const sign = mark ? SIGNS[mark] || "?" : { fail: "✖", warn: "▲" }[q.status[i]];
      if (sign) this.sign(c, column[i] * cell, row[i] * cell, sign);
    });
    if (this.cursor !== null) {
      const wide = Math.max(cell, 9), off = (wide - cell) / 2;
      c.strokeStyle = "#fff"; c.lineWidth = 5;
      c.strokeRect(column[this.cursor] * cell - off, row[this.cursor] * cell - off, wide - gap, wide - gap);
      c.strokeStyle = colour("--fail"); c.lineWidth = 3;
      c.strokeRect(column[this.cursor] * cell - off, row[this.cursor] * cell - off, wide - gap, wide - gap);
    }
    const signs = Object.entries(marks).map(([name, flags]) => `${SIGNS[name] || "?"} ${name}, ${flags.filter(Boolean).length}`);
    this.at("map-scale").textContent = known.length
      ? `Dark ${number(low)} to light ${number(high)} ${q.unit}; an empty frame has no number${signs.length ? `; marked: ${signs.join("; ")}` : ""}.`
      : "No channel has a number of this.";
  }

  sign(c, x, y, text) {
    c.font = `bold ${Math.max(this.cell * 0.6, 8)}px sans-serif`;
    c.textAlign = "center"; c.textBaseline = "middle";
    c.lineWidth = 3; c.strokeStyle = "#fff"; c.fillStyle = "#000";
    c.strokeText(text, x + this.cell / 2, y + this.cell / 2); c.fillText(text, x + this.cell / 2, y + this.cell / 2);
  }

  // The same as a table, made when somebody opens it; the ring's would have tens of thousands of rows.
  table() {
    const details = this.at("map-table"), isRing = this.place.value === RING;
    details.hidden = isRing;
    if (isRing || !details.open || !this.data) return;
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const title of ["Channel", "Column, row", ...this.data.quantities.map(titled)]) head.append(element("th", title, { scope: "col" }));
    const body = table.createTBody();
    this.data.channels.forEach((node, i) => {
      const line = body.insertRow(), name = element("th", "", { scope: "row" });
      name.append(element("button", node, { type: "button", "data-channel": node, class: "node" }));
      line.append(name);
      line.insertCell().textContent = this.data.is_mapped ? `${this.data.column[i]}, ${this.data.row[i]}` : "–";
      for (const q of this.data.quantities) {
        const cell = line.insertCell();
        cell.textContent = number(q.value[i]);
        if (["warn", "fail", "invalid"].includes(q.status[i])) cell.append(" ", status(q.status[i]));
      }
    });
    details.querySelector(".scroll").replaceChildren(table);
  }

  pick(event) {
    const i = this.cells?.get(`${Math.floor(event.offsetX / this.cell)},${Math.floor(event.offsetY / this.cell)}`);
    if (i !== undefined) this.choose(i);
  }

  move(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || !this.data) return;
    event.preventDefault();
    const from = this.cursor ?? 0;
    const i = this.cursor === null ? 0 : this.cells.get(`${this.data.column[from] + step[0]},${this.data.row[from] + step[1]}`);
    if (i !== undefined) this.choose(i);
  }

  choose(i) {
    this.cursor = i;
    this.draw();
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.ask(this.data.channels[i]), REST_MS);
  }

  // A channel by name, wherever it is: its module is shown with it.
  async open(node, module) {
    if (module && this.place.value !== module && this.place.value !== RING) { this.place.value = module; await this.load(); }
    this.cursor = this.data ? this.indexOf(node) : null;
    this.draw();
    await this.ask(node);
    this.at("channel").scrollIntoView({ block: "nearest" });
  }

  async ask(node) {
    this.wanted = node;
    try {
      const found = await ask(`${this.path}/channel?${new URLSearchParams({ node })}`);
      if (this.wanted === node) this.show(found);
    } catch (error) {
      this.at("channel-name").textContent = error.message;
    }
  }

  show(found) {
    this.chosen = found;
    history.replaceState(null, "", `#${found.node}`);
    this.at("channel").hidden = false;
    const where = [found.asic, found.module, found.place && `column ${found.place[0]}, row ${found.place[1]}`, ...found.marks].filter(Boolean);
    this.at("channel-name").textContent = found.node;
    this.at("channel-place").textContent = where.join(" · ");
    const plot = this.at("channel-plot"), s = found.spectrum;
    plot.hidden = !s;
    if (s) {
      const counts = drawSpectrum(plot, { ...s, around: found.around });
      const no = s.fit ? "" : `, no peak: ${s.text}`;
      this.at("channel-counts").textContent = `Energy in ${s.unit}, ${counts} counts${no}${s.fit && s.text ? `; ${s.text}` : ""}`;
    } else {
      plot.replaceChildren();
      this.at("channel-counts").textContent = `No spectrum: ${found.why}.`;
    }
    this.at("channel-values").replaceChildren(...found.values.map((q) => {
      const line = document.createElement("tr"), head = element("th", q.title, { scope: "row" });
      line.append(head);
      line.insertCell().textContent = q.value === null ? "–" : `${number(q.value)}${q.uncertainty ? ` ± ${number(q.uncertainty, 2)}` : ""} ${q.unit}`;
      line.insertCell().append(status(q.status));
      line.insertCell().textContent = q.beside === null ? "–" : `${number(q.beside)} ${q.unit}`;
      line.insertCell().textContent = q.reason;
      for (const k of [1, 3]) line.cells[k].className = "n";
      return line;
    }));
    this.at("channel-neighbours").replaceChildren(...found.neighbours.map((n) => {
      const item = document.createElement("li"), word = n.value === null ? "no number" : `${number(n.value)} ${n.unit}`;
      item.append(element("button", `${n.node.replace("channel:", "")}: ${word}`, { type: "button", "data-channel": n.node, class: n.status }));
      return item;
    }));
    this.at("channel-around").hidden = !found.neighbours.length;
    this.at("channel-told").textContent = `${found.node}, ${this.at("channel-counts").textContent}`;
  }

  linked() {
    const node = decodeURIComponent(location.hash.slice(1));
    if (!node.startsWith("channel:") || node === this.chosen?.node) return;
    const button = this.root.querySelector(`button[data-channel="${CSS.escape(node)}"]`);
    this.open(node, button?.dataset.module);
  }
}

if (box) { const map = new ChannelMap(box); map.load().then(() => map.linked()); }
