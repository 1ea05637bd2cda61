"""Flag: which patches are informative, and the specification's statistics of all."""

from collections.abc import Iterator, Sequence

from codexseg.config.schema import PatchQcConfig
from codexseg.core.intensity.background import has_signal, patch_statistics
from codexseg.run.directory import Row
from codexseg.stages.base import Context, Job, Stage
from codexseg.stages.metadata import write_metadata
from codexseg.stages.pixels import grid_of, loaded, slide_of


def flag(context: Context) -> Row:
    """Visit every patch; the informative ones are the valid patches."""
    rows = context.map_patches(flag_patches, range(len(grid_of(context.job))))
    write_metadata(context.job)
    informative = [patch for patch, row in rows.items() if row["is_informative"]]
    return {"patches": len(rows), "informative": len(informative)}


def flag_patches(job: Job, patches: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Judge patches. Runs in a worker."""
    grid, found, slide = grid_of(job), loaded(job), slide_of(job)
    for number in patches:
        outer = grid[number].outer
        statistics = patch_statistics(found.channels.read(slide, outer))
        signal = has_signal(found.signal, outer)
        yield number, statistics | judge(statistics, job.config.patch_qc, signal=signal)


def judge(statistics: Row, qc: PatchQcConfig, *, signal: bool) -> Row:
    """Decide whether a patch is worth segmenting.

    A patch without signal is empty. The specification's thresholds veto a patch only
    where the user sets them: its share of non-zero pixels makes it empty, its mean or
    standard deviation noisy. They look at the nucleus channel.
    """

    def below(name: str, threshold: float | None) -> bool:
        return threshold is not None and statistics[f"nucleus_{name}"] < threshold

    empty = not signal or below("non_zero_perc", qc.non_zero_perc_threshold)
    noisy = below("mean", qc.mean_intensity_threshold) or below(
        "std", qc.std_intensity_threshold
    )
    return {
        "is_empty": empty,
        "is_noisy": noisy,
        "is_bad_patch": empty or noisy,
        "is_informative": not (empty or noisy),
    }


STAGE = Stage("flag", ("patch_qc",), ("load", "patch"), flag)
