"""The backend of a run: made for the slide's pixel size and statistics."""

from dataclasses import replace
from functools import cached_property

from codexseg.arrays import Pixels
from codexseg.artifacts.slide_statistics import SlideStatistics
from codexseg.backends.base import (
    Backend,
    SlideContext,
    diameter_um,
    is_paired,
    needs_nucleus,
    object_columns_of,
)
from codexseg.backends.registry import create
from codexseg.config.schema import Config
from codexseg.core.grid import Window
from codexseg.errors import ConfigError
from codexseg.io.slides.channels import has_nuclei
from codexseg.run.directory import digest
from codexseg.workflow.cache_keys import section_in_key
from codexseg.workflow.pixels import read_pixels
from codexseg.workflow.stage import BackendRecord, StageInputs
from codexseg.workflow.worker import WorkerState, worker_state

RESERVE = 2.0
"""Until `auto` has found the diameter, halos fit cells this many times the typical size."""
DIAMETER = "scale"
"""Work folder in which `segmentation.diameter: auto` is determined."""
DIAMETER_TABLE = "found"
"""Table there with the result."""


def make_backend(
    config: Config,
    shape: tuple[int, int],
    mpp: float,
    statistics: SlideStatistics | None = None,
    *,
    diameter: float | None = None,
) -> Backend:
    """Make the configured backend.

    Parameters
    ----------
    config : Config
        With `segmentation.diameter`, the backend is made for the pixel size at which
        cells of this diameter have the size that it expects.
    shape : (int, int)
        Height and width of the slide, px.
    mpp : float
        Micrometres per pixel of the slide.
    statistics : SlideStatistics, optional
        Results of the load stage.
    diameter : float, optional
        Result of diameter `auto`, um. Before it is known, the halo is enough for cells of
        twice the typical diameter.

    Raises
    ------
    ConfigError
        If the backend does not declare the size of its cells, or needs nuclei and the
        image shows none.
    """
    known = statistics.as_seen_by_backend if statistics else (None, None)
    channels = config.channels
    context = SlideContext(
        shape=shape,
        mpp=mpp,
        nucleus=known[0],
        wholecell=known[1],
        has_wholecell=bool(
            statistics.channels.wholecell if statistics else channels.wholecell_channel
        ),
        has_nucleus=statistics.channels.has_nucleus if statistics else has_nuclei(channels),
    )
    backend = create(config.segmentation, context)
    if not context.has_nucleus and needs_nucleus(backend):
        raise ConfigError(
            f"The backend {backend.name!r} needs nuclei, but channels.mode "
            f"{channels.mode} shows the grey image as cells without nuclei. Set "
            f"channels.mode to L and channels.nucleus to grey to use it as nuclei."
        )
    wanted = config.segmentation.diameter
    if wanted is None:
        return backend
    typical = diameter_um(backend)
    if diameter is None:
        diameter = RESERVE * typical if wanted == "auto" else wanted
    if diameter == typical:
        return backend
    return create(config.segmentation, replace(context, mpp=mpp * typical / diameter))


def record_backend(backend: Backend) -> BackendRecord:
    """Return the facts about a backend that a run records."""
    return BackendRecord(
        fingerprint=backend.fingerprint(),
        halo_px=backend.halo_px,
        paired=is_paired(backend),
        object_columns=object_columns_of(backend),
    )


def diameter_inputs(inputs: StageInputs) -> StageInputs:
    """Return the inputs of the diameter search: they depend on slide and backend only."""
    depends_on = {
        "load": inputs.keys["load"],
        "backend": inputs.backend.fingerprint,
        "config": section_in_key(inputs.config, "segmentation"),
    }
    keys = {**inputs.keys, DIAMETER: digest(depends_on)}
    return replace(inputs, stage=DIAMETER, keys=keys)


def known_diameter(inputs: StageInputs) -> float | None:
    """Return the diameter of cells that a run uses, um; None: that of the backend."""
    wanted = inputs.config.segmentation.diameter
    if wanted != "auto":
        return wanted
    table = diameter_inputs(inputs).own.read_table(DIAMETER_TABLE)
    return float(table["diameter_um"])


class BackendWorker:
    """The backend of a run in a worker, and the pixels as the backend sees them.

    Parameters
    ----------
    state : WorkerState
        Slide and statistics of the worker.
    diameter : float or None
        Diameter of the cells, um; None: that of the backend.
    """

    def __init__(self, state: WorkerState, diameter: float | None) -> None:
        self._state, self._diameter = state, diameter

    @cached_property
    def backend(self) -> Backend:
        """The backend."""
        inputs = self._state.inputs
        return make_backend(
            inputs.config,
            inputs.slide.shape[1:],
            inputs.slide.mpp,
            self._state.statistics,
            diameter=self._diameter,
        )

    def read(self, window: Window) -> Pixels:
        """Read a window (2, y, x) in the intensities that the backend gets."""
        state = self._state
        settings = state.inputs.config.segmentation
        return read_pixels(state.slide, window, state.statistics, settings)


def backend_worker(inputs: StageInputs, diameter: float | None) -> BackendWorker:
    """Return the backend of this worker for a diameter, made once per process."""
    state = worker_state(inputs)
    if diameter not in state.opened:
        state.opened.clear()  # one network in memory
        state.opened[diameter] = BackendWorker(state, diameter)
    worker: BackendWorker = state.opened[diameter]
    return worker
