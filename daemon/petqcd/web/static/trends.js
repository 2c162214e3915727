// One quantity over time: values with their errors, limits, baseline, remarks and changes of calibration.

const figure = document.getElementById("trend");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const HEIGHT = 340;

// Lines of one kind; its entry in the key is there if at least one of them is in the picture.
function linesAcross(u, values, style, dash, entry) {
  const drawn = values.filter((v) => v !== null).map((v) => lineAcross(u, v, style, dash));
  figure.querySelector(entry).hidden = !drawn.includes(true);
}

function lineAcross(u, value, style, dash) {
  const y = u.valToPos(value, "y", true);
  if (y < u.bbox.top || y > u.bbox.top + u.bbox.height) return false;
  const c = u.ctx;
  c.save();
  c.strokeStyle = style; c.lineWidth = 1.5 * devicePixelRatio; c.setLineDash(dash.map((d) => d * devicePixelRatio));
  c.beginPath(); c.moveTo(u.bbox.left, y); c.lineTo(u.bbox.left + u.bbox.width, y); c.stroke();
  c.restore();
  return true;
}

function lineUp(u, at, text) {
  const x = u.valToPos(at, "x", true);
  if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) return;
  const c = u.ctx;
  c.save();
  c.strokeStyle = c.fillStyle = colour("--quiet"); c.lineWidth = devicePixelRatio; c.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  c.beginPath(); c.moveTo(x, u.bbox.top); c.lineTo(x, u.bbox.top + u.bbox.height); c.stroke();
  c.font = `${12 * devicePixelRatio}px sans-serif`;
  c.fillText(text, Math.min(x + 4 * devicePixelRatio, u.bbox.left + u.bbox.width - c.measureText(text).width), u.bbox.top + 12 * devicePixelRatio);
  c.restore();
}

// A shape for each status, so that none is told by its colour alone.
function mark(c, x, y, status) {
  const r = 5 * devicePixelRatio;
  c.beginPath();
  if (status === "warn") { c.moveTo(x, y - r); c.lineTo(x + r, y + r); c.lineTo(x - r, y + r); c.closePath(); c.fill(); }
  else if (status === "fail") { c.moveTo(x - r, y - r); c.lineTo(x + r, y + r); c.moveTo(x + r, y - r); c.lineTo(x - r, y + r); c.lineWidth = 3 * devicePixelRatio; c.stroke(); }
  else { c.arc(x, y, 0.8 * r, 0, 2 * Math.PI); c.fill(); }
}

function drawPoints(u, points) {
  const c = u.ctx;
  points.forEach((p, i) => {
    const x = u.valToPos(u.data[0][i], "x", true), y = u.valToPos(p.value, "y", true);
    const style = colour({ warn: "--warn", fail: "--fail" }[p.status] || "--ink");
    c.save();
    c.strokeStyle = c.fillStyle = style; c.lineWidth = devicePixelRatio;
    if (p.uncertainty) {
      c.beginPath(); c.moveTo(x, u.valToPos(p.value - p.uncertainty, "y", true)); c.lineTo(x, u.valToPos(p.value + p.uncertainty, "y", true)); c.stroke();
    }
    mark(c, x, y, p.status);
    c.restore();
  });
}

// The axis holds all values with their errors, and those limits that do not flatten them.
function range(data) {
  const ends = data.points.flatMap((p) => [p.value - (p.uncertainty || 0), p.value + (p.uncertainty || 0)]);
  let low = Math.min(...ends), high = Math.max(...ends);
  const span = Math.max(high - low, Math.abs(high) * 1e-3, 1e-9);
  const more = [...Object.values(data.limits), data.baseline].filter((v) => v !== null && v > low - 3 * span && v < high + 3 * span);
  low = Math.min(low, ...more); high = Math.max(high, ...more);
  const margin = 0.08 * Math.max(high - low, span);
  return [low - margin, high + margin];
}

// ISO dates and hours of 24, in local time; only what tells two ticks apart, and ticks that are that far apart.
const DAY_S = 86400;
const [FEW_DAYS, MANY_DAYS] = [4, 400];
const span = (u) => (u.scales.x.max - u.scales.x.min) / DAY_S;

function steps(u) {
  const hours = span(u) > FEW_DAYS ? [] : [300, 900, 3600, 2 * 3600, 6 * 3600, 12 * 3600];
  const days = span(u) > MANY_DAYS ? [] : [1, 2, 7, 14];
  return [...hours, ...[...days, 30, 60, 91, 182, 365, 730, 1826].map((n) => n * DAY_S)];
}

function times(u, ticks) {
  const [from, to] = span(u) > MANY_DAYS ? [0, 7] : span(u) > FEW_DAYS ? [5, 10] : [5, 16];
  return ticks.map((t) => new Date((t - new Date(t * 1000).getTimezoneOffset() * 60) * 1000).toISOString().slice(from, to).replace("T", " "));
}

function draw(data) {
  const plot = figure.querySelector(".plot");
  plot.replaceChildren();
  const x = data.points.map((p) => Date.parse(p.at) / 1000);
  const y = data.points.map((p) => p.value);
  const axis = { stroke: colour("--ink"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const [first, last] = [x[0], x[x.length - 1]];
  const margin = Math.max((last - first) * 0.03, 3600 * (x.length > 1 ? 1 : 12));
  const u = new uPlot({
    width: plot.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { drag: { x: true, y: false } },
    scales: { x: { range: (_, a, b) => (a <= first && b >= last ? [first - margin, last + margin] : [a, b]) }, y: { range: () => range(data) } },
    axes: [{ ...axis, values: times, incrs: steps, space: 75 }, { ...axis, size: 70 }],
    series: [{}, { label: data.check, stroke: "transparent", points: { show: false } }],
    hooks: {
      draw: [(u) => {
        const limits = data.limits;
        linesAcross(u, [limits.fail_low, limits.fail_high], colour("--fail"), [], ".k-fail");
        linesAcross(u, [limits.warn_low, limits.warn_high], colour("--warn"), [6, 4], ".k-warn");
        linesAcross(u, [data.baseline], colour("--link"), [2, 3], ".k-base");
        data.points.forEach((p, i) => { if (i && p.calibration !== data.points[i - 1].calibration) lineUp(u, x[i], "calibration"); });
        for (const a of data.annotations) lineUp(u, Date.parse(a.at) / 1000, a.kind);
        drawPoints(u, data.points);
      }],
      setCursor: [(u) => {
        const p = data.points[u.cursor.idx];
        if (p) plot.title = `${p.at.slice(0, 16).replace("T", " ")}: ${p.value.toPrecision(6)} ${figure.dataset.unit} ${p.status}`;
      }],
    },
  }, [x, y], plot);
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `${data.points.length} values of ${data.check} at ${data.node}; the table below has them all`);
  u.over.addEventListener("click", () => {
    const p = data.points[u.cursor.idx];
    if (p) location.assign(`/runs/${encodeURIComponent(p.run_id)}`);
  });
  return u;
}

if (figure) {
  try {
    const answer = await fetch(figure.dataset.source);
    const data = await answer.json();
    if (!answer.ok) throw new Error(data.error);
    let u = draw(data);
    new ResizeObserver(() => u.setSize({ width: figure.querySelector(".plot").clientWidth, height: HEIGHT })).observe(figure);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { u.destroy(); u = draw(data); });
  } catch (error) {
    const problem = document.getElementById("trend-problem");
    problem.textContent = `The chart could not be drawn: ${error.message}`;
    problem.hidden = false;
  }
}
