// What happens when the page is opened: buttons that copy, then tables, the graph and the panel from the page's data.

document.documentElement.classList.add("js");
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const pre = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(pre.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(pre);
      button.textContent = "Selected";
    }
  });
}

const number = (value, digits) => (value === null ? "" : fixed(value, digits));
const cellWords = (words) => words ?? "";
const wordsIn = (box) => box.value.toLowerCase().split(/\s+/).filter(Boolean);

// A box to type in that keeps the rows with all its words.
const filterBy = (box, table, text) => {
  const keep = () => { const words = wordsIn(box); table.filter((i) => words.every((word) => text(i).includes(word))); };
  box.addEventListener("input", keep);
};

const layersTable = (net, go) => {
  const { layers } = net, total = go.work.total, time = layers.time[0] || [];
  const text = layers.node.map((node, i) => `${node} ${layers.op[i]} ${layers.why[i]}`.toLowerCase());
  const table = virtualTable(control("layers"), {
    count: net.count,
    cells: {
      index: (i) => String(i + 1), node: (i) => nameButton(layers.node[i]), op: (i) => layers.op[i],
      asked: (i) => chip(layers.asked[i]), actual: (i) => chip(layers.actual[i]),
      status: (i) => made("span", { class: `status-${layers.status[i]}`, text: layers.status[i] }),
      sqnr: (i) => levelWords(layers.level[i]), drop: (i) => number(layers.drop[i], 1),
      macs: (i) => (layers.macs[i] && total ? percentWords(layers.macs[i] / total) : ""),
      time: (i) => number(time[i] ?? null, 3), reason: (i) => cellWords(layers.why[i]),
    },
    values: {
      index: (i) => i, node: (i) => layers.node[i], op: (i) => layers.op[i], status: (i) => layers.status[i],
      asked: (i) => PRECISIONS.indexOf(layers.asked[i]), actual: (i) => PRECISIONS.indexOf(layers.actual[i]),
      sqnr: (i) => layers.level[i], drop: (i) => layers.drop[i], macs: (i) => layers.macs[i] || null,
      time: (i) => time[i] ?? null, reason: (i) => layers.why[i] || null,
    },
    rowClass: (i) => (layers.role[i] === "compute" ? "" : "sub"),
    open: (i) => go.to(i),
  });
  const picked = (id) => control(id).value;
  const filter = () => {
    const words = wordsIn(control("text")), computing = control("computing").checked;
    const [asked, actual, status] = ["asked", "actual", "status"].map(picked);
    const count = table.filter((i) => words.every((word) => text[i].includes(word)) && (!asked || layers.asked[i] === asked) &&
      (!actual || layers.actual[i] === actual) && (!status || layers.status[i] === status) && (!computing || layers.role[i] === "compute"));
    control("shown").textContent = `${count.toLocaleString("en")} of ${net.count.toLocaleString("en")} nodes`;
  };
  const clear = () => {
    for (const id of ["text", "asked", "actual", "status"]) control(id).value = "";
    control("computing").checked = true;
    filter();
  };
  for (const id of ["asked", "actual", "status", "computing"]) control(id).addEventListener("change", filter);
  control("text").addEventListener("input", filter);
  control("clear").addEventListener("click", clear);
  for (const button of document.querySelectorAll(".heat button")) {
    button.addEventListener("click", () => {
      clear();
      control("asked").value = button.dataset.asked;
      control("actual").value = button.dataset.actual;
      filter();
      control("layers-title").scrollIntoView({ behavior: "smooth" });
    });
  }
  filter();
  return {
    go(i) {
      clear();
      if (layers.role[i] !== "compute") { control("computing").checked = false; filter(); }
      control("layers-title").scrollIntoView();
      table.find(i);
    },
  };
};

const rangesTable = (net) => {
  const { ranges, tensors } = net, name = (k) => tensors.name[ranges.tensor[k]];
  const percent = (value) => (value === null ? "" : `${fixed(100 * value, 3)} %`);
  const table = virtualTable(control("ranges"), {
    count: ranges.tensor.length,
    cells: {
      tensor: name, amax: (k) => String(ranges.amax[k]), method: (k) => ranges.method[k], bins: (k) => histogram(ranges, k),
      profiles: (k) => ranges.profiles[k], clipped: (k) => percent(ranges.clipped[k]), sqnr: (k) => number(ranges.sqnr[k], 1),
      outlier: (k) => number(ranges.outlier[k], 1), samples: (k) => String(ranges.samples[k]),
    },
    values: {
      tensor: name, bins: () => 0,
      ...Object.fromEntries(["amax", "method", "profiles", "clipped", "sqnr", "outlier", "samples"].map((key) => [key, (k) => ranges[key][k]])),
    },
  });
  filterBy(control("ranges-text"), table, (k) => name(k).toLowerCase());
};

const declinedTable = (net, go) => {
  const { declines } = net, node = (k) => (declines.at[k] >= 0 ? nameButton(declines.node[k]) : declines.node[k]);
  const plain = Object.fromEntries(["node", "op", "rule", "reason", "by"].map((key) => [key, (k) => declines[key][k]]));
  const table = virtualTable(control("declined"), {
    count: declines.at.length, cells: { ...plain, node }, values: plain,
    open: (k) => { if (declines.at[k] >= 0) go.to(declines.at[k]); },
  });
  const box = control("declined-text");
  filterBy(box, table, (k) => `${declines.node[k]} ${declines.op[k]} ${declines.rule[k]} ${declines.reason[k]} ${declines.by[k]}`.toLowerCase());
  for (const button of document.querySelectorAll("[data-rule]")) {
    button.addEventListener("click", () => {
      box.value = button.dataset.rule;
      box.dispatchEvent(new Event("input"));
    });
  }
};

const harmsTable = (net, go) => {
  const { harms, layers } = net, value = (at) => (k) => harms[k][at];
  const kept = control("harms").dataset, fixed = (at) => (k) => number(harms[k][at], 1);
  const plan = (k) => (harms[k][4] ? kept.rest : kept.precision);
  virtualTable(control("harms"), {
    count: harms.length,
    cells: { node: (k) => nameButton(layers.node[harms[k][0]]), op: (k) => layers.op[harms[k][0]], alone: fixed(1), without: fixed(2), share: (k) => percentWords(harms[k][3]), plan: (k) => chip(plan(k)) },
    values: { node: (k) => layers.node[harms[k][0]], op: (k) => layers.op[harms[k][0]], alone: value(1), without: value(2), share: value(3), plan: (k) => harms[k][4] },
    open: (k) => go.to(harms[k][0]),
  });
};

// The precision map tells which layer lies under the pointer, and opens it.
const precisionMap = (net, go) => {
  const { layers } = net, map = control("map"), svg = map.querySelector("svg");
  const computing = layers.role.flatMap((role, i) => (role === "compute" ? [i] : []));
  const tip = made("div", { class: "tip" }), cursor = drawn("line", { class: "cursor", y1: 0, y2: svg.viewBox.baseVal.height });
  tip.hidden = true;
  map.append(tip);
  const under = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const at = Math.floor(point.x / 1000 * computing.length);
    return point.x >= 0 && at < computing.length ? at : -1;
  };
  svg.addEventListener("pointermove", (event) => {
    const at = under(event);
    tip.hidden = at < 0;
    if (at < 0) { cursor.remove(); return; }
    const i = computing[at], level = layers.level[i];
    tip.textContent = `${layers.node[i]} · ${layers.op[i]} · requested ${layers.asked[i]}, runs in ${layers.actual[i]}, ${layers.status[i]}` +
      (level === null ? "" : ` · ${levelWords(level)} dB`);
    const x = String((at + 0.5) * 1000 / computing.length);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    svg.append(cursor);
    const box = map.getBoundingClientRect(), left = event.clientX - box.left;
    tip.style.top = `${event.clientY - box.top + 16}px`;
    tip.style.left = left < box.width / 2 ? `${left + 12}px` : "";
    tip.style.right = left < box.width / 2 ? "" : `${box.width - left + 12}px`;
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; cursor.remove(); });
  svg.addEventListener("click", (event) => { const at = under(event); if (at >= 0) go.to(computing[at]); });
};

// A box to type in that lists layers whose names hold all its words.
const searchBox = (net, go) => {
  const box = control("find"), list = control("finds"), { layers } = net;
  const lower = layers.node.map((node, i) => `${node} ${layers.op[i]}`.toLowerCase());
  let hits = [], at = -1;
  const mark = (next) => {
    at = hits.length ? (next + hits.length) % hits.length : -1;
    [...list.children].forEach((item, k) => item.setAttribute("aria-selected", String(k === at)));
    if (at >= 0) { box.setAttribute("aria-activedescendant", `find-${at}`); list.children[at].scrollIntoView({ block: "nearest" }); }
  };
  const close = () => { list.hidden = true; box.setAttribute("aria-expanded", "false"); };
  const take = (k) => { close(); go.to(hits[k]); };
  box.addEventListener("input", () => {
    const words = wordsIn(box);
    hits = [];
    for (let i = 0; words.length && i < net.count && hits.length < 30; i++) if (words.every((word) => lower[i].includes(word))) hits.push(i);
    list.replaceChildren(...hits.map((i, k) => made("li", { role: "option", id: `find-${k}`, onpointerdown: (event) => { event.preventDefault(); take(k); } },
      made("span", { class: `chip ${layers.actual[i] === "none" ? layers.asked[i] : layers.actual[i]}`, text: layers.op[i] }), " ", made("span", { class: "name", text: layers.node[i] }))));
    if (words.length && !hits.length) list.append(made("li", { class: "soft", text: "No layer has such a name." }));
    list.hidden = !words.length;
    box.setAttribute("aria-expanded", String(!list.hidden));
    mark(0);
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") { event.preventDefault(); mark(at + 1); }
    if (event.key === "ArrowUp") { event.preventDefault(); mark(at - 1); }
    if (event.key === "Enter" && at >= 0) { event.preventDefault(); take(at); }
    if (event.key === "Escape") close();
  });
  box.addEventListener("blur", close);
};

const start = async (source) => {
  const net = networkOf(await unpacked(source)), { layers } = net;
  const compute = layers.role.map((role) => role === "compute");
  const known = layers.macs.every((one, i) => !compute[i] || one !== null);
  const total = known ? layers.macs.reduce((sum, one, i) => sum + (compute[i] ? one : 0), 0) : 0;
  let graph = null, panel = null;
  const go = {
    work: { total },
    to(i, move = true) { panel.show(i); if (graph && move) graph.reveal(i); },
    closed: () => graph?.unchoose(),
  };
  document.documentElement.classList.add("live");
  if (control("canvas") && net.edges.length) {
    graph = graphView(net, go);
    searchBox(net, go);
    go.graph = (i) => { control("canvas").scrollIntoView(); graph.reveal(i); };
  }
  panel = panelOf(net, go);
  if (control("layers")) {
    const table = layersTable(net, go);
    go.table = (i) => { panel.close(); table.go(i); };
  }
  if (control("ranges")) rangesTable(net);
  if (control("declined")) declinedTable(net, go);
  if (control("harms")) harmsTable(net, go);
  if (control("map")) precisionMap(net, go);
  for (const one of document.querySelectorAll("[data-layer]")) {
    one.addEventListener("click", () => { const i = net.index.get(one.dataset.layer); if (i !== undefined) go.to(i); });
  }
  const follow = () => {
    if (!location.hash.startsWith("#layer=")) return;
    let name = location.hash.slice("#layer=".length);
    try { name = decodeURIComponent(name); } catch { /* a name with a percent sign that nobody encoded */ }
    const i = net.index.get(name);
    if (i === undefined || i === panel.current) return;
    if (graph) control("canvas").scrollIntoView();
    go.to(i);
  };
  addEventListener("hashchange", follow);
  follow();
  document.documentElement.dataset.ready = "true";
};

const source = control("data");
if (source && "DecompressionStream" in window) start(source);
