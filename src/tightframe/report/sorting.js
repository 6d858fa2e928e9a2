"use strict";

// Sorts the lines of a table by the column whose heading is chosen; unknown values stay at the end.
(() => {
  function sort(button) {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[heading.cellIndex].dataset.sort;
    const numbers = heading.dataset.kind === "number";
    const rows = [...body.rows].sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      if (left === "" || right === "") return (left === "") - (right === "");
      const order = numbers ? left - right : left.localeCompare(right, "en", { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows);
  }

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button));
  }
})();
