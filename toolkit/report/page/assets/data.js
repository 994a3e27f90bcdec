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

// as Python rounds it: an exact half goes to the even digit, where toFixed goes away from zero
const fixed = (value, digits) => {
  const text = value.toFixed(digits), halves = value * 2 ** (digits + 1);
  return Number.isInteger(halves) && halves % 2 && text.at(-1) % 2 ? (value * (1 - Number.EPSILON)).toFixed(digits) : text;
};

const unpacked = async (source) => {
  const bytes = Uint8Array.from(atob(source.textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
};

const PRECISIONS = ["fp32", "fp16", "bf16", "fp8", "int8", "int4", "none"];
const shown = (precision) => (precision === "none" ? "–" : precision.toUpperCase());
const grouped = (list) => {
  const found = new Map();
  list.forEach((key, i) => { if (found.has(key)) found.get(key).push(i); else found.set(key, [i]); });
  return found;
};

const levelOf = (one) => (one === "=" ? Infinity : one === "!" ? -Infinity : one);

// what packing.py packs
const sums = (list) => { let at = 0; return list.map((step) => (at += step)); };
const seen = (list) => { let largest = -1; return list.map((one) => { const number = one ? one - 1 : largest + 1; largest = Math.max(largest, number); return number; }); };
const textsOf = ([forms, which, steps]) => {
  const next = forms.map(() => 0), latest = forms.map((pieces) => pieces.slice(1).fill(0));
  return seen(which).map((form) => latest[form].reduce((text, before, i) => (
    text + (latest[form][i] = before + steps[form][next[form]++]) + forms[form][i + 1]), forms[form][0]));
};

const networkOf = (raw) => {
  const texts = textsOf(raw.texts), text = (number) => texts[number];
  const words = (list) => seen(list).map(text);
  const layers = { ...raw.layers, node: textsOf(raw.layers.node) };
  for (const key of ["op", "role", "asked", "actual", "status", "why"]) {
    layers[key] = words(layers[key]);
  }
  const count = layers.node.length;
  layers.level = layers.sqnr.map(levelOf);
  layers.differs = layers.asked.map((asked, i) => layers.role[i] === "compute" && layers.status[i] === "overridden" &&
    layers.actual[i] !== asked);
  let other = null;
  if (raw.other) {
    const known = (list) => list.map((one) => (one === null ? null : text(one)));
    other = {
      label: raw.other.label, asked: known(raw.other.asked), actual: known(raw.other.actual),
      level: raw.other.sqnr.map(levelOf), time: raw.other.time,
    };
    const runs = (one, i) => (one.actual[i] === "none" ? one.asked[i] : one.actual[i]);
    layers.differs = layers.role.map((role, i) => role === "compute" && other.asked[i] !== null && runs(layers, i) !== runs(other, i));
    // exact against exact loses nothing, and what turned into NaN or infinity more than any figure says
    other.lost = other.level.map((level, i) => (level === null || layers.level[i] === null ? null : level === layers.level[i] ? 0 : Math.max(-200, Math.min(200, level - layers.level[i]))));
    other.slower = other.time.map((time, i) => (time === null || !layers.time[0] || layers.time[0][i] === null ? null : layers.time[0][i] - time));
  }
  const connections = ([from, to, tensors, carried, marks, between]) => {
    const [source, target, tensor] = [from, to, tensors].map(sums);
    return words(between).map((between, e) => ({ from: source[e], to: target[e], tensor: tensor[e], carried: tensor[e] + carried[e], marks: marks[e], between }));
  };
  const edges = connections(raw.edges);
  const feeds = Array.from({ length: count }, () => []), reads = Array.from({ length: count }, () => []);
  for (const edge of edges) {
    if (edge.from >= 0) feeds[edge.from].push(edge);
    if (edge.to >= 0) reads[edge.to].push(edge);
  }
  const tree = (packed) => packed && { titles: words(packed[0]), parents: packed[1], of: sums(packed[2]) };
  const ranges = { ...raw.ranges, tensor: sums(raw.ranges.tensor), method: words(raw.ranges.method), profiles: words(raw.ranges.profiles), words: words(raw.ranges.words) };
  const tensors = { name: textsOf(raw.tensors.name), words: words(raw.tensors.words) };
  const weights = connections(raw.weights);
  const declinedOf = sums(raw.declined[0]), [op, rule, reason, by] = raw.declined.slice(1).map(words);
  const declines = { at: declinedOf, node: declinedOf.map((at) => (at >= 0 ? layers.node[at] : text(-1 - at))), op, rule, reason, by };
  const sentences = textsOf(raw.facts[0]).map((one) => JSON.parse(one)), [, fill, counts, shared] = raw.facts, told = seen(shared);
  const gaps = sentences.map((one) => one.filter((piece) => piece[0] === 0).length), filled = sentences.map(() => 0);
  let end = 0;
  const facts = counts.map((own) => told.slice(end, (end += own)).map((k) => [k, (filled[k] += gaps[k]) - gaps[k]]));
  const figures = {
    node: (i) => layers.node[i], why: (i) => layers.why[i], macs: (i) => layers.macs[i].toLocaleString("en-US"), sqnr: (i) => fixed(layers.sqnr[i], 1),
    drop: (i) => fixed(Math.abs(layers.drop[i]), 1), time: (i, profile) => String(layers.time[layers.profiles.indexOf(profile)][i]),
  };
  const factOf = (i, k, at) => sentences[k].map((piece) => (
    Array.isArray(piece) ? (piece[0] === 0 ? fill[k][at++] : figures[piece[0]](i, piece[1])) : piece < 0 ? { precision: text(-1 - piece) } : text(piece)));
  const [foldeds, readers] = raw.beside.map(sums);
  const weightsOf = Array.from({ length: count }, () => []);
  for (const one of weights) weightsOf[one.to].push(one);
  return {
    count, layers, other, edges, feeds, reads, tensors, ranges, declines, harms: raw.harms, inputs: raw.inputs, outputs: raw.outputs,
    scopes: tree(raw.scopes), kernels: tree(raw.kernels),
    index: new Map(layers.node.map((name, i) => [name, i])),
    weights: weightsOf,
    beside: new Map(foldeds.map((one, k) => [one, readers[k]])),
    rangeOf: new Map(ranges.tensor.map((one, k) => [one, k])),
    harmOf: new Map(raw.harms.map((one) => [one[0], one])),
    reformatOf: new Map(raw.reformats.flatMap((group) => group[0].map((node) => [node, group]))),
    // a piece is words, or a precision
    factsOf: (i) => facts[i].map(([k, at]) => factOf(i, k, at)),
  };
};

const levelWords = (level) => (level === null ? "" : level === Infinity ? "exact" : level === -Infinity ? "NaN/inf" : fixed(level, 1));
const percentWords = (share) => (share === null ? "" : `${fixed(100 * share, share && share < 0.1 ? 2 : 1)} %`);
