// Each part of the page as elements made from what /api/page tells. Pure: nothing is fetched or kept here.

import { whisker } from "./charts.js";
import { h } from "./dom.js";
import { clock, duration, interval, metric, moment, number, percent, signed } from "./words.js";

const PROMOTABLE = ["gated", "shadow", "canary", "approval", "retired"];
const RATIOS = ["latency_ms", "length"];
const NOT_REJECTABLE = ["champion", "rejected"];
const STAGES = { shadow: "answers unseen", canary: "answers users", approval: "waits for a person" };
// A worker reports every few seconds; after this long it is said to be silent.
const SILENT_MS = 15_000;

export function state(name) {
  return h("span", { class: `chip ${name}` }, name);
}

/** Who serves, who is tried, and what may be done about it. */
export function now(view) {
  return [championCard(view), experimentCard(view)];
}

function championCard({ champion, versions, at }) {
  const version = versions.find(({ version }) => version === champion);
  if (!version) {
    return card("champion", "Champion", h("p", { class: "big" }, "none yet"), h("p", { class: "quiet" }, "The promoter registers the shipped version when it starts."));
  }
  const begun = version.transitions.findLast(({ after }) => after === "champion");
  const former = versions.some(({ state }) => state === "retired");
  return card(
    "champion",
    "Champion",
    h("p", { class: "big" }, `Version ${champion}`),
    h("p", { class: "quiet" }, begun ? `serves for ${duration(Date.parse(at) - Date.parse(begun.at))}: ${begun.reason}` : "serves"),
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
      h("p", { class: "quiet" }, waiting.length ? `Version ${waiting[0].version} is next: ${waiting[0].state}.` : "No experiment is under way. The trainer registers the next version."),
    );
  }
  const { version, stage, share, since, arms, verdict } = experiment;
  const of = stage === "shadow" ? "of questions" : "of users";
  const rows = Object.entries(arms).map(([arm, { version, answers, scored, users }]) => [h("span", { class: `arm ${arm}` }, arm), version ? `v${version}` : "–", number(answers), number(scored), number(users)]);
  return card(
    stage,
    "Challenger",
    h("p", { class: "big" }, `Version ${version} `, state(stage)),
    h("p", { class: "quiet" }, `${STAGES[stage]}: ${percent(share)} ${of}, for ${duration(Date.parse(at) - Date.parse(since))}. `,
      approval === "person" ? "A person lets it become champion." : "Becomes champion by itself once it is better for certain."),
    table(["arm", "version", "answers", "scored", "users"], rows, { label: "Arms" }),
    verdict ? h("p", { class: "verdict" }, h("span", { class: `chip verdict-${verdict.outcome}` }, verdict.outcome), ` ${verdict.reason}`) : h("p", { class: "quiet" }, "No figures yet."),
    h("div", { class: "buttons" }, action("promote", version, `Promote version ${version}…`, stage === "approval"), action("reject", version, "Reject…")),
  );
}

function card(kind, title, ...content) {
  return h("article", { class: `card ${kind}`, "data-key": title }, h("h2", {}, title), content);
}

export function guardrails({ guardrails: found, experiment }) {
  if (!found.length) return empty(experiment ? "No figures yet: each group needs some users first." : "They are watched while a version is tried.");
  const rows = found.map(({ metric: name, canary, baseline, difference, low, high, limit, state }) => {
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

export function quality({ quality: found }) {
  const cells = found.filter(({ mean, scored }) => mean !== null && scored > 0);
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

export function versions({ versions: found, at }) {
  if (!found.length) return empty("No version is registered yet.");
  const rows = found.toReversed().map((version) => [
    h("strong", {}, `v${version.version}`), state(version.state), version.aliases.join(", ") || "–", version.parent ? `v${version.parent}` : "–",
    moment(new Date(version.created_at), new Date(at)), h("span", { class: "words" }, gateOf(version)), h("code", { title: version.digest }, version.digest.slice(0, 10)),
    h("div", { class: "buttons" },
      PROMOTABLE.includes(version.state) ? action("promote", version.version, "Promote…") : null,
      NOT_REJECTABLE.includes(version.state) ? null : action("reject", version.version, "Reject…")),
  ]);
  return table(["version", "state", "aliases", "parent", "registered", "gate", "digest", "actions"], rows, { label: "Versions", stacks: true, keys: found.toReversed().map(({ version }) => version) });
}

/** What the gate said of a version, in its own words. */
function gateOf({ transitions }) {
  const judged = transitions.findLast(({ before }) => before === "registered");
  return judged ? judged.reason : "not judged yet";
}

export function workers({ workers: found, at }) {
  if (!found.length) return empty("No reflection worker reports. Answers may still go out; `retouch status` shows the processes.");
  const named = (model) => (model ? `v${model.version}` : "–");
  const rows = found.map((report) => {
    const age = Date.parse(at) - Date.parse(report.at);
    const refused = report.refused.map(({ model, reason }) => h("p", { class: "error" }, `refuses ${named(model)}: ${reason}`));
    return [
      report.worker, named(report.champion), named(report.challenger), report.loaded.map(named).join(", "), number(report.swaps),
      refused.length ? refused : "none", age > SILENT_MS ? h("span", { class: "error" }, `silent for ${duration(age)}`) : `${duration(age)} ago`,
    ];
  });
  return table(["worker", "champion", "challenger", "loaded", "swaps", "refused", "reported"], rows, { label: "Workers", stacks: true, keys: found.map(({ worker }) => worker) });
}

export function transitions({ transitions: found, at }) {
  if (!found.length) return empty("Nothing has happened yet.");
  return h("ol", { class: "log" }, found.map((step) => transition(step, new Date(at))));
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

/** Whatever figures a step rests on, however deep they lie. */
function evidence(facts) {
  const known = Object.entries(facts).filter(([, value]) => value !== null && value !== undefined);
  if (!known.length) return h("p", { class: "quiet" }, "No figures: a person's word, or the way things were.");
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
  if (!isBound(low) || !isBound(high)) return evidence(value); // a platform may call its domains low and high
  const others = Object.entries(rest).map(([name, item]) => `, ${name.replaceAll("_", " ")} ${figure(item)}`);
  return Object.values(rest).every(isPlain) ? `${figure(mean ?? difference ?? middle ?? null)} ${interval(low, high, fine)}${others.join("")}` : evidence(value);
}

/** Objects of one kind below one another. */
function records(found) {
  const columns = [...new Set(found.flatMap((item) => Object.keys(item)))];
  return table(columns.map((name) => name.replaceAll("_", " ")), found.map((item) => columns.map((name) => figure(item[name] ?? null))), { label: "Evidence" });
}

function action(kind, version, label, strong = false) {
  return h("button", { type: "button", class: strong ? "strong" : null, "data-action": kind, "data-version": version, "aria-label": `${label.replace("…", "")}${label.includes(version) ? "" : ` version ${version}`}` }, label);
}

/** A table that scrolls in its own box where it is too wide, for a keyboard too; on a phone `stacks` sets its cells below one another. */
function table(columns, rows, { label, stacks = false, keys = [] }) {
  const head = h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)));
  const body = rows.map((cells, place) => h("tr", { "data-key": keys[place] }, cells.map((cell, column) => h("td", { "data-label": columns[column] }, cell))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, h("table", { class: stacks ? "stacks" : null }, h("thead", {}, head), h("tbody", {}, body)));
}

export function empty(words) {
  return h("p", { class: "empty" }, words);
}

/** What went wrong with looking, and how old what is shown is. */
export function banner(trouble, at, age) {
  if (!trouble) return [];
  const shown = at ? ` Shown is how things stood at ${clock(at)}, ${duration(age)} ago.` : "";
  return h("p", { class: "banner", "data-kind": "bad" }, `${trouble}${shown}`);
}
