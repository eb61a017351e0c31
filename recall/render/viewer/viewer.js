"use strict";
// The page's data is one JSON element. This file: unpack it, keep one state (episode, step, score), and draw that
// state. Everything large is drawn on canvases; what does not change from step to step is drawn once and copied.
// A page shows one agent in one pane, or two that play the same episodes in two; they share step, score and time line.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const state = { episode: 0, t: 0, score: data.opens_with, playing: false, pinned: null, side: 0 };
// pinned: the earlier step of the matrix cell that was clicked last, shown beside the matrix; side: whose matrix it is
const panes = []; // { suffix: of the ids of its elements, view: the unpacked episode that it shows, tiles }
let pane = null, view = null; // the pane in hand and its episode: that of `state.side` unless `within` says otherwise
const of = (id) => $(id + pane.suffix);
const pair = () => (data.against ? data.against.pairs[state.episode] : null);
const span = () => Math.max(...panes.map((p) => p.view.steps));
const now = () => Math.min(state.t, view.steps - 1); // the shorter of two episodes stays at its end
function within(other, work) {
  const before = pane;
  pane = other; view = pane.view;
  try { return work(); } finally { pane = before; view = pane.view; }
}
const each = (work) => panes.forEach((p, side) => within(p, () => work(side)));

// Whether the score shown asks for whole steps, whatever carried them, and not for writes or reads of a memory.
const ofSteps = () => state.score !== null && data.scores[state.score].of === "steps";

// --- Unpacking -----------------------------------------------------------------------------------------------

function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}
const floats = (text) => new Float32Array(bytes(text).buffer);
async function inflate(text) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const unpacked = new Map();
function unpackEpisode(number) {
  if (unpacked.has(number)) return unpacked.get(number);
  const raw = data.episodes[number], episode = { ...raw, number, columns: {}, scores: {} };
  for (const name in raw.columns) episode.columns[name] = floats(raw.columns[name]);
  episode.policy = floats(raw.policy);
  for (const name in raw.scores) {
    const s = raw.scores[name];
    episode.scores[name] = {
      scale: s.scale, signed: s.signed, judged: s.judged, packed: s.cells, cells: null,
      writes: new Int32Array(bytes(s.writes).buffer), ranks: bytes(s.ranks), supports: bytes(s.supports),
      counts: bytes(s.counts),
      listed: floats(s.listed), own: floats(s.own), joint: floats(s.joint), residual: floats(s.residual),
      doubt: bytes(s.doubt),
    };
  }
  unpacked.set(number, episode);
  return episode;
}
// The score of (t, s) as the matrix has it: one of 256 levels, for s < t.
const cell = (score, t, s) => (score.cells ? score.cells[(t * (t - 1)) / 2 + s] : 0);

// The recalls of step t in the rows in which they are shown; null for an empty row.
function recallsAt(t, name = state.score) {
  const score = view.scores[name], found = [];
  for (let row = 0; row < data.top_k; row++) {
    const i = t * data.top_k + row, s = score.writes[i];
    found.push(s < 0 ? null : { s, rank: score.ranks[i], score: score.listed[i], supports: score.supports[i] === 1,
      counts: score.counts[i] === 1 });
  }
  return found;
}

const images = new Map();
function image(id) {
  if (id == null) return null;
  if (!images.has(id)) {
    const made = new Image();
    made.onload = () => { schedule(); if (tip) fillTip(); };
    made.src = "data:image/webp;base64," + data.images[id];
    images.set(id, made);
  }
  const found = images.get(id);
  return found.complete && found.naturalWidth ? found : null;
}

// --- Words ---------------------------------------------------------------------------------------------------

const short = (x, digits = 2) => (Number.isFinite(x) ? String(Number(x.toFixed(digits))).replace("-", "\u2212") : "\u221e");
const fixed = (x, digits = 2) => (!Number.isFinite(x) ? "\u221e" : x > 100 ? "> 100" : x.toFixed(digits).replace("-", "\u2212"));
const scoreText = (x) => (x > 0 && x < 0.0005 ? x.toExponential(0) : x.toFixed(x >= 0.1 ? 2 : 3));
const stepName = (t) => view.start + t;
function whatThen(s) {
  const c = view.columns, lines = [`step ${stepName(s)}: ${view.actions[s]} (${view.likelihood} ${fixed(c.probability[s])})`];
  if (c.reward_before[s]) lines.push(`reward ${short(c.reward_before[s])} had just come`);
  if (c.reward[s]) lines.push(`reward ${short(c.reward[s])} for the action`);
  if (c.beta) lines.push(`beta ${fixed(c.beta[s])} \u00b7 value ${fixed(c.value[s])}`);
  return lines;
}
// The best recall of step t where it may be believed, else null.
function trusted(t) {
  const doubt = state.score ? data.doubts[view.scores[state.score].doubt[t]] : "";
  if (!state.score || (doubt && doubt !== data.doubts[2])) return null; // where writes interact, only amounts are doubtful
  return recallsAt(t).find((recall) => recall && recall.rank === 0 && recall.counts) || null;
}
function recallWords(t, s) {
  const what = view.words && view.words[s] ? `: ${view.words[s]}` : "";
  return `remembers step ${stepName(s)}${what}, seen ${t - s === 1 ? "1 step" : `${t - s} steps`} ago`;
}
// The score of (t, s): exact where it is listed, else from the matrix, which has 255 levels up to `scale`.
function scoreOf(name, t, s) {
  const score = view.scores[name];
  const listed = recallsAt(t, name).find((r) => r && r.s === s);
  if (listed) return { text: scoreText(listed.score), rank: listed.rank };
  if (!score.cells) return { text: "\u2026", rank: null };
  const level = cell(score, t, s);
  if (level === 0) return { text: "\u2248 0", rank: null };
  return { text: level === 255 ? "\u2265 " + scoreText(score.scale) : "\u2248 " + scoreText((level / 255) * score.scale), rank: null };
}

// --- Canvases ------------------------------------------------------------------------------------------------

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let colour = {};
function readColours() {
  for (const name of ["paper", "panel", "edge", "ink", "faint", "notice", "on-notice", "supports", "opposes", "grey",
    "second", "parting", "shared"])
    colour[name] = css("--" + name);
  colour.dark = matchMedia("(prefers-color-scheme: dark)").matches;
}
// A canvas of this CSS size in device pixels, cleared; drawing is in CSS pixels.
function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const w = Math.max(1, Math.round(width * ratio)), h = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return ctx;
}
// A picture in a canvas element of at most `width` x `height`; true if it was there to be drawn.
function drawPicture(canvas, id, width, height) {
  const picture = image(id);
  if (!picture) return false;
  const scale = Math.min(width / picture.naturalWidth, height / picture.naturalHeight);
  const w = Math.round(picture.naturalWidth * scale), h = Math.round(picture.naturalHeight * scale);
  canvas.style.width = w + "px";
  canvas.style.height = h + "px";
  const ctx = prepare(canvas, w, h);
  ctx.imageSmoothingEnabled = scale < 1 || view.cell_size === 0;
  ctx.imageSmoothingQuality = "high";
  ctx.drawImage(picture, 0, 0, w, h);
  return true;
}
function badge(ctx, x, y, rank, size, ink = colour.ink) {
  const best = rank === 0;
  ctx.fillStyle = best ? ink : colour.paper;
  ctx.strokeStyle = best ? colour.paper : ink;
  ctx.lineWidth = 1;
  ctx.fillRect(x - size / 2, y - size / 2, size, size);
  ctx.strokeRect(x - size / 2, y - size / 2, size, size);
  ctx.fillStyle = best ? colour.paper : ink;
  ctx.font = `700 ${Math.round(size * 0.78)}px system-ui, sans-serif`;
  ctx.textAlign = "center"; ctx.textBaseline = "middle";
  ctx.fillText(String(rank + 1), x, y + size * 0.06);
}

// --- The scene, the numbers and the list ----------------------------------------------------------------------

function drawScene() {
  const canvas = of("scene"), t = now(), picture = view.frames ? image(view.frames[t]) : null;
  if (!view.frames) { canvas.hidden = true; return; }
  if (!picture) return; // it comes: `onload` draws again
  const width = canvas.clientWidth, most = panes.length > 1 ? 380 : 520, shown = Math.min(width, most);
  const scale = Math.min(shown / picture.naturalWidth, most / picture.naturalHeight);
  const w = picture.naturalWidth * scale, h = picture.naturalHeight * scale;
  canvas.style.height = h + "px";
  const ctx = prepare(canvas, width, h), left = (width - w) / 2;
  ctx.imageSmoothingEnabled = scale < 1 || view.cell_size === 0;
  ctx.imageSmoothingQuality = "high";
  ctx.drawImage(picture, left, 0, w, h);
  const pitch = (view.cell_size / view.size[0]) * w, size = Math.max(11, Math.min(18, pitch * 0.3));
  if (!state.score || pitch <= 0) return;
  const found = recallsAt(t).filter(Boolean).sort((a, b) => a.rank - b.rank), best = trusted(t);
  if (best && view.cells[best.s][0] >= 0) { // the same blue frame as on the tile
    const [row, column] = view.cells[best.s];
    ctx.strokeStyle = colour.supports;
    ctx.lineWidth = 3;
    ctx.strokeRect(left + column * pitch + 1.5, row * pitch + 1.5, pitch - 3, pitch - 3);
  }
  if (pitch < 2.4 * size) return;
  const taken = new Map();
  for (const recall of found) {
    const [row, column] = view.cells[recall.s], key = row + "," + column, n = taken.get(key) || 0;
    taken.set(key, n + 1);
    if (row < 0 || n > 3) continue;
    const reach = size / 2 + 2;
    badge(ctx, left + column * pitch + (n % 2 ? pitch - reach : reach), row * pitch + (n > 1 ? pitch - reach : reach),
      recall.rank, size);
  }
}

function drawFacts() {
  const t = now(), c = view.columns, last = view.start + view.steps - 1, ended = state.t > t;
  of("fact-step").textContent = ended ? `ended at ${last}` : `${stepName(t)} / ${last}`;
  of("fact-action").textContent = view.actions[t];
  of("fact-action").classList.toggle("parted", Boolean(pair()) && !ended && differs(t));
  of("fact-reward").textContent = c.reward[t] ? short(c.reward[t]) : "\u2013";
  of("fact-reward").className = c.reward[t] ? "strong" : "";
  of("fact-return").textContent = short(c.return[t]);
  of("now").classList.toggle("ended", ended);
  const facts = [["value of the state", fixed(c.value[t])], [`${view.likelihood} of action`, fixed(c.probability[t])]];
  if (state.score) {
    const score = view.scores[state.score];
    if (ofSteps()) { if (c.forgotten) facts.push(["all forgotten: action moves by", fixed(c.forgotten[t])]); }
    else if (c.beta) facts.push(["use share", fixed(c.use_share[t])], ["residual rho", fixed(score.residual[t])],
      ["writing now: beta", fixed(c.beta[t])], ["its own write", scoreText(score.own[t])],
      [`top ${data.top_k} removed jointly`, fixed(score.joint[t])]);
    else facts.push(["heads that read a slot", fixed(c.use_share[t])]);
    if (c.policy_effect && !ofSteps()) facts.push(["moves action by", fixed(c.policy_effect[t])]);
  }
  of("measures").replaceChildren(...facts.map(([name, text]) => {
    const box = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name; dd.textContent = text; box.append(dt, dd);
    return box;
  }));
}

// The tiles are made once and filled at every step, so that nothing flickers.
function makeTiles() {
  const home = pane;
  of("tiles").classList.toggle("many", data.top_k > 6);
  for (let row = 0; row < data.top_k && state.score; row++) {
    const item = document.createElement("li"), tile = document.createElement("button");
    tile.type = "button";
    tile.className = "tile empty";
    tile.innerHTML = '<b class="rank"></b><span class="pictures"><canvas></canvas><canvas></canvas></span><span class="words">' +
      '<span class="line"><span class="age"></span><span class="number"></span></span><span class="bar" hidden><i></i></span>' +
      '<span class="line then"><span class="what"></span><span class="others"></span></span></span>';
    tile.querySelector(".bar").style.display = "block";
    const parts = { tile, s: null };
    for (const name of ["rank", "age", "number", "bar", "what", "others", "pictures"]) parts[name] = tile.querySelector("." + name);
    [parts.seen, parts.where] = tile.querySelectorAll("canvas");
    tile.addEventListener("click", () => parts.s != null && jump(parts.s));
    tile.addEventListener("pointerenter", (event) => parts.s != null && event.pointerType === "mouse"
      && within(home, () => showTip(event, parts.s)));
    tile.addEventListener("pointerleave", hideTip);
    item.append(tile);
    of("tiles").append(item);
    pane.tiles.push(parts);
  }
}
function drawTiles() {
  if (!state.score) return;
  const t = now(), score = view.scores[state.score], doubt = data.doubts[score.doubt[t]], best = trusted(t);
  of("doubt").textContent = doubt;
  of("words").textContent = best ? recallWords(t, best.s) : "";
  of("words").hidden = !best;
  of("doubt").hidden = Boolean(best);
  of("tiles").classList.toggle("grey", doubt !== "");
  of("tiles").classList.toggle("pale", doubt !== "" && doubt !== data.doubts[2]);
  const narrow = window.innerWidth < 760 || panes.length > 1;
  recallsAt(t).forEach((recall, row) => {
    const part = pane.tiles[row];
    part.tile.classList.toggle("empty", !recall);
    part.tile.classList.toggle("linked", Boolean(recall && best && recall.s === best.s));
    part.tile.disabled = !recall;
    part.s = recall ? recall.s : null;
    part.pictures.hidden = part.bar.hidden = part.rank.hidden = !recall;
    if (!recall) {
      for (const name of ["age", "number", "what", "others"]) part[name].textContent = "";
      return;
    }
    const s = recall.s, bar = part.bar.firstChild;
    part.rank.textContent = recall.rank + 1;
    part.rank.classList.toggle("best", recall.rank === 0);
    part.age.textContent = "age " + (t - s);
    part.number.textContent = scoreText(recall.score);
    bar.style.width = Math.min(100, (100 * recall.score) / score.scale) + "%";
    bar.className = recall.supports ? "" : "opposes";
    part.tile.classList.toggle("grey", !recall.counts);
    part.tile.classList.toggle("pale", !recall.counts);
    const reward = view.columns.reward_before[s];
    const told = [view.words && view.words[s], view.actions[s], reward && `reward ${short(reward)}`];
    part.what.textContent = [`step ${stepName(s)}`, ...told.filter(Boolean)].join(", ");
    const others = Object.keys(view.scores).filter((name) => name !== state.score);
    const word = view.columns.beta ? `beta ${fixed(view.columns.beta[s])}` : ofSteps() ? "" : recall.counts ? "read" : "not read";
    part.others.textContent = (word ? [word] : [])
      .concat(narrow ? [] : others.map((name) => `${data.scores[name].label} ${scoreOf(name, t, s).text}`)).join(" \u00b7 ");
    part.tile.setAttribute("aria-label", `Rank ${recall.rank + 1}: step ${stepName(s)}, age ${t - s}, score ${scoreText(recall.score)}`);
    const side = narrow ? 62 : 76;
    part.seen.hidden = !view.seen;
    if (view.seen) drawPicture(part.seen, view.seen[s], side, side);
    part.where.hidden = !view.frames || (panes.length > 1 && Boolean(view.seen));
    if (!part.where.hidden) drawPicture(part.where, view.frames[s], view.seen ? side * 1.2 : side * 2, side);
  });
}
function drawWords() {
  if (!state.score) {
    of("meaning").textContent = data.caption || "";
    of("recalls-title").textContent = "No recalls";
    return;
  }
  const info = data.scores[state.score], score = view.scores[state.score];
  of("recalls-title").textContent = `What it recalls: top ${data.top_k}`;
  of("meaning").textContent = `${info.label}: ${info.meaning}, as ${info.unit}. Full bar = ${score.scale.toFixed(2)}` +
    (score.signed ? "; hollow bar: opposes." : ".") +
    (view.columns.beta || ofSteps() ? "" : " Grey tile: not read, no effect; its bar is the probability of that address.");
  if (ofSteps()) {
    const moves = `no probability moves by ${data.thresholds.policy}`;
    of("rules").textContent = `Grey: ${data.doubts[3]} (${moves}), ${data.doubts[4]} (${moves} but all forgotten). ` +
      `The number is the rank; a row moves up only if it is better by ${Math.round(100 * (data.clearly - 1))}\u00a0%.`;
    return;
  }
  const unaffected = view.columns.policy_effect || state.score === "decision"
    ? `, ${data.doubts[3]} (no probability moves by ${data.thresholds.policy})` : "";
  const interact = `; bars only: ${data.doubts[2]} (rho > ${data.thresholds.residual}: single removals do not add up)`;
  const unused = view.columns.beta ? `use share < ${data.thresholds.use_share}` : "no head read a slot";
  of("rules").textContent = `Grey: ${data.doubts[1]} (${unused})${unaffected}${score.judged ? interact : ""}. ` +
    `The number is the rank; a row moves up only if it is better by ${Math.round(100 * (data.clearly - 1))}\u00a0%.`;
}

// --- Timeline ------------------------------------------------------------------------------------------------

const timeline = { base: document.createElement("canvas"), pad: 12, top: 32 };
const sideColour = (side) => (panes.length > 1 && side ? colour.second : colour.supports);
// The lanes of the time line: what one agent has of each, or both of what they share.
function lanes() {
  const all = (name) => panes.map((p) => p.view.columns[name]), c = view.columns;
  const found = [
    { name: "return", series: all("return"), steps: true }, { name: "value", series: all("value") },
  ];
  if (pair()) return [{ name: "actions", strip: true, series: [] }, ...found];
  if (c.beta) found.push({ name: "beta", series: [c.beta], low: 0, high: 1, bars: true });
  if (c.use_share) found.push({ name: c.beta ? "memory effect (use share)" : "heads that read a slot",
    series: [c.use_share], low: 0, high: c.beta ? undefined : 1, bars: true, line: data.thresholds.use_share });
  return found;
}
const xOf = (t) => timeline.pad + (span() > 1 ? t / (span() - 1) : 0.5) * (timeline.width - 2 * timeline.pad);
const stepAtX = (x) => clampStep(Math.round(((x - timeline.pad) / (timeline.width - 2 * timeline.pad)) * (span() - 1)));
function drawTimelineBase() {
  const canvas = $("timeline"), width = canvas.clientWidth, height = canvas.clientHeight;
  timeline.width = width; timeline.height = height;
  timeline.top = panes.length > 1 ? 58 : 32;
  const ctx = prepare(timeline.base, width, height), all = lanes();
  const narrow = 40, strips = all.filter((lane) => lane.strip).length;
  const tall = (height - timeline.top - 18 - strips * narrow) / (all.length - strips);
  let top = timeline.top;
  timeline.lanes = all.map((lane) => {
    const bottom = top + (lane.strip ? narrow : tall) - 8;
    ctx.fillStyle = colour.panel;
    ctx.fillRect(0, top, width, bottom - top + 2);
    const drawn = { ...lane, top, bottom };
    if (lane.strip) drawStrip(ctx, drawn);
    else drawLane(ctx, drawn);
    top = bottom + 8;
    return drawn;
  });
  drawParting(ctx);
  ctx.fillStyle = colour.faint;
  ctx.font = "12px system-ui, sans-serif";
  ctx.textBaseline = "bottom";
  for (const t of ticks(span(), Math.max(2, Math.floor(width / 90)))) {
    ctx.textAlign = t === 0 ? "left" : t > 0.97 * (span() - 1) ? "right" : "center";
    ctx.fillText(String(stepName(t)), xOf(t), height);
  }
}
const barWidth = (most) => Math.max(1, Math.min(most, (timeline.width - 2 * timeline.pad) / span() - 0.7));
function drawLane(ctx, lane) {
  const { top, bottom } = lane, finite = lane.series.flatMap((values) => Array.from(values).filter(Number.isFinite));
  let low = lane.low ?? Math.min(...finite), high = lane.high ?? Math.max(...finite);
  if (lane.bars && lane.high === undefined) high = finite.sort((a, b) => a - b)[Math.floor(0.98 * (finite.length - 1))];
  if (!(high > low)) high = low + 1;
  const y = (v) => bottom - (Math.min(Math.max(v, low), high) - low) / (high - low) * (bottom - top - 16);
  lane.series.forEach((values, side) => {
    ctx.fillStyle = ctx.strokeStyle = sideColour(side);
    ctx.lineWidth = 1.5;
    if (lane.bars) {
      const wide = barWidth(9);
      for (let t = 0; t < values.length; t++) {
        const doubtful = lane.line !== undefined && state.score && view.scores[state.score].doubt[t] > 0;
        ctx.fillStyle = doubtful ? colour.grey : colour.supports;
        ctx.fillRect(xOf(t) - wide / 2, y(values[t]), wide, bottom - y(values[t]) + 1);
      }
      return;
    }
    ctx.setLineDash(side ? [5, 3] : []);
    ctx.beginPath();
    for (let t = 0; t < values.length; t++) {
      if (lane.steps && t) ctx.lineTo(xOf(t), y(values[t - 1]));
      ctx.lineTo(xOf(t), y(values[t]));
    }
    ctx.stroke();
    ctx.setLineDash([]);
  });
}
function drawTimeline() {
  const ctx = prepare($("timeline"), timeline.width, timeline.height), t = state.t;
  ctx.drawImage(timeline.base, 0, 0, timeline.width, timeline.height);
  if (state.score) each((side) => drawMarks(ctx, 9 + 26 * side, sideColour(side)));
  ctx.fillStyle = colour.ink;
  ctx.fillRect(xOf(t) - 0.75, 20, 1.5, timeline.height - 36);
  ctx.font = "13px system-ui, sans-serif";
  ctx.textAlign = "left"; ctx.textBaseline = "top";
  for (const lane of timeline.lanes) {
    const parts = lane.strip ? stripWords() : lane.series.map((values) => {
      const value = values[Math.min(t, values.length - 1)];
      return lane.steps ? short(value) : fixed(value);
    });
    const width = ctx.measureText([lane.name, ...parts].join("  ")).width;
    ctx.fillStyle = colour.panel;
    ctx.globalAlpha = 0.85;
    ctx.fillRect(4, lane.top + 1, width + 8, 16);
    ctx.globalAlpha = 1;
    let x = 8;
    [lane.name, ...parts].forEach((text, n) => {
      ctx.fillStyle = n && panes.length > 1 ? sideColour(n - 1) : colour.ink;
      ctx.fillText(text, x, lane.top + 2);
      x += ctx.measureText(text + "  ").width;
    });
  }
}
// Ranks above the steps that wrote; where they would overlap they move apart, and a line shows the place.
function drawMarks(ctx, y, ink) {
  const marks = recallsAt(now()).filter(Boolean).sort((a, b) => a.s - b.s).map((r) => ({ ...r, x: Math.max(9, xOf(r.s)) }));
  for (let i = 1; i < marks.length; i++) marks[i].x = Math.max(marks[i].x, marks[i - 1].x + 18);
  for (let i = marks.length - 1, most = timeline.width - 9; i >= 0; i--, most -= 18) {
    marks[i].x = Math.min(marks[i].x, most);
    most = marks[i].x;
  }
  for (const mark of marks) {
    ctx.strokeStyle = panes.length > 1 ? ink : colour.faint;
    ctx.lineWidth = 1;
    ctx.beginPath(); ctx.moveTo(mark.x, y + 9); ctx.lineTo(xOf(mark.s), y + 21);
    ctx.lineTo(xOf(mark.s), panes.length > 1 ? timeline.top : timeline.height - 20); ctx.stroke();
    badge(ctx, mark.x, y, mark.rank, 17, panes.length > 1 ? ink : colour.ink);
  }
}

function ticks(count, most) {
  const step = [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000, 10000].find((n) => count / n <= most) || count;
  const found = [];
  for (let t = 0; t < count; t += step) found.push(t);
  return found;
}

// --- Two agents ------------------------------------------------------------------------------------------------

const STRIP = "Actions: a bar at every step at which they act differently; shaded as long as both are in the same scene. " +
  "Ranks above: what each recalls now. ";
const differs = (t) => pair().differs.includes(t);
const sameScene = (t) => panes.every((p) => p.view.frames && t < p.view.steps && p.view.frames[t] === panes[0].view.frames[t]);
const stripWords = () => panes.map((p) => (state.t < p.view.steps ? p.view.actions[state.t] : "ended"));
// One bar for every step at which they do something else; shaded where both still are in the same situation.
function drawStrip(ctx, lane) {
  const wide = barWidth(14), both = Math.min(...panes.map((p) => p.view.steps));
  const pitch = (timeline.width - 2 * timeline.pad) / Math.max(1, span() - 1);
  for (let t = 0; t < both; t++) {
    if (sameScene(t)) {
      ctx.fillStyle = colour.shared;
      ctx.fillRect(xOf(t) - pitch / 2, lane.bottom - 14, pitch + 0.5, 15);
    }
    if (!differs(t)) continue;
    ctx.fillStyle = colour.parting;
    ctx.fillRect(xOf(t) - wide / 2, lane.bottom - 14, wide, 15);
  }
}
function drawParting(ctx) {
  const at = pair() ? pair().first : null;
  if (at === null) return;
  const x = xOf(at), text = `they part: step ${stepName(at)}`;
  ctx.fillStyle = colour.parting;
  ctx.fillRect(x - 1, timeline.top - 4, 2, timeline.height - timeline.top - 14);
  ctx.font = "700 12px system-ui, sans-serif";
  const width = ctx.measureText(text).width + 10, left = Math.min(Math.max(0, x - 1), timeline.width - width);
  ctx.fillRect(left, timeline.top - 2, width, 17);
  ctx.fillStyle = colour.paper;
  ctx.textAlign = "left"; ctx.textBaseline = "middle";
  ctx.fillText(text, left + 5, timeline.top + 7);
}
// To the next (by = 1) or previous (by = -1) step at which their actions differ.
function toDifference(by) {
  const there = pair().differs.filter((t) => (by > 0 ? t > state.t : t < state.t));
  if (there.length) { pause(); goTo(by > 0 ? there[0] : there[there.length - 1]); }
}
// What they earned over all episodes, in one table, and where they part in the one that is shown.
function makeComparison() {
  const { names, table, note } = data.against, body = document.createElement("tbody");
  const row = (cells, tag) => {
    const line = document.createElement("tr");
    cells.forEach((text, n) => {
      const box = document.createElement(n ? tag : "th");
      box.textContent = text;
      if (n === 1 || n === 2) box.className = n === 1 ? "first" : "second";
      line.append(box);
    });
    return line;
  };
  body.append(row(["", ...names, "difference"], "th"), ...table.map((cells) => row(cells, "td")));
  $("comparison").append(body);
  $("note").textContent = note;
  names.forEach((name, side) => {
    within(panes[side], () => { of("name").textContent = name; of("name").hidden = false; });
    $("side").add(new Option(name, String(side)));
  });
}
function partingWords() {
  const at = pair().first, doing = panes.map((p) => p.view.actions[at]), often = pair().differs.length;
  return at === null ? "They do the same to the end."
    : `They part at step ${stepName(at)}: ${doing[0]} against ${doing[1]}; their actions differ at ${often === 1 ? "no other step" : `${often} steps`}.`;
}

// --- Matrix --------------------------------------------------------------------------------------------------

const matrix = { base: document.createElement("canvas"), left: 44, top: 8, side: 0, lut: null, greys: null };
const RAMPS = {
  light: ["#ffffff", "#c9ddf2", "#7fb3de", "#2a76ba", "#08306b"],
  dark: ["#181c22", "#1d3f6e", "#2f7fc4", "#8fd0ff", "#fffbe6"],
};
function ramp(stops) {
  const rgb = stops.map((text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16)));
  const out = new Uint8ClampedArray(256 * 4);
  for (let level = 0; level < 256; level++) {
    const place = (level / 255) ** 0.55 * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c++) out[4 * level + c] = rgb[i][c] + (place - i) * (rgb[i + 1][c] - rgb[i][c]);
    out[4 * level + 3] = 255;
  }
  return out;
}
function greyed(lut) {
  const out = lut.slice();
  for (let i = 0; i < out.length; i += 4) out[i] = out[i + 1] = out[i + 2] = 0.3 * lut[i] + 0.59 * lut[i + 1] + 0.11 * lut[i + 2];
  return out;
}
// Where there are more steps than pixels, a pixel shows the highest score of the cells under it.
function drawMatrixBase() {
  const canvas = $("matrix"), score = view.scores[state.score], width = canvas.clientWidth;
  matrix.side = Math.max(10, width - matrix.left - 8);
  matrix.height = canvas.clientHeight;
  Object.assign(canvas.dataset, { left: matrix.left, top: matrix.top, side: matrix.side, ready: score.cells ? 1 : 0 });
  matrix.lut = ramp(colour.dark ? RAMPS.dark : RAMPS.light);
  matrix.greys = greyed(matrix.lut);
  const ctx = prepare(matrix.base, width, matrix.height), steps = view.steps;
  const n = Math.min(steps, Math.round(matrix.side * (window.devicePixelRatio || 1)));
  const levels = new Uint8Array(n * n), doubtful = new Uint8Array(n), byRow = $("by-row").checked;
  if (score.cells) for (let t = 1, i = 0; t < steps; t++) {
    const row = Math.floor((t * n) / steps) * n;
    let top = 0;
    if (byRow) for (let s = 0; s < t; s++) top = Math.max(top, score.cells[i + s]);
    const gain = top ? 255 / top : 1;
    for (let s = 0; s < t; s++, i++) {
      const place = row + Math.floor((s * n) / steps), level = score.cells[i] * gain;
      if (level > levels[place]) levels[place] = level;
    }
  }
  for (let r = 0; r < n; r++) doubtful[r] = score.doubt[Math.floor((r * steps) / n)];
  const picture = new ImageData(n, n);
  const words = new Uint32Array(picture.data.buffer);
  const lut = new Uint32Array(matrix.lut.buffer), greys = new Uint32Array(matrix.greys.buffer);
  for (let r = 0; r < n; r++) {
    const from = doubtful[r] ? greys : lut;
    for (let c = 0; c <= r; c++) words[r * n + c] = from[levels[r * n + c]];
  }
  const small = document.createElement("canvas");
  small.width = small.height = n;
  small.getContext("2d").putImageData(picture, 0, 0);
  ctx.imageSmoothingEnabled = false;
  ctx.drawImage(small, matrix.left, matrix.top, matrix.side, matrix.side);
  ctx.strokeStyle = colour.edge;
  ctx.lineWidth = 1;
  ctx.beginPath();
  ctx.moveTo(matrix.left - 0.5, matrix.top);
  ctx.lineTo(matrix.left - 0.5, matrix.top + matrix.side + 0.5);
  ctx.lineTo(matrix.left + matrix.side, matrix.top + matrix.side + 0.5);
  ctx.stroke();
  ctx.fillStyle = colour.faint;
  ctx.font = "12px system-ui, sans-serif";
  const pitch = matrix.side / steps;
  for (const t of ticks(steps, Math.max(2, Math.floor(matrix.side / 60)))) {
    const place = (t + 0.5) * pitch;
    ctx.textAlign = "right"; ctx.textBaseline = "middle";
    ctx.fillText(String(stepName(t)), matrix.left - 5, matrix.top + Math.max(5, place));
    ctx.textAlign = "center"; ctx.textBaseline = "top";
    ctx.fillText(String(stepName(t)), matrix.left + place, matrix.top + matrix.side + 4);
  }
  ctx.textAlign = "left"; ctx.textBaseline = "top";
  ctx.fillText("earlier step, written \u2192", matrix.left, matrix.top + matrix.side + 20);
  ctx.fillText("\u2190 step now, read", matrix.left + 34, matrix.top + 2);
  drawColours(score);
}
function drawColours(score) {
  const canvas = $("colours"), width = canvas.clientWidth, ctx = prepare(canvas, width, 44), bar = width - 2;
  for (let x = 0; x < bar; x++) {
    const level = 4 * Math.round((255 * x) / bar);
    ctx.fillStyle = `rgb(${matrix.lut[level]},${matrix.lut[level + 1]},${matrix.lut[level + 2]})`;
    ctx.fillRect(1 + x, 1, 1.5, 16);
  }
  ctx.strokeStyle = colour.edge;
  ctx.strokeRect(0.5, 0.5, width - 1, 17);
  ctx.fillStyle = colour.ink;
  ctx.font = "13px system-ui, sans-serif";
  ctx.textBaseline = "top";
  const byRow = $("by-row").checked;
  ctx.textAlign = "left"; ctx.fillText("0", 0, 22);
  ctx.textAlign = "right"; ctx.fillText(byRow ? "best of the row" : `${score.scale.toFixed(2)} or more`, width, 22);
}
function drawMatrix() {
  if (!state.score || !matrix.side) return;
  const canvas = $("matrix"), ctx = prepare(canvas, canvas.clientWidth, matrix.height), pitch = matrix.side / view.steps;
  ctx.drawImage(matrix.base, 0, 0, canvas.clientWidth, matrix.height);
  const y = matrix.top + now() * pitch, tall = Math.max(2, pitch);
  ctx.strokeStyle = colour.ink;
  ctx.lineWidth = 1;
  ctx.strokeRect(matrix.left - 0.5, y - 0.5, (now() + 1) * pitch + 1, tall + 1);
  ctx.fillStyle = colour.ink;
  ctx.beginPath(); // a mark on the axis
  ctx.moveTo(matrix.left - 1, y + tall / 2); ctx.lineTo(matrix.left - 9, y + tall / 2 - 5); ctx.lineTo(matrix.left - 9, y + tall / 2 + 5);
  ctx.fill();
  const size = Math.max(7, pitch);
  ctx.strokeStyle = colour.opposes;
  ctx.lineWidth = 2;
  for (const recall of recallsAt(now()).filter(Boolean))
    ctx.strokeRect(matrix.left + (recall.s + 0.5) * pitch - size / 2, y + tall / 2 - size / 2, size, size);
}
// The pair beside the matrix: the cell that was clicked, else the best recall of this step.
function drawPair() {
  if (!state.score) return;
  const t = now(), best = recallsAt(t).find((recall) => recall && recall.rank === 0);
  const s = state.pinned !== null && state.pinned < t ? state.pinned : best ? best.s : null;
  $("pair").hidden = s === null;
  $("pair-score").textContent = "";
  if (s === null) return;
  const width = $("pair-now").parentElement.clientWidth;
  if (view.frames) { drawPicture($("pair-now"), view.frames[t], width, 210); drawPicture($("pair-then"), view.frames[s], width, 210); }
  $("pair-now-text").textContent = "now, " + whatThen(t).join("\n");
  $("pair-then-text").textContent = "then, " + whatThen(s).join("\n");
  const { text, rank } = scoreOf(state.score, t, s);
  $("pair-score").textContent = `${data.scores[state.score].label} ${text}, age ${t - s}` + (rank === null ? "" : `, rank ${rank + 1}`);
}
// The cell under the pointer; where several share a pixel, the one with the highest score.
function cellAt(event) {
  const box = $("matrix").getBoundingClientRect(), pitch = matrix.side / view.steps;
  const x = event.clientX - box.left - matrix.left, y = event.clientY - box.top - matrix.top;
  if (x < 0 || y < 0 || x >= matrix.side || y >= matrix.side) return null;
  const reach = Math.max(1, Math.ceil(1 / pitch)), score = view.scores[state.score];
  const t0 = Math.floor(y / pitch), s0 = Math.floor(x / pitch);
  if (s0 > t0) return null;
  let best = null, level = -1;
  for (let t = t0; t < Math.min(t0 + reach, view.steps); t++)
    for (let s = s0; s < Math.min(s0 + reach, t); s++)
      if (cell(score, t, s) > level) { level = cell(score, t, s); best = { t, s }; }
  return best || { t: Math.min(t0, view.steps - 1), s: Math.min(s0, t0) };
}

// --- Hover ---------------------------------------------------------------------------------------------------

let tip = null; // what hovers, and where; a picture that comes later is filled in
function showTip(event, s, heading = []) {
  tip = { pane, s, heading, x: event.clientX, y: event.clientY };
  fillTip();
}
const fillTip = () => within(tip.pane, fillTipHere);
function fillTipHere() {
  const panel = $("tip"), { s, x, y } = tip, space = 16;
  panel.hidden = false;
  $("tip-seen").hidden = !(view.seen && drawPicture($("tip-seen"), view.seen[s], 84, 84));
  $("tip-scene").hidden = !(view.frames && drawPicture($("tip-scene"), view.frames[s], 170, 150));
  $("tip-text").textContent = tip.heading.concat(whatThen(s)).join("\n");
  const box = panel.getBoundingClientRect();
  const left = x + space + box.width > innerWidth ? x - space - box.width : x + space;
  const top = Math.min(y + space, innerHeight - box.height - 4);
  panel.style.transform = `translate(${Math.max(4, Math.min(left, innerWidth - box.width - 4))}px, ${Math.max(4, top)}px)`;
}
function hideTip() { tip = null; $("tip").hidden = true; }

// --- State ---------------------------------------------------------------------------------------------------

const clampStep = (t) => Math.max(0, Math.min(span() - 1, t));
let scheduled = false, stale = true; // stale: what lies beneath has changed too
function schedule() {
  if (!scheduled) { scheduled = true; requestAnimationFrame(draw); }
}
function restyle() { stale = true; schedule(); }
function draw() {
  scheduled = false;
  if (!view) return;
  if (stale) {
    stale = false;
    readColours();
    each(drawWords);
    if (pair()) $("strip-help").textContent = STRIP + $("meaning").textContent + " " + $("rules").textContent;
    drawTimelineBase();
    if (state.score) drawMatrixBase();
  }
  each(() => { drawFacts(); drawScene(); drawTiles(); });
  $("scrubber").value = state.t;
  $("scrubber").setAttribute("aria-valuetext", `step ${stepName(state.t)} of ${stepName(span() - 1)}`);
  drawTimeline(); drawMatrix(); drawPair();
  document.body.dataset.step = state.t;
}
function goTo(t) {
  if (clampStep(t) !== state.t) state.pinned = null;
  state.t = clampStep(t);
  each(() => {
    if (view.frames) for (let ahead = 1; ahead <= 4; ahead++) image(view.frames[Math.min(now() + ahead, view.steps - 1)]);
  });
  schedule();
}
// Going by a click can be undone with the browser's Back.
function jump(t) {
  remember("replaceState"); pause(); hideTip(); goTo(t); remember("pushState");
}
function remember(how) {
  const text = `#episode=${state.episode + 1}&step=${state.t}` + (state.score ? `&score=${state.score}` : "");
  try { history[how](null, "", text); } catch { /* some browsers forbid it for files; nothing depends on it */ }
}
function recallHash() {
  const wish = new URLSearchParams(location.hash.slice(1));
  const episode = Number(wish.get("episode") || 1) - 1, score = wish.get("score");
  if (score && score in data.scores) state.score = score;
  choose(shown()[episode] ? episode : 0, Number(wish.get("step")) || 0);
}
const shown = () => (data.against ? data.against.pairs : data.episodes);
function choose(episode, t) {
  pause();
  state.episode = episode;
  panes.forEach((p, side) => { p.view = unpackEpisode(pair() ? pair().sides[side] : episode); });
  lookAt(state.side);
  $("episode").value = String(episode);
  if (state.score) $("score").value = state.score;
  $("scrubber").max = span() - 1;
  each(() => {
    of("legend").hidden = !view.markers;
    of("legend-view").hidden = !view.seen;
    of("legend-rank").hidden = !state.score || !view.cell_size;
  });
  $("subtitle").textContent = pair() ? `seed ${view.seed}. ${partingWords()}` : `${view.core}, seed ${view.seed}`;
  goTo(t);
  panes.forEach((p) => unpackMatrices(p.view));
}
// Whose matrix, tape and numbers are at hand.
function lookAt(side) {
  state.side = side;
  pane = panes[side];
  view = pane.view;
  $("download-tape").hidden = !view.tape;
  restyle();
}
// The matrix of the score shown first, then the others, of which the tiles quote single numbers.
async function unpackMatrices(episode) {
  for (const name of [state.score, ...Object.keys(episode.scores)]) {
    const score = episode.scores[name];
    if (!score || score.cells) continue;
    score.cells = await inflate(score.packed);
    if (episode === view) name === state.score ? restyle() : schedule();
  }
}

let clock = 0, due = 0;
function play() {
  if (state.t >= span() - 1) goTo(0);
  state.playing = true;
  due = 0; clock = performance.now();
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-label", "Pause");
  requestAnimationFrame(tick);
}
function pause() {
  if (!state.playing) return;
  state.playing = false;
  $("play").textContent = "Play";
  $("play").setAttribute("aria-label", "Play");
  remember("replaceState");
}
function tick(now) {
  if (!state.playing) return;
  due += ((now - clock) / 1000) * Number($("speed").value);
  clock = now;
  const steps = Math.min(5, Math.floor(due));
  due = Math.min(1, due - steps);
  if (steps > 0) goTo(state.t + steps);
  if (state.t >= span() - 1) pause();
  else requestAnimationFrame(tick);
}
const toggle = () => (state.playing ? pause() : play());
function stepBy(n) { pause(); goTo(state.t + n); }

function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
function numbers() {
  const list = (values) => Array.from(values, (v) => (Number.isFinite(v) ? v : null)), out = {
    title: data.title, seed: view.seed, core: view.core, start_step: view.start, actions: view.actions, columns: {}, scores: {},
  };
  for (const name in view.columns) out.columns[name] = list(view.columns[name]);
  for (const name in view.scores) {
    const score = view.scores[name];
    out.scores[name] = {
      ...data.scores[name], residual: list(score.residual), joint_removal: list(score.joint), own_write: list(score.own),
      doubt: Array.from(score.doubt, (d) => data.doubts[d]),
      recalls: Array.from({ length: view.steps }, (_, t) => recallsAt(t, name).filter(Boolean).sort((a, b) => a.rank - b.rank)
        .map(({ s, score: value, supports, counts }) => ({ step: stepName(s), score: value, supports, had_effect: counts }))),
    };
  }
  return JSON.stringify(out);
}

// --- Wiring --------------------------------------------------------------------------------------------------

function onKey(event) {
  const tag = event.target.tagName;
  if (event.ctrlKey || event.altKey || event.metaKey || tag === "SELECT") return;
  if (event.key === " " && (tag === "BUTTON" || event.target.type === "checkbox")) return; // their own key
  const by = event.shiftKey ? 10 : 1;
  const actions = {
    " ": toggle, ArrowLeft: () => stepBy(-by), ArrowRight: () => stepBy(by),
    Home: () => stepBy(-span()), End: () => stepBy(span()),
    ...(pair() ? { n: () => toDifference(1), p: () => toDifference(-1) } : {}),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}
function wire() {
  for (const [id, action] of [["first", () => stepBy(-span())], ["back", () => stepBy(-1)], ["play", toggle],
    ["forward", () => stepBy(1)], ["last", () => stepBy(span())],
    ["previous-difference", () => toDifference(-1)], ["next-difference", () => toDifference(1)],
    ["download-tape", () => save(`tape-${view.seed}.npz`, bytes(view.tape), "application/octet-stream")],
    ["download-numbers", () => save(`recalls-${view.seed}.json`, numbers(), "application/json")]])
    $(id).addEventListener("click", (event) => {
      action();
      if (event.detail) $(id).blur(); // clicked with a pointer: the space bar then plays, wherever one clicked
    });
  $("scrubber").addEventListener("input", () => { pause(); goTo(Number($("scrubber").value)); });
  $("scrubber").addEventListener("change", () => remember("replaceState"));
  $("episode").addEventListener("change", () => { choose(Number($("episode").value), 0); $("episode").blur(); remember("replaceState"); });
  $("score").addEventListener("change", () => {
    state.score = $("score").value;
    choose(state.episode, state.t);
    $("score").blur();
    remember("replaceState");
  });
  $("speed").addEventListener("change", () => $("speed").blur());
  $("side").addEventListener("change", () => { lookAt(Number($("side").value)); $("side").blur(); });
  $("by-row").addEventListener("change", restyle);
  document.addEventListener("keydown", onKey);
  addEventListener("resize", restyle);
  addEventListener("popstate", recallHash);
  addEventListener("scroll", hideTip, { passive: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);

  const line = $("timeline");
  let dragging = false;
  const scrub = (event) => { pause(); goTo(stepAtX(event.offsetX)); };
  line.addEventListener("pointerdown", (event) => { dragging = true; line.setPointerCapture(event.pointerId); scrub(event); });
  const hover = (event) => showTip(event, Math.min(stepAtX(event.offsetX), view.steps - 1));
  line.addEventListener("pointermove", (event) => (dragging ? scrub(event) : hover(event)));
  line.addEventListener("pointerup", () => { dragging = false; hideTip(); remember("replaceState"); });
  line.addEventListener("pointercancel", () => { dragging = false; });
  line.addEventListener("pointerleave", hideTip);

  const grid = $("matrix");
  grid.addEventListener("pointermove", (event) => {
    const place = cellAt(event);
    if (!place) return hideTip();
    const { t, s } = place, heading = [];
    if (s < t) {
      const { text, rank } = scoreOf(state.score, t, s);
      heading.push(`now step ${stepName(t)}, age ${t - s}`,
        `${data.scores[state.score].label} ${text}${rank === null ? "" : ", rank " + (rank + 1)}`);
      const doubt = data.doubts[view.scores[state.score].doubt[t]];
      if (doubt) heading.push(doubt);
    }
    showTip(event, s, heading);
  });
  grid.addEventListener("pointerleave", hideTip);
  grid.addEventListener("click", (event) => {
    const place = cellAt(event);
    if (!place) return;
    jump(event.shiftKey ? place.s : place.t);
    state.pinned = place.s < place.t ? place.s : null;
  });
}

// The elements of the second pane are copies of those of the first, with ids of their own.
function makePanes() {
  panes.push({ suffix: "", view: null, tiles: [] });
  if (data.against) {
    panes.push({ suffix: "-2", view: null, tiles: [] });
    document.body.classList.add("two");
    const copies = ["now", "recalls"].map((id) => $(id).cloneNode(true));
    for (const copy of copies) for (const part of [copy, ...copy.querySelectorAll("[id]")]) part.id += "-2";
    $("recalls").after(...copies);
  }
  pane = panes[0];
}
function episodeWords(episode, n) {
  const total = shown().length, head = `${n + 1} / ${total}: seed `;
  if (!data.against) return `${head}${episode.seed}, ${episode.steps} steps`;
  const sides = episode.sides.map((number) => unpackEpisode(number));
  const returns = sides.map((side) => short(side.columns.return[side.steps - 1])).join(" against ");
  return `${head}${sides[0].seed}, return ${returns}`;
}
function start() {
  makePanes();
  $("title").textContent = data.title;
  for (const [n, episode] of shown().entries()) $("episode").add(new Option(episodeWords(episode, n), String(n)));
  for (const name in data.scores) $("score").add(new Option(data.scores[name].label === name ? name : `${data.scores[name].label} (${name})`, name));
  $("episode-choice").hidden = shown().length < 2;
  for (const id of ["score-choice", "who"]) $(id).hidden = !state.score;
  each(() => {
    for (const id of ["tiles", "rules", "doubt", "words"]) of(id).hidden = !state.score;
    makeTiles();
  });
  for (const id of ["comparison", "note", "side-choice", "previous-difference", "next-difference", "pair-keys", "strip-help"])
    $(id).hidden = !data.against;
  if (data.against) makeComparison();
  wire();
  recallHash();
}

try {
  if (typeof DecompressionStream === "undefined") throw new Error("it needs a browser of 2023 or later");
  start();
} catch (error) {
  $("problem").hidden = false;
  $("problem").textContent = "This page cannot be shown: " + error.message;
  throw error;
}
