// Plots of spectra, and how numbers are asked for and written: shared by the scripts of the run page.

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export async function ask(path) {
  const answer = await fetch(path);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

export function number(value, digits = 5) {
  return value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 6, useGrouping: Math.abs(value) >= 1e4 });
}

const PARTS = [["around", [6, 4], "--invalid", "mean of the neighbours"], ["fit", [], "--link"], ["background", [4, 3], "--warn"], ["delayed", [2, 2], "--fail"]];

// s: edges and counts, and what is drawn over them where it is there: fit, background, delayed, around.
export function drawSpectrum(plot, s) {
  plot.replaceChildren();
  plot.watching?.disconnect();
  const centres = s.counts.map((_, i) => (s.edges[i] + s.edges[i + 1]) / 2);
  const axis = { stroke: colour("--ink"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const data = [centres, s.counts];
  const series = [{ label: s.unit }, { label: "counts", stroke: colour("--quiet"), fill: `color-mix(in srgb, ${colour("--quiet")} 25%, transparent)`, points: { show: false } }];
  for (const [name, dash, style, label] of PARTS) {
    if (s[name]) { data.push(s[name]); series.push({ label: label || name, stroke: colour(style), width: 2, dash, points: { show: false } }); }
  }
  const u = new uPlot({
    width: plot.clientWidth, height: 320, axes: [{ ...axis, values: (_, ticks) => ticks.map((t) => number(t)) }, { ...axis, size: 70 }],
    scales: { x: { time: false } }, series, cursor: { drag: { x: true, y: false } }, legend: { show: true },
  }, data, plot);
  const counts = s.counts.reduce((a, b) => a + (b || 0), 0).toLocaleString("en");
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-label", `Spectrum of ${s.node}, ${counts} counts`);
  plot.watching = new ResizeObserver(() => u.setSize({ width: plot.clientWidth, height: 320 }));
  plot.watching.observe(plot);
  return counts;
}
