// The values of one frame in words: a table of all, and one sentence.
const NONE = "–";

class Readout {
  constructor(groups, video) {
    this.video = video;
    this.heading = make("p", "frame-heading");
    this.cells = [];
    const hasLabels = groups.some((group) => group.columns.some((name) => video.columns.has(`label/${name}`)));
    const hasRaw = groups.some((group) => group.columns.some((name) => video.columns.has(`raw/${name}`)));
    this.heads = ["predicted", ...(hasRaw ? ["raw"] : []), ...(hasLabels ? ["labelled"] : [])];
    const head = make("tr", "", make("th"), ...this.heads.map((text) => make("th", "", text)));
    const body = make("tbody");
    for (const group of groups) this.addGroup(body, group, hasRaw, hasLabels);
    const table = make("table", "values", make("thead", "", head), body);
    table.setAttribute("aria-label", "Values of the frame");
    this.element = make("div", "readout", this.heading, table);
  }

  addGroup(body, group, hasRaw, hasLabels) {
    for (const name of group.columns) {
      const kinds = ["predicted", ...(hasRaw ? ["raw"] : []), ...(hasLabels ? ["label"] : [])];
      if (!kinds.some((kind) => this.video.columns.has(`${kind}/${name}`))) continue;
      const cells = kinds.map((kind) => {
        const cell = make("td");
        this.cells.push([cell, (i) => this.words(group, kind, name, i)]);
        return cell;
      });
      const head = make("th", "", name);
      head.scope = "row";
      body.append(make("tr", "", head, ...cells));
    }
    if (group.kind === "classes" && this.video.columns.has(`p/${group.classes[0]}`)) {
      const cell = make("td", "likely");
      cell.colSpan = this.heads.length;
      this.cells.push([cell, (i) => this.likely(group, i)]);
      body.append(make("tr", "", make("th", "", "probabilities"), cell));
    }
  }

  value(key, i) {
    return this.video.columns.get(key)?.[i] ?? NaN;
  }

  words(group, kind, name, i) {
    const value = this.value(`${kind}/${name}`, i);
    if (Number.isNaN(value)) return NONE;
    if (group.kind === "continuous") return signed(value, group.low < 0);
    if (group.kind === "classes") return group.classes[value] ?? String(value);
    const chance = kind === "predicted" ? this.value(`p/${name}`, i) : NaN;
    return (value ? "present" : "absent") + (Number.isNaN(chance) ? "" : ` (${chance.toFixed(2)})`);
  }

  // The three most probable classes.
  likely(group, i) {
    const found = group.classes.map((name) => [name, this.value(`p/${name}`, i)]).filter(([, p]) => !Number.isNaN(p));
    found.sort((a, b) => b[1] - a[1]);
    return found.slice(0, 3).map(([name, p]) => `${name} ${p.toFixed(2)}`).join(", ") || NONE;
  }

  show(i) {
    const { columns, count } = this.video;
    const time = this.value("time", i);
    const seconds = Number.isNaN(time) ? "" : `, ${time.toFixed(2)} s`;
    const missing = this.value("valid", i) === 0 ? "; no face of its own: prediction of the nearest frame" : "";
    const number = columns.get("frame")[i].toLocaleString("en");
    const place = `${(i + 1).toLocaleString("en")} of ${count.toLocaleString("en")}`;
    this.heading.textContent = `Frame ${number}${seconds} (${place})${missing}`;
    for (const [cell, textOf] of this.cells) cell.textContent = textOf(i);
  }

  // "Frame 12: predicted valence 0.31, .., Happiness, AU6, AU12; labelled ..", for screen readers.
  sentence(groups, i) {
    const parts = [this.heading.textContent];
    for (const [kind, word] of [["predicted", "predicted"], ["label", "labelled"]]) {
      const words = groups.flatMap((group) => this.short(group, kind, i));
      if (words.length) parts.push(`${word} ${words.join(", ")}`);
    }
    return parts.join("; ");
  }

  short(group, kind, i) {
    const known = group.columns.filter((name) => !Number.isNaN(this.value(`${kind}/${name}`, i)));
    if (group.kind !== "binary") {
      const prefix = (name) => (group.kind === "continuous" ? `${name} ` : "");
      return known.map((name) => prefix(name) + this.words(group, kind, name, i));
    }
    const present = known.filter((name) => this.value(`${kind}/${name}`, i) === 1);
    return known.length ? [present.length ? present.join(", ") : `no ${group.title}`] : [];
  }
}

function signed(value, hasSign) {
  const text = Math.abs(value).toFixed(3);
  if (!hasSign) return text;
  return (Number(text) === 0 ? "" : value < 0 ? "−" : "+") + text;
}
