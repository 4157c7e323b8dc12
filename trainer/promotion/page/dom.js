// Elements, and a way to bring the page to look like newly built ones while what stays is kept: focus, selection, scroll and open details survive.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (null and false leave one out) and children: elements, texts, or arrays of them. Texts stay texts, whoever wrote them. */
export function h(tag, attributes, ...children) {
  return built(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
export function s(tag, attributes, ...children) {
  return built(document.createElementNS(SVG, tag), attributes, children);
}

/** Let `place` hold exactly `children`. Those with `data-key` are known again wherever they stand, others by their place. */
export function fill(place, ...children) {
  reconcile(place, built(document.createElement("div"), {}, children).childNodes);
}

function built(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function reconcile(place, wanted) {
  const keyed = new Map([...place.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  let here = place.firstChild;
  for (const next of [...wanted]) {
    const match = next.dataset?.key ? keyed.get(next.dataset.key) : here && !here.dataset?.key && here.nodeName === next.nodeName ? here : undefined;
    if (!match) {
      place.insertBefore(next, here);
      continue;
    }
    if (match === here) here = here.nextSibling;
    else place.insertBefore(match, here);
    become(match, next);
  }
  while (here) {
    const gone = here;
    here = here.nextSibling;
    gone.remove();
  }
}

function become(node, wanted) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== wanted.data) node.data = wanted.data;
    return;
  }
  for (const { name } of [...node.attributes]) {
    if (!wanted.hasAttribute(name) && !(name === "open" && node.nodeName === "DETAILS")) node.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  reconcile(node, wanted.childNodes);
}
