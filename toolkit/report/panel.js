// All that is known of one layer, beside the page.

const histogram = (ranges, k) => {
  const bins = ranges.bins[k];
  if (!bins) return "";
  const svg = drawn("svg", { class: "spark", viewBox: "0 0 120 28", role: "img", "aria-label": "magnitudes from 0 to the largest seen, log scale; the line marks amax" });
  const step = 120 / bins.length;
  const heights = [...bins].map((digit) => (28 * (1 - parseInt(digit, 36) / 35)).toFixed(1));
  svg.append(drawn("path", { d: `M0 28${heights.map((y, i) => `L${(i * step).toFixed(1)} ${y}L${((i + 1) * step).toFixed(1)} ${y}`).join("")}L120 28Z` }));
  const largest = Math.max(Math.abs(ranges.low[k] ?? 0), Math.abs(ranges.high[k] ?? 0));
  if (largest > 0) {
    const x = (120 * Math.min(ranges.amax[k] / largest, 1)).toFixed(1);
    svg.append(drawn("line", { x1: x, x2: x, y1: 0, y2: 28 }));
  }
  return svg;
};

const chip = (precision) => made("span", { class: `chip ${precision}`, text: shown(precision) });

const panelOf = (net, go) => {
  const panel = control("panel"), { layers } = net;
  const title = made("h2", { id: "panel-title", tabindex: "-1" }), body = made("div", { class: "panel-body" });
  let current = -1, opener = null;
  const close = () => {
    panel.hidden = true;
    current = -1;
    if (opener && opener.isConnected) opener.focus({ preventScroll: true });
    if (location.hash.startsWith("#layer=")) history.replaceState(null, "", location.pathname + location.search);
    go.closed();
  };
  const shut = made("button", { type: "button", class: "button", "aria-label": "Close", text: "✕", onclick: close });
  panel.append(made("div", { class: "panel-head" }, title, shut), body);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !panel.hidden) close(); });

  const link = (i) => made("a", {
    href: `#layer=${encodeURIComponent(layers.node[i])}`, class: "name", text: layers.node[i],
    onclick: (event) => { event.preventDefault(); go.to(i); },
  });
  const level = (i) => (layers.level[i] === null ? "" : Number.isFinite(layers.level[i]) ? `${levelWords(layers.level[i])} dB` : levelWords(layers.level[i]));
  const side = (edges, end, none) => {
    const list = made("ul", { class: "ends" });
    for (const [tensor, group] of grouped(edges.map((edge) => edge.tensor))) {
      const ends = group.map((k) => edges[k]), first = ends[0];
      const item = made("li");
      const nodes = ends.map((edge) => edge[end]).filter((i) => i >= 0);
      nodes.forEach((i, k) => item.append(k ? ", " : "", link(i), " ", made("span", { class: "soft", text: [layers.op[i], level(i)].filter(Boolean).join(", ") })));
      if (nodes.length < ends.length) item.append(nodes.length ? ", " : "", none);
      item.append(made("div", { class: "soft" }, made("span", { class: "name", text: net.tensors.name[tensor] }), ` ${net.carries(tensor)}`,
        first.marks & 1 ? `, in a Q/DQ pair as ${net.carries(first.carried).split(" ")[0]}` : "", first.marks & 2 ? ", Cast" : ""));
      const k = net.rangeOf.get(tensor);
      if (k !== undefined) item.append(range(k));
      list.append(item);
    }
    return list;
  };
  const range = (k) => {
    const { amax, low, high, method, clipped } = net.ranges;
    const seen = low[k] === null ? "" : `, seen ${low[k]} to ${high[k]}`;
    const lost = clipped[k] ? `, ${percentWords(clipped[k])} clipped` : "";
    return made("div", { class: "range" }, histogram(net.ranges, k), made("span", { class: "soft", text: `±${amax[k]} (${method[k]})${seen}${lost}` }));
  };
  const facts = (i) => {
    const list = [], put = (term, ...value) => list.push([term, value]);
    const total = go.work.total;
    put("Requested", chip(layers.asked[i]), layers.by[i] ? ` by ${layers.by[i]}: ` : " ", layers.askedWhy[i]);
    put("Runs in", chip(layers.actual[i]), ` ${layers.status[i]}`, made("span", { class: "soft", text: ` known from: ${layers.source[i]}` }));
    if (net.other) {
      const { label, asked, actual, status, level: levels, time } = net.other;
      if (asked[i] === null) put(`In ${label}`, "no layer of this name");
      else put(`In ${label}`, chip(asked[i]), " → ", chip(actual[i]), ` ${status[i]}${levels[i] === null ? "" : `, ${levelWords(levels[i])} dB`}${time[i] === null ? "" : `, ${time[i]} ms`}`);
    }
    if (layers.reason[i]) put("Why", layers.reason[i]);
    for (const k of net.declinesOf.get(i) || []) put("Left alone", `by ${net.declines.by[k]}, rule ${net.declines.rule[k]}: ${net.declines.reason[k]}`);
    for (const [term, value] of net.openedOf.get(i) || []) put(term, value);
    if (layers.level[i] !== null) {
      const drop = layers.drop[i] === null ? "" : `, ${layers.drop[i].toFixed(1)} dB below its inputs`;
      put("Error", `${level(i)} at its output${drop}${layers.most[i] ? `, max abs difference ${layers.most[i]}` : ""}`);
    }
    const harm = net.harmOf.get(i);
    if (harm) {
      const [, alone, without, share, kept] = harm;
      put("Sensitivity", [alone === null ? "" : `alone quantized ${alone} dB at the output`, without === null ? "" : `all but it ${without} dB`,
        `${percentWords(share)} of the loss`, kept ? "it stays in float" : ""].filter(Boolean).join("; "));
    }
    if (net.kept.has(i)) put("Bisection", "one of the layers that must stay in float for the check to pass");
    for (const [kind, tensor, text, remedy] of net.causesOf.get(i) || []) put("Cause", made("strong", { text: kind }), ` ${tensor} ${text}. Remedy: ${remedy}.`);
    const times = layers.profiles.map((name, p) => [name, layers.time[p][i]]).filter(([, ms]) => ms !== null);
    if (times.length) put("Time", times.map(([name, ms]) => `${name} ${ms} ms`).join(", "));
    const group = net.payoffOf.get(i);
    if (group) {
      for (const [profile, ours, other, reformat, qdq] of group.times) {
        put(`Against ${group.other.toUpperCase()}`, `profile ${profile}: ${ours} ms, ${other} ms unquantized` +
          `${reformat ? `; ${reformat} ms of it in reformats` : ""}${qdq ? `; ${qdq} ms in Q/DQ kernels` : ""}` +
          `${group.nodes.length > 1 ? `; timed together with ${group.nodes.length - 1} more` : ""}`);
      }
      if (group.why) put("Does not pay", group.why);
    }
    if (layers.macs[i]) put("Work", `${layers.macs[i].toLocaleString("en")} multiply-accumulates${total ? `, ${percentWords(layers.macs[i] / total)} of the model's` : ""}`);
    if (layers.reads[i]) put("Engine types", `${layers.reads[i]} → ${layers.makes[i]}`);
    if (layers.kernel[i]) put("Engine layers", layers.kernel[i]);
    return list;
  };
  return {
    get current() { return current; },
    close,
    show(i, focus = true) {
      opener = focus ? document.activeElement : opener;
      current = i;
      title.replaceChildren(made("span", { class: "op", text: layers.op[i] }), " ", made("span", { class: "name", text: layers.node[i] }));
      const list = made("dl");
      for (const [term, value] of facts(i)) list.append(made("dt", { text: term }), made("dd", {}, ...value));
      body.replaceChildren(list);
      const beside = net.beside.get(i);
      if (beside !== undefined && beside >= 0) body.append(made("p", { class: "soft" }, "Drawn as a mark in front of ", link(beside)));
      if (net.reads[i].length) body.append(made("h3", { text: "Reads" }), side(net.reads[i], "from", "the model's input"));
      const weights = (net.weights.get(i) || []).map((at) => net.weightOf(at));
      if (weights.length) {
        body.append(made("h3", { text: "Weights" }), made("ul", { class: "ends" }, ...weights.map((tensor) =>
          made("li", {}, made("span", { class: "name", text: net.tensors.name[tensor] }), made("span", { class: "soft", text: ` ${net.carries(tensor)}` })))));
      }
      if (net.feeds[i].length) body.append(made("h3", { text: "Feeds" }), side(net.feeds[i], "to", "the model's output"));
      body.append(made("p", { class: "panel-links" },
        go.table ? made("button", { type: "button", class: "button", text: "In the table", onclick: () => go.table(i) }) : "",
        go.graph ? made("button", { type: "button", class: "button", text: "In the graph", onclick: () => go.graph(i) }) : ""));
      panel.hidden = false;
      body.scrollTop = 0;
      history.replaceState(null, "", `#layer=${encodeURIComponent(layers.node[i])}`);
      if (focus) title.focus({ preventScroll: true });
    },
  };
};
