from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codexseg.core.drawing.error_overlay import GAINED, MATCHED, MISSED, TRUTH, draw_errors
from codexseg.core.grid import PatchGrid, Window
from codexseg.core.labels.overlaps import (
    add_overlaps,
    border_labels,
    drop_objects,
    overlaps,
)
from codexseg.core.metrics.error_types import ErrorCounts, count_errors
from codexseg.core.metrics.objects import (
    QUOTIENTS,
    MatchCounts,
    count_matches,
    matched_pairs,
    mean_quotients,
    object_pairs,
    pool_matches,
)
from codexseg.core.metrics.pixels import auroc, count_pixels, probability_levels
from codexseg.errors import InputError
from tests.helpers.drawing import draw

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
FIELDS = ("tp", "fp", "fn", "n_true", "n_pred", *QUOTIENTS)

small = arrays(np.uint32, (5, 6), elements=st.integers(0, 4))


def pairs_of(truth, pred):
    return object_pairs(overlaps(truth, pred))


def dense_ious(truth, pred):
    rows, columns = (np.unique(a[a > 0]) for a in (truth, pred))
    iou = np.zeros((len(rows), len(columns)))
    for i, t in enumerate(rows):
        for j, p in enumerate(columns):
            iou[i, j] = ((truth == t) & (pred == p)).sum() / (
                ((truth == t) | (pred == p)).sum()
            )
    return iou


def best_by_hand(iou, threshold):
    """Return the most matches, and the sums of IoU of all optimal assignments."""
    if 0 in iou.shape:
        return 0, {0.0}
    if iou.shape[0] > iou.shape[1]:
        iou = iou.T
    results = []
    for columns in permutations(range(iou.shape[1]), iou.shape[0]):
        paired = iou[range(iou.shape[0]), columns]
        good = paired >= threshold
        results.append(
            (int(good.sum()), round(paired.sum(), 9), round(paired[good].sum(), 9))
        )
    best = max(results)[:2]
    return best[0], {matched for *key, matched in results if tuple(key) == best}


def tissue(seed, n=60, side=5, labels=60):
    """Return touching objects, and a shifted prediction with eroded and merged ones."""
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, labels, (n // side, n // side)), np.ones((side, side)))
    pred = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
    pred[rng.random(pred.shape) < 0.2] = 0
    numbers = np.arange(labels)
    merged = rng.random(labels) < 0.2
    numbers[merged] = rng.integers(0, labels, merged.sum())
    return truth.astype(np.uint32), numbers[pred.astype(int)].astype(np.uint32)


# -- objects ------------------------------------------------------------------------------


def test_metrics_counted_by_hand():
    truth = draw("""
        1111..22..
        1111..22..
        ........33
    """)
    pred = draw("""
        .888..77..
        .888......
        55......66
    """)
    table = overlaps(truth, pred)
    assert list(zip(*table, strict=True)) == [
        (0, 5, 2),
        (1, 0, 2),
        (1, 8, 6),
        (2, 0, 2),
        (2, 7, 2),
        (3, 6, 2),
    ]
    pairs = object_pairs(table)
    assert pairs.iou.tolist() == [6 / 8, 2 / 4, 1]
    assert pairs.inside.tolist() == [1, 1, 1]
    match = count_matches(pairs, 0.75)
    assert (match.tp, match.fp, match.fn) == (2, 2, 1)
    assert match.precision == 2 / 4
    assert match.recall == 2 / 3
    assert match.f1 == 4 / 7
    assert match.accuracy == 2 / 5
    assert match.mean_matched_score == 1.75 / 2
    assert match.mean_true_score == 1.75 / 3
    assert match.panoptic_quality == 1.75 / 3.5
    assert count_matches(pairs, 0.5).tp == 3  # the threshold itself matches
    assert count_matches(pairs, 0.7501).tp == 1


def test_number_of_matches_has_priority_over_iou():
    truth = draw("1111111122")
    pred = draw("7777788888")
    # IoU: (1, 7) 5/8, (1, 8) 3/10, (2, 8) 2/5. The matches are (1, 7) and (2, 8).
    assert count_matches(pairs_of(truth, pred), 0.3).tp == 2
    truth, pred = draw("2211111111...."), draw("8888888888777.")
    pred[0, 9] = 7
    # (1, 8) has 7/10. But 2 overlaps only 8, which leaves (1, 7) with 1/11.
    pairs = pairs_of(truth, pred)
    assert sorted(pairs.iou.round(3)) == [0.091, 0.222, 0.7]
    assert count_matches(pairs, 0.2).iou_sum == 0.7
    low = count_matches(pairs, 0.05)
    assert (low.tp, low.iou_sum) == (2, 1 / 11 + 2 / 9)


@given(small, small, st.sampled_from((0.01, 0.1, 0.25, 1 / 3, 0.5, 0.6, 1.0)))
@settings(max_examples=150, deadline=None)
def test_matches_equal_exhaustive_search(truth, pred, threshold):
    tp, sums = best_by_hand(dense_ious(truth, pred), threshold)
    match = count_matches(pairs_of(truth, pred), threshold)
    assert match.tp == tp
    assert round(match.iou_sum, 9) in sums
    assert match.n_true == len(np.unique(truth[truth > 0]))
    assert match.n_pred == len(np.unique(pred[pred > 0]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_matches_of_large_components_equal_a_dense_assignment(seed):
    from scipy.optimize import linear_sum_assignment

    truth, pred = tissue(seed, side=3, labels=300)
    iou = dense_ious(truth, pred)
    for threshold in (0.05, 0.15, 0.3):
        good = iou >= threshold
        rows = linear_sum_assignment(-1.0 * good - iou / (2 * min(iou.shape)))
        match = count_matches(pairs_of(truth, pred), threshold)
        assert match.tp == good[rows].sum()
        assert match.iou_sum == pytest.approx(iou[rows][good[rows]].sum(), abs=1e-9)


def test_matches_do_not_depend_on_the_batch_size(monkeypatch):
    truth, pred = tissue(1, side=2, labels=900)
    pairs = pairs_of(truth, pred)
    rows = matched_pairs(pairs, 0.1)
    assert len(rows) > 100
    monkeypatch.setattr("codexseg.core.metrics.objects._COMPONENTS_AT_ONCE", 1)
    assert np.array_equal(matched_pairs(pairs, 0.1), rows)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_stardist(seed):
    stardist = pytest.importorskip(
        "stardist.matching", reason="stardist is not installed (extra: test)"
    )
    images = [tissue(3 * seed + k, labels=20 + 60 * k) for k in range(3)]
    images.append((images[0][0], np.zeros_like(images[0][1])))
    images.append((np.zeros_like(images[0][0]), np.zeros_like(images[0][1])))
    counts = [[count_matches(pairs_of(*i), t) for i in images] for t in THRESHOLDS]
    truths, preds = ([np.int64(i[k]) for i in images] for k in (0, 1))
    for number in range(len(images)):
        expected = stardist.matching(truths[number], preds[number], THRESHOLDS)
        for ours, theirs in zip((c[number] for c in counts), expected, strict=True):
            for name in FIELDS:
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=2e-6)
    for by_image in (False, True):
        expected = stardist.matching_dataset(
            truths, preds, THRESHOLDS, by_image=by_image, show_progress=False
        )
        for ours, theirs in zip(counts, expected, strict=True):
            pooled, mean = pool_matches(ours), mean_quotients(ours)
            for name in FIELDS:
                value = mean.get(name) if by_image else None
                value = getattr(pooled, name) if value is None else value
                assert value == pytest.approx(getattr(theirs, name), abs=2e-6), name


def test_metrics_of_empty_images_are_zero():
    match = count_matches(pairs_of(*np.zeros((2, 3, 4), np.uint32)), 0.5)
    assert match == MatchCounts(0.5, 0, 0, 0, 0.0)
    assert {getattr(match, name) for name in QUOTIENTS} == {0.0}
    truth = draw("11..2")
    match = count_matches(pairs_of(truth, np.zeros_like(truth)), 0.5)
    assert (match.tp, match.fp, match.fn) == (0, 0, 2)


def test_pooled_metrics_and_means_over_images():
    first, second = MatchCounts(0.5, 3, 1, 1, 2.4), MatchCounts(0.5, 0, 2, 0, 0.0)
    pooled = pool_matches([first, second])
    assert pooled == MatchCounts(0.5, 3, 3, 1, 2.4)
    assert pooled.precision == 0.5
    assert mean_quotients([first, second])["precision"] == 0.375
    with pytest.raises(InputError, match="one threshold"):
        pool_matches([first, MatchCounts(0.6, 0, 0, 0, 0.0)])
    with pytest.raises(InputError, match="no image"):
        pool_matches([])


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(InputError, match="expected above 0"):
        count_matches(pairs_of(draw("1"), draw("1")), threshold)


# -- tables -------------------------------------------------------------------------------


@given(small, small, st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_overlaps_of_windows_add_up_to_the_whole(truth, pred, height, width):
    windows = [p.core.slices for p in PatchGrid(truth.shape, (height, width), (0, 0))]
    parts = [overlaps(truth[window], pred[window]) for window in windows]
    for part, whole in zip(add_overlaps(parts), overlaps(truth, pred), strict=True):
        assert np.array_equal(part, whole)
        assert part.dtype == whole.dtype


@given(small, small, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_metrics_do_not_depend_on_label_numbers(truth, pred, random):
    names = np.array([0, 2**32 - 1, 7, 2**31, 5], np.uint32)
    renamed = pairs_of(names[truth], names[pred])
    pairs = pairs_of(truth, pred)
    for threshold in (0.1, 0.5):
        expected = count_matches(pairs, threshold).tp
        assert count_matches(renamed, threshold).tp == expected
    assert count_errors(pairs) == count_errors(renamed)


def test_million_objects_need_no_dense_table():
    n = 1 << 20
    truth = np.arange(1, n + 1, dtype=np.uint32).reshape(1024, 1024)
    pred = truth[::-1, ::-1].copy()
    match = count_matches(pairs_of(truth, pred), 0.5)
    assert (match.tp, match.f1) == (n, 1.0)


def test_objects_at_the_border_are_dropped_from_truth_and_prediction():
    truth = draw("""
        .........
        .........
        ..11.22..
        ..11.22..
        .3.......
        .........
    """)
    pred = draw("""
        .........
        .....8...
        ..77.88..
        ..77.88..
        .........
        .........
    """)
    window = Window(0, 0, *truth.shape)
    at_border = [border_labels(a, 2, window, truth.shape) for a in (truth, pred)]
    assert [a.tolist() for a in at_border] == [[3], [8]]
    table = drop_objects(overlaps(truth, pred), *at_border)
    # Pixels of a dropped object are background: 2 is kept and unmatched.
    match = count_matches(object_pairs(table), 0.5)
    assert (match.tp, match.fp, match.fn) == (1, 0, 1)
    assert table.shared.tolist() == [4, 4]
    assert border_labels(truth, 0, window, truth.shape).tolist() == []


@given(small, st.integers(0, 3), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_border_labels_of_windows_equal_those_of_the_whole(labels, border, side):
    inner = np.zeros(labels.shape, np.bool_)
    inner[border : labels.shape[0] - border, border : labels.shape[1] - border] = True
    expected = set(labels[~inner].tolist()) - {0}
    windows = [p.core for p in PatchGrid(labels.shape, (side, side), (0, 0))]
    parts = [border_labels(labels[w.slices], border, w, labels.shape) for w in windows]
    assert {label for part in parts for label in part.tolist()} == expected


def test_overlaps_of_different_shapes_are_refused():
    with pytest.raises(InputError, match="same pixels"):
        overlaps(draw("1"), draw("11"))


# -- errors -------------------------------------------------------------------------------

ERRORS = {
    "correct": ("11111", "7777.", {"correct": 1}),
    "IoU of exactly 0.6": ("11111", "777..", {"missed": 1, "gained": 1}),
    "missed": ("11.....", ".......", {"missed": 1}),
    "gained": (".....", "..7..", {"gained": 1}),
    "split": ("11111111", "77778888", {"split": 1, "gained_from_split": 1}),
    "split in four": ("11111111", "77889966", {"split": 1, "gained_from_split": 3}),
    "merge": ("11112222", "77777777", {"merge": 1, "missed_from_merge": 1}),
    "catastrophe": (
        "1111112222",
        "7778888888",
        {"catastrophe": 1, "true_in_catastrophe": 2, "pred_in_catastrophe": 2},
    ),
    # 8 matches 1, which leaves 7 without a counterpart.
    "beside a match": ("1111111111", "7788888888", {"correct": 1, "gained": 1}),
    # IoU 1/12, but all of 7 is inside 1.
    "inside": ("111111111111", "7..8888.....", {"split": 1, "gained_from_split": 1}),
    # IoU 1/12 with 1, and no more than half of 7 is inside it.
    "half inside": ("11111111111.", "8888......77", {"missed": 1, "gained": 2}),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_by_type(name):
    truth, pred, expected = ERRORS[name]
    truth, pred = (np.repeat(draw(row), 2, axis=0) for row in (truth, pred))
    n_true, n_pred = (len(np.unique(a[a > 0])) for a in (truth, pred))
    errors = count_errors(pairs_of(truth, pred))
    assert errors == ErrorCounts(n_true=n_true, n_pred=n_pred, **expected)


@given(small, small)
@settings(max_examples=100, deadline=None)
def test_every_object_is_correct_or_in_one_error(truth, pred):
    e = count_errors(pairs_of(truth, pred))
    split_and_merge = e.split + e.missed_from_merge + e.merge
    assert e.n_true == e.correct + e.missed + split_and_merge + e.true_in_catastrophe
    split_and_merge = e.gained_from_split + e.split + e.merge
    assert e.n_pred == e.correct + e.gained + split_and_merge + e.pred_in_catastrophe


def test_errors_of_images_add_up():
    total = ErrorCounts(n_true=4, n_pred=2, correct=1, missed=3) + ErrorCounts(
        0, 2, gained=2
    )
    assert total == ErrorCounts(n_true=4, n_pred=4, correct=1, missed=3, gained=2)
    assert (total.precision, total.recall, total.f1) == (0.25, 0.25, 0.25)
    assert ErrorCounts().f1 == 0


def test_error_overlay_colours_objects_by_error():
    truth = draw("""
        .........
        .111.....
        .111.222.
        .111.222.
        .....222.
    """)
    pred = draw("""
        .........
        .777.....
        .777.....
        .777.....
        8........
    """)
    picture = draw_errors(truth, pred, overlaps(truth, pred))
    assert tuple(picture[1, 1]) == MATCHED
    assert tuple(picture[2, 2]) == TRUTH
    assert tuple(picture[2, 5]) == MISSED
    assert tuple(picture[4, 0]) == GAINED
    assert tuple(picture[0, 0]) == (0, 0, 0)


# -- pixels -------------------------------------------------------------------------------


def test_pixels_counted_by_hand():
    counts = count_pixels(overlaps(draw("112.3"), draw("8.877")))
    assert (counts.tp, counts.fp, counts.fn) == (3, 1, 1)
    assert (counts.precision, counts.recall, counts.f1) == (0.75, 0.75, 0.75)
    assert (counts.iou, counts.dice) == (0.6, 0.75)
    total = counts + count_pixels(overlaps(draw("1"), draw(".")))
    assert (total.tp, total.fp, total.fn) == (3, 1, 2)


@given(small, small)
@settings(max_examples=50, deadline=None)
def test_iou_follows_from_f1(truth, pred):
    counts = count_pixels(overlaps(truth, pred))
    t, p = truth > 0, pred > 0
    assert (counts.tp, counts.fp, counts.fn) == (
        (t & p).sum(),
        (~t & p).sum(),
        (t & ~p).sum(),
    )
    assert counts.iou == pytest.approx(counts.f1 / (2 - counts.f1))


@given(
    arrays(np.bool_, (4, 5)),
    arrays(np.float32, (4, 5), elements=st.sampled_from([0, 0.1, 0.25, 0.5, 0.9, 1])),
)
@settings(max_examples=50, deadline=None)
def test_auroc_is_the_probability_of_a_correct_rank(truth, probability):
    high, low = probability[truth], probability[~truth]
    area = auroc(probability_levels(truth, probability))
    if not high.size or not low.size:
        assert np.isnan(area)
        return
    wins = (high[:, None] > low).mean() + (high[:, None] == low).mean() / 2
    assert area == pytest.approx(wins)


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan])
def test_probability_out_of_range_is_refused(value):
    with pytest.raises(InputError, match="expected 0 to 1"):
        probability_levels(np.ones((2, 2), np.bool_), np.array([[0.5, value], [0, 1]]))
