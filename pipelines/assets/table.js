// Tables of the class "sortable": the last row of the head gets buttons that sort, and a field above filters rows.
(() => {
"use strict";
const MISSING = new Set(["", "–", "-", "—"]);

function keyOf(cell) {
  return (cell.dataset.sort ?? cell.textContent).trim();
}

function numberOf(text) {
  return Number.parseFloat(text.replace("−", "-").replaceAll(",", ""));
}

// Numbers by value where every cell that is not missing begins with one; what is missing comes last either way.
function sorted(rows, column, sign) {
  const keys = new Map(rows.map((row) => [row, keyOf(row.cells[column])]));
  const known = rows.filter((row) => !MISSING.has(keys.get(row)));
  const missing = rows.filter((row) => MISSING.has(keys.get(row)));
  const numeric = known.every((row) => /^[-+−]?\.?\d/.test(keys.get(row)));
  const compare = numeric
    ? (a, b) => numberOf(keys.get(a)) - numberOf(keys.get(b))
    : (a, b) => keys.get(a).localeCompare(keys.get(b), undefined, { numeric: true, sensitivity: "base" });
  return [...known.sort((a, b) => sign * compare(a, b)), ...missing];
}

function addSorting(table, original) {
  const heads = table.tHead.querySelectorAll("tr:last-child th"); // a column without a name is a td
  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      table.tBodies[0].append(...(next === "none" ? original : sorted([...original], head.cellIndex, sign)));
    });
  }
}

function addFilter(table, rows) {
  const tools = document.createElement("div");
  const label = document.createElement("label");
  const field = document.createElement("input");
  const count = document.createElement("span");
  tools.className = "table-tools";
  field.type = "search";
  field.placeholder = "words to look for";
  count.setAttribute("role", "status");
  label.append("Filter rows", field);
  tools.append(label, count);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const update = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
  };
  field.addEventListener("input", update);
  table.closest(".scroll").before(tools);
  update();
}

for (const table of document.querySelectorAll("table.sortable")) {
  const rows = [...table.tBodies[0].rows];
  addSorting(table, rows);
  addFilter(table, rows);
}
})();
