// A layered drawing of a small graph: layers by longest path, order by barycentres (Sugiyama, Tagawa and Toda, 1981),
// places by least squares. Linear in boxes and edges but for edges that pass many layers.

const GAP_X = 26, GAP_Y = 46, LANE = 10, SWEEPS = 6, SETTLING = 14, MOST_LANES = 4000;

// Where values lie at least the given distances apart and nearest to what is wanted (pool adjacent violators).
const spread = (wanted, weights, apart) => {
  const pools = [];
  let offset = 0;
  const offsets = wanted.map((_, i) => (offset += i ? apart[i - 1] : 0));
  wanted.forEach((want, i) => {
    let pool = { sum: (want - offsets[i]) * weights[i], weight: weights[i], from: i };
    while (pools.length && pools.at(-1).sum / pools.at(-1).weight >= pool.sum / pool.weight) {
      const last = pools.pop();
      pool = { sum: pool.sum + last.sum, weight: pool.weight + last.weight, from: last.from };
    }
    pools.push(pool);
  });
  const placed = [];
  pools.forEach((pool, i) => {
    const end = i + 1 < pools.length ? pools[i + 1].from : wanted.length;
    for (let k = pool.from; k < end; k++) placed.push(pool.sum / pool.weight + offsets[k]);
  });
  return placed;
};

// An order in which edges lead forward, and which edges do not where there are circles.
const sorted = (count, edges) => {
  const after = Array.from({ length: count }, () => []), waits = new Array(count).fill(0);
  for (const edge of edges) { after[edge.from].push(edge.to); waits[edge.to]++; }
  const place = new Array(count).fill(-1), ready = [];
  let next = 0, lowest = 0;
  for (let i = count - 1; i >= 0; i--) if (!waits[i]) ready.push(i);
  while (next < count) {
    if (!ready.length) {
      while (place[lowest] >= 0) lowest++;
      ready.push(lowest);
    }
    const one = ready.pop();
    if (place[one] >= 0) continue;
    place[one] = next++;
    for (const to of after[one]) if (!--waits[to] && place[to] < 0) ready.push(to);
  }
  return place;
};

const ranked = (boxes, edges) => {
  const place = sorted(boxes.length, edges);
  for (const edge of edges) edge.back = place[edge.from] > place[edge.to];
  const order = boxes.map((_, i) => i).sort((a, b) => place[a] - place[b]);
  const before = boxes.map(() => []), after = boxes.map(() => []);
  for (const edge of edges) {
    const [low, high] = edge.back ? [edge.to, edge.from] : [edge.from, edge.to];
    before[high].push(low);
    after[low].push(high);
  }
  const rank = new Array(boxes.length).fill(0);
  for (const i of order) for (const j of before[i]) rank[i] = Math.max(rank[i], rank[j] + 1);
  // what nothing feeds stands before what reads it
  for (const i of [...order].reverse()) {
    if (!before[i].length && after[i].length && !boxes[i].first) rank[i] = Math.min(...after[i].map((j) => rank[j])) - 1;
  }
  const lowest = Math.min(0, ...rank);
  const last = Math.max(...rank);
  return rank.map((r, i) => (boxes[i].last ? last + (boxes.some((b, j) => !b.last && rank[j] === last) ? 1 : 0) : r) - lowest);
};

// boxes: {w, h, first?, last?}; edges: {from, to}. Gives boxes x and y (of their middle and top), edges their points,
// and returns the size of the whole.
const layered = (boxes, edges) => {
  if (!boxes.length) return { w: 0, h: 0 };
  const rank = ranked(boxes, edges);
  const layers = Array.from({ length: Math.max(...rank) + 1 }, () => []);
  const items = boxes.map((box, i) => ({ box, w: box.w, rank: rank[i], up: [], down: [], weight: 2 }));
  items.forEach((item) => layers[item.rank].push(item));
  const spans = edges.reduce((sum, edge) => sum + Math.abs(rank[edge.to] - rank[edge.from]) - 1, 0);
  for (const edge of edges) {
    const [low, high] = edge.back ? [edge.to, edge.from] : [edge.from, edge.to];
    edge.lanes = [];
    let before = items[low];
    const link = (item) => { before.down.push(item); item.up.push(before); before = item; };
    if (spans < MOST_LANES) {
      for (let r = rank[low] + 1; r < rank[high]; r++) {
        const lane = { w: LANE, rank: r, up: [], down: [], weight: 1 };
        layers[r].push(lane);
        edge.lanes.push(lane);
        link(lane);
      }
    }
    link(items[high]);
  }
  layers.forEach((layer) => layer.forEach((item, i) => { item.at = i; }));
  const mean = (list, of) => list.reduce((sum, one) => sum + of(one), 0) / list.length;
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const down = sweep % 2 === 0;
    for (const layer of down ? layers : [...layers].reverse()) {
      for (const item of layer) {
        const near = down ? item.up : item.down;
        item.want = near.length ? mean(near, (one) => (one.at + 0.5) / layers[one.rank].length) * layer.length : item.at + 0.5;
      }
      layer.sort((a, b) => a.want - b.want || a.at - b.at).forEach((item, i) => { item.at = i; });
    }
  }
  for (const layer of layers) {
    const width = layer.reduce((sum, item) => sum + item.w + GAP_X, 0);
    let x = -width / 2;
    for (const item of layer) { item.x = x + item.w / 2; x += item.w + GAP_X; }
  }
  for (let sweep = 0; sweep < SETTLING; sweep++) {
    for (const layer of sweep % 2 === 0 ? layers : [...layers].reverse()) {
      const near = (item) => (sweep >= SETTLING - 4 ? [...item.up, ...item.down] : sweep % 2 === 0 ? item.up : item.down);
      const wanted = layer.map((item) => (near(item).length ? mean(near(item), (one) => one.x) : item.x));
      const apart = layer.slice(1).map((item, i) => (item.w + layer[i].w) / 2 + GAP_X);
      spread(wanted, layer.map((item) => item.weight), apart).forEach((x, i) => { layer[i].x = x; });
    }
  }
  const left = Math.min(...layers.flat().map((item) => item.x - item.w / 2));
  let y = 0, right = 0;
  for (const layer of layers) {
    const height = Math.max(...layer.map((item) => (item.box ? item.box.h : 0)));
    for (const item of layer) {
      item.x -= left;
      right = Math.max(right, item.x + item.w / 2);
      item.top = y;
      item.bottom = y + height;
      if (item.box) { item.box.x = item.x; item.box.y = y + (height - item.box.h) / 2; }
    }
    y += height + GAP_Y;
  }
  for (const edge of edges) edge.lanes = edge.lanes.map(({ x, top, bottom }) => ({ x, top, bottom }));
  return { w: right, h: y - GAP_Y };
};

// The way from one point through the lanes of an edge to another, as an SVG path.
const wayOf = (from, lanes, to) => {
  let path = `M${from.x.toFixed(1)} ${from.y.toFixed(1)}`, at = from;
  const bend = (x, y) => {
    const half = (y - at.y) / 2;
    path += `C${at.x.toFixed(1)} ${(at.y + half).toFixed(1)} ${x.toFixed(1)} ${(y - half).toFixed(1)} ${x.toFixed(1)} ${y.toFixed(1)}`;
    at = { x, y };
  };
  for (const lane of lanes) {
    bend(lane.x, lane.top);
    if (lane.bottom > lane.top) { path += `V${lane.bottom.toFixed(1)}`; at = { x: lane.x, y: lane.bottom }; }
  }
  bend(to.x, to.y);
  return path;
};
