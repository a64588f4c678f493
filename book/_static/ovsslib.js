// The theme moves the page's own contents out of the way of margin notes, and fails on a page that has margin notes
// but no sections: give it an empty list of contents to move.
document.addEventListener("DOMContentLoaded", () => {
  if (!document.querySelector("div.bd-sidebar-secondary")) {
    const none = document.createElement("div");
    none.className = "bd-sidebar-secondary";
    none.hidden = true;
    document.body.appendChild(none);
  }
});

// Long tables get a field that filters their rows, and headings that sort them.
document.addEventListener("DOMContentLoaded", () => {
  const number = (text) => {
    const found = text.replace("\u2212", "-").match(/^[+-]?\d[\d,]*(?:\.\d+)?/);
    return found ? parseFloat(found[0].replaceAll(",", "")) : null;
  };
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    return x !== null && y !== null ? x - y : a.localeCompare(b);
  };
  for (const table of document.querySelectorAll("table.long")) {
    const body = table.tBodies[0];
    // Cells that stand for several rows cannot be moved.
    if (table.querySelector("[rowspan]")) continue;
    const label = document.createElement("label");
    const field = document.createElement("input");
    label.className = "table-filter";
    label.textContent = "Filter rows";
    field.type = "search";
    label.append(field);
    table.parentElement.before(label);
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/);
      for (const row of body.rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
    const headings = table.tHead.rows[0].cells;
    [...headings].forEach((heading, column) => {
      if (heading.tagName !== "TH" || !heading.textContent) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const falling = heading.ariaSort === "ascending";
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.ariaSort = falling ? "descending" : "ascending";
        const text = (row) => row.cells[column].textContent;
        const rows = [...body.rows].sort((a, b) => {
          // Empty cells come last either way.
          if (!text(a) || !text(b)) return (text(a) ? 0 : 1) - (text(b) ? 0 : 1);
          return compare(text(a), text(b)) * (falling ? -1 : 1);
        });
        body.append(...rows);
      });
    });
  }
});
