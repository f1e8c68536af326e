// Caches the page itself for offline use. The build fills in the two constants. Models are not cached here: the package
// has a cache of its own for them.
const CACHE = "esolm-page-__VERSION__";
const FILES = __FILES__;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      // From the server: the browser's own cache may still have files of an earlier version.
      .then((cache) => cache.addAll(["./", ...FILES.filter((name) => name !== "index.html")].map((name) => new Request(name, { cache: "reload" }))))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter((n) => n.startsWith("esolm-page-") && n !== CACHE).map((n) => caches.delete(n))))
      .then(() => self.clients.claim()),
  );
});

/** The page from the network; without one, the page that was cached along with its files. */
async function page(request) {
  try {
    return await fetch(request);
  } catch (error) {
    const cache = await caches.open(CACHE);
    const cached = await cache.match("./", { ignoreVary: true });
    if (cached) return cached;
    throw error;
  }
}

async function kept(request) {
  const cache = await caches.open(CACHE);
  return (await cache.match(request, { ignoreSearch: true, ignoreVary: true })) ?? fetch(request);
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  const scope = new URL("./", self.location);
  if (request.method !== "GET" || url.origin !== scope.origin || !url.pathname.startsWith(scope.pathname)) return;
  const name = url.pathname.slice(scope.pathname.length);
  if (request.mode === "navigate") {
    // Other pages may lie below this one.
    if (name === "" || name === "index.html") event.respondWith(page(request));
  } else if (FILES.includes(name)) event.respondWith(kept(request));
});
