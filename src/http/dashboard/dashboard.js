// The dashboard: reads the state from the URL, the reports from the API, and shows them.

import { key, read, setKey } from "./api.js";
import { BarChart } from "./chart.js";
import { daysOf, isDate, lengthOf, rangeOf, readState, writeState } from "./range.js";
import {
  brief, day, element, fillRows, fraction, hour, instant, interval, number, numberCell, pageCell, setNumber, showProblem, unit,
} from "./show.js";

const ROWS = 20;
/** So many pages of one user are listed before all are asked for. */
const USER_ROWS = 20;
const at = (id) => document.getElementById(id);

let state = readState(location.search);

/** A part of the page with one question to the service, and the states that the answer may be in. */
class Panel {
  /** `load(signal)` resolves to `{isEmpty, isIdle?, freshness, said, show}`. */
  constructor(id, load) {
    this.root = at(id);
    this.load = load;
    this.key = undefined;
    this.freshness = [];
  }

  part(name) {
    return this.root.querySelector(`.${name}`);
  }

  /** Asks again only if the question has changed, or if it must. */
  async ask(key, must) {
    if (!must && key === this.key) return;
    this.key = key;
    this.request?.abort();
    const request = new AbortController();
    this.request = request;
    this.root.setAttribute("aria-busy", "true");
    this.say("Loading …");
    let outcome;
    try {
      outcome = await this.load(request.signal);
    } catch (problem) {
      if (request !== this.request) return;
      // The next look asks again.
      this.key = undefined;
      this.root.setAttribute("aria-busy", "false");
      this.part("content").hidden = true;
      this.part("state").textContent = "";
      this.freshness = [];
      this.fail(problem);
      return;
    }
    if (request !== this.request) return;
    this.freshness = outcome.freshness ?? [];
    this.part("problem").replaceChildren();
    this.part("content").hidden = outcome.isEmpty;
    outcome.show?.();
    this.say(outcome.isEmpty ? outcome.said : "");
    this.root.setAttribute("aria-busy", "false");
    if (!outcome.isIdle) announce(outcome.said);
    showFreshness();
  }

  say(words) {
    // While there is something to look at, it stays.
    const isLoading = this.root.getAttribute("aria-busy") === "true";
    this.part("state").textContent = isLoading && !this.part("content").hidden ? "" : words;
  }

  fail(problem) {
    if (problem.errors === undefined) {
      console.error(problem);
      problem = { title: "This page failed", detail: String(problem), errors: [] };
    }
    if (problem.status === 401) askForKey();
    const isOldCursor = this.root.id === "pages" && state.after !== "";
    showProblem(this.part("problem"), problem, isOldCursor
      ? { label: "Start from the top", run: () => go({ after: "" }) }
      : { label: "Try again", run: () => render(true) });
  }
}

const site = new Panel("site", async (signal) => {
  const range = rangeOf(state, Date.now());
  const { from, to } = range;
  const [series, total] = await Promise.all([
    read("site", { from, to, interval: range.interval }, signal),
    read("site", { from, to, interval: "total" }, signal),
  ]);
  const [{ views, users }] = total.report.intervals;
  const words = `${number(views)} ${unit(views, "view", "views")} by ${number(users)} ${unit(users, "user", "users")}`;
  return {
    freshness: [series.freshness, total.freshness],
    isEmpty: views === 0,
    said: views === 0 ? "No views in this range. Choose another, or send some." : `Site traffic: ${words}.`,
    show: () => showSite(series.report, { views, users }, words),
  };
});

function showSite({ interval: kind, intervals }, { views, users }, words) {
  const now = Date.now();
  const bars = intervals.map((row) => {
    const start = Date.parse(row.start);
    const isMidnight = start % lengthOf("day") === 0;
    return {
      views: row.views, users: row.users,
      label: interval(start, kind), brief: brief(start, kind),
      short: kind === "hour" && !isMidnight ? hour(start) : day(start),
      isPartial: start <= now && now < start + lengthOf(kind),
    };
  });
  const peak = bars.reduce((best, bar) => (bar.views > best.views ? bar : best));
  setNumber(at("site-views"), views);
  setNumber(at("site-users"), users);
  setNumber(at("site-ratio"), users > 0 ? views / users : 0, users > 0 ? fraction(views / users) : "–");
  at("site-peak-label").textContent = `Busiest ${kind}`;
  setNumber(at("site-peak"), peak.views).append(element("small", {}, peak.brief));
  charts.site.show(bars, `Bar chart of views and users by ${kind}: ${words}, most in ${peak.label}.`);
  fillRows(at("site-table"), bars.map((bar, i) => [
    element("th", { scope: "row" }, element("time", { dateTime: intervals[i].start }, bar.label), bar.isPartial ? " (so far)" : ""),
    numberCell(bar.views), numberCell(bar.users),
  ]));
}

/** The first rows cost less when the rest will not be asked for, so one more row tells that there is a rest. */
const pages = new Panel("pages", async (signal) => {
  const { from, to } = rangeOf(state, Date.now());
  const { prefix, after } = state;
  const first = { from, to, prefix, limit: ROWS + 1, next: "false" };
  const { report, freshness } = await read("pages", after ? { after, limit: ROWS } : first, signal);
  const rows = report.pages.slice(0, ROWS);
  const none = prefix ? "No viewed page begins with this text in this range." : "No page was viewed in this range.";
  return {
    freshness: [freshness],
    isEmpty: rows.length === 0,
    said: rows.length === 0 ? none : `${number(rows.length)} ${unit(rows.length, "page", "pages")} listed.`,
    show: () => {
      const most = Math.max(...rows.map((row) => row.views));
      fillRows(at("pages-table"), rows.map(({ page_url: url, views, users }) => [
        pageCell(url, views, most), numberCell(views), numberCell(users),
      ]));
      at("pages-first").hidden = after === "";
      at("pages-next").hidden = after ? report.next === null : report.pages.length <= ROWS;
      next = report.next;
    },
  };
});

/** Where the list that is shown goes on, if that is known already. */
let next = null;

async function goOn() {
  const button = at("pages-next");
  button.disabled = true;
  try {
    let cursor = next;
    if (cursor === null) {
      const { from, to } = rangeOf(state, Date.now());
      const { report } = await read("pages", { from, to, prefix: state.prefix, limit: ROWS });
      cursor = report.next;
    }
    // Nothing behind the first rows any more: they are shown anew.
    await (cursor === null ? pages.ask(undefined, true) : go({ after: cursor }));
    at("pages-title").focus();
  } catch (problem) {
    pages.fail(problem);
  } finally {
    button.disabled = false;
  }
}

const user = new Panel("user", async (signal) => {
  if (state.user === "") {
    return { isEmpty: true, isIdle: true, said: "Look up a user to see what they viewed." };
  }
  const id = encodeURIComponent(state.user);
  const range = daysOf(state, rangeOf(state, Date.now()));
  const [daily, days] = await Promise.all([
    read(`daily/${id}`, {}, signal),
    read(`users/${id}/days`, { ...range, tz: "UTC" }, signal),
  ]);
  const seen = Object.entries(daily.report);
  const views = seen.reduce((sum, [, n]) => sum + n, 0);
  const isEmpty = views === 0 && days.report.views === 0;
  return {
    freshness: [daily.freshness, days.freshness],
    isEmpty,
    said: isEmpty
      ? `No views of user ${state.user} in the last 24 hours or from ${day(range.from)} on.`
      : `User ${state.user}: ${number(views)} ${unit(views, "view", "views")} in the last 24 hours.`,
    show: () => isEmpty || showUser(seen, views, days.report),
  };
});

function showUser(seen, views, report) {
  setNumber(at("user-views"), views);
  at("user-views-unit").textContent = unit(views, "view", "views");
  const most = seen[0]?.[1] ?? 0;
  at("user-table").hidden = seen.length === 0;
  const list = (rows) => {
    fillRows(at("user-table"), rows.map(([url, n]) => [pageCell(url, n, most), numberCell(n)]));
    at("user-all").hidden = rows.length === seen.length;
  };
  at("user-all").textContent = `Show all ${number(seen.length)} pages`;
  at("user-all").onclick = () => {
    list(seen);
    at("user-table").focus();
  };
  list(seen.slice(0, USER_ROWS));

  const today = new Date().toISOString().slice(0, 10);
  const bars = report.days.map(({ date, views: n }) => ({
    views: n, label: interval(date, "day"), short: day(date), isPartial: date === today,
  }));
  setNumber(at("days-views"), report.views);
  at("days-views-unit").textContent = `${unit(report.views, "view", "views")} in ${number(bars.length)} ${unit(bars.length, "day", "days")}`;
  charts.days.show(bars, `Bar chart of the views of user ${report.user_id} by day: ${number(report.views)} in all.`);
  fillRows(at("days-table"), bars.map((bar, i) => [
    element("th", { scope: "row" }, element("time", { dateTime: report.days[i].date }, bar.label), bar.isPartial ? " (so far)" : ""),
    numberCell(bar.views),
  ]));
}

const charts = { site: new BarChart(at("site-chart")), days: new BarChart(at("days-chart")) };

/** The least of what the shown reports promise. */
function showFreshness() {
  const all = [site, pages, user].flatMap((panel) => panel.freshness);
  const target = at("freshness");
  if (all.length === 0 || all.some((one) => !one.completeThrough)) {
    target.textContent = "";
    return;
  }
  const through = all.map((one) => one.completeThrough).reduce((a, b) => (Date.parse(a) < Date.parse(b) ? a : b));
  const spooled = Math.max(...all.map((one) => one.rowsSpooled));
  const waiting = spooled === 0
    ? "None wait on its disk."
    : `${number(spooled)} ${unit(spooled, "row waits", "rows wait")} on its disk and will be counted once ClickHouse takes them.`;
  const time = element("time", { dateTime: through }, instant(through));
  target.replaceChildren("Every view that this instance took in before ", time, ` is counted. ${waiting}`);
  target.dataset.rowsSpooled = String(spooled);
  target.classList.toggle("behind", spooled > 0);
}

const announcements = [];
/** Says what has changed to those who can't see it; what comes at once is said together. */
function announce(words) {
  announcements.push(words);
  if (announcements.length > 1) return;
  setTimeout(() => { at("announcement").textContent = announcements.splice(0).join(" "); }, 100);
}

/** Shows the state; reports whose question has not changed are asked for again only if they must. */
function render(must = false) {
  const range = rangeOf(state, Date.now());
  for (const button of document.querySelectorAll("[data-range]")) {
    button.setAttribute("aria-pressed", String(button.dataset.range === state.range));
  }
  at("from").value = isDate(range.firstDay) ? range.firstDay : "";
  at("to").value = isDate(range.lastDay) ? range.lastDay : "";
  at("prefix").value = state.prefix;
  at("user-id").value = state.user;
  const isOneDay = range.firstDay === range.lastDay;
  const words = { "24h": "This hour and the 23 before it", "7d": "Today and the 6 days before", "30d": "Today and the 29 days before" };
  const dates = isOneDay ? readable(range.firstDay) : `${readable(range.firstDay)} to ${readable(range.lastDay)}, both included`;
  at("shown").textContent = `${words[state.range] ?? dates}, by ${range.interval}`;
  Object.assign(at("shown").dataset, { from: range.from, to: range.to, interval: range.interval });

  const when = [state.range, state.from, state.to];
  return Promise.all([
    site.ask(JSON.stringify(when), must),
    pages.ask(JSON.stringify([...when, state.prefix, state.after]), must),
    user.ask(JSON.stringify([...when, state.user]), must),
  ]);
}

function readable(date) {
  return isDate(date) ? interval(date, "day") : date;
}

/** Changes the state, and the URL with it. A range or prefix of another list begins at its top. */
function go(change) {
  const before = writeState(state);
  state = { ...state, ...change };
  const after = writeState(state);
  if (after === before) return render(true);
  history.pushState(null, "", new URL(after || "?", location.href).href.replace(/\?$/, ""));
  return render();
}

function onSubmit(form, change) {
  at(form).addEventListener("submit", (event) => {
    event.preventDefault();
    go(change());
  });
}

/** Shown when the service wants a key, and as long as there is one. */
function askForKey() {
  at("key-form").hidden = false;
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  // What no header can carry is no key.
  setKey(at("key").value.replace(/[^\x21-\x7e]/g, ""));
  at("key").value = "";
  at("key-forget").hidden = key() === "";
  render(true);
});
at("key-forget").addEventListener("click", () => {
  setKey("");
  at("key-forget").hidden = true;
  render(true);
});
if (key() !== "") {
  askForKey();
  at("key-forget").hidden = false;
}

for (const button of document.querySelectorAll("[data-range]")) {
  button.addEventListener("click", () => go({ range: button.dataset.range, from: "", to: "", after: "" }));
}
onSubmit("range-form", () => ({ range: "", from: at("from").value, to: at("to").value, after: "" }));
onSubmit("prefix-form", () => ({ prefix: at("prefix").value, after: "" }));
onSubmit("user-form", () => ({ user: at("user-id").value.trim() }));
at("refresh").addEventListener("click", () => render(true));
at("pages-next").addEventListener("click", goOn);
at("pages-first").addEventListener("click", async () => {
  await go({ after: "" });
  at("pages-title").focus();
});
addEventListener("popstate", () => {
  state = readState(location.search);
  render();
});
render();
