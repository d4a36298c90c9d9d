export function enter() {}
export function leave() {}
