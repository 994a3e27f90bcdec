// Tables of any length: the rows on the screen are drawn as one scrolls, and any column sorts.

const MOST_DRAWN = 300, AHEAD = 12;

// table: has a heading for each column, with data-key; cells: by key, what a row's cell holds (nodes or text);
// values: by key, what a column sorts by; rowClass, open: of a row.
const virtualTable = (table, { count, cells, values, rowClass = () => "", open = null }) => {
  const body = table.tBodies[0], frame = table.closest(".scroll"), heads = [...table.tHead.rows[0].cells];
  const keys = heads.map((th) => th.dataset.key);
  let order = Array.from({ length: count }, (_, i) => i), list = order, height = 30, found = -1, printing = false;
  const spacer = () => made("tr", { class: "space", "aria-hidden": "true" }, made("td", { colspan: heads.length }));
  const above = spacer(), below = spacer();
  const drawn = new Map();
  const row = (i) => {
    const tr = made("tr", { class: rowClass(i), "data-row": i });
    keys.forEach((key, k) => {
      const cell = cells[key](i), td = made("td", { class: heads[k].dataset.cell || heads[k].className });
      td.append(cell);
      if (td.textContent.length > 20) td.title = td.textContent;
      tr.append(td);
    });
    return tr;
  };
  const draw = () => {
    const whole = list.length <= MOST_DRAWN || printing;
    table.classList.toggle("virtual", !whole);
    const from = whole ? 0 : Math.max(0, Math.floor(frame.scrollTop / height) - AHEAD);
    const to = whole ? Math.min(list.length, MOST_DRAWN) : Math.min(list.length, Math.ceil((frame.scrollTop + frame.clientHeight) / height) + AHEAD);
    const wanted = list.slice(from, to), focused = document.activeElement;
    const keep = new Set(wanted);
    for (const i of [...drawn.keys()]) if (!keep.has(i)) drawn.delete(i);
    for (const i of wanted) if (!drawn.has(i)) drawn.set(i, row(i));
    above.firstChild.style.height = `${from * height}px`;
    below.firstChild.style.height = `${(list.length - to) * height}px`;
    const rows = wanted.map((i) => drawn.get(i));
    rows.forEach((tr, k) => { tr.setAttribute("aria-rowindex", from + k + 2); tr.classList.toggle("found", Number(tr.dataset.row) === found); });
    body.replaceChildren(...(whole ? [] : [above]), ...rows, ...(whole ? [] : [below]));
    if (focused && focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
  };
  const measure = () => {
    const first = body.querySelector("tr[data-row]");
    if (first && list.length > MOST_DRAWN && first.offsetHeight && first.offsetHeight !== height) { height = first.offsetHeight; draw(); }
  };
  const set = (next) => { list = next; table.setAttribute("aria-rowcount", list.length + 1); frame.scrollTop = 0; draw(); measure(); };
  let filter = () => true;
  const compared = (key, sign) => (a, b) => {
    const x = values[key](a), y = values[key](b);
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    const way = typeof x === "number" ? x - y || (x < y ? -1 : x > y ? 1 : 0) : x < y ? -1 : x > y ? 1 : 0;
    return sign * way || a - b;
  };
  for (const th of heads) {
    const button = made("button", { type: "button", text: th.textContent });
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      const now = th.getAttribute("aria-sort");
      const next = now ? (now === "ascending" ? "descending" : "ascending") : "first" in th.dataset ? "descending" : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", next);
      order = Array.from({ length: count }, (_, i) => i).sort(compared(th.dataset.key, next === "descending" ? -1 : 1));
      set(order.filter(filter));
    });
  }
  frame.addEventListener("scroll", () => { if (list.length > MOST_DRAWN) draw(); }, { passive: true });
  addEventListener("resize", () => { measure(); draw(); });
  addEventListener("beforeprint", () => { printing = true; draw(); });
  addEventListener("afterprint", () => { printing = false; draw(); });
  if (open) {
    body.addEventListener("click", (event) => {
      const tr = event.target.closest("tr[data-row]");
      if (tr && (event.target.closest("button") || getSelection().isCollapsed)) open(Number(tr.dataset.row));
    });
  }
  // drawing asks where it has been scrolled to: the rows that are there without scripts would be laid out for that
  body.replaceChildren();
  set(order);
  return {
    filter(keep) { filter = keep; set(order.filter(keep)); return list.length; },
    find(i) {
      found = i;
      const at = list.indexOf(i);
      if (at >= 0 && list.length > MOST_DRAWN) frame.scrollTop = Math.max(0, at * height - frame.clientHeight / 2);
      draw();
      if (at >= 0 && list.length <= MOST_DRAWN) body.querySelector(".found")?.scrollIntoView({ block: "nearest" });
    },
  };
};

const nameButton = (text) => made("button", { type: "button", class: "open", text });
