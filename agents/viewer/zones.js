// Draws a policy's zones on a picture, by pointer or keyboard.

import { element, field, options, say, setFault, words } from "./elements.js";
import { fault } from "./polygon.js";
import { MASKS, TARGETS } from "./targets.js";

const SVG = "http://www.w3.org/2000/svg";
const STEP = 0.01, LEAP = 0.05; // of the picture's size, by arrow key and with Shift
const MOST_CORNERS = 200, MOST_ZONES = 100; // as in schemas/zone.py and schemas/policy.py
const RULES = ["always_mask", "never_mask"];

export class Zones {
  // `zones` as in the policy. changed(): called after each change.
  constructor(zones, writable, changed = () => {}) {
    this.zones = structuredClone(zones);
    this.writable = writable;
    this.changed = changed;
    this.selected = this.zones.length ? 0 : null;
    this.drawing = null; // corners of the zone that is being drawn
    this.shapes = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" })) {
      this.shapes.setAttribute(name, value);
    }
    this.handles = element("div", { class: "handles" });
    this.image = element("img", { alt: "No picture", hidden: true });
    this.stage = element("div", { class: "stage drawing-board", role: "group", "aria-label": "Zones on the picture" },
      this.image, this.shapes, this.handles);
    this.list = element("ul", { class: "zones", "aria-label": "Zones" });
    this.status = element("p", { class: "hint", role: "status" });
    this.root = element("div", {}, this.stage, writable ? this.tools() : null, this.status, this.list);
    this.listen();
    this.render();
  }

  tools() {
    this.draw = element("button", { type: "button", onclick: () => this.toggleDrawing(), "aria-pressed": "false" }, "Draw a zone");
    const add = element("button", { type: "button", onclick: () => this.addRectangle() }, "Add a rectangle");
    return element("div", {},
      element("p", { class: "buttons" }, this.draw, add),
      element("p", { class: "hint" }, "Draw: click corner by corner, then the first one again. Corners can be dragged; with the keyboard, " +
        "Tab goes from corner to corner, arrows move it (Shift: further), Insert adds one after it, Delete removes it."));
  }

  // Show this picture (an object URL), or none.
  show(url, alt) {
    if (this.image.src.startsWith("blob:")) URL.revokeObjectURL(this.image.src);
    this.image.hidden = url === null;
    if (url === null) this.image.removeAttribute("src");
    else this.image.src = url;
    this.image.alt = alt;
  }

  // The first that has a fault, or -1.
  get faulty() {
    return this.zones.findIndex((zone) => fault(zone.polygon) || !zone.name.trim());
  }

  focus(index) {
    this.select(index);
    this.list.children[index].querySelector("input").focus();
  }

  listen() {
    this.stage.addEventListener("click", (event) => this.clicked(event));
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.drawing !== null) this.setDrawing(null);
    });
  }

  place(event) {
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    return [share((event.clientX - left) / width), share((event.clientY - top) / height)];
  }

  clicked(event) {
    if (this.drawing !== null) {
      if (event.target.dataset.corner === "0" && this.drawing.length >= 3) return this.finish();
      if (event.detail > 1) return; // the second click of a double click
      this.drawing.push(this.place(event));
      say(this.status, `Corner ${this.drawing.length} at ${spoken(this.drawing.at(-1))}.` +
        (this.drawing.length >= 3 ? " Click the first corner to end." : ""));
      if (this.drawing.length >= 3) this.draw.textContent = "Finish the zone";
      this.renderStage();
    } else if (event.target.dataset.zone !== undefined) {
      this.select(Number(event.target.dataset.zone));
    }
  }

  toggleDrawing() {
    if (this.drawing?.length >= 3) this.finish();
    else this.setDrawing(this.drawing === null ? [] : null);
  }

  // Corners of the zone that is being drawn, or null.
  setDrawing(corners) {
    this.drawing = corners;
    this.draw.setAttribute("aria-pressed", String(corners !== null));
    this.draw.textContent = corners === null ? "Draw a zone" : "Stop drawing";
    say(this.status, corners === null ? "" : "Click where the first corner is. Escape stops.");
    this.renderStage();
  }

  finish() {
    const polygon = this.drawing;
    this.setDrawing(null);
    this.add(polygon);
    this.focus(this.zones.length - 1);
  }

  addRectangle() {
    this.add([[0.4, 0.4], [0.6, 0.4], [0.6, 0.6], [0.4, 0.6]]);
    this.handles.querySelector("[data-corner]")?.focus();
  }

  add(polygon) {
    if (this.zones.length >= MOST_ZONES) return say(this.status, `A policy has ${MOST_ZONES} zones at most.`);
    const names = new Set(this.zones.map((zone) => zone.name));
    let number = this.zones.length + 1;
    while (names.has(`zone ${number}`)) number += 1;
    this.zones.push({ name: `zone ${number}`, polygon, rule: "always_mask", mask: "solid", spares: ["motion"] });
    this.selected = this.zones.length - 1;
    this.render();
    this.changed();
  }

  remove(index) {
    const [{ name }] = this.zones.splice(index, 1);
    this.selected = this.zones.length ? Math.min(index, this.zones.length - 1) : null;
    this.render();
    this.changed();
    say(this.status, `${name} is removed.`);
    (this.list.children[this.selected]?.querySelector("input") ?? this.draw).focus();
  }

  select(index) {
    if (index === this.selected) return;
    this.selected = index;
    this.renderStage();
    [...this.list.children].forEach((item, i) => item.classList.toggle("selected", i === index));
  }

  render() {
    this.list.replaceChildren(...this.zones.map((zone, index) => this.item(zone, index)));
    this.renderStage();
  }

  item(zone, index) {
    const path = `zones.${index}`, fixed = !this.writable;
    const set = (key) => ({ target }) => {
      zone[key] = target.value;
      this.refresh(index);
      this.changed();
    };
    const name = element("input", { value: zone.name, maxlength: 500, required: true, disabled: fixed, oninput: set("name") });
    const rule = element("select", { disabled: fixed, onchange: set("rule") }, ...options(RULES, zone.rule));
    const mask = element("select", { disabled: fixed, onchange: set("mask") }, ...options(MASKS, zone.mask));
    const item = element("li", { class: index === this.selected ? "selected" : "", onfocusin: () => this.select(index) },
      element("fieldset", {},
        element("legend", {}, `Zone ${index + 1}`),
        element("div", { class: "fields" },
          field("Name", name, `${path}.name`), field("Rule", rule, `${path}.rule`), field("Mask", mask, `${path}.mask`)),
        this.spared(zone, index),
        element("p", { class: "fault", role: "alert", "data-path": `${path}.polygon` }),
        fixed ? null : element("button", { type: "button", onclick: () => this.remove(index) }, `Remove ${zone.name}`)));
    item.fault = item.querySelector("p.fault");
    queueMicrotask(() => this.refresh(index));
    return item;
  }

  spared(zone, index) {
    const boxes = Object.keys(TARGETS).map((target) => {
      const box = element("input", { type: "checkbox", checked: zone.spares.includes(target), disabled: !this.writable, onchange: () => {
        zone.spares = box.checked ? [...zone.spares, target] : zone.spares.filter((other) => other !== target);
        this.changed();
      } });
      return element("label", {}, box, ` ${words(target)}`);
    });
    return element("div", { class: "spares checks", role: "group", "aria-label": `What zone ${index + 1} leaves unmasked` },
      element("span", {}, "Leaves unmasked:"), ...boxes);
  }

  // What depends on the zone's rule, name and corners, without losing the focus.
  refresh(index) {
    const zone = this.zones[index], item = this.list.children[index];
    if (!item) return;
    const wrong = fault(zone.polygon);
    say(item.fault, wrong);
    this.shapes.querySelector(`[data-zone="${index}"]`)?.classList.toggle("faulty", Boolean(wrong));
    const [name, rule, mask] = item.querySelectorAll("input:not([type]), select");
    setFault(name, zone.name.trim() ? "" : "Give it a name.");
    mask.closest(".field").hidden = zone.rule !== "always_mask";
    item.querySelector(".spares").hidden = rule.value !== "never_mask";
    const button = item.querySelector("button");
    if (button) button.textContent = `Remove ${zone.name}`;
  }

  renderStage() {
    const polygons = this.zones.map((zone, index) => {
      const shape = polygonShape(zone.polygon, "polygon");
      shape.dataset.zone = index;
      shape.setAttribute("class", [zone.rule, index === this.selected ? "selected" : "", fault(zone.polygon) ? "faulty" : ""].join(" ").trim());
      return shape;
    });
    const drawn = this.drawing === null ? [] : [polygonShape(this.drawing, "polyline")];
    this.shapes.replaceChildren(...polygons, ...drawn);
    this.stage.classList.toggle("active", this.drawing !== null);
    const handles = this.drawing !== null ? this.drawing.map((corner, i) => dot(corner, i, "drawn")) :
      this.selected !== null && this.writable ? this.corners(this.zones[this.selected]) : [];
    this.handles.replaceChildren(...handles);
  }

  corners(zone) {
    const corners = zone.polygon.map((corner, i) => {
      const handle = dot(corner, i, "corner");
      this.describe(handle, zone, i);
      handle.addEventListener("keydown", (event) => this.key(event, zone, i));
      handle.addEventListener("pointerdown", (event) => this.drag(event, zone, i));
      return handle;
    });
    const middles = zone.polygon.length >= MOST_CORNERS ? [] : zone.polygon.map((corner, i) => {
      const handle = dot(middle(zone.polygon, i), i, "middle");
      delete handle.dataset.corner;
      Object.assign(handle, { tabIndex: -1, ariaHidden: "true" }); // with the keyboard: Insert
      handle.addEventListener("pointerdown", (event) => {
        this.insert(zone, i);
        this.drag(event, zone, i + 1);
      });
      return handle;
    });
    return [...middles, ...corners];
  }

  describe(handle, zone, i) {
    handle.ariaLabel = `${zone.name}, corner ${i + 1} of ${zone.polygon.length}, ${spoken(zone.polygon[i])}`;
  }

  key(event, zone, i) {
    const step = event.shiftKey ? LEAP : STEP;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key in moves) {
      const [dx, dy] = moves[event.key], [x, y] = zone.polygon[i];
      this.move(zone, i, [share(x + dx), share(y + dy)]);
    } else if (event.key === "Insert" || event.key === "+") {
      this.insert(zone, i);
      this.corner(i + 1).focus();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.removeCorner(zone, i);
    } else {
      return;
    }
    event.preventDefault();
  }

  corner(i) {
    return this.handles.querySelector(`[data-corner="${i}"]`);
  }

  drag(event, zone, i) {
    event.preventDefault();
    const handle = this.corner(i);
    handle.focus();
    handle.setPointerCapture(event.pointerId);
    handle.onpointermove = (moved) => this.move(zone, i, this.place(moved));
    handle.onpointerup = handle.onpointercancel = () => {
      handle.onpointermove = null;
      this.renderStage();
      this.corner(i).focus();
    };
  }

  // In place, so that the corner keeps the focus and the pointer.
  move(zone, i, corner) {
    zone.polygon[i] = corner;
    const index = this.zones.indexOf(zone);
    this.shapes.children[index].setAttribute("points", points(zone.polygon));
    const handle = this.corner(i);
    locate(handle, corner);
    this.describe(handle, zone, i);
    const middles = this.handles.querySelectorAll(".middle");
    const before = (i + zone.polygon.length - 1) % zone.polygon.length;
    for (const j of [before, i]) if (middles[j]) locate(middles[j], middle(zone.polygon, j));
    say(this.status, `Corner ${i + 1} at ${spoken(corner)}.`);
    this.refresh(index);
    this.changed();
  }

  insert(zone, i) {
    if (zone.polygon.length >= MOST_CORNERS) return say(this.status, `A zone has ${MOST_CORNERS} corners at most.`);
    zone.polygon.splice(i + 1, 0, middle(zone.polygon, i));
    this.cornersChanged(zone, `Corner ${i + 2} is added.`);
  }

  removeCorner(zone, i) {
    if (zone.polygon.length <= 3) return say(this.status, "A zone wants three corners at least. Remove the zone instead.");
    zone.polygon.splice(i, 1);
    this.cornersChanged(zone, `Corner ${i + 1} is removed.`);
    this.corner(Math.min(i, zone.polygon.length - 1)).focus();
  }

  cornersChanged(zone, text) {
    this.renderStage();
    this.refresh(this.zones.indexOf(zone));
    this.changed();
    say(this.status, text);
  }
}

// To a ten-thousandth, and within the picture.
function share(value) {
  return Math.min(1, Math.max(0, Math.round(value * 10_000) / 10_000));
}

function middle(polygon, i) {
  const next = polygon[(i + 1) % polygon.length];
  return [share((polygon[i][0] + next[0]) / 2), share((polygon[i][1] + next[1]) / 2)];
}

function spoken([x, y]) {
  return `${Math.round(x * 1000) / 10} % from the left, ${Math.round(y * 1000) / 10} % from the top`;
}

function points(polygon) {
  return polygon.map((corner) => corner.join(",")).join(" ");
}

function polygonShape(polygon, name) {
  const shape = document.createElementNS(SVG, name);
  shape.setAttribute("points", points(polygon));
  return shape;
}

function dot(corner, i, kind) {
  const handle = element("button", { type: "button", class: kind, "data-corner": i });
  locate(handle, corner);
  return handle;
}

function locate(handle, [x, y]) {
  handle.style.left = `${x * 100}%`;
  handle.style.top = `${y * 100}%`;
}
