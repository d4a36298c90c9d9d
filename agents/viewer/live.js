// Live pictures: one WebSocket per visible tile, whose pictures come from a player.

import { request } from "./api.js";
import { Player, decodesVideo } from "./player.js";

const STALE_AFTER = 2000, LOST_AFTER = 10000; // ms without a frame; as in agents/live.py
const SHORTEST_PAUSE = 500, LONGEST_PAUSE = 15000; // ms between two attempts to connect
const REASONS = {
  no_policy: "no policy for this camera",
  invalid_policy: "its policy is not valid",
  policy_expired: "its policy has ended",
  policy_not_yet_valid: "its policy is not valid yet",
  scheduled: "fully masked by schedule",
  target_unavailable: "a target cannot be detected",
  detector_error: "detection failed",
  detector_timeout: "detection took too long",
  mask_error: "masking failed",
  too_small: "picture too small",
  too_many_detections: "too many detections",
  too_many_cameras: "too many cameras for this worker",
  too_large: "picture too large",
  damaged: "what the camera sent is damaged",
};

const grid = document.getElementById("grid");
const dialog = document.getElementById("enlarged");
const tiles = new Map();
let enlarged = null;
let problem = "";
let timers = [];

export function enter() {
  if (timers.length) return;
  document.getElementById("summary").textContent = "Connecting…";
  timers = [
    setInterval(() => {
      tiles.forEach((tile) => tile.refresh());
      if (tiles.size) summarize();
    }, 500),
    setInterval(lookForCameras, 2000),
  ];
  lookForCameras();
}

// Nothing stays: the next caller may see other cameras.
export function leave() {
  timers.forEach(clearInterval);
  timers = [];
  if (dialog.open) dialog.close();
  for (const tile of tiles.values()) {
    visibility.unobserve(tile.item);
    tile.show(false);
    tile.item.remove();
  }
  tiles.clear();
}

class Tile {
  constructor(id) {
    this.id = id;
    this.item = document.getElementById("tile").content.firstElementChild.cloneNode(true);
    this.item.dataset.camera = id;
    this.part = (name) => this.item.querySelector(name);
    this.part(".name").textContent = id;
    this.part("button").addEventListener("click", () => enlarge(this));
    this.arrived = -Infinity; // when the bridge got the frame shown, on this page's clock
    this.heard = -Infinity; // the same of the bridge's newest frame, as /v1/cameras told it,
    this.told = "lost"; // and the state it gave with that
    this.pause = SHORTEST_PAUSE;
    this.facts = null;
    this.video = decodesVideo; // until it turns out that this camera's cannot be decoded
  }

  show(visible) {
    this.visible = visible;
    if (this.facts) this.arrived = Math.max(this.arrived, this.heard);
    if (visible && !this.socket) this.connect();
    if (!visible && this.socket) this.socket.close();
  }

  connect() {
    clearTimeout(this.retry);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const path = `/v1/cameras/${encodeURIComponent(this.id)}/live${this.video ? "?video=h264" : ""}`;
    const socket = this.socket = new WebSocket(`${scheme}//${location.host}${path}`);
    const player = new Player((...picture) => this.draw(...picture), () => {
      this.video = false;
      socket.close();
    });
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => player.take(data);
    socket.onclose = () => {
      player.close();
      this.socket = null;
      if (!this.visible) return;
      this.retry = setTimeout(() => this.visible && !this.socket && this.connect(), this.pause * (0.5 + Math.random() / 2));
      this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
    };
  }

  draw(picture, width, height, facts) {
    this.facts = facts;
    this.arrived = facts.received - facts.age_ms;
    this.pause = SHORTEST_PAUSE;
    for (const canvas of this.canvases()) {
      if (canvas.width !== width || canvas.height !== height) {
        canvas.width = width;
        canvas.height = height;
      }
      canvas.getContext("2d").drawImage(picture, 0, 0);
    }
    this.refresh();
  }

  canvases() {
    return enlarged === this ? [this.part("canvas"), dialog.querySelector("canvas")] : [this.part("canvas")];
  }

  // A tile in sight believes its socket alone; one out of sight has none.
  get state() {
    return this.visible ? judged(this.arrived) : this.reported;
  }

  get reported() {
    return problem ? judged(this.heard) : this.told;
  }

  refresh() {
    this.item.dataset.state = this.state;
    this.part(".state").textContent = this.state;
    if (enlarged === this) dialog.dataset.state = this.state;
    const label = `${this.id}, ${this.state}. Enlarge`;
    if (this.part("button").ariaLabel !== label) this.part("button").ariaLabel = label;
    if (!this.facts) return;
    const { outcome, objects, latency_ms: latency } = this.facts;
    this.part(".outcome").textContent = outcome.replace("_", " ");
    this.part(".outcome").dataset.outcome = outcome;
    this.part(".objects").textContent = objects;
    this.part(".latency").textContent = formatted(latency);
    const notice = this.notice();
    for (const place of enlarged === this ? [this.item, dialog] : [this.item]) {
      place.querySelector(".notice").hidden = !notice;
      place.querySelector(".notice").textContent = notice;
    }
    if (enlarged === this) {
      document.getElementById("enlarged-facts").textContent =
        `${this.state} · ${this.facts.width}×${this.facts.height} · ${formatted(latency)} · ${this.facts.captured_at.slice(11, 19)} UTC`;
    }
  }

  notice() {
    if (this.facts.outcome !== "fully_masked") return "";
    return `Fully masked: ${REASONS[this.facts.reason] ?? this.facts.reason}`;
  }
}

function judged(arrived) {
  const age = performance.now() - arrived;
  return age < STALE_AFTER ? "live" : age < LOST_AFTER ? "stale" : "lost";
}

function formatted(latency) {
  return latency < 10000 ? `${latency} ms` : `${Math.round(latency / 1000)} s`;
}

function enlarge(tile) {
  enlarged = tile;
  const from = tile.part("canvas"), to = dialog.querySelector("canvas");
  to.width = from.width;
  to.height = from.height;
  to.getContext("2d").drawImage(from, 0, 0);
  document.getElementById("enlarged-name").textContent = tile.id;
  document.getElementById("enlarged-facts").textContent = "";
  dialog.querySelector(".notice").hidden = true;
  dialog.showModal();
  tile.refresh();
}

dialog.addEventListener("close", () => { enlarged = null; });
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

const visibility = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) tiles.get(target.dataset.camera)?.show(isIntersecting);
}, { rootMargin: "200px" });

async function lookForCameras() {
  try {
    const response = await request("/v1/cameras?limit=1000", { signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const { items: cameras } = await response.json();
    if (!timers.length) return; // left in the meantime
    for (const { id, state, age_ms: age } of cameras) {
      if (!tiles.has(id)) add(id);
      Object.assign(tiles.get(id), { told: state, heard: performance.now() - age });
    }
    problem = "";
  } catch {
    problem = "The bridge does not answer.";
  }
  document.getElementById("empty").hidden = tiles.size > 0 || problem !== "";
  summarize();
}

function add(id) {
  const tile = new Tile(id);
  tiles.set(id, tile);
  const after = [...tiles.keys()].filter((other) => other > id).sort()[0];
  grid.insertBefore(tile.item, after ? tiles.get(after).item : null);
  visibility.observe(tile.item);
}

function summarize() {
  const counts = { live: 0, stale: 0, lost: 0 };
  for (const tile of tiles.values()) counts[tile.facts ? tile.state : tile.reported] += 1;
  const parts = Object.entries(counts).filter(([, count]) => count).map(([state, count]) => `${count} ${state}`);
  const text = problem || parts.join(" · ") || "Waiting for cameras";
  const summary = document.getElementById("summary");
  if (summary.textContent !== text) summary.textContent = text; // said aloud only when it changes
}
