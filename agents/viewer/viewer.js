// The page: signs in, and shows the places that the caller's scopes allow.

import { whenUnauthorized } from "./api.js";
import { byId } from "./elements.js";
import * as jobs from "./jobs.js";
import * as live from "./live.js";
import * as policies from "./policies.js";
import * as requests from "./requests.js";
import { forget, may, resume, signIn, signOut } from "./session.js";

// In the order of the navigation. Each has enter(rest of the address) and leave().
const PLACES = {
  live: { scope: "cameras:read", ...live },
  jobs: { scope: "jobs:read", ...jobs },
  policies: { scope: "policies:read", ...policies },
  requests: { scope: "subjects:read", ...requests },
};

let here = null;

function go() {
  const [name, ...rest] = location.hash.slice(1).split("/").map(decodeURIComponent);
  if (name && !(name in PLACES)) return; // the skip link
  const allowed = Object.keys(PLACES).filter((place) => may(PLACES[place].scope));
  const next = allowed.includes(name) ? name : allowed[0] ?? "nothing";
  const moved = here !== null && here !== next;
  if (here in PLACES && here !== next) PLACES[here].leave();
  here = next;
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== here;
  for (const link of document.querySelectorAll("#places a")) {
    if (link.hash === `#${here}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (here in PLACES) PLACES[here].enter(rest.join("/"));
  if (moved) byId(here).querySelector("h2").focus();
}

function showSession(session) {
  byId("places").hidden = byId("caller").hidden = session === null;
  if (session === null) return showSignIn();
  byId("caller-name").textContent = session.caller;
  byId("caller-name").title = `for ${session.purpose}; cameras: ${session.cameras.join(", ")}`;
  for (const link of document.querySelectorAll("#places a")) link.hidden = !may(PLACES[link.hash.slice(1)].scope);
  here = null;
  go();
}

function showSignIn() {
  if (here in PLACES) PLACES[here].leave();
  jobs.forget();
  requests.forget();
  here = "sign-in";
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== here;
  byId("places").hidden = byId("caller").hidden = true;
  byId("key").focus();
}

byId("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  byId("key").value = "";
  const session = await signIn(key);
  showSession(session);
  if (session !== null) byId(here).querySelector("h2").focus();
});

byId("sign-out").addEventListener("click", async () => {
  await signOut();
  showSignIn();
});

whenUnauthorized(() => {
  if (here === null || here === "sign-in") return;
  forget();
  byId("sign-in-fault").textContent = "Your session has ended. Sign in again.";
  showSignIn();
});

addEventListener("hashchange", async () => {
  if (new URLSearchParams(location.hash.slice(1)).has("key")) showSession(await resume());
  else if (here !== null && here !== "sign-in") go();
});

showSession(await resume());
