// search: every section that contains all words, the title's hits first; the index is loaded with the first letter
const find = document.createElement('div')
find.className = 'find'
find.innerHTML = '<input type="search" aria-label="Search all notebooks" placeholder="Search"><ol aria-label="Found" aria-live="polite"></ol>'
document.querySelector('.tools').prepend(find)
const field = find.querySelector('input'), list = find.querySelector('ol')
const element = (name, text) => { const e = document.createElement(name); e.textContent = text; return e }
const excerpt = (text, word) => {
  const at = text.toLowerCase().indexOf(word), line = document.createElement('span')
  if (at < 0) { line.textContent = text.slice(0, 120); return line }
  const from = Math.max(0, at - 50)
  line.append((from ? '…' : '') + text.slice(from, at), element('mark', text.slice(at, at + word.length)), text.slice(at + word.length, at + 90) + '…')
  return line
}
const hit = ([page, section, text], words) => {
  const [href, title] = window.DOCS.pages[page], [id, heading] = section
  const line = document.createElement('li'), link = document.createElement('a')
  link.href = href + (id && '#' + id)
  link.append(element('b', heading ? title + ' · ' + heading : title), excerpt(text, words[0]))
  line.append(link)
  return line
}
const look = () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean)
  list.replaceChildren()
  if (!words.length || !window.DOCS) return
  const head = ([page, section]) => (window.DOCS.pages[page][1] + ' ' + section[1]).toLowerCase()
  const found = window.DOCS.sections.filter(s => words.every(w => (head(s) + ' ' + s[2].toLowerCase()).includes(w)))
  const rank = s => words.every(w => head(s).includes(w)) ? 0 : 1
  found.sort((a, b) => rank(a) - rank(b))
  list.append(...found.slice(0, 40).map(s => hit(s, words)))
  if (!found.length) { const none = element('li', 'Nothing found'); none.className = 'none'; list.append(none) }
}
field.addEventListener('input', () => {
  if (window.DOCS) return look()
  if (document.getElementById('index')) return
  const index = document.createElement('script')
  index.id = 'index'
  index.src = 'search.js'
  index.onload = look
  document.head.append(index)
})
find.addEventListener('keydown', e => { if (e.key === 'Escape') { field.value = ''; look(); field.focus() } })
// wide code and wide outputs can be scrolled with the keyboard
document.querySelectorAll('.cell .highlight, .out, main > .highlight, main > pre, main > table').forEach(e => { if (e.scrollWidth > e.clientWidth) e.tabIndex = 0 })
