"use strict";

// Draws the classes of one model as points. The data is in the page, as JSON; tokens are escaped.
(() => {
  const data = JSON.parse(document.getElementById("classes").textContent);
  const plot = document.getElementById("by-token-plot");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)");
  const css = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const number = (value) =>
    value === null ? "\u2014" : `${Number(value.toPrecision(4))}`.replace("-", "\u2212");

  function hover(i) {
    const near = data.nearest[i] === null
      ? "" : `<br>nearest ${data.nearest[i]}, ${number(data.nearest_angle[i])}\u00b0`;
    return (
      `<b>${data.token[i]}</b>  ${data.count[i].toLocaleString("en")} times<br>` +
      `norm ${number(data.norm[i])}<br>` +
      `CDNV ${number(data.cdnv[i])}, debiased ${number(data.cdnv_db[i])}<br>` +
      `interference ${number(data.interference[i])}, duality ${number(data.duality[i])}<br>` +
      `agreement ${number(data.agreement[i])}${near}`
    );
  }

  function draw() {
    const chosen = document.querySelector('input[name="of-token"]:checked').value;
    const panel = data.panels[chosen];
    const [card, ink, soft, rule, grid, accent, sans] =
      ["card", "ink", "soft", "rule", "grid", "accent", "sans"].map(css);
    const kept = data.count.map((_, i) => i).filter((i) => data[chosen][i] !== null);
    const axis = {
      gridcolor: grid, linecolor: rule, tickcolor: rule, zeroline: false, ticks: "outside",
      ticklen: 4, automargin: true, tickfont: { color: soft, size: 12 },
    };
    const title = (text) => ({ text, standoff: 8, font: { color: ink, size: 13 } });
    for (const note of document.querySelectorAll("[data-of-token]")) {
      note.hidden = note.dataset.ofToken !== chosen;
    }
    plot.setAttribute(
      "aria-label",
      `Scatter plot of ${kept.length} tokens: ${panel.title} against how often they come next. ` +
        "The values are in classes.csv among the results.",
    );
    window.Plotly.react(
      plot,
      [{
        x: kept.map((i) => data.count[i]), y: kept.map((i) => data[chosen][i]), mode: "markers",
        hoverinfo: "text", hovertext: kept.map(hover), showlegend: false,
        marker: { size: 6, color: accent, opacity: 0.5, line: { width: 0 } },
      }],
      {
        font: { family: sans, color: ink }, paper_bgcolor: card, plot_bgcolor: card,
        margin: { l: 52, r: 10, t: 10, b: 50 }, hovermode: "closest",
        dragmode: touch.matches ? false : "zoom",
        hoverlabel: {
          align: "left", bgcolor: card, bordercolor: soft,
          font: { family: sans, color: ink, size: 12.5 },
        },
        xaxis: { ...axis, type: "log", dtick: 1, tickformat: ",", title: title("count in the training text") },
        yaxis: {
          ...axis, type: panel.ticks ? "log" : "linear", title: title(panel.title),
          ...(panel.ticks && { tickvals: panel.ticks, ticktext: panel.ticks.map(number) }),
        },
      },
      { displayModeBar: false, responsive: true },
    );
  }

  draw();
  for (const input of document.querySelectorAll('input[name="of-token"]')) {
    input.addEventListener("change", draw);
  }
  dark.addEventListener("change", draw);
})();
