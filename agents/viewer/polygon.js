// Polygons of zones: corners [x, y] as shares of the picture. The rules of schemas/zone.py, said while drawing.

const SMALLEST_AREA = 1e-6;

// What is wrong with it, or "".
export function fault(polygon) {
  if (polygon.length < 3) return "A zone wants three corners at least.";
  const edges = polygon.map((corner, i) => [corner, polygon[(i + 1) % polygon.length]]);
  const twice = edges.findIndex(([start, end]) => same(start, end));
  if (twice >= 0) return `Corner ${twice + 1} and the next are the same. Move one or remove it.`;
  for (let i = 0; i < edges.length; i++) {
    for (let j = i + 1; j < edges.length; j++) {
      const neighbours = j - i === 1 || (i === 0 && j === edges.length - 1);
      if (neighbours ? foldsBack(edges[i], edges[j]) : meet(...edges[i], ...edges[j])) {
        return `It crosses itself: the edge from corner ${i + 1} meets that from corner ${j + 1}. Move a corner.`;
      }
    }
  }
  return Math.abs(area(polygon)) < SMALLEST_AREA ? "It encloses nothing. Move its corners apart." : "";
}

function same(a, b) {
  return a[0] === b[0] && a[1] === b[1];
}

function area(polygon) {
  return polygon.reduce((sum, [x, y], i) => {
    const [u, v] = polygon[(i + 1) % polygon.length];
    return sum + (x * v - u * y) / 2;
  }, 0);
}

// Its sign says on which side of ab lies c; 0: on the line.
function turn(a, b, c) {
  return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
}

function meet(a, b, c, d) {
  if (turn(a, b, c) * turn(a, b, d) < 0 && turn(c, d, a) * turn(c, d, b) < 0) return true;
  const touching = [[a, b, c], [a, b, d], [c, d, a], [c, d, b]];
  return touching.some(([p, q, r]) => turn(p, q, r) === 0 && within(p, q, r));
}

function within(a, b, c) {
  return [0, 1].every((i) => Math.min(a[i], b[i]) <= c[i] && c[i] <= Math.max(a[i], b[i]));
}

function foldsBack(first, second) {
  const shared = second.some((corner) => same(corner, first[1])) ? first[1] : first[0];
  const a = same(first[1], shared) ? first[0] : first[1];
  const b = same(second[1], shared) ? second[0] : second[1];
  const ahead = (a[0] - shared[0]) * (b[0] - shared[0]) + (a[1] - shared[1]) * (b[1] - shared[1]);
  return turn(shared, a, b) === 0 && ahead > 0;
}
