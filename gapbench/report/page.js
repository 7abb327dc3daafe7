"use strict";
// What the gallery shows stands in the address: #skill=count&run=NAME&text=WORDS. So every view has a link.
(() => {
  const cards = document.getElementById("cards");
  if (!cards) return;
  const found = JSON.parse(cards.dataset.found);
  const runs = Object.keys(found);
  const filters = document.getElementById("filters");
  const buttons = [...filters.querySelectorAll("button")];
  const search = document.getElementById("search");
  const status = document.getElementById("status");
  const entries = [...cards.children].map((card) => ({
    card,
    run: card.dataset.run,
    prompt: card.querySelector("figcaption").textContent.toLowerCase(),
    misses: [...card.querySelectorAll("li")].map((row) => ({
      row,
      skills: row.dataset.skills.split(" "),
      text: row.textContent.toLowerCase(),
    })),
  }));

  const asked = () => new URLSearchParams(location.hash.slice(1));
  const total = (run, skill) =>
    (run ? [run] : runs).reduce((sum, name) => sum + (found[name]?.[skill] ?? 0), 0);
  const count = (number) => number.toLocaleString("en");

  function show() {
    const wanted = asked();
    const skill = wanted.get("skill") ?? "";
    const run = wanted.get("run") ?? "";
    const text = (wanted.get("text") ?? "").toLowerCase();
    let here = 0;
    let shown = 0;
    for (const { card, run: of, prompt, misses } of entries) {
      let some = false;
      for (const { row, skills, text: told } of misses) {
        const meant = (!run || run === of) && (!skill || skills.includes(skill));
        const matches = meant && (prompt.includes(text) || told.includes(text));
        row.hidden = !matches;
        some ||= matches;
        here += meant;
        shown += matches;
      }
      card.hidden = !some;
    }
    for (const button of buttons) {
      const { filter, value } = button.dataset;
      button.setAttribute("aria-pressed", String(value === (filter === "skill" ? skill : run)));
      if (filter === "skill") button.querySelector("span").textContent = count(total(run, value));
    }
    const all = count(total(run, skill));
    status.textContent = text
      ? `${count(shown)} match, of ${count(here)} on this page and ${all} in all`
      : `Showing ${count(shown)} of ${all}`;
    if (search !== document.activeElement) search.value = wanted.get("text") ?? "";
  }

  function ask(name, value) {
    const wanted = new URLSearchParams({ skill: "", ...Object.fromEntries(asked()), [name]: value });
    for (const [key, given] of [...wanted]) if (!given && key !== "skill") wanted.delete(key);
    location.replace(`#${wanted}`);
  }

  function follow() {
    if (!location.hash.includes("=")) return; // a heading of the page
    show();
  }

  for (const button of buttons)
    button.addEventListener("click", () => ask(button.dataset.filter, button.dataset.value));
  search.addEventListener("input", () => ask("text", search.value));
  for (const link of document.querySelectorAll("td.share a"))
    link.addEventListener("click", () => document.getElementById("gallery").scrollIntoView());
  addEventListener("hashchange", follow);
  document.getElementById("counts").hidden = true;
  filters.hidden = status.hidden = false;
  show();
  if (asked().get("skill")) document.getElementById("gallery").scrollIntoView();
})();
