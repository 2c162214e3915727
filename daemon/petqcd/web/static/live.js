// Live progress of a run: the daemon tells, this page shows; when the run has ended, the page is asked for again. What
// else changes on it, and be it by getting old, is asked for by refresh.js.

import { ask, drawSpectrum } from "./spectrum.js";

const at = (id) => document.getElementById(id);
const set = (id, text) => { const element = at(id); if (element && element.textContent !== text) element.textContent = text; };

function show(run) {
  at("progress").hidden = !run;
  const start = at("start");
  if (start) start.hidden = Boolean(run);
  if (!run) return;
  set("progress-kind", run.kind);
  set("progress-part", run.part || "");
  at("progress-bar").value = run.fraction;
  set("progress-stage", run.stage);
  set("progress-detail", run.detail || "");
  set("progress-counts", Object.entries(run.counts || {}).map(([name, n]) => `${name} ${n.toLocaleString("en")}`).join(" · "));
  showSoFar(run.so_far);
  const confirm = at("confirm");
  if (confirm) confirm.hidden = run.stage !== "confirm";
}

// What was measured until now: marked as no verdict, and no colour says how good it is.
function showSoFar(found) {
  at("so-far").hidden = !found;
  if (!found) return;
  set("so-far-remark", found.remark[0].toUpperCase() + found.remark.slice(1) + (found.simulated ? ", simulated" : ""));
  const behind = found.frames_not_analysed ? `; ${found.frames_not_analysed.toLocaleString("en")} frames left out, since this machine is busy: the verdict will be made from the recording` : "";
  set("so-far-about", `after ${found.live_time_s.toFixed(1)} s of live time${behind}`);
  const list = at("so-far-figures");
  list.replaceChildren(...found.figures.map((figure) => {
    const pair = document.createElement("div");
    const title = document.createElement("dt");
    const value = document.createElement("dd");
    title.textContent = figure.title;
    value.textContent = figure.value === null ? `no number: ${figure.reason}` : figure.text;
    pair.append(title, value);
    return pair;
  }));
  showSpectra();
}

// Spectra are asked for one by one, never faster than they come.
const PAUSE_MS = 2000;
let isAsking = false;
async function showSpectra() {
  if (isAsking) return;
  isAsking = true;
  try {
    for (const spectrum of (await ask("/api/v1/so-far")).spectra) {
      const plot = at(`so-far-${spectrum.id}`);
      if (!plot) continue;
      plot.parentElement.hidden = false;
      drawSpectrum(plot, spectrum);
    }
  } catch { /* the connection is told of where events end */ } finally {
    setTimeout(() => { isAsking = false; }, PAUSE_MS);
  }
}

// Events are told for ever, something at least every five seconds; an end without a word is noticed, too.
const SILENT_MS = 15000;
let wasActive = at("live").dataset.active === "yes";
let events = null;
let heardAt = Date.now();

function heard() {
  heardAt = Date.now();
  at("untold").hidden = true;
}

function listen() {
  events?.close();
  events = new EventSource("/api/v1/events");
  for (const name of ["state", "progress", "device", "readings", "alive"]) events.addEventListener(name, heard);
  events.addEventListener("state", (event) => {
    const run = JSON.parse(event.data).run;
    if (wasActive && !run) location.reload();
    wasActive = Boolean(run);
    show(run);
  });
  events.addEventListener("progress", (event) => { wasActive = true; show(JSON.parse(event.data)); });
  events.addEventListener("finished", () => location.reload());
  events.addEventListener("lost", (event) => {
    const result = at("run-result");
    result.textContent = `The run could not be stored: ${JSON.parse(event.data).error}`;
    result.classList.add("problem");
    result.hidden = false;
  });
  events.onerror = () => { at("untold").hidden = false; };
}

listen();
setInterval(() => {
  if (events.readyState !== EventSource.CLOSED && Date.now() - heardAt < SILENT_MS) return;
  at("untold").hidden = false;
  heardAt = Date.now();
  listen();
}, 5000);
