// Makes pictures of what one socket sends: JPEGs, and H.264 by WebCodecs. Message format: docs/bridge.md.

const WINDOW = 4096; // sequences whose pictures are remembered; as in agents/runs.py
const MOST_QUEUED = 300; // units that wait for the decoder; beyond it, on to the next keyframe
const MOST_ERRORS = 3; // of the decoder, without a picture in between

// Browsers have it in secure contexts only: https, or this machine itself.
export const decodesVideo = "VideoDecoder" in window;

export class Player {
  // show(picture, width, height, facts): draw it now, it is closed afterwards. unplayable(): ask for JPEG instead.
  constructor(show, unplayable) {
    this.show = show;
    this.unplayable = unplayable;
    this.seen = new Seen();
    this.queue = []; // messages that wait
    this.facts = new Map(); // of units in the decoder, by timestamp
    this.count = 0;
    this.errors = 0;
    this.decoder = null;
  }

  take(data) {
    const length = new DataView(data).getUint32(0);
    const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    facts.received = performance.now();
    this.queue.push({ facts, bytes: new Uint8Array(data, 4 + length) });
    if (!this.running) this.run();
  }

  close() {
    this.closed = true;
    this.queue = [];
    this.lose();
  }

  async run() {
    this.running = true;
    while (this.queue.length) {
      const { facts, bytes } = this.queue.shift();
      try {
        if (isUnit(facts)) await this.decode(facts, bytes);
        else if (this.queue.every((later) => isUnit(later.facts))) await this.still(facts, bytes); // the newest only
      } catch {
        // what no browser can draw: the last picture stays, and grows stale
      }
    }
    this.running = false;
  }

  async still(facts, bytes) {
    const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    this.draw(bitmap, bitmap.width, bitmap.height, facts);
  }

  async decode(facts, bytes) {
    if (facts.keyframe && !(this.decoder && facts.stream === this.stream)) await this.open(facts.stream, bytes);
    else if (!facts.keyframe && !(facts.stream === this.stream && facts.unit === this.next)) this.lose();
    if (this.queue.length + (this.decoder?.decodeQueueSize ?? 0) > MOST_QUEUED) this.lose();
    if (!this.decoder) return; // until the next keyframe
    this.next = facts.unit + 1;
    this.facts.set(this.count, facts);
    const type = facts.keyframe ? "key" : "delta";
    this.decoder.decode(new EncodedVideoChunk({ type, timestamp: this.count++, data: bytes }));
  }

  async open(stream, keyframe) {
    await this.decoder?.flush().catch(() => {});
    this.lose();
    const config = { codec: codec(keyframe), optimizeForLatency: true };
    const { supported } = await VideoDecoder.isConfigSupported(config);
    if (this.closed) return;
    if (!supported) return this.unplayable();
    this.stream = stream;
    this.decoder = new VideoDecoder({ output: (frame) => this.output(frame), error: () => this.failed() });
    this.decoder.configure(config);
  }

  output(frame) {
    const facts = this.facts.get(frame.timestamp);
    this.facts.delete(frame.timestamp);
    this.errors = 0;
    this.draw(frame, frame.displayWidth, frame.displayHeight, facts);
  }

  draw(picture, width, height, facts) {
    try {
      if (!this.closed && facts && this.isNew(facts)) this.show(picture, width, height, facts);
    } finally {
      picture.close();
    }
  }

  // To this page, and to the bridge, which may have shown it before this page came; but better that than nothing.
  isNew({ frame, new: toBridge = true }) {
    return (toBridge || this.seen.empty) && this.seen.add(frame);
  }

  failed() {
    this.lose();
    if (++this.errors >= MOST_ERRORS) this.unplayable();
  }

  lose() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
    this.facts.clear();
  }
}

// The pictures drawn: a restarted anonymizer sends some again. Sequences may go back by a few.
class Seen {
  epoch = -1;
  newest = -1;
  recent = new Set();

  get empty() {
    return this.epoch < 0;
  }

  // Whether the picture is new.
  add(frame) {
    const [epoch, sequence] = frame.split("/").slice(1).map(Number);
    if (epoch > this.epoch) {
      [this.epoch, this.newest] = [epoch, -1];
      this.recent.clear();
    }
    if (epoch < this.epoch || sequence <= this.newest - WINDOW || this.recent.has(sequence)) return false;
    this.newest = Math.max(this.newest, sequence);
    this.recent.add(sequence);
    if (this.recent.size > WINDOW) this.recent.delete(this.recent.values().next().value); // the one added first
    return true;
  }
}

function isUnit(facts) {
  return facts.stream !== undefined;
}

// RFC 6381: profile, constraints and level are the three bytes behind the type of the sequence parameter set (7).
function codec(unit) {
  for (let i = 0; i + 6 < unit.length; i++) {
    if (unit[i] === 0 && unit[i + 1] === 0 && unit[i + 2] === 1 && (unit[i + 3] & 0x1f) === 7) {
      const bytes = [...unit.subarray(i + 4, i + 7)];
      return `avc1.${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
    }
  }
  throw new Error("a keyframe without its sequence parameter set");
}
