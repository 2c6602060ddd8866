"use strict";
// What tests want to know of the page that they have opened.
const INSIDE = "svg, svg *, script, style, head, head *, option";

const visible = (one) => one.checkVisibility({ visibilityProperty: true }) && one.getClientRects().length > 0;
const told = (one) => `${one.tagName.toLowerCase()}${one.id && "#" + one.id} ${one.textContent.trim().slice(0, 40)}`;
const box = (one) => {
  const { left, top, right, bottom } = one.getBoundingClientRect();
  return { left, top: top + scrollY, right, bottom: bottom + scrollY };
};
const scrolls = (one) => ["auto", "scroll"].includes(getComputedStyle(one).overflowX);
const texts = () => [...document.querySelectorAll("svg text")].filter(visible);

// Two boxes share more than a sliver: letters do not fill theirs to the edge.
const overlap = (a, b) =>
  Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
  Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.3 * Math.min(a.bottom - a.top, b.bottom - b.top);

window.probes = {
  headings: () => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((one) => Number(one.tagName[1])),

  // Pictures without a pixel and drawings without a box.
  unseen: () => [
    ...[...document.images].filter((one) => !(one.complete && one.naturalWidth > 0 && visible(one))),
    ...[...document.querySelectorAll("svg")].filter((one) => !(box(one).right - box(one).left > 20)),
  ].map(told),

  pictures: () => [document.images.length, document.querySelectorAll("svg").length],

  // What the keyboard has to reach, in the order of the page.
  stops: () => {
    const all = [...document.querySelectorAll("a[href], button, summary, [tabindex='0']")].filter(visible);
    for (const [place, one] of all.entries()) one.dataset.stop = place;
    return all.length;
  },

  // Regions that scroll sideways or up and down, and that the keyboard does not reach.
  stuck: () => [...document.querySelectorAll("body *")]
    .filter((one) => visible(one) && (one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1))
    .filter((one) => scrolls(one) && one.tabIndex < 0)
    .map(told),

  focused: () => {
    const one = document.activeElement;
    const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(one);
    const { left, top, right, bottom } = one.getBoundingClientRect();
    return {
      stop: Number(one.dataset.stop ?? -1),
      what: told(one),
      outline: outlineStyle === "none" ? 0 : parseFloat(outlineWidth),
      colour: outlineColor,
      seen: right > 0 && bottom > 0 && left < innerWidth && top < innerHeight,
    };
  },

  // Elements that are wider than what holds them, where nothing between scrolls.
  sticking: () => {
    const found = [];
    if (document.documentElement.scrollWidth > innerWidth) found.push(`page ${document.documentElement.scrollWidth}`);
    for (const one of document.querySelectorAll("body *")) {
      if (one.matches(INSIDE) && one.tagName !== "svg") continue;
      if (!visible(one) || one.closest(".skip, .visually-hidden")) continue;
      const [inner, outer] = [box(one), box(one.parentElement)];
      if (scrolls(one.parentElement) || one.parentElement === document.body) continue;
      if (inner.right > outer.right + 1 || inner.left < outer.left - 1) found.push(told(one));
      if (!scrolls(one) && one.tagName !== "svg" && one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0) {
        found.push(`${told(one)} holds more than fits`);
      }
    }
    return found;
  },

  // Words of drawings that cover one another or leave the drawing.
  covered: () => {
    const found = [];
    for (const drawing of document.querySelectorAll("svg")) {
      const all = [...drawing.querySelectorAll("text")].map((one) => [one.textContent, box(one)]);
      const edge = box(drawing);
      for (const [place, [words, here]] of all.entries()) {
        const out = here.left < edge.left - 1 || here.right > edge.right + 1 || here.top < edge.top - 1;
        if (out || here.bottom > edge.bottom + 1) found.push(`${words} leaves ${drawing.getAttribute("aria-label")}`);
        for (const [other, there] of all.slice(place + 1)) {
          if (overlap(here, there)) found.push(`${words} | ${other}`);
        }
      }
    }
    return found;
  },

  // Where words of drawings stand, and in which colour and size.
  words: () => texts().map((one) => {
    const { fill, fillOpacity, opacity } = getComputedStyle(one);
    const size = parseFloat(getComputedStyle(one).fontSize) * Math.hypot(one.getScreenCTM().a, one.getScreenCTM().b);
    return { text: one.textContent, fill, opacity: Number(opacity) * Number(fillOpacity), size, box: box(one) };
  }),

  // Lines that carry data: neither grids nor what was smoothed.
  lines: () => [...document.querySelectorAll("svg path")].filter(visible).map((one) => getComputedStyle(one))
    .filter((style) => style.stroke !== "none" && parseFloat(style.strokeWidth) >= 1 && Number(style.strokeOpacity) === 1)
    .map((style) => style.stroke),

  hideWords: () => { for (const one of texts()) one.style.visibility = "hidden"; },

  // Summaries whose contents take no room.
  folded: () => [...document.querySelectorAll("details")]
    .filter((one) => ![...one.children].some((part) => part.tagName !== "SUMMARY" && visible(part) && part.offsetHeight > 0))
    .map(told),
};
