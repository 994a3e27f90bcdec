"use strict";
(() => {
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
  const table = document.getElementById("layers");
  const source = document.getElementById("data");
  if (!table || !source) return;

  const report = JSON.parse(source.textContent);
  const order = ["fp32", "fp16", "bf16", "fp8", "int8", "int4", "none"];
  const body = table.tBodies[0];
  const timed = (report.layers.find((layer) => Object.keys(layer.time_ms).length) || { time_ms: {} }).time_ms;
  const profile = Object.keys(timed)[0];
  const declined = new Map();
  for (const entry of report.declined) {
    if (!declined.has(entry.node)) declined.set(entry.node, []);
    declined.get(entry.node).push(entry);
  }
  const ranked = (word) => order.indexOf(word);
  const sqnr = (error) => {
    if (!error) return null;
    if (error.sqnr_db !== null) return error.sqnr_db;
    return error.max_abs === 0 ? Infinity : error.max_abs === null ? -Infinity : null;
  };
  const rows = Array.from(body.rows, (tr, index) => {
    const layer = report.layers[index];
    const asked = (layer.asked && layer.asked.precision) || "none";
    const actual = layer.actual.precision || "none";
    const why = (layer.status !== "unknown" && layer.reason) || (layer.asked ? layer.asked.reason : layer.reason);
    return {
      tr, layer, detail: null,
      asked, actual,
      text: `${layer.node} ${layer.op} ${why}`.toLowerCase(),
      keys: {
        index, node: layer.node, op: layer.op, asked: ranked(asked), actual: ranked(actual), status: layer.status,
        sqnr: sqnr(layer.error), drop: layer.error ? layer.error.drop_db : null, macs: layer.macs || null,
        time: profile in layer.time_ms ? layer.time_ms[profile] : null, reason: why || null,
      },
    };
  });
  const byRow = new Map(rows.map((row) => [row.tr, row]));
  const control = (id) => document.getElementById(id);

  const place = (list) => {
    const fragment = document.createDocumentFragment();
    for (const row of list) {
      fragment.append(row.tr);
      if (row.detail) fragment.append(row.detail);
    }
    body.append(fragment);
  };
  const filter = () => {
    const words = control("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const asked = control("asked").value, actual = control("actual").value, status = control("status").value;
    const computing = control("computing").checked;
    let shown = 0;
    for (const row of rows) {
      const hit = words.every((part) => row.text.includes(part)) && (!asked || row.asked === asked) &&
        (!actual || row.actual === actual) && (!status || row.layer.status === status) &&
        (!computing || row.layer.role === "compute");
      row.tr.hidden = !hit;
      if (row.detail) row.detail.hidden = !hit;
      shown += hit;
    }
    control("shown").textContent = `${shown} of ${rows.length} nodes`;
  };
  const numeric = new Set(["sqnr", "drop", "macs", "time", "index", "asked", "actual"]);
  const sortBy = (key, descending) => {
    const sign = descending ? -1 : 1;
    place([...rows].sort((a, b) => {
      const x = a.keys[key], y = b.keys[key];
      if (x === null || y === null) return (x === null) - (y === null) || a.keys.index - b.keys.index;
      const way = numeric.has(key) ? (x < y ? -1 : x > y ? 1 : 0) : x.localeCompare(y, undefined, { numeric: true });
      return sign * way || a.keys.index - b.keys.index;
    }));
  };
  const heads = table.tHead.rows[0].cells;
  for (const th of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = th.textContent;
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      const largestFirst = ["drop", "macs", "time"].includes(th.dataset.key);
      const now = th.getAttribute("aria-sort");
      const next = now ? (now === "ascending" ? "descending" : "ascending") : largestFirst ? "descending" : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", next);
      sortBy(th.dataset.key, next === "descending");
    });
  }

  const facts = (layer) => {
    const list = [["Node", `${layer.node} (${layer.op})`]];
    if (layer.asked) {
      const by = layer.asked.by ? `, by ${layer.asked.by}` : "";
      list.push(["Requested", `${layer.asked.precision || "no precision"}: ${layer.asked.reason}${by}`]);
    }
    list.push(["Runs in", `${layer.actual.precision || "unknown"} (source: ${layer.actual.source}), ${layer.status}`]);
    if (layer.reason) list.push(["Why", layer.reason]);
    const opened = layer.actual.opened;
    if (opened) list.push(["Opened", `${opened.precision || "unknown"} (source: ${opened.source}), ${opened.status}`]);
    if (opened && opened.values) {
      const { tensor, verdict, engine, simulated } = opened.values;
      const level = (one) => (one && one.sqnr_db !== null ? `${one.sqnr_db.toFixed(1)} dB` : "no SQNR");
      list.push(["Opened values", `'${tensor}' ${verdict}; against the float model the engine has ` +
        `${level(engine)}, the simulation ${level(simulated)}`]);
    }
    if (layer.actual.input_types.length) list.push(["Inputs", layer.actual.input_types.join(", ")]);
    if (layer.actual.output_types.length) list.push(["Outputs", layer.actual.output_types.join(", ")]);
    if (layer.engine_layers.length) list.push(["Engine layers", layer.engine_layers.join("; ")]);
    const level = sqnr(layer.error);
    if (level !== null) {
      const said = level === Infinity ? "identical to float" : level === -Infinity ? "NaN or infinity" : `${level.toFixed(1)} dB`;
      const most = layer.error.max_abs ? `, max abs difference ${layer.error.max_abs.toPrecision(3)}` : "";
      list.push(["Error", said + most]);
    }
    const times = Object.entries(layer.time_ms).map(([name, ms]) => `${name} ${ms.toFixed(3)} ms`);
    if (times.length) list.push(["Time", times.join(", ")]);
    if (layer.macs) list.push(["Multiply-accumulates", layer.macs.toLocaleString("en")]);
    for (const entry of declined.get(layer.node) || []) list.push([`Declined by ${entry.by}`, `${entry.rule}: ${entry.reason}`]);
    return list;
  };
  const toggle = (row) => {
    const button = row.tr.querySelector(".open");
    if (row.detail) {
      row.detail.remove();
      row.detail = null;
    } else {
      row.detail = document.createElement("tr");
      row.detail.className = "detail";
      const cell = row.detail.insertCell();
      cell.colSpan = heads.length;
      const list = document.createElement("dl");
      for (const [term, value] of facts(row.layer)) {
        const dt = document.createElement("dt"), dd = document.createElement("dd");
        dt.textContent = term;
        dd.textContent = value;
        list.append(dt, dd);
      }
      cell.append(list);
      row.tr.after(row.detail);
    }
    button.setAttribute("aria-expanded", String(Boolean(row.detail)));
  };
  body.addEventListener("click", (event) => {
    const row = byRow.get(event.target.closest("tr"));
    if (row && (event.target.closest("button") || getSelection().isCollapsed)) toggle(row);
  });
  for (const row of rows) row.tr.querySelector(".open").setAttribute("aria-expanded", "false");

  for (const id of ["asked", "actual", "status", "computing"]) control(id).addEventListener("change", filter);
  control("text").addEventListener("input", filter);
  const clear = () => {
    for (const id of ["text", "asked", "actual", "status"]) control(id).value = "";
    control("computing").checked = true;
    filter();
  };
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

  const map = control("map"), svg = map.querySelector("svg");
  const computing = rows.filter((row) => row.layer.role === "compute");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  map.append(tip);
  const cursor = document.createElementNS(svg.namespaceURI, "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", "0");
  cursor.setAttribute("y2", String(svg.viewBox.baseVal.height));
  const under = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const index = Math.floor(point.x / 1000 * computing.length);
    return point.x >= 0 && index < computing.length ? index : -1;
  };
  svg.addEventListener("pointermove", (event) => {
    const index = under(event);
    tip.hidden = index < 0;
    if (index < 0) return cursor.remove();
    const { layer, asked, actual } = computing[index];
    const level = sqnr(layer.error);
    tip.textContent = `${layer.node} · ${layer.op} · requested ${asked}, runs in ${actual}, ${layer.status}` +
      (level !== null && Number.isFinite(level) ? ` · ${level.toFixed(1)} dB` : "");
    const x = String((index + 0.5) * 1000 / computing.length);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    svg.append(cursor);
    const box = map.getBoundingClientRect();
    const left = event.clientX - box.left;
    tip.style.top = `${event.clientY - box.top + 16}px`;
    tip.style.left = left < box.width / 2 ? `${left + 12}px` : "";
    tip.style.right = left < box.width / 2 ? "" : `${box.width - left + 12}px`;
    return undefined;
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; cursor.remove(); });
  svg.addEventListener("click", (event) => {
    const index = under(event);
    if (index < 0) return;
    clear();
    const row = computing[index];
    for (const other of body.querySelectorAll(".found")) other.classList.remove("found");
    row.tr.classList.add("found");
    if (!row.detail) toggle(row);
    row.tr.scrollIntoView({ block: "center" });
    row.tr.querySelector(".open").focus();
  });
  filter();
})();
