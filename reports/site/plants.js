// plants of one genotype and replicate side by side, day by day; what is shown is in the address
(() => {
const data = JSON.parse(document.getElementById('data').textContent)
const $ = id => document.getElementById(id)
const { places, plants, arms, words, views } = data
const now = { place: 0, day: 0, view: 0, protocol: data.protocols[0], map: -1, timer: null }
const STEP = 450  // ms from day to day

// ---- words
const plain = text => text.normalize('NFD').replace(/\p{M}/gu, '').toLowerCase().trim()
const short = x => String(Math.round(x * 1000) / 1000)
const probability = p => p == null ? 'not read' : p.toFixed(2)
const dayOf = d => words.day + ' ' + short(d)
const title = p => p.genotype + ', ' + words.replicate + ' ' + p.replicate
const shown = () => places[now.place]
const members = () => shown().plants.map(i => ({ i, ...plants[i] }))
const today = () => shown().days[now.day]

// ---- elements
const make = (name, attributes = {}, ...children) => {
  const e = document.createElement(name)
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
  e.append(...children)
  return e
}
const draw = (name, attributes = {}, text = '') => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
  if (text) e.textContent = text
  return e
}
const tone = plant => '--tone:var(--c-' + data.treatments[plant.treatment].role + ')'
const dashes = plant => ['', '7 3', '2 3', '9 3 2 3'][data.treatments[plant.treatment].same % 4]

// ---- photographs: a sheet for each plant and view, a cell for each day
const pictureOf = plant => {
  const sheet = plant.photographs[now.view]
  const at = sheet ? sheet.days.indexOf(today()) : -1
  return at < 0 ? null : { sheet, at }
}
const stillComing = () => document.readyState === 'loading'
const missing = plant => {
  const sheet = plant.photographs[now.view]
  if (sheet && sheet.lost.includes(today())) return 'The photograph of this day cannot be read, or shows no plant.'
  return 'No photograph on this day.'
}
// a map of one photograph, laid where its square was cut from
const mapOf = plant => data.maps[now.map]?.of[plant.i + '/' + now.view + '/' + short(today())]
const layMap = (box, plant) => {
  const [where, picture] = mapOf(plant), names = ['left', 'top', 'width', 'height']
  const style = names.map((n, k) => n + ':' + where[k] + '%').join(';')
  box.append(make('img', { class: 'map', alt: '', style, src: 'data:image/png;base64,' + picture }))
}
const sayMap = () => {
  const arm = data.maps[now.map]
  $('map').textContent = 'Map: ' + (arm ? arm.title : 'off')
  $('map').setAttribute('aria-pressed', String(Boolean(arm)))
  const none = arm && !members().some(mapOf) ? ' There is no map of this day: maps lie around the day that was explained.' : ''
  $('mapped').textContent = arm ? arm.words + none : ''
}
const nextMap = () => {
  if (!data.maps.length) return
  now.map = now.map + 1 < data.maps.length ? now.map + 1 : -1
  drawDay()
}
const drawPicture = plant => {
  const box = $('picture-' + plant.i), found = pictureOf(plant)
  const source = found && $('s' + plant.i + '-' + now.view)
  $('log-' + plant.i).textContent = found?.sheet.odd.includes(today()) ? ', ' + words.outlier : ''
  const where = data.treatments[plant.treatment].label + ' plant ' + plant.id + ' on ' + dayOf(today())
  box.replaceChildren()
  if (!source) {
    box.style.backgroundImage = ''
    const text = found && stillComing() ? 'The photograph is on its way.' : missing(plant)
    box.setAttribute('aria-label', where + ': ' + text)
    box.append(make('p', {}, text))
    return
  }
  const { columns, rows } = found.sheet
  const share = (i, n) => n > 1 ? 100 * i / (n - 1) + '%' : '0%'
  if (box.dataset.sheet !== source.id || !box.style.backgroundImage) {
    box.style.backgroundImage = 'url(data:image/webp;base64,' + source.textContent + ')'
    box.dataset.sheet = source.id
  }
  box.style.backgroundSize = 100 * columns + '% ' + 100 * rows + '%'
  box.style.backgroundPosition = share(found.at % columns, columns) + ' ' + share(Math.floor(found.at / columns), rows)
  const mapped = mapOf(plant)
  if (mapped) layMap(box, plant)
  box.setAttribute('aria-label', 'Photograph of the ' + where + ', ' + views[now.view] + (mapped ? ', under the map of ' + data.maps[now.map].title : ''))
}
const layPhotographs = () => {
  const cell = shown().cells[now.view], box = $('photos')
  box.replaceChildren()
  box.hidden = !cell
  $('scale').textContent = cell ? cell.scale : ''
  if (!cell) return
  const [w, h] = cell.size, own = members()
  box.className = own.length > 2 ? 'many' : ''
  // as large as the window allows, and not so large that pixels show
  const tall = Math.min(innerHeight * .45, 2.4 * h, 400)
  box.style.setProperty('--wide', Math.round(tall * w / h) + 'px')
  for (const plant of own) {
    const odd = plant.doubt ? ' †' : ''
    const log = make('span', { id: 'log-' + plant.i })
    box.append(make('figure', { style: tone(plant) },
      make('div', { class: 'plant' }, make('div', { class: 'picture', role: 'img', id: 'picture-' + plant.i, style: 'aspect-ratio:' + w + '/' + h })),
      make('figcaption', {}, make('b', {}, data.treatments[plant.treatment].label), ' ' + plant.id + odd, log)))
  }
}

// ---- curves
const EDGE = { left: 30, right: 46, top: 24, bottom: 20, height: 150 }
const chart = arm => {
  const own = members(), days = shown().days, width = Math.max(280, $('charts').clientWidth)
  const first = days[0], last = days[days.length - 1]
  const x = d => EDGE.left + (last > first ? (d - first) / (last - first) : .5) * (width - EDGE.left - EDGE.right)
  const y = p => EDGE.top + (1 - p) * (EDGE.height - EDGE.top - EDGE.bottom)
  const svg = draw('svg', { viewBox: '0 0 ' + width + ' ' + EDGE.height, role: 'img', height: EDGE.height })
  const add = (...all) => svg.append(draw(...all))
  const upright = (d, kind) => add('line', { x1: x(d), x2: x(d), y1: EDGE.top, y2: y(0), class: kind })
  const inside = d => Math.min(Math.max(d, first), last)
  for (const p of [0, .5, 1]) {
    add('line', { x1: EDGE.left, x2: width - EDGE.right, y1: y(p), y2: y(p), class: 'grid' })
    add('text', { x: EDGE.left - 6, y: y(p) + 4, 'text-anchor': 'end' }, String(p))
  }
  let free = -99
  for (const d of days) if (x(d) - free > 30) {
    add('text', { x: x(d), y: EDGE.height - 5, 'text-anchor': 'middle' }, short(d))
    free = x(d)
  }
  add('text', { x: width - EDGE.right + 16, y: EDGE.height - 5 }, words.day)
  for (const d of new Set(own.map(q => q.treated).filter(d => d != null))) if (d >= first && d <= last) upright(d, 'treated')
  const known = new Map(own.filter(q => q.onset).map(q => [q.onset.join(), q.onset]))
  for (const [d, low, high] of known.values()) {
    const a = x(inside(low ?? first)), b = x(inside(high ?? last))
    add('rect', { x: a, y: EDGE.top, width: Math.max(0, b - a), height: y(0) - EDGE.top, class: 'between' })
    if (d >= first && d <= last) upright(d, 'onset')
  }
  const online = now.protocol === data.rule.protocol
  const level = online && own.map(q => q.said[arm.name]?.threshold).find(t => t)
  if (level) {
    const [low, middle, high] = level
    add('rect', { x: EDGE.left, y: y(Math.min(high, 1)), width: width - EDGE.left - EDGE.right, height: Math.max(0, y(low) - y(Math.min(high, 1))), class: 'runs' })
    add('line', { x1: EDGE.left, x2: width - EDGE.right, y1: y(middle), y2: y(middle), class: 'threshold' })
  }
  own.forEach((q, k) => {
    const said = q.said[arm.name], values = said?.[now.protocol]
    if (!values) return
    const points = q.days.map((d, i) => [d, values[i]]).filter(([, p]) => p != null)
    add('path', { class: 'curve', style: tone(q), 'stroke-dasharray': dashes(q), d: points.map(([d, p], i) => (i ? 'L' : 'M') + x(d).toFixed(1) + ' ' + y(p).toFixed(1)).join('') })
    if (online && said.alarm != null) add('path', { class: 'alarm', style: tone(q), d: 'M' + (x(said.alarm) - 6) + ' ' + (EDGE.top - 14) + 'h12l-6 11z' })
  })
  const cursor = draw('line', { class: 'cursor', y1: EDGE.top - 2, y2: y(0) })
  svg.append(cursor)
  const dots = own.map(q => draw('circle', { class: 'dot', r: 4.5, style: tone(q) }))
  svg.append(...dots)
  svg.addEventListener('click', e => {
    const r = svg.getBoundingClientRect(), at = (e.clientX - r.left) * width / r.width
    const far = days.map(d => Math.abs(x(d) - at))
    toDay(far.indexOf(Math.min(...far)))
  })
  const line = make('p')
  const update = () => {
    const d = today()
    cursor.setAttribute('x1', x(d)); cursor.setAttribute('x2', x(d))
    line.replaceChildren()
    own.forEach((q, k) => {
      const values = q.said[arm.name]?.[now.protocol], p = values ? values[q.days.indexOf(d)] : null
      dots[k].style.display = p == null ? 'none' : ''
      if (p != null) { dots[k].setAttribute('cx', x(d)); dots[k].setAttribute('cy', y(p)) }
      line.append(make('b', { style: tone(q) }, data.treatments[q.treatment].label), ' ' + probability(p) + (online ? ', ' + alarmWords(q.said[arm.name]) : '') + (k < own.length - 1 ? '; ' : ''))
    })
    if (online) line.append('; ' + thresholdWords(level))
    svg.setAttribute('aria-label', arm.title + ', ' + words.probability + ' on ' + dayOf(d) + ': ' + line.textContent)
  }
  return { box: make('section', { class: 'arm', 'aria-label': arm.title }, make('h3', {}, arm.title), line, svg), update }
}
const alarmWords = said => {
  if (!said || said.runs == null) return 'not dated'
  const of = said.runs > 1 ? ' (' + said.alarmed + ' of ' + said.runs + ' runs)' : ''
  return said.alarm == null ? 'no alarm' + (said.alarmed ? ' date' + of : '') : 'alarm ' + dayOf(said.alarm) + of
}
const thresholdWords = t => {
  if (!t) return 'no threshold'
  const [low, middle, high] = t
  return 'threshold ' + middle.toFixed(2) + (high - low >= .005 ? ' (runs: ' + low.toFixed(2) + ' to ' + (high > 1 ? 'none' : high.toFixed(2)) + ')' : '')
}
let charts = []
const layCharts = () => {
  charts = arms.filter(a => members().some(q => q.said[a.name]?.[now.protocol])).map(chart)
  $('charts').replaceChildren(...charts.map(c => c.box))
  if (!charts.length) $('charts').append(make('p', { class: 'gap' }, make('b', {}, 'Nothing to show. '), 'No arm has predictions of these plants in this protocol.'))
}

// ---- what the lines are
const layLegend = () => {
  const sign = (kind, attributes, style = '') => {
    const s = draw('svg', { viewBox: '0 0 28 12', 'aria-hidden': 'true', style })
    s.append(draw(kind, attributes))
    return s
  }
  const line = kind => ['line', { x1: 0, x2: 28, y1: 6, y2: 6, class: kind }]
  const items = [], own = members()
  for (const q of own) items.push([sign('path', { d: 'M0 6h28', class: 'curve', 'stroke-dasharray': dashes(q) }, tone(q)), data.treatments[q.treatment].label + ', ' + words.probability])
  if (own.some(q => q.onset)) items.push([sign(...line('onset')), words.onset])
  if (own.some(q => q.onset && (q.onset[1] != null || q.onset[2] != null))) items.push([sign('rect', { width: 28, height: 12, class: 'between' }), words.between])
  if (own.some(q => q.treated != null)) items.push([sign(...line('treated')), words.treated])
  if (now.protocol === data.rule.protocol) {
    items.push([sign(...line('threshold')), 'threshold'])
    items.push([sign('path', { d: 'M8 1h12l-6 10z', fill: 'currentColor' }), 'alarm'])
  }
  $('legend').replaceChildren(...items.map(([s, text]) => make('li', {}, s, text)))
}

// ---- moving
const address = () => [shown().genotype, shown().replicate, short(today())].map(encodeURIComponent).join('/')
const drawDay = () => {
  $('day').value = now.day
  $('day').setAttribute('aria-valuetext', dayOf(today()))
  $('today').textContent = dayOf(today())
  if (shown().cells[now.view]) members().forEach(drawPicture)
  if (data.maps.length) sayMap()
  charts.forEach(c => c.update())
  history.replaceState(null, '', '#' + address())
}
const drawPlace = () => {
  const p = shown(), own = members()
  $('place').value = now.place
  $('who').textContent = title(p)
  const doubts = own.filter(q => q.doubt).map(q => '† ' + q.id + ': ' + q.doubt + '.')
  $('about').textContent = [...own.flatMap(q => q.known), ...doubts].join('\n')
  $('day').max = p.days.length - 1
  layPhotographs(); layLegend(); layCharts(); drawDay()
}
const nearest = (days, d) => {
  const far = days.map(x => Math.abs(x - d))
  return far.indexOf(Math.min(...far))
}
const toPlace = (i, day = today()) => {
  now.place = (i + places.length) % places.length
  now.day = day == null ? shown().days.length - 1 : nearest(shown().days, day)
  drawPlace()
}
const toDay = i => {
  now.day = Math.min(Math.max(i, 0), shown().days.length - 1)
  drawDay()
}
const pause = () => {
  clearInterval(now.timer)
  now.timer = null
  $('play').textContent = 'Play'
  $('play').setAttribute('aria-pressed', 'false')
}
const play = () => {
  if (now.timer) return pause()
  if (now.day >= shown().days.length - 1) toDay(0)
  $('play').textContent = 'Pause'
  $('play').setAttribute('aria-pressed', 'true')
  now.timer = setInterval(() => now.day >= shown().days.length - 1 ? pause() : toDay(now.day + 1), STEP)
}

// ---- finding
const names = places.map(p => plain(p.genotype))
const find = text => {
  const wanted = plain(text)
  if (!wanted) return []
  const plant = plants.map((q, i) => i).filter(i => plain(plants[i].id).includes(wanted))
  const exact = plant.filter(i => plain(plants[i].id) === wanted)
  const genotypes = [...new Set(places.map((p, i) => i).filter(i => names[i].includes(wanted)).map(i => places[i].genotype))]
  genotypes.sort((a, b) => plain(b).startsWith(wanted) - plain(a).startsWith(wanted))
  const ofPlant = i => ({ text: plants[i].id, place: places.findIndex(p => p.plants.includes(i)) })
  const ofGenotype = g => ({ text: g, place: places.findIndex(p => p.genotype === g) })
  return [...exact.map(ofPlant), ...genotypes.map(ofGenotype), ...plant.filter(i => !exact.includes(i)).map(ofPlant)]
}
const MOST = 12
const search = () => {
  const text = $('search').value, hits = find(text)
  $('found').replaceChildren(...hits.slice(0, MOST).map(h => {
    const b = make('button', { type: 'button' }, h.text)
    b.addEventListener('click', () => { toPlace(h.place); told(title(shown()) + ' is shown.') })
    return b
  }))
  $('found').hidden = !hits.length
  const more = hits.length > MOST ? ', the first ' + MOST + ' are listed' : ''
  told(!text.trim() ? '' : hits.length ? hits.length + (hits.length > 1 ? ' matches' : ' match') + more + '. Enter goes to the first.' : 'Nothing is called ' + text.trim() + ' here.')
}
const told = text => { $('said').textContent = text }
const restore = () => {
  const parts = location.hash.slice(1).split('/').map(part => { try { return decodeURIComponent(part) } catch (e) { return part } })
  const [name, replicate, day] = parts
  const number = day === undefined || day === '' || isNaN(day) ? null : Number(day)
  if (!name || (parts.length === 1 && document.getElementById(name))) return false
  let at = places.findIndex(p => p.genotype === name && (replicate === undefined || String(p.replicate) === replicate))
  if (at < 0) at = places.findIndex(p => p.plants.some(i => plants[i].id === name))
  if (at < 0) { told('The address names ' + parts.join('/') + ', which is not here.'); return false }
  toPlace(at, number)
  return true
}

// ---- listening
places.forEach((p, i) => $('place').append(make('option', { value: i }, title(p))))
views.forEach((v, i) => $('view').append(make('option', { value: i }, v)))
data.protocols.forEach(p => $('protocol').append(make('option', { value: p }, p)))
$('view-field').hidden = views.length < 2
$('protocol-field').hidden = data.protocols.length < 2
$('place').addEventListener('change', e => toPlace(Number(e.target.value)))
$('view').addEventListener('change', e => { now.view = Number(e.target.value); drawPlace() })
$('protocol').addEventListener('change', e => { now.protocol = e.target.value; drawPlace() })
$('earlier').addEventListener('click', () => toPlace(now.place - 1))
$('later').addEventListener('click', () => toPlace(now.place + 1))
$('play').addEventListener('click', play)
$('map').hidden = $('map-key').hidden = !data.maps.length
$('map').addEventListener('click', nextMap)
$('day').addEventListener('input', e => toDay(Number(e.target.value)))
$('search').addEventListener('input', search)
$('search').addEventListener('keydown', e => {
  if (e.key === 'Escape') { e.target.value = ''; search(); e.target.blur() }
  const first = e.key === 'Enter' && find(e.target.value)[0]
  if (first) { toPlace(first.place); told(title(shown()) + ' is shown.'); e.target.blur() }
})
const KEYS = {
  ArrowLeft: () => toDay(now.day - 1), ArrowRight: () => toDay(now.day + 1),
  ArrowUp: () => toPlace(now.place - 1), ArrowDown: () => toPlace(now.place + 1),
  Home: () => toDay(0), End: () => toDay(Infinity),
  p: play, o: nextMap, '/': () => $('search').focus(),
}
addEventListener('keydown', e => {
  const typing = e.target.closest?.('input:not([type=range]),select,textarea')
  if (typing || e.ctrlKey || e.altKey || e.metaKey || !Object.hasOwn(KEYS, e.key)) return
  e.preventDefault()
  KEYS[e.key]()
})
addEventListener('hashchange', restore)
let wide = innerWidth
addEventListener('resize', () => { if (innerWidth !== wide) { wide = innerWidth; drawPlace() } })
addEventListener('DOMContentLoaded', () => { if (shown().cells[now.view]) members().forEach(drawPicture) })
if (!restore()) toPlace(0, null)
})()
