// Plants a fault: what the form says becomes ID=size[:place][@begin[-end]], see docs/reference/faults.md.

import { post, tell } from "/static/console.js";

const form = document.getElementById("plant-form");

function describe() {
  const kind = form.elements.kind.selectedOptions[0].dataset, size = form.elements.size;
  size.value = Number(kind.size);
  size.max = Number(kind.largest);
  document.getElementById("means").textContent = `${kind.means}; at most ${Number(kind.largest)}`;
  document.getElementById("noticed").textContent = `Sits in: ${kind.place}. Should be noticed by: ${kind.noticed}.`;
}

async function plant(event) {
  event.preventDefault();
  const { kind, size, place, begin, end, reason } = form.elements;
  const result = document.getElementById("fault-result");
  if (end.value && !(end.valueAsNumber > (begin.valueAsNumber || 0))) { tell(result, "It must end after it begins.", true); return; }
  const times = begin.value || end.value ? `@${begin.value || 0}${end.value ? `-${end.value}` : ""}` : "";
  const fault = `${kind.value}=${size.value}${place.value ? `:${place.value}` : ""}${times}`;
  try {
    const said = await post("/api/v1/faults", { fault, ...(reason.value && { reason: reason.value }) });
    tell(result, `Planted: number ${said.fault.number}, ${fault}.`, false);
  } catch (error) {
    tell(result, error.message, true);
  }
}

if (form) {
  form.elements.kind.addEventListener("change", describe);
  form.addEventListener("submit", plant);
  describe();
}
