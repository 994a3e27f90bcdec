// The graph on the page: colours, opening and closing, zoom, keyboard, search and links.

const COLOURS = {
  precision: { words: () => "" },
  level: { words: (one) => (one.level === null ? "" : `${levelWords(one.level)}${Number.isFinite(one.level) ? " dB" : ""}`), heat: (one, scale) => (one.level === null ? null : Math.min(1, Math.max(0, (scale.high - one.level) / (scale.high - scale.low || 1)))) },
  time: { words: (one) => (one.time === null ? "" : `${one.time.toPrecision(3)} ms`), heat: (one, scale) => (one.time === null ? null : Math.sqrt(one.time / (scale.time || 1))) },
  lost: { words: (one) => (one.lost === null ? "" : `${one.lost > 0 ? "−" : "+"}${fixed(Math.abs(one.lost), 1)} dB`), heat: (one, scale) => (one.lost === null ? null : Math.min(1, Math.max(0, one.lost) / (scale.lost || 1))) },
  slower: { words: (one) => (one.slower === null ? "" : `${one.slower < 0 ? "−" : "+"}${Math.abs(one.slower).toPrecision(3)} ms`), heat: (one, scale) => (one.slower === null ? null : Math.sqrt(Math.max(0, one.slower) / (scale.slower || 1))) },
  harm: { words: (one) => (one.harm === null ? "" : percentWords(one.harm)), heat: (one, scale) => (one.harm === null ? null : Math.sqrt(one.harm / (scale.harm || 1))) },
  macs: { words: (one, work) => (one.macs ? percentWords(one.macs / work.total) : ""), heat: (one, scale) => (one.macs ? Math.sqrt(one.macs / (scale.macs || 1)) : null) },
};

const graphView = (net, go) => {
  const canvas = control("canvas"), svg = drawn("svg", { role: "group", "aria-label": "The network" });
  const { layers } = net;
  net.showsOther = false;
  const trees = { scopes: treeOf(net, net.scopes), ...(net.kernels ? { kernels: treeOf(net, net.kernels) } : {}) };
  const state = { tree: trees.scopes, open: new Set(), colour: "precision", scale: 1, chosen: -1 };
  const places = new Map();
  let drawing = null;
  canvas.append(svg);
  const room = () => ({ w: canvas.clientWidth - 8, h: Math.max(canvas.clientHeight, 360) - 8 });
  const levels = layers.level.filter((one) => one !== null && Number.isFinite(one)).sort((a, b) => a - b);
  const bounds = { low: levels[0] ?? 0, high: levels[Math.floor(levels.length * 0.95)] ?? 60 };
  const value = (id) => {
    const one = state.tree.stats.get(id);
    if (!one) return "";
    if (state.colour !== "precision") return COLOURS[state.colour].words(one, go.work);
    if (state.tree.isGroup(id)) return "";
    const runs = [...one.runs.keys()][0];
    return runs && runs !== "none" ? runs.toUpperCase() : "";
  };

  const label = (text, x, y, attributes) => drawn("text", { x: x.toFixed(1), y: y.toFixed(1), ...attributes }, text);
  const said = (id) => {
    const { tree } = state, one = tree.stats.get(id);
    if (!one) return `${tree.below(id)} ${tree.title(id)}`;
    if (tree.isGroup(id)) return `${state.open.has(id) ? "Open" : "Closed"} group ${tree.title(id)}, ${tree.below(id)}${one.differs ? `, ${one.differs} outlined in red inside` : ""}`;
    return `${layers.op[id]} ${layers.node[id]}, requested ${layers.asked[id]}, runs in ${layers.actual[id]}${one.level === null ? "" : `, ${levelWords(one.level)} dB`}`;
  };
  const paint = (box, element, scale) => {
    const { tree } = state, one = tree.stats.get(box.id), left = box.x - box.w / 2;
    const frame = drawn("rect", { class: "frame", x: left, y: box.y, width: box.w, height: box.h, rx: tree.isGroup(box.id) ? 9 : 6 });
    element.append(frame);
    if (!one) { element.classList.add("end"); return; }
    if (one.differs) element.classList.add("differs");
    if (box.open) return;
    const heat = COLOURS[state.colour].heat;
    if (heat) {
      const at = heat(one, scale);
      element.append(drawn("rect", { class: at === null ? "cold" : "heat", x: left, y: box.y, width: box.w, height: box.h, rx: 6, "fill-opacity": at === null ? 1 : (0.06 + 0.84 * at).toFixed(2) }));
      element.classList.toggle("hot", at !== null && at > 0.55);
      return;
    }
    const total = [...one.runs.values()].reduce((a, b) => a + b, 0);
    if (!total) return;
    if (!tree.isGroup(box.id)) {
      const runs = [...one.runs.keys()][0];
      element.append(drawn("rect", { class: `tint ${runs}`, x: left, y: box.y, width: box.w, height: box.h, rx: 6 }), drawn("rect", { class: `bar ${runs}`, x: left, y: box.y, width: 5, height: box.h, rx: 2 }));
      return;
    }
    let x = left + 9;
    for (const runs of PRECISIONS) {
      const share = ((one.runs.get(runs) || 0) / total) * (box.w - 18);
      if (share) element.append(drawn("rect", { class: `bar ${runs}`, x: x.toFixed(1), y: box.y + box.h - 9, width: share.toFixed(1), height: 5 }));
      x += share;
    }
  };
  const drawBox = (box, scale) => {
    const { tree } = state, left = box.x - box.w / 2, group = tree.isGroup(box.id);
    const element = drawn("g", { class: `box ${group ? (box.open ? "group open-group" : "group") : "node"}`, "data-id": box.id, tabindex: "-1", role: "button", "aria-label": said(box.id), ...(group ? { "aria-expanded": String(box.open) } : {}) });
    paint(box, element, scale);
    const right = box.open ? "" : value(box.id), sign = group ? (box.open ? "− " : "+ ") : "";
    const room = box.w - 20 - (right ? widthOf(right, BOX.small) + 8 : 0);
    element.append(label(sign + fitted(tree.title(box.id), BOX.font, room - (group ? 14 : 0)), left + 11, box.y + (group ? 18 : 16), { class: "title" }));
    if (right) element.append(label(right, left + box.w - 8, box.y + (group ? 18 : 16), { class: "right", "text-anchor": "end" }));
    if (!box.open) element.append(label(fitted(tree.below(box.id), BOX.small, box.w - 20), left + 11, box.y + (group ? 33 : 31), { class: "below" }));
    const one = tree.stats.get(box.id);
    if (group && one?.differs && !box.open) {
      element.append(drawn("circle", { class: "badge", cx: left + box.w - 4, cy: box.y + 4, r: 9 }), label(one.differs > 99 ? "99" : `${one.differs}`, left + box.w - 4, box.y + 8, { class: "badge-text", "text-anchor": "middle" }));
    }
    element.append(drawn("title", {}, tree.isGroup(box.id) || box.id >= net.count ? tree.title(box.id) : layers.node[box.id]));
    return element;
  };
  // a mark for a reformat lies where a group of nodes that are timed together takes in what another makes
  const reformat = (edge) => {
    const group = net.reformatOf.get(edge.to);
    return group && edge.from >= 0 && net.reformatOf.get(edge.from) !== group && group[1] ? 4 : 0;
  };
  const drawEdge = (edge, scene, taken) => {
    const [low, high] = edge.back ? [edge.to, edge.from] : [edge.from, edge.to];
    const ends = [scene.all[low], scene.all[high]], tensors = [...edge.tensors.values()];
    const first = tensors[0], at = (box, side) => (box.open && box[side].has(first.tensor) ? box.x - box.w / 2 + box[side].get(first.tensor) : box.x);
    const from = { x: at(ends[0], "outs"), y: ends[0].first ? BOX.head : ends[0].y + ends[0].h }, to = { x: at(ends[1], "ins"), y: ends[1].last ? scene.h : ends[1].y };
    const element = drawn("g", { class: "edge", "data-from": ends[edge.back ? 1 : 0].id ?? "", "data-to": ends[edge.back ? 0 : 1].id ?? "" });
    element.append(drawn("path", { d: wayOf(from, edge.lanes, to), class: "way" }));
    // ways end upright, so that a head needs no direction
    const head = edge.back ? from : to, length = edge.back ? 8 : -8;
    element.append(drawn("path", { d: `M${head.x} ${head.y}l-4 ${length}h8Z`, class: "head" }));
    const marks = tensors.reduce((all, one) => all | one.marks | reformat(one), 0);
    const last = edge.lanes.at(-1), before = last ? { x: last.x, y: last.bottom } : from;
    const middle = { x: (before.x + to.x) / 2, y: (before.y + to.y) / 2 };
    const inner = ends[1].id === undefined || ends[1].open;
    let x = middle.x - (((marks & 1) + ((marks & 2) >> 1) + ((marks & 4) >> 2)) - 1) * 7;
    const mark = (shape) => { element.append(shape); x += 14; };
    const dtype = net.tensors.words[(tensors.find((one) => one.marks & 1) || first).carried].split(" ")[0];
    if (!inner && marks & 1) mark(drawn("path", { class: `mark bar ${dtype}`, d: `M${x} ${middle.y - 6}l6 6l-6 6l-6 -6Z` }));
    if (!inner && marks & 2) mark(drawn("circle", { class: "mark cast", cx: x, cy: middle.y, r: 4.5 }));
    if (!inner && marks & 4) mark(drawn("rect", { class: "mark reformat", x: x - 4.5, y: middle.y - 4.5, width: 9, height: 9 }));
    const row = Math.round(middle.y / 12);
    const free = (left, right) => (taken.get(row) || []).every(([a, b]) => left > b || right < a);
    const take = (left, right) => { for (const r of [row - 1, row, row + 1]) taken.set(r, [...(taken.get(r) || []), [left, right]]); };
    take(middle.x - 8, x - 4);
    const words = tensors.length > 1 ? `${tensors.length} tensors` : net.tensors.words[first.carried], left = x + 1;
    const write = () => {
      const right = left + widthOf(words, BOX.small);
      if (!words || to.y - before.y <= 24 || !free(left, right)) return;
      take(left, right);
      element.append(label(words, left, middle.y + 4, { class: "shape" }));
    };
    element.append(drawn("title", {}, tensors.slice(0, 8).map((one) => `${net.tensors.name[one.tensor]} ${net.tensors.words[one.carried]}` +
      `${one.marks & 1 ? ", Q/DQ pair" : ""}${one.marks & 2 ? ", Cast" : ""}${reformat(one) ? ", reformat" : ""}`).join("\n")));
    const named = scene.all[low].id !== undefined && ends[1].id !== undefined;
    return { element, write: named ? write : () => {} };
  };
  const scaleOf = (scene) => {
    const found = { ...bounds, time: 0, harm: 0, macs: 0, lost: 0, slower: 0 }, pending = [scene];
    for (const one of pending) {
      for (const box of one.boxes) {
        if (box.open) { pending.push(box); continue; }
        const held = state.tree.stats.get(box.id);
        for (const key of ["time", "harm", "macs", "lost", "slower"]) if (held && held[key] > found[key]) found[key] = held[key];
      }
    }
    return found;
  };
  const paintScene = (scene, scale, x, y) => {
    const edges = drawn("g", {}), taken = new Map();
    // what an edge carries is written where neither a mark nor other words lie
    const parts = scene.edges.map((edge) => drawEdge(edge, scene, taken));
    for (const part of parts) { part.write(); edges.append(part.element); }
    return drawn("g", { transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` }, edges, ...scene.boxes.flatMap((box) => (
      box.open ? [drawBox(box, scale), paintScene(box, scale, box.x - box.w / 2, box.y)] : [drawBox(box, scale)])));
  };
  // where each box lies, from the corner of the whole
  const locate = (scene, x, y) => {
    for (const box of scene.boxes) {
      places.set(box.id, { x: x + box.x, y: y + box.y, box });
      if (box.open) locate(box, x + box.x - box.w / 2, y + box.y);
    }
  };
  const zoom = (scale) => {
    state.scale = Math.min(2.5, Math.max(0.08, scale));
    svg.setAttribute("width", (drawing.w * state.scale).toFixed(0));
    svg.setAttribute("height", (drawing.h * state.scale).toFixed(0));
  };
  const fit = () => { const { w, h } = room(); zoom(Math.max(Math.min(w / drawing.w, h / drawing.h, 1.1), Math.min(READABLE, w / drawing.w))); };
  const paintAll = () => {
    drawing = layoutOf(state.tree, state.open, value);
    places.clear();
    locate(drawing, 0, 0);
    svg.setAttribute("viewBox", `0 0 ${drawing.w.toFixed(1)} ${drawing.h.toFixed(1)}`);
    svg.replaceChildren(paintScene(drawing, scaleOf(drawing), 0, 0));
    const start = svg.querySelector(`[data-id="${state.chosen}"]`) || svg.querySelector(".box");
    start?.setAttribute("tabindex", "0");
    choose(state.chosen);
    const all = state.tree.stats.size + net.inputs.length + net.outputs.length;
    control("drawn").textContent = `${boxesIn(drawing).toLocaleString("en")} of ${all.toLocaleString("en")} boxes drawn`;
  };
  const choose = (id) => {
    state.chosen = id;
    for (const one of svg.querySelectorAll(".chosen, .near")) one.classList.remove("chosen", "near");
    svg.querySelector(`.box[data-id="${id}"]`)?.classList.add("chosen");
    if (id >= 0) for (const edge of svg.querySelectorAll(`.edge[data-from="${id}"], .edge[data-to="${id}"]`)) edge.classList.add("near");
  };
  const focus = (id) => {
    const element = svg.querySelector(`.box[data-id="${id}"]`);
    if (!element) return;
    svg.querySelector(".box[tabindex='0']")?.setAttribute("tabindex", "-1");
    element.setAttribute("tabindex", "0");
    element.focus({ preventScroll: true });
  };
  const centre = (id) => {
    const spot = places.get(id);
    if (!spot) return;
    // the panel covers a part: at the side or, on a phone, at the bottom
    const frame = canvas.getBoundingClientRect(), panel = control("panel").getBoundingClientRect();
    const beside = panel.left > frame.left + 80;
    const right = panel.width && beside ? Math.min(frame.right, panel.left) : frame.right;
    const bottom = panel.width && !beside ? Math.max(frame.top + 60, Math.min(frame.bottom, panel.top)) : frame.bottom;
    canvas.scrollTo({ left: spot.x * state.scale - (right - frame.left) / 2, top: (spot.y + Math.min(spot.box.h, 300) / 2) * state.scale - (bottom - frame.top) / 2 });
  };
  const keepPlace = (id, change) => {
    const before = places.get(id), view = { x: canvas.scrollLeft, y: canvas.scrollTop };
    change();
    const after = places.get(id);
    if (before && after) canvas.scrollTo(view.x + (after.x - before.x) * state.scale, view.y + (after.y - before.y) * state.scale);
  };
  const toggle = (id) => {
    const { open, tree } = state;
    if (open.has(id)) {
      for (const one of [...open]) if (one === id || tree.ancestors(one).includes(id)) open.delete(one);
    } else {
      open.add(id);
      lighten(id);
    }
    keepPlace(id, () => { paintAll(); zoom(state.scale); });
  };
  // where much is open already, what is not around the group closes
  const lighten = (id) => {
    const around = new Set([id, ...state.tree.ancestors(id)]);
    const count = () => [-1, ...state.open].reduce((sum, one) => sum + state.tree.kids.get(one).length, 0);
    for (const one of [...state.open]) if (count() > 400 && !around.has(one)) state.open.delete(one);
  };
  const press = (id) => {
    if (state.tree.isGroup(id)) { toggle(id); focus(id); } else if (id < net.count) { choose(id); go.to(id, false); }
  };
  const reveal = (i) => {
    const beside = net.beside.get(i), id = beside !== undefined && beside >= 0 ? beside : i;
    if (layers.role[id] === "other" && !net.showsOther) { control("others").checked = true; others(); }
    const around = state.tree.ancestors(id);
    const missing = around.filter((one) => !state.open.has(one));
    for (const one of missing) state.open.add(one);
    if (missing.length) { lighten(around[0]); paintAll(); }
    zoom(Math.max(state.scale, READABLE));
    choose(id);
    centre(id);
  };
  const others = () => { net.showsOther = control("others").checked; for (const tree of Object.values(trees)) tree.fill(); restart(); };
  const restart = () => { state.open = openAtFirst(state.tree, room()); paintAll(); fit(); };
  // ---- keyboard: arrows go along edges and between neighbours, Enter opens
  const nearest = (id, key) => {
    const here = places.get(id);
    let best = -1, least = Infinity;
    for (const [other, there] of places) {
      if (other === id || there.box.open) continue;
      const dx = there.x - here.x, dy = there.y - here.y;
      const [along, across] = { ArrowDown: [dy, dx], ArrowUp: [-dy, dx], ArrowRight: [dx, dy], ArrowLeft: [-dx, dy] }[key];
      const cost = along + 3 * Math.abs(across);
      if (along > 4 && cost < least) [best, least] = [other, cost];
    }
    return best;
  };
  svg.addEventListener("keydown", (event) => {
    const id = Number(event.target.closest(".box")?.dataset.id ?? NaN);
    if (Number.isNaN(id)) return;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); press(id); }
    if (event.key.startsWith("Arrow")) {
      event.preventDefault();
      const next = nearest(id, event.key);
      if (next >= 0) { focus(next); centre(next); }
    }
  });
  let dragged = false;
  svg.addEventListener("click", (event) => {
    const box = event.target.closest(".box");
    if (box && !dragged) press(Number(box.dataset.id));
  });
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button) return;
    const from = { x: event.clientX + canvas.scrollLeft, y: event.clientY + canvas.scrollTop };
    dragged = false;
    const move = (at) => {
      dragged = dragged || Math.abs(at.clientX - event.clientX) + Math.abs(at.clientY - event.clientY) > 5;
      if (dragged) canvas.scrollTo(from.x - at.clientX, from.y - at.clientY);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", () => removeEventListener("pointermove", move), { once: true });
  });
  const around = (scale, x, y) => {
    const spot = { x: (canvas.scrollLeft + x) / state.scale, y: (canvas.scrollTop + y) / state.scale };
    zoom(scale);
    canvas.scrollTo(spot.x * state.scale - x, spot.y * state.scale - y);
  };
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const frame = canvas.getBoundingClientRect();
    around(state.scale * Math.exp(-event.deltaY / 300), event.clientX - frame.left, event.clientY - frame.top);
  }, { passive: false });
  const middle = (scale) => around(scale, canvas.clientWidth / 2, canvas.clientHeight / 2);
  control("nearer").addEventListener("click", () => middle(state.scale * 1.25));
  control("farther").addEventListener("click", () => middle(state.scale / 1.25));
  control("fit").addEventListener("click", fit);
  control("restart").addEventListener("click", restart);
  control("colour").addEventListener("change", (event) => { state.colour = event.target.value; paintAll(); legend(); });
  control("grouping")?.addEventListener("change", (event) => { state.tree = trees[event.target.value]; restart(); });
  control("others").addEventListener("change", others);
  const legend = () => {
    for (const one of document.querySelectorAll("[data-legend]")) one.hidden = one.dataset.legend !== (state.colour === "precision" ? "precision" : "heat");
    const ends = { level: [`${bounds.high} dB and better`, `${bounds.low} dB`], time: ["0 ms", "the longest drawn"], harm: ["none of the loss", "most of it"], macs: ["no work", "most of it"], lost: ["nothing lost", "most"], slower: ["not slower", "most"] }[state.colour];
    if (ends) [control("least").textContent, control("most").textContent] = ends;
  };
  restart();
  legend();
  addEventListener("resize", () => { if (drawing) fit(); });
  return { reveal, unchoose: () => choose(-1) };
};
