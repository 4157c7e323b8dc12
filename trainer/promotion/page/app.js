// Looks every second, draws what changed, and sends what an operator asks for. The token lives in this module's memory and nowhere else.

import { rewards, timeline } from "./charts.js";
import { fill } from "./dom.js";
import * as sections from "./sections.js";

const EVERY_MS = 1000;
const WITHIN_MS = 15_000;
const OLD_MS = 10_000; // a promoter looks every second: an older view is that of a registry which is away
const RANGES = { "15 minutes": 15, "1 hour": 60, "6 hours": 360, "1 day": 1440, "7 days": 10_080, everything: null };
const place = (id) => document.getElementById(id);

let token = "";
let view = null;
let seenAt = 0; // when a view of another time than the one before came, by performance.now()
let looks = 0; // how often it was asked
let answered = 0; // the latest of those that was answered: an operator's act looks, too, and what was asked for before is older
let newest = null; // the newest transition that was said aloud
let wish = null; // what the dialog asks about

async function call(path, body) {
  const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(body && { "content-type": "application/json" }) };
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(WITHIN_MS) });
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error.message), { code: found.error.code });
  return found;
}

async function look() {
  const turn = ++looks;
  try {
    const found = await call("/api/page");
    if (turn < answered) return;
    answered = turn;
    if (found.at !== view?.at) seenAt = performance.now();
    view = found;
    place("reader").hidden = true;
    draw();
    tell(performance.now() - seenAt > OLD_MS ? "The promoter answers, but the registry has not." : null);
  } catch (error) {
    if (turn < answered) return;
    const asks = error.code === "invalid_token";
    if (asks) place("reader").hidden = place("ask").open;
    tell(asks && !token ? "" : error.code ? error.message : "The promoter does not answer.");
  }
}

async function keepLooking() {
  if (!document.hidden) await look();
  setTimeout(keepLooking, EVERY_MS);
}

/** `trouble` is null while all is well, and empty where the page says elsewhere what it needs. */
function tell(trouble) {
  const age = performance.now() - seenAt;
  const isLive = trouble === null;
  fill(place("banner"), sections.banner(trouble, view && new Date(view.at), age));
  const live = place("live");
  live.dataset.state = isLive ? "live" : "away";
  fill(live, !isLive ? "not current" : `live, ${new Date(view.at).toLocaleTimeString("en-GB")}`);
}

function draw() {
  place("main").hidden = false;
  fill(place("name"), view.name);
  document.title = `${view.name}: ${view.experiment ? `version ${view.experiment.version} in ${view.experiment.stage}` : `version ${view.champion ?? "none"}`}`;
  for (const part of ["now", "guardrails", "quality", "versions", "workers", "transitions"]) fill(place(part), sections[part](view));
  drawCharts();
  say();
}

function drawCharts() {
  const to = Date.parse(view.at);
  const range = place("range");
  if (!range.options.length) offerRanges(to);
  const minutes = RANGES[range.value];
  const first = Math.min(to - 60_000, ...view.versions.map(({ created_at }) => Date.parse(created_at)));
  const from = minutes === null ? first : to - minutes * 60_000;
  const width = place("timeline").clientWidth;
  fill(place("timeline"), view.versions.length ? timeline(view.versions.toReversed(), from, to, width) : sections.empty("No version is registered yet."));
  const windows = view.windows.filter(({ mean, ended_at }) => mean !== null && Date.parse(ended_at) >= from);
  fill(place("reward"), windows.length ? [rewards(windows, from, to, width), legend(windows)] : sections.empty("No answer has been scored in this time."));
}

/** The shortest range that holds the last few steps comes first. */
function offerRanges(to) {
  const names = Object.keys(RANGES);
  const times = view.transitions.slice(0, 6).map(({ at }) => Date.parse(at));
  const span = Math.max(0, ...times.map((at) => to - at));
  const chosen = names.find((name) => RANGES[name] !== null && RANGES[name] * 60_000 * 0.95 >= span) ?? "everything";
  place("range").replaceChildren(...names.map((name) => new Option(name, name, name === chosen, name === chosen)));
}

function legend(windows) {
  const seen = [...new Set(windows.map(({ version, arm }) => `${arm} v${version}`))];
  const list = document.createElement("ul");
  list.className = "legend";
  for (const name of seen) {
    const item = document.createElement("li");
    item.className = `arm ${name.split(" ")[0]}`;
    item.textContent = name;
    list.append(item);
  }
  return list;
}

/** Say a new transition to those who cannot see it appear. */
function say() {
  const step = view.transitions[0];
  const key = step && `${step.version}/${step.seq}`;
  if (newest !== null && key && key !== newest) place("said").textContent = `Version ${step.version} is now ${step.after}: ${step.reason}`;
  newest = key ?? "";
}

const EFFECTS = {
  promote: (version) => ({
    title: `Promote version ${version}`,
    effect: `Version ${version} becomes champion and answers everybody within seconds${view.champion ? `; version ${view.champion} is retired and can be rolled back to` : ""}.`,
    confirm: `Type ${version} to confirm`,
  }),
  reject: (version) => ({
    title: `Reject version ${version}`,
    effect: `Version ${version} is given up for good: it will not be tried again, nor promoted.`,
    confirm: `Type ${version} to confirm`,
  }),
  rollback: (version) => ({
    title: "Roll back",
    effect: `Version ${version} is rejected for good, and the version chosen here answers everybody within seconds.`,
    confirm: `Type ${version}, the version to give up, to confirm`,
  }),
};

function ask(kind, version) {
  wish = { kind, version };
  const { title, effect, confirm } = EFFECTS[kind](version);
  const former = view.versions.filter(({ state }) => state === "retired").toReversed();
  place("ask-title").textContent = place("ask-do").textContent = title;
  place("ask-effect").textContent = effect;
  place("ask-confirm-label").textContent = confirm;
  place("ask-to-label").hidden = kind !== "rollback";
  place("ask-to").replaceChildren(new Option("the last champion", ""), ...former.map(({ version }) => new Option(`version ${version}`, version)));
  place("ask-confirm").value = place("ask-reason").value = place("ask-error").textContent = "";
  place("ask-token").value = token;
  check();
  place("ask").showModal();
  (place("ask-operator").value ? place("ask-reason") : place("ask-operator")).focus();
}

function check() {
  place("ask-do").disabled = place("ask-confirm").value.trim() !== wish?.version;
}

async function send(event) {
  event.preventDefault();
  const { kind, version } = wish;
  const body = { operator: place("ask-operator").value.trim(), reason: place("ask-reason").value.trim(), confirm: place("ask-confirm").value.trim() };
  if (kind === "rollback" && place("ask-to").value) body.to = place("ask-to").value;
  token = place("ask-token").value;
  place("ask-do").disabled = true;
  place("ask-error").textContent = "";
  try {
    await call(kind === "rollback" ? "/api/rollback" : `/api/versions/${version}/${kind}`, body);
    place("ask").close();
    place("ask-token").value = "";
    await look();
  } catch (error) {
    if (error.code === "invalid_token") token = "";
    place("ask-error").textContent = error.code ? error.message : "The promoter does not answer: look at the transitions before you try again.";
  }
  check();
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest?.("[data-action]");
  if (button) ask(button.dataset.action, button.dataset.version);
});
place("ask-form").addEventListener("submit", send);
place("ask-confirm").addEventListener("input", check);
place("ask-cancel").addEventListener("click", () => place("ask").close());
place("ask").addEventListener("close", () => { place("ask-token").value = ""; });
place("range").addEventListener("change", drawCharts);
place("reader").addEventListener("submit", (event) => {
  event.preventDefault();
  token = place("reader-token").value;
  place("reader-token").value = "";
  look();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
new ResizeObserver(() => { if (view) drawCharts(); }).observe(place("timeline"));
keepLooking();
