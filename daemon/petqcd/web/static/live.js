// Live progress of a run: the daemon tells, this page shows; when the run has ended, the page is asked for again.

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
  const confirm = at("confirm");
  if (confirm) confirm.hidden = run.stage !== "confirm";
}

let wasActive = at("live").dataset.active === "yes";
const events = new EventSource("/api/v1/events");
events.addEventListener("state", (event) => {
  at("lost").hidden = true;
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
events.onerror = () => { at("lost").hidden = false; };
