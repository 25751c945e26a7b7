// The values of one frame in words: a table of all of them, and one sentence for screen readers.
const NONE = "–";
const KINDS = [["predicted", "predicted"], ["label", "labelled"]];

class Readout {
  constructor(groups, video) {
    this.groups = groups;
    this.video = video;
    this.cells = [];
    const names = groups.flatMap((group) => group.columns);
    this.kinds = KINDS.filter(([kind]) => names.some((name) => video.columns.has(`${kind}/${name}`)));
    const body = make("tbody");
    for (const group of groups) this.addGroup(body, group);
    const heads = this.kinds.map(([, word]) => make("th", "", word));
    this.heading = make("p", "frame-heading");
    this.table = make("table", "values", make("thead", "", make("tr", "", make("td"), ...heads)), body);
    this.table.setAttribute("aria-label", "Values of the current frame");
  }

  addGroup(body, group) {
    for (const name of group.columns) {
      if (!this.kinds.some(([kind]) => this.video.columns.has(`${kind}/${name}`))) continue;
      const cells = this.kinds.map(([kind]) => this.cell((i) => this.words(group, kind, name, i)));
      body.append(row(name, ...cells));
    }
    if (group.kind === "classes" && this.video.columns.has(`p/${group.classes[0]}`)) {
      const cell = this.cell((i) => this.likely(group, i));
      cell.className = "likely";
      cell.colSpan = this.kinds.length;
      body.append(row("most probable", cell));
    }
  }

  cell(textOf) {
    const cell = make("td");
    this.cells.push([cell, textOf]);
    return cell;
  }

  value(key, i) {
    return this.video.columns.get(key)?.[i] ?? NaN;
  }

  words(group, kind, name, i) {
    const value = this.value(`${kind}/${name}`, i);
    if (Number.isNaN(value)) return NONE;
    if (group.kind === "continuous") return signed(value, group.low < 0) + (kind === "predicted" ? this.raw(group, name, i) : "");
    if (group.kind === "classes") return group.classes[value] ?? String(value);
    const chance = kind === "predicted" ? this.value(`p/${name}`, i) : NaN;
    return (value ? "present" : "absent") + (Number.isNaN(chance) ? "" : ` ${chance.toFixed(2)}`);
  }

  raw(group, name, i) {
    const value = this.value(`raw/${name}`, i);
    return Number.isNaN(value) ? "" : ` (raw ${signed(value, group.low < 0)})`;
  }

  likely(group, i) {
    const found = group.classes.map((name) => [name, this.value(`p/${name}`, i)]).filter(([, p]) => !Number.isNaN(p));
    found.sort((a, b) => b[1] - a[1]);
    return found.slice(0, 3).map(([name, p]) => `${name}\u00a0${p.toFixed(2)}`).join(", ") || NONE;
  }

  show(i) {
    const { frames } = this.video;
    const time = this.value("time", i);
    const seconds = Number.isNaN(time) ? "" : `, ${time.toFixed(2)} s`;
    const missing = this.value("valid", i) === 0 ? "; no face of its own, predicted from the nearest frame" : "";
    const place = `${(i + 1).toLocaleString("en")} of ${frames.length.toLocaleString("en")}`;
    this.heading.textContent = `Frame ${frames[i].toLocaleString("en")}${seconds} (${place})${missing}`;
    for (const [cell, textOf] of this.cells) {
      cell.textContent = textOf(i);
      cell.classList.toggle("present", cell.textContent.startsWith("present"));
    }
  }

  // "Frame 12: predicted valence 0.31, .., Happiness, AU6, AU12; labelled ..".
  sentence(i) {
    const parts = [this.heading.textContent];
    for (const [kind, word] of this.kinds) {
      const words = this.groups.flatMap((group) => this.short(group, kind, i));
      if (words.length) parts.push(`${word} ${words.join(", ")}`);
    }
    return parts.join("; ");
  }

  short(group, kind, i) {
    const known = group.columns.filter((name) => !Number.isNaN(this.value(`${kind}/${name}`, i)));
    if (group.kind !== "binary") {
      const prefix = (name) => (group.kind === "continuous" ? `${name} ` : "");
      return known.map((name) => prefix(name) + this.words(group, kind, name, i).replace(/ \(raw.*/, ""));
    }
    const present = known.filter((name) => this.value(`${kind}/${name}`, i) === 1);
    return known.length ? [present.length ? present.join(", ") : `no ${group.title}`] : [];
  }
}

function row(name, ...cells) {
  const head = make("th", "", name);
  head.scope = "row";
  return make("tr", "", head, ...cells);
}

function signed(value, hasSign) {
  const text = Math.abs(value).toFixed(3);
  if (!hasSign) return value < 0 ? `−${text}` : text;
  return (Number(text) === 0 ? "" : value < 0 ? "−" : "+") + text;
}
