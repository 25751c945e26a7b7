// The explorer: a video chooser, lanes over one time axis, the face and the values of the current frame.
const PARTS = { select: "selection", report: "held out", "": "" };
const LINES = [["predicted", "predicted"], ["raw", "raw, before smoothing"], ["label", "labelled"]];
const MOST_CHARTS = 4; // columns of a continuous group that are drawn as lines; more are a heat map

class Explorer {
  constructor(root) {
    this.root = root;
    this.index = JSON.parse(root.querySelector(".timeline-index").textContent);
    this.data = [...root.querySelectorAll(".timeline-data")];
    this.lanes = [];
    this.view = [0, 1];
    this.at = 0;
    this.hidden = new Set();
    this.build();
    this.list(this.index.videos.map((_, k) => k));
    this.choose(0);
  }

  build() {
    this.filter = make("input");
    this.filter.type = "search";
    this.filter.placeholder = "part of a name";
    this.select = make("select");
    this.found = make("span", "muted");
    this.found.setAttribute("role", "status");
    this.previous = this.button("Previous", () => this.step(-1), "Previous video");
    this.next = this.button("Next", () => this.step(1), "Next video");
    this.many = this.index.videos.length > 1;
    const filter = make("label", "", "Filter videos", this.filter);
    const video = make("label", "video-label", "Video", this.select);
    const chooser = make("div", "chooser", ...(this.many ? [filter, video, this.previous, this.next, this.found] : [video]));
    this.lines = make("div", "choices");
    this.stack = make("div", "lane-stack");
    this.stack.tabIndex = 0;
    this.stack.setAttribute("role", "slider");
    this.stack.setAttribute("aria-label", "Frame of the video");
    this.cursor = make("div", "time-cursor");
    this.selection = make("div", "zoom-selection");
    this.selection.hidden = true;
    const zoom = make("div", "zoom",
      this.button("−", () => this.zoom(2), "Zoom out"), this.button("+", () => this.zoom(0.5), "Zoom in"),
      this.button("◀", () => this.pan(-0.5), "Earlier"), this.button("▶", () => this.pan(0.5), "Later"),
      this.button("Whole video", () => this.showAll(), "Show the whole video"));
    this.bar = make("div", "bar", this.lines, zoom);
    this.help = make("p", "muted help",
      "Keys: ← → one frame, with Shift ten; Home, End; + − zoom, 0 whole video. Mouse: point at a frame, drag to zoom, " +
      "double-click for the whole video.");
    this.face = make("div", "face");
    this.side = make("div", "side", this.face);
    this.message = make("p", "message");
    this.message.setAttribute("role", "alert");
    const left = make("div", "left", this.bar, this.stack, this.help);
    this.body = make("div", "explorer-body", left, this.side);
    this.root.append(chooser, this.message, this.body);
    this.listen();
  }

  button(text, act, name) {
    const button = make("button", "", text);
    button.type = "button";
    button.title = name;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", act);
    return button;
  }

  listen() {
    this.filter.addEventListener("input", () => this.applyFilter());
    this.filter.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "ArrowDown") return;
      event.preventDefault();
      this.select.focus();
    });
    this.select.addEventListener("change", () => this.choose(Number(this.select.value)));
    this.stack.addEventListener("keydown", (event) => this.onKey(event));
    listenToPointer(this);
    new ResizeObserver(() => this.resize()).observe(this.stack);
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.lanes.forEach((lane) => lane.recolour()));
  }

  // The options of the chooser; without the chosen video among them the first one is chosen.
  list(shown) {
    const options = shown.map((k) => {
      const { name, frames, part } = this.index.videos[k];
      const more = [`${frames.toLocaleString("en")} frames`, PARTS[part] ?? part].filter(Boolean).join(", ");
      const option = make("option", "", `${name} (${more})`);
      option.value = String(k);
      return option;
    });
    this.select.replaceChildren(...options);
    const total = this.index.videos.length;
    this.found.textContent = shown.length === total ? `${total} videos` : `${shown.length} of ${total} videos`;
    this.select.disabled = !shown.length;
  }

  applyFilter() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = ({ name, part }) => words.every((word) => `${name} ${PARTS[part] ?? part}`.toLowerCase().includes(word));
    const shown = this.index.videos.map((_, k) => k).filter((k) => fits(this.index.videos[k]));
    this.list(shown);
    if (shown.includes(this.chosen)) this.select.value = String(this.chosen);
    else if (shown.length) this.choose(shown[0]);
    this.updateButtons();
  }

  step(by) {
    const place = this.select.selectedIndex + by;
    if (place >= 0 && place < this.select.options.length) this.choose(Number(this.select.options[place].value));
  }

  updateButtons() {
    this.previous.disabled = this.select.selectedIndex <= 0;
    this.next.disabled = this.select.selectedIndex >= this.select.options.length - 1;
  }

  async choose(k) {
    this.chosen = k;
    this.select.value = String(k);
    this.updateButtons();
    try {
      const text = this.data.length ? this.data[k].textContent : await sidecar(this.index.urls[k]);
      const { columns, faces } = await unpack(text);
      if (this.chosen === k) this.showVideo(this.index.videos[k], columns, faces);
    } catch (error) {
      if (this.chosen === k) this.fail(error);
    }
  }

  fail(error) {
    this.message.textContent = `This video cannot be shown: ${error.message}.`;
    this.body.hidden = true;
    this.root.dataset.ready = "failed";
  }

  showVideo(entry, columns, faces) {
    const frames = columns.get("frame");
    this.message.textContent = frames.length ? "" : "This video has no frames.";
    this.body.hidden = !frames.length;
    if (!frames.length) return;
    this.video = { ...entry, count: frames.length, columns, faces, frames, cells: cellsOf(frames, entry.gap) };
    this.lanes.forEach((lane) => lane.remove());
    this.lanes = lanesOf(this.index.groups, this.video);
    this.stack.replaceChildren(...this.lanes.flatMap((lane) => lane.parts ?? [lane.element]), this.cursor, this.selection);
    this.readout = new Readout(this.index.groups, this.video);
    this.side.replaceChildren(...(faces ? [this.face] : []), this.readout.element);
    this.buildLines();
    this.resize();
    this.showAll();
    this.go(0);
    this.root.dataset.ready = String(this.chosen);
  }

  buildLines() {
    const there = LINES.filter(([key]) => this.lanes.some((lane) => lane.series?.some((one) => one.key === key)));
    const labels = there.map(([key, word]) => {
      const box = make("input");
      box.type = "checkbox";
      box.checked = !this.hidden.has(key);
      box.addEventListener("change", () => {
        if (box.checked) this.hidden.delete(key);
        else this.hidden.add(key);
        this.lanes.forEach((lane) => lane.show(key, box.checked));
      });
      const text = key === "predicted" && this.video.smoothed ? "predicted, smoothed" : word;
      return make("label", `line-choice line-${key}`, box, make("span", "line-sample"), text);
    });
    this.lines.replaceChildren(...labels);
  }

  resize() {
    const width = this.stack.clientWidth;
    if (!this.video || !width || (width === this.width && this.sized === this.lanes)) return;
    this.width = width;
    this.sized = this.lanes;
    this.lanes.forEach((lane) => lane.resize(width));
    for (const key of this.hidden) this.lanes.forEach((lane) => lane.show(key, false));
    this.draw();
  }

  get plotWidth() {
    return this.width - GUTTER - MARGIN;
  }

  // Draws at most once between two pictures of the screen.
  draw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      const ticks = ticksOf(this.view, this.plotWidth / 90);
      this.lanes.forEach((lane) => lane.draw(this.view, ticks));
      this.placeCursor();
    });
  }

  get bounds() {
    const { starts, ends } = this.video.cells;
    const room = Math.max(0, NARROWEST - (ends.at(-1) - starts[0])) / 2;
    return [starts[0] - room, ends.at(-1) + room];
  }

  setView(first, last) {
    const [low, high] = this.bounds;
    const width = Math.min(Math.max(last - first, NARROWEST), high - low);
    const start = Math.min(Math.max(first, low), high - width);
    this.view = [start, start + width];
    this.draw();
  }

  showAll() {
    this.setView(...this.bounds);
  }

  // Scales the view around the current frame where it is in sight, else around its middle.
  zoom(by, around) {
    const [first, last] = this.view;
    const frame = this.video.frames[this.at];
    const middle = around ?? (frame >= first && frame <= last ? frame : (first + last) / 2);
    this.setView(middle - (middle - first) * by, middle + (last - middle) * by);
  }

  pan(by) {
    const [first, last] = this.view;
    this.setView(first + by * (last - first), last + by * (last - first));
  }

  // Makes the row `at` the current frame, and brings it into sight.
  go(at) {
    this.at = Math.min(Math.max(at, 0), this.video.count - 1);
    const frame = this.video.frames[this.at];
    const [first, last] = this.view;
    if (frame < first || frame > last) this.setView(frame - (last - first) / 2, frame + (last - first) / 2);
    this.readout.show(this.at);
    this.placeCursor();
    this.showFace();
    this.stack.setAttribute("aria-valuemin", this.video.frames[0]);
    this.stack.setAttribute("aria-valuemax", this.video.frames.at(-1));
    this.stack.setAttribute("aria-valuenow", frame);
    this.stack.setAttribute("aria-valuetext", this.readout.sentence(this.index.groups, this.at));
  }

  placeCursor() {
    const [first, last] = this.view;
    const share = (this.video.frames[this.at] - first) / (last - first);
    this.cursor.hidden = share < 0 || share > 1;
    this.cursor.style.left = `${GUTTER + share * this.plotWidth}px`;
  }

  showFace() {
    if (this.video.faces) showFace(this.face, this.video.faces[this.at], this.video.frames[this.at]);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = event.shiftKey ? 10 : 1;
    const acts = {
      ArrowLeft: () => this.go(this.at - by), ArrowRight: () => this.go(this.at + by),
      ArrowDown: () => this.go(this.at - by), ArrowUp: () => this.go(this.at + by),
      PageDown: () => this.go(this.at - 100), PageUp: () => this.go(this.at + 100),
      Home: () => this.go(0), End: () => this.go(this.video.count - 1),
      "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), 0: () => this.showAll(),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }
}

// The lanes of a video: lines, ribbons and heat maps of each group in the schema's order, then the axis.
function lanesOf(groups, video) {
  const has = (kind, name) => video.columns.has(`${kind}/${name}`);
  const lanes = [];
  for (const group of groups) {
    const columns = group.columns.filter((name) => has("predicted", name) || has("label", name));
    if (!columns.length) continue;
    if (group.kind === "continuous" && columns.length <= MOST_CHARTS) {
      for (const name of columns) lanes.push(titled(new ChartLane(group, name, video), [name]));
    } else if (group.kind === "classes") {
      lanes.push(titled(ribbonLane(group, columns[0], video), [columns[0], ...legendOf(group)]));
    } else {
      lanes.push(titled(heatLane(group, columns, video), [group.title, ...heatLegend(group, columns, video)]));
    }
  }
  const valid = video.columns.get("valid");
  if (valid?.includes(0)) lanes.push(new CellLane([missingRow(valid)], video));
  return [...lanes, new AxisLane()];
}

function titled(lane, words) {
  lane.parts = [make("div", "lane-title", ...words), lane.element];
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
    const values = video.columns.get(`${isBinary ? "p" : "predicted"}/${name}`) ?? video.columns.get(`predicted/${name}`);
    return heatRow(name, low, high, values, video.columns.get(`label/${name}`), isBinary);
  });
  return new CellLane(rows, video);
}

function legendOf(group) {
  return group.classes.map((name, k) => {
    const chip = make("span", "chip");
    chip.style.background = group.colours[k];
    return make("span", "legend", chip, name);
  });
}

function heatLegend(group, columns, video) {
  const isBinary = group.kind === "binary";
  const ends = isBinary ? ["0", "1"] : [shortNumber(group.low), shortNumber(group.high)];
  const what = isBinary ? "predicted probability" : "predicted value";
  const parts = [make("span", "legend", `${what} ${ends[0]}`, make("span", "ramp"), ends[1])];
  if (columns.some((name) => video.columns.has(`label/${name}`))) {
    const words = isBinary ? "labelled present, below it" : "labelled value, below it";
    parts.push(make("span", "legend", make("span", isBinary ? "label-mark" : "ramp"), words));
  }
  return parts;
}

// A picture beside the page. An address that would lead elsewhere, or is a script, is not asked for.
function showFace(place, address, frame) {
  const note = (text) => place.replaceChildren(make("p", "muted", text));
  if (!address) return note("no face in this frame");
  const url = new URL(address, document.baseURI);
  if (url.protocol !== location.protocol || url.host !== location.host) return note("no face beside this page");
  let image = place.querySelector("img");
  if (!image) {
    image = make("img");
    place.replaceChildren(image, make("p", "muted"));
  }
  image.alt = `Face of frame ${frame.toLocaleString("en")}`;
  const path = decodeURIComponent(address.replace(/^\.\//, ""));
  image.onerror = () => note(`The face is not there: ${path}`);
  image.onload = () => { place.querySelector("p").textContent = ""; };
  image.src = url.href;
}

// Moves of the pointer over the lanes: hovering shows a frame, dragging zooms, Ctrl and wheel zoom, Shift and wheel pan.
function listenToPointer(explorer) {
  const { stack, selection } = explorer;
  const frameAt = (event) => {
    const share = (event.clientX - stack.getBoundingClientRect().left - GUTTER) / explorer.plotWidth;
    const [first, last] = explorer.view;
    return first + Math.min(Math.max(share, 0), 1) * (last - first);
  };
  let start = null;
  let lastX = null;
  stack.addEventListener("pointerdown", (event) => {
    if (!explorer.video || event.button !== 0) return;
    start = { x: event.clientX, frame: frameAt(event), isTouch: event.pointerType === "touch" };
    explorer.go(nearest(explorer.video.frames, start.frame));
    if (!start.isTouch) stack.setPointerCapture(event.pointerId);
  });
  stack.addEventListener("pointermove", (event) => {
    if (!explorer.video || event.clientX === lastX) return;
    lastX = event.clientX;
    explorer.go(nearest(explorer.video.frames, frameAt(event)));
    if (!start || start.isTouch) return;
    const left = stack.getBoundingClientRect().left;
    const [from, to] = [start.x, event.clientX].sort((a, b) => a - b);
    selection.hidden = to - from < 5;
    selection.style.left = `${Math.max(from - left, GUTTER)}px`;
    selection.style.width = `${to - Math.max(from, left + GUTTER)}px`;
  });
  const end = (event) => {
    const dragged = start && !start.isTouch && !selection.hidden ? [start.frame, frameAt(event)] : null;
    start = null;
    selection.hidden = true;
    if (dragged) explorer.setView(Math.min(...dragged), Math.max(...dragged));
  };
  stack.addEventListener("pointerup", end);
  stack.addEventListener("pointercancel", () => { start = null; selection.hidden = true; });
  stack.addEventListener("dblclick", () => explorer.showAll());
  stack.addEventListener("wheel", (event) => {
    if (!explorer.video) return;
    const turn = event.deltaY || event.deltaX;
    if (event.ctrlKey || event.metaKey) explorer.zoom(2 ** Math.sign(turn), frameAt(event));
    else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) explorer.pan(0.15 * Math.sign(turn));
    else return;
    event.preventDefault();
  }, { passive: false });
}

// The data file of a video, by a script element: pages on a disk may not fetch.
const waiting = new Map();
window.mtlTimelineData = (name, text) => waiting.get(name)?.(text);

function sidecar(url) {
  return new Promise((resolve, reject) => {
    const script = make("script");
    const name = url.slice(url.lastIndexOf("/") + 1);
    waiting.set(name, (text) => { script.remove(); resolve(text); });
    script.onerror = () => reject(new Error(`its data file ${decodeURIComponent(url.replace(/^\.\//, ""))} is not beside this page`));
    script.src = url;
    document.head.append(script);
  });
}

for (const root of document.querySelectorAll(".timeline")) new Explorer(root);
