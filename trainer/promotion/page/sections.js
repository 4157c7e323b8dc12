// The sections of the page, built from the reply of /api/page (view.schema.json). No state, no requests.

import { whisker } from "./charts.js";
import { h } from "./dom.js";
import { clock, duration, interval, metric, moment, number, percent, signed } from "./format.js";

const PROMOTABLE = ["gated", "shadow", "canary", "approval", "retired"];
const RATIOS = ["latency_ms", "length"];
const NOT_REJECTABLE = ["champion", "rejected"];
const STAGES = { shadow: "gives unseen answers to", canary: "answers", approval: "waits for a person, and answers" };
// Workers report every few seconds; one without a report for this long is shown as silent.
const SILENT_MS = 15_000;

export function state(name) {
  return h("span", { class: `chip ${name}` }, name);
}

/** The champion and the challenger, with the commands for them. */
export function now(view) {
  return [championCard(view), experimentCard(view)];
}

function championCard({ champion, versions, at }) {
  const version = versions.find(({ version }) => version === champion);
  if (!version) {
    return card("champion", "Champion", h("p", { class: "big" }, "none yet"), h("p", { class: "quiet" }, "The promoter registers the shipped version when it starts."));
  }
  const start = version.transitions.findLast(({ after }) => after === "champion");
  const former = versions.some(({ state }) => state === "retired");
  return card(
    "champion",
    "Champion",
    h("p", { class: "big" }, `Version ${champion}`),
    h("p", { class: "quiet" }, start ? `serves for ${duration(Date.parse(at) - Date.parse(start.at))}: ${start.reason}` : "serves"),
    former ? action("rollback", champion, "Roll back…") : h("p", { class: "quiet" }, "There is no former champion to roll back to."),
  );
}

function experimentCard({ experiment, at, approval, versions }) {
  if (!experiment) {
    const waiting = versions.filter(({ state }) => state === "registered" || state === "gated");
    return card(
      "none",
      "Challenger",
      h("p", { class: "big" }, "none"),
      h("p", { class: "quiet" }, waiting.length ? `Version ${waiting[0].version} is next: ${waiting[0].state}.` : "There is no experiment. The trainer registers the next version."),
    );
  }
  const { version, stage, share, since, arms, verdict } = experiment;
  const of = stage === "shadow" ? "of questions" : "of users";
  const rows = Object.entries(arms).map(([arm, { version, answers, scored, users }]) => [h("span", { class: `arm ${arm}` }, arm), version ? `v${version}` : "–", number(answers), number(scored), number(users)]);
  return card(
    stage,
    "Challenger",
    h("p", { class: "big" }, `Version ${version} `, state(stage)),
    h("p", { class: "quiet" }, `${STAGES[stage]} ${percent(share)} ${of}, for ${duration(Date.parse(at) - Date.parse(since))}. `,
      approval === "person" ? "A person must approve it." : "Becomes champion automatically once it is significantly better."),
    table(["arm", "version", "answers", "scored", "users"], rows, { label: "Arms" }),
    verdict ? h("p", { class: "verdict" }, h("span", { class: `chip verdict-${verdict.outcome}` }, verdict.outcome), ` ${verdict.reason}`) : h("p", { class: "quiet" }, "No figures yet."),
    h("div", { class: "buttons" }, action("promote", version, `Promote version ${version}…`, stage === "approval"), action("reject", version, "Reject…")),
  );
}

function card(kind, title, ...content) {
  return h("article", { class: `card ${kind}`, "data-key": title }, h("h2", {}, title), content);
}

export function guardrails({ guardrails: rails, experiment }) {
  if (!rails.length) return empty(experiment ? "No figures yet: each group needs some users first." : "Guardrails apply while a version is in shadow or canary.");
  const rows = rails.map(({ metric: name, canary, baseline, difference, low, high, limit, state }) => {
    const reach = Math.max(Math.abs(limit) * 1.6, Math.abs(difference ?? 0) * 1.1);
    const ratio = RATIOS.includes(name);
    const scale = ratio ? { from: 1 - (limit - 1) * 1.6, to: Math.max(1 + (limit - 1) * 1.6, difference ?? 1) } : { from: -reach, to: reach };
    const write = ratio ? (value) => (value === null ? "–" : `×${number(value, 2)}`) : signed;
    const ms = name === "latency_ms" ? (value) => (value === null ? "–" : `${number(value, 0)} ms`) : number;
    return [
      metric(name), h("span", { class: `chip rail-${state}` }, state), ms(canary), ms(baseline),
      h("span", { class: "figure" }, whisker({ middle: difference, low, high, limit, ...scale, kind: state }), `${write(difference)} `, h("span", { class: "quiet" }, interval(low, high, write))),
      write(limit),
    ];
  });
  return table(["metric", "state", "challenger", "baseline", "difference", "limit"], rows, { label: "Guardrails", stacks: true });
}

export function quality({ quality: rewards }) {
  const cells = rewards.filter(({ mean, scored }) => mean !== null && scored > 0);
  if (!cells.length) return empty("No answer has been scored yet.");
  const from = Math.min(...cells.map(({ low, mean }) => low ?? mean));
  const to = Math.max(...cells.map(({ high, mean }) => high ?? mean));
  const rows = cells.map(({ version, arm, domain, scored, users, mean, low, high }) => [
    `v${version}`, h("span", { class: `arm ${arm}` }, arm), domain ?? h("strong", {}, "all"),
    h("span", { class: "figure" }, whisker({ middle: mean, low, high, from, to, kind: arm }), `${number(mean)} `, h("span", { class: "quiet" }, interval(low, high))),
    number(scored), number(users),
  ]);
  return table(["version", "arm", "domain", "reward", "scored", "users"], rows, { label: "Reward by version, arm and domain" });
}

/** The newest comparison of strategies: the reward of each, and of each pair the difference with its verdict. */
export function strategies({ comparisons, at }) {
  if (!comparisons.length) return empty("No strategies are compared: routing gives users one strategy, or none has answered yet.");
  const { experiment, since, until, confidence, strategies: rows, differences } = comparisons[0];
  const known = rows.filter(({ mean }) => mean !== null);
  const scale = { from: Math.min(...known.map(({ low, mean }) => low ?? mean)), to: Math.max(...known.map(({ high, mean }) => high ?? mean)) };
  const figures = rows.map(({ strategy, mean, low, high, scored, answers, users, fallback, latency_ms: latency }) => [
    h("strong", {}, strategy), reward({ middle: mean, low, high, ...scale, kind: "champion" }, number),
    number(scored), number(answers), number(users), fallback === null ? "–" : percent(fallback), latency === null ? "–" : `${number(latency, 0)} ms`,
  ]);
  const reach = Math.max(0.02, ...differences.flatMap(({ difference, low, high }) => [difference, low, high].map((value) => Math.abs(value ?? 0))));
  const kinds = { better: "ok", worse: "tripped", undecided: "baseline" };
  const pairs = differences.map(({ strategy, against, difference, low, high, verdict, reason }) => [
    `${strategy} − ${against}`, reward({ middle: difference, low, high, from: -reach, to: reach, kind: kinds[verdict] }, signed),
    h("span", { class: `chip verdict-${verdict}` }, verdict === "undecided" ? "not decided yet" : verdict), h("span", { class: "words" }, reason || "–"),
  ]);
  const today = new Date(at);
  const held = `Intervals hold at every look, each with ${percent(confidence)}. Users have a strategy by hash; their answers count for it also if a simpler one answered.`;
  return [
    h("p", { class: "quiet" }, `Experiment ${experiment}, ${moment(new Date(since), today)} to ${moment(new Date(until), today)}. ${held}`),
    table(["strategy", "reward", "scored", "answers", "users", "fallbacks", "latency"], figures, { label: "Reward by strategy", stacks: true, keys: rows.map(({ strategy }) => strategy) }),
    pairs.length ? table(["difference", "reward", "verdict", "reason"], pairs, { label: "Differences of strategies", stacks: true }) : null,
  ];
}

function reward({ middle, low, high, ...scale }, write) {
  return h("span", { class: "figure" }, whisker({ middle, low, high, ...scale }), `${write(middle)} `, h("span", { class: "quiet" }, interval(low, high, write)));
}

export function versions({ versions: all, at }) {
  if (!all.length) return empty("No version is registered yet.");
  const rows = all.toReversed().map((version) => [
    h("strong", {}, `v${version.version}`), state(version.state), version.aliases.join(", ") || "–", version.parent ? `v${version.parent}` : "–",
    moment(new Date(version.created_at), new Date(at)), h("span", { class: "words" }, gateOf(version)), h("code", { title: version.digest }, version.digest.slice(0, 10)),
    h("div", { class: "buttons" },
      PROMOTABLE.includes(version.state) ? action("promote", version.version, "Promote…") : null,
      NOT_REJECTABLE.includes(version.state) ? null : action("reject", version.version, "Reject…")),
  ]);
  return table(["version", "state", "aliases", "parent", "registered", "gate", "digest", "actions"], rows, { label: "Versions", stacks: true, keys: all.toReversed().map(({ version }) => version) });
}

/** The reason of a version's newest gate. */
function gateOf({ transitions }) {
  const judged = transitions.findLast(({ before }) => before === "registered");
  return judged ? judged.reason : "not judged yet";
}

export function workers({ workers: reports, at }) {
  if (!reports.length) return empty("No reflection worker reports. Users may still get answers; `retouch status` shows the processes.");
  const named = (model) => (model ? `v${model.version}` : "–");
  const rows = reports.map((report) => {
    const age = Date.parse(at) - Date.parse(report.at);
    const refused = report.refused.map(({ model, reason }) => h("p", { class: "error" }, `refuses ${named(model)}: ${reason}`));
    return [
      report.worker, named(report.champion), named(report.challenger), report.loaded.map(named).join(", "), number(report.swaps),
      refused.length ? refused : "none", age > SILENT_MS ? h("span", { class: "error" }, `silent for ${duration(age)}`) : `${duration(age)} ago`,
    ];
  });
  return table(["worker", "champion", "challenger", "loaded", "swaps", "refused", "reported"], rows, { label: "Workers", stacks: true, keys: reports.map(({ worker }) => worker) });
}

export function transitions({ transitions: steps, at }) {
  if (!steps.length) return empty("No transition yet.");
  return h("ol", { class: "log" }, steps.map((step) => transition(step, new Date(at))));
}

function transition(step, today) {
  const facts = {
    experiment: step.experiment, share: step.share || null, replaces: step.replaces && `version ${step.replaces}`, "rolls back": step.rolls_back || null,
    "canary prompts": step.canary_prompts.length || null, ...step.evidence,
  };
  const at = new Date(step.at);
  return h("li", { "data-key": `${step.version}/${step.seq}` }, h("details", {},
    h("summary", {},
      h("time", { datetime: step.at, title: at.toString() }, moment(at, today)),
      h("strong", {}, `v${step.version}`), h("span", { class: "path" }, state(step.before), " → ", state(step.after)),
      h("span", { class: "words" }, step.reason || "no reason given"), h("span", { class: "quiet" }, step.actor)),
    evidence(facts)));
}

/** The evidence of a transition, at any depth of nesting. */
function evidence(facts) {
  const known = Object.entries(facts).filter(([, value]) => value !== null && value !== undefined);
  if (!known.length) return h("p", { class: "quiet" }, "No figures: an operator decided, or it followed from another transition.");
  return h("dl", {}, known.map(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, figure(value))]));
}

const fine = (value) => (value === null ? "–" : String(+value.toPrecision(4)));
const isPlain = (value) => typeof value !== "object" || value === null;
const isBound = (value) => value === null || typeof value === "number";

function figure(value) {
  if (typeof value === "number") return fine(value);
  if (isPlain(value)) return String(value ?? "–");
  if (Array.isArray(value)) {
    if (value.every(isPlain)) return value.map(figure).join(", ") || "none";
    return value.every((item) => !Array.isArray(item) && Object.values(item).every(isPlain)) ? records(value) : value.map((item) => h("div", { class: "item" }, figure(item)));
  }
  const { mean, difference, value: middle, low, high, ...rest } = value;
  if (!isBound(low) || !isBound(high)) return evidence(value); // a domain may be named low or high
  const others = Object.entries(rest).map(([name, item]) => `, ${name.replaceAll("_", " ")} ${figure(item)}`);
  return Object.values(rest).every(isPlain) ? `${figure(mean ?? difference ?? middle ?? null)} ${interval(low, high, fine)}${others.join("")}` : evidence(value);
}

/** A list of objects as a table. */
function records(items) {
  const columns = [...new Set(items.flatMap((item) => Object.keys(item)))];
  return table(columns.map((name) => name.replaceAll("_", " ")), items.map((item) => columns.map((name) => figure(item[name] ?? null))), { label: "Evidence" });
}

function action(kind, version, label, strong = false) {
  return h("button", { type: "button", class: strong ? "strong" : null, "data-action": kind, "data-version": version, "aria-label": `${label.replace("…", "")}${label.includes(version) ? "" : ` version ${version}`}` }, label);
}

/** A table that scrolls in its own box if it is too wide, also by keyboard; with `stacks` a phone shows its cells below one another. */
function table(columns, rows, { label, stacks = false, keys = [] }) {
  const head = h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)));
  const body = rows.map((cells, index) => h("tr", { "data-key": keys[index] }, cells.map((cell, column) => h("td", { "data-label": columns[column] }, cell))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, h("table", { class: stacks ? "stacks" : null }, h("thead", {}, head), h("tbody", {}, body)));
}

export function empty(text) {
  return h("p", { class: "empty" }, text);
}

/** What does not answer, and the age of the shown view. */
export function banner(trouble, at, age) {
  if (!trouble) return [];
  const shown = at ? ` This page shows the state at ${clock(at)}, ${duration(age)} ago.` : "";
  return h("p", { class: "banner", "data-kind": "bad" }, `${trouble}${shown}`);
}
