// Parts of a page that show how things are now (data-live) are asked for again every two seconds; a daemon that does
// not answer makes everything old. What people type into stands outside these parts.

const EVERY_MS = 2000;

async function refresh() {
  const lost = document.getElementById("lost");
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(5000) });
    if (!answer.ok || answer.redirected) throw new Error(`${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = [...document.querySelectorAll("[data-live]")];
    const next = [...page.querySelectorAll("[data-live]")];
    if (now.map((e) => e.dataset.live).join() !== next.map((e) => e.dataset.live).join()) { location.reload(); return; }
    const focused = document.activeElement?.id;
    now.forEach((element, i) => {
      const isOpen = [...element.querySelectorAll("details")].map((one) => one.open); // what somebody opened stays so
      element.replaceChildren(...next[i].childNodes);
      element.querySelectorAll("details").forEach((one, k) => { one.open = isOpen[k] ?? one.open; });
    });
    if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
    lost.hidden = true;
    document.body.classList.remove("all-stale");
  } catch {
    lost.hidden = false;
    document.body.classList.add("all-stale");
  }
}

setInterval(() => { if (!document.hidden) refresh(); }, EVERY_MS);
