// What is looked for and how it is masked: a fieldset of the policy editor. Names as in schemas/masking.py.

import { element, field, options, words } from "./elements.js";

// With the dilation that each has by default.
export const TARGETS = { face: 0.25, licence_plate: 0.25, person: 0.1, vehicle: 0.1, text: 0.15, motion: 0.1 };
export const MASKS = ["solid", "noise", "inpaint", "mosaic", "blur"];
const SHAPES = ["rectangle", "ellipse", "outline"];

export class Targets {
  // `targets` as in a policy: what is not shown of a target stays as it is.
  constructor(targets, writable, changed) {
    this.rows = Object.entries(TARGETS).map(([name, dilation]) =>
      new Row(name, targets[name], { mask: "solid", shape: "rectangle", dilation }, writable, changed));
    this.fault = element("p", { class: "fault", role: "alert", "data-path": "targets" });
    this.root = element("fieldset", { class: "targets" }, element("legend", {}, "What is masked"), this.fault,
      ...this.rows.map((row) => row.root));
  }

  // As a policy has it.
  get value() {
    return Object.fromEntries(this.rows.filter((row) => row.box.checked).map((row) => [row.name, row.value]));
  }

  // Whether it can be used; says why not.
  check() {
    this.fault.textContent = this.rows.some((row) => row.box.checked) ? "" : "Choose one at least.";
    return !this.fault.textContent;
  }

  focus() {
    this.rows[0].box.focus();
  }
}

class Row {
  constructor(name, masking, defaults, writable, changed) {
    this.name = name;
    this.masking = { ...defaults, ...masking };
    const path = `targets.${name}`, label = words(name);
    const common = { disabled: !writable };
    this.box = element("input", { type: "checkbox", checked: masking !== undefined, ...common });
    this.mask = element("select", common, ...options(MASKS, this.masking.mask));
    this.shape = element("select", common, ...options(SHAPES, this.masking.shape));
    this.dilation = element("input", { type: "number", min: 0, max: 2, step: "any", value: this.masking.dilation, ...common });
    this.details = element("div", { class: "fields", role: "group", "aria-label": label },
      field("Mask", this.mask, `${path}.mask`),
      field("Shape", this.shape, `${path}.shape`),
      field("Grown by", this.dilation, `${path}.dilation`));
    this.root = element("div", { class: "target" }, element("label", { class: "check" }, this.box, ` ${label}`), this.details);
    this.root.addEventListener("input", () => {
      this.refresh();
      changed();
    });
    this.refresh();
  }

  refresh() {
    this.details.hidden = !this.box.checked;
  }

  get value() {
    return { ...this.masking, mask: this.mask.value, shape: this.shape.value, dilation: Number(this.dilation.value) };
  }
}
