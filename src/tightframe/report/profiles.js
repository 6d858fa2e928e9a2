"use strict";

// Draws one checkpoint in small multiples: measures against its layers, or the counts of its classes.
(() => {
  const data = JSON.parse(document.getElementById("profiles").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)");
  const css = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const clear = (colour, share) =>
    `${colour}${Math.round(255 * share).toString(16).padStart(2, "0")}`;

  // A band for every stretch of places whose values have both ends of an interval.
  function bands(line, colour) {
    const stretches = [[]];
    line.x.forEach((_, i) => {
      if (line.low[i] === null || line.high[i] === null) stretches.push([]);
      else stretches.at(-1).push(i);
    });
    return stretches.filter((places) => places.length).map((places) => {
      const back = [...places].reverse();
      const alone = places.length === 1;
      return {
        x: [...places, ...back].map((i) => line.x[i]),
        y: [...places.map((i) => line.low[i]), ...back.map((i) => line.high[i])],
        mode: "lines", hoverinfo: "skip", showlegend: false,
        ...(!alone && { fill: "toself", fillcolor: clear(colour, line.twin ? 0.12 : 0.2) }),
        line: { width: alone ? 5 : 0.75, color: clear(colour, 0.35) },
      };
    });
  }

  function traces(panel) {
    const symbols = { next: "circle", current: "square", shuffled: "diamond" };
    const coloured = panel.lines.map((line) => [line, css(line.labels)]);
    return [
      ...coloured.flatMap(([line, colour]) => bands(line, colour)),
      ...coloured.map(([line, colour]) => ({
        x: line.x, y: line.y, mode: "lines+markers", cliponaxis: false, showlegend: false, connectgaps: false,
        hoverinfo: "text", hovertext: line.hover,
        line: { color: colour, width: 1.75, dash: line.twin ? "5px,4px" : "solid" },
        marker: {
          size: Math.min(6.5, 120 / line.x.length), color: line.twin ? css("card") : colour, symbol: symbols[line.labels],
          line: { color: colour, width: line.x.length > 20 ? 1 : 1.5 },
        },
      })),
    ];
  }

  function draw(figure) {
    const profile = data[figure.dataset.profile];
    const metric = figure.dataset.metric;
    const panel = profile.panels[metric];
    const plot = figure.querySelector(".plot");
    const [card, ink, soft, rule, grid, sans] =
      ["card", "ink", "soft", "rule", "grid", "sans"].map(css);
    const axis = {
      gridcolor: grid, linecolor: rule, tickcolor: rule, zeroline: false, ticks: "outside",
      ticklen: 4, automargin: true, tickfont: { color: soft, size: 12 },
    };
    const title = (text) => ({ text, standoff: 8, font: { color: ink, size: 12.5 } });
    plot.setAttribute(
      "aria-label",
      `Lines of ${metric} against the ${profile.axis}. ` +
        `The values are in tables/${figure.dataset.profile}.csv.`,
    );
    window.Plotly.react(
      plot,
      traces(panel),
      {
        font: { family: sans, color: ink }, paper_bgcolor: card, plot_bgcolor: card,
        margin: { l: 52, r: 10, t: 6, b: 50 }, hovermode: "closest",
        dragmode: touch.matches ? false : "zoom",
        hoverlabel: {
          align: "left", bgcolor: card, bordercolor: soft,
          font: { family: sans, color: ink, size: 12.5 },
        },
        xaxis: {
          ...axis, range: profile.range, tickvals: profile.ticks, ticktext: profile.tickNames,
          tickangle: 0, title: title(profile.axis),
        },
        yaxis: {
          ...axis, nticks: 6,
          ...(panel.top !== null && { autorangeoptions: { clipmax: panel.top } }),
          title: title(
            `${metric}<br>(${panel.arrow}${panel.minCount > 1 ? `; min_count ${panel.minCount}` : ""})`,
          ),
          exponentformat: "power", minexponent: 5,
          ...(panel.log && {
            type: "log", tickvals: panel.valueTicks, ticktext: panel.valueTicks.map((t) => `${t}`),
          }),
        },
      },
      { displayModeBar: false, responsive: true },
    );
  }

  const figures = [...document.querySelectorAll("[data-profile]")];
  const drawAll = () => figures.forEach(draw);
  drawAll();
  dark.addEventListener("change", drawAll);
})();
