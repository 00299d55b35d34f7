// Shows the values nearest to the pointer in one box. Runs on "mousemove" and "mouseleave" of a chart; all texts from
// runs are set as text, never as HTML.
const MAX_LINES = 12, NEAR_PIXELS = 5
const chart = cb_obj.origin
let box = document.getElementById("hover")
if (box == null) {
  box = document.createElement("div")
  box.id = "hover"
  box.style = "position:fixed;z-index:9999;pointer-events:none;background:#fff;border:1px solid #b8c0c8;" +
    "border-radius:4px;padding:4px 8px;font:13px/1.45 Helvetica,Arial,'Liberation Sans',sans-serif;color:#1b2229;" +
    "box-shadow:0 2px 6px rgba(0,0,0,.15);max-width:460px"
  document.body.append(box)
}
box.replaceChildren()
box.hidden = true
if (cb_obj.event_name != "mousemove") return

const nearest = (xs, x) => {
  let [low, high] = [0, xs.length - 1]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (xs[middle] < x) low = middle; else high = middle
  }
  return x - xs[low] < xs[high] - x ? low : high
}
const number = (value) => {
  const v = Number(value.toPrecision(6))
  return v !== 0 && (Math.abs(v) >= 1e6 || Math.abs(v) < 1e-4) ? v.toExponential() : String(v)
}
const add = (text, color, bold = "") => {
  const line = document.createElement("div")
  const name = document.createElement("b")
  line.style = `border-left:4px solid ${color};padding-left:6px`
  name.textContent = bold
  line.append(name, text)
  box.append(line)
}

const pixel = (chart.x_range.end - chart.x_range.start) / chart.inner_width
const found = []
for (const renderer of chart.renderers) {
  const data = renderer.data_source.data
  if (renderer.name == "marks") {
    for (let i = 0; i < data.x.length; i++)
      if (Math.abs(data.x[i] - cb_obj.x) <= NEAR_PIXELS * pixel) add(data.text[i], data.color[i])
  } else if (renderer.name != null && renderer.visible && data.x.length > 0) {
    const i = nearest(data.x, cb_obj.x)
    found.push({renderer, x: data.x[i], y: data.y[i]})
  }
}
const distance = (each) => Number.isFinite(each.y) ? Math.abs(each.y - cb_obj.y) : Infinity
const kept = new Set([...found].sort((a, b) => distance(a) - distance(b)).slice(0, MAX_LINES))
const unit = chart.tags[0]
for (const each of found.filter((each) => kept.has(each)).sort((a, b) => b.y - a.y)) {
  const value = Number.isFinite(each.y) ? `${number(each.y)} ${unit}`.trimEnd() : "not finite"
  add(` ${value} at iteration ${each.x.toLocaleString("en-US")}`, each.renderer.glyph.line_color.value, each.renderer.name)
}
if (found.length > MAX_LINES) add(`${found.length - MAX_LINES} more`, "#b8c0c8")
if (box.childElementCount == 0) return
box.hidden = false
const area = Bokeh.index.find_one(chart).el.getBoundingClientRect()
const [x, y] = [area.left + cb_obj.sx, area.top + cb_obj.sy]
const size = box.getBoundingClientRect()
box.style.left = `${x + 18 + size.width > innerWidth ? x - size.width - 18 : x + 18}px`
box.style.top = `${Math.max(4, Math.min(y - size.height / 2, innerHeight - size.height - 4))}px`
