// All that is known of one layer, beside the page.

const histogram = (ranges, k) => {
  const bins = ranges.bins[k];
  if (!bins) return "";
  const svg = drawn("svg", { class: "spark", viewBox: "0 0 120 28", role: "img", "aria-label": "magnitudes from 0 to the largest seen, log scale; the line marks amax" });
  const step = 120 / bins.length;
  const heights = [...bins].map((digit) => (28 * (1 - parseInt(digit, 36) / 35)).toFixed(1));
  svg.append(drawn("path", { d: `M0 28${heights.map((y, i) => `L${(i * step).toFixed(1)} ${y}L${((i + 1) * step).toFixed(1)} ${y}`).join("")}L120 28Z` }));
  if (ranges.line[k] !== null) {
    const x = (120 * ranges.line[k]).toFixed(1);
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
      item.append(made("div", { class: "soft" }, made("span", { class: "name", text: net.tensors.name[tensor] }),
        ` ${[net.tensors.words[tensor], first.between].filter(Boolean).join(", ")}`));
      const k = net.rangeOf.get(tensor);
      if (k !== undefined) item.append(range(k));
      list.append(item);
    }
    return list;
  };
  const range = (k) => made("div", { class: "range" }, histogram(net.ranges, k), made("span", { class: "soft", text: net.ranges.words[k] }));
  const piece = (one) => (one.precision ? chip(one.precision) : one);
  return {
    get current() { return current; },
    close,
    show(i, focus = true) {
      opener = focus ? document.activeElement : opener;
      current = i;
      title.replaceChildren(made("span", { class: "op", text: layers.op[i] }), " ", made("span", { class: "name", text: layers.node[i] }));
      const list = made("dl");
      for (const [term, ...pieces] of net.factsOf(i)) list.append(made("dt", { text: term }), made("dd", {}, ...pieces.map(piece)));
      body.replaceChildren(list);
      const beside = net.beside.get(i);
      if (beside !== undefined && beside >= 0) body.append(made("p", { class: "soft" }, "Drawn as a mark before ", link(beside)));
      if (net.reads[i].length) body.append(made("h3", { text: "Reads" }), side(net.reads[i], "from", "the model's input"));
      if (net.weights[i].length) body.append(made("h3", { text: "Weights" }), side(net.weights[i], "from", ""));
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
