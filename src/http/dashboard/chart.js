// Bars over time as inline SVG. Numbers for those who can't see it are in the table beside it.

import { element, number } from "./show.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 44;
const BOTTOM = 24;
const TOP = 8;
/** The least room for a date below the bars, in pixels. */
const LABEL_WIDTH = 72;
const WIDEST_BAR = 72;
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });

/**
 * A chart that fills `container` and is drawn again when its width changes. A bar is
 * `{label, short, views, users?, isPartial}`; users are drawn in front of views, of which they are
 * never more.
 */
export class BarChart {
  constructor(container) {
    this.container = container;
    this.bars = [];
    this.title = "";
    new ResizeObserver(() => this.draw()).observe(container);
  }

  show(bars, title) {
    this.bars = bars;
    this.title = title;
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.container;
    if (width === 0 || this.bars.length === 0) {
      this.container.replaceChildren();
      return;
    }
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": this.title });
    const plot = { left: LEFT, top: TOP, width: width - LEFT, height: height - TOP - BOTTOM };
    const step = tick(Math.max(...this.bars.map((bar) => bar.views), 1));
    const most = step * Math.max(1, Math.ceil(Math.max(...this.bars.map((bar) => bar.views)) / step));
    const y = (value) => plot.top + plot.height * (1 - value / most);
    for (let value = 0; value <= most; value += step) {
      const at = Math.round(y(value)) + 0.5;
      svg.append(
        shape("line", { class: "grid", x1: plot.left, x2: width, y1: at, y2: at }),
        shape("text", { x: plot.left - 8, y: at + 4, "text-anchor": "end" }, compact.format(value)),
      );
    }
    const slot = plot.width / this.bars.length;
    const gap = slot > 8 ? Math.max(slot * 0.2, slot - WIDEST_BAR) : slot > 3 ? 1 : 0;
    const every = Math.max(1, Math.ceil(LABEL_WIDTH / slot));
    const tip = element("div", { className: "tip", hidden: true });
    // From the newest back, so that the newest always has a label.
    const newest = this.bars.length - 1;
    this.bars.forEach((bar, i) => {
      const x = plot.left + i * slot;
      for (const kind of ["views", "users"]) {
        if (!(bar[kind] > 0)) continue;
        const top = Math.min(y(bar[kind]), plot.top + plot.height - 1);
        const at = { x: x + gap / 2, width: slot - gap, y: top, height: plot.top + plot.height - top };
        svg.append(shape("rect", { class: `bar ${kind}`, rx: Math.min(2, slot / 4), ...at }));
      }
      if ((newest - i) % every === 0) {
        const middle = Math.min(x + slot / 2, width - 22);
        svg.append(shape("text", { x: middle, y: height - 6, "text-anchor": "middle" }, bar.short));
      }
      const area = shape("rect", { class: "slot", x, y: plot.top, width: slot, height: plot.height });
      area.addEventListener("pointerenter", () => point(tip, bar, x + slot / 2, width));
      area.addEventListener("pointerleave", () => { tip.hidden = true; });
      svg.append(area);
    });
    this.container.replaceChildren(svg, tip);
  }
}

/** Puts what a bar stands for beside the pointer, within the chart. */
function point(tip, bar, x, width) {
  const lines = [element("b", {}, bar.label), `${number(bar.views)} views`];
  if (bar.users !== undefined) lines.push(element("br"), `${number(bar.users)} users`);
  if (bar.isPartial) lines.push(element("br"), "not over yet");
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const left = x > width / 2 ? x - tip.offsetWidth - 12 : x + 12;
  tip.style.left = `${Math.max(0, left)}px`;
}

/** A round step that divides `most` into four at most, and at least one. */
function tick(most) {
  const rough = Math.max(most / 4, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= rough);
}

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, typeof value === "number" ? value.toFixed(2) : value);
  }
  made.append(...children);
  return made;
}
