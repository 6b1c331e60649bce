// What the page shows, as its URL says it, and which instants that means.

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
/** Ranges that end now: the bars that they have, the last of which is not over yet. */
const PRESETS = { "24h": { step: HOUR, bars: 24 }, "7d": { step: DAY, bars: 7 }, "30d": { step: DAY, bars: 30 } };
/** Up to so long, a range is shown by hour. */
const LONGEST_BY_HOUR = 3 * DAY;
const PARAMETERS = ["range", "from", "to", "prefix", "after", "user"];

/** The state that a query string holds. */
export function readState(search) {
  const query = new URLSearchParams(search);
  const state = Object.fromEntries(PARAMETERS.map((name) => [name, query.get(name) ?? ""]));
  if (state.from || state.to) state.range = "";
  else if (!(state.range in PRESETS)) state.range = "24h";
  return state;
}

/** The query string of a state; what is as by default is left out. */
export function writeState(state) {
  const query = new URLSearchParams();
  for (const name of PARAMETERS) {
    if (state[name] && !(name === "range" && state[name] === "24h")) query.set(name, state[name]);
  }
  return query.size > 0 ? `?${query}` : "";
}

/**
 * The range of a state: `from` and `to` (left out) for the service, the interval, and the dates of its
 * first and last day. What is not a date goes to the service as it is, which says what is wrong.
 */
export function rangeOf(state, now) {
  const preset = PRESETS[state.range];
  if (preset) {
    const end = (Math.floor(now / preset.step) + 1) * preset.step;
    const start = end - preset.bars * preset.step;
    return {
      from: instant(start), to: instant(end), interval: preset.step === HOUR ? "hour" : "day",
      firstDay: date(start), lastDay: date(end - 1),
    };
  }
  const today = date(now);
  const firstDay = state.from || state.to;
  const lastDay = state.to || today;
  const length = Date.parse(dayAfter(lastDay)) - Date.parse(firstDay);
  return {
    from: firstDay, to: dayAfter(lastDay), interval: length <= LONGEST_BY_HOUR ? "hour" : "day",
    firstDay, lastDay,
  };
}

/** The days of a user that go with a range: its own, or a week for one that is shorter and ends now. */
export function daysOf(state, range) {
  const from = state.range === "24h" ? date(Date.parse(range.lastDay) - 6 * DAY) : range.firstDay;
  return { from, to: dayAfter(range.lastDay) };
}

/** How long an interval is, in milliseconds. */
export function lengthOf(interval) {
  return interval === "hour" ? HOUR : DAY;
}

export function isDate(text) {
  return /^\d{4}-\d\d-\d\d$/.test(text) && !Number.isNaN(Date.parse(text));
}

function dayAfter(day) {
  return isDate(day) ? date(Date.parse(day) + DAY) : day;
}

function date(at) {
  return new Date(at).toISOString().slice(0, 10);
}

function instant(at) {
  return new Date(at).toISOString().replace(".000Z", "Z");
}
