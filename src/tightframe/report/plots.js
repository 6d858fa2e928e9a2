"use strict";

// What the plots of a page look like: colours of its style, layout, axes. Scripts that draw follow.
const plots = (() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)");
  const css = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const number = (value) => `${Number(value.toPrecision(4))}`.replace("-", "\u2212");
  const config = { displayModeBar: false, responsive: true };

  // Asked for at each drawing: the style changes with the reader's choice of dark or light.
  function look() {
    const names = ["card", "ink", "soft", "rule", "grid", "sans"];
    return Object.fromEntries(names.map((name) => [name, css(name)]));
  }

  function layout(own, more) {
    return {
      font: { family: own.sans, color: own.ink }, paper_bgcolor: own.card, plot_bgcolor: own.card,
      margin: { l: 52, r: 12, t: 8, b: 50 }, hovermode: "closest", showlegend: false,
      dragmode: touch.matches ? false : "zoom",
      hoverlabel: {
        align: "left", bgcolor: own.card, bordercolor: own.soft,
        font: { family: own.sans, color: own.ink, size: 12.5 },
      },
      ...more,
    };
  }

  function axis(own, text) {
    return {
      gridcolor: own.grid, linecolor: own.rule, tickcolor: own.rule, zeroline: false,
      ticks: "outside", ticklen: 4, automargin: true, nticks: 6,
      tickfont: { color: own.soft, size: 12 }, exponentformat: "power",
      title: { text, standoff: 8, font: { color: own.ink, size: 12.5 } },
    };
  }

  return { axis, config, css, dark, layout, look, number };
})();
