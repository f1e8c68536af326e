// Announcements for screen readers, and messages that say what went wrong.

import { element } from "./dom";

const live = element("live", HTMLElement);
const alerts = element("alerts", HTMLElement);

/** Announced politely: the screen reader finishes its sentence first. */
export function announce(sentence: string): void {
  live.textContent = sentence;
}

/** Shows a problem until it is dismissed or the next action starts. */
export function alertProblem(sentence: string): void {
  const box = document.createElement("div");
  const text = document.createElement("p");
  const close = document.createElement("button");
  box.className = "alert";
  text.textContent = sentence;
  close.type = "button";
  close.className = "quiet";
  close.textContent = "Dismiss";
  close.addEventListener("click", () => box.remove());
  box.append(text, close);
  alerts.replaceChildren(box);
}

export function clearProblem(): void {
  alerts.replaceChildren();
}
