// Shows the chosen streams, headings and scale. Charts that leave the grid lose their views, so that they can return with
// another scale, and those that are not shown cost nothing.
const chosen = (group) => group.labels.filter((_, i) => group.active.includes(i))
const shown = chosen(streams)
const wanted = scale.labels[scale.active]
const cells = []
sections.forEach(([title, charts], number) => {
  if (!headings.active.includes(number)) return
  if (title != null) cells.push(title)
  for (const [figure, log_by_default, can_be_log] of charts) {
    const log = can_be_log && (wanted == "log" || (wanted == "auto" && log_by_default))
    figure.y_scale = log ? log_scale : linear_scale
    figure.left[0].ticker = log ? log_ticks : linear_ticks
    for (const renderer of figure.renderers)
      if (renderer.tags.length > 0) renderer.visible = shown.includes(renderer.tags[0])
    cells.push(figure)
  }
  if (!cells.includes(events)) cells.push(events)
})
grid.children = []
setTimeout(() => { grid.children = cells }, 0)
