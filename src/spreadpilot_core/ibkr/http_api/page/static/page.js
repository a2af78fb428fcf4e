// What the page does by itself: it follows the events, asks for what has changed, and shows it. Without it all of the page works.
(() => {
  "use strict";
  const AT_ONCE = 50; // followers in one request
  const LONGEST = 6000; // characters of them
  const PAUSE = 150, LONGEST_PAUSE = 5000; // ms before one
  const SHARE = 60; // of the time one page takes a sixtieth of the manager's: many pages are open when much goes wrong
  const AFTER_FAILURE = 3000;
  const HEARTBEATS = 15000;
  const LINES = 2000; // of a log that are kept
  const $ = (selector) => document.querySelector(selector);

  // a link with a token signs in, and leaves no token in the address
  const form = $("[data-token-form]");
  function signIn() {
    if (!form || !location.hash.startsWith("#token=")) return;
    form.elements.token.value = decodeURIComponent(location.hash.slice("#token=".length));
    history.replaceState(null, "", location.pathname + location.search);
    form.requestSubmit();
  }
  signIn();
  addEventListener("hashchange", signIn);

  const address = document.body.dataset.events;
  if (!address || !window.htmx) return;

  const changed = new Set();
  let stream, logStream, whole = false, asking = false, failed = false, took = 0, ended = 0, timer;
  let last = document.body.dataset.after; // what is shown is followed from there on

  const say = (text) => { $("#said").textContent = text; };
  const connection = (text) => {
    const shown = $("#connection");
    shown.textContent = text;
    shown.hidden = false;
  };

  function soon() {
    if (!timer && !asking) timer = setTimeout(ask, failed ? AFTER_FAILURE : Math.min(Math.max(PAUSE, took * SHARE - (Date.now() - ended)), LONGEST_PAUSE));
  }

  async function ask() {
    timer = undefined;
    asking = true;
    failed = false;
    const begun = Date.now();
    try {
      const gateway = $("#gateway");
      if (gateway) {
        changed.clear();
        whole = false;
        const query = new URLSearchParams({ follower: gateway.dataset.follower });
        await htmx.ajax("GET", `/gateway/changes?${query}`, { swap: "none" });
      } else if (whole) {
        changed.clear();
        whole = false;
        await htmx.ajax("GET", location.pathname + location.search, { target: "#main", select: "#main", swap: "outerHTML" });
      } else {
        const query = new URLSearchParams($("#fleet").dataset.query);
        query.set("digest", $("#needs").dataset.digest);
        query.set("rows", $("#fleet").dataset.rows);
        const shown = new Set([...document.querySelectorAll("tr[data-follower]")].map((row) => row.dataset.follower));
        let asked = 0;
        for (const each of [...changed]) {
          if (asked === AT_ONCE || query.toString().length > LONGEST) break;
          changed.delete(each); // of one that is not on this page, the numbers alone change
          if (shown.has(each)) asked = query.append("follower", each) ?? asked + 1;
        }
        await htmx.ajax("GET", `/changes?${query}`, { swap: "none" });
      }
    } finally {
      asking = false;
      ended = Date.now();
      took = ended - begun;
      if (changed.size || whole) soon();
    }
  }

  function take(message) {
    const event = JSON.parse(message.data);
    last = event.id;
    const gateway = $("#gateway");
    if (event.name === "FollowersLoaded" || event.name === "EventsMissed" || event.name === "NoticeGiven") {
      whole = true;
    } else if (event.follower_id && (!gateway || gateway.dataset.follower === event.follower_id)) {
      changed.add(event.follower_id);
      if (event.severity === "error") say(`${event.follower_id}: ${event.sentence}`);
    } else {
      return;
    }
    soon();
  }

  const NAMES = ["FollowersLoaded", "StateChanged", "GatewayLaunched", "GatewayAdopted", "SecondFactorRequested", "LoginCompleted",
    "LoginRejected", "LoginFailed", "GatewayReady", "ConnectionLost", "ClientStale", "IbkrLinkLost", "IbkrLinkRestored", "GatewayLost",
    "GatewayStopped", "SecretRotated", "NoticeGiven", "EventsMissed"];

  function follow() {
    stream = new EventSource(last === undefined ? address : `${address}?after=${last}`);
    for (const name of NAMES) stream.addEventListener(name, take);
    stream.addEventListener("open", () => { connection("Live"); document.body.dataset.live = "yes"; });
    stream.addEventListener("error", () => {
      delete document.body.dataset.live;
      connection(stream.readyState === EventSource.CLOSED ? "Not connected: load the page again" : "Connecting again …");
    });
  }

  function followLog() {
    const log = $("[data-log]");
    if (!log) return;
    log.scrollTop = log.scrollHeight;
    logStream = new EventSource(log.dataset.log);
    let fresh = true; // each connection begins with the newest lines
    logStream.addEventListener("open", () => { fresh = true; });
    logStream.addEventListener("line", (message) => {
      const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
      if (fresh) log.textContent = "";
      fresh = false;
      log.append(`${JSON.parse(message.data)}\n`);
      while (log.childNodes.length > LINES) log.firstChild.remove();
      if (atEnd) log.scrollTop = log.scrollHeight;
    });
    logStream.addEventListener("ended", () => logStream.close());
  }

  async function heartbeats() {
    if (document.hidden || !$("#fleet")) return;
    const answer = await fetch(`/heartbeats?${$("#fleet").dataset.query}`).catch(() => null);
    if (!answer || !answer.ok) return;
    for (const [id, [at, words, clock]] of Object.entries(await answer.json())) {
      const cell = document.getElementById(id)?.querySelector("[data-heartbeat] time");
      if (!cell) continue;
      cell.dateTime = at;
      cell.title = words;
      cell.textContent = clock;
    }
  }

  // a page that nobody sees holds no connection: a browser has six for all pages together
  document.addEventListener("visibilitychange", () => {
    stream?.close();
    logStream?.close();
    if (document.hidden) return;
    follow();
    followLog();
  });

  // whatever was opened stays open when its part of the page comes anew
  let opened = [];
  document.addEventListener("htmx:oobBeforeSwap", () => {
    opened = [...document.querySelectorAll("details[open][id]")].map((each) => each.id);
  });
  document.addEventListener("htmx:oobAfterSwap", () => {
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  });
  // other gateways belong on this page now
  document.addEventListener("other-rows", () => { whole = true; soon(); });

  // what could not be asked for is asked for later, and with it all that came meanwhile
  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, () => { failed = true; whole = true; });
  }

  htmx.config.timeout = 30000;
  follow();
  followLog();
  setInterval(heartbeats, HEARTBEATS);
})();
