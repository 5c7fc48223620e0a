// What every page of ours does: its colours by a button, and episodes that are drawn when they are opened.

async function openEpisode(place, name) {
  if (place.dataset.drawn) return;
  place.dataset.drawn = "yes";
  const record = await readChunk(`episode-${name}`);
  const tokens = document.getElementById(`tokens-${name}`) ? `tokens-${name}` : null;
  place.replaceChildren(drawEpisode(record, tokens));
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
for (const details of document.querySelectorAll("details[data-episode]")) {
  const open = () => details.open && openEpisode(details.querySelector(".body"), details.dataset.episode);
  details.addEventListener("toggle", open);
  open();
}
