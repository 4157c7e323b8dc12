// The charts, drawn as SVG. A chart library would need a build step or another host, and the page's security policy allows neither.

import { s } from "./dom.js";
import { clock, day, duration, interval, moment, number } from "./format.js";

const GUTTER = 44;
const RIGHT = 14;
const STEPS = [1, 5, 15, 60, 300, 900, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 2592000].map((seconds) => seconds * 1000);
/** Final states are shown by a symbol, not by a bar. */
export const ENDS = { rejected: "✕", retired: "○", inconclusive: "?" };

/** The states of each version over time. `from` and `to` are milliseconds. */
export function timeline(versions, from, to, width) {
  const rows = versions.map((version) => ({ version, parts: parts(version, to) })).filter(({ parts }) => parts.some(({ end }) => end >= from));
  const across = scale(from, to, GUTTER, width - RIGHT);
  const height = rows.length * 30 + 24;
  const bars = rows.map(({ version, parts }, row) => {
    const y = row * 30 + 4;
    const drawn = parts.filter(({ end }) => end >= from).map(({ state, start, end, reason }) => bar(version, state, start, end, reason, across, y, from, to));
    return s("g", { "data-key": version.version }, s("text", { x: 0, y: y + 15, class: "row" }, `v${version.version}`), drawn);
  });
  const label = rows.map(({ version }) => `version ${version.version} is ${version.state}`).join(", ");
  return frame(width, height, label, axis(from, to, across, height), bars);
}

function parts(version, to) {
  const registered = Date.parse(version.created_at);
  const steps = [{ state: "registered", start: registered, reason: "registered" }, ...version.transitions.map(({ after, at, reason }) => ({ state: after, start: Date.parse(at), reason }))];
  return steps.map((step, index) => ({ ...step, end: index + 1 < steps.length ? steps[index + 1].start : step.state in ENDS ? step.start : to }));
}

function bar(version, state, start, end, reason, across, y, from, to) {
  const title = s("title", {}, `version ${version.version}: ${state} since ${moment(new Date(start), new Date(to))}${end > start ? `, ${duration(end - start)}` : ""}. ${reason}`);
  const left = across(Math.max(start, from));
  if (state in ENDS) {
    const x = Math.min(left + 10, across(to) - 6);
    return s("g", { class: `end ${state}` }, title, s("circle", { cx: x, cy: y + 11, r: 8 }), s("text", { x, y: y + 15, "text-anchor": "middle" }, ENDS[state]));
  }
  const wide = Math.max(3, across(Math.min(end, to)) - left);
  const label = wide > state.length * 7 + 12 ? s("text", { x: left + 7, y: y + 15 }, state) : null;
  return s("g", { class: `bar ${state}` }, title, s("rect", { x: left, y, width: wide, height: 22, rx: 4 }), label);
}

/** Mean reward with its interval, for every version and arm, by window. */
export function rewards(windows, from, to, width) {
  const shown = windows.filter(({ ended_at, mean }) => Date.parse(ended_at) >= from && mean !== null);
  const height = width < 560 ? 190 : 240;
  const across = scale(from, to, GUTTER, width - RIGHT);
  const [bottom, top] = bounds(shown);
  const up = scale(bottom, top, height - 26, 10);
  const series = Map.groupBy(shown, ({ version, arm }) => `${version} ${arm}`);
  const lines = [...series].map(([key, cells]) => line(key, cells, across, up, bottom, top, to));
  const grid = ticks(bottom, top).map((value) => [
    s("line", { x1: GUTTER, x2: width - RIGHT, y1: up(value), y2: up(value), class: "grid" }),
    s("text", { x: GUTTER - 6, y: up(value) + 4, "text-anchor": "end", class: "tick" }, value.toFixed(2)),
  ]);
  const latest = [...series].map(([key, cells]) => `version ${key} ${number(cells.at(-1).mean)}`).join(", ");
  return frame(width, height, `Reward over time. Latest: ${latest}`, axis(from, to, across, height), grid, lines);
}

function line(key, cells, across, up, bottom, top, to) {
  const [version, arm] = key.split(" ");
  const clamped = (value) => up(Math.min(top, Math.max(bottom, value)));
  const marks = cells.map((cell) => {
    const start = Date.parse(cell.started_at);
    return { ...cell, start, end: Date.parse(cell.ended_at), x: across(Math.min(to, (start + Date.parse(cell.ended_at)) / 2)) };
  });
  marks.sort((a, b) => a.start - b.start);
  const runs = [];
  for (const mark of marks) {
    const last = runs.at(-1)?.at(-1);
    if (last && mark.start - last.end <= 2 * (mark.end - mark.start)) runs.at(-1).push(mark);
    else runs.push([mark]);
  }
  const drawn = runs.map((run) => {
    const known = run.filter(({ low, high }) => low !== null && high !== null);
    const outline = [...known.map(({ x, high }) => `${x},${clamped(high)}`), ...known.reverse().map(({ x, low }) => `${x},${clamped(low)}`)];
    return [s("polygon", { points: outline.join(" "), class: "band" }), s("polyline", { points: run.map(({ x, mean }) => `${x},${clamped(mean)}`).join(" ") })];
  });
  const dots = marks.map(({ x, mean, low, high, scored, start }) =>
    s("circle", { cx: x, cy: clamped(mean), r: marks.length > 80 ? 1.5 : 2.5 },
      s("title", {}, `version ${version}, ${arm}, ${clock(new Date(start))}: ${number(mean)} ${interval(low, high)}, ${scored} scored`)));
  return s("g", { class: `line ${arm}`, "data-key": key }, drawn, dots);
}

/** One interval on a common scale: a dot, its whiskers, and an optional limit. */
export function whisker({ middle, low, high, limit, from, to, kind }) {
  const across = scale(from, to, 6, 154);
  const inside = (value) => across(Math.min(to, Math.max(from, value)));
  const parts = [s("line", { x1: 0, x2: 160, y1: 10, y2: 10, class: "grid" })];
  if (from < 0 && to > 0) parts.push(s("line", { x1: across(0), x2: across(0), y1: 3, y2: 17, class: "zero" }));
  if (limit !== undefined && limit !== null) parts.push(s("line", { x1: inside(limit), x2: inside(limit), y1: 1, y2: 19, class: "limit" }));
  if (low !== null && high !== null) parts.push(s("line", { x1: inside(low), x2: inside(high), y1: 10, y2: 10, class: "reach" }));
  if (middle !== null) parts.push(s("circle", { cx: inside(middle), cy: 10, r: 4 }));
  return s("svg", { viewBox: "0 0 160 20", width: 160, height: 20, class: `whisker ${kind}`, "aria-hidden": "true" }, parts);
}

function frame(width, height, label, ...content) {
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label }, content);
}

function axis(from, to, across, height) {
  const step = STEPS.find((step) => (to - from) / step <= (across(to) - across(from)) / 90) ?? STEPS.at(-1);
  const offset = new Date(to).getTimezoneOffset() * 60_000;
  const times = [];
  for (let at = Math.ceil((from - offset) / step) * step + offset; at <= to; at += step) times.push(at);
  const write = (at) => (step >= 86_400_000 ? day(new Date(at)) : clock(new Date(at)).slice(0, step < 60_000 ? 8 : 5));
  return times.map((at) => [
    s("line", { x1: across(at), x2: across(at), y1: 0, y2: height - 20, class: "grid" }),
    s("text", { x: across(at), y: height - 4, "text-anchor": across(to) - across(at) < 22 ? "end" : "middle", class: "tick" }, write(at)),
  ]);
}

function scale(from, to, start, end) {
  const ratio = (end - start) / (to - from || 1);
  return (value) => Math.round((start + (value - from) * ratio) * 10) / 10;
}

/** The range that holds most intervals; a few wide ones are cut off. */
function bounds(cells) {
  const lows = cells.map(({ low, mean }) => low ?? mean).sort((a, b) => a - b);
  const highs = cells.map(({ high, mean }) => high ?? mean).sort((a, b) => a - b);
  if (!cells.length) return [0, 1];
  const at = (values, share) => values[Math.min(values.length - 1, Math.floor(values.length * share))];
  const means = cells.map(({ mean }) => mean);
  const low = Math.min(at(lows, 0.05), ...means);
  const high = Math.max(at(highs, 0.95), ...means);
  const margin = Math.max(0.02, (high - low) * 0.08);
  return [Math.max(0, low - margin), Math.min(1, high + margin)];
}

function ticks(bottom, top) {
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.25].find((step) => (top - bottom) / step <= 7) ?? 0.5;
  const values = [];
  for (let value = Math.ceil(bottom / step) * step; value <= top + 1e-9; value += step) values.push(value);
  return values;
}
