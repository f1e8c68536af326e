// What a screen reader hears, and the sentences that say what went wrong.

import { element } from "./dom";

const live = element("live", HTMLElement);
const alerts = element("alerts", HTMLElement);

/** Said politely, when the reader has a pause. */
export function announce(sentence: string): void {
  live.textContent = sentence;
}

/** Shows a problem until it is dismissed or the next thing is tried. */
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
