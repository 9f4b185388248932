"use strict";
// Draws the charts of a page: `figures` are Plotly's, with the names of the style sheet's colours, so that they follow
// the theme of whoever reads it, and paper.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const coarse = matchMedia("(pointer: coarse)").matches;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const sheet = 680, gap = 16; // pixels of a printed page between its margins, and between charts

  function colour(name) {
    const [plain, alpha] = name.slice(1).split("/");
    const found = getComputedStyle(document.documentElement).getPropertyValue(`--${plain}`).trim();
    if (alpha === undefined) return found;
    const [r, g, b] = [1, 3, 5].map(at => parseInt(found.slice(at, at + 2), 16));
    return `rgba(${r}, ${g}, ${b}, ${alpha})`;
  }

  // A copy, for Plotly writes into what it is given; with colours for their names.
  function coloured(value, key) {
    if (Array.isArray(value)) return value.map(one => coloured(one, key));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, coloured(one, name)]));
    }
    return typeof value === "string" && /color$/.test(key) && value.startsWith("@") ? colour(value) : value;
  }

  function axis(given) {
    return {
      gridcolor: colour("@line"), linecolor: colour("@line"), zerolinecolor: colour("@line"), automargin: true, ...given,
      title: {...given.title, font: {size: 12.5, color: colour("@soft")}, standoff: 8},
    };
  }

  function layout(given, sized, names) {
    const ink = colour("@ink");
    return {
      ...given,
      height: given.height + (innerWidth < 600 && names > 2 ? 18 * names : 0), // the legend has a line for each
      ...sized,
      autosize: sized.width === undefined,
      margin: {l: 8, r: 12, t: 8, b: 8},
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: {family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink},
      hoverlabel: {bgcolor: colour("@raised"), bordercolor: colour("@line"), font: {color: ink}, namelength: -1},
      legend: {orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", entrywidth: 0, itemsizing: "constant"},
      modebar: {bgcolor: "rgba(0,0,0,0)", color: colour("@soft"), activecolor: ink},
      xaxis: axis(given.xaxis),
      yaxis: axis(given.yaxis),
      dragmode: coarse ? false : "zoom", // a finger that drags scrolls the page; the buttons zoom
    };
  }

  const config = {
    displaylogo: false,
    responsive: true,
    displayModeBar: coarse ? true : "hover",
    modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
  };

  function draw(sized = () => ({})) {
    return Promise.all(plots.map(plot => {
      const {data, layout: given} = coloured(figures[Number(plot.dataset.figure)], "");
      return Plotly.react(plot, data, layout(given, sized(plot), data.length), config);
    }));
  }

  draw().then(() => { document.documentElement.dataset.drawn = "yes"; });
  dark.addEventListener("change", () => draw());
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.printing = "";
    draw(plot => {
      const columns = Math.min(3, plot.closest(".charts").children.length);
      return {width: Math.floor((sheet - gap * (columns - 1)) / columns)};
    });
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.printing;
    draw();
  });
})();
