// Polls every second, redraws what changed, and sends operator commands. The token is held in this module's memory only.

import { rewards, timeline } from "./charts.js";
import { fill } from "./dom.js";
import * as sections from "./sections.js";

const POLL_MS = 1000;
const TIMEOUT_MS = 15_000;
const STALE_MS = 10_000; // the promoter reads the registry every second: an older view means that the registry is away
const RANGES = { "15 minutes": 15, "1 hour": 60, "6 hours": 360, "1 day": 1440, "7 days": 10_080, everything: null };
const byId = (id) => document.getElementById(id);

let token = "";
let view = null;
let changedAt = 0; // performance.now() when `view.at` last changed
let requests = 0; // number of polls
let answered = 0; // number of the latest answered poll: a command polls too, and an earlier poll may be answered later
let announced = null; // the transition that was last announced to screen readers
let command = null; // the command that the dialog confirms

async function call(path, body) {
  const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(body && { "content-type": "application/json" }) };
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(TIMEOUT_MS) });
  const reply = await response.json();
  if (!response.ok) throw Object.assign(new Error(reply.error.message), { code: reply.error.code });
  return reply;
}

async function poll() {
  const number = ++requests;
  try {
    const received = await call("/api/page");
    if (number < answered) return;
    answered = number;
    if (received.at !== view?.at) changedAt = performance.now();
    view = received;
    byId("reader").hidden = true;
    draw();
    showStatus(performance.now() - changedAt > STALE_MS ? "The promoter answers, but the registry does not." : null);
  } catch (error) {
    if (number < answered) return;
    const needsToken = error.code === "invalid_token";
    if (needsToken) byId("reader").hidden = byId("ask").open;
    showStatus(needsToken && !token ? "" : error.code ? error.message : "The promoter does not answer.");
  }
}

async function keepPolling() {
  if (!document.hidden) await poll();
  setTimeout(keepPolling, POLL_MS);
}

/** `trouble` is null if there is none, and empty if the page asks for the token. */
function showStatus(trouble) {
  const age = performance.now() - changedAt;
  const isLive = trouble === null;
  fill(byId("banner"), sections.banner(trouble, view && new Date(view.at), age));
  const live = byId("live");
  live.dataset.state = isLive ? "live" : "away";
  fill(live, !isLive ? "not current" : `live, ${new Date(view.at).toLocaleTimeString("en-GB")}`);
}

function draw() {
  byId("main").hidden = false;
  fill(byId("name"), view.name);
  document.title = `${view.name}: ${view.experiment ? `version ${view.experiment.version} in ${view.experiment.stage}` : `version ${view.champion ?? "none"}`}`;
  for (const part of ["now", "guardrails", "quality", "strategies", "versions", "workers", "transitions"]) fill(byId(part), sections[part](view));
  drawCharts();
  announce();
}

function drawCharts() {
  const to = Date.parse(view.at);
  const range = byId("range");
  if (!range.options.length) offerRanges(to);
  const minutes = RANGES[range.value];
  const first = Math.min(to - 60_000, ...view.versions.map(({ created_at }) => Date.parse(created_at)));
  const from = minutes === null ? first : to - minutes * 60_000;
  const width = byId("timeline").clientWidth;
  fill(byId("timeline"), view.versions.length ? timeline(view.versions.toReversed(), from, to, width) : sections.empty("No version is registered yet."));
  const windows = view.windows.filter(({ mean, ended_at }) => mean !== null && Date.parse(ended_at) >= from);
  fill(byId("reward"), windows.length ? [rewards(windows, from, to, width), legend(windows)] : sections.empty("No answer has been scored in this time."));
}

/** Selects the shortest range that contains the last transitions. */
function offerRanges(to) {
  const names = Object.keys(RANGES);
  const times = view.transitions.slice(0, 6).map(({ at }) => Date.parse(at));
  const span = Math.max(0, ...times.map((at) => to - at));
  const chosen = names.find((name) => RANGES[name] !== null && RANGES[name] * 60_000 * 0.95 >= span) ?? "everything";
  byId("range").replaceChildren(...names.map((name) => new Option(name, name, name === chosen, name === chosen)));
}

function legend(windows) {
  const names = [...new Set(windows.map(({ version, arm }) => `${arm} v${version}`))];
  const list = document.createElement("ul");
  list.className = "legend";
  for (const name of names) {
    const item = document.createElement("li");
    item.className = `arm ${name.split(" ")[0]}`;
    item.textContent = name;
    list.append(item);
  }
  return list;
}

/** Announce a new transition to screen readers. */
function announce() {
  const step = view.transitions[0];
  const key = step && `${step.version}/${step.seq}`;
  if (announced !== null && key && key !== announced) byId("announcement").textContent = `Version ${step.version} is now ${step.after}: ${step.reason}`;
  announced = key ?? "";
}

const EFFECTS = {
  promote: (version) => ({
    title: `Promote version ${version}`,
    effect: `Version ${version} becomes champion and answers all users within seconds${view.champion ? `; version ${view.champion} is retired, and a rollback can restore it` : ""}.`,
    confirm: `Type ${version} to confirm`,
  }),
  reject: (version) => ({
    title: `Reject version ${version}`,
    effect: `Version ${version} is rejected for good. It cannot be tried or promoted again.`,
    confirm: `Type ${version} to confirm`,
  }),
  rollback: (version) => ({
    title: "Roll back",
    effect: `Version ${version} is rejected for good. The version chosen here answers all users within seconds.`,
    confirm: `Type ${version}, the version to reject, to confirm`,
  }),
};

function openDialog(kind, version) {
  command = { kind, version };
  const { title, effect, confirm } = EFFECTS[kind](version);
  const former = view.versions.filter(({ state }) => state === "retired").toReversed();
  byId("ask-title").textContent = byId("ask-do").textContent = title;
  byId("ask-effect").textContent = effect;
  byId("ask-confirm-label").textContent = confirm;
  byId("ask-to-label").hidden = kind !== "rollback";
  byId("ask-to").replaceChildren(new Option("the last former champion", ""), ...former.map(({ version }) => new Option(`version ${version}`, version)));
  byId("ask-confirm").value = byId("ask-reason").value = byId("ask-error").textContent = "";
  byId("ask-token").value = token;
  updateButton();
  byId("ask").showModal();
  (byId("ask-operator").value ? byId("ask-reason") : byId("ask-operator")).focus();
}

function updateButton() {
  byId("ask-do").disabled = byId("ask-confirm").value.trim() !== command?.version;
}

async function send(event) {
  event.preventDefault();
  const { kind, version } = command;
  const body = { operator: byId("ask-operator").value.trim(), reason: byId("ask-reason").value.trim(), confirm: byId("ask-confirm").value.trim() };
  if (kind === "rollback" && byId("ask-to").value) body.to = byId("ask-to").value;
  token = byId("ask-token").value;
  byId("ask-do").disabled = true;
  byId("ask-error").textContent = "";
  try {
    await call(kind === "rollback" ? "/api/rollback" : `/api/versions/${version}/${kind}`, body);
    byId("ask").close();
    byId("ask-token").value = "";
    await poll();
  } catch (error) {
    if (error.code === "invalid_token") token = "";
    byId("ask-error").textContent = error.code ? error.message : "The promoter does not answer. Check the transitions before you try again.";
  }
  updateButton();
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest?.("[data-action]");
  if (button) openDialog(button.dataset.action, button.dataset.version);
});
byId("ask-form").addEventListener("submit", send);
byId("ask-confirm").addEventListener("input", updateButton);
byId("ask-cancel").addEventListener("click", () => byId("ask").close());
byId("ask").addEventListener("close", () => { byId("ask-token").value = ""; });
byId("range").addEventListener("change", drawCharts);
byId("reader").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("reader-token").value;
  byId("reader-token").value = "";
  poll();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
new ResizeObserver(() => { if (view) drawCharts(); }).observe(byId("timeline"));
keepPolling();
