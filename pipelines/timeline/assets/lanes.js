// Lanes over the time axis. Each has `element`, `resize(width)`, `draw(view, ticks)`, `recolour()` and `remove()`; lines
// and cells also have `mark(i)`, which shows their values at the current frame, and colours come from the page.
const GUTTER = 78; // px at the left of every lane: names and the vertical axis
const MARGIN = 14; // px at the right
const CHART_HEIGHT = 122;

function make(name, css, ...children) {
  const element = document.createElement(name);
  if (css) element.className = css;
  element.append(...children);
  return element;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Labels, predictions and raw predictions of one continuous column, by uPlot.
class ChartLane {
  constructor(group, column, video) {
    const { columns, frames, gap } = video;
    this.video = video;
    this.series = [
      { key: "raw", colour: "held-out", width: 1, alpha: 0.5, values: columns.get(`raw/${column}`) },
      { key: "label", colour: "selection", width: 1.75, alpha: 1, values: columns.get(`label/${column}`) },
      { key: "predicted", colour: "held-out", width: 2, alpha: 1, values: columns.get(`predicted/${column}`) },
    ].filter((one) => one.values);
    const values = this.series.map((one) => one.values);
    this.data = broken(frames, values, gap);
    this.levels = [group.low, (group.low + group.high) / 2, group.high];
    this.range = rangeOf(group, values);
    this.ticks = [];
    this.view = [0, 1];
    this.dots = this.series.map((one) => make("div", `dot dot-${one.key}`));
    this.element = make("div", "lane chart-lane", ...this.dots);
  }

  resize(width) {
    if (this.plot) this.plot.setSize({ width, height: CHART_HEIGHT });
    else this.plot = new uPlot(this.options(width), this.data, this.element);
  }

  options(width) {
    const grid = { stroke: () => colour("line"), width: 1 };
    const font = "12px system-ui, sans-serif";
    return {
      width,
      height: CHART_HEIGHT,
      padding: [8, MARGIN, 8, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, range: () => this.view }, y: { range: this.range } },
      hooks: { drawClear: [(plot) => shadeGaps(plot.ctx, this.video.gaps, this.view, plot.bbox)] },
      axes: [
        { size: 0, splits: () => this.ticks, values: () => [], ticks: { show: false }, grid },
        { size: GUTTER, gap: 6, font, stroke: () => colour("muted"), ticks: { show: false }, grid,
          splits: () => this.levels, values: () => this.levels.map(shortNumber) },
      ],
      series: [{}, ...this.series.map(lineOf)],
    };
  }

  show(key, isShown) {
    this.series.forEach((one, index) => {
      if (one.key !== key) return;
      this.plot.setSeries(index + 1, { show: isShown });
      this.dots[index].hidden = !isShown;
    });
  }

  draw(view, ticks) {
    this.view = view;
    this.ticks = ticks;
    this.plot.setScale("x", { min: view[0], max: view[1] });
  }

  mark(i) {
    const left = GUTTER + this.plot.valToPos(this.video.frames[i], "x");
    this.series.forEach((one, index) => {
      const top = 8 + this.plot.valToPos(one.values[i], "y");
      const isThere = left >= GUTTER && left <= this.plot.width - MARGIN && !Number.isNaN(top);
      this.dots[index].style.transform = isThere ? `translate(${left}px, ${top}px)` : "translate(-100px, 0)";
    });
  }

  recolour() {
    this.plot.redraw(false, true);
  }

  remove() {
    this.plot?.destroy();
  }
}

function lineOf(one) {
  const ink = () => colour(one.colour);
  const points = { show: () => false, filter: lone, size: one.width + 1.5, fill: ink, width: 0 };
  return { stroke: ink, width: one.width, alpha: one.alpha, spanGaps: false, points };
}

// Values between two gaps: a line does not show them.
function lone(plot, index) {
  const y = plot.data[index];
  const [first, last] = plot.series[index].idxs ?? [0, -1];
  const found = [];
  for (let i = first; i <= last; i++) if (y[i] != null && y[i - 1] == null && y[i + 1] == null) found.push(i);
  return found.length ? found : null;
}

// uPlot's data with a null wherever frame numbers step by more than `gap`, and where there is no value.
function broken(frames, values, gap) {
  const x = [];
  const lines = values.map(() => []);
  for (let i = 0; i < frames.length; i++) {
    if (i > 0 && frames[i] - frames[i - 1] > gap) {
      x.push((frames[i] + frames[i - 1]) / 2);
      for (const line of lines) line.push(null);
    }
    x.push(frames[i]);
    for (let k = 0; k < lines.length; k++) lines[k].push(Number.isNaN(values[k][i]) ? null : values[k][i]);
  }
  return [x, ...lines];
}

// The group's range, or where values go beyond it theirs, with a little room.
function rangeOf(group, values) {
  let { low, high } = group;
  for (const each of values) {
    for (const value of each) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  const room = 0.04 * (high - low);
  return [low - room, high + room];
}

function shortNumber(value) {
  return String(Number(value.toFixed(2))).replace("-", "−");
}

const LEAST_GAP = 2; // px: narrower ones are not to be seen

// Where a view has no frames: hatched, from the top to the bottom of a lane. All in canvas pixels.
function shadeGaps(context, gaps, [first, last], { left, top, width, height }) {
  context.fillStyle = hatch(context);
  const scale = width / (last - first);
  for (const [start, end] of gaps) {
    if (end <= first || start >= last || (end - start) * scale < LEAST_GAP) continue;
    const from = Math.max(0, (start - first) * scale);
    context.fillRect(left + from, top, Math.min(width, (end - first) * scale) - from, height);
  }
}

function hatch(context) {
  const size = 6 * (window.devicePixelRatio || 1);
  const tile = make("canvas");
  tile.width = tile.height = size;
  const lines = tile.getContext("2d");
  lines.strokeStyle = colour("gap");
  lines.lineWidth = size / 5;
  for (const shift of [-size, 0, size]) {
    lines.moveTo(shift - 1, size + 1);
    lines.lineTo(shift + size + 1, -1);
  }
  lines.stroke();
  return context.createPattern(tile, "repeat");
}

// Frame numbers below the lanes.
class AxisLane {
  constructor() {
    this.element = make("div", "lane axis-lane");
    this.element.setAttribute("aria-hidden", "true");
  }

  resize(width) {
    this.width = width - GUTTER - MARGIN;
  }

  draw([first, last], ticks) {
    const marks = ticks.map((tick) => {
      const mark = make("span", "tick", tick.toLocaleString("en"));
      const left = (this.width * (tick - first)) / (last - first);
      mark.style.left = `${GUTTER + left}px`;
      if (this.width - left < 24) mark.classList.add("at-end");
      return mark;
    });
    this.element.replaceChildren(make("span", "axis-name", "frame"), ...marks);
  }

  show() {}

  mark() {}

  recolour() {}

  remove() {}
}
