// What is wider than the window scrolls by itself. A keyboard must reach it, also where the theme makes such a box late, or
// takes its place in the order away.
const reach = () => {
  for (const box of document.querySelectorAll("pre > code, .formula, .md-typeset__scrollwrap")) {
    if (box.tabIndex !== 0) box.tabIndex = 0;
  }
};
const every = { attributeFilter: ["tabindex"], childList: true, subtree: true };
new MutationObserver(reach).observe(document.querySelector(".md-content"), every);
reach();
