// Parts of a page that show how things are now (data-live) are asked for again every two seconds, or as often as this
// script's address says (refresh.js?every=SECONDS). A daemon that does not answer makes everything old, and so does a
// page that nobody looked at, until it was asked for again. What people type into stands outside these parts.

const EVERY_MS = 1000 * (new URL(import.meta.url).searchParams.get("every") ?? 2);
const OLD_MS = EVERY_MS + 10000;

let freshAt = Date.now();
let isAsking = false;

function mark(isOld) {
  document.getElementById("lost").hidden = !isOld;
  document.body.classList.toggle("all-stale", isOld);
}

// What takes the place of an element that had the focus: the one of its name, or what says the same.
function again(element, was) {
  const found = [...element.querySelectorAll(was.tagName)];
  return found.find((one) => (was.id ? one.id === was.id : one.textContent === was.textContent));
}

async function refresh() {
  if (document.hidden || isAsking) return;
  if (Date.now() - freshAt > OLD_MS) mark(true);
  isAsking = true;
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(5000) });
    if (!answer.ok || answer.redirected) throw new Error(`${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = [...document.querySelectorAll("[data-live]")];
    const next = [...page.querySelectorAll("[data-live]")];
    if (now.map((e) => e.dataset.live).join() !== next.map((e) => e.dataset.live).join()) { location.reload(); return; }
    now.forEach((element, i) => {
      if (element.innerHTML === next[i].innerHTML) return;
      const isOpen = [...element.querySelectorAll("details")].map((one) => one.open); // what somebody opened stays so
      const focused = element.contains(document.activeElement) ? document.activeElement : null;
      element.replaceChildren(...next[i].childNodes);
      element.querySelectorAll("details").forEach((one, k) => { one.open = isOpen[k] ?? one.open; });
      if (focused) again(element, focused)?.focus({ preventScroll: true });
    });
    document.title = page.title;
    freshAt = Date.now();
    mark(false);
  } catch {
    mark(true);
  } finally {
    isAsking = false;
  }
}

setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
