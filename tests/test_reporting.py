"Reports over invented studies: whole, honest about gaps, safe against markup, following their tables"

import json, os, re, shutil, subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, once

from faba_nb.core.errors import BadInput, StepFailed
from faba_nb.core.files import seal

PAGES = sorted(p.stem for p in (ROOT / 'reports').glob('*.ipynb'))


def example(folder, **kwargs):
    from faba_nb.testing.example_studies import example_results

    return example_results(folder, draws=60, **kwargs)


@pytest.fixture(scope='module')
def invented(tmp_path_factory):
    "A study without photographs, with awkward names and two of its four arms; read only"
    return once(
        tmp_path_factory, 'invented', lambda folder: example(folder, arms=['dinov2', 'clip'])
    )


@pytest.fixture
def bare(invented, tmp_path):
    "The same, to be changed"
    return shutil.copytree(invented, tmp_path / 'bare')


def pages_of(out):
    "Names of the pages that a study has"
    from faba_nb.reporting.site import reports

    return list(reports(out=out))


def run_page(monkeypatch, out, name):
    "Everything a page shows, its cells run in this process"
    from faba_nb.reporting import drawing, pages

    shown = []
    monkeypatch.setattr(pages, 'display', lambda html: shown.append(html.data))
    monkeypatch.setattr(
        drawing, 'UNDATED', {'svg': drawing.UNDATED['svg']}
    )  # the other formats have a test of their own
    space = {}
    for c in json.loads((ROOT / 'reports' / f'{name}.ipynb').read_text(encoding='utf-8'))['cells']:
        if c['cell_type'] == 'code':
            exec(
                ''.join(c['source'])
                if 'parameters' not in c['metadata'].get('tags', [])
                else f'out = {str(out)!r}',
                space,
            )
    assert space['page'].finished
    return space['page'], '\n'.join(shown)


def test_index_is_whole_offline_and_escaped(bare, monkeypatch, tmp_path):
    from faba_nb.reporting.report_steps import run_report

    monkeypatch.chdir(tmp_path)
    (bare / 'steps').mkdir()
    (bare / 'steps' / 'report.json').write_text('{}')  # of an earlier edition, for all pages
    assert run_report('bare', 'answer') == 2  # a relative path; the page, the workbook
    assert not (bare / 'steps' / 'report.json').exists()
    assert Path.cwd() == tmp_path  # the process stays where it was
    html = (bare / 'report' / 'index.html').read_text(encoding='utf-8')
    assert len(html) < 1_000_000
    assert html.count('<h1>') == 1 and 'Simulated data' in html
    assert not re.search(
        r'(src|href)="https?://', re.sub(r'href="https://doi.org/[^"]+"', '', html)
    )
    assert 'No results: BioCLIP and no images' in html  # what is missing is said
    assert run_report('bare', 'answer') == 0  # nothing changed, nothing is made


def test_what_is_missing_is_said_where_it_would_be(bare, monkeypatch):
    _, html = run_page(monkeypatch, bare, 'backbone_comparison')
    assert 'Not shown.' in html and 'was not recorded' in html


def words_in(html):
    "The words a reader sees, without figures' files and code"
    text = re.sub(r'<(script|style|svg)\b.*?</\1>', ' ', html, flags=re.S)
    return re.sub('<[^>]+>', ' ', text).split()


def test_the_first_page_is_one_answer(grown, monkeypatch):
    "Read aloud in two minutes: at most 700 words in all, one figure, one table of at most eight rows"
    from faba_nb.reporting.report_steps import run_report

    run_report(grown, 'answer')
    html = (grown / 'report' / 'index.html').read_text(encoding='utf-8')
    assert len(words_in(html)) <= 700
    assert html.count('<table') == 1 and html.count('<figure') == 1
    rows = re.findall(r'<tr\b.*?</tr>', html.split('<tbody')[1].split('</table')[0], flags=re.S)
    assert 0 < sum('<td' in r for r in rows) <= 8


def test_a_table_of_an_earlier_edition_is_refused_in_one_line(bare):
    from faba_nb.core.errors import BadInput
    from faba_nb.core.files import seal, write_csv
    from faba_nb.reporting.results import Results

    path = bare / 'tables' / 'delay.csv'
    write_csv(Results(bare).table('delay').drop(columns='controls'), path)
    seal(path)
    with pytest.raises(BadInput, match='earlier edition.*evaluate'):
        Results(bare).table('delay')


def test_the_first_page_says_only_what_there_is(bare, monkeypatch):
    "Without a stated contrast nothing holds; of many arms the best are shown, one without a value is none of them"
    from faba_nb.reporting import answer
    from faba_nb.reporting.results import NotThere, Results

    results = Results(bare)
    monkeypatch.setattr(answer, 'MOST', 1)
    shown = answer.shown_arms(results)
    f1 = {a: results.metric(a, 'f1').value for a in results.arms}
    assert shown == [max(f1, key=f1.get)]
    assert f'The 1 arm with the highest F1 of {len(f1)}' in answer.answer_table(results).caption
    metric = results.metric
    lost = lambda a, *args: None if a == shown[0] else metric(a, *args)
    monkeypatch.setattr(results, 'metric', lost)
    assert shown[0] not in answer.shown_arms(results)
    monkeypatch.setattr(answer, 'stated', lambda r: r.table('contrasts').head(0))
    with pytest.raises(NotThere, match='states no contrast'):
        answer.holds(results)


def test_names_cannot_inject_markup(invented, monkeypatch):
    "R&D <b>7</b>, Mélodie/2 and Ukko's are shown as they are, in tables and in figures"
    for name in ('backbone_comparison', 'genotypes'):
        page, html = run_page(monkeypatch, invented, name)
        assert (
            '<b>7</b>' not in html
            and 'R&amp;D &lt;b&gt;7&lt;/b&gt;' in html
            and 'Mélodie/2' in html
        )
    tex = (invented / 'tables' / 'report' / 'tab_accessions.tex').read_text(encoding='utf-8')
    assert r'R\&D' in tex and 'R&D' not in tex
    assert (
        pd.read_csv(invented / 'tables' / 'report' / 'tab_accessions.csv')
        .genotype.str.fullmatch('R&D <b>7</b>')
        .any()
    )
    svg = (invented / 'figures' / 'fig_accessions_190mm.svg').read_text(encoding='utf-8')
    assert 'R&amp;D &lt;b&gt;7&lt;/b&gt;' in svg


@pytest.fixture(scope='module')
def grown(twin, tmp_path_factory):
    "A study over the simulated experiment: photographs, plants in doubt, alarm days of two arms and of fluorescence"

    def make(out):
        from faba_nb.core.files import seal, write_csv, write_json, write_text
        from faba_nb.evaluation.evaluating import evaluate_study
        from faba_nb.evaluation.predictions import read_predictions, scores
        from faba_nb.evaluation.signal_alarms import deviation_scores
        from faba_nb.evaluation.signal_dates import alarm_dates
        from faba_nb.evaluation.signal_tables import ABOUT
        from faba_nb.experiment.experiment_folder import Experiment
        from faba_nb.experiment.facts import with_role
        from faba_nb.testing.example_studies import EXAMPLE, example_predictions

        e, arms = Experiment(twin), ('dinov2', 'clip')
        write_text(EXAMPLE, out / 'study.yaml')
        for i, arm in enumerate(arms):
            p = example_predictions(arm, e.measured, seed=10 * i)
            quiet = p.genotype.isin(sorted(p.genotype.unique())[:2]) & (
                p.treatment == 'WHC-30'
            )  # two genotypes that are never alarmed, or late
            write_csv(
                p.assign(probability=p.probability.where(~quiet, p.probability * 0.02)),
                out / 'arms' / arm / 'predictions.csv',
            )
        evaluate_study(out, draws=60)
        f = deviation_scores(
            e.fluor,
            with_role(e.facts, e.plants)[ABOUT],
            e.fluor_known,
        )
        models = [
            scores(read_predictions(out / 'arms' / a / 'predictions.csv'), 'online', a)
            for a in arms
        ]
        write_csv(
            pd.concat([alarm_dates(s) for s in [f, *models]]),
            out / 'tables' / 'presymptomatic_dates.csv',
        )
        seal(*(out / 'tables').glob('*.csv'))
        write_json(dict(simulated=dict(world='onset'), data=str(twin)), out / 'run.json')

    return once(tmp_path_factory, 'grown', make)


def drawn_figures(monkeypatch, out, name):
    "{(figure, width): `Drawn`} of a page, and its HTML"
    import matplotlib.pyplot as plt
    from faba_nb.reporting import drawing, pages

    found, html_of = {}, pages.figure_html

    def keep(draw, folder, figure, *args, **kwargs):
        def one(width):
            found[figure, width] = draw(width=width)
            return found[figure, width]

        return html_of(one, folder, figure, *args, **kwargs)

    monkeypatch.setattr(pages, 'figure_html', keep)
    monkeypatch.setattr(plt, 'close', lambda *_: None)
    return found, run_page(monkeypatch, out, name)[1]


def counted_in(text, noun):
    "Every number that stands before a noun"
    found = re.findall(rf'([\d\u202f]+) {noun}s?(?!\w)', text)
    return [int(n.replace('\u202f', '')) for n in found]


def test_a_caption_belongs_to_its_drawing(grown, monkeypatch):
    "On every page: what stands below the wide drawing was made with it, and so was what stands below the narrow one"
    from markupsafe import escape

    for name in ('genotypes', 'backbone_comparison', 'presymptomatic'):
        with monkeypatch.context() as m:
            found, html = drawn_figures(m, grown, name)
        assert found, name
        for figure in {f for f, _ in found}:
            element = re.search(rf'<figure id="{figure}">.*?</figure>', html, flags=re.S)[0]
            wide, narrow = element.split('<figcaption>')[1].split('<div class="narrow"')
            for width, caption in ((190, wide), (90, narrow)):
                assert (
                    str(escape(found[figure, width].caption)) in caption
                    and f'{figure}_{width}mm.svg' in caption
                ), (figure, width)


def test_captions_count_what_is_drawn(grown, monkeypatch):
    "What caption and alternative text count is in that very drawing, in both widths"
    from matplotlib.axes import Axes

    photos, show = {}, Axes.imshow

    def imshow(
        ax, x, *args, **kwargs
    ):  # several photographs side by side are as wide as all of them
        photos.setdefault(ax.figure, []).append(x.shape[1])
        return show(ax, x, *args, **kwargs)

    monkeypatch.setattr(Axes, 'imshow', imshow)
    found = {}
    for name in ('genotypes', 'backbone_comparison', 'presymptomatic'):
        with monkeypatch.context() as m:
            found |= drawn_figures(m, grown, name)[0]
    seen = {}
    for (figure, width), d in found.items():
        frame = min(photos.get(d.figure, [1])) / (
            6 if figure == 'fig_accession_rows' else 1
        )  # six plants of a genotype in its narrowest row
        for n in counted_in(d.caption + d.alt, 'photograph'):
            seen[figure, width] = n
            assert n == sum(photos[d.figure]) / frame, (figure, width)
    assert (
        seen['fig_accession_rows', 190] == 144
        and seen['fig_accession_rows', 90] == 72
        and seen['fig_strip', 190] != seen['fig_strip', 90]
    )
    for width in (90, 190):
        panels = found['fig_plants_over_time', width]
        for ax in panels.figure.axes:
            solid = [l for l in ax.lines if l.get_linestyle() == '-' and len(l.get_xdata()) > 2]
            assert len(solid) == sum(
                counted_in(panels.caption, f'{role} plant')[0] for role in ('control', 'drought')
            )
        rows = found['fig_accession_rows', width]
        assert all(
            counted_in(rows.caption, 'curve')
            == [len([l for l in ax.lines if len(l.get_xdata()) > 2])]
            for ax in rows.figure.axes
            if ax.lines
        )
        assert (
            'n = 36 drought plants and 36 matched controls' in found['fig_delay', width].caption
        )  # said 72 plants where one curve is of 36


def test_left_and_right_are_above_and_below_where_they_are(grown):
    from faba_nb.reporting import dataset
    from faba_nb.reporting.results import Results

    for width, words in ((190, ('Left:', 'right:')), (90, ('Above:', 'below:'))):
        d = dataset.biomass(Results(grown), width)
        (a, b), caption = (ax.get_position() for ax in d.figure.axes), d.caption
        assert all(w in caption for w in words) and (a.x0 < b.x0 if width == 190 else a.y0 > b.y0)


def test_the_alarm_day_of_an_accession_is_one_number(grown, monkeypatch):
    "The tables of evaluation, the pages of genotypes and dates, and the explorer: same day, same words"
    from faba_nb.evaluation.alarms import genotype_rule, NEVER_WORDS
    from faba_nb.exploring.plants_explorer import PlantsExplorer
    from faba_nb.reporting import genotypes, presymptomatic
    from faba_nb.reporting.results import Results

    r = Results(grown)
    table = r.table('presymptomatic_dates').query('signal == "dinov2"').set_index('genotype')
    day = pd.to_numeric(table.alarm_dag)
    assert (
        day.isna().any() and day.notna().sum() > 5 and set(table.rule) == {genotype_rule.words}
    )  # some are never alarmed
    same = lambda other: pd.testing.assert_series_equal(
        other.astype(float).sort_index(), day.sort_index(), check_names=False
    )
    same(genotypes.ranking(r, 'dinov2').set_index('genotype').day)
    same(genotypes.genotype_table(r).frame.set_index('genotype').alarm)
    same(presymptomatic.dates(r, 'dinov2').set_index('genotype').alarm_dag)
    e = PlantsExplorer(r.experiment.folder, grown)
    for g in day.index:
        e.search.value = g
        assert (
            f'alarm day of {g}: dinov2 {"DAG %g" % day[g] if day[g] == day[g] else "no date"}'
            in e.dates.value
        )
        assert genotype_rule.words in e.dates.value and NEVER_WORDS in e.dates.value
    for caption in (
        genotypes.ranking_figure(r, 190).caption,
        genotypes.genotype_table(r).caption,
        presymptomatic.timeline(r, 190).caption,
    ):
        assert genotype_rule.words in caption and NEVER_WORDS in caption
    last = genotypes.ranking(r, 'dinov2')
    assert last.day.isna().iloc[-1] and not last.day.isna().iloc[0]  # never alarmed stands last


def test_plants_in_doubt_say_so_on_the_pages(grown, monkeypatch):
    "What the check knows of single plants stands wherever they are shown"
    from faba_nb.reporting import genotypes, figures, presymptomatic
    from faba_nb.reporting.results import Results

    r = Results(grown)
    p = r.experiment.plants
    odd = p[p['flags'].str.contains('treatment_swapped')]
    assert len(odd) == 2
    strip = figures.plant_strip(r, 190, odd.genotype.iloc[0], odd.replicate.iloc[0])
    told = [
        strip.caption,
        genotypes.genotype_rows(r, 190).caption,
        presymptomatic.timeline(r, 90).caption,
        genotypes.genotype_table(r).frame.doubt.str.cat(),
    ]
    assert all(
        odd.plant_id.iloc[0] in t and 'exchanged with a plant of the other treatment' in t
        for t in told
    )
    assert any('†' in ax.get_ylabel() for ax in strip.figure.axes)
    dead = p[p['flags'].str.contains('dead')].iloc[0]
    assert (
        'died during the experiment'
        in figures.plant_strip(r, 90, dead.genotype, dead.replicate).caption
    )
    out = (
        r.experiment.images.query('outlier and view == "side_000"')
        .merge(p[['plant_id', 'genotype', 'replicate']], on='plant_id')
        .iloc[0]
    )
    assert (
        'outlier in the log on day'
        in figures.plant_strip(r, 190, out.genotype, out.replicate, most=99).caption
    )


def test_pages_name_no_place_of_the_machine(grown, monkeypatch):
    "Names of folders and files, never where they stand"
    from faba_nb.core.files import read_json

    data = read_json(grown / 'run.json')['data']
    for name in pages_of(grown):
        with monkeypatch.context() as m:
            _, html = run_page(m, grown, name)
        text = re.sub(r'"data:[^"]*"', '""', html)
        assert data not in text and str(grown) not in text, name
        assert not re.search(r'(?<![\w.])/(?:home|work|tmp|scratch|root|users|projappl)/', text), (
            name
        )
    assert Path(data).name in run_page(monkeypatch, grown, 'robustness')[1]


def test_a_page_does_not_say_where_missing_data_was(bare, monkeypatch):
    from faba_nb.core.files import write_json

    write_json(
        dict(
            data='/home/somebody/secret/faba',
            features='/home/somebody/features',
            simulated=dict(world='onset'),
        ),
        bare / 'run.json',
    )
    for name in ('backbone_comparison', 'features', 'dataset', 'methods'):
        with monkeypatch.context() as m:
            assert '/home' not in run_page(m, bare, name)[1], name


HOSTILE = [
    '=HYPERLINK("http://x.invalid","y")',
    '+1',
    '@x',
    '-1+1',
    '\t=1+1',
    '<script>alert(1)</script>',
    'R&D 100 % a_b \\ $x$ {y} ~^#',
    '[9] * http://x.invalid/',
]


def test_names_are_text_in_workbooks_latex_and_pages(bare, tmp_path):
    "Genotypes that look like formulas, links, markup or commands arrive as they are written"
    import openpyxl
    from faba_nb.reporting.layout import Column, Table, latex_text, save_table, to_html, to_latex
    from faba_nb.reporting.rendering import workbook

    t = pd.DataFrame(dict(genotype=HOSTILE, f1=0.5))
    t.to_csv(bare / 'tables' / 'hostile.csv', index=False)
    pd.DataFrame(dict(genotype=['+1', '-2'], f1=[1, 2])).to_csv(
        bare / 'tables' / 'numbers.csv', index=False
    )
    workbook(bare)
    book = openpyxl.load_workbook(bare / 'tables.xlsx')
    cells = [c for sheet in book for row in sheet.iter_rows() for c in row]
    assert not [c.coordinate for c in cells if c.data_type == 'f' or c.hyperlink]
    assert [c.value for c in book['hostile']['A']][1:] == HOSTILE and [
        c.value for c in book['hostile']['B']
    ][1] == 0.5
    assert [c.value for c in book['numbers']['A']][1:] == ['+1', '-2'] and [
        c.value for c in book['numbers']['B']
    ][1:] == [1, 2]
    table = Table(t, [Column('genotype', 'Genotype'), Column('f1', 'F1', digits=2)], 'Names.')
    html, tex = to_html(table, 'tab-hostile'), to_latex(table, 'tab:hostile')
    assert '<script' not in html and '&lt;script&gt;' in html and 'R&amp;D' in html
    assert (
        latex_text(HOSTILE[6])
        == r'R\&D 100 \% a\_b \textbackslash{} \$x\$ \{y\} \textasciitilde{}\textasciicircum{}\#'
    )
    assert '\n{}[9]' in tex and not re.search(
        r'\\\\\s*\n\[', tex
    )  # else an option of the line above
    assert '\t' not in latex_text('\t=1')


def test_formulas_of_names_in_figures_are_not_read(tmp_path, monkeypatch):
    "A name with two dollar signs is a name"
    from faba_nb.reporting import drawing, style

    monkeypatch.setattr(drawing, 'UNDATED', {'svg': drawing.UNDATED['svg']})
    style.use_style()
    fig, ax = style.new_figure(90, 30)
    ax.set(yticks=[0], yticklabels=[r'$\frac{1}$ & <script>'])
    svg = drawing.save_figure(fig, tmp_path, 'name', 90)['svg'].read_text(encoding='utf-8')
    style.plt.close(fig)
    assert r'$\frac{1}$ &amp; &lt;script&gt;' in svg


def test_a_changed_table_is_refused_in_one_line(bare, faba):
    "One digit of a sealed table: neither printed nor written into the workbook"
    from faba_nb.core.files import seal
    from faba_nb.reporting.rendering import workbook
    from faba_nb.reporting.report_steps import run_report
    from faba_nb.reporting.results import Results

    seal(*(bare / 'tables').glob('*.csv'))
    assert len(Results(bare).table('metrics'))
    path = bare / 'tables' / 'metrics.csv'
    path.write_text(path.read_text().replace('0.', '1.', 1))
    for read in (
        lambda: Results(bare).table('metrics'),
        lambda: run_report(bare, 'main_results'),
        lambda: workbook(bare),
    ):
        with pytest.raises(BadInput, match='not what was written here') as e:
            read()
        assert (
            'metrics.csv' in str(e.value)
            and 'run `faba evaluate` again' in str(e.value)
            and '\n' not in str(e.value)
        )
    assert not (bare / 'report').exists() and not (bare / 'tables.xlsx').exists()


def test_same_numbers_give_the_same_bytes(tmp_path, monkeypatch):
    "A figure of many panels, whose layout is found otherwise in the last digits, drawn again and again"
    from faba_nb.reporting import drawing, style

    monkeypatch.setattr(drawing, 'UNDATED', {'svg': drawing.UNDATED['svg']})
    style.use_style()
    found = set()
    for _ in range(12):
        fig, axes = style.panels(13, sharex=True, sharey=True)
        for ax in axes:
            ax.plot([3, 38], [0, 1], label='one')
        style.label_panels(axes, 'Days', 'Share')
        style.mark_simulated(fig)
        found.add(drawing.save_figure(fig, tmp_path, 'many', 190)['svg'].read_bytes())
        style.plt.close(fig)
    assert len(found) == 1


def one_genotype(out):
    "Only Aurora/2 is left, in tables and predictions"
    for path in [*(out / 'tables').glob('*.csv'), *out.glob('arms/*/*.csv')]:
        t = pd.read_csv(path)
        if 'genotype' in t:
            t[t.genotype == 'Aurora/2'].to_csv(path, index=False)
            seal(path)


@pytest.mark.parametrize('case', ['one genotype', 'one seed', 'a failed arm', 'nothing'])
def test_pages_stay_whole(case, invented, tmp_path, monkeypatch):
    "Every page runs to its end and says what is missing"
    from faba_nb.core.files import write_text

    out = tmp_path / 'study'
    if case == 'one genotype':
        one_genotype(shutil.copytree(invented, out))
    if case == 'one seed':
        example(out, genotypes=4, arms=['dinov2'], init_seeds=(42,))
    if case == 'a failed arm':
        shutil.copytree(invented, out)
        shutil.rmtree(out / 'arms' / 'dinov2')  # the tables know it, its files are gone
    if case == 'nothing':
        write_text('name: empty\narms: {full: {}}\n', out / 'study.yaml')
    for name in pages_of(out):
        page, html = run_page(monkeypatch, out, name)
        assert (
            html.count('class="gap"') >= len(page.gaps)
            and 'nan' not in re.sub(r'<[^>]*>', ' ', html).lower().split()
        ), name
        if case == 'nothing' and name not in ('methods', 'claims', 'features'):
            assert page.gaps and not page.figures, name


def test_a_changed_number_changes_its_sentence(bare):
    from faba_nb.reporting import sentences
    from faba_nb.reporting.results import Results

    path = bare / 'tables' / 'metrics.csv'
    m = pd.read_csv(path)
    m.loc[
        (m.metric == 'f1') & (m.group == 'published') & (m.arm == 'dinov2'),
        ['value', 'low', 'high'],
    ] = 0.9371, 0.9012, 0.9648
    m.to_csv(path, index=False)
    seal(path)
    assert 'The highest F1 is 0.94 [0.90, 0.96] (DINOv2)' in sentences.against_clock(Results(bare))


def test_every_sentence_follows_its_table(bare, monkeypatch):
    "One number after the other is changed in OUT/tables, and the page that quotes it reads otherwise"
    from faba_nb.reporting import presymptomatic, sentences
    from faba_nb.reporting.results import Results

    told = {
        ('contrasts', 'difference'): sentences.power,
        ('power', 'detectable_difference_80'): sentences.power,
        ('permutation', 'value'): sentences.information,
        ('metrics', 'value'): sentences.against_clock,
        ('contrasts', 'sentence'): sentences.verdicts,
    }
    for (table, column), sentence in told.items():
        before, path = str(sentence(Results(bare))), bare / 'tables' / f'{table}.csv'
        old = path.read_bytes()
        t = pd.read_csv(path)
        t[column] = t[column] + (0.1234 if t[column].dtype == float else ' indeed')
        t.to_csv(path, index=False)
        seal(path)
        assert str(sentence(Results(bare))) != before, (table, column)
        path.write_bytes(old)
        seal(path)
        assert str(sentence(Results(bare))) == before
    before = presymptomatic.earliness_sentence(Results(bare))
    m = pd.read_csv(bare / 'tables' / 'metrics.csv')
    m.loc[m.metric == 'pre_onset_excess', ['value', 'low', 'high']] = 0.41, 0.31, 0.51
    m.to_csv(bare / 'tables' / 'metrics.csv', index=False)
    seal(bare / 'tables' / 'metrics.csv')
    after = presymptomatic.earliness_sentence(Results(bare))
    assert after != before and '+0.41 [+0.31, +0.51]' in after[0] and 'exceed' in after[0]


def test_figures_are_files_with_text(invented, tmp_path):
    from faba_nb.reporting import figures
    from faba_nb.reporting.drawing import figure_html
    from faba_nb.reporting.results import Results
    from faba_nb.reporting.style import use_style

    use_style()
    html = figure_html(
        lambda width: figures.scores(Results(invented), width),
        tmp_path,
        'fig_scores',
        simulated=True,
    )
    assert {p.name for p in tmp_path.iterdir()} == {
        f'fig_scores_{w}mm.{e}' for w in (90, 190) for e in ('pdf', 'svg', 'png')
    }
    assert (
        html.count('role="img"') == 2
        and html.count('aria-label="F1:') == 2
        and html.count('SIMULATED DATA') == 2
    )
    pdf = (tmp_path / 'fig_scores_190mm.pdf').read_bytes()
    assert b'/Type0' in pdf and b'/Type3' not in pdf
    if shutil.which('pdffonts'):
        fonts = subprocess.run(
            ['pdffonts', tmp_path / 'fig_scores_90mm.pdf'],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[2:]
        assert fonts and all('TrueType' in f and ' yes yes yes ' in f for f in fonts), (
            fonts
        )  # embedded, subset, readable
        assert (
            'Simulated data'
            in subprocess.run(
                ['pdftotext', tmp_path / 'fig_scores_90mm.pdf', '-'],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )


def test_an_empty_folder_is_refused(tmp_path):
    from faba_nb.reporting.results import Results

    with pytest.raises(BadInput, match='study.yaml is missing'):
        Results(tmp_path)


def test_a_report_that_fails_is_named(bare, tmp_path):
    import nbformat
    from faba_nb.core.steps import run_step
    from faba_nb.reporting.report_steps import page_step
    from faba_nb.reporting.site import Report

    code = lambda source, *tags: nbformat.v4.new_code_cell(source, metadata={'tags': list(tags)})
    nb = nbformat.v4.new_notebook(
        metadata={
            'kernelspec': {'name': 'python3', 'language': 'python', 'display_name': 'python3'}
        },
        cells=[code("out = ''", 'parameters'), code('1/0')],
    )
    path = tmp_path / 'broken.ipynb'
    page = Report('broken', path, 'Broken', 'A page that fails')
    nbformat.write(nb, path)
    with pytest.raises(StepFailed, match='report-broken: cell 2 .*ZeroDivisionError'):
        run_step(page_step(bare, page), bare)
    assert (bare / 'notebooks' / 'report-broken.ipynb').is_file()
    nb.cells[1].source = 'pass'  # ends well, but never says so
    nbformat.write(nb, path)
    with pytest.raises(StepFailed, match='ended before its last cell'):
        run_step(page_step(bare, page), bare)
    assert not (bare / 'report').exists()


def test_report_notebooks_are_plain():
    "One parameters cell each, no logic, no stored output"
    for name in PAGES:
        cells = [
            c
            for c in json.loads((ROOT / 'reports' / f'{name}.ipynb').read_text(encoding='utf-8'))[
                'cells'
            ]
            if c['cell_type'] == 'code'
        ]
        assert sum('parameters' in c['metadata'].get('tags', []) for c in cells) == 1, name
        assert 'page.finish()' in ''.join(cells[-1]['source']) and not any(
            c['outputs'] for c in cells
        ), name
        assert not any(
            re.search(r'\b(def|lambda [a-z]+, |while)\b', ''.join(c['source'])) for c in cells
        ), name


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
    if not shutil.which('pdflatex'):
        pytest.skip('LaTeX is not installed (Debian: texlive-publishers and texlive-latex-extra)')
    if subprocess.run(['kpsewhich', 'cas-dc.cls'], capture_output=True).returncode:
        pytest.skip('the class cas-dc is not installed (Debian: texlive-publishers)')
    for name in pages_of(invented):
        run_page(monkeypatch, invented, name)
    tables = sorted((invented / 'tables' / 'report').glob('*.tex'))
    assert len(tables) > 12
    assert 'longtable' in (invented / 'tables' / 'report' / 'tab_claims.tex').read_text(
        encoding='utf-8'
    )  # longer than a page
    (tmp_path / 'tables.tex').write_text(
        LATEX % '\n'.join(f'\\input{{{p}}}\\clearpage' for p in tables), encoding='utf-8'
    )
    done = subprocess.run(
        ['pdflatex', '-draftmode', '-interaction=nonstopmode', '-halt-on-error', 'tables.tex'],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors='replace',
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-1500:]
    wide = re.findall(
        r'Overfull .hbox .(\d{2,})\.\d*pt too wide. in alignment',
        (tmp_path / 'tables.log').read_text(encoding='latin-1'),
    )
    assert not wide, f'tables are wider than the page by {wide} pt'


@pytest.mark.full
def test_all_pages_with_photographs(tmp_path, twin):
    "The whole site over a simulated experiment: sizes, headings, fonts, alternative texts"
    from faba_nb.reporting.report_steps import run_report

    if 'FABA_LOOK_AT' in os.environ:  # a finished study, whose pages need not be made again
        out = Path(os.environ['FABA_LOOK_AT'])
    else:
        out = example(tmp_path / 'example', data=twin)
        run_report(out)
    pages = sorted((out / 'report').glob('*.html'))
    most = {'plants': 25_000_000}  # photographs of every plant
    assert len(pages) >= 9
    assert all(p.stat().st_size < most.get(p.stem, 3_000_000) for p in pages)
    assert (out / 'tables.xlsx').is_file()
    for p in pages:
        html = p.read_text(encoding='utf-8')
        assert html.count('<h1>') == 1 and 'Simulated data' in html, p.name
        assert all(len(a) > 20 for a in re.findall(r'role="img" aria-label="([^"]*)"', html)), (
            p.name
        )
        assert html.count('SIMULATED DATA') >= html.count('role="img"'), p.name
    for pdf in (out / 'figures').glob('*.pdf'):
        raw = pdf.read_bytes()
        assert b'/Type3' not in raw and b'/Type0' in raw, pdf.name
