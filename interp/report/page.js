// Arrow keys move within a grid; the cell that has the focus shows what is known of it.
for (const grid of document.querySelectorAll("table.cells")) {
  const rows = Array.from(grid.tBodies[0].rows, (row) => Array.from(row.querySelectorAll("td > a")));
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  grid.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    const row = rows.findIndex((cells) => cells.includes(document.activeElement));
    if (!step || row < 0) return;
    const column = rows[row].indexOf(document.activeElement);
    const next = (rows[row + step[0]] || [])[column + step[1]];
    event.preventDefault();
    if (!next) return;
    document.activeElement.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
