// Keeps an open page up to date. Without it, everything works: the page is then as it was when it was loaded.
"use strict";

(() => {
  const MOST_CHARACTERS = 262144; // of each stream that is shown; the server has the rest
  const NEWS_MILLISECONDS = 10000; // a screen reader is told at most so often

  // ------------------------------------------------------------ times

  function brief(seconds) { // a whole number; the server writes the same
    if (seconds < 100) return `${seconds}s`;
    let minutes = Math.floor(seconds / 60);
    const two = (number) => String(number).padStart(2, "0");
    if (minutes < 100) return `${minutes}m${two(seconds % 60)}s`;
    minutes = Math.round(seconds / 60);
    const hours = Math.floor(minutes / 60);
    if (hours < 48) return `${hours}h${two(minutes % 60)}m`;
    return `${Math.floor(hours / 24)}d${hours % 24}h`;
  }

  function ago(seconds) {
    for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
      if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${unit} ago`;
    }
    return `${Math.max(0, Math.floor(seconds))} s ago`;
  }

  function bytes(count) {
    if (count < 1024) return `${count} B`;
    for (const unit of ["KiB", "MiB", "GiB"]) {
      count /= 1024;
      if (count < 1023.95) return `${count.toFixed(1)} ${unit}`;
    }
    return `${(count / 1024).toFixed(1)} TiB`;
  }

  function put(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function tick() {
    const now = Date.now();
    for (const each of document.querySelectorAll("[data-since]")) {
      put(each, brief(Math.max(0, Math.floor((now - each.dataset.since) / 1000))));
    }
    for (const each of document.querySelectorAll("[data-ago]")) put(each, ago((now - each.dataset.ago) / 1000));
    for (const each of document.querySelectorAll("[data-left]")) {
      const seconds = Math.floor((each.dataset.left - now) / 1000);
      put(each, seconds >= 0 ? `${brief(seconds)} left` : `over by ${brief(-seconds)}`);
    }
  }

  // Moments are written in the time zone of the server; here they are shown in that of the reader.
  function localise() {
    const two = (number) => String(number).padStart(2, "0");
    const today = new Date().toDateString();
    for (const each of document.querySelectorAll("[data-clock], [data-until]")) {
      const moment = new Date(Number(each.dataset.clock ?? each.dataset.until));
      const date = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())} `;
      const time = `${two(moment.getHours())}:${two(moment.getMinutes())}`;
      const short = "until" in each.dataset;
      put(each, short ? (moment.toDateString() === today ? "" : date) + time : `${date}${time}:${two(moment.getSeconds())}`);
    }
  }

  // ------------------------------------------------------------ parts of the page

  let newsAt = 0;
  let newsTimer = null;

  function tell(news) {
    clearTimeout(newsTimer);
    const element = document.getElementById("news");
    newsTimer = setTimeout(() => {
      if (element && news && element.textContent !== news) {
        newsAt = Date.now();
        element.textContent = news;
      }
    }, Math.max(0, newsAt + NEWS_MILLISECONDS - Date.now()));
  }

  async function replace(sections) {
    const focused = document.activeElement;
    const job = focused?.dataset?.job;
    for (const [name, html] of Object.entries(sections)) {
      const target = document.getElementById(name);
      if (target) await htmx.swap({ text: html, target, sourceElement: target, swap: "outerMorph" });
    }
    tick();
    localise();
    // A job that has moved from one list to another keeps the focus.
    if (job && !focused.isConnected) document.querySelector(`[data-job="${CSS.escape(job)}"]`)?.focus({ preventScroll: true });
    document.dispatchEvent(new CustomEvent("supervisor:replaced", { detail: Object.keys(sections) }));
  }

  function append(stream, text, begun) {
    const pre = document.getElementById(stream);
    if (!pre || !text) return;
    const follows = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
    if (begun) pre.replaceChildren();
    pre.append(text);
    pre.normalize();
    if (pre.textContent.length > MOST_CHARACTERS) {
      const rest = pre.textContent.slice(-MOST_CHARACTERS / 2);
      pre.textContent = rest.slice(rest.indexOf("\n") + 1);
    }
    if (follows) pre.scrollTop = pre.scrollHeight;
  }

  // ------------------------------------------------------------ the stream

  const address = document.body.dataset.stream;
  const offsets = {};
  let source = null;
  let over = false;
  let queue = Promise.resolve(); // one change after the other, in their order

  function show(word, lost) {
    const link = document.getElementById("link");
    if (!link) return;
    link.hidden = false;
    link.classList.toggle("lost", lost);
    put(document.getElementById("link-word"), word);
  }

  function connect() {
    if (source || over || !address || document.hidden) return;
    const query = new URLSearchParams(offsets).toString();
    source = new EventSource(query ? `${address}?${query}` : address);
    source.onopen = () => show("live", false);
    source.onerror = () => show(source.readyState === EventSource.CLOSED ? "not live: load the page again" : "connecting", true);
    source.addEventListener("sections", (event) => {
      const { sections, news } = JSON.parse(event.data);
      show("live", false);
      queue = queue.then(() => replace(sections)).catch(console.error);
      tell(news);
    });
    source.addEventListener("output", (event) => {
      const { stream, text, end } = JSON.parse(event.data);
      append(stream, text, false);
      offsets[stream] = end;
      const size = document.getElementById(`${stream}-size`);
      if (size) put(size, bytes(end));
    });
    source.addEventListener("skip", (event) => {
      const { stream, bytes } = JSON.parse(event.data);
      append(stream, `[${bytes} bytes are left out here]\n`, true);
    });
    source.addEventListener("problem", (event) => show(JSON.parse(event.data), true));
    source.addEventListener("over", () => {
      over = true;
      disconnect();
      show("ended", false);
    });
  }

  function disconnect() {
    source?.close();
    source = null;
  }

  for (const pre of document.querySelectorAll("pre[data-end]")) {
    offsets[pre.id] = pre.dataset.end;
    pre.scrollTop = pre.scrollHeight;
  }
  tick();
  localise();
  setInterval(tick, 1000);
  connect();
  // A browser has few connections to one server: a page that is not seen leaves its own to the others.
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", connect);
})();
