const root = document.documentElement
const dark = () => root.dataset.theme === 'dark' || (!root.dataset.theme && matchMedia('(prefers-color-scheme: dark)').matches)
const theme = document.getElementById('theme'), code = document.getElementById('code')
const show = () => { root.dataset.theme = dark() ? 'dark' : 'light'; theme.textContent = dark() ? 'Light' : 'Dark' }
show()
theme.addEventListener('click', () => {
  root.dataset.theme = dark() ? 'light' : 'dark'
  try { localStorage.setItem('theme', root.dataset.theme) } catch (e) {}
  show()
})
code?.addEventListener('click', () => {
  const on = code.getAttribute('aria-pressed') !== 'true'
  code.setAttribute('aria-pressed', on)
  code.textContent = on ? 'Hide code' : 'Show code'
  document.querySelectorAll('.code').forEach(c => { c.hidden = !on })
})
// the rows of a folded block come and go with its heading
const fold = (body, open) => {
  body.classList.toggle('folded', !open)
  const button = body.querySelector('.fold')
  button.setAttribute('aria-expanded', open)
  button.textContent = open ? 'hide' : `show ${body.querySelectorAll('tr:not(.block)').length}`
}
document.querySelectorAll('tbody.folded').forEach(body => {
  const button = document.createElement('button')
  button.type = 'button'
  button.className = 'fold'
  body.querySelector('.block th').append(' ', button)
  button.addEventListener('click', () => fold(body, body.classList.contains('folded')))
  fold(body, false)
})
// a search field shows only the rows that contain every word
document.querySelectorAll('.search input').forEach(field => field.addEventListener('input', () => {
  const words = field.value.toLowerCase().split(/\s+/)
  if (field.value) document.querySelectorAll('#' + field.dataset.table + ' tbody.folded').forEach(b => fold(b, true))
  document.querySelectorAll('#' + field.dataset.table + ' tbody tr:not(.block)').forEach(row => {
    const text = row.textContent.toLowerCase()
    row.hidden = !words.every(w => text.includes(w))
  })
}))
// a click on a heading sorts within each block of rows
const value = (row, i) => { const c = row.children[i], v = c.dataset.value || c.textContent, n = parseFloat(v); return isNaN(n) ? v.trim() : n }
document.querySelectorAll('th .sort').forEach(button => button.addEventListener('click', () => {
  const head = button.closest('th'), table = head.closest('table'), i = [...head.parentNode.children].indexOf(head)
  const up = head.getAttribute('aria-sort') !== 'ascending'
  head.parentNode.querySelectorAll('th').forEach(h => h.removeAttribute('aria-sort'))
  head.setAttribute('aria-sort', up ? 'ascending' : 'descending')
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter(r => !r.classList.contains('block'))
    rows.sort((a, b) => { const x = value(a, i), y = value(b, i); return (typeof x === typeof y ? (x > y) - (x < y) : typeof x === 'number' ? -1 : 1) * (up ? 1 : -1) })
    rows.forEach(r => body.append(r))
  }
}))
