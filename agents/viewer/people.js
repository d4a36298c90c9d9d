// An anonymized picture that stands still, and the people in it: one is chosen by a click on their box, or from a list.

import { all, call, message, problem, request } from "./api.js";
import { element, say, setFault, words } from "./elements.js";

const PEOPLE = ["person", "face"];
const CLOCKS = 60; // s by which a camera's clock may be off, as in agents/subjects/picking.py
const SPANS = [5, 5, CLOCKS]; // s around its capture in which a frame's audit event is looked for, one after another
const AGAIN = 1000; // ms between two looks: a picture may be faster than its event
const AIMS = [0.5, 0.3, 0.7, 0.15, 0.85]; // parts of a box's sides

let pickers = 0;

export class People {
  constructor() {
    this.frame = null; // that is shown: camera, epoch, sequence, captured_at
    this.people = [];
    this.name = `people-${++pickers}`;
    this.image = element("img", { alt: "No picture", hidden: true });
    this.boxes = element("div", { class: "boxes", "aria-hidden": "true" });
    this.stage = element("div", { class: "stage still" }, this.image, this.boxes);
    this.list = element("div", { class: "people", id: this.name, role: "radiogroup", "aria-label": "Person", "data-path": "point",
      "aria-describedby": `${this.name}-fault`, tabindex: -1 });
    this.status = element("p", { class: "hint", role: "status" });
    this.root = element("div", { class: "picker" }, this.stage,
      element("div", {}, this.status, this.list, element("span", { class: "fault", id: `${this.name}-fault` })));
    this.boxes.addEventListener("click", ({ target }) => this.people[target.dataset.person]?.radio.click());
  }

  // A place in the chosen one's box that is nobody else's; null: nobody is chosen.
  get point() {
    return this.people.find(({ radio }) => radio.checked)?.aim ?? null;
  }

  focus() {
    (this.list.querySelector("input:enabled") ?? this.list).focus();
  }

  // The newest anonymized picture of this camera, and who is in it.
  async show(camera) {
    this.clear();
    const mine = (this.asked = {});
    say(this.status, "Fetching the picture…");
    try {
      const { still, id, event } = await fetchFrame(camera);
      if (mine !== this.asked) return;
      this.image.src = URL.createObjectURL(still);
      this.image.alt = `Anonymized picture ${id}`;
      this.image.hidden = false;
      if (event === null) return say(this.status, "What was found in this picture is not known. Take a newer one.");
      const { epoch, sequence, captured_at } = event;
      this.frame = { camera, epoch, sequence, captured_at };
      this.take(event);
    } catch (error) {
      if (mine === this.asked) say(this.status, message(error));
    }
  }

  take({ detections, width, height }) {
    const found = detections.filter((each) => PEOPLE.includes(each.class)).sort((a, b) => a.box[0] - b.box[0]);
    this.people = found.map((each, i) => {
      const number = found.slice(0, i + 1).filter((other) => other.class === each.class).length;
      return this.person(each, i, `${words(each.class)} ${number}, ${place(each.box, width, height)}`, aim(each, found));
    });
    this.list.append(...this.people.map(({ label }) => label));
    const largestFirst = this.people.toSorted((a, b) => area(b.box) - area(a.box));
    this.boxes.append(...largestFirst.map(({ outline, box: [left, top, right, bottom] }) => {
      Object.assign(outline.style, { left: `${100 * left / width}%`, top: `${100 * top / height}%`,
        width: `${100 * (right - left) / width}%`, height: `${100 * (bottom - top) / height}%` });
      return outline;
    }));
    say(this.status, this.people.length ? "Choose a box, in the picture or here. The face or the body of a person: either will do." :
      "No face or person was found in this picture. Take a newer one.");
  }

  person(detection, index, name, aimed) {
    const radio = element("input", { type: "radio", name: this.name, disabled: aimed === null, onchange: () => this.choose() });
    const outline = element("span", { "data-person": index, title: name });
    const label = element("label", {}, radio, ` ${name}`, aimed === null ? " (too close to another; take a newer picture)" : null);
    return { box: detection.box, aim: aimed, radio, outline, label };
  }

  choose() {
    setFault(this.list, "");
    for (const { radio, outline } of this.people) outline.classList.toggle("picked", radio.checked);
  }

  clear() {
    this.asked = null;
    if (this.image.src.startsWith("blob:")) URL.revokeObjectURL(this.image.src);
    this.image.removeAttribute("src");
    this.image.hidden = true;
    this.frame = null;
    this.people = [];
    this.list.replaceChildren();
    this.boxes.replaceChildren();
    say(this.status, "");
  }
}

// Its picture, its name, and its audit event; null: none has come.
async function fetchFrame(camera) {
  const path = `/v1/cameras/${encodeURIComponent(camera)}`;
  const response = await request(`${path}/snapshot.jpg`);
  if (!response.ok) throw await problem(response);
  const id = response.headers.get("X-Sfumato-Frame");
  const still = await response.blob();
  const { body } = await call(path); // of this frame, or of one that came right after
  const [, epoch, sequence] = id.split("/").map(Number);
  for (const span of SPANS) {
    const at = Date.parse(body.captured_at);
    const [from, to] = [at - 1000 * span, at + 1000 * CLOCKS].map((moment) => new Date(moment).toISOString());
    const events = await all("/v1/audit", { camera, from, to });
    const event = events.find((each) => each.epoch === epoch && each.sequence === sequence);
    if (event) return { still, id, event };
    await new Promise((wake) => setTimeout(wake, AGAIN));
  }
  return { still, id, event: null };
}

// A point of which the API will take this one to be meant (agents/subjects/picking.py): of all whom it lies on this is
// the smallest, and no other of its kind is there. Null: there is none.
function aim(person, people) {
  const [left, top, right, bottom] = person.box;
  for (const down of AIMS) {
    for (const across of AIMS) {
      const point = { x: left + across * (right - left), y: top + down * (bottom - top) };
      const others = people.filter((other) => other !== person && holds(other.box, point));
      const rivals = others.filter((other) => area(other.box) <= area(person.box) ||
        (other.class === person.class && (other.track === null || other.track !== person.track)));
      if (rivals.length === 0) return point;
    }
  }
  return null;
}

function holds([left, top, right, bottom], { x, y }) {
  return left <= x && x < right && top <= y && y < bottom;
}

function area([left, top, right, bottom]) {
  return (right - left) * (bottom - top);
}

// As "upper left", by thirds of the picture.
function place([left, top, right, bottom], width, height) {
  const third = (middle, size, names) => names[Math.max(0, Math.min(2, Math.floor(3 * middle / size)))];
  const down = third((top + bottom) / 2, height, ["upper", "", "lower"]);
  const across = third((left + right) / 2, width, ["left", "middle", "right"]);
  return `${down} ${across}`.trim();
}
