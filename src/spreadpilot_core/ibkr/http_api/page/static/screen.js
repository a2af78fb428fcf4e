// A gateway's screen, by noVNC: over a WebSocket of this very manager, which has the password and lets view-only be just that.
import RFB from "./vendor/novnc/core/rfb.js";

const section = document.querySelector("[data-screen]");
const view = document.querySelector("#screen-view");
const said = document.querySelector("#screen-said");
const close = document.querySelector("[data-close-screen]");
let rfb;

function end() {
  rfb?.disconnect();
}

function open(control) {
  end();
  const url = new URL(section.dataset.screen, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  if (control) url.searchParams.set("control", "true");
  view.replaceChildren();
  view.hidden = false;
  said.textContent = "Connecting …";
  const mine = new RFB(view, url.href, { shared: true });
  rfb = mine;
  mine.viewOnly = !control;
  mine.scaleViewport = true;
  let shown = false;
  mine.addEventListener("connect", () => {
    shown = true;
    close.hidden = false;
    said.textContent = control ? "Shown, with your keyboard and mouse" : "Shown, view only";
  });
  mine.addEventListener("disconnect", () => {
    if (rfb !== mine) return;
    view.hidden = true;
    close.hidden = true;
    said.textContent = shown ? "Closed" : "The screen can't be shown: its gateway shows none now, or does not answer";
  });
}

for (const button of document.querySelectorAll("[data-open-screen]")) {
  button.addEventListener("click", () => open(button.dataset.openScreen === "control"));
}
close.addEventListener("click", end);
