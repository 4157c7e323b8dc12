// Builds elements, and updates the page to match newly built ones in place, so that focus, selection, scroll position and open details stay.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (null and false leave one out) and children: elements, texts, or arrays of them. A text never becomes markup. */
export function h(tag, attributes, ...children) {
  return built(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s(tag, attributes, ...children) {
  return built(document.createElementNS(SVG, tag), attributes, children);
}

/** Make `parent` hold exactly `children`. An element with a `data-key` is matched by its key, any other by its position. */
export function fill(parent, ...children) {
  reconcile(parent, built(document.createElement("div"), {}, children).childNodes);
}

function built(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function reconcile(parent, target) {
  const keyed = new Map([...parent.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  let here = parent.firstChild;
  for (const next of [...target]) {
    const match = next.dataset?.key ? keyed.get(next.dataset.key) : here && !here.dataset?.key && here.nodeName === next.nodeName ? here : undefined;
    if (!match) {
      parent.insertBefore(next, here);
      continue;
    }
    if (match === here) here = here.nextSibling;
    else parent.insertBefore(match, here);
    update(match, next);
  }
  while (here) {
    const surplus = here;
    here = here.nextSibling;
    surplus.remove();
  }
}

function update(node, target) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== target.data) node.data = target.data;
    return;
  }
  for (const { name } of [...node.attributes]) {
    if (!target.hasAttribute(name) && !(name === "open" && node.nodeName === "DETAILS")) node.removeAttribute(name);
  }
  for (const { name, value } of target.attributes) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  reconcile(node, target.childNodes);
}
