// All of the page is there without this. It adds: a trial lights up everywhere when it is pointed at, a click keeps it;
// a drag along an axis of the parallel coordinates keeps the trials within; a click on a column's head sorts.
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const byTrial = new Map();
for (const element of all("[data-t]")) {
  const id = element.dataset.t;
  byTrial.has(id) ? byTrial.get(id).push(element) : byTrial.set(id, [element]);
}
const main = document.querySelector("main"), tip = document.getElementById("tip");
let shown = null, kept = null;

function light(id) {
  if (id === shown) return;
  for (const element of byTrial.get(shown) || []) element.classList.remove("on");
  for (const element of byTrial.get(id) || []) element.classList.add("on");
  for (const figure of all("figure")) figure.classList.toggle("dim", id !== null && !!figure.querySelector(".on"));
  shown = id;
}

function trialAt(x, y) {  // lines are thin: look around the pointer too
  for (const [dx, dy] of [[0, 0], [0, -3], [0, 3], [-3, 0], [3, 0], [0, -6], [0, 6]]) {
    const hit = document.elementFromPoint(x + dx, y + dy)?.closest("[data-t]");
    if (hit) return hit.dataset.t;
  }
  return null;
}

function tell(id, x, y) {
  tip.style.display = id === null ? "none" : "block";
  if (id === null) return;
  const row = all("tr", main).find((tr) => tr.dataset.t === id);
  const heads = row ? all("th", row.closest("table")) : [];
  const cells = row ? all("td", row).map((td, i) => [heads[i].textContent, td.textContent]) : [["trial", id]];
  tip.replaceChildren(...cells.filter(([, value]) => value).map(([name, value]) => {
    const line = document.createElement("div");
    line.textContent = `${name}: ${value}`;
    return line;
  }));
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 18}px`;
}

main.addEventListener("pointermove", (event) => {
  const id = event.target.closest("svg, tr[data-t]") ? trialAt(event.clientX, event.clientY) : null;
  light(id ?? kept);
  tell(event.target.closest("svg") ? id : null, event.clientX, event.clientY);
});
main.addEventListener("pointerleave", () => { light(kept); tell(null); });
main.addEventListener("click", (event) => {
  const hit = event.target.closest("svg, tr[data-t]") && trialAt(event.clientX, event.clientY);
  if (hit) { kept = kept === hit ? null : hit; light(kept); }
});

for (const head of all("th[data-sort]")) {
  head.addEventListener("click", () => {
    const table = head.closest("table"), column = head.cellIndex, down = head.dataset.sort === "up";
    head.dataset.sort = down ? "down" : "up";
    const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const rows = all("tr[data-t]", table).sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      if ((left === "") !== (right === "")) return left === "" ? 1 : -1;
      const order = isNaN(left) || isNaN(right) ? left.localeCompare(right) : left - right;
      return down ? -order : order;
    });
    rows.forEach((row) => row.parentNode.append(row));
  });
}

const plot = document.querySelector("#parallel svg");
if (plot) {
  const lines = all("path[data-t]", plot).map((path) => {
    const numbers = path.getAttribute("d").match(/-?[\d.]+/g).map(Number);
    return { path, x: numbers.filter((_, i) => i % 2 === 0), y: numbers.filter((_, i) => i % 2) };
  });
  const within = new Map();  // axis → [top, bottom]
  const filter = () => {
    for (const { path, y } of lines) {
      path.classList.toggle("out", [...within].some(([axis, [top, bottom]]) => y[axis] < top || y[axis] > bottom));
    }
  };
  const rect = (name, x, y, width, height) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    made.setAttribute("class", name);
    for (const [key, value] of Object.entries({ x, y, width, height })) made.setAttribute(key, value);
    return plot.appendChild(made);
  };
  const high = plot.viewBox.baseVal.height;
  (lines[0]?.x || []).forEach((x, axis) => {
    const brush = rect("brush", x - 5, 0, 10, 0), grip = rect("grip", x - 9, 0, 18, high);
    let from = null;
    const place = (event) => {
      const box = plot.getBoundingClientRect();
      return ((event.clientY - box.top) / box.height) * high;
    };
    grip.addEventListener("pointerdown", (event) => {
      grip.setPointerCapture(event.pointerId);
      from = place(event);
      within.delete(axis);
      brush.setAttribute("height", 0);
      filter();
    });
    grip.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const [top, bottom] = [from, place(event)].sort((a, b) => a - b);
      if (bottom - top < 3) return;
      within.set(axis, [top, bottom]);
      brush.setAttribute("y", top);
      brush.setAttribute("height", bottom - top);
      filter();
    });
    grip.addEventListener("pointerup", () => { from = null; });
  });
}
