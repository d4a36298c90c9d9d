// Asks before something that cannot be undone.

import { byId } from "./elements.js";

const dialog = byId("confirm");

// Whether it shall be done. `no`, `yes`: what the buttons say.
export async function confirmed(text, no, yes) {
  byId("confirm-text").textContent = text;
  byId("confirm-no").textContent = no;
  byId("confirm-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  return dialog.returnValue === "yes";
}
