"Makes a small site of all notebooks that works offline, from what is committed: `make docs`"

import ast, base64, html, io, json, mimetypes, os, re, sys, time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbconvert.filters import Highlight2HTML, strip_ansi
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import faba_nb
from faba_nb._modidx import d as MODULES
from faba_nb.core.files import write_text
from faba_nb.reporting.rendering import style_sheet, to_page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DOCUMENTS = [
    'README.md',
    'CONTRIBUTING.md',
    'DECISIONS.md',
    'data/README.md',
    'slurm/README.md',
    'reports/README.md',
    'nbs/90_explore/README.md',
]
PICTURES = ('image/svg+xml', 'image/jpeg', 'image/png')
highlight = Highlight2HTML()
# what the template shows for a code cell without source
EMPTY = f'<div class="code" hidden>{highlight("")}</div>'


@dataclass(frozen=True)
class Page:
    "A notebook or a document, and where it is in the site"

    source: Path  # the notebook or the Markdown file
    chapter: str  # the room's name, `reports` or `documents`
    name: str  # file name in the site
    title: str  # its first heading
    subtitle: str = ''  # the line below it
    module: str = ''  # the module it exports to


def without_number(name: str) -> str:  # `30_training` -> `training`
    "The name of a room or a notebook without what puts it in order"
    return re.sub(r'^\d+_', '', name)


def source(cell: dict) -> str:  # the cell's text
    "A cell's text, which a notebook keeps as one string or as lines"
    return ''.join(cell['source'])


def read_page(path: Path, chapter: str) -> Page:
    "What a notebook says of itself"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    prose = '\n'.join(source(c) for c in cells if c['cell_type'] == 'markdown')
    code = '\n'.join(source(c) for c in cells if c['cell_type'] == 'code')
    find = lambda pattern, text: (re.search(pattern, text, flags=re.M) or ['', ''])[1].strip()
    title = find(r'^#\s+(.+)', prose) or without_number(path.stem)
    module = find(r'^#\|\s*default_exp\s+(\S+)', code)
    name = f'{chapter}-{without_number(path.stem)}.html'
    return Page(path, chapter, name, title, find(r'^>\s*(.+)', prose), module)


def read_document(path: Path) -> Page:
    "A Markdown file as a page"
    where = path.relative_to(ROOT)
    title = re.search(r'^#\s+(.+)', path.read_text(encoding='utf-8'), flags=re.M)[1]
    name = '-'.join(where.with_suffix('.html').parts)
    return Page(path, 'documents', name, title, str(where))


def all_pages() -> list[Page]:  # in reading order
    "Documents, the notebooks of every room, and the reports"
    found = [read_document(ROOT / d) for d in DOCUMENTS]
    for room in sorted((ROOT / 'nbs').glob('[0-9]*')):
        notebooks = sorted(room.glob('*.ipynb'))
        found += [read_page(p, without_number(room.name)) for p in notebooks]
    found += [read_page(p, 'reports') for p in sorted((ROOT / 'reports').glob('*.ipynb'))]
    twice = [n for n, k in Counter(p.name for p in found).items() if k > 1]
    assert not twice, f'two sources have the same page: {twice}'
    return found


# ---- names that link to where they are defined


def defined(pages: list[Page]) -> dict:  # module -> {name: page#anchor}
    "Where the functions and classes of every module are shown"
    page_of = {f'faba_nb.{p.module}': p.name for p in pages if p.module}
    return {
        module: {
            name: f'{page_of[module]}#{name}'
            for name in (qualified[len(module) + 1 :] for qualified in names)
            if '.' not in name
        }
        for module, names in MODULES['syms'].items()
        if module in page_of
    }


def known_names(places: dict) -> dict:  # name -> page#anchor
    "The public names that only one module has"
    pairs = [pair for names in places.values() for pair in names.items() if pair[0][0] != '_']
    count = Counter(name for name, _ in pairs)
    return {name: place for name, place in pairs if count[name] == 1}


def parsed(code: str) -> list:  # its statements
    "The statements of a cell; none where it holds a command of the notebook's own, such as %%time"
    try:
        return ast.parse(code).body
    except SyntaxError:
        return []


def imported_names(codes: list[str], places: dict) -> dict:  # name -> page#anchor
    "What a notebook's cells import from the package"
    found = {}
    for node in (n for code in codes for n in parsed(code)):
        if not isinstance(node, ast.ImportFrom) or node.module not in places:
            continue
        there = places[node.module]
        for alias in node.names:
            if alias.name == '*':
                found |= {n: p for n, p in there.items() if n[0] != '_'}
            elif alias.name in there:
                found[alias.asname or alias.name] = there[alias.name]
    return found


def linked_code(code: str, links: dict) -> str:  # HTML
    "Coloured code whose imported names are links"

    def link(found):
        name = found[1]
        return f'<a href="{links[name]}">{name}</a>' if name in links else found[0]

    attribute = r'(?<!<span class="o">\.</span>)'
    return re.sub(attribute + r'<span class="n">(\w+)</span>', link, highlight(code))


# ---- cells


def shown_code(code: str, links: dict) -> str:  # HTML, '' for nothing to show
    "The code of a cell as a reader needs it: without directives, imports folded"
    exported = re.search(r'^#\|\s*export', code, flags=re.M)
    code = re.sub(r'^#\|.*\n?', '', code, flags=re.M).strip('\n')
    if not code.strip():
        return ''
    body = parsed(code)
    text = linked_code(code, links)
    if body and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body):
        return f'<details class="imports"><summary>imports</summary>{text}</details>'
    anchors = ''.join(f'<span id="{name}"></span>' for name in names_in(body))
    kind = 'cell exported' if exported else 'cell'
    return f'<div class="{kind}">{anchors}{text}</div>'


def names_in(body: list) -> list[str]:
    "The functions and classes that statements define"
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [n.name for n in body if isinstance(n, kinds)]


def shown_output(output: dict, alt: str) -> str:  # HTML
    "One output; the richest form that needs nothing from elsewhere"
    if output['output_type'] == 'stream':
        return plain(output['text'])
    data = {k: ''.join(v) if isinstance(v, list) else v for k, v in output['data'].items()}
    rich = data.get('text/html', '')
    if 'td.linenos' in rich:
        return f'<div class="cell">{highlight(data["text/plain"])}</div>'
    if rich:
        return f'<div class="out">{closed(rich, alt)}</div>'
    for kind in PICTURES:
        if kind in data:
            return f'<div class="out">{picture(kind, data[kind], alt)}</div>'
    return plain(data.get('text/plain', ''))


def plain(text: str) -> str:  # HTML
    "Printed text"
    text = html.escape(strip_ansi(text).rstrip())
    return f'<div class="out"><pre>{text}</pre></div>' if text else ''


def picture(kind: str, data: str, alt: str) -> str:  # HTML
    "A picture inside the page"
    if kind == 'image/svg+xml':
        data = base64.b64encode(data.encode()).decode()
    data = re.sub(r'\s', '', data)
    return f'<img src="data:{kind};base64,{data}" alt="{html.escape(alt)}">'


def closed(rich: str, alt: str) -> str:  # HTML
    "An example's HTML without links that lead nowhere here, its pictures described"

    def link(found):
        here = found[2][:1] == '#' and f'id="{found[2][1:]}"' in rich
        return found[0] if here else found[1]

    rich = re.sub(r'<img\b(?![^>]*\balt=)', lambda m: f'<img alt="{html.escape(alt)}"', rich)
    return re.sub(r'(<a\b[^>]*?) href="(?!https?:|data:)([^"]*)"', link, rich)


def sentence(prose: str) -> str:
    "A cell of prose as the description of the picture that follows it"
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', prose)
    text = re.sub(r'^#.*$|[*`>|]', '', text, flags=re.M)
    return re.sub(r'\s+', ' ', text).strip()[:300]


# ---- a page


class Parts(list):
    "Pieces of HTML that the template's filters must not touch; a comment keeps the place of each"

    def place(self, piece: str) -> str:
        self.append(piece)
        return f'<!--part {len(self) - 1}-->'

    def put_in(self, text: str) -> str:
        return re.sub(r'<!--part (\d+)-->', lambda m: self[int(m[1])], text)


def piece(text: str):  # a cell
    "A cell that shows HTML"
    out = new_output('display_data', data={'text/html': text})
    return new_code_cell('', outputs=[out])


def readable(page: Page, places: dict, parts: Parts) -> list:  # cells for the template
    "A notebook's cells as they are shown"
    nb = nbformat.read(page.source, as_version=4)
    links = imported_names([c.source for c in nb.cells if c.cell_type == 'code'], places)
    cells, prose = [], page.title
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cells.append(new_markdown_cell(cell.source))
            prose = sentence(cell.source) or prose
        elif cell.cell_type == 'code' and not re.search(r'^#\|\s*hide', cell.source, flags=re.M):
            alt = cell.metadata.get('alt') or f'Picture made by the code above. {prose}'
            shown = [shown_output(o, alt) for o in cell.outputs]
            cells.append(piece(parts.place(shown_code(cell.source, links) + '\n'.join(shown))))
    return cells


def facts(page: Page, pages: list[Page]) -> dict:
    "The template's variables"
    first = {p.chapter: p.name for p in reversed(pages)}
    site = ROOT / 'reports' / 'site'
    script = [site / 'site.js', HERE / 'docs.js']
    return dict(
        title=page.title,
        subtitle=page.subtitle,
        study='faba_nb',
        pages=[(first[c], c, c == page.chapter) for c in dict.fromkeys(p.chapter for p in pages)],
        fingerprint='',
        style=style_sheet() + (HERE / 'docs.css').read_text(encoding='utf-8'),
        simulated=False,
        script='\n'.join(p.read_text(encoding='utf-8') for p in script),
        footer=f'faba_nb {faba_nb.__version__} · {page.source.relative_to(ROOT)}',
    )


def to_html(cells: list, page: Page, pages: list[Page]) -> str:
    "The cells in the reports' template"
    nb = nbformat.writes(new_notebook(cells=cells))
    text = to_page(io.StringIO(nb), facts(page, pages))
    text = text.replace('Skip to the report', 'Skip to the text')
    return text.replace(EMPTY, '')


def with_links(text: str, page: Page, pages: list[Page], site: Path, names: dict) -> str:
    "Links between files become links between pages; names in prose lead to their definition"
    page_of = {p.source.parent: p.name for p in reversed(pages) if p.chapter != 'documents'}
    page_of |= {p.source: p.name for p in pages}

    def link(found):
        path, _, anchor = found[1].partition('#')
        target = (page.source.parent / path).resolve()
        if not path or not target.exists():
            return found[0]
        where = page_of.get(target) or os.path.relpath(target, site)
        return f'href="{where}{anchor and "#" + anchor}"'

    def inside(found):
        target = page.source.parent / found[1]
        kind = mimetypes.guess_type(target)[0]
        data = base64.b64encode(target.read_bytes()).decode()
        return f'src="data:{kind};base64,{data}"'

    def name(found):
        place = names.get(found[1], '')
        elsewhere = place and not place.startswith(f'{page.name}#')
        # a plain word is more often an option or a column than a function
        certain = found[2] or re.search('[A-Z_]', found[1])
        return f'<a href="{place}">{found[0]}</a>' if elsewhere and certain else found[0]

    text = re.sub(r'href="(?!https?:|data:|mailto:)([^"]+)"', link, text)
    text = re.sub(r'src="(?!https?:|data:)([^"]+)"', inside, text)
    return re.sub(r'(?<!">)<code>(\w+)(\(\))?</code>', name, text)


def steps(page: Page, pages: list[Page]) -> str:  # HTML
    "Links to the page before and the page after"
    i = pages.index(page)
    before, after = pages[i - 1] if i else None, pages[i + 1] if i + 1 < len(pages) else None
    one = lambda p, rel, arrow: (
        f'<a rel="{rel}" href="{p.name}">{arrow.format(html.escape(p.title))}</a>'
    )
    links = [one(before, 'prev', '← {}')] if before else ['<span></span>']
    links += [one(after, 'next', '{} →')] if after else []
    return f'<nav class="steps" aria-label="Before and after">{"".join(links)}</nav>'


def sections(text: str, parts: Parts) -> list:  # [[id, heading], words] each
    "What the search looks through: the prose and the names defined, section by section"
    main = re.search(r'<main.*?</main>', text, flags=re.S)[0]
    bits = re.split(r'<h2[^>]*id="([^"]+)"[^>]*>(.*?)</h2>', main, flags=re.S)
    heads = [('', ''), *zip(bits[1::3], bits[2::3])]
    names = lambda m: ' ' + ' '.join(re.findall(r'<span id="(\w+)">', parts[int(m[1])])) + ' '
    said = [re.sub(r'<!--part (\d+)-->', names, body) for body in bits[::3]]
    return [[[i, words(h)], words(body)] for (i, h), body in zip(heads, said)]


def words(text: str) -> str:
    "HTML without its tags"
    text = re.sub(r'<a class="anchor-link".*?</a>|<h1.*?</h1>|<nav.*?</nav>', '', text, flags=re.S)
    return re.sub(r'\s+', ' ', html.unescape(re.sub(r'<[^>]+>', ' ', text))).strip()


# ---- the site


def contents(pages: list[Page]) -> str:  # HTML
    "The list of a chapter"
    line = '<li><a href="{}">{}</a><span>{}</span></li>'
    rows = [
        line.format(p.name, html.escape(p.title), words(html.escape(p.subtitle))) for p in pages
    ]
    return f'<ul class="contents">{"".join(rows)}</ul>'


# chapters that are no rooms of the package, or need a sentence; a room is called as its first notebook
ABOUT = {
    'documents': ('Documents', ''),
    'jobs': ('Jobs', 'What papermill runs, on a laptop or in a batch job; they have no outputs.'),
    'explore': ('Explore', 'Interactive notebooks; here they are still pictures.'),
    'reports': (
        'Reports',
        'The notebooks behind the pages of a study, without outputs: `make demo` runs them over '
        'a simulated experiment and writes `results/demo/report/index.html`.',
    ),
}


def front(pages: list[Page], parts: Parts) -> list:  # cells
    "The index: a chapter for every room, a line for every notebook"
    cells = [
        new_markdown_cell(
            'The notebooks are the source of the package: read them from *core* upwards. '
            'Outputs are the committed ones; nothing was run to make these pages. '
            'Cells with a line at their left are exported to `faba_nb/`.'
        )
    ]
    for chapter in dict.fromkeys(p.chapter for p in pages):
        own = [p for p in pages if p.chapter == chapter]
        title, about = ABOUT.get(chapter, (own[0].title, ''))
        cells.append(new_markdown_cell(f'## {title}\n\n{about}'))
        cells.append(piece(parts.place(contents(own))))
    return cells


def document(page: Page) -> list:  # cells
    "A Markdown file; its pictures and links are those of the file"
    return [new_markdown_cell(page.source.read_text(encoding='utf-8'))]


def build(site: Path) -> int:  # pages written
    "Write all pages and the index of the search"
    for old in site.glob('*.html'):
        old.unlink()
    pages, looked_up = all_pages(), []
    places = defined(pages)
    names = known_names(places)
    for number, page in enumerate(pages):
        parts = Parts()
        notebook = page.source.suffix == '.ipynb'
        cells = readable(page, places, parts) if notebook else document(page)
        cells.append(piece(parts.place(steps(page, pages))))
        text = with_links(to_html(cells, page, pages), page, pages, site, names)
        looked_up += [[number, *s] for s in sections(text, parts)]
        write_text(parts.put_in(text), site / page.name)
    parts = Parts()
    index = Page(ROOT / 'nbs', '', 'index.html', 'Notebooks of faba_nb')
    text = to_html(front(pages, parts), index, pages)
    write_text(parts.put_in(text), site / index.name)
    found = dict(pages=[[p.name, p.title] for p in pages], sections=looked_up)
    write_text(f'window.DOCS={json.dumps(found, ensure_ascii=False)}\n', site / 'search.js')
    return len(pages) + 1


if __name__ == '__main__':
    start, site = time.time(), Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / '_docs').resolve()
    count = build(site)
    size = sum(p.stat().st_size for p in site.iterdir()) / 1e6
    print(f'{count} pages, {size:.0f} MB, {time.time() - start:.0f} s: {site / "index.html"}')
