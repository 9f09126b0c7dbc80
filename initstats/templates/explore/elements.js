/** Elements made of names, attributes and children; text never becomes markup. */

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** An element of HTML. */
export function html(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** An element of SVG. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

/** The number of a drawn pair, in its colour. */
export function badge(slot) {
  return html("span", { class: "badge", style: `--pin: ${colourOf(slot)}` }, `${slot + 1}`);
}

const COLOURS = 8;

/** The colour of a drawn pair. */
export function colourOf(slot) {
  return `var(--pin-${slot % COLOURS})`;
}
