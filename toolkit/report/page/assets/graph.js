// The network as a tree of groups: what each holds, and where its members lie once it is open.

const BOX = { font: "600 13px system-ui, sans-serif", small: "11.5px system-ui, sans-serif", most: 240, least: 92, head: 26, pad: 14 };
const MOST_PORTS = 24, READABLE = 0.62, MOST_AT_FIRST = 90;

const treeOf = (net, groups) => {
  const { count, layers } = net, ends = net.edges.filter((edge) => edge.to < 0);
  // ids: layers, then the model's inputs, then its outputs, then groups; -1 is the whole
  const inputs = count, outputs = count + net.inputs.length, first = outputs + ends.length;
  const size = first + groups.titles.length;
  const home = new Int32Array(size).fill(-1), parent = home.slice(), kids = new Map([[-1, []]]), drawn = new Uint8Array(count);
  groups.titles.forEach((_, g) => kids.set(first + g, []));
  groups.parents.forEach((up, g) => { home[first + g] = up < 0 ? -1 : first + up; });
  const entry = new Map(net.inputs.map((name, k) => [name, inputs + k]));
  const stats = new Map(), stat = () => ({ nodes: 0, ops: new Map(), runs: new Map(), differs: 0, macs: 0, time: null, level: null, harm: null, lost: null, slower: null });
  for (let i = 0; i < count; i++) {
    if (net.beside.has(i)) continue;
    drawn[i] = 1;
    home[i] = groups.of[i] < 0 ? -1 : first + groups.of[i];
  }
  const time = layers.time[0];
  const add = (into, i) => {
    into.nodes++;
    into.ops.set(layers.op[i], (into.ops.get(layers.op[i]) || 0) + 1);
    const runs = layers.actual[i] === "none" ? layers.asked[i] : layers.actual[i];
    if (layers.role[i] === "compute") into.runs.set(runs, (into.runs.get(runs) || 0) + 1);
    into.differs += layers.differs[i];
    into.macs += layers.macs[i] || 0;
    if (time && time[i] !== null) into.time = (into.time || 0) + time[i];
    const level = layers.level[i];
    if (level !== null) into.level = into.level === null ? level : Math.min(into.level, level);
    if (net.other) {
      const lost = net.other.lost[i], slower = net.other.slower[i];
      if (lost !== null) into.lost = into.lost === null ? lost : Math.max(into.lost, lost);
      if (slower !== null) into.slower = (into.slower || 0) + slower;
    }
    const harm = net.harmOf.get(i);
    if (harm) into.harm = (into.harm || 0) + harm[3];
  };
  const hidden = (i) => layers.role[i] === "other" && !net.showsOther;
  const fill = () => {
    for (const list of kids.values()) list.length = 0;
    stats.clear();
    parent.set(home);
    const seen = new Set();
    const place = (id) => {
      for (let at = id; at !== -1 && !seen.has(at); at = parent[at]) { seen.add(at); kids.get(parent[at]).push(at); }
    };
    net.inputs.forEach((_, k) => place(inputs + k));
    for (let i = 0; i < count; i++) {
      if (!drawn[i] || hidden(i)) continue;
      place(i);
      stats.set(i, stat());
      add(stats.get(i), i);
      for (let up = parent[i]; up !== -1; up = parent[up]) {
        if (!stats.has(up)) stats.set(up, stat());
        add(stats.get(up), i);
      }
    }
    ends.forEach((_, k) => place(outputs + k));
    // a group that shows one member alone is none; groups come after those they lie in
    for (let id = size - 1; id >= first; id--) {
      if (kids.get(id).length !== 1) continue;
      const around = kids.get(parent[id]), [only] = kids.get(id);
      around[around.indexOf(id)] = only;
      parent[only] = parent[id];
      kids.get(id).length = 0;
      stats.delete(id);
    }
  };
  const source = (edge) => (edge.from >= 0 ? edge.from : entry.get(net.tensors.name[edge.tensor]) ?? -2);
  const shows = (id) => id >= 0 && (id >= count || (drawn[id] && !hidden(id)));
  const edges = net.edges.map((edge) => ({ ...edge, source: source(edge), target: edge.to >= 0 ? edge.to : -2 }));
  let end = 0;
  for (const edge of edges) if (edge.target === -2) edge.target = outputs + end++;
  const out = new Map(), into = new Map();
  const put = (map, key, edge) => { if (map.has(key)) map.get(key).push(edge); else map.set(key, [edge]); };
  for (const edge of edges) { put(out, edge.source, edge); put(into, edge.target, edge); }
  const leaves = (id) => {
    const found = [], pending = [id];
    while (pending.length) {
      const one = pending.pop();
      if (one !== -1 && one < first) found.push(one);
      else for (const kid of kids.get(one)) pending.push(kid);
    }
    return found;
  };
  const kidOf = (id, group) => {
    let at = id;
    while (at !== -1 && parent[at] !== group) at = parent[at];
    return at;
  };
  fill();
  const tree = {
    first, inputs, outputs, parent, kids, stats, fill, leaves, kidOf, shows, edges,
    feeds: (id) => out.get(id) || [], reads: (id) => into.get(id) || [],
    isGroup: (id) => id >= first,
    title: (id) => (id >= first ? groups.titles[id - first] : id >= outputs ? net.outputs[id - outputs] : id >= inputs ? net.inputs[id - inputs] : layers.op[id]),
    below: (id) => {
      if (id >= first) {
        const { nodes, ops } = stats.get(id);
        const most = [...ops].sort((a, b) => b[1] - a[1]).slice(0, 2).map(([op, n]) => (n > 1 ? `${op} ×${n}` : op));
        return `${nodes.toLocaleString("en")} ${nodes === 1 ? "node" : "nodes"} · ${most.join(", ")}`;
      }
      if (id >= outputs) return "output";
      if (id >= inputs) return "input";
      const parts = layers.node[id].split("/").filter(Boolean), last = parts.at(-1);
      return last === layers.op[id] && parts.length > 1 ? parts.at(-2) : last;
    },
    ancestors: (id) => { const list = []; for (let up = parent[id]; up !== -1; up = parent[up]) list.push(up); return list; },
  };
  return tree;
};

const pen = document.createElement("canvas").getContext("2d");
const widths = new Map();
const widthOf = (text, font) => {
  const key = font + text;
  if (!widths.has(key)) { pen.font = font; widths.set(key, pen.measureText(text).width); }
  return widths.get(key);
};
const fitted = (text, font, room) => {
  if (widthOf(text, font) <= room) return text;
  let low = 1, high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    // the end of a name tells it from its neighbours
    if (widthOf(`…${text.slice(-middle)}`, font) <= room) low = middle; else high = middle - 1;
  }
  return `…${text.slice(-low)}`;
};

// Where everything in an open group lies, from the group's own corner. value: what a box shows at its right.
const layoutOf = (tree, open, value) => {
  const layout = (id) => {
    const boxes = [], at = new Map();
    for (const kid of tree.kids.get(id)) {
      const isOpen = tree.isGroup(kid) && open.has(kid);
      let box;
      if (isOpen) {
        box = layout(kid);
      } else {
        const title = tree.title(kid), right = value(kid);
        const room = Math.max(widthOf(title, BOX.font) + (tree.isGroup(kid) ? 16 : 0) + (right ? widthOf(right, BOX.small) + 14 : 0), widthOf(tree.below(kid), BOX.small));
        box = { w: Math.min(BOX.most, Math.max(BOX.least, room + 24)), h: tree.isGroup(kid) ? 48 : 38 };
      }
      Object.assign(box, { id: kid, open: isOpen });
      at.set(kid, boxes.length);
      boxes.push(box);
    }
    const joined = new Map(), ins = new Map(), outs = new Map();
    const join = (from, to, edge) => {
      const apart = boxes[from]?.open || boxes[to]?.open || from >= boxes.length || to >= boxes.length;
      const key = `${from} ${to} ${apart ? edge.tensor : ""}`;
      if (!joined.has(key)) joined.set(key, { from, to, tensors: new Map(), marks: 0 });
      joined.get(key).tensors.set(edge.tensor, edge);
      joined.get(key).marks |= edge.marks;
    };
    const ports = [];
    const port = (side, tensor) => {
      const key = side.size >= MOST_PORTS && !side.has(tensor) ? [...side.keys()].at(-1) : tensor;
      if (!side.has(key)) { side.set(key, ports.length); ports.push({ w: 8, h: 0, first: side === ins, last: side === outs, tensor }); }
      return boxes.length + side.get(key);
    };
    for (const leaf of tree.leaves(id)) {
      const from = at.get(tree.kidOf(leaf, id));
      for (const edge of tree.feeds(leaf)) {
        if (!tree.shows(edge.target)) continue;
        const other = tree.kidOf(edge.target, id), to = other === -1 ? port(outs, edge.tensor) : at.get(other);
        if (to !== from) join(from, to, edge);
      }
      for (const edge of tree.reads(leaf)) {
        if (tree.shows(edge.source) && tree.kidOf(edge.source, id) === -1) join(port(ins, edge.tensor), from, edge);
      }
    }
    const all = [...boxes, ...ports], edges = [...joined.values()];
    const size = layered(all, edges);
    const w = Math.max(size.w, id === -1 ? 0 : widthOf(tree.title(id), BOX.font) + 40);
    const shift = { x: (w - size.w) / 2 + BOX.pad, y: id === -1 ? BOX.pad : BOX.head + 4 };
    for (const box of all) { box.x += shift.x; box.y += shift.y; }
    for (const edge of edges) for (const lane of edge.lanes) { lane.x += shift.x; lane.top += shift.y; lane.bottom += shift.y; }
    const portX = (side) => new Map([...side].map(([tensor, k]) => [tensor, ports[k].x]));
    return { w: w + 2 * BOX.pad, h: size.h + shift.y + (id === -1 ? BOX.pad : 10), boxes, ports, edges, all, ins: portX(ins), outs: portX(outs) };
  };
  return layout(-1);
};

const boxesIn = (drawing) => drawing.boxes.reduce((sum, box) => sum + 1 + (box.open ? boxesIn(box) : 0), 0);

// The groups to open at first: level by level, as long as the whole stays readable on the screen.
const openAtFirst = (tree, room) => {
  let open = new Set(), level = tree.kids.get(-1).filter(tree.isGroup);
  while (level.length) {
    const next = new Set([...open, ...level]);
    const boxes = [-1, ...next].reduce((sum, id) => sum + tree.kids.get(id).length, 0);
    if (boxes > MOST_AT_FIRST) break;
    const drawing = layoutOf(tree, next, () => "fp16");
    if (Math.min(room.w / drawing.w, room.h / drawing.h) < READABLE) break;
    open = next;
    level = level.flatMap((id) => tree.kids.get(id).filter(tree.isGroup));
  }
  return open;
};
