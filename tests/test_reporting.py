"Reports over invented studies: whole, honest about gaps, safe against markup, following their tables"
import json, re, shutil, subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, once

from faba_nb.core.errors import BadInput, StepFailed

PAGES = sorted(p.stem for p in (ROOT/'reports').glob('*.ipynb'))


def example(folder, **kwargs):
    from faba_nb.reporting.example import example_results
    return example_results(folder, draws=60, **kwargs)


@pytest.fixture(scope='module')
def invented(tmp_path_factory):
    "A study without photographs, with awkward names and two of its four arms; read only"
    return once(tmp_path_factory, 'invented', lambda folder: example(folder, arms=['dinov2', 'clip']))


@pytest.fixture
def bare(invented, tmp_path):
    "The same, to be changed"
    return shutil.copytree(invented, tmp_path/'bare')


def pages_of(out):
    "Names of the pages that a study has"
    from faba_nb.reporting.site import reports
    return list(reports(out=out))


def run_page(monkeypatch, out, name):
    "Everything a page shows, its cells run in this process"
    from faba_nb.reporting import drawing, pages
    shown = []
    monkeypatch.setattr(pages, 'display', lambda html: shown.append(html.data))
    monkeypatch.setattr(drawing, 'UNDATED', {'svg': drawing.UNDATED['svg']})  # the other formats have a test of their own
    space = {}
    for c in json.loads((ROOT/'reports'/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']:
        if c['cell_type'] == 'code': exec(''.join(c['source']) if 'parameters' not in c['metadata'].get('tags', []) else f'out = {str(out)!r}', space)
    assert space['page'].finished
    return space['page'], '\n'.join(shown)


def test_index_is_whole_offline_and_escaped(bare, monkeypatch, tmp_path):
    from faba_nb.reporting.rendering import render_reports
    monkeypatch.chdir(tmp_path)
    made = render_reports('bare', 'backbone_comparison')  # a relative path
    assert Path.cwd() == tmp_path  # the process stays where it was
    html = made.page[0].read_text(encoding='utf-8')
    assert made.made[0] and made.page[0].name == 'index.html' and len(html) < 1_000_000
    assert html.count('<h1>') == 1 and 'Simulated data' in html
    assert not re.search(r'(src|href)="https?://', re.sub(r'href="https://doi.org/[^"]+"', '', html))
    assert 'No results: BioCLIP and no images' in html  # what is missing is said
    assert 'Not shown.' in html and 'was not recorded' in html
    again = render_reports('bare', 'backbone_comparison')
    assert not again.made[0]  # nothing changed, nothing is made


def test_names_cannot_inject_markup(invented, monkeypatch):
    "R&D <b>7</b>, Mélodie/2 and Ukko's are shown as they are, in tables and in figures"
    for name in ('backbone_comparison', 'genotypes'):
        page, html = run_page(monkeypatch, invented, name)
        assert '<b>7</b>' not in html and 'R&amp;D &lt;b&gt;7&lt;/b&gt;' in html and 'Mélodie/2' in html
    tex = (invented/'tables'/'report'/'tab_accessions.tex').read_text(encoding='utf-8')
    assert r'R\&D' in tex and 'R&D' not in tex
    assert pd.read_csv(invented/'tables'/'report'/'tab_accessions.csv').genotype.str.fullmatch('R&D <b>7</b>').any()
    svg = (invented/'figures'/'fig_accessions_190mm.svg').read_text(encoding='utf-8')
    assert 'R&amp;D &lt;b&gt;7&lt;/b&gt;' in svg


def test_same_numbers_give_the_same_bytes(tmp_path, monkeypatch):
    "A figure of many panels, whose layout is found otherwise in the last digits, drawn again and again"
    from faba_nb.reporting import drawing, style
    monkeypatch.setattr(drawing, 'UNDATED', {'svg': drawing.UNDATED['svg']})
    style.use_style()
    found = set()
    for _ in range(12):
        fig, axes = style.panels(13, sharex=True, sharey=True)
        for ax in axes: ax.plot([3, 38], [0, 1], label='one')
        style.label_panels(axes, 'Days', 'Share')
        style.mark_simulated(fig)
        found.add(drawing.save_figure(fig, tmp_path, 'many', 190)['svg'].read_bytes())
        style.plt.close(fig)
    assert len(found) == 1


def one_genotype(out):
    "Only Aurora/2 is left, in tables and predictions"
    for path in [*(out/'tables').glob('*.csv'), *out.glob('arms/*/*.csv')]:
        t = pd.read_csv(path)
        if 'genotype' in t: t[t.genotype == 'Aurora/2'].to_csv(path, index=False)


@pytest.mark.parametrize('case', ['one genotype', 'one seed', 'a failed arm', 'nothing'])
def test_pages_stay_whole(case, invented, tmp_path, monkeypatch):
    "Every page runs to its end and says what is missing"
    from faba_nb.core.files import write_text
    out = tmp_path/'study'
    if case == 'one genotype': one_genotype(shutil.copytree(invented, out))
    if case == 'one seed': example(out, genotypes=4, arms=['dinov2'], init_seeds=(42,))
    if case == 'a failed arm':
        shutil.copytree(invented, out)
        shutil.rmtree(out/'arms'/'dinov2')  # the tables know it, its files are gone
    if case == 'nothing': write_text('name: empty\narms: {full: {}}\n', out/'study.yaml')
    for name in pages_of(out):
        page, html = run_page(monkeypatch, out, name)
        assert html.count('class="gap"') >= len(page.gaps) and 'nan' not in re.sub(r'<[^>]*>', ' ', html).lower().split(), name
        if case == 'nothing' and name not in ('methods', 'claims', 'features'): assert page.gaps and not page.figures, name


def test_a_changed_number_changes_its_sentence(bare):
    from faba_nb.reporting import claims, sentences
    from faba_nb.reporting.results import Results
    path = bare/'tables'/'metrics.csv'
    m = pd.read_csv(path)
    m.loc[(m.metric == 'f1') & (m.group == 'published') & (m.arm == 'dinov2'), ['value', 'low', 'high']] = .9371, .9012, .9648
    m.to_csv(path, index=False)
    assert 'The highest F1 is 0.94 [0.90, 0.96] (DINOv2)' in sentences.against_clock(Results(bare))
    j = claims.judge(Results(bare)).set_index('id')
    assert '0.937 [0.901, 0.965]' in j.now['f1'] and j.verdict['f1'] == 'weaker'  # 0.634 is not in that interval


def test_every_sentence_follows_its_table(bare, monkeypatch):
    "One number after the other is changed in OUT/tables, and the page that quotes it reads otherwise"
    from faba_nb.reporting import presymptomatic, sentences
    from faba_nb.reporting.results import Results
    told = {('contrasts', 'difference'): sentences.power, ('power', 'detectable_difference_80'): sentences.power, ('permutation', 'value'): sentences.information,
            ('metrics', 'value'): sentences.against_clock, ('contrasts', 'sentence'): sentences.verdicts}
    for (table, column), sentence in told.items():
        before, path = str(sentence(Results(bare))), bare/'tables'/f'{table}.csv'
        old = path.read_bytes()
        t = pd.read_csv(path)
        t[column] = t[column] + (.1234 if t[column].dtype == float else ' indeed')
        t.to_csv(path, index=False)
        assert str(sentence(Results(bare))) != before, (table, column)
        path.write_bytes(old)
        assert str(sentence(Results(bare))) == before
    before = presymptomatic.earliness_sentence(Results(bare))
    m = pd.read_csv(bare/'tables'/'metrics.csv')
    m.loc[m.metric == 'pre_onset_excess', ['value', 'low', 'high']] = .41, .31, .51
    m.to_csv(bare/'tables'/'metrics.csv', index=False)
    after = presymptomatic.earliness_sentence(Results(bare))
    assert after != before and '+0.41 [+0.31, +0.51]' in after[0] and 'exceed' in after[0]


def test_verdicts_follow_the_contrasts(bare):
    from faba_nb.reporting import claims
    from faba_nb.reporting.results import Results
    path = bare/'tables'/'contrasts.csv'
    c = pd.read_csv(path)
    for verdict, expected in (('better', 'stands'), ('undecided', 'cannot be said'), ('worse', 'cannot be said')):
        c.loc[(c.metric == 'f1') & (c.arm_a == 'clip') & (c.arm_b == 'dinov2'), 'verdict'] = verdict
        c.to_csv(path, index=False)
        assert claims.judge(Results(bare)).set_index('id').verdict['clip_better'] == expected


def test_figures_are_files_with_text(invented, tmp_path):
    from faba_nb.reporting import figures
    from faba_nb.reporting.drawing import figure_html
    from faba_nb.reporting.results import Results
    from faba_nb.reporting.style import use_style
    use_style()
    html = figure_html(lambda width: figures.scores(Results(invented), width), tmp_path, 'fig_scores', simulated=True)
    assert {p.name for p in tmp_path.iterdir()} == {f'fig_scores_{w}mm.{e}' for w in (90, 190) for e in ('pdf', 'svg', 'png')}
    assert html.count('role="img"') == 2 and html.count('aria-label="F1:') == 2 and html.count('SIMULATED DATA') == 2
    pdf = (tmp_path/'fig_scores_190mm.pdf').read_bytes()
    assert b'/Type0' in pdf and b'/Type3' not in pdf
    if shutil.which('pdffonts'):
        fonts = subprocess.run(['pdffonts', tmp_path/'fig_scores_90mm.pdf'], capture_output=True, text=True, check=True).stdout.splitlines()[2:]
        assert fonts and all('TrueType' in f and ' yes yes yes ' in f for f in fonts), fonts  # embedded, subset, readable
        assert 'Simulated data' in subprocess.run(['pdftotext', tmp_path/'fig_scores_90mm.pdf', '-'], capture_output=True, text=True, check=True).stdout


def test_an_empty_folder_is_refused(tmp_path):
    from faba_nb.reporting.results import Results
    with pytest.raises(BadInput, match='study.yaml is missing'): Results(tmp_path)


def test_a_report_that_fails_is_named(bare, tmp_path):
    import nbformat
    from faba_nb.reporting import rendering
    code = lambda source, *tags: nbformat.v4.new_code_cell(source, metadata={'tags': list(tags)})
    nb = nbformat.v4.new_notebook(metadata={'kernelspec': {'name': 'python3', 'language': 'python', 'display_name': 'python3'}}, cells=[code("out = ''", 'parameters'), code('1/0')])
    path = tmp_path/'broken.ipynb'
    nbformat.write(nb, path)
    with pytest.raises(StepFailed, match='broken.ipynb, cell .*ZeroDivisionError'): rendering.execute(path, bare)
    assert (bare/'notebooks'/'report_broken_failed.ipynb').is_file()
    nb.cells[1].source = 'pass'  # ends well, but never says so
    nbformat.write(nb, path)
    with pytest.raises(StepFailed, match='did not run to its end'): rendering.execute(path, bare)


def test_report_notebooks_are_plain():
    "One parameters cell each, no logic, no stored output"
    for name in PAGES:
        cells = [c for c in json.loads((ROOT/'reports'/f'{name}.ipynb').read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
        assert sum('parameters' in c['metadata'].get('tags', []) for c in cells) == 1, name
        assert 'page.finish()' in ''.join(cells[-1]['source']) and not any(c['outputs'] for c in cells), name
        assert not any(re.search(r'\b(def|lambda [a-z]+, |while)\b', ''.join(c['source'])) for c in cells), name


LATEX = r'''\documentclass[a4paper,fleqn]{cas-dc}
\usepackage{natbib,longtable}
\begin{document}
\title{Tables}\shorttitle{Tables}\shortauthors{Nobody}\maketitle
%s
\end{document}
'''


@pytest.mark.full
def test_latex_tables_compile(invented, tmp_path, monkeypatch):
    "Every table of every page, in the journal's class"
    if not shutil.which('pdflatex'): pytest.skip('LaTeX is not installed (Debian: texlive-publishers and texlive-latex-extra)')
    if subprocess.run(['kpsewhich', 'cas-dc.cls'], capture_output=True).returncode: pytest.skip('the class cas-dc is not installed (Debian: texlive-publishers)')
    for name in pages_of(invented): run_page(monkeypatch, invented, name)
    tables = sorted((invented/'tables'/'report').glob('*.tex'))
    assert len(tables) > 12
    assert 'longtable' in (invented/'tables'/'report'/'tab_claims.tex').read_text(encoding='utf-8')  # longer than a page
    (tmp_path/'tables.tex').write_text(LATEX % '\n'.join(f'\\input{{{p}}}\\clearpage' for p in tables), encoding='utf-8')
    done = subprocess.run(['pdflatex', '-draftmode', '-interaction=nonstopmode', '-halt-on-error', 'tables.tex'], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace', timeout=300)
    assert done.returncode == 0, done.stdout[-1500:]
    wide = re.findall(r'Overfull .hbox .(\d{2,})\.\d*pt too wide. in alignment', (tmp_path/'tables.log').read_text(encoding='latin-1'))
    assert not wide, f'tables are wider than the page by {wide} pt'


@pytest.mark.full
def test_all_pages_with_photographs(tmp_path, twin):
    "The whole site over a simulated experiment: sizes, headings, fonts, alternative texts"
    from faba_nb.reporting.rendering import render_reports
    out = example(tmp_path/'example', data=twin)
    made = render_reports(out)
    assert len(made) >= 8 and all(p.stat().st_size < 3_000_000 for p in made.page) and (out/'tables.xlsx').is_file()
    for p in made.page:
        html = p.read_text(encoding='utf-8')
        assert html.count('<h1>') == 1 and 'Simulated data' in html, p.name
        assert all(len(a) > 20 for a in re.findall(r'role="img" aria-label="([^"]*)"', html)), p.name
        assert html.count('SIMULATED DATA') >= html.count('role="img"'), p.name
    for pdf in (out/'figures').glob('*.pdf'):
        raw = pdf.read_bytes()
        assert b'/Type3' not in raw and b'/Type0' in raw, pdf.name
