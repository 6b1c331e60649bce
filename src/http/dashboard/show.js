// How values become elements. Text only ever becomes text nodes: page URLs are written by strangers.

const whole = new Intl.NumberFormat();
const ratio = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const utc = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...options });
const dayForm = utc({ day: "numeric", month: "short" });
const fullDayForm = utc({ weekday: "short", day: "numeric", month: "short", year: "numeric" });
const weekdayForm = utc({ weekday: "short", day: "numeric", month: "short" });
const hourForm = utc({ hour: "2-digit", minute: "2-digit" });
const secondForm = utc({ day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });

const DIRECTION_MARK = /([\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])/;

/** An element with properties and children; strings become text. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function number(value) {
  return whole.format(value);
}

export function fraction(value) {
  return ratio.format(value);
}

/** Writes a number for people into an element, and the exact one beside it. */
export function setNumber(target, value, text = number(value)) {
  target.dataset.value = String(value);
  target.textContent = text;
  return target;
}

/** "views", or "view" for one. */
export function unit(value, one, many) {
  return value === 1 ? one : many;
}

export function day(at) {
  return dayForm.format(new Date(at));
}

export function hour(at) {
  return hourForm.format(new Date(at));
}

/** The name of an interval without its year: "Sat, 21 Nov" or that with "17:00". */
export function brief(at, kind) {
  const start = new Date(at);
  return kind === "hour" ? `${weekdayForm.format(start)}, ${hourForm.format(start)}` : weekdayForm.format(start);
}

/** The whole name of an interval: "Sat, 21 Nov 2026" or that with "17:00–18:00". */
export function interval(at, kind) {
  const start = new Date(at);
  if (kind !== "hour") return fullDayForm.format(start);
  const end = new Date(start.getTime() + 3_600_000);
  return `${fullDayForm.format(start)}, ${hourForm.format(start)}–${hourForm.format(end)}`;
}

/** An instant to the second. */
export function instant(at) {
  return `${secondForm.format(new Date(at))} UTC`;
}

/** A cell of a table with a number. */
export function numberCell(value) {
  return setNumber(element("td", { className: "number" }), value);
}

/** The head of a row that is about a page, with a bar for its share of the largest. */
export function pageCell(url, views, most) {
  const share = element("span", { className: "share" });
  share.style.width = `${most > 0 ? (100 * views) / most : 0}%`;
  const cell = element("th", { scope: "row", className: "page" }, share, pageText(url));
  cell.dataset.page = url;
  return cell;
}

/** A URL as text, with its invisible direction marks made visible, so that it can't pose as another. */
function pageText(url) {
  const text = element("bdi", { dir: "ltr", title: url });
  for (const part of url.split(DIRECTION_MARK)) {
    if (part.match(DIRECTION_MARK)) {
      const code = part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      text.append(element("span", { className: "mark" }, `U+${code}`));
    } else {
      text.append(part);
    }
  }
  return text;
}

/** Fills the body of a table. */
export function fillRows(table, rows) {
  table.tBodies[0].replaceChildren(...rows.map((cells) => element("tr", {}, ...cells)));
}

/** Shows a problem in words, with a way to try again. */
export function showProblem(target, problem, retry) {
  const parts = [element("strong", {}, problem.title)];
  if (problem.detail) parts.push(element("p", {}, String(problem.detail)));
  if (problem.errors.length > 0) {
    const line = ({ field, detail }) => element("li", {}, element("b", {}, String(field)), ` ${detail}`);
    parts.push(element("ul", {}, ...problem.errors.map(line)));
  }
  parts.push(element("button", { type: "button", onclick: retry.run }, retry.label));
  target.replaceChildren(...parts);
}
