// The page of devices, asked for again every two seconds; a daemon that does not answer makes everything old.

const EVERY_MS = 2000;

async function refresh() {
  const lost = document.getElementById("lost");
  try {
    const answer = await fetch("/devices", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok || answer.redirected) throw new Error(`${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = [...document.querySelectorAll("section.device")];
    const next = [...page.querySelectorAll("section.device")];
    if (now.length !== next.length) { location.reload(); return; }
    now.forEach((section, i) => {
      if (!section.contains(document.activeElement)) section.replaceChildren(...next[i].childNodes);
    });
    lost.hidden = true;
    document.body.classList.remove("all-stale");
  } catch {
    lost.hidden = false;
    document.body.classList.add("all-stale");
  }
}

setInterval(() => { if (!document.hidden) refresh(); }, EVERY_MS);
