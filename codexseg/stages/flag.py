"""Flag: find the informative patches, and record the specification's statistics."""

from collections.abc import Sequence

from codexseg.artifacts.patches import patch_rows, read_grid, write_patches_metadata
from codexseg.config.schema import PatchQcConfig
from codexseg.core.intensity.background import has_signal, patch_statistics
from codexseg.run.records import Record
from codexseg.workflow.stage import Finished, Stage, StageContext, StageInputs
from codexseg.workflow.worker import worker_state


def flag(context: StageContext) -> Record:
    """Judge every patch; the informative ones are the valid patches."""
    inputs = context.inputs
    grid = read_grid(inputs.records("patch"))
    records = context.map_patches(flag_patches, range(len(grid)))
    write_patches_metadata(inputs.run.path, patch_rows(grid, inputs.own))
    informative = [patch for patch, record in records.items() if record["is_informative"]]
    return {"patches": len(records), "informative": len(informative)}


def flag_patches(inputs: StageInputs, patches: Sequence[int]) -> Finished:
    """Judge patches. Runs in a worker."""
    state = worker_state(inputs)
    known = state.statistics
    for number in patches:
        outer = state.grid[number].outer
        statistics = patch_statistics(known.channels.read(state.slide, outer))
        signal = has_signal(known.signal, outer)
        yield number, statistics | judge(statistics, inputs.config.patch_qc, signal=signal)


def judge(statistics: Record, qc: PatchQcConfig, *, signal: bool) -> Record:
    """Decide whether a patch is segmented.

    A patch without signal is empty. The specification's thresholds exclude a patch only
    where the user sets them: too few non-zero pixels make it empty, a low mean or standard
    deviation noisy. They apply to the nuclear channel.
    """

    def below(name: str, threshold: float | None) -> bool:
        return threshold is not None and statistics[name] < threshold

    empty = not signal or below("nucleus_non_zero_perc", qc.non_zero_perc_threshold)
    noisy = below("nucleus_mean", qc.mean_intensity_threshold) or below(
        "nucleus_std", qc.std_intensity_threshold
    )
    return {
        "is_empty": empty,
        "is_noisy": noisy,
        "is_bad_patch": empty or noisy,
        "is_informative": not (empty or noisy),
    }


STAGE = Stage("flag", ("patch_qc",), ("load", "patch"), flag)
