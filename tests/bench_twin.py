"How fast plants are drawn and experiments are written"

import tempfile, time
from pathlib import Path

import cv2
import numpy as np

from faba_nb.twin.design import planned_plants, planned_rounds
from faba_nb.twin.plant_drawing import ANGLES, photograph, png
from faba_nb.twin.form import plant_form
from faba_nb.twin.growth import grow, state_on
from faba_nb.twin.latent import course, with_onsets
from faba_nb.twin.measuring import side_morphology, top_morphology
from faba_nb.twin.writing import _detail, write_twin


def draw(height, step, measure=False):
    "Photographs per second on one core, PNG encoding included"
    cv2.setNumThreads(1)
    plants, n, r = (
        with_onsets(planned_plants(12), 'onset', 1).iloc[::step],
        0,
        np.random.default_rng(0),
    )
    rounds = planned_rounds(plants).groupby('plant_id')
    start = time.perf_counter()
    for p in plants.to_dict('records'):
        f, c = plant_form(p['genotype'], p['plant_id'], 1, p['odd']), course(p, 'onset', 1)
        for dag in rounds.get_group(p['plant_id']).dag:
            g = grow(f, state_on(c, dag), _detail(height))
            for a in (*ANGLES, None):
                im = photograph(g, a, height, r)
                png(im)
                n += 1
                if measure:
                    (top_morphology if a is None else side_morphology)(im, height)
    return n / (time.perf_counter() - start)


def bench(short=False):
    step = 36 if short else 7
    rows = [
        dict(
            name='photographs drawn and encoded, 320 pixels, one core',
            value=draw(320, step),
            unit='images/s',
            beside='at least 40',
            ratio=None,
        )
    ]
    rows[0]['ratio'] = rows[0]['value'] / 40
    rows.append(
        dict(
            name='… and measured',
            value=draw(320, step, True),
            unit='images/s',
            beside=None,
            ratio=None,
        )
    )
    if not short:
        rows.append(
            dict(
                name='photographs at full resolution, one core',
                value=draw(3476, 36),
                unit='images/s',
                beside=None,
                ratio=None,
            )
        )
    with tempfile.TemporaryDirectory() as d:
        start = time.perf_counter()
        write_twin(
            Path(d) / 't',
            **(dict(genotypes=1, height=64, workers=2) if short else dict(genotypes=12)),
        )
        took = time.perf_counter() - start
    return rows + [
        dict(
            name=f'a twin of {1 if short else 12} accessions, workbooks included, all cores',
            value=took,
            unit='s',
            beside='at most 45',
            ratio=took / 45,
        )
    ]
