// Commands of all pages: a form or button with data-post sends its fields as JSON and says what came of it.
// data-then: where to go once it is done (empty: this page again). data-result: id of the element that tells.
// {name} in data-post is the field of that name; a number is sent times data-times; data-null names what is sent as null.

// data-version: id of an element whose value says on which state of a device the command is based.
// What needs the password again asks for it, and then sends the command once more.

const OWN = { "Content-Type": "application/json", "X-Petqc-Console": "1" };

const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

async function sent(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { ...OWN, "Request-Id": newId() }, body: JSON.stringify(body) });
  let said = {};
  try { said = await answer.json(); } catch { /* an answer that is no JSON tells nothing more */ }
  return [answer, said];
}

export async function post(path, body) {
  let [answer, said] = await sent(path, body);
  if (said.code === "password-again" && await passwordAgain()) [answer, said] = await sent(path, body);
  if (!answer.ok) throw new Error(said.error || `the daemon answered ${answer.status}`);
  return said;
}

// Asks for the password in a dialog; whether it was given.
function passwordAgain() {
  const dialog = document.getElementById("again"), form = dialog.querySelector("form"), told = dialog.querySelector(".result");
  form.reset();
  told.hidden = true;
  dialog.returnValue = "";
  return new Promise((resolve) => {
    const give = async (event) => {
      event.preventDefault();
      const [answer, said] = await sent("/api/v1/me/password", { password: form.elements.password.value });
      if (answer.ok) dialog.close("given"); else tell(told, said.error || `the daemon answered ${answer.status}`, true);
    };
    form.addEventListener("submit", give);
    dialog.addEventListener("close", () => { form.removeEventListener("submit", give); resolve(dialog.returnValue === "given"); }, { once: true });
    dialog.showModal();
  });
}

function fields(form) {
  const body = {};
  const inPath = new Set((form.dataset.post.match(/\{\w+\}/g) || []).map((name) => name.slice(1, -1)));
  for (const field of form.elements) {
    if (!field.name || field.value === "" || inPath.has(field.name)) continue;
    if (field.type === "checkbox") body[field.name] = field.checked;
    else if ("localTime" in field.dataset) body[field.name] = new Date(field.value).toISOString();
    else if (field.type === "number") body[field.name] = field.valueAsNumber * Number(field.dataset.times || 1);
    else body[field.name] = field.value;
  }
  if (form.dataset.null) body[form.dataset.null] = null;
  if (form.dataset.version) body.version = document.getElementById(form.dataset.version).value;
  return body;
}

function words(said) {
  if (said.devices) return said.devices.map((one) => `${one.device}: ${one.state.replaceAll("_", " ").toLowerCase()}, ${one.told}`).join("; ");
  if (said.run_id && said.told) return `Run ${said.run_id} ${said.told}`;
  if (said.run_id) return said.confirmed ? `Run ${said.run_id}: ${said.confirmed}` : `Run ${said.run_id}`;
  return "Done.";
}

async function send(element, body) {
  const result = document.getElementById(element.dataset.result || "off-result");
  const buttons = element.matches("button") ? [element] : element.querySelectorAll("button");
  for (const button of buttons) button.disabled = true;
  try {
    const path = element.dataset.post.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(element.elements[name].value));
    const said = await post(path, body);
    if ("then" in element.dataset) { location.assign(element.dataset.then || location.href); return; }
    tell(result, words(said), false);
  } catch (error) {
    tell(result, error.message, true);
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

export function tell(element, text, isProblem) {
  if (!element) return;
  element.textContent = text;
  element.classList.toggle("problem", isProblem);
  element.hidden = false;
}

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
  const button = event.target.closest("button[data-post]");
  if (button) send(button, {});
});
document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-post]")) return;
  event.preventDefault();
  send(event.target, fields(event.target));
});
