// A click in the legend hides a run in every chart and fades its rows.
for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => {
    const key = button.dataset.run;
    const visible = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(visible));
    for (const rows of document.querySelectorAll(`tbody[data-run="${key}"]`)) rows.classList.toggle("hidden", !visible);
    for (const chart of Bokeh.documents.flatMap(shown => shown.roots()))
      for (const renderer of chart.renderers) if (renderer.name === key) renderer.visible = visible;
  });
}
