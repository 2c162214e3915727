// A run that can be asked: spectra on click, the whole report; its channels are in channels.js.

import { ask, drawSpectrum } from "/static/spectrum.js";

const spectra = document.getElementById("spectrum");

function show(figure, s) {
  figure.hidden = false;
  figure.querySelector("figcaption").textContent = `${s.quantity} ${s.node}, ${s.unit}`;
  figure.querySelector(".aside").textContent = s.text;
  drawSpectrum(figure.querySelector(".plot"), s);
}

if (spectra) {
  const buttons = [...spectra.querySelectorAll("button[data-spectrum]")];
  const figure = spectra.querySelector("figure");
  for (const button of buttons) {
    button.addEventListener("click", async () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      const query = new URLSearchParams({ id: button.dataset.spectrum, node: button.dataset.node });
      try {
        show(figure, await ask(`/api/v1/runs/${encodeURIComponent(spectra.dataset.run)}/spectrum?${query}`));
      } catch (error) {
        figure.hidden = false;
        figure.querySelector("figcaption").textContent = error.message;
      }
    });
  }
}

const report = document.getElementById("report-box");
report?.addEventListener("toggle", () => {
  if (!report.open || report.querySelector("iframe")) return;
  const frame = document.createElement("iframe");
  frame.src = report.dataset.report;
  frame.title = "The whole report of this run";
  report.append(frame);
});
