// HTML elements made from data: text is always text, never markup.

export const byId = (id) => document.getElementById(id);

// Attributes: true stands for an empty one, false and null for none; names that start with "on" are listeners.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function options(values, chosen) {
  return values.map((value) => element("option", { value, selected: value === chosen }, words(value)));
}

let fields = 0;

// A field with its label, and a place for what is wrong with it. `path`: the API's name of it, as "targets.face.mask".
export function field(label, control, path) {
  const id = `field-${++fields}`;
  control.id = id;
  control.dataset.path = path;
  control.setAttribute("aria-describedby", `${id}-fault`);
  return element("p", { class: "field" },
    element("label", { for: id }, label), control, element("span", { class: "fault", id: `${id}-fault` }));
}

// Show what is wrong with a field, "" for nothing.
export function setFault(control, text) {
  const place = byId(`${control.id}-fault`);
  if (place.textContent !== text) place.textContent = text;
  if (text) control.setAttribute("aria-invalid", "true");
  else control.removeAttribute("aria-invalid");
}

export function words(name) {
  return name.replaceAll("_", " ");
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit && count < 10 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

// A moment of the API, in local time.
export function moment(text, timeStyle = "short") {
  return new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle });
}

// Say it only when it changes: it is read aloud.
export function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
