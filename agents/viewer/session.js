// Who is signed in. The key goes to the bridge once, which keeps the session in a cookie that no script can read.

import { call, message, Problem } from "./api.js";
import { byId, say } from "./elements.js";

const SESSION = "/v1/session";

let session = null;

export function may(scope) {
  return session !== null && session.scopes.includes(scope);
}

// The caller's id, as the API names it.
export function caller() {
  return session.caller;
}

export function purpose() {
  return session.purpose;
}

// The running session, that of the key in the address (#key=…), or null.
export async function resume() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (key !== null) {
    history.replaceState(null, "", location.pathname + location.search); // out of sight, history and bookmarks
    return await signIn(key);
  }
  try {
    session = (await call(SESSION)).body;
  } catch (error) {
    if (!(error instanceof Problem && error.status === 401)) say(byId("sign-in-fault"), message(error));
    session = null;
  }
  return session;
}

// The session, or null: then the form says why.
export async function signIn(key) {
  try {
    session = (await call(SESSION, { method: "POST", json: { key } })).body;
    say(byId("sign-in-fault"), "");
  } catch (error) {
    session = null;
    const refused = error instanceof Problem && [401, 403, 422].includes(error.status);
    say(byId("sign-in-fault"), refused ? "This key is not valid: mistyped, expired or revoked." : message(error));
  }
  return session;
}

export async function signOut() {
  await call(SESSION, { method: "DELETE" }).catch(() => {});
  forget();
}

export function forget() {
  session = null;
}
