// The report as the page's scripts see it, from the columns that page_data.py writes.

const control = (id) => document.getElementById(id);

const made = (tag, attributes = {}, ...inside) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...inside);
  return element;
};

// the page names no address, not even that of SVG
const SVG = Object.assign(document.createElement("template"), { innerHTML: "<svg></svg>" }).content.firstChild.namespaceURI;
const drawn = (tag, attributes, ...inside) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...inside);
  return element;
};

const unpacked = async (source) => {
  const bytes = Uint8Array.from(atob(source.textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
};

const PRECISIONS = ["fp32", "fp16", "bf16", "fp8", "int8", "int4", "none"];
const SHORT = { float32: "fp32", float16: "fp16", bfloat16: "bf16", float8_e4m3fn: "fp8" };
const shown = (precision) => (precision === "none" ? "–" : precision.toUpperCase());
const grouped = (list) => {
  const found = new Map();
  list.forEach((key, i) => { if (found.has(key)) found.get(key).push(i); else found.set(key, [i]); });
  return found;
};

const levelOf = (one) => (one === "=" ? Infinity : one === "!" ? -Infinity : one);

const networkOf = (raw) => {
  const text = (number) => raw.texts[number];
  const words = (list) => list.map(text);
  const sums = (list) => { let at = 0; return list.map((step) => (at += step)); };
  const layers = { ...raw.layers };
  for (const key of ["op", "role", "asked", "askedWhy", "by", "actual", "source", "reads", "makes", "status", "reason", "kernel"]) {
    layers[key] = words(layers[key]);
  }
  const count = layers.node.length;
  layers.level = layers.sqnr.map(levelOf);
  // as LayerInfo.why: what is known of the engine, else why it was asked for
  layers.why = layers.reason.map((reason, i) => (layers.status[i] !== "unknown" && reason) || layers.askedWhy[i] || reason);
  layers.differs = layers.asked.map((asked, i) => layers.role[i] === "compute" && layers.status[i] === "overridden" &&
    layers.actual[i] !== asked);
  let other = null;
  if (raw.other) {
    const known = (list) => list.map((one) => (one === null ? null : text(one)));
    other = {
      label: raw.other.label, asked: known(raw.other.asked), actual: known(raw.other.actual), status: known(raw.other.status),
      level: raw.other.sqnr.map(levelOf), time: raw.other.time,
    };
    const runs = (one, i) => (one.actual[i] === "none" ? one.asked[i] : one.actual[i]);
    layers.differs = layers.role.map((role, i) => role === "compute" && other.asked[i] !== null && runs(layers, i) !== runs(other, i));
    // exact against exact loses nothing, and what turned into NaN or infinity more than any figure says
    other.lost = other.level.map((level, i) => (level === null || layers.level[i] === null ? null : level === layers.level[i] ? 0 : Math.max(-200, Math.min(200, level - layers.level[i]))));
    other.slower = other.time.map((time, i) => (time === null || !layers.time[0] || layers.time[0][i] === null ? null : layers.time[0][i] - time));
  }
  const [from, to, tensor, carried, marks] = [sums(raw.edges[0]), sums(raw.edges[1]), sums(raw.edges[2]), ...raw.edges.slice(3)];
  const edges = from.map((source, e) => ({ from: source, to: to[e], tensor: tensor[e], carried: tensor[e] + carried[e], marks: marks[e] }));
  const feeds = Array.from({ length: count }, () => []), reads = Array.from({ length: count }, () => []);
  for (const edge of edges) {
    if (edge.from >= 0) feeds[edge.from].push(edge);
    if (edge.to >= 0) reads[edge.to].push(edge);
  }
  const tree = (packed) => packed && { titles: words(packed[0]), parents: packed[1], of: sums(packed[2]) };
  const ranges = { ...raw.ranges, method: words(raw.ranges.method), profiles: words(raw.ranges.profiles) };
  const payoffs = raw.payoff.map(([nodes, other, paid, why, times]) => ({
    nodes, other: text(other), paid: text(paid), why: text(why),
    times: times.map(([profile, ...ms]) => [text(profile), ...ms]),
  }));
  const tensors = { name: raw.tensors.name, dtype: words(raw.tensors.dtype), shape: words(raw.tensors.shape) };
  const held = sums(raw.weights[0]);
  const [declinedOf, ...declined] = raw.declined;
  const declines = {
    at: declinedOf, node: declinedOf.map((at) => (at >= 0 ? layers.node[at] : text(-1 - at))),
    op: words(declined[0]), rule: words(declined[1]), reason: words(declined[2]), by: words(declined[3]),
  };
  return {
    count, layers, other, edges, feeds, reads, tensors, ranges, payoffs, declines, harms: raw.harms, inputs: raw.inputs, outputs: raw.outputs, kept: new Set(raw.kept),
    scopes: tree(raw.scopes), kernels: tree(raw.kernels),
    index: new Map(layers.node.map((name, i) => [name, i])),
    weights: grouped(held), weightOf: (at) => raw.weights[1][at],
    beside: new Map(raw.beside[0].map((one, k) => [one, raw.beside[1][k]])),
    rangeOf: new Map(ranges.tensor.map((one, k) => [one, k])),
    declinesOf: grouped(declinedOf),
    harmOf: new Map(raw.harms.map((one) => [one[0], one])),
    causesOf: new Map(raw.causes.map(([node, list]) => [node, list.map(words)])),
    openedOf: new Map(raw.opened.map(([node, list]) => [node, list.map(words)])),
    payoffOf: new Map(payoffs.flatMap((group) => group.nodes.map((node) => [node, group]))),
    carries: (at) => {
      const dtype = tensors.dtype[at], shape = tensors.shape[at].replaceAll(" × ", "×");
      return [SHORT[dtype] || dtype, shape === "?" ? "" : shape].filter(Boolean).join(" ");
    },
  };
};

const levelWords = (level) => (level === null ? "" : level === Infinity ? "exact" : level === -Infinity ? "NaN/inf" : level.toFixed(1));
const percentWords = (share) => (share === null ? "" : `${(100 * share).toFixed(share && share < 0.1 ? 2 : 1)} %`);
