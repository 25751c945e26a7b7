// The face of the current frame, where its picture lies beside the page.
const MOST_MISSING = 3; // pictures in a row that are not there; then no more are asked for until another video is chosen

class Face {
  constructor() {
    this.image = make("img");
    this.note = make("p", "muted");
    this.element = make("div", "face", this.image, this.note);
    this.image.addEventListener("load", () => { this.missing = 0; this.say(""); });
    this.image.addEventListener("error", () => { this.missing++; this.sayMissing(); });
    this.clear();
  }

  clear() {
    this.missing = 0;
    this.address = "";
    this.say("no face");
  }

  say(text) {
    this.note.textContent = text;
    this.image.hidden = text !== "";
  }

  sayMissing() {
    this.say(`The picture is not there: ${decodeURIComponent(this.address.replace(/^\.\//, ""))}`);
  }

  // An address that leads away from the page, or is a script, is not asked for.
  show(address, frame) {
    this.address = address;
    if (!address) return this.say("no face in this frame");
    const url = new URL(address, document.baseURI);
    if (url.protocol !== location.protocol || url.host !== location.host) return this.say("no face beside this page");
    if (this.missing >= MOST_MISSING) return this.sayMissing();
    this.image.alt = `Face of frame ${frame.toLocaleString("en")}`;
    this.image.src = url.href;
  }
}
