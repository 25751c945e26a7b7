// Ribbons and heat maps: rows of coloured cells on a canvas. A row has `name`, `height` and `paint(context, from, to,
// pixels, scale)`, where the frames [from[x], to[x]) are those of pixel x.
const LEVELS = 32; // shades of a heat map
const MOST_CHARTS = 4; // columns of a continuous group that are all drawn as lines; more are a heat map and one line
const MOST_CHIPS = 10; // classes whose colours are all explained

class CellLane {
  constructor(rows, video) {
    this.rows = rows;
    this.video = video;
    this.canvas = make("canvas");
    this.height = 0;
    const names = rows.map((row) => {
      const name = make("span", "row-name", row.name);
      name.title = row.name;
      name.style.lineHeight = `${row.height}px`;
      row.top = this.height;
      this.height += row.height;
      return name;
    });
    this.element = make("div", "lane cell-lane", make("div", "row-names", ...names), this.canvas);
    this.element.style.height = `${this.height}px`;
  }

  resize(width) {
    const inside = Math.max(width - GUTTER - MARGIN, 10);
    this.scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(inside * this.scale);
    this.canvas.height = Math.round(this.height * this.scale);
    this.canvas.style.width = `${inside}px`;
    this.canvas.style.height = `${this.height}px`;
  }

  draw(view) {
    this.view = view;
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    const { from, to } = framesByPixel(this.video.cells, view, width);
    context.clearRect(0, 0, width, height);
    shadeGaps(context, this.video.gaps, view, { left: 0, top: 0, width, height });
    for (const row of this.rows) {
      context.setTransform(1, 0, 0, this.scale, 0, row.top * this.scale);
      row.paint(context, from, to, width, this.scale);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  show() {}

  mark() {}

  recolour() {
    this.draw(this.view);
  }

  remove() {}
}

// Paints runs of pixels of equal colour; `colourAt(x)` is null where there is nothing.
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

function ribbonRow(name, group, values) {
  const paint = (context, from, to, pixels, scale) => {
    const classes = commonest(values, from, to, group.classes.length);
    paintRuns(context, pixels, 1, 22, (x) => (classes[x] < 0 ? null : group.colours[classes[x]]));
    writeNames(context, classes, group, scale);
  };
  return { name, height: 25, paint };
}

// The class that most frames of each pixel have; -1 for none.
function commonest(values, from, to, numClasses) {
  const counts = new Int32Array(numClasses);
  return Int16Array.from(from, (start, x) => {
    counts.fill(0);
    let best = -1;
    for (let i = start; i < to[x]; i++) {
      const value = values[i];
      if (value < numClasses && ++counts[value] > (best < 0 ? 0 : counts[best])) best = value;
    }
    return best;
  });
}

// Names of classes in runs wide enough for them: readers who do not tell the colours apart read them.
function writeNames(context, classes, group, scale) {
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.scale(scale, 1);
  for (let start = 0, x = 1; x <= classes.length; x++) {
    if (x < classes.length && classes[x] === classes[start]) continue;
    if (classes[start] >= 0) {
      const name = group.classes[classes[start]];
      if (context.measureText(name).width <= (x - start) / scale - 10) {
        context.fillStyle = isLight(group.colours[classes[start]]) ? "#111111" : "#ffffff";
        context.fillText(name, start / scale + 5, 12.5);
      }
    }
    start = x;
  }
}

function partsOf(hex) {
  return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
}

function isLight(hex) {
  const [red, green, blue] = partsOf(hex).map((part) => (part / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18;
}

// The mean of a pixel's frames as a shade; below it the share of frames labelled present, or the mean label.
function heatRow(name, low, high, values, labels, isBinary) {
  const level = (mean) => Math.max(0, Math.min(LEVELS, Math.round((LEVELS * (mean - low)) / (high - low))));
  const painter = (column, from, to, shades) => (x) => {
    const mean = meanOf(column, from[x], to[x]);
    return Number.isNaN(mean) ? null : shades[level(mean)];
  };
  const paint = (context, from, to, pixels) => {
    const shades = shadesOf("heat-low", "heat-high");
    const marks = isBinary ? shadesOf("label-low", "label-high") : shades;
    if (values) paintRuns(context, pixels, 1, labels ? 10 : 15, painter(values, from, to, shades));
    if (labels) paintRuns(context, pixels, values ? 11 : 1, values ? 5 : 15, painter(labels, from, to, marks));
  };
  return { name, height: 18, paint };
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
  const [from, to] = [partsOf(colour(low)), partsOf(colour(high))];
  return Array.from({ length: LEVELS + 1 }, (_, k) => {
    const mixed = from.map((part, index) => Math.round(part + ((to[index] - part) * k) / LEVELS));
    return `rgb(${mixed.join(",")})`;
  });
}

// Where a frame has no embedding of its own: its prediction is that of the nearest frame.
function missingRow(valid) {
  const paint = (context, from, to, pixels) => {
    const mark = colour("selection");
    paintRuns(context, pixels, 3, 8, (x) => (valid.subarray(from[x], to[x]).includes(0) ? mark : null));
  };
  return { name: "no face", height: 14, paint };
}

// The lanes of a video: lines, ribbons and heat maps of each group in the schema's order, then the axis. Of a group of
// many continuous columns one is drawn as a line too: `lined` has its name by the group's title.
function lanesOf(groups, video, lined) {
  const lanes = [];
  for (const group of groups) {
    const columns = columnsOf(group, video);
    if (!columns.length) continue;
    if (group.kind === "classes") {
      lanes.push(titled(ribbonLane(group, columns[0], video), columns[0], ...classLegend(group, columns[0], video)));
      continue;
    }
    const isContinuous = group.kind === "continuous";
    const lines = !isContinuous ? [] : isMany(columns) ? [lined.get(group.title) ?? columns[0]] : columns;
    for (const name of lines) lanes.push(titled(new ChartLane(group, name, video), name));
    if (isContinuous && !isMany(columns)) continue;
    lanes.push(titled(heatLane(group, columns, video), group.title, ...heatLegend(group, columns, video)));
  }
  const valid = video.columns.get("valid");
  if (valid?.includes(0)) lanes.push(new CellLane([missingRow(valid)], video));
  return [...lanes, new AxisLane()];
}

function isMany(columns) {
  return columns.length > MOST_CHARTS;
}

// The columns of a group that the video has predictions or labels of.
function columnsOf(group, { columns }) {
  return group.columns.filter((name) => columns.has(`predicted/${name}`) || columns.has(`label/${name}`));
}

function titled(lane, name, ...legend) {
  lane.title = make("div", "lane-title", make("b", "", name), ...legend);
  return lane;
}

function ribbonLane(group, column, video) {
  const kinds = [["predicted", "predicted"], ["label", "labelled"]];
  const rows = kinds
    .filter(([kind]) => video.columns.has(`${kind}/${column}`))
    .map(([kind, word]) => ribbonRow(word, group, video.columns.get(`${kind}/${column}`)));
  return new CellLane(rows, video);
}

function heatLane(group, columns, video) {
  const isBinary = group.kind === "binary";
  const [low, high] = isBinary ? [0, 1] : [group.low, group.high];
  const rows = columns.map((name) => {
    const decided = video.columns.get(`predicted/${name}`);
    const values = (isBinary && video.columns.get(`p/${name}`)) || decided;
    return heatRow(name, low, high, values, video.columns.get(`label/${name}`), isBinary);
  });
  return new CellLane(rows, video);
}

// All classes, or of many those that occur.
function classLegend(group, column, { columns }) {
  const sources = [columns.get(`predicted/${column}`), columns.get(`label/${column}`)];
  const isShown = (k) => group.classes.length <= MOST_CHIPS || sources.some((values) => values?.includes(k));
  return group.classes.flatMap((name, k) => {
    const chip = make("span", "chip");
    chip.style.background = group.colours[k];
    return isShown(k) ? [make("span", "legend", chip, name)] : [];
  });
}

function heatLegend(group, columns, video) {
  const isBinary = group.kind === "binary";
  const [low, high] = isBinary ? ["0", "1"] : [shortNumber(group.low), shortNumber(group.high)];
  const what = isBinary ? "predicted probability" : "predicted value";
  const parts = [make("span", "legend", `${what} ${low}`, make("span", "ramp"), high)];
  if (columns.some((name) => video.columns.has(`label/${name}`))) {
    const [present, absent] = [make("span", "label-mark"), make("span", "label-mark absent")];
    parts.push(isBinary
      ? make("span", "legend", "below it labelled: ", present, "present", absent, "absent")
      : make("span", "legend", "below it the labelled value"));
  }
  return parts;
}
