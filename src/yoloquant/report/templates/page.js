"use strict";
// Tables sort by a click on a heading, numbers as numbers.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("th")];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const text = row => row.cells[column].textContent.trim();
      const down = head.getAttribute("aria-sort") !== "descending";
      const rows = [...body.rows];
      const numeric = rows.every(row => text(row) === "" || !isNaN(parseFloat(text(row))));
      const value = row => text(row) === "" ? -Infinity : parseFloat(text(row));
      rows.sort((x, y) => numeric ? value(y) - value(x) || 0 : text(y).localeCompare(text(x), undefined, {numeric: true}));
      body.append(...(down ? rows : rows.reverse()));
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}
// A filter keeps what holds all of its words.
for (const field of document.querySelectorAll("input[data-filter]")) {
  const target = document.getElementById(field.dataset.filter);
  const count = document.querySelector(`output[data-count="${field.dataset.filter}"]`);
  const items = () => target.tBodies ? [...target.tBodies[0].rows] : [...target.children];
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    const label = item => (item.querySelector("summary") || item).textContent.toLowerCase();
    for (const item of items()) item.hidden = !words.every(word => label(item).includes(word));
    if (count) count.textContent = `${items().filter(item => !item.hidden).length} of ${items().length}`;
  });
}
// The drawing of the network shows precision or error.
for (const button of document.querySelectorAll("button[data-colour-by]")) {
  button.addEventListener("click", () => {
    const figure = button.closest("[data-colour]");
    figure.dataset.colour = button.dataset.colourBy;
    figure.querySelector("svg").setAttribute("class", `network by-${button.dataset.colourBy}`);
    for (const other of figure.querySelectorAll("button[data-colour-by]")) other.setAttribute("aria-pressed", other === button);
  });
}
// A link opens what its aim is folded into, and a filter must not hide what a link leads to.
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  target.hidden = false;
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target.scrollIntoView({block: target.tagName === "TR" ? "center" : "start"});
}
addEventListener("hashchange", open);
// Paper shows tables whole.
addEventListener("beforeprint", () => document.querySelectorAll("details.fold").forEach(fold => { fold.open = true; }));
open();
