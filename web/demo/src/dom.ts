/** The element with an id; the page is broken without it. */
export function element<T extends HTMLElement>(id: string, kind: { new (): T; readonly prototype: T }): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`The page has no ${kind.name} with the id “${id}”.`);
  return found;
}

export const button = (id: string): HTMLButtonElement => element(id, HTMLButtonElement);
export const input = (id: string): HTMLInputElement => element(id, HTMLInputElement);

export const select = (id: string): HTMLSelectElement => element(id, HTMLSelectElement);

export function setText(id: string, text: string): void {
  const target = element(id, HTMLElement);
  if (target.textContent !== text) target.textContent = text;
}

const reduced = matchMedia("(prefers-reduced-motion: reduce)");
export const stillness = (): boolean => reduced.matches;
