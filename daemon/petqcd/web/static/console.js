// Commands of all pages: a form or button with data-post sends its fields as JSON and says what came of it.
// data-then: where to go once it is done (empty: this page again). data-result: id of the element that tells.

const OWN = { "Content-Type": "application/json", "X-Petqc-Console": "1" };

export async function post(path, body) {
  const answer = await fetch(path, { method: "POST", headers: OWN, body: JSON.stringify(body) });
  let said = {};
  try { said = await answer.json(); } catch { /* an answer that is no JSON tells nothing more */ }
  if (!answer.ok) throw new Error(said.error || `the daemon answered ${answer.status}`);
  return said;
}

function fields(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.value === "") continue;
    body[field.name] = "localTime" in field.dataset ? new Date(field.value).toISOString() : field.value;
  }
  return body;
}

function words(said) {
  if (said.devices) return said.devices.map((one) => `${one.device}: ${one.state.replaceAll("_", " ").toLowerCase()}, ${one.told}`).join("; ");
  if (said.run_id) return said.confirmed ? `Run ${said.run_id}: ${said.confirmed}` : `Run ${said.run_id}`;
  return "Done.";
}

async function send(element, body) {
  const result = document.getElementById(element.dataset.result || "off-result");
  const buttons = element.matches("button") ? [element] : element.querySelectorAll("button");
  for (const button of buttons) button.disabled = true;
  try {
    const said = await post(element.dataset.post, body);
    if ("then" in element.dataset) { location.assign(element.dataset.then || location.href); return; }
    tell(result, words(said), false);
  } catch (error) {
    tell(result, error.message, true);
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

function tell(element, text, isProblem) {
  if (!element) return;
  element.textContent = text;
  element.classList.toggle("problem", isProblem);
  element.hidden = false;
}

for (const button of document.querySelectorAll("button[data-post]")) {
  button.addEventListener("click", () => send(button, {}));
}
for (const form of document.querySelectorAll("form[data-post]")) {
  form.addEventListener("submit", (event) => { event.preventDefault(); send(form, fields(form)); });
}
