import { html, svg } from "./elements.js";

/** Files of what is shown: a table for other programs, a picture for a text. */

const LINE = 17;

/** A table as CSV. */
export function csv(rows) {
  const quoted = (value) => {
    const text = String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map(quoted).join(",")}\n`).join("");
}

/** A picture that needs no page: with a title, a legend, and colours of its own. */
export function picture(drawing, title, legend) {
  const copy = drawing.cloneNode(true);
  const [, , width, height] = copy.getAttribute("viewBox").split(" ").map(Number);
  const top = LINE + 8;
  const entries = legend.map(({ slot, name, colour }, at) => {
    const y = height + (at + 1) * LINE;
    return svg(
      "g",
      {},
      svg("circle", { cx: 20, cy: y - 4, r: 7.5, fill: colour }),
      svg("text", { class: "number", x: 20, y, "text-anchor": "middle" }, `${slot + 1}`),
      svg("text", { x: 34, y }, name),
    );
  });
  const full = height + legend.length * LINE + 10;
  copy.setAttribute("viewBox", `0 ${-top} ${width} ${full + top}`);
  copy.setAttribute("width", width);
  copy.setAttribute("height", full + top);
  copy.removeAttribute("aria-hidden");
  copy.prepend(
    svg("style", {}, styles()),
    svg("rect", { class: "paper", x: 0, y: -top, width, height: full + top }),
    svg("text", { class: "title", x: 8, y: -8 }, title),
  );
  copy.append(...entries);
  return settled(new XMLSerializer().serializeToString(copy));
}

/** The page's rules for drawings. */
function styles() {
  const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
  const drawn = rules.filter((rule) => rule.selectorText?.startsWith(".explore svg"));
  return drawn.map((rule) => rule.cssText.replaceAll(".explore svg", "svg")).join("\n");
}

/** Markup in which the page's variables have their values. */
function settled(markup) {
  const page = getComputedStyle(document.querySelector(".explore"));
  return markup
    .replaceAll(/var\((--[\w-]+)\)/g, (_, name) => page.getPropertyValue(name).trim())
    .replaceAll("currentColor", page.color);
}

/** Hand a file to the reader. */
export function save(name, kind, text) {
  const address = URL.createObjectURL(new Blob([text], { type: kind }));
  html("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
