// Chooses a video: a field that filters by parts of names, a list, and buttons for the neighbours in it.
const PARTS = new Map([["select", "selection"], ["report", "held out"]]);

class Chooser {
  constructor(videos, choose) {
    this.videos = videos;
    this.choose = choose;
    this.select = make("select");
    this.filter = make("input");
    this.filter.type = "search";
    this.filter.placeholder = "part of a name";
    this.filter.setAttribute("aria-label", "Filter videos");
    this.select.setAttribute("aria-label", "Video"); // a label around a list would be read with its choice
    this.found = make("span", "muted");
    this.found.setAttribute("role", "status");
    this.previous = button("Previous", "Previous video", () => this.step(-1));
    this.next = button("Next", "Next video", () => this.step(1));
    const filter = make("label", "", make("span", "", "Filter"), this.filter);
    const video = make("label", "", make("span", "", "Video"), this.select);
    this.element = make("div", "chooser", video);
    if (videos.length > 1) this.element.append(this.previous, this.next, filter, this.found);
    this.list(videos.map((_, k) => k));
    this.listen();
  }

  listen() {
    this.select.addEventListener("change", () => this.go(Number(this.select.value)));
    this.filter.addEventListener("input", () => this.applyFilter());
    this.filter.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "ArrowDown") return;
      event.preventDefault();
      this.select.focus();
    });
  }

  words(k) {
    const { name, part, frames } = this.videos[k];
    const what = PARTS.get(part) ?? part;
    return `${name} (${frames.toLocaleString("en")} ${frames === 1 ? "frame" : "frames"}${what && `, ${what}`})`;
  }

  list(shown) {
    this.select.replaceChildren(...shown.map((k) => {
      const option = make("option", "", this.words(k));
      option.value = String(k);
      return option;
    }));
    const total = this.videos.length;
    this.found.textContent = shown.length === total ? `${total} videos` : `${shown.length} of ${total} videos`;
    this.select.disabled = !shown.length;
  }

  applyFilter() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (k) => words.every((word) => this.words(k).toLowerCase().includes(word));
    const shown = this.videos.map((_, k) => k).filter(fits);
    this.list(shown);
    if (shown.length) this.go(shown.includes(this.chosen) ? this.chosen : shown[0]);
    this.update();
  }

  step(by) {
    const option = this.select.options[this.select.selectedIndex + by];
    if (option) this.go(Number(option.value));
  }

  go(k) {
    this.select.value = String(k);
    this.update();
    if (k === this.chosen) return;
    this.chosen = k;
    this.choose(k);
  }

  update() {
    this.previous.disabled = this.select.selectedIndex <= 0;
    this.next.disabled = this.select.selectedIndex >= this.select.options.length - 1;
  }
}

function button(text, name, act) {
  const made = make("button", "", text);
  made.type = "button";
  made.title = name;
  made.setAttribute("aria-label", name);
  made.addEventListener("click", act);
  return made;
}
