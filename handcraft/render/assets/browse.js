"use strict";
// Shows the clips that the filters let through, a screenful at a time. A choice's value is "=" and the text that a clip
// must have; an empty one lets all through.
(() => {
  const PER_PAGE = 24;
  const form = document.getElementById("filters");
  const grid = document.getElementById("clips");
  const [count, play, previous, next] = ["count", "play", "previous", "next"].map((id) => document.getElementById(id));
  let found = [];
  let page = 0;

  function fits(clip) {
    const { part, side, share } = form.elements;
    const texts = ["title", "group", "split"].every((name) => {
      const wanted = form.elements[name]?.value ?? "";
      return wanted === "" || wanted === `=${clip[name]}`;
    });
    const seen = part.value === "" || clip.seen[part.value] === Number(share.value);
    const better = part.value !== "" && (clip.seen[part.value] > Number(share.value)) === (side.value === "least");
    return texts && (seen || better);
  }

  function filter() {
    const { part, side, share, percent } = form.elements;
    percent.value = `${share.value}%`;
    [side, share].forEach((control) => { control.parentElement.hidden = part.value === ""; });
    found = window.handcraft.clips.flatMap((clip, number) => (fits(clip) ? [number] : []));
    page = 0;
    show();
  }

  function clocks() {
    return [...grid.children].map((figure) => window.handcraft.clock(figure));
  }

  function show() {
    clocks().forEach((clock) => clock.pause());
    const start = page * PER_PAGE;
    const numbers = found.slice(start, start + PER_PAGE);
    grid.replaceChildren(...numbers.map((number) => {
      const figure = document.createElement("figure");
      figure.className = "player";
      figure.dataset.clip = number;
      figure.dataset.strips = "bars";
      return figure;
    }));
    [...grid.children].forEach(window.handcraft.mount);
    const range = found.length > PER_PAGE ? `${start + 1} to ${start + numbers.length} of ` : "";
    count.value = found.length ? `${range}${found.length} clips` : "No clip fits these filters.";
    previous.disabled = page === 0;
    next.disabled = start + PER_PAGE >= found.length;
    play.disabled = !numbers.length;
    play.textContent = "Play all";
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  previous.addEventListener("click", () => { page -= 1; show(); });
  next.addEventListener("click", () => { page += 1; show(); });
  play.addEventListener("click", () => {
    const start = !clocks().some((clock) => clock.running);
    clocks().forEach((clock) => (start ? clock.play() : clock.pause()));
    play.textContent = start ? "Pause all" : "Play all";
  });
  filter();
})();
