// The dashboard's own behaviour: the live indicator, and rows that open on a click.
// The page is complete without it; htmx replaces the list when the registry sends a new one.

"use strict";

// The registry says something every 5 seconds; silence for this long means that the connection is dead even
// though nobody closed it (a suspended machine, a stopped process).
const SILENCE_MS = 20000;

const indicator = document.getElementById("live");
let silence;

function show(state, text) {
  if (indicator.dataset.state === state) return;
  indicator.dataset.state = state;
  indicator.querySelector("span").textContent = text;
}

function live() {
  show("live", "Live");
  clearTimeout(silence);
  silence = setTimeout(paused, SILENCE_MS);
}

function paused() {
  clearTimeout(silence);
  show("paused", "Paused: reload to update");
}

if (indicator) {
  for (const name of ["after:connection", "before:message"]) document.addEventListener(`htmx:sse:${name}`, live);
  for (const name of ["before:connection", "error", "close"]) document.addEventListener(`htmx:sse:${name}`, paused);
}

// A click anywhere in a device's row opens its checks, as its summary does. Selecting text does not.
document.addEventListener("click", (event) => {
  const row = event.target.closest("tr.device");
  if (!row || event.target.closest("a, button, summary") || !getSelection().isCollapsed) return;
  const details = row.parentElement.querySelector("details");
  if (details) details.open = !details.open;
});
