// Lanes over the time axis. Each has `element`, `resize(width)` and `draw(view, ticks)`; drawing reads the page's colours.
const GUTTER = 78; // px at the left of every lane: names and the vertical axis
const MARGIN = 12; // px at the right
const CHART_HEIGHT = 118;
const ROW = 18;

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
    this.element = make("div", "lane chart-lane");
    this.title = column;
    const { columns, gap } = video;
    const frames = columns.get("frame");
    this.series = [
      { key: "raw", colour: "held-out", width: 1, alpha: 0.45, values: columns.get(`raw/${column}`) },
      { key: "predicted", colour: "held-out", width: 2, alpha: 1, values: columns.get(`predicted/${column}`) },
      { key: "label", colour: "selection", width: 1.75, alpha: 1, values: columns.get(`label/${column}`) },
    ].filter((one) => one.values);
    this.data = broken(frames, this.series.map((one) => one.values), gap);
    this.range = rangeOf(group, this.series.map((one) => one.values));
    this.ticks = [];
    this.view = [0, 1];
  }

  resize(width) {
    if (this.plot) this.plot.setSize({ width, height: CHART_HEIGHT });
    else this.plot = new uPlot(this.options(width), this.data, this.element);
  }

  options(width) {
    const [low, high] = this.range;
    const line = () => colour("line");
    const text = () => colour("muted");
    const font = "12px system-ui, sans-serif";
    const grid = { stroke: line, width: 1 };
    return {
      width,
      height: CHART_HEIGHT,
      padding: [8, MARGIN, 8, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, range: () => this.view }, y: { range: [low, high] } },
      axes: [
        { size: 0, splits: () => this.ticks, values: () => [], ticks: { show: false }, grid },
        { size: GUTTER, stroke: text, font, ticks: { show: false }, grid, splits: levelsOf(low, high), gap: 6,
          values: (_, levels) => levels.map(shortNumber) },
      ],
      series: [
        {},
        ...this.series.map((one) => ({
          stroke: () => colour(one.colour), width: one.width, alpha: one.alpha, spanGaps: false,
          points: { show: () => false, filter: lone, size: one.width + 1, fill: () => colour(one.colour), width: 0 },
        })),
      ],
    };
  }

  show(key, isShown) {
    this.series.forEach((one, index) => {
      if (one.key === key) this.plot.setSeries(index + 1, { show: isShown });
    });
  }

  draw(view, ticks) {
    this.view = view;
    this.ticks = ticks;
    this.plot.setScale("x", { min: view[0], max: view[1] });
  }

  recolour() {
    this.plot.redraw(false, true);
  }

  remove() {
    this.plot?.destroy();
  }
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
  const room = 0.03 * (high - low);
  return [low - room, high + room];
}

function levelsOf(low, high) {
  return () => ticksOf([low, high], 1e9).length > 3 ? ticksOf([low, high], 4) : [low, (low + high) / 2, high];
}

function shortNumber(value) {
  return String(Number(value.toFixed(2))).replace("-", "−");
}

// Rows of coloured cells on a canvas; a row has `name`, `height` and `paint(pixels, from, to, width)`.
class CellLane {
  constructor(rows, video) {
    this.rows = rows;
    this.cells = video.cells;
    this.canvas = make("canvas");
    this.names = rows.map((row) => make("span", "row-name", row.name));
    const names = make("div", "row-names", ...this.names);
    this.element = make("div", "lane cell-lane", names, this.canvas);
    this.height = 0;
    rows.forEach((row, index) => {
      row.top = this.height;
      this.names[index].style.height = `${row.height}px`;
      this.height += row.height;
    });
    this.element.style.height = `${this.height}px`;
  }

  resize(width) {
    this.width = Math.max(width - GUTTER - MARGIN, 10);
    this.scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.width * this.scale);
    this.canvas.height = Math.round(this.height * this.scale);
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${this.height}px`;
  }

  show() {}

  draw(view) {
    this.view = view;
    const pixels = this.canvas.width;
    const context = this.canvas.getContext("2d");
    const { from, to } = framesByPixel(this.cells, view, pixels);
    context.clearRect(0, 0, pixels, this.canvas.height);
    for (const row of this.rows) {
      context.save();
      context.translate(0, row.top * this.scale);
      context.scale(1, this.scale);
      row.paint(context, from, to, pixels, this.scale);
      context.restore();
    }
  }

  recolour() {
    this.draw(this.view);
  }

  remove() {}
}

// Paints runs of pixels of equal colour between `top` and `bottom`; `colourAt(x)` is null where there is nothing.
function paintRuns(context, pixels, top, height, colourAt) {
  let start = 0;
  let current = null;
  for (let x = 0; x <= pixels; x++) {
    const next = x < pixels ? colourAt(x) : null;
    if (next === current) continue;
    if (current !== null) {
      context.fillStyle = current;
      context.fillRect(start, top, x - start, height);
    }
    start = x;
    current = next;
  }
}

// The class that most frames of a pixel have.
function ribbonRow(name, group, values) {
  const counts = new Int32Array(group.classes.length);
  const paint = (context, from, to, pixels, scale) => {
    const classes = new Int16Array(pixels).fill(-1);
    for (let x = 0; x < pixels; x++) {
      counts.fill(0);
      let best = -1;
      for (let i = from[x]; i < to[x]; i++) {
        const value = values[i];
        if (value >= 0 && value < counts.length && (++counts[value] > (best < 0 ? 0 : counts[best]))) best = value;
      }
      classes[x] = best;
    }
    paintRuns(context, pixels, 1, 22, (x) => (classes[x] < 0 ? null : group.colours[classes[x]]));
    writeNames(context, classes, group, scale);
  };
  return { name, height: 25, paint };
}

// Names of classes in runs wide enough for them; readers who do not tell the colours apart read them.
function writeNames(context, classes, group, scale) {
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  for (let start = 0, x = 1; x <= classes.length; x++) {
    if (x < classes.length && classes[x] === classes[start]) continue;
    if (classes[start] >= 0) {
      const name = group.classes[classes[start]];
      const room = (x - start) / scale - 10;
      if (context.measureText(name).width <= room) {
        context.save();
        context.scale(scale, 1);
        context.fillStyle = isLight(group.colours[classes[start]]) ? "#111111" : "#ffffff";
        context.fillText(name, start / scale + 5, 12.5);
        context.restore();
      }
    }
    start = x;
  }
}

function isLight(hex) {
  const [red, green, blue] = [1, 3, 5].map((at) => (Number.parseInt(hex.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18;
}

const LEVELS = 32;

// Mean of a pixel's frames as a shade, and below it the share of frames labelled present, or the labelled value.
function heatRow(name, low, high, values, labels, isBinary) {
  const level = (mean) => Math.max(0, Math.min(LEVELS, Math.round((LEVELS * (mean - low)) / (high - low))));
  const paint = (context, from, to, pixels) => {
    const shades = shadesOf("heat-low", "heat-high");
    const marks = isBinary ? shadesOf("label-low", "label-high") : shades;
    if (values) {
      const shadeAt = (x) => shadeOf(meanOf(values, from[x], to[x]), level, shades);
      paintRuns(context, pixels, 1, labels ? 10 : 15, shadeAt);
    }
    if (labels) {
      const markAt = (x) => shadeOf(meanOf(labels, from[x], to[x]), level, marks);
      paintRuns(context, pixels, values ? 11 : 1, values ? 5 : 15, markAt);
    }
  };
  return { name, height: ROW, paint };
}

function shadeOf(mean, level, shades) {
  return Number.isNaN(mean) ? null : shades[level(mean)];
}

function meanOf(values, from, to) {
  let sum = 0;
  let count = 0;
  for (let i = from; i < to; i++) {
    if (!Number.isNaN(values[i])) {
      sum += values[i];
      count++;
    }
  }
  return count ? sum / count : NaN;
}

function shadesOf(low, high) {
  const ends = [colour(low), colour(high)].map((hex) => [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: LEVELS + 1 }, (_, k) => {
    const mixed = ends[0].map((part, index) => Math.round(part + ((ends[1][index] - part) * k) / LEVELS));
    return `rgb(${mixed.join(",")})`;
  });
}

// Where a frame has no face of its own, or no embedding: its prediction is that of the nearest frame.
function missingRow(valid) {
  const paint = (context, from, to, pixels) => {
    const mark = colour("selection");
    const isMissing = (x) => {
      for (let i = from[x]; i < to[x]; i++) if (valid[i] === 0) return true;
      return false;
    };
    paintRuns(context, pixels, 3, 8, (x) => (isMissing(x) ? mark : null));
  };
  return { name: "no face", height: 16, paint };
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

  show() {}

  draw([first, last], ticks) {
    const marks = ticks.map((tick) => {
      const mark = make("span", "tick", tick.toLocaleString("en"));
      const left = (this.width * (tick - first)) / (last - first);
      mark.style.left = `${GUTTER + left}px`;
      if (this.width - left < 24) mark.classList.add("at-end");
      return mark;
    });
    this.element.replaceChildren(...marks);
  }

  recolour() {}

  remove() {}
}
