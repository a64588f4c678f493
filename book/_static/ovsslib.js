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
