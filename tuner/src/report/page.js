"use strict";
(() => {
const D = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page"), tip = document.getElementById("tip");
const S = "http://www.w3.org/2000/svg";
const put = (node, attrs, kids) => {
  for (const [name, value] of Object.entries(attrs || {})) if (value != null) node.setAttribute(name, value);
  for (const kid of kids.flat(Infinity)) if (kid != null) node.append(kid);
  return node;
};
const h = (tag, attrs, ...kids) => put(document.createElement(tag), attrs, kids);
const s = (tag, attrs, ...kids) => put(document.createElementNS(S, tag), attrs, kids);
const T = D.trials.map(([n, state, v, x, p, a, b, repeats, note]) => ({ n, state: D.states[state], v, x, p, a, b, repeats, note }));
const byNumber = new Map(T.map(t => [t.n, t]));
const told = T.filter(t => t.v && t.repeats == null);
const plural = (count, one) => count + " " + one + (count === 1 ? "" : "s");
const fmt = v => {
  if (v == null) return "–";
  const size = Math.abs(v);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? v.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e") : String(+v.toPrecision(5));
};
const span = ms => {
  const t = ms / 1000, two = (whole, unit, rest, small) => whole + unit + (Math.round(rest) ? " " + Math.round(rest) + small : "");
  return t < 100 ? +t.toFixed(1) + " s" : t < 3600 ? two(Math.floor(t / 60), " min", t % 60, " s") : t < 172800 ? two(Math.floor(t / 3600), " h", t % 3600 / 60, " min") : two(Math.floor(t / 86400), " d", t % 86400 / 3600, " h");
};
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400].map(seconds => seconds * 1000);
const times = (most, count) => {
  const step = STEPS.find(step => most / step <= count) || 864e5 * Math.ceil(most / 864e5 / count);
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, at) => at * step);
};
const cut = (text, most) => text.length > most ? text.slice(0, most - 1) + "…" : text;
const ticks = (low, high, count) => {
  if (!(high > low)) return [low];
  const power = 10 ** Math.floor(Math.log10((high - low) / count));
  const step = [1, 2, 5, 10].map(times => times * power).find(step => (high - low) / step <= count) || high - low;
  const out = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at++) out.push(at * step);
  return out;
};
let objective = 0;
const O = () => D.objectives[objective];
const better = (one, other) => O().maximize ? other - one : one - other;
// How good a value is among all, from 0 to 1.
let goodness = new Map();
const rank = () => {
  const order = [...told].sort((one, other) => better(one.v[objective], other.v[objective]));
  goodness = new Map(order.map((t, at) => [t.n, order.length > 1 ? 1 - at / (order.length - 1) : 1]));
};
const colour = part => "fill:" + mix(part);
const mix = part => `color-mix(in oklab, var(--best) ${Math.round(part * 100)}%, var(--worst))`;
const shade = t => mix((goodness.get(t.n) || 0) ** 1.6);

// A chart is drawn anew when its width changes.
const charts = [];
const chart = (parent, label, height, draw) => {
  const box = h("div");
  parent.append(box);
  const redraw = () => {
    const width = Math.max(240, box.clientWidth);
    const size = typeof height === "function" ? height(width) : height;
    const svg = s("svg", { viewBox: `0 0 ${width} ${size}`, height: size, role: "img", "aria-label": label() });
    draw(svg, width, size);
    box.replaceChildren(svg);
  };
  charts.push(redraw);
  redraw();
};
const section = (title, text, kind) => {
  const node = h("section", { class: kind }, h("h2", {}, title), text ? h("p", {}, text) : null);
  page.append(node);
  return node;
};
// A frame with an axis for values on the left; gives the functions that place values.
const frame = (svg, w, hgt, [low, high], left = 52, bottom = 22, top = 8) => {
  const y = v => top + (hgt - bottom - top) * (high > low ? (high - v) / (high - low) : 0.5);
  for (const v of ticks(low, high, Math.max(2, Math.floor((hgt - bottom - top) / 34))))
    svg.append(s("line", { class: "guide", x1: left, x2: w, y1: y(v), y2: y(v) }), s("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, fmt(v)));
  return { y, left, bottom: hgt - bottom, x: part => left + 6 + (w - left - 12) * part };
};
// The values without those far out; these are drawn at the edge.
const range = list => {
  const v = list.filter(Number.isFinite).sort((one, other) => one - other);
  if (!v.length) return [0, 1];
  const q = part => v[Math.round((v.length - 1) * part)], width = q(0.75) - q(0.25);
  let low = v[0], high = v[v.length - 1];
  if (width > 0) { low = Math.max(low, q(0.25) - 4 * width); high = Math.min(high, q(0.75) + 4 * width); }
  if (O().maximize) high = v[v.length - 1]; else low = v[0];
  const rim = (high - low) * 0.04 || Math.abs(high) * 0.01 || 1;
  return [low - rim, high + rim];
};
const inside = ([low, high], v) => Math.min(high, Math.max(low, v));
const dot = (t, x, y, r = 3.5) => s("circle", { class: "dot", "data-n": t.n, cx: x, cy: y, r, style: colourOf(t) });
const colourOf = t => "fill:" + shade(t);
const marksBelow = (svg, marks, x, y, width) => {
  let last = -1e9;
  for (const [at, text] of marks) {
    const place = x(at), shown = cut(text, 10);
    if (place - last < shown.length * 6 + 6) continue;
    last = place;
    svg.append(s("text", { x: place, y: y + 15, "text-anchor": at < 0.06 ? "start" : at > 0.94 ? "end" : "middle" }, shown));
  }
};

// What a trial is, where the pointer is.
const say = (t, x, y) => {
  const lines = [`Trial ${t.n} · ${t.state}`];
  if (t.repeats != null) lines.push(`tries trial ${t.repeats} again`);
  if (t.v) D.objectives.forEach((o, at) => lines.push(`${o.name} = ${fmt(t.v[at])}`));
  D.parameters.forEach((p, at) => { if (t.p[at] != null && at < 24) lines.push(`${p.name} = ${cut(t.p[at], 60)}`); });
  if (t.a != null && t.b != null) lines.push("took " + span(t.b - t.a));
  if (t.note) lines.push(t.note);
  tell(lines.join("\n"), x, y);
};
const tell = (text, x, y) => {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect(), wide = document.documentElement.clientWidth;
  tip.style.left = Math.max(4, Math.min(x + 14, wide - box.width - 8)) + scrollX + "px";
  tip.style.top = (y + box.height + 24 > innerHeight ? y - box.height - 10 : y + 16) + scrollY + "px";
};
let lit = null;
const light = n => {
  if (n === lit) return;
  document.querySelectorAll(".on").forEach(node => node.classList.remove("on"));
  lit = n;
  if (n != null) document.querySelectorAll(`[data-n="${n}"]`).forEach(node => node.classList.add("on"));
};
const point = event => {
  const node = event.target.closest && event.target.closest("[data-n],[data-tip]");
  if (!node) { tip.hidden = true; light(null); return; }
  if (node.dataset.tip) { tell(node.dataset.tip, event.clientX, event.clientY); return; }
  const t = byNumber.get(+node.dataset.n);
  light(t.n);
  if (node.tagName !== "TR") say(t, event.clientX, event.clientY);
};
document.addEventListener("pointermove", point);
document.addEventListener("pointerdown", point);
document.addEventListener("keydown", event => { if (event.key === "Escape") { tip.hidden = true; light(null); } });

const parts = {
  head() {
    const [good, failed, stopped, running] = D.counts;
    const facts = [plural(D.all, "trial"), failed ? failed + " failed" : "", stopped ? stopped + " stopped" : "", running ? running + " running" : "",
      D.start && D.end ? "took " + span(D.end - D.start) : "", "as of " + new Date(D.made).toLocaleString()];
    page.append(h("header", {}, h("h1", {}, D.name, h("span", { class: "chip " + D.phase }, D.phase)),
      h("div", { class: "facts" }, facts.filter(Boolean).map(fact => h("span", {}, fact))), D.message ? h("p", {}, D.message) : null));
    if (D.objectives.length > 1) {
      const choose = h("select", { id: "objective" }, D.objectives.map((o, at) => h("option", { value: at }, o.name)));
      choose.addEventListener("change", () => { objective = +choose.value; rank(); charts.forEach(draw => draw()); });
      page.lastChild.append(h("label", {}, "Charts show", choose));
    }
  },
  best() {
    if (D.best == null) return;
    const one = D.objectives.length === 1;
    const t = byNumber.get(D.best), again = D.repeated.find(([n]) => n === D.best), sure = again && again[2];
    const node = section(one ? "Best configuration" : "A configuration that no other one beats", one ? null : plural(D.front.length, "trial") + " are not beaten; this is the first of them.");
    node.id = "best";
    node.append(h("div", { class: "best" }, h("div", {}, D.objectives.map((o, at) => h("div", {}, h("span", { class: "big" }, fmt(sure ? sure[0] : t.v[at])), sure ? ` ± ${fmt((sure[2] - sure[1]) / 2)}` : "", " " + o.name)),
        h("div", { class: "facts" }, `trial ${t.n}` + (sure ? `, the mean of ${plural(again[1].length, "repeat")}, with 95 % confidence` : one ? ", told once" : ""))),
      h("div", { class: "config" }, D.configuration.map(([name, text]) => h("span", {}, `${name} = ${text}`)))));
  },
  repeats() {
    if (!D.repeated.length) return;
    const node = section("Tried again", "What the best told when they were tried again: each time, their mean, and where the true mean is; all of these intervals hold at once with 95 % confidence. A ring is what was told first, which luck had a hand in.");
    node.id = "repeats";
    chart(node, () => "Repeats of the best trials, with confidence intervals", () => D.repeated.length * 30 + 30, (svg, w, hgt) => {
      const first = D.repeated.map(([n]) => byNumber.get(n)).map(t => t && t.v ? t.v[0] : null);
      const all = D.repeated.flatMap(([, values, ends]) => values.concat(ends || [])).concat(first).filter(v => v != null);
      const low = Math.min(...all), high = Math.max(...all), left = 74;
      const x = v => left + 8 + (w - left - 24) * (high > low ? (v - low) / (high - low) : 0.5);
      for (const v of ticks(low, high, Math.max(2, Math.floor(w / 100)))) svg.append(s("line", { class: "guide", x1: x(v), x2: x(v), y1: 0, y2: hgt - 22 }), s("text", { x: x(v), y: hgt - 6, "text-anchor": "middle" }, fmt(v)));
      D.repeated.forEach(([n, values, ends], row) => {
        const y = row * 30 + 16;
        svg.append(s("text", { class: "name", x: left - 6, y: y + 4, "text-anchor": "end" }, "trial " + n + (n === D.best ? " ★" : "")));
        if (ends) svg.append(s("line", { class: "step", x1: x(ends[1]), x2: x(ends[2]), y1: y, y2: y, "data-tip": `${fmt(ends[0])}, from ${fmt(ends[1])} to ${fmt(ends[2])}` }), s("rect", { x: x(ends[0]) - 2, y: y - 8, width: 4, height: 16, style: colour(1), "data-tip": "mean " + fmt(ends[0]) }));
        for (const v of values) svg.append(s("circle", { class: "sample", cx: x(v), cy: y, r: 3, "data-tip": fmt(v) }));
        if (first[row] != null) svg.append(s("circle", { "data-n": n, cx: x(first[row]), cy: y, r: 5, style: "fill:transparent;stroke:var(--bad);stroke-width:2" }));
      });
    });
  },
  history() {
    const node = section("History", "The value of each trial, and the best so far.");
    node.id = "history";
    chart(node, () => `${O().name} of ${told.length} trials by number, and the best so far`, w => w < 600 ? 240 : 300, (svg, w, hgt) => {
      const values = told.map(t => t.v[objective]);
      const target = O().target;
      const limits = range(values.concat(target != null ? [target] : []));
      const f = frame(svg, w, hgt, limits), last = Math.max(1, ...T.map(t => t.n)), x = n => f.x(n / last);
      for (const n of ticks(0, last, Math.max(2, Math.floor(w / 90)))) if (n % 1 === 0) svg.append(s("text", { x: x(n), y: hgt - 6, "text-anchor": "middle" }, n));
      if (target != null) svg.append(s("line", { class: "cross", x1: f.left, x2: w, y1: f.y(target), y2: f.y(target), "stroke-dasharray": "6 4", "data-tip": "the target, " + fmt(target) }));
      for (const t of told) svg.append(dot(t, x(t.n), f.y(inside(limits, t.v[objective]))));
      for (const t of T) if (t.state === "Failed") {
        const [a, b] = [x(t.n), f.bottom];
        svg.append(s("path", { class: "cross", "data-n": t.n, d: `M${a - 3} ${b - 3}l6 6m0 -6l-6 6` }));
      }
      const records = D.records[objective];
      if (records.length) {
        let path = `M${x(records[0][0])} ${f.y(inside(limits, records[0][1]))}`;
        for (const [n, v] of records.slice(1)) path += `H${x(n)}V${f.y(inside(limits, v))}`;
        svg.append(s("path", { class: "step", d: path + `H${x(last)}`, "pointer-events": "none" }));
      }
    });
    const far = told.filter(t => { const [low, high] = range(told.map(t => t.v[objective])); return t.v[objective] < low || t.v[objective] > high; }).length;
    const notes = [far ? plural(far, "value") + " far out stand at the edge." : "", D.counts[1] ? "Crosses are failed trials." : "", T.length < D.all ? `${T.length} of ${D.all} trials are drawn: the best, and of the others evenly.` : ""].filter(Boolean).join(" ");
    if (notes) node.append(h("p", {}, notes));
  },
  pareto() {
    if (D.objectives.length < 2) return;
    const node = section("Pareto front", "Trials that no other one beats are joined.");
    node.id = "pareto";
    const pick = [0, 1];
    const redraw = () => charts.forEach(draw => draw());
    if (D.objectives.length > 2) node.append(...pick.map(side => {
      const choose = h("select", {}, D.objectives.map((o, at) => h("option", { value: at }, o.name)));
      choose.value = side;
      choose.addEventListener("change", () => { pick[side] = +choose.value; redraw(); });
      return h("label", {}, side ? " against" : "Show", choose);
    }));
    chart(node, () => `${D.objectives[pick[1]].name} against ${D.objectives[pick[0]].name}, with the Pareto front`, 300, (svg, w, hgt) => {
      const limits = pick.map(at => { const v = told.map(t => t.v[at]); const low = Math.min(...v), high = Math.max(...v), rim = (high - low) * 0.05 || 1; return [low - rim, high + rim]; });
      const f = frame(svg, w, hgt, limits[1], 52, 38), x = v => f.x((v - limits[0][0]) / (limits[0][1] - limits[0][0]));
      for (const v of ticks(...limits[0], Math.max(2, Math.floor(w / 90)))) svg.append(s("text", { x: x(v), y: hgt - 22, "text-anchor": "middle" }, fmt(v)));
      svg.append(s("text", { class: "name", x: w / 2, y: hgt - 5, "text-anchor": "middle" }, D.objectives[pick[0]].name), s("text", { class: "name", x: 0, y: 4 }, D.objectives[pick[1]].name));
      const front = D.front.map(n => byNumber.get(n)).filter(Boolean).sort((one, other) => one.v[pick[0]] - other.v[pick[0]]);
      svg.append(s("path", { class: "step", d: front.map((t, at) => `${at ? "L" : "M"}${x(t.v[pick[0]])} ${f.y(t.v[pick[1]])}`).join(""), "pointer-events": "none" }));
      const is = new Set(D.front);
      for (const t of told) svg.append(s("circle", { class: "dot", "data-n": t.n, cx: x(t.v[pick[0]]), cy: f.y(t.v[pick[1]]), r: is.has(t.n) ? 5 : 3.2, style: colour(is.has(t.n) ? 1 : 0.25) }));
    });
  },
  importance() {
    if (!D.importance.some(Boolean)) return;
    const node = section("Importance", null, D.importance.some(I => I && I.surface) ? "third" : null);
    node.id = "importance";
    const text = h("p");
    node.append(text);
    chart(node, () => `How much of the variance of ${O().name} each parameter explains`, () => { const I = D.importance[objective]; return I ? Math.min(20, I.ranked.length) * 24 + 26 : 10; }, (svg, w, hgt) => {
      const I = D.importance[objective];
      text.textContent = I ? `How much of what ${O().name} varies over the whole space is due to each parameter: dark alone, light with others.` : `Too few trials told ${O().name} to say.`;
      if (!I) return;
      const strong = I.interplay.slice(0, 3);
      if (strong.length) text.textContent += " Interplay: " + strong.map(([a, b, part]) => `${D.parameters[a].name} with ${D.parameters[b].name} ${(part * 100).toFixed(0)} %`).join(", ") + ".";
      if (I.fit < 0.3) text.textContent += ` To be taken with care: the model explains ${Math.max(0, Math.round(I.fit * 100))} % of what it has not seen.`;
      const left = Math.min(150, w * 0.36), room = w - left - 44;
      I.ranked.slice(0, 20).forEach((at, row) => {
        const [alone, total] = I.shares[at], y = row * 24;
        const told = `${D.parameters[at].name}: ${(total * 100).toFixed(1)} % in all, ${(alone * 100).toFixed(1)} % alone`;
        svg.append(s("text", { class: "name", x: left - 8, y: y + 15, "text-anchor": "end", "data-tip": D.parameters[at].name }, cut(D.parameters[at].name, Math.floor(left / 7))),
          s("rect", { x: left, y: y + 4, width: Math.max(1, room * total), height: 15, rx: 3, style: colour(0.35), "data-tip": told }),
          s("rect", { x: left, y: y + 4, width: room * alone, height: 15, rx: 3, style: colour(1), "data-tip": told }),
          s("text", { x: left + room * total + 6, y: y + 15 }, (total * 100).toFixed(0) + " %"));
      });
      if (I.ranked.length > 20) svg.append(s("text", { x: left, y: hgt - 6 }, `and ${I.ranked.length - 20} more`));
    });
  },
  contour() {
    if (!D.importance.some(I => I && I.surface)) return;
    const node = section("The two that matter most", null, "rest");
    node.id = "contour";
    const text = h("p");
    node.append(text);
    chart(node, () => { const I = D.importance[objective]; return I && I.surface ? `${O().name} over ${I.surface.parameters.map(at => D.parameters[at].name).join(" and ")}` : "Nothing to show"; }, w => Math.min(420, Math.max(260, w * 0.6)), (svg, w, hgt) => {
      const I = D.importance[objective];
      text.textContent = "";
      if (!I || !I.surface) return;
      const [a, b] = I.surface.parameters, Z = I.surface.rows, P = D.parameters;
      text.textContent = `What is expected of ${O().name} over ${P[a].name} (across) and ${P[b].name} (up), as the mean over all else: ${O().maximize ? "higher" : "lower"} is bluer; dots are trials.`;
      const left = Math.min(90, Math.max(34, ...P[b].marks.map(([, m]) => Math.min(10, m.length) * 6 + 10))), top = 6, bottom = hgt - 22;
      const x = part => left + (w - left - 4) * part, y = part => bottom - (bottom - top) * part;
      const all = Z.flat(), low = Math.min(...all), high = Math.max(...all);
      const part = v => { const p = high > low ? (v - low) / (high - low) : 0.5; return O().maximize ? p : 1 - p; };
      Z.forEach((row, i) => row.forEach((v, j) => svg.append(s("rect", {
        x: x(i / Z.length), y: y((j + 1) / row.length), width: (w - left - 4) / Z.length + 0.6, height: (bottom - top) / row.length + 0.6, style: colour(part(v)),
        "data-tip": `${O().name} ≈ ${fmt(v)}` }))));
      if (!P[a].choice && !P[b].choice) for (let level = 1; level < 8; level++) svg.append(s("path", { class: "iso", d: isoline(Z, low + (high - low) * level / 8, x, y), "pointer-events": "none" }));
      for (const t of told.slice(-400)) if (t.x[a] != null && t.x[b] != null) svg.append(s("circle", { class: "sample", "data-n": t.n, cx: x(t.x[a]), cy: y(t.x[b]), r: t.n === D.best && D.objectives.length === 1 ? 5 : 2.4 }));
      marksBelow(svg, P[a].marks, x, bottom, w);
      for (const [at, mark] of P[b].marks) svg.append(s("text", { x: left - 6, y: y(at) + 4, "text-anchor": "end" }, cut(mark, 10)));
    });
  },
  parallel() {
    if (D.parameters.length < 2 || !told.length) return;
    const node = section("Parallel coordinates", "A line is a trial; blue ones are better. Drag along an axis to keep what goes through there; a click on it takes that back.");
    node.id = "parallel";
    const kept = new Map();
    chart(node, () => `Parallel coordinates of ${told.length} trials`, 300, (svg, w, hgt) => {
      const I = D.importance[objective], order = (I ? I.ranked : D.parameters.map((_, at) => at)).slice(0, Math.max(2, Math.min(10, Math.floor(w / 80) - 1)));
      const limits = range(told.map(t => t.v[objective])), top = 30, bottom = hgt - 28;
      const columns = order.map(at => ({ name: D.parameters[at].name, key: "p" + at, of: t => t.x[at], marks: D.parameters[at].marks }));
      columns.push({ name: O().name, key: "o", of: t => (inside(limits, t.v[objective]) - limits[0]) / (limits[1] - limits[0]), marks: ticks(...limits, 5).map(v => [(v - limits[0]) / (limits[1] - limits[0]), fmt(v)]) });
      const x = at => 34 + (w - 96) * at / (columns.length - 1), y = part => bottom - (bottom - top) * part;
      // Of many trials the best and some of the others.
      const shown = told.length > 600 ? told.filter((t, at) => goodness.get(t.n) > 0.8 || at % Math.ceil(told.length / 400) === 0) : told;
      const lines = [...shown].sort((one, other) => goodness.get(one.n) - goodness.get(other.n)).map(t => {
        const path = columns.map((column, at) => {
          const part = column.of(t);
          return `${at ? "L" : "M"}${x(at)} ${part == null ? bottom + 14 : y(part)}`;
        }).join("");
        const line = s("path", { class: "path", "data-n": t.n, d: path, style: "stroke:" + shade(t) });
        svg.append(line);
        return [t, line];
      });
      const sift = () => lines.forEach(([t, line]) => line.classList.toggle("faded", columns.some(column => {
        const wanted = kept.get(column.key), part = column.of(t);
        return wanted && (part == null || part < wanted[0] || part > wanted[1]);
      })));
      columns.forEach((column, at) => {
        const bar = s("rect", { x: x(at) - 5, width: 10, rx: 3, style: "fill:var(--best);opacity:.25", "pointer-events": "none" });
        const show = () => { const k = kept.get(column.key); put(bar, k ? { y: y(k[1]), height: y(k[0]) - y(k[1]) } : { y: 0, height: 0 }, []); };
        const grip = s("rect", { x: x(at) - 12, y: top - 6, width: 24, height: bottom - top + 12, fill: "transparent", style: "cursor:ns-resize;touch-action:none", "data-tip": column.name });
        const part = event => Math.min(1, Math.max(0, (bottom - (event.clientY - svg.getBoundingClientRect().top)) / (bottom - top)));
        let from = null;
        grip.addEventListener("pointerdown", event => { from = part(event); grip.setPointerCapture(event.pointerId); });
        grip.addEventListener("pointermove", event => { if (from != null) { const to = part(event); kept.set(column.key, [Math.min(from, to), Math.max(from, to)]); show(); sift(); } });
        grip.addEventListener("pointerup", event => { if (from != null && Math.abs(part(event) - from) < 0.02) kept.delete(column.key); from = null; show(); sift(); });
        svg.append(s("line", { class: "axis", x1: x(at), x2: x(at), y1: top, y2: bottom }), bar,
          s("text", { class: "name", x: x(at), y: at % 2 && w < 700 ? 22 : 12, "text-anchor": at === 0 ? "start" : at === columns.length - 1 ? "end" : "middle", dx: at === 0 ? -30 : at === columns.length - 1 ? 60 : 0 }, cut(column.name, Math.floor(w / columns.length / 6))), grip);
        if (told.some(t => column.of(t) == null)) svg.append(s("text", { x: x(at), y: bottom + 26, "text-anchor": "middle" }, "not used"));
        for (const [place, mark] of column.marks) svg.append(s("text", { x: x(at) + 5, y: y(place) + 4, "pointer-events": "none", style: "paint-order:stroke;stroke:var(--card);stroke-width:3px" }, cut(mark, 8)));
        show();
      });
      sift();
    });
  },
  slices() {
    if (!told.length) return;
    const node = section("Slices", "Each parameter against the objective. The line is what is expected, as the mean over all else.");
    node.id = "slices";
    const grid = h("div", { class: "grid" });
    node.append(grid);
    const I = D.importance[0], order = I ? I.ranked : D.parameters.map((_, at) => at);
    const show = list => list.forEach(at => {
      const p = D.parameters[at], cell = h("div", {});
      grid.append(cell);
      chart(cell, () => `${O().name} against ${p.name}`, 170, (svg, w, hgt) => {
        const limits = range(told.map(t => t.v[objective])), f = frame(svg, w, hgt, limits, 46, 22, 20);
        svg.append(s("text", { class: "name", x: f.left, y: 10, "data-tip": p.name + (p.when ? `\nused when ${p.when}` : "") }, cut(p.name + (p.when ? " *" : ""), 30)));
        const few = told.length > 800 ? told.filter((t, at) => goodness.get(t.n) > 0.9 || at % Math.ceil(told.length / 600) === 0) : told;
        for (const t of few) if (t.x[at] != null) svg.append(dot(t, f.x(p.choice ? t.x[at] + (((t.n * 0.618) % 1) - 0.5) * 0.5 / Math.max(1, p.marks.length) : t.x[at]), f.y(inside(limits, t.v[objective])), 2.8));
        const curve = D.importance[objective] && D.importance[objective].curves[at];
        if (curve) svg.append(s("path", { class: "curve", "pointer-events": "none", d: curve.map((v, i) => {
          const put = part => `${f.x(part)} ${f.y(inside(limits, v))}`;
          return p.choice ? `M${put(i / curve.length)}L${put((i + 1) / curve.length)}` : `${i ? "L" : "M"}${put((i + 0.5) / curve.length)}`;
        }).join("") }));
        marksBelow(svg, p.marks, f.x, f.bottom, w);
      });
    });
    show(order.slice(0, 12));
    if (order.length > 12) {
      const more = h("button", { class: "more" }, `Show all ${order.length}`);
      more.addEventListener("click", () => { more.remove(); show(order.slice(12, 200)); });
      node.append(more);
    }
    if (D.parameters.some(p => p.when)) node.append(h("p", {}, "* not always used"));
  },
  timeline() {
    const run = T.filter(t => t.a != null).sort((one, other) => one.a - other.a || one.n - other.n);
    if (!run.length) return;
    const node = section("Timeline", null);
    node.id = "timeline";
    node.append(h("p", {}, "When each trial ran.", ["Succeeded", "Failed", "Stopped", "Running"].filter(state => run.some(t => t.state === state)).map(state =>
      [h("span", { class: "key " + state, style: "background:currentColor" }), state])));
    const start = run[0].a, end = Math.max(start + 1000, ...run.map(t => t.b || D.made)), lanes = [];
    for (const t of run) {
      let lane = lanes.findIndex(free => free <= t.a);
      if (lane < 0) lane = lanes.length;
      lanes[lane] = t.b == null ? Infinity : Math.max(t.b, t.a + 1);
      t.lane = lane;
    }
    const high = Math.max(4, Math.min(18, 360 / lanes.length));
    chart(node, () => `When ${run.length} trials ran, in ${plural(lanes.length, "lane")}`, () => lanes.length * high + 26, (svg, w, hgt) => {
      const x = ms => (w - 8) * (ms - start) / (end - start) + 4;
      for (const at of times(end - start, Math.max(2, Math.floor(w / 110)))) svg.append(s("line", { class: "guide", x1: x(start + at), x2: x(start + at), y1: 0, y2: hgt - 20 }), s("text", { x: x(start + at), y: hgt - 5, "text-anchor": at ? "middle" : "start" }, span(at)));
      for (const t of run) svg.append(s("rect", { class: "lane " + t.state, "data-n": t.n, x: x(t.a), y: t.lane * high, width: Math.max(2, x(t.b || D.made) - x(t.a)), height: high - 1, rx: 2 }));
    });
  },
  table() {
    if (!T.length) return;
    const node = section("Trials", T.length < D.all ? `${T.length} of ${D.all}; \`trainyard tune export\` has all of them.` : null);
    node.id = "trials";
    const columns = [["Trial", t => t.n, t => t.n], ["State", t => t.state, t => t.state],
      ...D.objectives.map((o, at) => [o.name, t => t.v ? t.v[at] : null, t => t.v ? fmt(t.v[at]) : "–"]),
      ...D.parameters.slice(0, 30).map((p, at) => [p.name, t => t.x[at], t => t.p[at] ?? "–"]),
      ["Took", t => t.b != null && t.a != null ? t.b - t.a : null, t => t.b != null && t.a != null ? span(t.b - t.a) : "–"], ["Note", t => t.note || "", t => (t.repeats != null ? `tries ${t.repeats} again ` : "") + (t.note || "")]];
    let by = 2, up = !O().maximize, most = 50;
    const body = h("tbody"), head = h("tr"), more = h("button", { class: "more" }, "Show more");
    const fill = () => {
      const value = columns[by][1], sorted = [...T].sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        if (a == null || b == null) return (a == null) - (b == null) || one.n - other.n;
        return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1) || one.n - other.n;
      });
      body.replaceChildren(...sorted.slice(0, most).map(t => h("tr", { "data-n": t.n }, columns.map(([, , text], at) => h("td", at === 1 ? { class: t.state } : {}, String(text(t)))))));
      [...head.children].forEach((cell, at) => cell.setAttribute("aria-sort", at === by ? up ? "ascending" : "descending" : "none"));
      more.hidden = most >= T.length;
    };
    columns.forEach(([name], at) => {
      const button = h("button", {}, name);
      button.addEventListener("click", () => { up = at === by ? !up : true; by = at; fill(); });
      head.append(h("th", { scope: "col" }, button));
    });
    more.addEventListener("click", () => { most *= 4; fill(); });
    node.append(h("div", { class: "scroll" }, h("table", {}, h("thead", {}, head), body)), more);
    fill();
  },
  settings() {
    const node = section("Settings", "Values of environment variables are not shown.");
    node.id = "settings";
    node.append(h("div", { class: "scroll" }, h("table", {}, h("tbody", {}, D.settings.map(([path, text]) => h("tr", {}, h("th", { scope: "row" }, path), h("td", { class: "wrap" }, h("code", {}, text))))))));
  },
};
// The line along which a surface has a level, by marching squares.
const isoline = (Z, level, x, y) => {
  let path = "";
  const rows = Z.length, columns = Z[0].length, px = i => x((i + 0.5) / rows), py = j => y((j + 0.5) / columns);
  for (let i = 0; i + 1 < rows; i++) for (let j = 0; j + 1 < columns; j++) {
    const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]], cuts = [];
    corners.forEach(([a, b], at) => {
      const [c, d] = corners[(at + 1) % 4], one = Z[a][b], other = Z[c][d];
      if (one < level !== other < level) { const part = (level - one) / (other - one); cuts.push(`${px(a + (c - a) * part).toFixed(1)} ${py(b + (d - b) * part).toFixed(1)}`); }
    });
    for (let at = 0; at + 1 < cuts.length; at += 2) path += `M${cuts[at]}L${cuts[at + 1]}`;
  }
  return path;
};
rank();
for (const part of Object.values(parts)) part();
let wide = innerWidth;
addEventListener("resize", () => { if (innerWidth !== wide) { wide = innerWidth; charts.forEach(draw => draw()); } });
document.documentElement.dataset.ready = "true";
})();
