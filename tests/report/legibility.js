// Run in the page: [contrast, text] of every text that is seen and [contrast, class] of every line of a chart, against what is behind.
const channels = (color) => color.match(/[\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (a, b) => {
  const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
const paint = (node) => channels(getComputedStyle(node)[node instanceof SVGElement ? "fill" : "color"]);
const behind = (node) => {
  for (let n = node; n; n = n.parentElement) {
    const color = channels(getComputedStyle(n).backgroundColor);
    if (color.length < 4 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const seen = (node) => node.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true });
const texts = [...document.body.querySelectorAll("*")]
  .filter((n) => [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim()) && seen(n))
  .map((n) => [contrast(paint(n), behind(n)), n.textContent]);
const lines = [...document.querySelectorAll(".plot > g > .line, .legend .swatch path")].filter(seen)
  .map((n) => [contrast(channels(getComputedStyle(n).stroke), behind(n)), n.parentElement.className.baseVal]);
return { texts, lines };
