// The explorer: a video chooser, lanes over one time axis, the face and the values of the current frame.
const FPS = 30; // of playing where times are not known
const LINES = [["predicted", "predicted"], ["raw", "predicted, raw"], ["label", "labelled"]];
const HELP =
  "Keys on the chart: ← → one frame, with Shift ten; Page up and down a hundred; Home, End; + − zoom, 0 the whole video; " +
  "space plays. Mouse: point at a frame, drag to zoom, double-click for the whole video; wheel with Ctrl zooms, with " +
  "Shift moves along.";

class Explorer {
  constructor(root) {
    this.root = root;
    this.index = JSON.parse(root.querySelector(".timeline-index").textContent);
    this.data = [...root.querySelectorAll(".timeline-data")];
    this.lanes = [];
    this.view = [0, 1];
    this.at = 0;
    this.off = new Set(); // kinds of lines that are not shown
    this.lined = new Map(); // of groups of many columns the one that is drawn as a line
    this.build();
    this.listen();
    this.chooser.go(0);
  }

  build() {
    this.chooser = new Chooser(this.index.videos, (k) => this.choose(k));
    this.message = make("p", "message");
    this.message.setAttribute("role", "alert");
    this.lines = make("div", "choices");
    this.picks = make("div", "choices");
    this.playing = button("Play", "Play or stop", () => this.play(!this.timer));
    const zoom = make("div", "zoom", this.playing,
      button("−", "Zoom out", () => this.zoom(2)), button("+", "Zoom in", () => this.zoom(0.5)),
      button("‹", "Earlier frames", () => this.pan(-0.5)), button("›", "Later frames", () => this.pan(0.5)),
      button("All", "All of the video", () => this.showAll()));
    this.cursor = make("div", "time-cursor");
    this.selection = make("div", "zoom-selection");
    this.selection.hidden = true;
    this.stack = make("div", "lane-stack");
    this.stack.tabIndex = 0;
    this.stack.setAttribute("role", "slider");
    this.stack.setAttribute("aria-label", "Current frame");
    const left = make("div", "left", make("div", "bar", this.lines, this.picks, zoom), this.stack, make("p", "muted help", HELP));
    this.face = new Face();
    this.side = make("div", "side");
    this.body = make("div", "explorer-body", left, this.side);
    this.body.hidden = true;
    this.root.append(this.chooser.element, this.message, this.body);
  }

  listen() {
    listenToPointer(this);
    this.stack.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.resize()).observe(this.stack);
    for (const query of ["(prefers-color-scheme: dark)", "print"]) {
      window.matchMedia(query).addEventListener("change", () => this.recolour());
    }
  }

  async choose(k) {
    this.play(false);
    try {
      const text = this.data.length ? this.data[k].textContent : await sidecar(this.index.urls[k]);
      const found = await unpack(text);
      if (this.chooser.chosen === k) this.showVideo(this.index.videos[k], found);
    } catch (error) {
      if (this.chooser.chosen === k) this.say(`This video cannot be shown: ${error.message}.`);
    }
    if (this.chooser.chosen === k) this.root.dataset.ready = String(k);
  }

  // Shows words in place of a video; none where there is one.
  say(text) {
    this.message.textContent = text;
    this.body.hidden = text !== "";
  }

  showVideo(entry, { columns, faces }) {
    const frames = columns.get("frame");
    const hasValues = this.index.groups.some((group) => columnsOf(group, { columns }).length);
    this.say(hasValues ? "" : "This video has neither predictions nor labels: no face was found in it.");
    if (!hasValues) return;
    const cells = cellsOf(frames, entry.gap);
    this.video = { ...entry, columns, faces, frames, cells, gaps: gapsOf(cells) };
    this.readout = new Readout(this.index.groups, this.video);
    this.face.clear();
    const head = make("div", "frame-head", ...(faces ? [this.face.element] : []), this.readout.heading);
    this.side.replaceChildren(head, this.readout.table);
    this.view = this.bounds;
    this.picks.replaceChildren(...this.columnChoices());
    this.layLanes();
    this.go(0);
  }

  layLanes() {
    this.lanes.forEach((lane) => lane.remove());
    this.lanes = lanesOf(this.index.groups, this.video, this.lined);
    const parts = this.lanes.flatMap((lane) => (lane.title ? [lane.title, lane.element] : [lane.element]));
    this.stack.replaceChildren(...parts, this.cursor, this.selection);
    this.lines.replaceChildren(...this.lineChoices());
    this.resize();
  }

  columnChoices() {
    const many = this.index.groups.filter((one) => one.kind === "continuous" && isMany(columnsOf(one, this.video)));
    return many.map((group) => {
      const list = make("select", "", ...columnsOf(group, this.video).map((name) => make("option", "", name)));
      list.setAttribute("aria-label", `Line of ${group.title}`);
      list.value = this.lined.get(group.title) ?? list.options[0].value;
      list.addEventListener("change", () => {
        this.lined.set(group.title, list.value);
        this.layLanes();
      });
      return make("label", "", make("span", "", "Line of"), list);
    });
  }

  lineChoices() {
    const isThere = (key) => this.lanes.some((lane) => lane.series?.some((one) => one.key === key));
    const choices = LINES.filter(([key]) => isThere(key)).map(([key, word]) => {
      const box = make("input");
      box.type = "checkbox";
      box.checked = !this.off.has(key);
      box.addEventListener("change", () => {
        if (box.checked) this.off.delete(key);
        else this.off.add(key);
        this.lanes.forEach((lane) => lane.show(key, box.checked));
      });
      const text = key === "predicted" && this.video.smoothed ? "predicted, smoothed" : word;
      return make("label", `line-${key}`, box, make("span", "line-sample"), text);
    });
    const gap = make("span", "legend", make("span", "chip gap-chip"), "no frames");
    return this.video.gaps.length ? [...choices, gap] : choices;
  }

  resize() {
    const width = this.stack.clientWidth;
    if (!this.video || !width || (width === this.width && this.sized === this.lanes)) return;
    this.width = width;
    this.lanes.forEach((lane) => lane.resize(width));
    for (const key of this.off) this.lanes.forEach((lane) => lane.show(key, false));
    this.sized = this.lanes;
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
      if (this.sized !== this.lanes) return;
      const ticks = ticksOf(this.view, this.plotWidth / 75);
      this.lanes.forEach((lane) => lane.draw(this.view, ticks));
      queueMicrotask(() => this.placeCursor()); // uPlot draws in a microtask, too
    });
  }

  recolour() {
    if (this.sized === this.lanes) this.lanes.forEach((lane) => lane.recolour());
  }

  get bounds() {
    const { starts, ends } = this.video.cells;
    const room = Math.max(0, NARROWEST - (ends.at(-1) - starts[0])) / 2;
    return [starts[0] - room, ends.at(-1) + room];
  }

  setView(first, last) {
    const [low, high] = this.bounds;
    const width = Math.min(Math.max(last - first, NARROWEST), high - low);
    const start = Math.min(Math.max((first + last - width) / 2, low), high - width);
    this.view = [start, start + width];
    this.draw();
  }

  showAll() {
    this.setView(...this.bounds);
  }

  // Scales the view around a frame: by default the current one where it is in sight, else the middle.
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
    const { frames, faces } = this.video;
    this.at = Math.min(Math.max(at, 0), frames.length - 1);
    const frame = frames[this.at];
    const [first, last] = this.view;
    if (frame < first || frame > last) this.setView(frame - (last - first) / 2, frame + (last - first) / 2);
    this.readout.show(this.at);
    this.placeCursor();
    if (faces) this.face.show(faces[this.at], frame);
    this.stack.setAttribute("aria-valuemin", frames[0]);
    this.stack.setAttribute("aria-valuemax", frames.at(-1));
    this.stack.setAttribute("aria-valuenow", frame);
    this.stack.setAttribute("aria-valuetext", this.readout.sentence(this.at));
  }

  placeCursor() {
    if (this.sized !== this.lanes) return;
    const [first, last] = this.view;
    const share = (this.video.frames[this.at] - first) / (last - first);
    this.cursor.hidden = share < 0 || share > 1;
    this.cursor.style.left = `${GUTTER + share * this.plotWidth}px`;
    this.lanes.forEach((lane) => lane.mark(this.at));
  }

  // Plays from the current frame in real time, over gaps too.
  play(isOn) {
    cancelAnimationFrame(this.timer);
    this.timer = 0;
    this.playing.textContent = isOn ? "Stop" : "Play";
    if (!isOn) return;
    const { frames, columns } = this.video;
    const seconds = columns.get("time") ?? frames.map((frame) => frame / FPS);
    const from = this.at < frames.length - 1 ? this.at : 0;
    const begin = performance.now() / 1000 - seconds[from];
    const step = (now) => {
      this.go(Math.max(lowerBound(seconds, now / 1000 - begin), from));
      if (this.at < frames.length - 1) this.timer = requestAnimationFrame(step);
      else this.play(false);
    };
    this.timer = requestAnimationFrame(step);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = this.keys(event.shiftKey ? 10 : 1)[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  keys(by) {
    const step = (rows) => () => this.go(this.at + rows);
    return {
      ArrowLeft: step(-by), ArrowRight: step(by), ArrowDown: step(-by), ArrowUp: step(by),
      PageDown: step(-100), PageUp: step(100), Home: () => this.go(0), End: () => this.go(this.video.frames.length - 1),
      "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), 0: () => this.showAll(),
      " ": () => this.play(!this.timer),
    };
  }
}

// The data file of a video, by a script element: pages on a disk may not fetch.
const waiting = new Map();
window.mtlTimelineData = (name, text) => waiting.get(name)?.(text);

function sidecar(url) {
  return new Promise((resolve, reject) => {
    const script = make("script");
    const file = decodeURIComponent(url.replace(/^\.\//, ""));
    waiting.set(file.slice(file.lastIndexOf("/") + 1), resolve);
    script.onerror = () => reject(new Error(`its data file ${file} is not beside this page`));
    script.onload = () => script.remove();
    script.src = url;
    document.head.append(script);
  });
}

for (const root of document.querySelectorAll(".timeline")) new Explorer(root);
